"""The antialiased warp as one fixed graph of arithmetic and gathers, for exported programs.

The same weights as `stn.sampling.antialias`, which groups targets by the size of their footprints
and so cannot be traced. Here all targets read windows as large as the largest footprint in the
batch, whose size the program computes, and whose taps beyond a smaller footprint weigh nothing.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import antialias, kernels, padding

SWEEPS = 6  # of Jacobi rotations in 3-D: they converge quadratically


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
    """As `antialias.sample`."""
    size = input.shape[2:]
    dim = len(size)
    most = math.ceil(kernels.support(mode) * dim * max(size))
    extent = _in_steps(kernels.support(mode) * reach.detach(), most)
    dtype = torch.promote_types(torch.promote_types(input.dtype, torch.float32), px.dtype)
    level = fill.to(dtype)[:, None] if padding_mode == "fill" else 0
    flat = input.to(dtype).flatten(2) - level
    index: Tensor | int = 0
    inside: Tensor | None = None
    u: list[Tensor | int] = [0] * dim
    for axis, n in enumerate(size):
        own = dim - 1 - axis
        window = _window(extent[..., own], 2 * most)
        steps = torch.arange(1 - window, window + 1, device=px.device)
        x, margin = px[..., own, None].to(dtype), extent[..., own, None]
        if padding_mode in ("zeros", "fill", "border"):  # as far as each target sees, not all
            x = torch.minimum(torch.maximum(x, -margin - 1), n + margin)
        else:
            x = padding.fold(x, n, padding_mode, align_corners, 2 * most, turn=False)
        base = x.floor()
        place, within = padding.tap(base.detach().long() + steps, n, padding_mode, align_corners)
        after = (slice(None), slice(None), *[None] * axis, slice(None), *[None] * own)
        index = index + place[after] * math.prod(size[axis + 1 :])
        away = (x - base - steps)[after]
        slopes = inverse[..., own].to(dtype)[(..., *[None] * dim)]
        u = [sum_ + slopes[:, :, i] * away for i, sum_ in enumerate(u)]
        if within is not None:
            inside = within[after] if inside is None else inside & within[after]
    assert isinstance(index, Tensor)
    weight = torch.ones_like(px[..., :1]).to(dtype)[(..., *[None] * (dim - 1))]
    for offset in u:
        assert isinstance(offset, Tensor)
        weight = weight * kernels.weight(mode, offset)
    weight = weight.flatten(2)
    weight = weight / weight.sum(-1, keepdim=True)
    if inside is not None:
        weight = torch.where(inside.flatten(2), weight, 0)
    taps = index.flatten(1).unsqueeze(1).expand(-1, flat.shape[1], -1)
    values = flat.gather(2, taps).unflatten(2, (px.shape[1], -1))
    return ((values * weight.unsqueeze(1)).sum(-1) + level).to(input.dtype)


def footprints(jacobian: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """As `antialias.footprints`.

    The eigenvectors come from Jacobi rotations, one in 2-D, because ONNX has no eigenproblems.
    """
    dim, bound = jacobian.shape[-1], float(max(size))
    finite = jacobian.isfinite().flatten(-2).all(-1)[..., None, None]
    most = antialias.MAX_SLOPE
    j = torch.where(finite, jacobian.double(), 0).clamp(-most, most)
    product = (j.unsqueeze(-2) * j.unsqueeze(-3)).sum(-1)
    a = [[product[..., i, k] for k in range(dim)] for i in range(dim)]
    one, zero = torch.ones_like(a[0][0]), torch.zeros_like(a[0][0])
    u = [[one if i == k else zero for k in range(dim)] for i in range(dim)]
    for _ in range(1 if dim == 2 else SWEEPS):
        for p in range(dim):
            for q in range(p + 1, dim):
                _rotate(a, u, p, q)
    root = [a[k][k].clamp(min=1).sqrt().clamp(max=bound) for k in range(dim)]

    def rebuilt(values: Sequence[Tensor]) -> Tensor:
        rows = [
            torch.stack(
                [
                    sum((values[k] * u[i][k] * u[m][k] for k in range(dim)), zero)
                    for m in range(dim)
                ],
                -1,
            )
            for i in range(dim)
        ]
        return torch.stack(rows, -2)

    return rebuilt([1 / r for r in root]), rebuilt(root).abs().sum(-1)


def _rotate(a: list[list[Tensor]], u: list[list[Tensor]], p: int, q: int) -> None:
    """Turn axes p and q so that a[p][q] becomes 0; the columns of `u` turn along."""
    twice, gap = 2 * a[p][q], a[q][q] - a[p][p]
    length = gap.abs() + (gap.square() + twice.square()).sqrt()
    tangent = torch.where(gap < 0, -twice, twice) / torch.where(length > 0, length, 1)
    cosine = 1 / (1 + tangent.square()).sqrt()
    sine = tangent * cosine
    dim = len(a)
    for k in range(dim):
        a[k][p], a[k][q] = cosine * a[k][p] - sine * a[k][q], sine * a[k][p] + cosine * a[k][q]
        u[k][p], u[k][q] = cosine * u[k][p] - sine * u[k][q], sine * u[k][p] + cosine * u[k][q]
    for k in range(dim):
        a[p][k], a[q][k] = cosine * a[p][k] - sine * a[q][k], sine * a[p][k] + cosine * a[q][k]


def _in_steps(extent: Tensor, most: int) -> Tensor:
    """As the eager sampler rounds them up, whole px: points far outside depend on it."""
    extent, step, wide = (extent - antialias.SLACK).ceil().clamp(min=1), 1, 8
    while wide <= most:
        step, wide = torch.where(extent >= wide, wide // 4, step), 2 * wide
    return (extent / step).ceil() * step


def _window(extent: Tensor, most: int) -> int:
    """The largest extent, px: while tracing a symbol, for a number that the program computes."""
    window: Any = extent.amax((0, 1)).long().item()
    torch._check(window >= 1)
    torch._check(window <= most)
    return window
