"""What a report says of one run: pictures first, then what they add up to."""

import html
import itertools
import json
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from . import charts
from .film import film_section
from .overlays import KINDS, Examples, outlines_of
from .pictures import image_address, image_tag, image_with_regions, margin_for
from .survey import Survey
from .tables import RunView, diagnostics_table, environment_table, is_number, look_up, pose_table

MOST_NUMBERS = 24  # of theta that are drawn
MOST_CENTRES = 500
# Dark to bright, five colours of matplotlib's viridis.
HEAT = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))


def run_section(run: RunView, anchor: str) -> str:
    """Everything about one run, under its name."""
    parts = [f'<section class="run" aria-labelledby="{anchor}">']
    parts.append(f'<h2 id="{anchor}">{html.escape(run.name)}</h2>')
    if run.results is None:
        parts.append("<p><strong>Not finished:</strong> there are no results yet.</p>")
    if run.classes:
        parts.append(_guess(run.classes))
    if run.examples is not None and len(run.examples.labels):
        parts.append(_examples(run.examples))
    if run.film is not None:
        batch = look_up(run, "batch_size")
        parts.append(film_section(run.film, batch if is_number(batch) else 1))
    if run.survey is not None:
        parts += [_means(run.survey), _places(run.survey), _numbers(run.survey)]
        parts.append(diagnostics_table(run.survey))
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


def _guess(classes: Sequence[str]) -> str:
    ((name, count),) = Counter(classes).most_common(1)
    error = 100 * (1 - count / len(classes))
    return (
        f'<p class="soft">Always naming {html.escape(name)}, the most frequent class of '
        f"{len(classes):,} test images, would be wrong in {error:.1f} %.</p>"
    )


def _examples(examples: Examples) -> str:
    heading, told = "Test images", ""
    if examples.outputs.shape[1]:
        heading = "Before and after the transformer"
        told += "Below each image stands what the transformer made of it. "
    if examples.grids is not None:
        told += (
            "The outline is the region that it read; the dot is the corner that becomes the top "
            "left."
        )
    outlines = outlines_of(examples)
    parts = [f"<h3>{heading}</h3>", f'<p class="soft">{told}</p>' * bool(told)]
    kinds = examples.kinds or ("",) * len(examples.labels)
    for kind, members in itertools.groupby(range(len(kinds)), kinds.__getitem__):
        tiles = "".join(_tile(examples, outlines, i) for i in members)
        head = f"<h4>{KINDS[kind]}</h4>" if kind else ""
        parts.append(f'{head}<ul class="examples">{tiles}</ul>')
    return "".join(parts)


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


def _windows(found: Survey, name: str) -> list[str]:
    count = found.theta.shape[1]
    return [name] if count == 1 else [f"{name} transformer {k}" for k in range(count)]


def _means(found: Survey) -> str:
    if not len(found.after):
        return ""
    means = [(found.before, "Before"), *zip(found.after, _windows(found, "After"), strict=True)]
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


def _places(found: Survey) -> str:
    if found.coverage is None or found.centres is None:
        return ""
    names = _windows(found, "Where it looks")
    shown = "".join(_heat(found, k, f"{name} in the test images") for k, name in enumerate(names))
    return (
        '<h3>Where it looks</h3><p class="soft">Share of the test images in which the window '
        "covers each part of the image: dark where it never looks, bright where it always does. "
        "Each dot is the middle of one image's window.</p>"
        f'<div class="means">{shown}</div><p class="scale"><span>0 %</span><i></i>'
        "<span>100 %</span></p>"
    )


def _heat(found: Survey, k: int, alt: str) -> str:
    assert found.coverage is not None
    assert found.centres is not None
    height, width = found.before.shape
    steps = np.linspace(0, 1, len(HEAT))
    coverage = found.coverage[k].numpy()
    colours = [np.interp(coverage, steps, band) for band in np.array(HEAT).T]
    image = image_address(np.stack(colours, -1).round().astype(np.uint8))
    dots = "".join(
        f"M{x:.1f} {y:.1f}h0"
        for x, y in found.centres[:MOST_CENTRES, k].tolist()
        if -1 < x < width and -1 < y < height
    )
    return (
        f'<figure><svg class="heat" viewBox="-0.5 -0.5 {width} {height}" role="img" '
        f'aria-label="{alt}"><image href="{image}" x="-0.5" y="-0.5" width="{width}" '
        f'height="{height}" preserveAspectRatio="none"/><path class="centres" d="{dots}"/></svg>'
        f"<figcaption>{'' if found.theta.shape[1] == 1 else f'Transformer {k}'}</figcaption>"
        "</figure>"
    )


def _numbers(found: Survey) -> str:
    windows = found.theta.shape[1]
    columns = [
        (found.theta[:, k, i], name if windows == 1 else f"{name}, transformer {k}")
        for k in range(windows)
        for i, name in enumerate(found.names)
    ]
    told = f"The {len(columns)} numbers theta that set the warp"
    if len(columns) > MOST_NUMBERS:
        spread = torch.stack([values for values, _ in columns]).nan_to_num(0.0).std(1, correction=0)
        widest = sorted(spread.argsort(descending=True)[:MOST_NUMBERS].tolist())
        columns = [columns[i] for i in widest]
        told += f", of them the {MOST_NUMBERS} that differ most between images"
    if "xy" in found.names:
        told += (
            ". xy is how far, per step along the output's y, the place that is read moves along x"
        )
    shown = "".join(
        f"<figure>{charts.histogram(values.tolist(), name)}<figcaption>{html.escape(name)}"
        "</figcaption></figure>"
        for values, name in columns
    )
    return (
        f'<h3>What it picks</h3><p class="soft">{told}. How often each value occurs over the test '
        "images, the middle 99 %; a line marks 0, which changes nothing.</p>"
        f'<div class="numbers">{shown}</div>'
    )
