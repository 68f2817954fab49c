"""The tables of the report: errors of all runs, pose spread and environment of one."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .film import Film
from .overlays import Examples
from .survey import Survey

NOTHING = "&ndash;"
PAPER = "Paper, %"
COLUMNS = (
    "Model and run", "Recipe", "Test error, %", "Held-out error, %", PAPER, "Parameters",
    "Samples seen", "Seconds", "Seed", "Commit", "Device",
)  # fmt: skip
WORDS = ("Recipe", "Commit", "Device")
# (key, name, unit, digits) of evaluation.PoseSpread.
POSE = (
    ("angle_deg", "Rotation", "degrees", 1),
    ("scale", "Size", "log of the scale", 3),
    ("centre_px", "Place", "px along an axis", 2),
)
DIAGNOSTICS = (
    "Pixels outside, %", "Images mostly outside, %", "Size, median", "Images with a fold, %",
    "Pixels folded, %", "Spread of theta",
)  # fmt: skip
ENDS = ("commit", "device")
ENVIRONMENT = (
    "device", "processes", "threads", "torch", "version", "commit", "steps", "best_step", "seconds",
)  # fmt: skip


@dataclass(frozen=True)
class RunView:
    """What a report shows of one run.

    Args:
        name: shown as the run's title.
        config: contents of config.json.
        results: contents of results.json; None while the run has not finished.
        metrics: the lines of metrics.jsonl.
        examples: images to show.
        survey: of many test images.
        film: of the training.
        moments: lines as those of metrics.jsonl, of what was recorded for the film.
        classes: of the test images, one name for each; () where an answer has several parts.
    """

    name: str
    config: dict[str, Any]
    results: dict[str, Any] | None
    metrics: Sequence[dict[str, Any]] = ()
    examples: Examples | None = None
    survey: Survey | None = None
    film: Film | None = None
    moments: Sequence[dict[str, Any]] = ()
    classes: Sequence[str] = ()


def look_up(run: RunView, key: str) -> Any:
    """A fact of a run from its results, else its configuration, else None."""
    training = run.config.get("training")
    for place in (run.results, run.config, training):
        if isinstance(place, dict) and place.get(key) is not None:
            return place[key]
    return None


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number(value: Any, spec: str) -> str:
    """A number in a format; a dash for anything else."""
    return format(value, spec) if is_number(value) else NOTHING


def text(value: Any) -> str:
    return NOTHING if value is None else html.escape(str(value))


def of_paper(run: RunView) -> bool:
    """Whether the paper has a number for the run."""
    return is_number(look_up(run, "paper_error_percent"))


def error_table(runs: Sequence[RunView]) -> str:
    """One row per run; an unfinished one shows what its metrics say so far."""
    paper = any(map(of_paper, runs))
    head = "".join(
        f'<th scope="col"{" class=word" if name in WORDS else ""}>{name}</th>'
        for name in COLUMNS
        if paper or name != PAPER
    )
    rows = "".join(_row(run, f"run-{i}", paper) for i, run in enumerate(runs, start=1))
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Errors of all runs">'
        f'<table class="runs-table"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
        "</div>"
    )


def _row(run: RunView, anchor: str, paper: bool) -> str:
    model, column = look_up(run, "model"), look_up(run, "column")
    name = html.escape(run.name)
    shown = name if model is None else f"{text(model)}</a><small>{name}</small>"
    recipe = text(look_up(run, "recipe")) + (f"<small>{text(column)}</small>" if column else "")
    if run.results is None:
        test = "<td>not finished</td>"
        errors = _metric(run, "held_out_error_percent")
        held_out = f"{min(errors):.2f}<small>best so far</small>" if errors else NOTHING
        samples, seconds = (
            max(_metric(run, key), default=None) for key in ("samples_seen", "seconds")
        )
    else:
        test = f'<td class="key">{_test_error(run.results)}</td>'
        held_out = number(run.results.get("held_out_error_percent"), ".2f")
        samples, seconds = run.results.get("samples_seen"), run.results.get("seconds")
    numbers = (
        held_out,
        *([number(look_up(run, "paper_error_percent"), ".1f")] if paper else ()),
        number(look_up(run, "parameters"), ",.0f"),
        number(samples, ",.0f"),
        number(seconds, ",.0f"),
        text(look_up(run, "seed")),
    )
    cells = "".join(f"<td>{value}</td>" for value in numbers)
    ends = "".join(f'<td class="word">{text(look_up(run, key))}</td>' for key in ENDS)
    head = f'<th scope="row"><a href="#{anchor}">{shown}{"</a>" if model is None else ""}</th>'
    return f'<tr>{head}<td class="word">{recipe}</td>{test}{cells}{ends}</tr>'


def _test_error(results: dict[str, Any]) -> str:
    shown = number(results.get("test_error_percent"), ".2f")
    each = [value for value in results.get("test_errors_percent") or () if is_number(value)]
    if len(each) > 1:
        shown += f"<small>{min(each):.2f} to {max(each):.2f} in {len(each)}</small>"
    still = results.get("still_error_percent")
    if is_number(still):
        shown += f"<small>windows held still: {still:.2f}</small>"
    return shown


def _metric(run: RunView, key: str) -> list[Any]:
    return [line[key] for line in run.metrics if is_number(line.get(key))]


def pose_table(pose: Any) -> str:
    """Spread of the poses before and after the transformer; nothing where it was not measured."""
    if not isinstance(pose, dict):
        return ""
    columns = [(key, spread) for key, spread in pose.items() if isinstance(spread, dict)]
    if not columns:
        return ""
    head = "".join(f'<th scope="col">{html.escape(key.capitalize())}</th>' for key, _ in columns)
    rows = "".join(
        f'<tr><th scope="row">{name}</th>'
        + "".join(f"<td>{number(spread.get(key), f'.{digits}f')}</td>" for _, spread in columns)
        + f'<td class="word">{unit}</td></tr>'
        for key, name, unit, digits in POSE
    )
    return (
        "<h3>Spread of the poses</h3>"
        "<p>Standard deviation over the test images of the pose in which the object stands, before "
        "and after the transformer. Smaller is more upright, more even in size, better centred; "
        "0 would be one common pose. A low error alone does not show this.</p>"
        '<div class="scroll" tabindex="0" role="region" aria-label="Spread of the poses">'
        f'<table><thead><tr><th scope="col">Standard deviation of</th>{head}'
        f'<th scope="col" class="word">Unit</th></tr></thead><tbody>{rows}</tbody></table></div>'
    )


def diagnostics_table(found: Survey) -> str:
    """How each transformer's windows are: outside, small, folded, and how much they differ."""
    rows = []
    for k in range(found.theta.shape[1]):
        outside, scale, folded = found.outside[:, k], found.scale[:, k], found.folded[:, k]
        name = "All windows" if found.theta.shape[1] == 1 else f"Transformer {k}"
        values = (
            f"{100 * outside.mean():.1f}",
            f"{100 * (outside > 0.5).float().mean():.1f}",
            f"{scale.median():.2f}",
            f"{100 * (folded > 0).float().mean():.1f}",
            f"{100 * folded.mean():.2f}",
            f"{found.theta[:, k].std(0, correction=0).max():.3f}",
        )
        cells = "".join(f"<td>{value}</td>" for value in values)
        rows.append(f'<tr><th scope="row">{name}</th>{cells}</tr>')
    head = "".join(f'<th scope="col">{name}</th>' for name in DIAGNOSTICS)
    return (
        "<h3>Out of view, and folded</h3>"
        "<p>Over the test images. A window that reads mostly outside the image gets hardly any "
        "gradient; where a map folds, parts of the image are seen twice or turned over. A size "
        "below 1 zooms in. The spread is the standard deviation of theta's most varied number: at "
        "0 all images get the same window, and the localization does not look at them.</p>"
        '<div class="scroll" tabindex="0" role="region" aria-label="Out of view, and folded">'
        f'<table><thead><tr><th scope="col">Windows</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def environment_table(results: dict[str, Any]) -> str:
    """Where and by what a run was made."""
    rows = "".join(
        f'<tr><th scope="row">{key.replace("_", " ")}</th>'
        f'<td class="word">{text(results[key])}</td></tr>'
        for key in ENVIRONMENT
        if results.get(key) is not None
    )
    return f"<table><tbody>{rows}</tbody></table>" if rows else ""
