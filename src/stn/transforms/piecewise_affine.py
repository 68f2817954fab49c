"""Piecewise affine maps on a lattice cut into triangles or tetrahedra."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import coords, splines
from .inversion import newton_inverse
from .lattice import TapsTransform


class PiecewiseAffine(TapsTransform):
    """Affine in each cell's triangle: source = target + sum_k b_k(target) theta_k.

    b_k are the barycentric coordinates in the triangle (tetrahedron) that holds the target. Cells
    are cut along their main diagonal, from the lowest (x, y[, z]) to the highest: 2 triangles,
    split at equal parts of x and y, or Kuhn's 6 tetrahedra. theta (K, dim), row-major, is the
    displacement of each node of a lattice that spans [-1, 1].

    Args:
        lattice: nodes along (H, W) or (D, H, W), at least 2 each.

    Note:
        Outside [-1, 1] a point moves as the nearest point of the border does, so the map is
        continuous everywhere. Derivatives jump between triangles; at a cell's border they are
        right-hand ones. `inverse_points` looks into every triangle: it is exact, finds an answer
        wherever there is one, and costs a product of points and nodes. `fit` is least squares.

    Example:
        >>> mesh = stn.PiecewiseAffine((4, 4))
        >>> mesh.map_points(torch.zeros(1, 32), torch.tensor([[0.3, -0.7]]))
        tensor([[[ 0.3000, -0.7000]]])

    Reference:
        Kuhn, Some combinatorial lemmas in topology, 1960 (the cut); Goshtasby, Piecewise linear
        mapping functions for image registration, 1986.
    """

    def __init__(self, lattice: Sequence[int]):
        super().__init__(lattice)

    def taps_at(self, place: Tensor) -> splines.Taps:
        return splines.simplex_taps(place, self.lattice)

    def slopes_at(self, place: Tensor) -> Tensor:
        return splines.simplex_slopes(place, self.lattice)

    def inverse_at(self, theta: Tensor, points: Tensor) -> Tensor:
        values = points.expand(theta.shape[0], -1, -1)
        with torch.no_grad():
            start = self._search(theta.detach().double(), values.detach().double()).to(values)
        return newton_inverse(
            lambda p: p + self.displacement_at(theta, p),
            lambda p: self.jacobian_at(theta, p),
            values,
            start,
        )

    def _search(self, theta: Tensor, values: Tensor) -> Tensor:
        """One more ring of nodes, moved as the border is; its cells stand for all outside."""
        ring = [n + 2 for n in self.lattice]
        nodes = theta.unflatten(-1, (*self.lattice, self.dim)).movedim(-1, 1)
        moved = F.pad(nodes, [1, 1] * self.dim, mode="replicate").flatten(2).mT
        index = torch.cartesian_prod(*[torch.arange(float(n)) - 1 for n in ring]).flip(-1)
        place = coords.to_normalized(index.to(theta), self.lattice, align_corners=True)
        found = splines.invert_simplices(place + moved, ring, values, endless=True)
        return coords.to_normalized(found - 1, self.lattice, align_corners=True)
