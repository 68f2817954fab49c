"""Interpolation kernels, as weights of the taps around a coordinate.

A kernel is given by the offset of its first tap from floor(x) and the weights of its taps as a
function of t = x - floor(x); derivatives at a pixel centre are then the right-hand ones, as torch.
"""

from collections.abc import Callable

from torch import Tensor

MODES = ("nearest", "bilinear", "bicubic")
CUBIC_A = -0.75


def bilinear(t: Tensor) -> list[Tensor]:
    """max(0, 1 - |d|), eq. 5."""
    return [1 - t, t]


def bicubic(t: Tensor) -> list[Tensor]:
    """Keys (1981), a = -0.75 as torch."""
    a = CUBIC_A

    def near(d: Tensor) -> Tensor:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: Tensor) -> Tensor:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    return [far(t + 1), near(t), near(1 - t), far(2 - t)]


TAPS: dict[str, tuple[int, Callable[[Tensor], list[Tensor]]]] = {
    "bilinear": (0, bilinear),
    "bicubic": (-1, bicubic),
}
