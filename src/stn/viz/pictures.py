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
REGIONS = ("#ffb000", "#56b4e9", "#e377c2", "#7fc97f")  # one transformer after the other
REGION_STYLE = "\n".join(f".of-{k} {{ --own: {color}; }}" for k, color in enumerate(REGIONS))
# Room around an image for lines that leave it, in image sizes.
LEAST_MARGIN, LARGEST_MARGIN = 0.06, 0.2
PHOTO_PX = 64 * 64  # coloured images of more pixels are JPEG
SMALL_PX = 128  # longer side up to which images are shown pixel by pixel
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
    return _address(displayable(image))


def _address(pixels: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    photo = pixels.ndim == 3 and pixels.size > 3 * PHOTO_PX
    kind, options = ("jpeg", {"quality": 85}) if photo else ("png", {"optimize": True})
    Image.fromarray(pixels).save(buffer, format=kind, **options)
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode()


def image_tag(image: Tensor | np.ndarray, alt: str) -> str:
    """An <img>."""
    pixels = displayable(image)
    height, width = pixels.shape[:2]
    return (
        f'<img class="{_rendering(pixels)}" src="{_address(pixels)}" width="{width}" '
        f'height="{height}" alt="{html.escape(alt)}">'
    )


def _rendering(pixels: np.ndarray) -> str:
    return "pixels" if max(pixels.shape[:2]) <= SMALL_PX else "smooth"


def region_class(k: int) -> str:
    """Of all that belongs to the k-th transformer; `REGION_STYLE` gives it its colour."""
    return f"of-{k % len(REGIONS)}"


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
    px = coords.to_pixels(source.cpu(), size, align_corners).unflatten(1, (fine, fine))
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
    pixels = displayable(image)
    height, width = pixels.shape[:2]
    content = (
        f'<image class="{_rendering(pixels)}" href="{_address(pixels)}" x="-0.5" y="-0.5" '
        f'width="{width}" height="{height}"/>{over}'
    )
    told = f'role="img" aria-label="{html.escape(alt)}"'
    return (
        f'<svg class="picture" viewBox="{view_box((height, width), margin)}" {told}>{content}</svg>'
    )


def view_box(size: Sequence[int], margin: float) -> str:
    """Of an SVG in px of an image of `size`, with room around it."""
    height, width = size
    box = (-0.5 - margin, -0.5 - margin, width + 2 * margin, height + 2 * margin)
    return " ".join(f"{v:.2f}" for v in box)


def line_tags(line: Tensor, size: Sequence[int], kind: str) -> str:
    """A line (M, 2), px, on an image of `size`, as SVG of the class `kind`."""
    pieces = (" ".join(f"{x:.2f},{y:.2f}" for x, y in piece) for piece in polylines(line, size))
    return "".join(f'<polyline class="{kind}" points="{piece}"/>' for piece in pieces)


def region_tags(outline: Tensor, size: Sequence[int], k: int) -> str:
    """The k-th transformer's outline (M, 2), px, as SVG, with a dot where it starts."""
    kinds = ("halo", f"region {region_class(k)}")
    tags = "".join(line_tags(outline, size, kind) for kind in kinds)
    x, y = outline[0].tolist()
    if not (np.isfinite(x) and np.isfinite(y)):
        return tags
    dot = f'cx="{x:.2f}" cy="{y:.2f}" r="{0.03 * max(size):.2f}"'
    return f'{tags}<circle class="start {region_class(k)}" {dot}/>'


def image_with_regions(image: Tensor, outlines: Tensor, margin: float, alt: str) -> str:
    """An inline SVG: the image, outlines (K, M, 2) in px over it, a dot where each starts."""
    size = image.shape[-2:]
    over = "".join(region_tags(outline, size, k) for k, outline in enumerate(outlines))
    return picture(image, margin, over, alt)
