"""What the explorer shows: layers of SVG and HTML, small enough to be sent at every move."""

import base64
import html
import io
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import coords
from ..viz import region_outline
from ..viz.pictures import REGION_COLORS, displayable, polylines

MARGIN = 0.15  # shown around an image, in its longer side
SMALL_PX = 128  # up to here images are shown pixel by pixel, and sent without loss
STEPS, EVERY = 33, 4  # points along a grid line, and which of the lines are drawn


def address(image: Tensor) -> str:
    """An image (C, H, W) in [0, 1] as a data: address, PNG or, if large, JPEG, which is quicker."""
    from PIL import Image

    small = max(image.shape[-2:]) <= SMALL_PX
    buffer = io.BytesIO()
    picture = Image.fromarray(displayable(image))
    if small:
        picture.save(buffer, format="PNG", compress_level=1)
    else:
        picture.save(buffer, format="JPEG", quality=90)
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def picture_tag(image: Tensor, alt: str) -> str:
    """An <img> of an image (C, H, W)."""
    height, width = image.shape[-2:]
    kind = "pixels" if max(height, width) <= SMALL_PX else "smooth"
    return (
        f'<img class="{kind}" src="{address(image)}" width="{width}" height="{height}" '
        f'alt="{html.escape(alt)}">'
    )


def figure(image: Tensor, caption: str) -> str:
    """A picture with words below."""
    text = html.escape(caption)
    return f"<figure>{picture_tag(image, caption)}<figcaption>{text}</figcaption></figure>"


def reach(size: Sequence[int]) -> tuple[float, float]:
    """How far from the middle the layers show, in (x, y) normalised."""
    height, width = size
    room = 2 * MARGIN * max(height, width)
    return 1 + room / width, 1 + room / height


def layer(size: Sequence[int], name: str, content: str, alt: str = "") -> str:
    """An SVG in px of an image of `size` and the margin around it; layers lie on each other."""
    height, width = size
    room = MARGIN * max(height, width)
    box = f"{-0.5 - room:.2f} {-0.5 - room:.2f} {width + 2 * room:.2f} {height + 2 * room:.2f}"
    told = f'role="img" aria-label="{html.escape(alt)}"' if alt else 'aria-hidden="true"'
    return f'<svg class="layer {name}" viewBox="{box}" {told}>{content}</svg>'


def image_layer(image: Tensor, alt: str) -> str:
    """The image itself."""
    height, width = image.shape[-2:]
    kind = "pixels" if max(height, width) <= SMALL_PX else "smooth"
    content = (
        f'<image class="{kind}" href="{address(image)}" x="-0.5" y="-0.5" '
        f'width="{width}" height="{height}"/>'
    )
    return layer((height, width), "image", content, alt)


def lattice() -> Tensor:
    """Target points (STEPS, STEPS, 2) from edge to edge, to be mapped for `grid_layer`."""
    return coords.lattice_points((STEPS, STEPS)).float().view(STEPS, STEPS, 2)


def grid_layer(grids: Tensor, size: Sequence[int]) -> str:
    """Where outputs read: grids (K, STEPS, STEPS, 2), normalised, as lines on an image of `size`.

    The dot marks the corner that becomes an output's top left.
    """
    parts = []
    for k, grid in enumerate(grids):
        number = f"of-{k % REGION_COLORS}"
        px = coords.to_pixels(grid, size, False)
        inner = [line for i in range(EVERY, STEPS - 1, EVERY) for line in (px[i], px[:, i])]
        parts += [_line(line, size, f"grid {number}") for line in inner]
        outline = region_outline(grid, size)
        parts += [_line(outline, size, kind) for kind in ("halo", f"region {number}")]
        x, y = outline[0].tolist()
        dot = f'cx="{x:.2f}" cy="{y:.2f}" r="{0.025 * max(size):.2f}"'
        parts.append(f'<circle class="start {number}" {dot}/>')
    return layer(size, "lines", "".join(parts))


def _line(points: Tensor, size: Sequence[int], kind: str) -> str:
    pieces = (" ".join(f"{x:.2f},{y:.2f}" for x, y in line) for line in polylines(points, size))
    return "".join(f'<polyline class="{kind}" points="{piece}"/>' for piece in pieces)


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
            f"<li{kind}><span>{html.escape(names[k])}</span>"
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
