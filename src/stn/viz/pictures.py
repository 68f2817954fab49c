"""Images and outlines as they stand in a page: PNG data addresses and inline SVG."""

import base64
import html
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Lines are cut this many image sizes outside the image.
FAR = 4.0
REGION_COLORS = 4  # in page.html: .of-0, .of-1, …
# Room around an image for outlines that leave it, in image sizes.
LEAST_MARGIN, LARGEST_MARGIN = 0.06, 0.2


def displayable(image: Tensor | np.ndarray) -> np.ndarray:
    """uint8 (H, W) or, for three channels, (H, W, 3) of an image in [0, 1].

    (H, W) or (C, H, W); other numbers of channels are shown as their mean. Not finite is black.
    """
    tensor = torch.as_tensor(image).detach().float().cpu()
    if tensor.dim() == 3:
        tensor = tensor.movedim(0, -1) if tensor.shape[0] == 3 else tensor.mean(0)
    return (tensor.nan_to_num(0.0).clamp(0, 1) * 255).round().byte().numpy()


def png_address(image: Tensor | np.ndarray) -> str:
    """An image as a data: address."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(displayable(image)).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def image_tag(image: Tensor | np.ndarray, alt: str) -> str:
    """An <img> that shows every pixel."""
    height, width = torch.as_tensor(image).shape[-2:]
    return (
        f'<img src="{png_address(image)}" width="{width}" height="{height}" '
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


def margin_for(outlines: Tensor, size: Sequence[int]) -> float:
    """px to show around images of `size`, so that outlines (N, M, 2) are seen as far as is fair."""
    height, width = size[-2], size[-1]
    kept = outlines[outlines.isfinite().all(-1)]
    over = 0.0
    if len(kept):
        last = torch.tensor([width - 0.5, height - 0.5]).to(kept)
        over = float(torch.maximum(-0.5 - kept, kept - last).max())
    longest = max(height, width)
    return min(max(over + 0.03 * longest, LEAST_MARGIN * longest), LARGEST_MARGIN * longest)


def image_with_regions(image: Tensor, outlines: Tensor, margin: float, alt: str) -> str:
    """An inline SVG: the image, outlines (K, M, 2) in px over it, a dot where each starts."""
    height, width = image.shape[-2:]
    box = (-0.5 - margin, -0.5 - margin, width + 2 * margin, height + 2 * margin)
    parts: list[Any] = [
        f'<svg class="picture" viewBox="{" ".join(f"{v:.2f}" for v in box)}" role="img" '
        f'aria-label="{html.escape(alt)}">',
        f'<image href="{png_address(image)}" x="-0.5" y="-0.5" width="{width}" height="{height}"/>',
    ]
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
    return "".join([*parts, "</svg>"])
