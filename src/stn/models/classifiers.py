"""The paper's base classifiers, and a modern one, sized by a parameter budget."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def fcn(shape: tuple[int, int, int], classes: int, width: int, batch_norm: bool) -> nn.Sequential:
    """fc - fc - fc: two hidden layers of `width` units with ReLU."""
    channels, height, wide = shape
    norm = [nn.BatchNorm1d(width)] if batch_norm else []
    again = [nn.BatchNorm1d(width)] if batch_norm else []
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(channels * height * wide, width),
        *norm,
        nn.ReLU(),
        nn.Linear(width, width),
        *again,
        nn.ReLU(),
        nn.Linear(width, classes),
    )


def cnn(shape: tuple[int, int, int], classes: int, width: int, batch_norm: bool) -> nn.Sequential:
    """conv 9x9 - maxpool 2 - conv 7x7 - maxpool 2 - fc, `width` filters each, no padding.

    Pooling rounds up: with a 21 x 21 input (RTS after its 2x average pool) nothing else exists.
    """
    channels, *size = shape
    if min(size) < 21:
        raise ValueError(f"cnn needs images of at least 21 x 21, got {tuple(size)}")
    height, wide = (-(-(-(-(n - 8) // 2) - 6) // 2) for n in size)
    norm = [nn.BatchNorm2d(width)] if batch_norm else []
    again = [nn.BatchNorm2d(width)] if batch_norm else []
    return nn.Sequential(
        nn.Conv2d(channels, width, 9),
        *norm,
        nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Conv2d(width, width, 7),
        *again,
        nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Flatten(),
        nn.Linear(width * height * wide, classes),
    )


# Convolutions: (filters over width, side of the kernel, whether pooling follows).
VGG = ((1, 3, False), (1, 3, True), (2, 3, False), (2, 3, True), (4, 3, True))
CONV5 = ((1, 5, True), (2, 3, False), (2, 3, True), (4, 3, False), (4, 3, True))


def vgg(shape: tuple[int, int, int], classes: int, width: int, batch_norm: bool) -> nn.Sequential:
    """(conv 3x3 twice - maxpool 2) twice - conv 3x3 - maxpool 2 - fc; 1, 2 and 4 x width filters.

    No mean over places before the fc: it would make the classifier blind to where a digit stands,
    and leave a transformer nothing to gain.
    """
    return _convolutions(VGG, shape, classes, width, batch_norm, pool_first=False)


def conv5(shape: tuple[int, int, int], classes: int, width: int, batch_norm: bool) -> nn.Sequential:
    """conv 5x5 - maxpool 2 - (conv 3x3 twice - maxpool 2) twice - fc; 1, 2 and 4 x width filters.

    It takes no longer than `vgg` and has twice the weights, as they work at fewer places.
    """
    return _convolutions(CONV5, shape, classes, width, batch_norm, pool_first=True)


def _convolutions(
    plan: tuple[tuple[int, int, bool], ...],
    shape: tuple[int, int, int],
    classes: int,
    width: int,
    batch_norm: bool,
    pool_first: bool,
) -> nn.Sequential:
    """Convolutions of a plan and a last layer. `pool_first`: batch norm at a quarter of the places;
    ReLU behind the pooling says the same as before it, at a quarter of them too."""
    layers: list[nn.Module] = []
    channels, height, wide = shape
    for times, side, pooled in plan:
        filters = times * width
        norm: list[nn.Module] = [nn.BatchNorm2d(filters)] * batch_norm
        pool: list[nn.Module] = [nn.MaxPool2d(2)] * pooled
        layers.append(nn.Conv2d(channels, filters, side, padding=side // 2, bias=not batch_norm))
        layers += [*pool, *norm] if pool_first else [*norm, *pool]
        layers.append(nn.ReLU())
        channels = filters
        height, wide = (n // 2 if pooled else n for n in (height, wide))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * height * wide, classes))


def count_parameters(model: nn.Module) -> int:
    """Number of trainable values."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def widest(build: Callable[[int], Model], budget: int, limit: int) -> Model:
    """The widest model of at most `budget` parameters and `limit` width."""

    def cost(width: int) -> int:
        with torch.device("meta"):
            return count_parameters(build(width))

    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cost(middle) <= budget else (low, middle - 1)
    if low == 0:
        raise ValueError(f"a budget of {budget} parameters is too small: width 1 takes {cost(1)}")
    return build(low)
