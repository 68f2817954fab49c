"""Matrix families without a horizon (Jaderberg et al. 2015, section 3.2)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import coords, linalg
from ..places import Places
from .base import MatrixTransform

MAX_LOG_SCALE = 80.0  # exp of more overflows float32, and its zero gradient times inf is NaN


class LinearTransform(MatrixTransform):
    """A matrix family without a horizon: source = (I + L) target + t, offset = [L | t]."""

    def displacement_at(self, theta: Tensor, points: Tensor) -> Tensor:
        return linalg.apply_affine(self.offset(theta), points)

    def grid_displacement(self, theta: Tensor, size: tuple[int, ...], align: bool) -> Tensor:
        # In float64 the one product for the whole batch is never rounded to TF32.
        points = coords.target_points(size, align, torch.float64, theta.device)
        return linalg.move_all(self.offset(theta).double(), points)

    def jacobian_at(self, theta: Tensor, points: Tensor) -> Tensor:
        linear = self.matrix(theta)[..., : self.dim]
        return linear.unsqueeze(1).expand(-1, points.shape[1], -1, -1)

    def inverse_at(self, theta: Tensor, points: Tensor) -> Tensor:
        matrix = self.matrix(theta)
        inverse = linalg.inverse_or_nan(matrix[..., : self.dim])
        return linalg.apply_linear(inverse, points - matrix[..., self.dim].unsqueeze(-2))


class Translation(LinearTransform):
    """source = target + t; theta = (tx, ty[, tz])."""

    linear_in_theta = True

    def __init__(self, dim: int = 2):
        super().__init__(dim, dim)

    def offset(self, theta: Tensor) -> Tensor:
        return torch.cat(
            [theta.new_zeros(theta.shape[0], self.dim, self.dim), theta[..., None]], -1
        )

    def theta_of(self, matrix: Tensor) -> Tensor:
        return matrix[..., -1]

    def fit_to(self, target: Tensor, source: Tensor, weights: Tensor) -> Tensor:
        mean_target, mean_source = linalg.centroids(target, source, weights)
        return (mean_source - mean_target).squeeze(-2)


class Attention(LinearTransform):
    """An upright window: source = s target + t (eq. 2); theta = (log s, tx, ty[, tz]).

    Args:
        dim: 2 or 3.
        scale: None, or a fixed s > 0: then theta = (tx, ty[, tz]), and theta = 0 is the centred
            window of that scale, not the identity.
    """

    def __init__(self, dim: int = 2, scale: float | None = None):
        super().__init__(dim, dim if scale is not None else dim + 1)
        if scale is not None and not scale > 0:
            raise ValueError(f"scale must be positive, got {scale!r}")
        self.scale = scale

    def offset(self, theta: Tensor) -> Tensor:
        shift = theta[..., -self.dim :]
        if self.scale is None:
            growth = theta[..., 0].clamp(max=MAX_LOG_SCALE).expm1()
        else:
            growth = torch.full_like(shift[..., 0], self.scale - 1)
        linear = growth[..., None, None] * _eye(self.dim, theta)
        return torch.cat([linear, shift.unsqueeze(-1)], -1)

    def theta_of(self, matrix: Tensor) -> Tensor:
        if self.scale is not None:
            return matrix[..., -1]
        return torch.cat([matrix[..., 0, :1].log(), matrix[..., -1]], -1)

    def fit_to(self, target: Tensor, source: Tensor, weights: Tensor) -> Tensor:
        mean_target, mean_source = linalg.centroids(target, source, weights)
        if self.scale is not None:
            return (mean_source - self.scale * mean_target).squeeze(-2)
        x, y = target - mean_target, source - mean_source
        w = weights.unsqueeze(-1)
        scale = (w * x * y).sum((-2, -1)) / (w * x * x).sum((-2, -1))
        if bool((scale <= 0).any()):
            raise ValueError("the best window would be mirrored (s <= 0); use Affine")
        shift = mean_source - scale[..., None, None] * mean_target
        return torch.cat([scale.log().unsqueeze(-1), shift.squeeze(-2)], -1)

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.scale is None else f", scale={self.scale}")


class Similarity(LinearTransform):
    """Scale, rotation and shift: source = A^-1 s R A target + t.

    theta = (log s, angle, tx, ty), in 3-D (log s, rotation vector (3), tx, ty, tz); angles in rad,
    positive from x to y. A is the diagonal of `aspect`.

    Args:
        dim: 2 or 3.
        aspect: extents of the image in the order (x, y[, z]), for example (300, 100): rotations
            then keep lengths and angles on that non-square image. None: a square or cube.
    """

    has_scale = True

    def __init__(self, dim: int = 2, aspect: Sequence[float] | None = None):
        self.num_angles = 1 if dim == 2 else 3
        super().__init__(dim, int(self.has_scale) + self.num_angles + dim)
        if aspect is not None and (len(aspect) != dim or any(not a > 0 for a in aspect)):
            raise ValueError(f"aspect must be {dim} positive extents (x, y[, z]), got {aspect!r}")
        self.aspect = None if aspect is None else tuple(float(a) for a in aspect)

    def _extents(self, like: Tensor) -> Tensor:
        return torch.tensor(self.aspect or (1.0,) * self.dim, dtype=like.dtype, device=like.device)

    def offset(self, theta: Tensor) -> Tensor:
        angle, shift = theta[..., -self.dim - self.num_angles : -self.dim], theta[..., -self.dim :]
        linear = linalg.rotation_minus_identity(angle)
        if self.has_scale:
            log_scale = theta[..., 0, None, None].clamp(max=MAX_LOG_SCALE)
            linear = log_scale.exp() * linear + log_scale.expm1() * _eye(self.dim, theta)
        if self.aspect is not None:
            extents = self._extents(theta)
            linear = linear * extents / extents.unsqueeze(-1)
        return torch.cat([linear, shift.unsqueeze(-1)], -1)

    def theta_of(self, matrix: Tensor) -> Tensor:
        extents = self._extents(matrix)
        linear = matrix[..., : self.dim] * extents.unsqueeze(-1) / extents
        return self._pack(linear, torch.det(linear).abs() ** (1 / self.dim), matrix[..., -1])

    def fit_to(self, target: Tensor, source: Tensor, weights: Tensor) -> Tensor:
        extents = self._extents(target)
        rotation, scale = linalg.procrustes(target * extents, source * extents, weights)
        scale = scale if self.has_scale else torch.ones_like(scale)
        mean_target, mean_source = linalg.centroids(target, source, weights)
        turned = linalg.apply_linear(rotation, mean_target * extents) / extents
        shift = mean_source - scale[..., None, None] * turned
        return self._pack(rotation * scale[..., None, None], scale, shift.squeeze(-2))

    def _pack(self, linear: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        angle = linalg.rotation_angle(linear / scale[..., None, None])
        log_scale = [scale.log().unsqueeze(-1)] if self.has_scale else []
        return torch.cat([*log_scale, angle, shift], -1)

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.aspect is None else f", aspect={self.aspect}")


class Rigid(Similarity):
    """Rotation and shift: source = A^-1 R A target + t.

    theta = (angle, tx, ty), in 3-D (rotation vector (3), tx, ty, tz). See `Similarity` for A.
    """

    has_scale = False


class Affine(LinearTransform):
    """Any linear map and shift (eq. 1); theta = matrix (dim, dim + 1) minus identity, row-major."""

    linear_in_theta = True

    def __init__(self, dim: int = 2):
        super().__init__(dim, dim * (dim + 1))

    def offset(self, theta: Tensor) -> Tensor:
        return theta.unflatten(-1, (self.dim, self.dim + 1))

    def _places(self, theta: Tensor, size: tuple[int, ...], align: bool) -> Places:
        return Places("affine", theta, size, (theta.shape[0],), align)

    def theta_of(self, matrix: Tensor) -> Tensor:
        return (matrix - _eye(self.dim, matrix, columns=self.dim + 1)).flatten(-2)

    def fit_to(self, target: Tensor, source: Tensor, weights: Tensor) -> Tensor:
        design = torch.cat([target, torch.ones_like(target[..., :1])], -1)
        return linalg.least_squares(design, source - target, weights).mT.flatten(-2)


def _eye(n: int, like: Tensor, columns: int | None = None) -> Tensor:
    return torch.eye(n, columns or n, dtype=like.dtype, device=like.device)
