"""The paper's localization networks: image -> features from which theta is regressed."""

from torch import Tensor, nn

from .._checks import check_shape, check_size


class DenseLocalization(nn.Sequential):
    """Fully connected: (B, C, H, W) -> (B, width), `depth` layers of `width` units with ReLU.

    Args:
        shape: (C, H, W) of the input, or (C, D, H, W).
        width: units per layer; the paper uses 32.
        depth: number of layers; the paper uses 3.
        batch_norm: normalise before each ReLU.

    Reference:
        Jaderberg et al. (2015), appendix A: fc32-fc32-fc32.
    """

    def __init__(
        self, shape: tuple[int, ...], width: int = 32, depth: int = 3, batch_norm: bool = False
    ):
        if len(shape) < 2:
            raise ValueError(f"shape must be (C, H, W) or (C, D, H, W), got {tuple(shape)}")
        inputs = shape[0]
        for n in check_size(shape[1:], len(shape) - 1, "shape[1:]"):
            inputs *= n
        layers: list[nn.Module] = [nn.Flatten()]
        for _ in range(depth):
            layers.append(nn.Linear(inputs, width))
            layers += [nn.BatchNorm1d(width)] * batch_norm
            layers.append(nn.ReLU())
            inputs = width
        super().__init__(*layers)
        self.shape = tuple(shape)
        self.num_features = width

    def forward(self, input: Tensor) -> Tensor:
        check_shape(input, self.shape, "this DenseLocalization")
        return super().forward(input)


class ConvLocalization(nn.Sequential):
    """Convolutional: (B, C, H, W) -> (B, features), on the input halved by average pooling.

    Args:
        shape: (C, H, W) of the input, at least 28 pixels high and wide.
        channels: of both 5x5 convolutions; the paper uses 20.
        features: units of the last layer; the paper uses 20.
        batch_norm: normalise before each ReLU.

    Reference:
        Jaderberg et al. (2015), appendix A: 2x downsample, conv 5x5x20, maxpool 2, conv 5x5x20,
        fc20.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        channels: int = 20,
        features: int = 20,
        batch_norm: bool = False,
    ):
        depth, *size = shape
        last = [((n // 2 - 4) // 2) - 4 for n in check_size(size, 2, "shape[1:]")]
        if min(last) < 1:
            raise ValueError(f"ConvLocalization needs images of at least 28 x 28, got {size}")
        layers: list[nn.Module] = [nn.AvgPool2d(2), nn.Conv2d(depth, channels, 5)]
        layers += [nn.BatchNorm2d(channels)] * batch_norm
        layers += [nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(channels, channels, 5)]
        layers += [nn.BatchNorm2d(channels)] * batch_norm
        layers += [nn.ReLU(), nn.Flatten(), nn.Linear(channels * last[0] * last[1], features)]
        layers += [nn.BatchNorm1d(features)] * batch_norm
        layers.append(nn.ReLU())
        super().__init__(*layers)
        self.shape = tuple(shape)
        self.num_features = features

    def forward(self, input: Tensor) -> Tensor:
        check_shape(input, self.shape, "this ConvLocalization")
        return super().forward(input)
