"""Plane and space projective maps (homographies)."""

import torch
from torch import Tensor

from .. import linalg
from ..linalg import NEAREST_W, homogeneous_displacement, in_front
from .base import MatrixTransform


class Projective(MatrixTransform):
    """source = (H_top target~) / w with w = H_last target~, target~ = (target, 1).

    theta holds H minus the identity, (dim + 1, dim + 1) row-major without its last entry, which
    stays 1. Points with w <= 0 lie behind the horizon: `map_points` puts them finitely far outside,
    samplers read `fill` there.
    """

    kind = "projective"
    linear_in_theta = True

    def __init__(self, dim: int = 2):
        super().__init__(dim, (dim + 1) ** 2 - 1)

    def offset(self, theta: Tensor) -> Tensor:
        last = theta.new_zeros(theta.shape[0], 1)
        return torch.cat([theta, last], -1).unflatten(-1, (self.dim + 1, self.dim + 1))

    def theta_of(self, matrix: Tensor) -> Tensor:
        eye = torch.eye(self.dim + 1, dtype=matrix.dtype, device=matrix.device)
        return (matrix - eye).flatten(-2)[..., :-1]

    def displacement_at(self, theta: Tensor, points: Tensor) -> Tensor:
        return homogeneous_displacement(self.offset(theta), points)

    def valid_at(self, theta: Tensor, points: Tensor) -> Tensor:
        return in_front(self.offset(theta), points)

    def jacobian_at(self, theta: Tensor, points: Tensor) -> Tensor:
        offset = self.offset(theta)
        eye = torch.eye(self.dim, dtype=theta.dtype, device=theta.device)
        top, last = offset[..., :-1, :-1] + eye, offset[..., -1:, :-1]
        w = 1 + linalg.apply_affine(offset[..., -1:, :], points)
        front = w > NEAREST_W
        source = points + homogeneous_displacement(offset, points)
        slope = top.unsqueeze(1) - source.unsqueeze(-1) * last.unsqueeze(1)
        return torch.where(front.unsqueeze(-1), slope / torch.where(front, w, 1).unsqueeze(-1), 0)

    def inverse_at(self, theta: Tensor, points: Tensor) -> Tensor:
        inverse = linalg.inverse_or_nan(self.matrix(theta))
        hom = linalg.apply_affine(inverse, points)
        w = hom[..., -1:]
        # w of the way back is 1 / w of the way there: the same sign, and no answer behind.
        front = w > 0
        return torch.where(front, hom[..., :-1] / torch.where(front, w, 1), torch.nan)

    def fit_to(self, target: Tensor, source: Tensor, weights: Tensor) -> Tensor:
        needed = self.dim + 2
        if target.shape[1] < needed:
            raise ValueError(f"{self!r}.fit needs at least {needed} points, got {target.shape[1]}")
        matrix = linalg.homography(target, source, weights)
        theta = self.theta_of(matrix / matrix[..., -1:, -1:])
        seen = (self.valid_at(theta, target) | (weights == 0)).all(-1, keepdim=True)
        return torch.where(seen, theta, torch.nan)
