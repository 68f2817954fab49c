"""Images and lines as they stand in a page: data addresses and inline SVG."""

import base64
import html
import io
import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .. import coords
from ..transforms import Transform

# Lines are cut this many image sizes outside the image.
FAR = 4.0
REGION_COLORS = 4  # in page.html: .of-0, .of-1, …
# Room around an image for lines that leave it, in image sizes.
LEAST_MARGIN, LARGEST_MARGIN = 0.06, 0.2
PHOTO_PX = 64 * 64  # coloured images of more pixels are JPEG
CELLS = 10  # of the drawn grid, along each axis


def displayable(image: Tensor | np.ndarray) -> np.ndarray:
    """uint8 (H, W) or, for three channels, (H, W, 3) of an image.

    A tensor (H, W) or (C, H, W), or an array (H, W) or (H, W, C); floats in [0, 1] or uint8. Other
    numbers of channels are shown as their mean. Not finite is black.
    """
    given = np.array(image) if isinstance(image, np.ndarray) else image
    tensor = torch.as_tensor(given).detach().cpu()
    if isinstance(image, np.ndarray) and tensor.dim() == 3:
        tensor = tensor.movedim(-1, 0)
    if tensor.dim() not in (2, 3):
        raise ValueError(
            f"an image is a tensor (H, W) or (C, H, W) or an array (H, W) or (H, W, C), got shape "
            f"{tuple(image.shape)}; draw one image of a batch at a time"
        )
    tensor = tensor.float() / (255 if tensor.dtype == torch.uint8 else 1)
    if tensor.dim() == 3:
        tensor = tensor.movedim(0, -1) if tensor.shape[0] == 3 else tensor.mean(0)
    return (tensor.nan_to_num(0.0).clamp(0, 1) * 255).round().byte().numpy()


def image_address(image: Tensor | np.ndarray) -> str:
    """An image as a data: address, PNG, or JPEG if it is a photo."""
    from PIL import Image

    pixels, buffer = displayable(image), io.BytesIO()
    photo = pixels.ndim == 3 and pixels.size > 3 * PHOTO_PX
    kind, options = ("jpeg", {"quality": 85}) if photo else ("png", {"optimize": True})
    Image.fromarray(pixels).save(buffer, format=kind, **options)
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode()


def image_tag(image: Tensor | np.ndarray, alt: str) -> str:
    """An <img> that shows every pixel."""
    height, width = displayable(image).shape[:2]
    return (
        f'<img src="{image_address(image)}" width="{width}" height="{height}" '
        f'alt="{html.escape(alt)}">'
    )


def polylines(outline: Tensor, size: Sequence[int]) -> list[list[tuple[float, float]]]:
    """A line (M, 2), px, cut where it is not finite and bounded far outside an image of `size`."""
    height, width = size[-2], size[-1]
    pieces: list[list[tuple[float, float]]] = [[]]
    for x, y in outline.tolist():
        if not (np.isfinite(x) and np.isfinite(y)):
            pieces.append([])
            continue
        x = min(max(x, -FAR * width), (1 + FAR) * width)
        y = min(max(y, -FAR * height), (1 + FAR) * height)
        pieces[-1].append((x, y))
    return [piece for piece in pieces if len(piece) > 1]


def grid_lines(
    transform: Transform,
    theta: Tensor,
    size: Sequence[int],
    cells: int = CELLS,
    per_cell: int = 2,
    align_corners: bool = False,
) -> list[Tensor]:
    """Where the lines of a square grid over each output lie in its image.

    Args:
        transform: of two dimensions.
        theta: (B, P).
        size: (H, W) of the images.
        cells: of the grid, along each axis; per_cell: points of a line on each.
        align_corners: what +-1 means.

    Returns:
        For each of the 2 (cells + 1) lines its points (B, M, 2), px of the image: the rows from the
        top, then the columns from the left. Not finite behind a projective map's horizon.
    """
    fine = cells * per_cell + 1
    nodes = coords.lattice_points((fine, fine)).to(theta.device)
    source = transform.map_points(theta, nodes.to(torch.promote_types(theta.dtype, torch.float32)))
    valid = transform.valid_at(theta, nodes.to(source.dtype).unsqueeze(0))
    if valid is not None:
        source = torch.where(valid.unsqueeze(-1), source, torch.nan)
    px = coords.to_pixels(source, size, align_corners).unflatten(1, (fine, fine))
    shown = range(0, fine, per_cell)
    return [*(px[:, i] for i in shown), *(px[:, :, i] for i in shown)]


def path_of(lines: Sequence[Tensor], size: Sequence[int]) -> str:
    """The `d` of an SVG path of all lines (M, 2), px; its unit is a tenth of a pixel."""
    parts = []
    for line in lines:
        for piece in polylines(line, size):
            tenths = [(round(10 * x), round(10 * y)) for x, y in piece]
            moves = itertools.pairwise(tenths)
            steps = " ".join(f"{c - a} {d - b}" for (a, b), (c, d) in moves)
            parts.append(f"M{tenths[0][0]} {tenths[0][1]}l{steps}")
    return "".join(parts)


def margin_for(outlines: Tensor, size: Sequence[int]) -> float:
    """px to show around images of `size`, so that lines (…, 2) are seen as far as is fair."""
    height, width = size[-2], size[-1]
    kept = outlines[outlines.isfinite().all(-1)]
    over = 0.0
    if len(kept):
        last = torch.tensor([width - 0.5, height - 0.5]).to(kept)
        over = float(torch.maximum(-0.5 - kept, kept - last).max())
    longest = max(height, width)
    return min(max(over + 0.03 * longest, LEAST_MARGIN * longest), LARGEST_MARGIN * longest)


def picture(image: Tensor | np.ndarray, margin: float, over: str, alt: str) -> str:
    """An inline SVG of an image and what is drawn over it, in px, with room around it."""
    height, width = displayable(image).shape[:2]
    box = (-0.5 - margin, -0.5 - margin, width + 2 * margin, height + 2 * margin)
    return (
        f'<svg class="picture" viewBox="{" ".join(f"{v:.2f}" for v in box)}" role="img" '
        f'aria-label="{html.escape(alt)}"><image href="{image_address(image)}" x="-0.5" y="-0.5" '
        f'width="{width}" height="{height}"/>{over}</svg>'
    )


def image_with_regions(image: Tensor, outlines: Tensor, margin: float, alt: str) -> str:
    """An inline SVG: the image, outlines (K, M, 2) in px over it, a dot where each starts."""
    height, width = image.shape[-2:]
    parts = []
    for k, outline in enumerate(outlines):
        number = f"of-{k % REGION_COLORS}"
        for piece in polylines(outline, (height, width)):
            points = " ".join(f"{x:.2f},{y:.2f}" for x, y in piece)
            parts += [
                f'<polyline class="{kind}" points="{points}"/>'
                for kind in ("halo", f"region {number}")
            ]
        if bool(outline[0].isfinite().all()):
            x, y = outline[0].tolist()
            dot = f'cx="{x:.2f}" cy="{y:.2f}" r="{0.035 * max(height, width):.2f}"'
            parts.append(f'<circle class="start {number}" {dot}/>')
    return picture(image, margin, "".join(parts), alt)
