"""The networks of the 2015 paper that read whole house numbers (SVHN, Table 2).

Eight convolutions and three fully connected layers end in five parallel softmaxes, one for each
place: ten digits, and "none" where the number has ended. `st-cnn-single` warps the image first;
`st-cnn-multi` warps before each of the first four convolutions, image and feature maps alike.

Trainable values at width 1:

    shape           cnn           st-cnn-single    st-cnn-multi
    (3, 64, 64)     32,820,951    33,898,877       37,937,903
    (3, 128, 128)   61,132,503    65,356,157       81,584,879
"""

from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor, nn

from .._checks import check_choice
from ..nn import DenseLocalization, SpatialTransformer
from ..nn.transformer import ThetaHead, Transformer
from ..transforms import Affine
from .pretrained import Pretrained

NAMES = ("cnn", "st-cnn-single", "st-cnn-multi")
FILTERS = (48, 64, 128, 160, 192, 192, 192, 192)  # a max-pooling follows every other one
POOLINGS = 4
UNITS, HIDDEN = 3072, 3
WARPED = 4  # convolutions behind a transformer in st-cnn-multi
PLACES, CLASSES = 5, 11


@dataclass(frozen=True)
class SvhnSpec:
    """All that is needed to build a network again.

    The paper does not say how its 128 px network differs; here it is the same stack, whose first
    fully connected layer sees 8 x 8 places instead of 4 x 4.

    Args:
        name: "cnn", "st-cnn-single" or "st-cnn-multi".
        shape: (C, H, W) of the images, H and W multiples of 16 px; the paper's are (3, 64, 64) and
            (3, 128, 128).
        width: multiplies filters, and the units of the classifier; the units of localizations stay.
        dropout: probability, after every layer of the classifier but the first convolution.
        batch_norm: before each ReLU of the classifier; the paper has none.
        localization_batch_norm: before each ReLU of the localizations, whose features can otherwise
            all die: theta is then the same for every image.
        kind: of specification, for the files it is kept in.

    Raises:
        ValueError: an unknown name, or a shape, width or dropout that cannot be.

    Reference:
        Jaderberg et al., Spatial Transformer Networks, 2015, section 4.2.
    """

    name: str
    shape: tuple[int, ...] = (3, 64, 64)
    width: float = 1.0
    dropout: float = 0.5
    batch_norm: bool = False
    localization_batch_norm: bool = False
    kind: str = "svhn"

    def __post_init__(self):
        object.__setattr__(self, "shape", tuple(self.shape))  # a list in JSON
        check_choice(self.name, NAMES, "name")
        step = 2**POOLINGS
        if len(self.shape) != 3 or any(n < step or n % step for n in self.shape[1:]):
            raise ValueError(
                f"shape must be (C, H, W) with H and W multiples of {step}, got {self.shape}"
            )
        if not self.width > 0 or not 0 <= self.dropout < 1:
            raise ValueError(
                "width must be positive and dropout from 0 to less than 1, got "
                f"{self.width} and {self.dropout}"
            )

    def build(self) -> "SvhnNet":
        """The network, freshly initialised from torch's global random state."""
        return SvhnNet(self)


class SmallConvLocalization(nn.Sequential):
    """Of `st-cnn-single`: conv32 - maxpool 2 - conv32 - fc32 - fc32; 5x5, padded by 2, ReLU.

    The convolutions' filters are those of the paper times `width`.
    """

    def __init__(self, shape: tuple[int, int, int], width: float = 1.0, batch_norm: bool = False):
        channels, height, wide = shape
        filters = _scaled(32, width)
        layers: list[nn.Module] = []
        for inputs in (channels, filters):
            layers.append(nn.Conv2d(inputs, filters, 5, padding=2))
            layers += [nn.BatchNorm2d(filters)] * batch_norm
            layers += [nn.ReLU(), nn.MaxPool2d(2)]
        dense = DenseLocalization((filters, height // 2, wide // 2), depth=2, batch_norm=batch_norm)
        super().__init__(*layers[:-1], *dense)  # one pooling, between the convolutions
        self.num_features = dense.num_features


class SvhnNet(Pretrained):
    """[transformer -] layers - heads: images (B, C, H, W) in [0, 1] -> logits (B, 5, 11).

    The mean of each image is taken off behind the transformer (Goodfellow et al., 2013). Dropout
    stands behind transformers too: localizations see all of what they localize by.
    """

    transformer: Transformer | None

    def __init__(self, spec: SvhnSpec):
        super().__init__()
        self.spec = spec
        channels, height, wide = spec.shape
        image, transformer = (channels, height, wide), None
        if spec.name == "st-cnn-single":
            localization = SmallConvLocalization(image, spec.width, spec.localization_batch_norm)
            transformer = SpatialTransformer(localization, Affine())
        elif spec.name == "st-cnn-multi":
            transformer = _dense_transformer(image, spec.localization_batch_norm)
        self.transformer = transformer
        self.layers = _layers(spec)
        self.heads = nn.Linear(_scaled(UNITS, spec.width), PLACES * CLASSES)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """He's initialisation, without which eleven ReLU layers in a row hardly start to train."""
        for module in self.modules():
            if module is self.heads or isinstance(module, ThetaHead):  # which starts at zero
                continue
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.transformer is not None:
            x = self.transformer(x)
        x = x - x.mean((1, 2, 3), keepdim=True)
        return self.heads(self.layers(x)).unflatten(-1, (PLACES, CLASSES))


def _layers(spec: SvhnSpec) -> nn.Sequential:
    """All between the input and the heads; named, so that the three networks share the names."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels, height, wide = spec.shape
    for number, filters in enumerate((_scaled(n, spec.width) for n in FILTERS), 1):
        if spec.name == "st-cnn-multi" and 1 < number <= WARPED:
            seen = (channels, height, wide)
            layers[f"transformer{number}"] = _dense_transformer(seen, spec.localization_batch_norm)
        if number > 2:
            layers[f"dropout{number}"] = nn.Dropout(spec.dropout)
        layers[f"conv{number}"] = nn.Conv2d(channels, filters, 5, padding=2)
        if spec.batch_norm:
            layers[f"norm{number}"] = nn.BatchNorm2d(filters)
        layers[f"relu{number}"] = nn.ReLU()
        if number % 2:
            layers[f"pool{number}"] = nn.MaxPool2d(2)
            height, wide = height // 2, wide // 2
        channels = filters
    layers["flatten"] = nn.Flatten()
    inputs, units = channels * height * wide, _scaled(UNITS, spec.width)
    for number in range(len(FILTERS) + 1, len(FILTERS) + HIDDEN + 1):
        layers[f"dropout{number}"] = nn.Dropout(spec.dropout)
        layers[f"fc{number}"] = nn.Linear(inputs, units)
        if spec.batch_norm:
            layers[f"norm{number}"] = nn.BatchNorm1d(units)
        layers[f"relu{number}"] = nn.ReLU()
        inputs = units
    layers["dropout"] = nn.Dropout(spec.dropout)
    return nn.Sequential(layers)


def _dense_transformer(shape: tuple[int, int, int], batch_norm: bool) -> SpatialTransformer:
    localization = DenseLocalization(shape, width=32, depth=2, batch_norm=batch_norm)
    return SpatialTransformer(localization, Affine())


def _scaled(count: int, width: float) -> int:
    return max(1, round(count * width))
