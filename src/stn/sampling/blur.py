"""A Gaussian blur of images continued by a padding mode, whose slopes reach further."""

import torch
import torch.nn.functional as F
from torch import Tensor

from . import padding

PERIODIC = ("reflection", "mirror", "wrap")  # blurred, the continued image keeps its pattern


def blurred(
    input: Tensor, sigma_px: float, padding_mode: str, align_corners: bool, fill: Tensor
) -> tuple[Tensor, int]:
    """`input` (B, C, *size) blurred, and the shift, px, of its coordinates.

    Where the image is continued by a constant the blur of its edge reaches outside, so the result
    is larger on all sides. The Gaussian is cut at 4 sigma, as SciPy's.
    """
    reach = int(4 * sigma_px + 0.5)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64, device=input.device)
    weights = torch.exp(-0.5 * (offsets / sigma_px).square())
    weights = weights / weights.sum()
    grown = 0 if padding_mode in PERIODIC else reach
    out = input.double()
    level = fill.double().view(-1, *[1] * (input.dim() - 2)) if padding_mode == "fill" else 0
    out = out - level
    for axis in range(2, input.dim()):
        n = input.shape[axis]
        wide = torch.arange(-grown - reach, n + grown + reach, device=input.device)
        index, inside = padding.tap(wide, n, padding_mode, align_corners)
        out = out.index_select(axis, index).movedim(axis, -1)
        if inside is not None:
            out = torch.where(inside, out, 0)
        rows = F.conv1d(out.flatten(0, -2).unsqueeze(1), weights.view(1, 1, -1))
        out = rows.squeeze(1).unflatten(0, out.shape[:-1]).movedim(-1, axis)
    dtype = torch.promote_types(input.dtype, torch.float32)
    return (out + level).to(dtype), grown
