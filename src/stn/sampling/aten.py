"""torch's own grid_sample as a backend, called so that none of its faults comes through.

It computes in float64, because a normalised float32 grid cannot hold the identity on images beyond
some 64 pixels and half precision breaks on large ones; it never sees a coordinate that is not
finite or far outside; and a nudge of a few units in the last place keeps exact pixel centres on
their right-hand derivative after the round trip through normalised coordinates.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import coords
from . import padding

PADDING = {"zeros": "zeros", "fill": "zeros", "border": "border", "reflection": "reflection"}


def reason_against(dim: int, mode: str, padding_mode: str, empty: bool) -> str | None:
    """None when torch can do the call, else why not."""
    if empty:
        return "torch refuses empty tensors"
    if dim not in (2, 3):
        return f"torch has no {dim}-D sampler"
    if dim == 3 and mode == "bicubic":
        return "torch has no tricubic sampler"
    if padding_mode not in PADDING:
        return f"torch has no padding_mode {padding_mode!r}"
    return None


def sample(
    input: Tensor, px: Tensor, mode: str, padding_mode: str, align_corners: bool, fill: Tensor
) -> Tensor:
    """As `reference.sample`."""
    size, dim = input.shape[2:], px.shape[-1]
    px = px.double()
    folded = []
    for axis in range(dim):
        x, n = px[..., axis], size[-1 - axis]
        x = padding.fold(x, n, padding_mode, align_corners, margin=2)
        # Rounded here, ties are those of px and not of its round trip; the gradient is zero.
        x = x.round() if mode == "nearest" else x + 8 * torch.finfo(x.dtype).eps * n
        folded.append(x)
    grid = coords.to_normalized(torch.stack(folded, -1), size, align_corners)
    image = input.double()
    offset = fill.double().view(-1, *[1] * dim)
    if padding_mode == "fill":
        image = image - offset
    grid = grid.view(grid.shape[0], *[1] * (dim - 1), grid.shape[1], dim)
    out = F.grid_sample(image, grid, mode, PADDING[padding_mode], align_corners)
    if padding_mode == "fill":
        out = out + offset
    return out.flatten(2).to(input.dtype)
