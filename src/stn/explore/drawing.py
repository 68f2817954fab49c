"""What the explorer shows: layers of SVG and HTML, small enough to be sent at every move."""

import html
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import coords
from ..viz import region_outline
from ..viz.pictures import image_tag, line_tags, picture, region_class, region_tags, view_box

MARGIN = 0.15  # shown around an image, in its longer side
STEPS, EVERY = 33, 4  # points along a grid line, and which of the lines are drawn


def figure(image: Tensor, caption: str) -> str:
    """A picture with words below."""
    text = html.escape(caption)
    return f"<figure>{image_tag(image, caption)}<figcaption>{text}</figcaption></figure>"


def reach(size: Sequence[int]) -> tuple[float, float]:
    """How far from the middle the layers show, in (x, y) normalised."""
    height, width = size
    room = 2 * _room(size)
    return 1 + room / width, 1 + room / height


def image_layer(image: Tensor, alt: str) -> str:
    """The image itself, with the margin around it; layers of the same size lie on each other."""
    return picture(image, _room(image.shape[-2:]), "", alt)


def _room(size: Sequence[int]) -> float:
    return MARGIN * max(size)


def lattice() -> Tensor:
    """Target points (STEPS, STEPS, 2) from edge to edge, to be mapped for `grid_layer`."""
    return coords.lattice_points((STEPS, STEPS)).float().view(STEPS, STEPS, 2)


def grid_layer(grids: Tensor, size: Sequence[int]) -> str:
    """Where outputs read: grids (K, STEPS, STEPS, 2), normalised, as lines on an image of `size`.

    The dot marks the corner that becomes an output's top left.
    """
    parts = []
    for k, grid in enumerate(grids):
        px = coords.to_pixels(grid, size, False)
        inner = [line for i in range(EVERY, STEPS - 1, EVERY) for line in (px[i], px[:, i])]
        parts += [line_tags(line, size, f"grid {region_class(k)}") for line in inner]
        parts.append(region_tags(region_outline(grid, size), size, k))
    box = view_box(size, _room(size))
    return f'<svg class="lines" viewBox="{box}" aria-hidden="true">{"".join(parts)}</svg>'


def score_bars(chances: Tensor, names: Sequence[str], most: int = 10) -> str:
    """The chances (classes,) as bars, in the order of the classes; of many, the `most` likely."""
    shown = range(len(names))
    if len(names) > most:
        shown = chances.argsort(descending=True)[:most].tolist()
    best = int(chances.argmax())
    rows = []
    for k in shown:
        share = 100 * float(chances[k])
        kind = ' class="best"' if k == best else ""
        rows.append(
            f"<li{kind}><span>{html.escape(names[k] or 'none')}</span>"
            f'<div><div style="width:{share:.1f}%"></div></div><span>{share:.0f} %</span></li>'
        )
    return f'<ol class="scores" aria-label="class scores">{"".join(rows)}</ol>'


def numbers_table(names: Sequence[str], theta: Tensor) -> str:
    """theta number by number."""
    cells = "".join(
        f"<li><span>{html.escape(name)}</span> <b>{value:.3f}</b></li>"
        for name, value in zip(names, torch.atleast_1d(theta).tolist(), strict=True)
    )
    return f'<ul class="numbers" aria-label="theta">{cells}</ul>'
