"""Thin plate splines on a lattice (Bookstein 1989; Jaderberg et al. 2015, section 3.2)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import coords
from .lattice import LatticeTransform


class ThinPlateSpline(LatticeTransform):
    """The smoothest map that moves each control point by its row of theta.

    source = target + sum_k L_k(target) theta_k, theta (K, dim) row-major, one displacement per node
    of a lattice that spans [-1, 1]. The L_k interpolate with the kernel r^2 log r (in 3-D: -r) plus
    an affine part; everything the lattice fixes is solved once, here.

    Args:
        lattice: nodes along (H, W) or (D, H, W), at least 2 each; the paper uses (4, 4).
        regularization: lambda >= 0 added to the kernel matrix's diagonal (SciPy's `smoothing`): 0
            interpolates; larger bends less, and control points no longer move all the way.
    """

    weights: Tensor

    def __init__(self, lattice: Sequence[int], regularization: float = 0.0):
        super().__init__(lattice)
        if not regularization >= 0:
            raise ValueError(f"regularization must not be negative, got {regularization!r}")
        self.regularization = regularization
        nodes, dim = self.control_points, self.dim
        kernel = _kernel(nodes, nodes) + regularization * torch.eye(len(nodes), dtype=nodes.dtype)
        affine = torch.cat([torch.ones_like(nodes[:, :1]), nodes], -1)
        zero = torch.zeros(dim + 1, dim + 1, dtype=nodes.dtype)
        system = torch.cat([torch.cat([kernel, affine], 1), torch.cat([affine.mT, zero], 1)])
        weights = torch.linalg.inv(system)[:, : len(nodes)].contiguous()
        self.register_buffer("weights", weights, persistent=False)

    def basis(self, points: Tensor) -> Tensor:
        """L (…, N, K) at points (…, N, dim)."""
        parts = [_kernel(points, self.control_points.to(points)), points.new_ones(()), points]
        parts[1] = parts[1].expand(*points.shape[:-1], 1)
        return torch.cat(parts, -1) @ self.weights.to(points)

    def constants(self, size: tuple[int, ...], align: bool) -> tuple[Tensor, ...]:
        points = coords.target_points(size, align, torch.float64, self.weights.device)
        return (self.basis(points),)

    def displacement_at(self, theta: Tensor, points: Tensor) -> Tensor:
        if points.shape[0] == 1:
            return self.move(theta, self.basis(points[0]))
        return self.basis(points) @ self.nodes_of(theta)

    def grid_displacement(self, theta: Tensor, size: tuple[int, ...], align: bool) -> Tensor:
        return self.move(theta, *self.kept(size, align, theta))

    def jacobian_at(self, theta: Tensor, points: Tensor) -> Tensor:
        slopes = self._slopes(points)
        if points.shape[0] == 1:
            moved = self.move(theta, slopes[0].flatten(0, 1)).unflatten(1, (-1, self.dim))
        else:
            moved = slopes @ self.nodes_of(theta).unsqueeze(1)
        return moved.mT + torch.eye(self.dim, dtype=theta.dtype, device=theta.device)

    def _slopes(self, points: Tensor) -> Tensor:
        """Derivatives (…, N, dim, K) of the L_k."""
        kernel = _kernel_slopes(points, self.control_points.to(points))
        zero = points.new_zeros(*points.shape, 1)
        eye = torch.eye(self.dim, dtype=points.dtype, device=points.device)
        affine = eye.expand(*points.shape, self.dim)
        return torch.cat([kernel, zero, affine], -1) @ self.weights.to(points)

    def extra_repr(self) -> str:
        smooth = f", regularization={self.regularization}" if self.regularization else ""
        return super().extra_repr() + smooth


def _kernel(points: Tensor, nodes: Tensor) -> Tensor:
    """U(r) (…, N, K): r^2 log r in 2-D, -r in 3-D: positive definite beside the affine part.

    These are the fundamental solutions; with this sign a positive `regularization` smooths.
    """
    square = (points.unsqueeze(-2) - nodes).square().sum(-1)
    apart = square > 0
    square = torch.where(apart, square, 1)
    value = square * square.log() / 2 if points.shape[-1] == 2 else -square.sqrt()
    return torch.where(apart, value, 0)


def _kernel_slopes(points: Tensor, nodes: Tensor) -> Tensor:
    """Derivatives (…, N, dim, K) of `_kernel` along the points' axes; 0 at a node."""
    away = points.unsqueeze(-2) - nodes
    square = away.square().sum(-1, keepdim=True)
    apart = square > 0
    square = torch.where(apart, square, 1)
    rise = square.log() + 1 if points.shape[-1] == 2 else -square.rsqrt()
    return torch.where(apart, rise * away, 0).mT
