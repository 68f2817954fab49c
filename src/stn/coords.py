"""Coordinates: the only file that converts between pixel indices and normalised coordinates.

Normalised coordinates have their last axis in the order (x, y[, z]); sizes are in the order
(H, W) or (D, H, W). With `align_corners=False` (the default everywhere) -1 and +1 are the outer
edges of the corner pixels, with `align_corners=True` their centres. An axis of one pixel has its
centre at 0 in both. Pixel coordinates ("px") count from 0 at the centre of the first pixel and are
float64 everywhere: in a normalised float32 grid the identity of a large image is not the identity.
"""

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ._checks import is_traced

KEPT = 1 << 16  # points


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


def _keep_small(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Remember the points of small sizes, which every call of a layer asks for again.

    Nobody may change what is returned. Traced code and inference mode make their own: what they
    make cannot be used outside.
    """
    kept = functools.lru_cache(maxsize=32)(make)

    @functools.wraps(make)
    def points(size: Sequence[int], *args) -> Tensor:
        size = tuple(size)
        if is_traced() or torch.is_inference_mode_enabled() or math.prod(size) > KEPT:
            return make(size, *args)
        *options, device = args
        return kept(size, *options, torch.get_default_device() if device is None else device)

    return points


def target_points(
    size: Sequence[int],
    align_corners: bool = False,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Normalised centres (N, dim) of all pixels of an image of `size`, row-major."""
    return _target_points(tuple(size), align_corners, dtype, device)


@_keep_small
def _target_points(size, align_corners, dtype, device):
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
    return _identity_pixels(tuple(size), tuple(input_size), align_corners, device)


@_keep_small
def _identity_pixels(size, input_size, align_corners, device):
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
    unit = [(n - less) / 2 for n in reversed(input_size)]
    step = [2 / (n - less) if n > less else 0.0 for n in reversed(size)]  # between target pixels
    base = [u * s if s else 1.0 for u, s in zip(unit, step, strict=True)]  # as identity_pixels
    like = {"dtype": jacobian.dtype, "device": jacobian.device}
    scale = torch.tensor([[u * s for s in step] for u in unit], **like)
    return torch.addcmul(torch.tensor(base, **like).diag(), jacobian, scale)


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
