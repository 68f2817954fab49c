"""What a transformer is doing: is it looking at the image at all, how large, and does it fold?"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .. import coords
from .._checks import check_size
from ..transforms import Transform


class Diagnostics(NamedTuple):
    """One number per image, (B,) each.

    outside: share of the output's pixels that read outside the image; a transformer near 1 gets no
        gradient and does not come back.
    scale: size of the region that is read over that of the image, geometric mean per axis of
        |det J|^(1/dim); below 1 it zooms in.
    folded: share of the output's pixels where det J <= 0, where the map turns over or collapses.
    min_det: the smallest det J.
    """

    outside: Tensor
    scale: Tensor
    folded: Tensor
    min_det: Tensor


@torch.no_grad()
def diagnose(
    transform: Transform, theta: Tensor, size: Sequence[int] | int, align_corners: bool = False
) -> Diagnostics:
    """Diagnostics of the warps theta (B, P) over an output of `size`.

    Example:
        >>> zoom_out = torch.tensor([[0.0, 0.0, 0.0], [0.693147, 0.0, 0.0]])  # log s
        >>> stn.nn.diagnose(stn.Attention(), zoom_out, (8, 8)).outside
        tensor([0.0000, 0.7500])
    """
    size = check_size(size, transform.dim)
    grid = transform.grid(theta, size, align_corners).flatten(1, -2)
    points = coords.target_points(size, align_corners, grid.dtype, grid.device)
    det = torch.linalg.det(transform.jacobian(theta, points))
    return Diagnostics(
        outside=(~(grid.abs() <= 1).all(-1)).to(grid.dtype).mean(-1),
        scale=(det.abs().clamp(min=1e-30).log().mean(-1) / transform.dim).exp(),
        folded=(det <= 0).to(grid.dtype).mean(-1),
        min_det=det.amin(-1),
    )
