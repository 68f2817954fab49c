"""The report: one self-contained HTML page about any number of runs."""

import html
import itertools
import json
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

import torch
from torch import Tensor

from ..training.checkpoint import write_atomically
from . import charts
from .overlays import Examples, outlines_of
from .pictures import image_tag, image_with_regions, margin_for
from .tables import RunView, environment_table, error_table, is_number, look_up, pose_table

# More lines than this are told apart only recipe by recipe.
LINES_IN_A_CHART = 8
CURVES = (("train_loss", "Training loss"), ("held_out_error_percent", "Held-out error, %"))


def write_report(runs: Sequence[RunView], path: Path) -> None:
    """Write one HTML file that needs no other: errors, curves, examples, poses, configuration.

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
        lead=_lead(runs),
        errors=error_table(runs) + _notes(runs),
        curves=_curves(runs),
        runs="\n".join(_run(run, f"run-{i}") for i, run in enumerate(runs, start=1)),
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
    if any(look_up(run, "column") == "quick" for run in runs):
        notes.append(
            '<p class="note"><strong>Quick runs are under-trained.</strong> They show in minutes '
            "how the networks compare, and do not follow the paper's schedule: the paper trained "
            "640 epochs. Their errors are no reproduction of the paper's.</p>"
        )
    notes.append(
        '<p class="soft">Test images take no part in training. The weights are those with the '
        "lowest held-out error, on images that are not trained on either. “Paper” is the number "
        "that Jaderberg et al. (2015) give for this network, where they give one.</p>"
    )
    return "".join(notes)


def _curves(runs: Sequence[RunView]) -> str:
    groups: Iterator[tuple[str, list[RunView]]] = iter([("", list(runs))])
    if len(runs) > LINES_IN_A_CHART:
        ordered = sorted(runs, key=_recipe)
        groups = ((recipe, list(group)) for recipe, group in itertools.groupby(ordered, _recipe))
    shown = "".join(_chart_pair(recipe, group) for recipe, group in groups)
    if not shown:
        return ""
    return (
        f'<section aria-labelledby="curves"><h2 id="curves">Learning curves</h2>{shown}</section>'
    )


def _recipe(run: RunView) -> str:
    return str(look_up(run, "recipe") or "")


def _chart_pair(recipe: str, runs: Sequence[RunView]) -> str:
    figures = []
    for key, label in CURVES:
        lines = [
            charts.Line(
                run.name,
                [
                    (line["samples_seen"], line[key])
                    for line in run.metrics
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


def _run(run: RunView, anchor: str) -> str:
    parts = [f'<section class="run" aria-labelledby="{anchor}">']
    parts.append(f'<h2 id="{anchor}">{html.escape(run.name)}</h2>')
    if run.results is None:
        parts.append("<p><strong>Not finished:</strong> there are no results yet.</p>")
    if run.examples is not None and len(run.examples.labels):
        parts.append(_examples(run.examples))
    parts.append(_means(run))
    if run.results is not None:
        parts.append(pose_table(run.results.get("pose")))
        environment = environment_table(run.results)
        if environment:
            parts.append(f"<details><summary>Environment</summary>{environment}</details>")
    config = html.escape(json.dumps(run.config, indent=2, ensure_ascii=False, default=str))
    parts.append(
        f'<details><summary>Configuration</summary><pre tabindex="0">{config}</pre></details>'
    )
    return "".join([*parts, "</section>"])


def _examples(examples: Examples) -> str:
    heading, told = "Test images", "First images of the test set, then the worst mistakes."
    if examples.outputs.shape[1]:
        heading = "Before and after the transformer"
        told += " Below each: what the transformer made of it."
    if examples.grids is not None:
        told += (
            " The outline is the region that the transformer read; the dot is the corner that "
            "becomes the top left."
        )
    outlines = outlines_of(examples)
    tiles = "".join(_tile(examples, outlines, i) for i in range(len(examples.labels)))
    return f'<h3>{heading}</h3><p class="soft">{told}</p><ul class="examples">{tiles}</ul>'


def _tile(examples: Examples, outlines: Tensor | None, i: int) -> str:
    true, read = examples.words(i)
    image = examples.inputs[i]
    if outlines is None:
        pictures = image_tag(image, f"Test image of class {true}")
    else:
        margin = margin_for(outlines, image.shape[-2:])
        alt = f"Test image of class {true} with what was read"
        pictures = image_with_regions(image, outlines[i], margin, alt)
    pictures += "".join(
        image_tag(output, "The same after the transformer") for output in examples.outputs[i]
    )
    sure = f"<small>{100 * float(examples.confidence[i]):.0f} % sure</small>"
    shown = html.escape(true if true == read else f"{true}, read as {read}")
    kind = "" if true == read else ' class="wrong"'
    return f"<li{kind}>{pictures}<strong>{shown}</strong>{sure}</li>"


def _means(run: RunView) -> str:
    if run.mean_before is None or run.mean_after is None:
        return ""
    after = [torch.as_tensor(image).float() for image in run.mean_after]
    names = ["After"] if len(after) == 1 else [f"After transformer {k}" for k in range(len(after))]
    means = [(torch.as_tensor(run.mean_before).float(), "Before"), *zip(after, names, strict=True)]
    brightest = max(float(image.nan_to_num(0.0).max()) for image, _ in means) or 1.0
    shown = "".join(
        f"<figure>{image_tag(image / brightest, f'Mean test image: {when.lower()}')}"
        f"<figcaption>{when}</figcaption></figure>"
        for image, when in means
    )
    return (
        '<h3>Mean test image</h3><p class="soft">Before and after the transformer. The sharper it '
        "has become, the more alike the images are in pose. All are brightened by the same factor."
        f'</p><div class="means">{shown}</div>'
    )
