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
from .kernels import Kernel

FAR = 1e4  # normalised: outside any image, and an index that fits an integer
NUDGE = 16 * torch.finfo(torch.float64).eps
MODES = ("nearest", "bilinear", "bicubic")
PADDING = {"zeros": "zeros", "fill": "zeros", "border": "border", "reflection": "reflection"}


def reason_against(
    dim: int,
    mode: str | Kernel,
    padding_mode: str,
    empty: bool,
    antialias: bool,
    forward_mode: bool = False,
) -> str | None:
    """None when torch can do the call, else why not."""
    if antialias:
        return "torch has no antialiased warp"
    if forward_mode:
        return "torch's sampler has no forward-mode derivative"
    if mode not in MODES:
        return f"torch has no mode {mode!r}"
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
    if padding_mode == "reflection":
        fold = padding.fold
        axes = [
            fold(x, n, padding_mode, align_corners, margin=2)
            for x, n in zip(px.unbind(-1), reversed(size), strict=True)
        ]
        px = torch.stack(axes, -1)
    else:  # only reflection cares, and align_corners=True has no unit on an axis of one pixel
        align_corners = False
    # Rounded here, ties are those of px and not of its round trip; the gradient is zero.
    px = px.round() if mode == "nearest" else px
    grid = coords.to_normalized(px, size, align_corners, NUDGE).clamp(-FAR, FAR)
    image = input.double()
    offset = fill.double().view(-1, *[1] * dim)
    if padding_mode == "fill":
        image = image - offset
    grid = grid.view(grid.shape[0], *[1] * (dim - 1), grid.shape[1], dim)
    out = F.grid_sample(image, grid, mode, PADDING[padding_mode], align_corners)
    if padding_mode == "fill":
        out = out + offset
    return out.flatten(2).to(input.dtype)
