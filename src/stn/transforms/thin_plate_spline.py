"""Thin plate splines on a lattice (Bookstein 1989; Jaderberg et al. 2015, section 3.2)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import coords
from .._checks import check_size
from .base import Transform

KEPT_BASES = 16


class ThinPlateSpline(Transform):
    """The smoothest map that moves each control point by its row of theta.

    source = target + sum_k L_k(target) theta_k, theta (K, dim) row-major, one displacement per node
    of a lattice that spans [-1, 1]. The L_k interpolate with the kernel r^2 log r (in 3-D: -r) plus
    an affine part; everything the lattice fixes is solved once, here.

    Args:
        lattice: nodes along (H, W) or (D, H, W), at least 2 each; the paper uses (4, 4).
        regularization: lambda >= 0 added to the kernel matrix's diagonal (SciPy's `smoothing`): 0
            interpolates; larger bends less, and control points no longer move all the way.
    """

    control_points: Tensor
    weights: Tensor

    def __init__(self, lattice: Sequence[int], regularization: float = 0.0):
        lattice = tuple(lattice)
        dim = len(lattice)
        if dim not in (2, 3) or any(n < 2 for n in lattice):
            raise ValueError(
                f"lattice must be (H, W) or (D, H, W) with at least 2 nodes each, got {lattice}"
            )
        if not regularization >= 0:
            raise ValueError(f"regularization must not be negative, got {regularization!r}")
        nodes = coords.lattice_points(check_size(lattice, dim, "lattice"))
        super().__init__(dim, nodes.numel())
        self.lattice, self.regularization = lattice, regularization
        kernel = _kernel(nodes, nodes) + regularization * torch.eye(len(nodes), dtype=nodes.dtype)
        affine = torch.cat([torch.ones_like(nodes[:, :1]), nodes], -1)
        zero = torch.zeros(dim + 1, dim + 1, dtype=nodes.dtype)
        system = torch.cat([torch.cat([kernel, affine], 1), torch.cat([affine.mT, zero], 1)])
        self.register_buffer("control_points", nodes, persistent=False)
        self.register_buffer(
            "weights", torch.linalg.inv(system)[:, : len(nodes)].contiguous(), persistent=False
        )
        self._bases: dict[tuple, Tensor] = {}

    def basis(self, points: Tensor) -> Tensor:
        """L (…, N, K) at points (…, N, dim)."""
        parts = [_kernel(points, self.control_points.to(points)), points.new_ones(()), points]
        parts[1] = parts[1].expand(*points.shape[:-1], 1)
        return torch.cat(parts, -1) @ self.weights.to(points)

    def displacement_at(self, theta: Tensor, points: Tensor) -> Tensor:
        if points.shape[0] == 1:
            return self._move(theta, self.basis(points[0]))
        return self.basis(points) @ theta.unflatten(-1, (-1, self.dim))

    def grid_displacement(self, theta: Tensor, size: tuple[int, ...], align: bool) -> Tensor:
        return self._move(theta, self._grid_basis(size, align, theta))

    def fit_to(self, target: Tensor, source: Tensor, weights: Tensor) -> Tensor:
        root = weights.sqrt().unsqueeze(-1)
        design = root * self.basis(target)
        return (torch.linalg.pinv(design) @ (root * (source - target))).flatten(-2)

    def _move(self, theta: Tensor, basis: Tensor) -> Tensor:
        """basis (N, K) shared by the batch: one matrix product, not one per image."""
        rows = theta.unflatten(-1, (-1, self.dim)).mT.flatten(0, 1)
        return (rows @ basis.mT).unflatten(0, (-1, self.dim)).mT

    def _grid_basis(self, size: tuple[int, ...], align: bool, like: Tensor) -> Tensor:
        key = (size, align, like.dtype, like.device)
        basis = self._bases.get(key)
        if basis is None:
            with torch.inference_mode(False), torch.no_grad():
                points = coords.target_points(size, align, torch.float64, self.weights.device)
                basis = self.basis(points).to(like.device, like.dtype)
            if not torch.compiler.is_compiling():
                if len(self._bases) == KEPT_BASES:
                    self._bases.clear()
                self._bases[key] = basis
        return basis

    def extra_repr(self) -> str:
        smooth = f", regularization={self.regularization}" if self.regularization else ""
        return f"lattice={self.lattice}{smooth}"


def _kernel(points: Tensor, nodes: Tensor) -> Tensor:
    """U(r) (…, N, K): r^2 log r in 2-D, -r in 3-D: positive definite beside the affine part.

    These are the fundamental solutions; with this sign a positive `regularization` smooths.
    """
    square = (points.unsqueeze(-2) - nodes).square().sum(-1)
    apart = square > 0
    square = torch.where(apart, square, 1)
    value = square * square.log() / 2 if points.shape[-1] == 2 else -square.sqrt()
    return torch.where(apart, value, 0)
