"""The report: one self-contained HTML page about any number of runs."""

import html
import itertools
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

from ..training.checkpoint import write_atomically
from . import charts
from .pictures import REGION_STYLE
from .sections import run_section
from .tables import RunView, error_table, is_number, look_up, of_paper

# More lines than this are told apart only recipe by recipe.
LINES_IN_A_CHART = 8
CURVES = (
    ("train_loss", "Training loss"),
    ("held_out_error_percent", "Held-out error, %"),
    ("outside_percent", "Read outside the image, % of the pixels"),
    ("folded_percent", "Folded, % of the pixels"),
    ("scale", "Size of the window, times the image"),
)


def write_report(runs: Sequence[RunView], path: Path) -> None:
    """Write one HTML file that needs no other: errors, curves, pictures, configuration.

    It appears whole or not at all. Runs without results are shown as not finished.

    Args:
        runs: in the order in which to show them.
        path: of the page.

    Raises:
        ValueError: no runs.
    """
    if not runs:
        raise ValueError("a report needs at least one run, got none")
    title = runs[0].name if len(runs) == 1 else "Spatial transformer runs"
    template = Template(files("stn.viz").joinpath("page.html").read_text(encoding="utf-8"))
    page = template.substitute(
        title=html.escape(title),
        regions=REGION_STYLE,
        lead=_lead(runs),
        errors=error_table(runs) + _notes(runs),
        curves=_curves(runs),
        runs="\n".join(run_section(run, f"run-{i}") for i, run in enumerate(runs, start=1)),
    )
    write_atomically(Path(path), page.encode())


def _lead(runs: Sequence[RunView]) -> str:
    count = "One training run" if len(runs) == 1 else f"{len(runs)} training runs"
    return (
        f"<p>{count} of stn, spatial transformer networks for PyTorch. A spatial transformer looks "
        "at an image, picks a warp, and passes the warped image on to the classifier. Nobody tells "
        "it which warp: it learns from the class labels alone.</p>"
    )


def _notes(runs: Sequence[RunView]) -> str:
    notes = []
    if any(look_up(run, "column") == "quick" and of_paper(run) for run in runs):
        notes.append(
            '<p class="note"><strong>Quick runs are under-trained.</strong> They show in minutes '
            "how the networks compare, and do not follow the paper's schedule: the paper trained "
            "640 epochs. Their errors are no reproduction of the paper's.</p>"
        )
    notes.append(
        '<p class="soft">Test images take no part in training. The weights are those with the '
        "lowest held-out error, on images that are not trained on either."
        + " “Paper” is the number that Jaderberg et al. (2015) give for this network, where they "
        "give one." * any(map(of_paper, runs)) + "</p>"
    )
    return "".join(notes)


def _curves(runs: Sequence[RunView]) -> str:
    groups = {"": list(runs)}
    if len(runs) > LINES_IN_A_CHART:
        ordered = sorted(runs, key=_recipe)
        groups = {recipe: list(group) for recipe, group in itertools.groupby(ordered, _recipe)}
    shown = "".join(
        _charts(recipe, group[start : start + charts.MOST_LINES])
        for recipe, group in groups.items()
        for start in range(0, len(group), charts.MOST_LINES)
    )
    if not shown:
        return ""
    return (
        f'<section aria-labelledby="curves"><h2 id="curves">Learning curves</h2>{shown}</section>'
    )


def _recipe(run: RunView) -> str:
    return str(look_up(run, "recipe") or "")


def _charts(recipe: str, runs: Sequence[RunView]) -> str:
    figures = []
    for key, label in CURVES:
        lines = [
            charts.Line(
                run.name,
                [
                    (line["samples_seen"], line[key])
                    for line in (*run.metrics, *run.moments)
                    if is_number(line.get("samples_seen")) and is_number(line.get(key))
                ],
            )
            for run in runs
        ]
        chart = charts.line_chart(lines, "samples seen", label)
        if chart:
            figures.append(f"<figure><h3>{label}</h3>{chart}</figure>")
    if not figures:
        return ""
    heading = f"<h3>{html.escape(recipe)}</h3>" if recipe else ""
    legend = charts.legend([run.name for run in runs])
    return f'{heading}{legend}<div class="curves">{"".join(figures)}</div>'
