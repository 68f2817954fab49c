"""Interpolation on a regular lattice: which nodes a point reads (taps), and with what weights.

Places are lattice coordinates, 0 at the first node, float64. Flat indices are row-major over a
lattice (H, W) or (D, H, W); the last axis of a place is (x, y[, z]). Weights and slopes, their
derivatives along each axis, are plain arithmetic: differentiable any number of times and in
forward mode.
"""

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .linalg import inverse_or_nan

INSIDE = -1e-6  # how far out of a simplex a point may lie, in units of its cell, by rounding
CHUNK = 1 << 22
Taps = tuple[Tensor, Tensor]  # index and weight, (…, T) each


def _split(x: Tensor, n: int) -> Taps:
    """First node of the cell of x, along one axis, and the part of it that x has gone, 0 to 1.

    Outside it stays at the edge. At a node the cell is the one to the right, so derivatives are
    right-hand ones.
    """
    x = torch.where(x < n - 1, x.clamp(min=0), n - 1)
    first = x.detach().floor().clamp(max=max(n - 2, 0))
    return first.long(), x - first


def _inside(x: Tensor, n: int) -> Tensor:
    """1 where the right-hand derivative of `_split` is 1, else 0."""
    return ((x >= 0) & (x < n - 1)).to(x.dtype)


def linear_taps(x: Tensor, n: int) -> Taps:
    """Linear interpolation along an axis of n nodes; outside, the edge value."""
    first, part = _split(x, n)
    index = torch.stack([first, (first + 1).clamp(max=n - 1)], -1)
    return index, torch.stack([1 - part, part], -1)


def linear_slopes(x: Tensor, n: int) -> Tensor:
    inside = _inside(x, n)
    return torch.stack([-inside, inside], -1)


def cubic_taps(x: Tensor, n: int) -> Taps:
    """Uniform cubic B-spline along an axis of n >= 2 nodes, continued linearly at both ends.

    The nodes beyond an end lie on the line through the last two. The sum is then c_0 at the first
    node, with no second derivative, and goes on outside as the straight line it is there.
    """
    first, t, beyond = _split_cubic(x, n)
    u = 1 - t
    b = 2 / 3 - t**2 + t**3 / 2 - beyond
    c = 2 / 3 - u**2 + u**3 / 2 + beyond
    steps = torch.arange(-1, 3, device=x.device)
    index = (first.long().unsqueeze(-1) + steps).clamp(0, n - 1)
    return index, _fold([u**3 / 6, b, c, t**3 / 6], first, n)


def cubic_slopes(x: Tensor, n: int) -> Tensor:
    first, t, _ = _split_cubic(x, n)
    u = 1 - t
    slopes = [-(u**2) / 2, 1.5 * t**2 - 2 * t, 2 * u - 1.5 * u**2, t**2 / 2]
    return _fold(slopes, first, n)


