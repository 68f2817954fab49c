"""A displacement field: one vector for each cell of a lattice."""

from collections.abc import Sequence

from torch import Tensor

from .. import splines
from .lattice import ProductTransform


class Displacement(ProductTransform):
    """source = target + theta interpolated (bi- or trilinear) at the target.

    theta (K, dim), row-major, holds the displacement, normalised, at the centres of the cells of
    a lattice over [-1, 1]. A lattice as large as the output is one vector for each pixel, the dense
    flow of `stn.warp_flow` in normalised units.

    Args:
        lattice: cells along (H, W) or (D, H, W).

    Note:
        Beyond the outermost centres the edge value holds. Derivatives jump at the centres; there
        they are right-hand ones. On an output of the lattice's size nothing is interpolated
        (`align_corners=False`). `inverse_points` is Newton's, differentiated implicitly; `fit` is
        least squares, of least norm where points leave nodes free, and needs memory for N K
        numbers.

    Example:
        >>> field = stn.Displacement((28, 28))
        >>> image = torch.rand(1, 1, 28, 28)
        >>> theta = 0.05 * torch.randn(1, field.num_params)
        >>> flow = theta.view(1, 28, 28, 2)
        >>> expected = stn.warp_flow(image, flow, unit="normalized")
        >>> torch.testing.assert_close(stn.warp(image, field, theta), expected)

    Reference:
        Balakrishnan et al., VoxelMorph, IEEE TMI 2019, section III.
    """

    nodes_at_ends = False

    def __init__(self, lattice: Sequence[int]):
        super().__init__(lattice, least=1)

    def axis_taps(self, x: Tensor, n: int) -> splines.Taps:
        return splines.linear_taps(x, n)

    def axis_slopes(self, x: Tensor, n: int) -> Tensor:
        return splines.linear_slopes(x, n)

    def grid_displacement(self, theta: Tensor, size: tuple[int, ...], align: bool) -> Tensor:
        if size == self.lattice and not align:
            return self.nodes_of(theta)
        return super().grid_displacement(theta, size, align)
