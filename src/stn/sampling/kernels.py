"""Interpolation kernels: the weight of a pixel as a function of its offset from a sample.

Offsets are sample minus pixel, px. Plain sampling takes the weights of its taps as a function of
t = x - floor(x), so that derivatives at a pixel centre are the right-hand ones, as torch.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .._checks import keep_wide, wide_dtype

MODES = ("nearest", "bilinear", "bicubic", "lanczos3", "gaussian")
CUBIC_A = -0.75
GAUSSIAN_SIGMA_PX = 0.5
GAUSSIAN_SUPPORT = 3  # six sigma, where it is 1.5e-8 of its peak; lowered by that, to end at 0


class Kernel(nn.Module):
    """A sampling kernel of your own, given as `mode` to any sampler, warp or layer.

    A sample at p reads sum_m k(p - m) input[m] / sum_m k(p - m), per axis: kernels are separable.
    Subclass it and write `forward`; its Parameters are learned with the rest. `stn.TableKernel` is
    one that is ready to be learned.

    Args:
        support: half width, px, at least 0.5; the kernel is taken as zero beyond it.

    Shape:
        forward(offset_px) -> weight, of the same shape. Offsets lie in [-support, support]. They
        come in the type of the kernel's parameters, which stay float32 or wider in a half model.

    Raises:
        ValueError: support below 0.5 or not finite.

    Note:
        Differentiable in image, coordinates, fill and the kernel's parameters, as far as `forward`
        is. A kernel whose weights sum to zero somewhere gives what a division by zero gives.

    Example:
        >>> class Gaussian(stn.Kernel):
        ...     def __init__(self):
        ...         super().__init__(support=3)
        ...         self.log_sigma = torch.nn.Parameter(torch.tensor(-0.7))
        ...
        ...     def forward(self, offset_px):
        ...         return torch.exp(-0.5 * (offset_px / self.log_sigma.exp()) ** 2)
        >>> kernel = Gaussian()
        >>> image = torch.rand(1, 1, 8, 8)
        >>> stn.warp(image, stn.Rigid(), torch.zeros(1, 3), mode=kernel).sum().backward()
        >>> kernel.log_sigma.grad is not None
        True

    Reference:
        Jaderberg et al., Spatial Transformer Networks, 2015, eq. 3: k(.; Phi).
    """

    def __init__(self, support: float):
        super().__init__()
        if not (0.5 <= support < math.inf):
            raise ValueError(f"support must be at least 0.5 px and finite, got {support!r}")
        self.support = support

    def forward(self, offset_px: Tensor) -> Tensor:
        """Weights of pixels at these offsets (sample minus pixel)."""
        raise NotImplementedError(f"{type(self).__name__} must implement forward(offset_px)")

    def _apply(self, fn, recurse=True):
        return super()._apply(lambda tensor: keep_wide(tensor, fn), recurse)

    def extra_repr(self) -> str:
        return f"support={self.support}"


class TableKernel(Kernel):
    """A kernel to be learned: a table of weights, joined by straight lines, zero at +-support.

    It starts as bilinear interpolation and need not stay symmetric. Only ratios of weights that one
    sample uses together matter, as weights are divided by their sum.

    Args:
        support: half width, whole px.
        nodes_per_px: entries of the table per pixel.

    Attributes:
        weights: (2 * support * nodes_per_px - 1,), those inside, from -support to +support.

    Raises:
        ValueError: support or nodes_per_px not a positive integer.

    Example:
        >>> kernel = stn.TableKernel(support=2)
        >>> kernel(torch.tensor([-2.0, -0.5, 0.0, 0.75])).tolist()
        [0.0, 0.5, 1.0, 0.25]
    """

    def __init__(self, support: int = 2, nodes_per_px: int = 4):
        for name, count in (("support", support), ("nodes_per_px", nodes_per_px)):
            if int(count) != count or count < 1:
                raise ValueError(f"{name} must be a positive integer, got {count!r}")
        super().__init__(support)
        self.nodes_per_px = nodes_per_px
        inside = support * nodes_per_px - 1
        nodes = torch.arange(-inside, inside + 1, dtype=wide_dtype()) / nodes_per_px
        self.weights = nn.Parameter((1 - nodes.abs()).clamp(min=0))

    def forward(self, offset_px: Tensor) -> Tensor:
        table = nn.functional.pad(self.weights, (1, 1))
        place = (offset_px + self.support) * self.nodes_per_px
        left = place.detach().floor().clamp(0, len(table) - 2)
        index = left.long()
        return torch.lerp(table[index], table[index + 1], place - left)


Mode = str | Kernel


def check_mode(mode: Mode) -> None:
    if not isinstance(mode, Kernel) and mode not in MODES:
        listed = ", ".join(repr(name) for name in MODES)
        raise ValueError(f"mode must be one of {listed} or a stn.Kernel, got {mode!r}")


def bilinear(t: Tensor) -> list[Tensor]:
    """max(0, 1 - |d|), eq. 5, as weights of taps."""
    return [1 - t, t]


def bicubic(t: Tensor) -> list[Tensor]:
    """Keys (1981), a = -0.75 as torch, as weights of taps."""
    return [_cubic_far(t + 1), _cubic_near(t), _cubic_near(1 - t), _cubic_far(2 - t)]


def _cubic_near(d: Tensor) -> Tensor:
    return ((CUBIC_A + 2) * d - (CUBIC_A + 3)) * d * d + 1


def _cubic_far(d: Tensor) -> Tensor:
    return ((CUBIC_A * d - 5 * CUBIC_A) * d + 8 * CUBIC_A) * d - 4 * CUBIC_A


def _distance(d: Tensor) -> Tensor:
    """|d| with the right-hand derivative at 0."""
    return torch.where(d >= 0, d, -d)


def _tent(d: Tensor) -> Tensor:
    return 1 - _distance(d)


def _cubic(d: Tensor) -> Tensor:
    far = (d < -1) | (d >= 1)
    d = _distance(d)
    return torch.where(far, _cubic_far(d), _cubic_near(d))


def _lanczos3(d: Tensor) -> Tensor:
    return _sinc(d) * _sinc(d / 3)


def _sinc(d: Tensor) -> Tensor:
    """sin(pi d) / (pi d), smooth at 0 to every derivative."""
    x = math.pi * d
    small = d.abs() < 0.05
    square = torch.where(small, x * x, 0)
    series = torch.ones_like(d)
    for k in range(6, 0, -1):
        series = 1 - square / (2 * k * (2 * k + 1)) * series
    x = torch.where(small, 1, x)
    return torch.where(small, series, x.sin() / x)


def _gaussian(d: Tensor) -> Tensor:
    end = math.exp(-0.5 * (GAUSSIAN_SUPPORT / GAUSSIAN_SIGMA_PX) ** 2)
    return torch.exp(-0.5 * (d / GAUSSIAN_SIGMA_PX).square()) - end


# (support, weight) of the modes that are kernels.
KERNELS: dict[str, tuple[float, Callable[[Tensor], Tensor]]] = {
    "bilinear": (1, _tent),
    "bicubic": (2, _cubic),
    "lanczos3": (3, _lanczos3),
    "gaussian": (GAUSSIAN_SUPPORT, _gaussian),
}
# Closed forms of the taps of modes whose weights sum to one by themselves.
CLOSED: dict[str, Callable[[Tensor], list[Tensor]]] = {"bilinear": bilinear, "bicubic": bicubic}


def support(mode: Mode) -> float:
    """Half width, px."""
    return mode.support if isinstance(mode, Kernel) else KERNELS[mode][0]


def weight(mode: Mode, offset: Tensor) -> Tensor:
    """k(offset), not divided by any sum; zero outside [-support, support)."""
    reach = support(mode)
    bounded = offset.clamp(-reach, reach)
    if isinstance(mode, Kernel):
        own = next((p.dtype for p in mode.parameters() if p.is_floating_point()), offset.dtype)
        value = mode(bounded.to(own)).to(offset.dtype)
        if value.shape != offset.shape:
            raise ValueError(
                f"{type(mode).__name__}.forward must return one weight for each of the "
                f"{tuple(offset.shape)} offsets, got {tuple(value.shape)}"
            )
    else:
        value = KERNELS[mode][1](bounded)
    return torch.where((offset >= -reach) & (offset < reach), value, 0)


def first_tap(mode: Mode) -> int:
    """Offset of the first tap from floor(x); the last one is 1 - first_tap."""
    return 1 - math.ceil(support(mode))


def taps(mode: Mode, t: Tensor) -> list[Tensor]:
    """Weights of the taps of a sample at t = x - floor(x); they sum to one."""
    if isinstance(mode, str) and mode in CLOSED:
        return CLOSED[mode](t)
    first = first_tap(mode)
    places = torch.arange(first, 2 - first, dtype=t.dtype, device=t.device)
    weights = weight(mode, t.unsqueeze(-1) - places)
    return list((weights / weights.sum(-1, keepdim=True)).unbind(-1))
