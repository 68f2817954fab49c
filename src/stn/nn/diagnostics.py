"""What a transformer is doing: is it looking at the image at all, how large, and does it fold?"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .. import coords
from .._checks import check_floating, check_size, full_precision, widen
from ..transforms import Transform
from ..transforms.base import check_transform


class Diagnostics(NamedTuple):
    """One number per image, (B,) each, or per window, (B, K).

    outside: share of the output's pixels that read outside the image; a transformer near 1 gets no
        gradient and does not come back.
    scale: size of the region that is read over that of the image, geometric mean per axis of
        |det J|^(1/dim); below 1 it zooms in.
        Pixels without a source, behind a projective map's horizon, do not count.
    folded: share of the output's pixels where det J is not above 0: where the map turns over or
        collapses, or has no source.
    min_det: the smallest det J; 0 behind a horizon.
    """

    outside: Tensor
    scale: Tensor
    folded: Tensor
    min_det: Tensor


@torch.no_grad()
@full_precision
def diagnose(
    transform: Transform, theta: Tensor, size: Sequence[int] | int, align_corners: bool = False
) -> Diagnostics:
    """Diagnostics of the warps theta (B, P), or (B, K, P), over an output of `size`.

    Example:
        >>> zoom_out = torch.tensor([[0.0, 0.0, 0.0], [0.693147, 0.0, 0.0]])  # log s
        >>> stn.nn.diagnose(stn.Attention(), zoom_out, (8, 8)).outside
        tensor([0.0000, 0.7500])
    """
    check_transform(transform)
    rows = window_rows(theta)
    size = check_size(size, transform.dim)
    grid = transform.grid(rows, size, align_corners).flatten(1, -2)
    points = coords.target_points(size, align_corners, grid.dtype, grid.device)
    det = determinant(transform.jacobian(rows, points))
    found = ~grid.isnan().any(-1)
    log_area = torch.where(found, det.abs().clamp(min=1e-30).log(), 0).sum(-1) / found.sum(-1)
    values = Diagnostics(
        outside=(~(grid.abs() <= 1).all(-1)).to(grid.dtype).mean(-1),
        scale=(log_area / transform.dim).exp(),
        folded=(~(det > 0)).to(grid.dtype).mean(-1),
        min_det=det.amin(-1),
    )
    return Diagnostics(*(value.view(theta.shape[:-1]) for value in values))


def window_rows(theta: Tensor) -> Tensor:
    """theta (B, P) or (B, K, P) as one row per warp, in float32 or wider."""
    check_floating(theta, "theta")
    return widen(theta.flatten(0, 1) if theta.dim() == 3 else theta)


def determinant(matrix: Tensor) -> Tensor:
    """Of matrices (…, n, n), n = 2 or 3, written out: its derivatives are right at det = 0 too."""
    if matrix.shape[-1] == 2:
        return matrix[..., 0, 0] * matrix[..., 1, 1] - matrix[..., 0, 1] * matrix[..., 1, 0]
    first, second, third = matrix.unbind(-2)
    return (first * torch.linalg.cross(second, third)).sum(-1)
