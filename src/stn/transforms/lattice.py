"""What the families with one displacement for each node of a lattice share."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import coords, linalg, splines
from .._checks import check_size, is_traced
from .base import Transform

KEPT_GRIDS = 16
DENSE = 64  # nodes up to which a product with all weights beats reading the few that are not 0


class LatticeTransform(Transform):
    """theta (K, dim) row-major holds the displacement of each of the K nodes of a lattice.

    Hooks: `basis`, the weights of the nodes, and `constants`, whatever of a regular grid of points
    does not depend on theta; it is kept for the grids used last.
    """

    control_points: Tensor
    per_unit: Tensor  # spacings of the lattice in a unit of length, along x, y[, z]
    linear_in_theta = True
    nodes_at_ends = True  # nodes span [-1, 1]; False: they are the centres of cells that do

    def __init__(self, lattice: Sequence[int], least: int = 2):
        lattice = (lattice,) if isinstance(lattice, int) else tuple(lattice)
        dim = len(lattice)
        if dim not in (2, 3) or any(n < least for n in lattice):
            nodes = "node" if least == 1 else "nodes"
            raise ValueError(
                f"lattice must be (H, W) or (D, H, W) with at least {least} {nodes} each, "
                f"got {lattice}"
            )
        lattice = check_size(lattice, dim, "lattice")
        nodes = coords.target_points(lattice, self.nodes_at_ends, torch.float64)
        super().__init__(dim, nodes.numel())
        self.lattice = lattice
        self.register_buffer("control_points", nodes.clone(), persistent=False)
        ends = coords.to_pixels(
            torch.tensor([[0.0], [1.0]]).expand(2, dim), lattice, self.nodes_at_ends
        )
        self.register_buffer("per_unit", ends[1] - ends[0], persistent=False)
        self._kept: dict[tuple, tuple[Tensor, ...]] = {}

    def basis(self, points: Tensor) -> Tensor:
        """Weights (…, N, K) of the nodes at points (…, N, dim)."""
        raise NotImplementedError

    def constants(self, size: tuple[int, ...], align: bool) -> tuple[Tensor, ...]:
        """Float64 or integer tensors for the pixel centres of `size`."""
        raise NotImplementedError

    def fit_to(self, target: Tensor, source: Tensor, weights: Tensor) -> Tensor:
        return linalg.least_squares(self.basis(target), source - target, weights).flatten(-2)

    def nodes_of(self, theta: Tensor) -> Tensor:
        """theta as (B, K, dim)."""
        return theta.unflatten(-1, (-1, self.dim))

    def move(self, theta: Tensor, basis: Tensor) -> Tensor:
        """basis (N, K) shared by the batch: one matrix product, not one per image."""
        rows = self.nodes_of(theta).mT.flatten(0, 1)
        return (rows @ basis.mT).unflatten(0, (-1, self.dim)).mT

    def kept(self, size: tuple[int, ...], align: bool, like: Tensor) -> tuple[Tensor, ...]:
        """`constants` on the device of `like` and in its type, made once."""
        if is_traced():
            return self._made(size, align, like)
        key = (size, align, like.dtype, like.device)
        kept = self._kept.get(key)
        if kept is None:
            if len(self._kept) == KEPT_GRIDS:
                self._kept.clear()
            kept = self._kept[key] = self._made(size, align, like)
        return kept

    def _made(self, size: tuple[int, ...], align: bool, like: Tensor) -> tuple[Tensor, ...]:
        with torch.inference_mode(False), torch.no_grad():
            return tuple(
                part.to(like.device, like.dtype if part.is_floating_point() else part.dtype)
                for part in self.constants(size, align)
            )

    def extra_repr(self) -> str:
        return f"lattice={self.lattice}"


class TapsTransform(LatticeTransform):
    """A lattice family whose points read a few nodes each: `taps_at` says which and how much."""

    def taps_at(self, place: Tensor) -> splines.Taps:
        """Taps (…, N, T) at places (…, N, dim) in units of the lattice's spacing."""
        raise NotImplementedError

    def slopes_at(self, place: Tensor) -> Tensor:
        """Derivatives (…, N, T, dim) of the taps' weights."""
        raise NotImplementedError

    def _place(self, points: Tensor) -> Tensor:
        return coords.to_pixels(points, self.lattice, self.nodes_at_ends)

    def basis(self, points: Tensor) -> Tensor:
        taps = self.taps_at(self._place(points))
        return splines.dense(taps, len(self.control_points)).to(points.dtype)

    def displacement_at(self, theta: Tensor, points: Tensor) -> Tensor:
        return splines.combine(self.nodes_of(theta), self.taps_at(self._place(points)))

    def jacobian_at(self, theta: Tensor, points: Tensor) -> Tensor:
        place = self._place(points)
        nodes = splines.read(self.nodes_of(theta), self.taps_at(place)[0])
        slopes = (self.slopes_at(place) * self.per_unit).to(theta.dtype)
        eye = torch.eye(self.dim, dtype=theta.dtype, device=theta.device)
        return eye + (nodes.unsqueeze(-1) * slopes.unsqueeze(-2)).sum(-3)

    def constants(self, size: tuple[int, ...], align: bool) -> tuple[Tensor, ...]:
        device = self.control_points.device
        points = coords.target_points(size, align, torch.float64, device)
        if len(self.control_points) <= DENSE:
            return (self.basis(points),)
        return self.taps_at(self._place(points.unsqueeze(0)))

    def grid_displacement(self, theta: Tensor, size: tuple[int, ...], align: bool) -> Tensor:
        kept = self.kept(size, align, theta)
        if len(kept) == 1:
            return self.move(theta, *kept)
        return splines.combine(self.nodes_of(theta), (kept[0], kept[1]))


class ProductTransform(TapsTransform):
    """Taps that are a tensor product: on a regular grid one small matrix along each axis does."""

    def axis_taps(self, x: Tensor, n: int) -> splines.Taps:
        """Taps (…, T) at places x (…) along an axis of n nodes."""
        raise NotImplementedError

    def axis_slopes(self, x: Tensor, n: int) -> Tensor:
        """Derivatives (…, T) of the weights of `axis_taps`."""
        raise NotImplementedError

    def _axes(self, place: Tensor) -> list[tuple[Tensor, int]]:
        return list(zip(reversed(place.unbind(-1)), self.lattice, strict=True))

    def taps_at(self, place: Tensor) -> splines.Taps:
        taps = [self.axis_taps(x, n) for x, n in self._axes(place)]
        return splines.product_taps(taps, self.lattice)

    def slopes_at(self, place: Tensor) -> Tensor:
        axes = self._axes(place)
        weights = [self.axis_taps(x, n)[1] for x, n in axes]
        return splines.product_slopes(weights, [self.axis_slopes(x, n) for x, n in axes])

    def constants(self, size: tuple[int, ...], align: bool) -> tuple[Tensor, ...]:
        matrices = []
        for axis, n in enumerate(self.lattice):
            line = [size[axis] if a == axis else 1 for a in range(self.dim)]
            points = coords.target_points(line, align, torch.float64, self.control_points.device)
            place = self._place(points)[:, -1 - axis]
            matrices.append(splines.dense(self.axis_taps(place, n), n))
        return tuple(matrices)

    def grid_displacement(self, theta: Tensor, size: tuple[int, ...], align: bool) -> Tensor:
        values = theta.unflatten(-1, (*self.lattice, self.dim)).movedim(-1, 1)
        for axis, matrix in enumerate(self.kept(size, align, theta), start=2):
            values = (values.movedim(axis, -1) @ matrix.mT).movedim(-1, axis)
        return values.flatten(2).mT
