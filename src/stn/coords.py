"""Coordinates: the only file that converts between pixel indices and normalised coordinates.

Normalised coordinates have their last axis in the order (x, y[, z]); sizes are in the order
(H, W) or (D, H, W). With `align_corners=False` (the default everywhere) -1 and +1 are the outer
edges of the corner pixels, with `align_corners=True` their centres. An axis of one pixel has its
centre at 0 in both. Pixel coordinates ("px") count from 0 at the centre of the first pixel and are
float64 everywhere: in a normalised float32 grid the identity of a large image is not the identity.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def _axes(size: Sequence[int], like: Tensor) -> Tensor:
    """Lengths in the order of the last axis, (W, H[, D])."""
    return torch.tensor([float(n) for n in reversed(size)], dtype=like.dtype, device=like.device)


def _mesh(axes: Sequence[Tensor]) -> Tensor:
    """The row-major list (N, dim) of points whose coordinates run over axes in (H, W) order.

    In memory all x stand together, then all y: what follows is then plain vector arithmetic.
    """
    mesh = torch.meshgrid(*axes, indexing="ij")
    return torch.stack([m.flatten() for m in reversed(mesh)]).mT


def _centres(n: int, align_corners: bool, device: torch.device | str | None) -> Tensor:
    index = torch.arange(n, dtype=torch.float64, device=device)
    if not align_corners:
        return (2 * index + 1) / n - 1
    return 2 * index / (n - 1) - 1 if n > 1 else index


def target_points(
    size: Sequence[int],
    align_corners: bool = False,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Normalised centres (N, dim) of all pixels of an image of `size`, row-major."""
    return _mesh([_centres(n, align_corners, device) for n in size]).to(dtype)


def lattice_points(lattice: Sequence[int]) -> Tensor:
    """Nodes (K, dim) of a lattice that spans [-1, 1], row-major, float64."""
    return target_points(lattice, align_corners=True, dtype=torch.float64)


def shifted_pixels(
    shift: Tensor, size: Sequence[int], input_size: Sequence[int], align_corners: bool
) -> Tensor:
    """Where target pixels read that are displaced by `shift` (B, N, dim), normalised: px."""
    base = identity_pixels(size, input_size, align_corners, shift.device)
    unit = (_axes(input_size, base) - (1 if align_corners else 0)) / 2
    return torch.addcmul(base, shift.double(), unit)


def identity_pixels(
    size: Sequence[int],
    input_size: Sequence[int],
    align_corners: bool,
    device: torch.device | str | None,
) -> Tensor:
    """Where each target pixel reads under the identity, px (N, dim): integers if sizes agree."""
    axes = []
    for n_out, n_in in zip(size, input_size, strict=True):
        index = torch.arange(n_out, dtype=torch.float64, device=device)
        if not align_corners:
            axes.append((2 * index + 1) * n_in / (2 * n_out) - 0.5)
        elif n_out > 1:
            axes.append(index * (n_in - 1) / (n_out - 1))
        else:
            axes.append(index + (n_in - 1) / 2)
    return _mesh(axes)


def jacobian_pixels(
    jacobian: Tensor, size: Sequence[int], input_size: Sequence[int], align_corners: bool
) -> Tensor:
    """d source px_i / d target px_j (…, dim, dim) of a normalised `jacobian` minus the identity."""
    jacobian = jacobian.double()
    less = 1 if align_corners else 0
    unit = (_axes(input_size, jacobian) - less) / 2
    n_out = _axes(size, jacobian) - less
    step = torch.where(n_out > 0, 2 / n_out.clamp(min=1), 0)  # between two target pixels
    base = torch.where(n_out > 0, unit * step, 1)  # as identity_pixels
    return torch.diag(base) + jacobian * unit.unsqueeze(-1) * step


def to_pixels(points: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """Normalised points to px, by the formula and in the order of operations of grid_sample."""
    points = points.double()
    n = _axes(size, points)
    return (points + 1) / 2 * (n - 1) if align_corners else ((points + 1) * n - 1) / 2


def to_normalized(
    px: Tensor, size: Sequence[int], align_corners: bool, nudge: float = 0.0
) -> Tensor:
    """Inverse of `to_pixels`, plus `nudge`."""
    n = _axes(size, px)
    if align_corners:
        return torch.addcmul(nudge - (n > 1).to(px.dtype), px, 2 / (n - 1).clamp(min=1))
    return torch.addcmul(1 / n - 1 + nudge, px, 2 / n)
