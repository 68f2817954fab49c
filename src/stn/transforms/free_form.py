"""Free-form deformation: a cubic B-spline on a lattice of control points."""

from collections.abc import Sequence

from torch import Tensor

from .. import splines
from .lattice import ProductTransform


class FreeForm(ProductTransform):
    """Smooth, with local support: source = target + sum_k theta_k prod_axis beta3(u_axis - k_axis).

    u counts the lattice's spacings, beta3 is the uniform cubic B-spline: a point moves with the
    4 x 4 (x 4) control points around it. theta (K, dim), row-major, is the displacement of each
    control point of a lattice that spans [-1, 1]; the map smooths them and does not pass through.

    Args:
        lattice: control points along (H, W) or (D, H, W), at least 2 each.

    Note:
        At the ends the lattice goes on along the line of its last two control points:
        theta_-1 = 2 theta_0 - theta_1. So equal theta is exactly a translation, theta linear in the
        control points exactly an affine map, and corners move by their own theta. Outside [-1, 1]
        the displacement goes on linearly along each axis. The map has two continuous derivatives
        everywhere. `inverse_points` is Newton's, differentiated implicitly; `fit` is least squares.

    Example:
        >>> free = stn.FreeForm((5, 5))
        >>> theta = torch.tensor([0.1, -0.2]).repeat(25)[None]  # all by the same
        >>> free.map_points(theta, torch.zeros(1, 2))
        tensor([[[ 0.1000, -0.2000]]])

    Reference:
        Rueckert et al., Nonrigid registration using free-form deformations, IEEE TMI 1999, eq. 3.
    """

    def __init__(self, lattice: Sequence[int]):
        super().__init__(lattice)

    def axis_taps(self, x: Tensor, n: int) -> splines.Taps:
        return splines.cubic_taps(x, n)

    def axis_slopes(self, x: Tensor, n: int) -> Tensor:
        return splines.cubic_slopes(x, n)
