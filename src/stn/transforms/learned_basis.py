"""A basis of warps that is learned (Jaderberg et al. 2015, section 3.2: T = M_theta B)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .. import linalg
from .._checks import wide_dtype
from .base import Transform
from .velocity import check_cells, interpolate

START = 0.1


class LearnedBasis(Transform):
    """source = target + M_theta B(target), with B learned from all images and M picked for each.

    theta is M (dim, rank), row-major. B is a field of `rank` numbers: parameters at the cell
    centres of a lattice over [-1, 1], multilinear between them, the edge value outside. The paper
    names this class of warps and does not try it.

    Args:
        rank: fields in the basis; theta has dim * rank entries.
        lattice: cells along (H, W) or (D, H, W).

    Note:
        `basis`, (rank, *lattice), starts as noise of 0.1 from torch's global generator: where
        theta is zero B has no gradient, and were B zero too, theta would have none. Like theta it
        stays float32 in a half-precision model. It is a parameter of the layer that holds the
        transform; `stn.param_groups` puts it with the localization. `fit` gives theta for the
        basis as it is.

    Example:
        >>> transform = stn.LearnedBasis(rank=2, lattice=(4, 4))
        >>> transform.num_params, tuple(transform.basis.shape)
        (4, (2, 4, 4))
        >>> localization = stn.nn.DenseLocalization((1, 28, 28))
        >>> layer = stn.SpatialTransformer(localization, transform)
        >>> "transform.basis" in layer.state_dict()
        True

    Reference:
        Jaderberg et al., Spatial Transformer Networks, 2015, section 3.2.
    """

    def __init__(self, rank: int, lattice: Sequence[int]):
        lattice = check_cells(lattice, "lattice")
        if not rank >= 1 or int(rank) != rank:
            raise ValueError(f"rank must be a positive integer, got {rank!r}")
        super().__init__(len(lattice), len(lattice) * int(rank))
        self.rank, self.lattice = int(rank), lattice
        self.basis = nn.Parameter(START * torch.randn(self.rank, *lattice, dtype=wide_dtype()))

    def basis_at(self, points: Tensor) -> Tensor:
        """B (1 or B, N, rank) at points (1 or B, N, dim)."""
        values = self.basis.flatten(1).to(points.dtype).expand(points.shape[0], -1, -1)
        return interpolate(values, self.lattice, points)

    def displacement_at(self, theta: Tensor, points: Tensor) -> Tensor:
        matrix = theta.unflatten(-1, (self.dim, self.rank))
        return linalg.apply_linear(matrix, self.basis_at(points))

    def fit_to(self, target: Tensor, source: Tensor, weights: Tensor) -> Tensor:
        return linalg.least_squares(self.basis_at(target), source - target, weights).mT.flatten(-2)

    def extra_repr(self) -> str:
        return f"rank={self.rank}, lattice={self.lattice}"
