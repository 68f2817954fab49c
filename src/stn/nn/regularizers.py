"""Penalties on warps, one number per image: bending, stretching, folding, drifting away.

All take (transform, theta, size), look at the map at the pixel centres of an output of `size`, and
take the mean over those that have a source (behind a projective map's horizon there is none). A
theta that is not finite gives NaN. Lengths are normalised: 2 is the extent of the image.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import coords
from .._checks import check_size, full_precision, shape_of
from ..transforms import Transform
from .diagnostics import determinant, window_rows


@full_precision
def bending_energy(
    transform: Transform, theta: Tensor, size: Sequence[int] | int, align_corners: bool = False
) -> Tensor:
    """How much a map bends: the mean of its squared second derivatives.

    E = mean_p sum_ijk (d^2 source_i / d target_j d target_k)^2, the energy that a thin plate spline
    minimises. Zero for affine maps, however much they stretch or turn.

    Args:
        transform: any family.
        theta: (B, P), or (B, K, P) for K windows.
        size: (H, W) or (D, H, W) of the output; its pixel centres are the samples.
        align_corners: as in `warp`.

    Returns:
        (B,) or (B, K), at least 0, differentiable in theta to any order.

    Note:
        Second derivatives are differences of `transform.jacobian` between neighbouring pixels, off
        by O(pixel^2) where the map is smooth. Second derivatives by autograd would call the crease
        of a piecewise linear map flat, and differences of its points drown in float32's rounding on
        large images. A crease has no finite energy: its share grows with the resolution. An axis
        of one pixel has no neighbours and adds nothing.

    Example:
        >>> theta = torch.zeros(2, 32)
        >>> theta[1, 10] = 0.3  # one control point pulled aside
        >>> stn.nn.bending_energy(stn.ThinPlateSpline((4, 4)), theta, (28, 28)) > 0
        tensor([False,  True])

    Reference:
        Bookstein, Principal warps, 1989; Rueckert et al., Nonrigid registration using free-form
        deformations, 1999, eq. 4.
    """
    rows, points = _samples(transform, theta, size, align_corners)
    size = check_size(size, transform.dim)
    jacobian = transform.jacobian(rows, points).unflatten(1, size)
    valid = _valid(transform, rows, points).unflatten(1, size)
    spaced = coords.target_points(size, align_corners, torch.float64, rows.device)
    spaced = spaced.unflatten(0, size)
    total = torch.zeros_like(rows[:, 0])
    for axis, n in enumerate(size):
        if n > 1:
            step = spaced.diff(dim=axis)[..., -1 - axis, None, None]
            slope = jacobian.diff(dim=axis + 1) / step.to(rows.dtype)
            both = valid.narrow(axis + 1, 0, n - 1) & valid.narrow(axis + 1, 1, n - 1)
            values = slope.square().sum((-2, -1))
            total = total + _mean(rows, values.flatten(1), both.flatten(1))
    return total.view(theta.shape[:-1])


@full_precision
def smoothness(
    transform: Transform, theta: Tensor, size: Sequence[int] | int, align_corners: bool = False
) -> Tensor:
    """How much neighbours move apart: the mean squared gradient of the displacement.

    E = mean_p |J(p) - I|^2, with J = d source / d target; the diffusion regulariser. Zero for
    translations only: it also pulls back from scale and rotation.

    Args:
        transform: any family.
        theta: (B, P), or (B, K, P) for K windows.
        size: (H, W) or (D, H, W) of the output; its pixel centres are the samples.
        align_corners: as in `warp`.

    Returns:
        (B,) or (B, K), at least 0, differentiable in theta to any order.

    Example:
        >>> turned = torch.tensor([[0.0, 0.5, 0.0], [3.14159, 0.0, 0.0]])  # (angle, tx, ty)
        >>> stn.nn.smoothness(stn.Rigid(), turned, (8, 8))
        tensor([0., 8.])

    Reference:
        Fischer and Modersitzki, Fast diffusion registration, 2002.
    """
    rows, points = _samples(transform, theta, size, align_corners)
    jacobian = transform.jacobian(rows, points)
    eye = torch.eye(transform.dim, dtype=jacobian.dtype, device=jacobian.device)
    values = (jacobian - eye).square().sum((-2, -1))
    return _mean(rows, values, _valid(transform, rows, points)).view(theta.shape[:-1])


@full_precision
def fold_penalty(
    transform: Transform,
    theta: Tensor,
    size: Sequence[int] | int,
    margin: float = 0.1,
    align_corners: bool = False,
) -> Tensor:
    """How much a map folds, or nearly does: the mean of relu(margin - det J)^2.

    Zero where det J >= margin everywhere; J = d source / d target.

    Args:
        transform: any family.
        theta: (B, P), or (B, K, P) for K windows.
        size: (H, W) or (D, H, W) of the output; its pixel centres are the samples.
        margin: least area (volume) in the source for one of the target; up to 1 it spares the
            identity. Attention to a window of scale s has det J = s^dim.
        align_corners: as in `warp`.

    Returns:
        (B,) or (B, K), at least 0, differentiable in theta; the first derivative is continuous.

    Example:
        >>> mirror = torch.tensor([[-2.0, 0.0, 0.0, 0.0, 0.0, 0.0]])  # x -> -x, det J = -1
        >>> stn.nn.fold_penalty(stn.Affine(), mirror, (8, 8), margin=0.5)
        tensor([2.2500])

    Reference:
        Choi and Lee, Injectivity conditions of 2D and 3D uniform cubic B-spline functions, 2000,
        on why det J > 0; the quadratic barrier is the usual relaxation.
    """
    rows, points = _samples(transform, theta, size, align_corners)
    jacobian = transform.jacobian(rows, points)
    values = (margin - determinant(jacobian)).relu().square()
    return _mean(rows, values, _valid(transform, rows, points)).view(theta.shape[:-1])


@full_precision
def jacobian_penalty(
    transform: Transform,
    theta: Tensor,
    size: Sequence[int] | int,
    least: float = 0.01,
    align_corners: bool = False,
) -> Tensor:
    """How much areas (volumes) change: the mean of (log det J)^2, shrinking as bad as growing.

    Zero where the map keeps areas, J = d source / d target. Below `least` the logarithm goes on as
    its tangent, so that folds have a finite penalty, whose gradient unfolds them.

    Args:
        transform: any family.
        theta: (B, P), or (B, K, P) for K windows.
        size: (H, W) or (D, H, W) of the output; its pixel centres are the samples.
        least: det J, above 0, where the tangent begins.
        align_corners: as in `warp`.

    Returns:
        (B,) or (B, K), at least 0, differentiable in theta; the first derivative is continuous.

    Raises:
        ValueError: least is not above 0.

    Example:
        >>> zoom = torch.tensor([[0.5, 0.0, 0.0]])  # log s: det J = exp(1)
        >>> stn.nn.jacobian_penalty(stn.Attention(), zoom, (8, 8))
        tensor([1.])

    Reference:
        Ashburner, Andersson, Friston, High-dimensional image registration using symmetric priors,
        1999.
    """
    if not least > 0:
        raise ValueError(f"least must be above 0, got {least!r}")
    rows, points = _samples(transform, theta, size, align_corners)
    jacobian = transform.jacobian(rows, points)
    det = determinant(jacobian)
    regular = det > least
    log = torch.where(regular, det, 1).log()
    tangent = torch.as_tensor(least, dtype=det.dtype).log() + (det / least - 1)
    values = torch.where(regular, log, tangent).square()
    return _mean(rows, values, _valid(transform, rows, points)).view(theta.shape[:-1])


@full_precision
def inverse_consistency(
    transform: Transform,
    theta_ab: Tensor,
    theta_ba: Tensor,
    size: Sequence[int] | int,
    align_corners: bool = False,
) -> Tensor:
    """How far two warps are from undoing each other: the mean of |T_ba(T_ab(p)) - p|^2.

    Zero where theta_ba is the inverse of theta_ab. For a symmetric penalty add the one with the two
    thetas swapped.

    Args:
        transform: any family, of both warps.
        theta_ab, theta_ba: (B, P) each, or (B, K, P) each.
        size: (H, W) or (D, H, W) of the output; its pixel centres are the samples p.
        align_corners: as in `warp`.

    Returns:
        (B,) or (B, K), at least 0, differentiable in both thetas to any order.

    Raises:
        ValueError: the shapes of the thetas differ.

    Example:
        >>> there = torch.tensor([[0.25, 0.5]])
        >>> stn.nn.inverse_consistency(stn.Translation(), there, 2 * there, (8, 8))
        tensor([2.8125])

    Reference:
        Christensen and Johnson, Consistent image registration, 2001, eq. 4.
    """
    if theta_ab.shape != theta_ba.shape:
        raise ValueError(
            "theta_ab and theta_ba must have one shape, got "
            f"{shape_of(theta_ab)} and {shape_of(theta_ba)}"
        )
    there, points = _samples(transform, theta_ab, size, align_corners)
    back = window_rows(theta_ba)
    middle = transform.map_points(there, points)
    values = (transform.map_points(back, middle) - points).square().sum(-1)
    valid = _valid(transform, there, points) & _valid(transform, back, middle)
    return _mean(torch.cat([there, back], -1), values, valid).view(theta_ab.shape[:-1])


@full_precision
def pull_back(
    transform: Transform,
    theta: Tensor,
    size: Sequence[int] | int,
    margin: float = 0.0,
    align_corners: bool = False,
) -> Tensor:
    """How far samples have left the image: a pull towards it that lives outside.

    E = mean_p sum_i d_i^2 / (1 + d_i) with d = relu(|source| - (1 + margin)). Samples outside the
    image are zeros, and have no gradient: a transformer that has drifted away stays away. This
    term is zero, and its gradient too, as long as the samples are inside; at the edge it grows as
    d^2, and far away as d, so that its gradient neither vanishes nor explodes.

    Args:
        transform: any family.
        theta: (B, P), or (B, K, P) for K windows.
        size: (H, W) or (D, H, W) of the output; its pixel centres are the samples.
        margin: how far outside samples are free to go, in half extents of the image.
        align_corners: as in `warp`.

    Returns:
        (B,) or (B, K), at least 0, differentiable in theta; the first derivative is continuous.

    Note:
        Pixels behind a projective map's horizon have no source and are left out.

    Example:
        >>> away = torch.tensor([[3.0, 0.0]], requires_grad=True)
        >>> penalty = stn.nn.pull_back(stn.Translation(), away, (8, 8))
        >>> torch.autograd.grad(penalty.sum(), away)[0]
        tensor([[0.8753, 0.0000]])
    """
    rows, points = _samples(transform, theta, size, align_corners)
    beyond = (transform.map_points(rows, points).abs() - (1 + margin)).relu()
    values = (beyond * (beyond / (1 + beyond))).sum(-1)
    return _mean(rows, values, _valid(transform, rows, points)).view(theta.shape[:-1])


def _samples(
    transform: Transform, theta: Tensor, size: Sequence[int] | int, align_corners: bool
) -> tuple[Tensor, Tensor]:
    """Theta as rows, in float32 or wider, and the pixel centres (N, dim) of an output of `size`."""
    rows = window_rows(theta)
    size = check_size(size, transform.dim)
    return rows, coords.target_points(size, align_corners, rows.dtype, rows.device)


def _valid(transform: Transform, rows: Tensor, points: Tensor) -> Tensor:
    """Mask (B, N) of the points that have a source."""
    points = points if points.dim() == 3 else points.unsqueeze(0)
    valid = transform.valid_at(rows, points)
    if valid is None:
        return torch.ones(len(rows), points.shape[1], dtype=torch.bool, device=rows.device)
    return valid


def _mean(rows: Tensor, values: Tensor, valid: Tensor) -> Tensor:
    """Mean (B,) of the valid ones of values (B, N), NaN where theta is not finite."""
    mean = torch.where(valid, values, 0).sum(-1) / valid.sum(-1).clamp(min=1)
    return torch.where(rows.isfinite().all(-1), mean, torch.nan)