def _split_cubic(x: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """First node of the cell of x, the part it has gone in it, and how far it lies outside."""
    edge = x.clamp(0, n - 1)
    first = edge.detach().nan_to_num(0.0).floor().clamp(max=n - 2)
    return first, edge - first, x - edge


def _fold(parts: list[Tensor], first: Tensor, n: int) -> Tensor:
    """Put c_-1 = 2 c_0 - c_1, and c_n likewise, onto nodes of the lattice."""
    a, b, c, d = parts
    low, high = torch.where(first == 0, a, 0), torch.where(first == n - 2, d, 0)
    return torch.stack([a - low, b + 2 * low - high, c + 2 * high - low, d - high], -1)


def product_taps(axes: Sequence[Taps], lattice: Sequence[int]) -> Taps:
    """Tensor product of taps along the axes of `lattice`, given in the order (H, W)."""
    index, weight = axes[0]
    for (own_index, own_weight), n in zip(axes[1:], lattice[1:], strict=True):
        index = (index.unsqueeze(-1) * n + own_index.unsqueeze(-2)).flatten(-2)
        weight = (weight.unsqueeze(-1) * own_weight.unsqueeze(-2)).flatten(-2)
    return index, weight


def product_slopes(weights: Sequence[Tensor], slopes: Sequence[Tensor]) -> Tensor:
    """Slopes (…, T, dim) of `product_taps` from the weights and slopes of axes (H, W)."""
    columns = []
    for axis in reversed(range(len(weights))):
        column = None
        for other, weight in enumerate(weights):
            factor = slopes[axis] if other == axis else weight
            if column is None:
                column = factor
            else:
                column = (column.unsqueeze(-1) * factor.unsqueeze(-2)).flatten(-2)
        assert column is not None
        columns.append(column)
    return torch.stack(columns, -1)


def simplex_taps(place: Tensor, lattice: Sequence[int]) -> Taps:
    """Barycentric interpolation: each cell is cut along its main diagonal; outside, the edge value.

    Kuhn's cut: a simplex walks from the cell's first node to its last, one axis at a time, along
    the axis of the largest part first. Ties go to x, then y.
    """
    first, part, order = _walk(place, lattice)
    strides = _strides(lattice, place)
    first = (first * strides).sum(-1, keepdim=True)
    index = torch.cat([first, first + strides[order].cumsum(-1)], -1)
    return index, torch.cat([1 - part[..., :1], -part.diff(dim=-1), part[..., -1:]], -1)


def simplex_slopes(place: Tensor, lattice: Sequence[int]) -> Tensor:
    """Slopes (…, dim + 1, dim) of `simplex_taps`."""
    _, _, order = _walk(place, lattice)
    step = F.one_hot(order, place.shape[-1]).to(place.dtype)
    axes = zip(place.unbind(-1), reversed(lattice), strict=True)
    inside = torch.stack([_inside(x, n) for x, n in axes], -1).unsqueeze(-2)
    return inside * (F.pad(step, (0, 0, 1, 0)) - F.pad(step, (0, 0, 0, 1)))


def _walk(place: Tensor, lattice: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """First node of the cell (…, dim), the parts gone in it, largest first, and their axes."""
    split = [_split(x, n) for x, n in zip(place.unbind(-1), reversed(lattice), strict=True)]
    part = torch.stack([p for _, p in split], -1)
    # By counting, as ONNX has no stable sort.
    mine, other = part.unsqueeze(-1), part.unsqueeze(-2)
    axes = torch.arange(part.shape[-1], device=part.device)
    rank = ((other > mine) | ((other == mine) & (axes < axes.unsqueeze(-1)))).sum(-1)
    order = torch.zeros_like(rank).scatter(-1, rank, axes.expand_as(rank))
    return torch.stack([f for f, _ in split], -1), part.gather(-1, order), order


def read(values: Tensor, index: Tensor) -> Tensor:
    """values (B, K, C) at flat indices (B or 1, N, T): (B, N, T, C)."""
    if index.shape[0] == 1:
        found = values.index_select(1, index.flatten())
    else:
        found = values.gather(1, index.flatten(1).unsqueeze(-1).expand(-1, -1, values.shape[-1]))
    return found.unflatten(1, tuple(index.shape[1:]))


def combine(values: Tensor, taps: Taps) -> Tensor:
    """sum_t weight_t values[index_t]: values (B, K, C), taps (B or 1, N, T) -> (B, N, C)."""
    index, weight = taps
    return (read(values, index) * weight.to(values.dtype).unsqueeze(-1)).sum(-2)


def dense(taps: Taps, count: int) -> Tensor:
    """Weights of all `count` nodes, (…, N, count)."""
    index, weight = taps
    return weight.new_zeros(*weight.shape[:-1], count).scatter_add(-1, index, weight)


def invert_simplices(
    images: Tensor, lattice: Sequence[int], values: Tensor, endless: bool = False
) -> Tensor:
    """Places (B, N, dim) that the map of `simplex_taps` takes to `values`; NaN where none is.

    Looks into every simplex, so it finds an answer wherever there is one; of several, the one
    deepest in its simplex. Not differentiable.

    Args:
        images: (B, K, dim) images of the lattice's nodes.
        values: (B, N, dim).
        endless: the outermost cells reach to infinity, by their affine maps.
    """
    dim, size = len(lattice), torch.tensor(list(reversed(lattice)))
    images, values = images.double(), values.double()
    strides = _strides(lattice, images)
    corners = torch.cartesian_prod(*[torch.arange(int(n) - 1) for n in size]).to(images.device)
    size = size.to(images.device)
    best = values.new_full((*values.shape[:2], 1), INSIDE)
    answer = torch.full_like(values, torch.nan)
    for cells in corners.split(max(1, CHUNK // max(1, values.numel()))):
        start = (cells * strides).sum(-1)
        for order in itertools.permutations(range(dim)):
            steps = strides[list(order)].cumsum(0)
            path = [images[:, start], *[images[:, start + step] for step in steps]]
            columns = [b - a for a, b in itertools.pairwise(path)]
            slopes = torch.stack([columns[order.index(i)] for i in range(dim)], -1)
            inverse = inverse_or_nan(slopes)
            offset = (inverse @ path[0].unsqueeze(-1)).flatten(1)
            part = (inverse.flatten(1, 2) @ values.mT - offset.unsqueeze(-1)).unflatten(
                1, (-1, dim)
            )
            seen = part
            if endless:
                seen = torch.where((cells == 0).unsqueeze(-1), part.clamp(min=0), seen)
                seen = torch.where((cells == size - 2).unsqueeze(-1), seen.clamp(max=1), seen)
            along = seen[:, :, list(order)]
            depth = torch.cat([1 - along[:, :, :1], -along.diff(dim=2), along[:, :, -1:]], 2)
            depth, which = depth.amin(2).nan_to_num(-torch.inf).max(1)
            where = which[:, None, None].expand(-1, 1, dim, -1)
            found = part.gather(1, where).squeeze(1).mT + cells[which]
            better = depth.unsqueeze(-1) > best
            best = torch.where(better, depth.unsqueeze(-1), best)
            answer = torch.where(better, found, answer)
    return answer


def _strides(lattice: Sequence[int], like: Tensor) -> Tensor:
    """Steps of the flat index along x, y[, z]."""
    steps = [math.prod(lattice[axis + 1 :]) for axis in range(len(lattice))]
    return torch.tensor(steps[::-1], device=like.device)
