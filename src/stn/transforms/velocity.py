"""Flows of stationary velocity fields on a lattice (Arsigny et al. 2006)."""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .. import coords
from .._checks import check_size
from .flow import Flow, planes


class Velocity(Flow):
    """Where a point drifts in a stationary velocity field: a one-to-one map with its inverse.

    source = x(1) of dx/dt = v(x), x(0) = target, integrated for every point by itself. theta
    (K, dim), row-major, are the velocities at the cell centres of a lattice over [-1, 1]; between
    them v is multilinear, outside it has the value at the edge. The inverse is the flow of -v.

    Args:
        lattice: cells along (H, W) or (D, H, W); the image's size means one vector a pixel.
        steps: of the integration, each three times the classical Runge-Kutta formula, parted where
            the path goes from cell to cell. Doubling it makes the error 16 times smaller, 4 times
            where a step goes through more than three cells. Time and memory are in proportion.

    Note:
        Derivatives of every order are those of the integration formula itself. The slope of v
        jumps from cell to cell, so second derivatives of the map do.

    Example:
        >>> drift = stn.Velocity((5, 5))
        >>> theta = 0.04 * torch.randn(1, drift.num_params)
        >>> points = torch.rand(9, 2) * 2 - 1
        >>> back = drift.inverse_points(theta, drift.map_points(theta, points))
        >>> torch.testing.assert_close(back[0], points, rtol=0, atol=1e-5)

    Reference:
        Arsigny et al., A Log-Euclidean Framework for Statistics on Diffeomorphisms, MICCAI 2006.
    """

    control_points: Tensor

    def __init__(self, lattice: Sequence[int], steps: int = 4):
        lattice = check_cells(lattice, "lattice")
        kinks = planes(lattice)
        kinks[:, -1] -= 0.5  # from cells' edges to their centres
        super().__init__(len(lattice), len(lattice) * math.prod(lattice), steps, kinks)
        self.lattice = lattice
        nodes = coords.target_points(lattice, dtype=torch.float64)
        self.register_buffer("control_points", nodes, persistent=False)

    def field(self, theta: Tensor) -> Callable[[Tensor], Tensor]:
        nodes = theta.unflatten(-1, (-1, self.dim)).mT
        return lambda points: interpolate(nodes, self.lattice, points)

    def extra_repr(self) -> str:
        return f"lattice={self.lattice}, steps={self.steps}"


def interpolate(values: Tensor, lattice: tuple[int, ...], points: Tensor) -> Tensor:
    """Values (B, C, K) at the cell centres of a lattice, multilinear: (B, N, C) at (B, N, dim)."""
    index, strides, fractions = torch.zeros_like(points[..., 0], dtype=torch.long), [], []
    px = coords.to_pixels(points, lattice, align_corners=False)
    stride = 1
    for n, along in zip(reversed(lattice), px.unbind(-1), strict=True):
        if n > 1:
            along = torch.where(along < n - 1, along.clamp(min=0), n - 1)
            low = along.floor().long().clamp(max=n - 2)
            fractions.append((along - low).to(values.dtype).unsqueeze(1))
            index, strides = index + stride * low, [*strides, stride]
        stride = stride * n

    def corner(which: tuple[int, ...]) -> Tensor:
        offset = sum(bit * stride for bit, stride in zip(reversed(which), strides, strict=True))
        return values.gather(2, (index + offset).unsqueeze(1).expand(-1, values.shape[1], -1))

    corners = [corner(which) for which in itertools.product((0, 1), repeat=len(strides))]
    for fraction in fractions:
        pairs = zip(corners[::2], corners[1::2], strict=True)
        corners = [low + fraction * (high - low) for low, high in pairs]
    return corners[0].mT


def check_cells(cells: Sequence[int], name: str) -> tuple[int, ...]:
    cells = (cells,) if isinstance(cells, int) else tuple(cells)
    if len(cells) not in (2, 3):
        raise ValueError(f"{name} must be (H, W) or (D, H, W), got {cells}")
    return check_size(cells, len(cells), name)
