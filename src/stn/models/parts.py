"""Picture networks whose parallel transformers look at parts: the paper's birds, and any images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._checks import check_choice, check_size
from ..nn import Cascade, ParallelTransformers, SpatialTransformer
from ..nn.transformer import Transformer
from ..transforms import Attention
from .backbones import backbone_named, conv_norm, map_shape
from .pretrained import Pretrained
from .stn2015 import FAMILIES

LOCALIZATIONS = ("small", "backbone")
REDUCED = 128  # channels after the 1x1 convolution of a "backbone" localization


@dataclass(frozen=True)
class PartsSpec:
    """All that is needed to build a picture network again.

    Args:
        shape: (3, H, W) of the images.
        classes: number of logits.
        backbone: of every stream, as `backbone_named` takes it.
        pretrained: backbones start with weights from ImageNet.
        transform: a name in `FAMILIES`, or "none" for the backbone on the whole image.
        num: transformers in parallel; more than one start as windows that tile the image.
        scale: "attention" with this fixed scale, which predicts only where to look.
        size: (H, W) of each transformer's output; None for the images' own.
        localization: "small", four convolutions; "backbone", as the paper's for birds: another
            backbone without its pooling - 1x1 convolution to 128 channels.
        localization_px: longer side of the image that the localization sees, at most that of the
            images; None for the image as it is.
        shared_streams: one backbone for all windows, not one each.
        steps: transformers in series, `Cascade`, that correct each other; with `num` 1.
        dropout: of the descriptors, before the last layer.
        antialias: of the transformer.
        kind: "parts", by which a file tells this specification from others.

    Raises:
        ValueError: values that are out of range or do not go together.

    Example:
        >>> from stn.models.parts import PartsSpec
        >>> two = PartsSpec((3, 96, 96), 16, transform="attention", num=2, scale=0.5, size=(48, 48))
        >>> two.build()(torch.rand(4, 3, 96, 96)).shape
        torch.Size([4, 16])

    Reference:
        Jaderberg et al. (2015), section 4.3.
    """

    shape: tuple[int, ...]
    classes: int
    backbone: str = "small"
    pretrained: bool = False
    transform: str = "none"
    num: int = 1
    scale: float | None = None
    size: tuple[int, ...] | None = None
    localization: str = "small"
    localization_px: int | None = None
    shared_streams: bool = False
    steps: int = 1
    dropout: float = 0.0
    antialias: bool = True
    kind: str = "parts"

    def __post_init__(self):
        shape = check_size(self.shape, 3, "shape")
        size = None if self.size is None else check_size(self.size, 2)
        object.__setattr__(self, "shape", shape)  # lists in JSON
        object.__setattr__(self, "size", size)
        check_choice(self.kind, ("parts",), "kind")
        check_choice(self.transform, ("none", *FAMILIES), "transform")
        check_choice(self.localization, LOCALIZATIONS, "localization")
        if shape[0] != 3:
            raise ValueError(f"shape must be (3, H, W), for colour images, got {shape}")
        if min(self.classes, self.num, self.steps) < 1 or not 0 <= self.dropout < 1:
            raise ValueError(
                "classes, num and steps must be at least 1 and dropout from 0 to less than 1, got "
                f"{self.classes}, {self.num}, {self.steps} and {self.dropout}"
            )
        px, most = self.localization_px, max(shape[1:])
        if px is not None and not 1 <= px <= most:
            raise ValueError(
                f"localization_px must be from 1 to the longer side of the images, {most}, got {px}"
            )
        asked = self.num > 1 or self.steps > 1 or px is not None or size is not None
        if self.transform == "none" and asked:
            raise ValueError(
                "num, steps, size and localization_px are of a transformer, and transform is "
                "'none': choose a transform or leave them out"
            )
        if self.scale is not None and (self.transform != "attention" or self.steps > 1):
            raise ValueError(
                "scale is of transform 'attention' in one step, got transform "
                f"{self.transform!r} in {self.steps}"
            )
        if self.num > 1 and self.steps > 1:
            raise ValueError(
                f"transformers stand in parallel or in series, got num {self.num} and steps "
                f"{self.steps}: set one of them to 1"
            )

    def whole(self) -> "PartsSpec":
        """The same backbone on the whole image, without a transformer."""
        return replace(
            self, transform="none", num=1, scale=None, size=None, localization_px=None, steps=1
        )

    def build(self) -> "PartsNetwork":
        """The network, freshly initialised from torch's global random state.

        Raises:
            ValueError: a backbone that is unknown or cannot be had.
        """
        transformer = None if self.transform == "none" else _transformer(self)
        seen = self.size or self.shape[1:]
        streams = 1 if self.shared_streams else self.num
        network = PartsNetwork(
            transformer,
            [backbone_named(self.backbone, self.pretrained, seen) for _ in range(streams)],
            self.num,
            self.classes,
            self.dropout,
        )
        network.spec = self
        return network


class PartsNetwork(Pretrained):
    """[transformer -] one stream per window - pooled descriptors side by side - one linear layer.

    Images (B, 3, H, W), float in [0, 1], -> logits (B, classes). Images of other sizes than those
    it was built for are seen, too: the localization resizes them, and windows keep their size.

    Args:
        transformer: None for the image itself.
        streams: `num` backbones, or one that is shared.
        num: windows per image.
        classes: number of logits.
        dropout: of the descriptors.
    """

    def __init__(
        self,
        transformer: Transformer | None,
        streams: Sequence[nn.Module],
        num: int,
        classes: int,
        dropout: float,
    ):
        super().__init__()
        self.transformer = transformer
        self.streams = nn.ModuleList(streams)
        self.dropout = nn.Dropout(dropout)
        features = streams[0].num_features
        assert isinstance(features, int)
        self.classifier = nn.Linear(num * features, classes)

    def forward(self, x: Tensor) -> Tensor:
        seen = x if self.transformer is None else self.transformer(x)
        windows = seen if seen.dim() == 5 else seen.unsqueeze(1)
        return self.classifier(self.dropout(self.descriptors(windows)))

    def begin_with(self, backbone: nn.Module) -> None:
        """All streams, and a localization made of a backbone, take the weights of `backbone`."""
        mine = list(self.streams)
        mine += [m.backbone for m in self.modules() if isinstance(m, BackboneLocalization)]
        for module in mine:
            module.load_state_dict(backbone.state_dict())

    def descriptors(self, windows: Tensor) -> Tensor:
        """(B, num, 3, h, w) -> (B, num * F): what the streams make of the windows."""
        if len(self.streams) == 1:
            pooled = self.streams[0](windows.flatten(0, 1)).mean((-2, -1))
            return pooled.unflatten(0, windows.shape[:2]).flatten(1)
        pairs = zip(self.streams, windows.unbind(1), strict=True)
        return torch.cat([stream(window).mean((-2, -1)) for stream, window in pairs], -1)


class Shrink(nn.Module):
    """Images of any size -> (B, C, *size), filtered so that nothing aliases."""

    def __init__(self, size: Sequence[int]):
        super().__init__()
        self.size = tuple(size)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:] == self.size:
            return x
        return F.interpolate(x, self.size, mode="bilinear", antialias=True)


def _transformer(spec: PartsSpec) -> Transformer:
    scaled = spec.scale is not None
    transform = Attention(scale=spec.scale) if scaled else FAMILIES[spec.transform](2)
    localization, size = _localization(spec), spec.size or spec.shape[1:]
    if spec.steps > 1:
        return Cascade(localization, transform, spec.steps, size, antialias=spec.antialias)
    if spec.num == 1:
        return SpatialTransformer(localization, transform, size, antialias=spec.antialias)
    return ParallelTransformers(
        localization, transform, spec.num, size, initial_theta="tile", antialias=spec.antialias
    )


class SmallLocalization(nn.Sequential):
    """Images of any size -> (B, 64): four strided convolutions on the image shrunk to `size`."""

    num_features = 64

    def __init__(self, size: tuple[int, ...]):
        layers, channels, (height, width) = [], 3, size
        for filters in (16, 32, 32, 32):
            layers += [conv_norm(channels, filters, 3, stride=2), nn.ReLU()]
            channels, height, width = filters, (height + 1) // 2, (width + 1) // 2
        flat = nn.Linear(channels * height * width, self.num_features)
        super().__init__(Shrink(size), *layers, nn.Flatten(), flat, nn.ReLU())


class BackboneLocalization(nn.Module):
    """Images of any size -> (B, num_features): a backbone's map of the image shrunk to `size`."""

    def __init__(self, size: tuple[int, ...], backbone: nn.Module):
        super().__init__()
        channels, height, width = map_shape(backbone, size)
        self.shrink, self.backbone = Shrink(size), backbone
        self.reduce = nn.Sequential(nn.Conv2d(channels, REDUCED, 1), nn.ReLU(), nn.Flatten())
        self.num_features = REDUCED * height * width

    def forward(self, x: Tensor) -> Tensor:
        return self.reduce(self.backbone(self.shrink(x)))


def _localization(spec: PartsSpec) -> SmallLocalization | BackboneLocalization:
    canvas = spec.shape[1:]
    shrink = (spec.localization_px or max(canvas)) / max(canvas)
    size = tuple(max(1, round(n * shrink)) for n in canvas)
    if spec.localization == "small":
        return SmallLocalization(size)
    return BackboneLocalization(size, backbone_named(spec.backbone, spec.pretrained, size))
