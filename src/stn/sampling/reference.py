"""The sampler in plain differentiable PyTorch, n-D, slow and obvious: the witness for all others.

V(p) = sum over taps m of U(m) prod_axis k(p_axis - m_axis), Jaderberg et al. (2015), eq. 3.
"""

import itertools
import math

import torch
from torch import Tensor

from . import kernels, padding


def sample(
    input: Tensor,
    px: Tensor,
    mode: kernels.Mode,
    padding_mode: str,
    align_corners: bool,
    fill: Tensor,
) -> Tensor:
    """Sample `input` (B, C, *size) at finite pixel coordinates `px` (B, N, dim) -> (B, C, N).

    `fill` (C or 1,) is what taps outside read under "fill"; under "zeros" they read 0.
    """
    size = input.shape[2:]
    dtype = torch.promote_types(torch.promote_types(input.dtype, torch.float32), px.dtype)
    # Under "fill" the image is sampled as its rise over it, so that far outside is exactly `fill`.
    level = fill.to(dtype)[:, None] if padding_mode == "fill" else 0
    image = input.to(dtype).flatten(2) - level
    axes = [
        _taps(px[..., -1 - axis].to(dtype), n, mode, padding_mode, align_corners)
        for axis, n in enumerate(size)
    ]
    strides = [math.prod(size[axis + 1 :]) for axis in range(len(size))]
    out = image.new_zeros(*input.shape[:2], px.shape[1])
    for corner in itertools.product(*axes):
        index = corner[-1][0]
        for (i, _, _), stride in zip(corner[:-1], strides, strict=False):
            index = index + i * stride
        value = image.gather(2, index.unsqueeze(1).expand(-1, image.shape[1], -1))
        weight = corner[0][2]
        for _, _, along in corner[1:]:
            weight = weight * along
        for _, inside, _ in corner:
            if inside is not None:
                value = torch.where(inside.unsqueeze(1), value, 0)
        out = out + weight.unsqueeze(1) * value
    return (out + level).to(input.dtype)


def _taps(
    x: Tensor, n: int, mode: kernels.Mode, padding_mode: str, align_corners: bool
) -> list[tuple[Tensor, Tensor | None, Tensor]]:
    """(index, inside or None, weight) of each tap along one axis of n pixels."""
    if mode == "nearest":
        x = padding.fold(x, n, padding_mode, align_corners, margin=1)
        first, base, weights = 0, x.round(), [0 * x + 1]  # a zero gradient, not none
    else:
        first = kernels.first_tap(mode)
        turn = not isinstance(mode, kernels.Kernel)
        x = padding.fold(x, n, padding_mode, align_corners, margin=1 - first, turn=turn)
        base = x.floor()
        weights = kernels.taps(mode, x - base)
    index = base.detach().long() + first
    return [
        (*padding.tap(index + k, n, padding_mode, align_corners), weight)
        for k, weight in enumerate(weights)
    ]
