"""Pictures as arrays, without matplotlib: grids on images, side by side, as GIF."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..training.checkpoint import write_atomically
from ..transforms import Transform
from .draw import ORANGE, Image, warped
from .flow import one_row
from .pictures import CELLS, displayable, grid_lines, polylines

SIDE_PX, GAP_PX, LINE_PX = 240, 8, 2
MARGIN = 0.12  # around an image, of its longer side
AROUND = (60, 66, 72)


@torch.no_grad()
def grid_picture(
    image: Image,
    transform: Transform,
    theta: Tensor,
    *,
    cells: int = CELLS,
    align_corners: bool = False,
    color: str = ORANGE,
) -> np.ndarray:
    """As `draw_grid`, as an array: the image enlarged to about 240 px, with a margin and the grid.

    Args:
        color: of the lines, a name or #rrggbb.
        The others: as in `draw_grid`.

    Returns:
        (h, w, 3) uint8.

    Example:
        >>> stn.viz.grid_picture(torch.rand(28, 28), stn.Rigid(), torch.zeros(3)).shape
        (312, 312, 3)
    """
    if transform.dim != 2:
        raise ValueError(f"a picture is of two dimensions, got {transform!r}; draw a slice")
    pixels = displayable(image)
    size = pixels.shape[:2]
    lines = grid_lines(
        transform, one_row(transform, theta), size, cells, align_corners=align_corners
    )
    return over(pixels, [(line[0], color) for line in lines])


def over(pixels: np.ndarray, lines: Iterable[tuple[Tensor, str]]) -> np.ndarray:
    """Lines (M, 2), px, in their colours on an enlarged image with a margin."""
    from PIL import Image as Pillow
    from PIL import ImageDraw

    size = pixels.shape[:2]
    large = enlarged(pixels)
    zoom = large.shape[0] / size[0]
    margin = round(MARGIN * max(large.shape[:2]))
    canvas = Pillow.new("RGB", (large.shape[1] + 2 * margin, large.shape[0] + 2 * margin), AROUND)
    canvas.paste(Pillow.fromarray(large), (margin, margin))
    draw = ImageDraw.Draw(canvas)
    for line, color in lines:
        for piece in polylines(line, size):
            places = [tuple((v + 0.5) * zoom - 0.5 + margin for v in point) for point in piece]
            draw.line(places, fill=color, width=LINE_PX, joint="curve")
    return np.array(canvas)


def enlarged(pixels: np.ndarray) -> np.ndarray:
    """An image as (h, w, 3) uint8, each pixel a square, so that the longer side is about 240 px."""
    zoom = max(1, round(SIDE_PX / max(pixels.shape[:2])))
    large = pixels.repeat(zoom, 0).repeat(zoom, 1)
    return np.stack([large] * 3, -1) if large.ndim == 2 else large


def side_by_side(images: Sequence[Image]) -> np.ndarray:
    """Images next to each other on white, the shorter ones in the middle of the height.

    Args:
        images: each as in `draw_grid`; of any sizes.

    Returns:
        (h, w, 3) uint8.

    Raises:
        ValueError: no images.

    Example:
        >>> stn.viz.side_by_side([torch.rand(28, 28), torch.rand(3, 14, 10)]).shape
        (28, 46, 3)
    """
    if not images:
        raise ValueError("side_by_side takes at least one image, got none")
    found = [displayable(image) for image in images]
    found = [np.stack([one] * 3, -1) if one.ndim == 2 else one for one in found]
    height = max(one.shape[0] for one in found)
    width = sum(one.shape[1] for one in found) + GAP_PX * (len(found) - 1)
    page, x = np.full((height, width, 3), 255, np.uint8), 0
    for one in found:
        y = (height - one.shape[0]) // 2
        page[y : y + one.shape[0], x : x + one.shape[1]] = one
        x += one.shape[1] + GAP_PX
    return page


@torch.no_grad()
def animate_warp(
    image: Image,
    transform: Transform,
    thetas: Tensor,
    path: str | Path,
    *,
    size: Sequence[int] | None = None,
    padding_mode: str = "zeros",
    align_corners: bool = False,
    frame_s: float = 0.08,
) -> Path:
    """Write a GIF: the image with the grid that is read, and beside it what comes out.

    Args:
        thetas: (T, P), one row a frame.
        path: of the file, which appears whole or not at all.
        size: (H, W) of the output; None for the image's own.
        padding_mode: as in `stn.warp`.
        frame_s: how long a frame is shown, seconds; the last one five times as long.
        The others: as in `draw_grid`.

    Returns:
        The path.

    Raises:
        ValueError: no frames, or as `draw_grid`.

    Example:
        >>> angles = torch.linspace(0, 0.5, 5)
        >>> thetas = torch.stack([angles, 0 * angles, 0 * angles], 1)
        >>> path = stn.viz.animate_warp(torch.rand(28, 28), stn.Rigid(), thetas, "turn.gif")
    """
    from PIL import Image as Pillow

    if thetas.dim() != 2 or len(thetas) < 1:
        raise ValueError(f"thetas must be (T, P), T at least 1, got {tuple(thetas.shape)}")
    if not frame_s > 0:
        raise ValueError(f"frame_s must be above 0, got {frame_s}")
    outputs = warped(image, transform, thetas, size, padding_mode, align_corners)
    frames = []
    for theta, output in zip(thetas, outputs, strict=True):
        left = grid_picture(image, transform, theta, align_corners=align_corners)
        frames.append(Pillow.fromarray(side_by_side([left, enlarged(displayable(output))])))
    shown_ms = [round(1000 * frame_s)] * len(frames)
    shown_ms[-1] *= 5
    buffer, options = io.BytesIO(), {"append_images": frames[1:], "duration": shown_ms}
    frames[0].save(buffer, format="GIF", save_all=True, loop=0, **options)
    write_atomically(Path(path), buffer.getvalue())
    return Path(path)
