"""Antialiased sampling: the kernel is widened to the footprint of the target pixel.

With J = d source_px / d target_px at a target pixel, J J^T = U S^2 U^T, the footprint is
F = U max(S, 1) U^T, and the weight of source pixel m is prod_axis k((F^-1 (p - m))_axis), divided
by the sum of weights. Where the map magnifies F is the identity and nothing changes; where it
shrinks, along any direction, the kernel is as much wider along that direction.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .._checks import is_traced
from ..linalg import bounded_root
from . import kernels, padding

MAX_SLOPE = 1e6  # px; keeps J J^T finite
SLACK = 1e-6  # px of a kernel's outermost reach that are not worth a tap
BUDGET = 2**21  # values per chunk


def check(mode: kernels.Mode) -> None:
    """Refuse what has no antialiased form."""
    if mode == "nearest":
        raise ValueError(
            'antialias=True averages pixels, mode="nearest" never does: use "bilinear", or '
            "stn.warp_labels for label maps"
        )


def check_eager() -> None:
    """Refuse tracing, but for torch.export, which has `antialias_traced`."""
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        raise NotImplementedError(
            "antialias=True without a native kernel needs eager mode or torch.export, as the "
            "footprints' sizes are read from their values; compile the rest of the model or pass "
            "antialias=False"
        )


def differences(px: Tensor, dim: int) -> Tensor:
    """d px_i / d target_j (…, *T, dim, dim) of places (…, *T, dim), from their neighbours.

    Central inside, one-sided at the ends, 0 along axes of one pixel.
    """
    columns = []
    for axis in reversed(range(dim)):  # the last axis is (x, y[, z]), sizes are its reverse
        along = axis - dim - 1
        if px.shape[along] > 1:
            (slope,) = torch.gradient(px, dim=along)
        else:
            slope = torch.zeros_like(px)
        columns.append(slope)
    return torch.stack(columns, -1)


def footprint(jacobian: Tensor, size: Sequence[int]) -> Tensor:
    """F (…, dim, dim) of J, bounded by the image's size; the identity where J is not finite."""
    finite = jacobian.isfinite().flatten(-2).all(-1)[..., None, None]
    j = torch.where(finite, jacobian.double(), 0).clamp(-MAX_SLOPE, MAX_SLOPE)
    # J J^T, element by element as everywhere.
    return bounded_root((j.unsqueeze(-2) * j.unsqueeze(-3)).sum(-1), float(max(size)))


def footprints(jacobian: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """F^-1 (…, dim, dim), and the half widths (…, dim) of F along the axes (x, y[, z])."""
    shape = footprint(jacobian, size)
    return torch.linalg.inv(shape), shape.detach().abs().sum(-1)


def sample(
    input: Tensor,
    px: Tensor,
    inverse: Tensor,
    reach: Tensor,
    mode: kernels.Mode,
    padding_mode: str,
    align_corners: bool,
    fill: Tensor,
) -> Tensor:
    """As `reference.sample`, with the `inverse` (B, N, dim, dim) of the footprints.

    `reach` (B, N, dim), half widths along the axes (x, y[, z]), px, of footprints of a kernel that
    reaches one pixel.
    """
    batch, _, *size = input.shape
    count = px.shape[1]
    dtype = torch.promote_types(torch.promote_types(input.dtype, torch.float32), px.dtype)
    level = fill.to(dtype) if padding_mode == "fill" else 0
    # One row a pixel, all images in one list, so that targets of one extent go together.
    image = input.to(dtype).flatten(2).mT.flatten(0, 1) - level
    first_pixel = torch.arange(batch, device=px.device).repeat_interleave(count) * math.prod(size)
    px, inverse = px.to(dtype).flatten(0, 1), inverse.to(dtype).flatten(0, 1)
    extent = kernels.support(mode) * _values(reach.detach().flatten(0, 1))

    def run(image: Tensor, chosen: Tensor, extent: list[int]) -> Tensor:
        index, weight = _taps(
            px[chosen], inverse[chosen], extent, size, mode, padding_mode, align_corners
        )
        values = image[index + first_pixel[chosen].unsqueeze(-1)]
        return (weight.unsqueeze(-1) * values).sum(1)

    order, chunks = _chunks(extent, image.shape[-1])
    keep = len(chunks) > 1 and torch.is_grad_enabled() and not is_traced()
    pieces, start = [], 0
    for number, extents in chunks:
        args = image, order[start : start + number], extents
        # Recomputed in the backward pass: memory is that of one chunk.
        pieces.append(checkpoint(run, *args, use_reentrant=False) if keep else run(*args))
        start += number
    out = torch.cat(pieces)[order.argsort()] + level
    return out.unflatten(0, (batch, count)).mT.to(input.dtype)


def _taps(
    px: Tensor,
    inverse: Tensor,
    extent: Sequence[int],
    size: Sequence[int],
    mode: kernels.Mode,
    padding_mode: str,
    align_corners: bool,
) -> tuple[Tensor, Tensor]:
    """Pixels (N, V) that each place (N, dim) reads, and their weights; extent (x, y[, z])."""
    dim = len(size)
    index, inside, u = 0, None, [torch.zeros((), dtype=px.dtype, device=px.device)] * dim
    for axis, n in enumerate(size):
        own = dim - 1 - axis
        reach = extent[own]
        x = padding.fold(px[:, own, None], n, padding_mode, align_corners, reach, turn=False)
        base = x.floor()
        steps = torch.arange(1 - reach, reach + 1, device=px.device)
        place, within = padding.tap(base.detach().long() + steps, n, padding_mode, align_corners)
        view = [-1, *[1] * axis, len(steps), *[1] * own]
        index = index + place.view(view) * math.prod(size[axis + 1 :])
        d = (x - base - steps).view(view)
        u = [sum_ + inverse[:, i, own].view(-1, *[1] * dim) * d for i, sum_ in enumerate(u)]
        if within is not None:
            within = within.view(view)
            inside = within if inside is None else inside & within
    weight = kernels.weight(mode, u[0])
    for other in u[1:]:
        weight = weight * kernels.weight(mode, other)
    weight = weight.flatten(1)
    weight = weight / weight.sum(-1, keepdim=True)
    if inside is not None:
        weight = torch.where(inside.flatten(1), weight, 0)
    assert isinstance(index, Tensor)
    return index.flatten(1), weight


def _chunks(extent: Tensor, channels: int) -> tuple[Tensor, list[tuple[int, list[int]]]]:
    """An order of the targets (N, dim), and (count, extents) of runs in it that fit the budget."""
    extent = (extent - SLACK).ceil().clamp(min=1)
    # In steps of an eighth to a quarter, so that there are few groups.
    step = 2 ** (extent.log2().floor() - 2).clamp(min=0)
    extent = ((extent / step).ceil() * step).long()
    groups, group, counts = extent.unique(dim=0, return_inverse=True, return_counts=True)
    chunks = []
    for extents, count in zip(groups.tolist(), counts.tolist(), strict=True):
        room = max(1, BUDGET // (math.prod(2 * e for e in extents) * max(1, channels)))
        chunks += [(min(room, count - start), extents) for start in range(0, count, room)]
    return group.argsort(stable=True), chunks


def _values(tensor: Tensor) -> Tensor:
    """The numbers in a tensor, out of all torch.func transforms; under vmap the largest of each."""
    functorch = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    while functorch.is_functorch_wrapped_tensor(tensor):
        axis = functorch.maybe_get_bdim(tensor)
        tensor = functorch.get_unwrapped(tensor)
        tensor = tensor if axis < 0 else tensor.amax(axis)
    return tensor
