"""Padding as index maps: what a tap outside the image reads.

Each mode extends the image to all integers, so every kernel and every number of axes has the same
padding. `fold` first brings a coordinate of any size near the image without changing what it reads;
`tap` then maps the integer taps around it.
"""

import torch
from torch import Tensor

MODES = ("zeros", "border", "reflection", "mirror", "wrap", "fill")


def fold(
    px: Tensor, n: int, mode: str, align_corners: bool, margin: int, turn: bool = True
) -> Tensor:
    """Coordinates (px, finite) moved to within `margin` of [0, n - 1]; derivative +-1 or 0.

    Without `turn` they are only shifted, by a whole period, to within 2 n: what reads a mirrored
    image by a kernel without symmetry must not be turned over.
    """
    if mode == "wrap":
        return torch.remainder(px, n)
    if mode in ("reflection", "mirror"):
        low, span = _mirrors(n, mode, align_corners)
        if span == 0:
            return px * 0
        inside = torch.remainder(px - low, 2 * span)
        if not turn:
            return low + inside
        return low + torch.where(inside >= span, 2 * span - inside, inside)
    return px.clamp(-margin - 1, n + margin)


def tap(index: Tensor, n: int, mode: str, align_corners: bool) -> tuple[Tensor, Tensor | None]:
    """In-range indices, and the mask of the taps that are inside (None: all of them)."""
    if mode == "wrap":
        return index.remainder(n), None
    if mode in ("reflection", "mirror"):
        low, span = _mirrors(n, mode, align_corners)
        if span == 0:
            return torch.zeros_like(index), None
        twice_low = round(2 * low)
        inside = (2 * index - twice_low).remainder(4 * span)
        inside = torch.where(inside > 2 * span, 4 * span - inside, inside)
        return (inside + twice_low) // 2, None
    bounded = index.clamp(0, n - 1)
    return bounded, None if mode == "border" else bounded == index


def _mirrors(n: int, mode: str, align_corners: bool) -> tuple[float, int]:
    """The lower mirror and the distance between the two: pixel centres, or the outer edges."""
    centres = mode == "mirror" or align_corners
    return (0.0, n - 1) if centres else (-0.5, n)
