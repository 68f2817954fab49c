"""The networks of the 2015 paper's MNIST experiments: fcn, cnn and their transformer twins.

`st-` puts one transformer before the classifier, `2xst-` two in parallel, each of which sees and
warps all channels. vgg and conv5 are newer classifiers. Volumes are transformed in three
dimensions, then flattened over their depth.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .. import coords, transforms
from .._checks import check_count
from ..nn import (
    Cascade,
    ConvLocalization,
    DenseLocalization,
    ParallelTransformers,
    SpatialTransformer,
)
from ..nn.transformer import ThetaHead, Transformer
from ..sampling.kernels import Mode
from .classifiers import cnn, conv5, count_parameters, fcn, vgg, widest
from .ensemble import Ensemble
from .pretrained import Pretrained

RANK = 4  # of a learned basis: theta has twice as many entries, as of a projective map
FAMILIES = {
    "affine": transforms.Affine,
    "projective": transforms.Projective,
    "tps": lambda dim: transforms.ThinPlateSpline((4,) * dim),
    "attention": transforms.Attention,
    "similarity": transforms.Similarity,
    "basis": lambda dim: transforms.LearnedBasis(RANK, (4,) * dim),
}
BASES = {"fcn": fcn, "cnn": cnn, "vgg": vgg, "conv5": conv5}
TRANSFORMERS = {"st": 1, "2xst": 2}
MODELS = (
    *BASES,
    *(f"{st}-{base}-{family}" for st in TRANSFORMERS for base in BASES for family in FAMILIES),
)
# The paper asks for 32-64 filters; more only cost time.
WIDEST = {"fcn": 1024, "cnn": 64, "vgg": 32, "conv5": 32}
VOLUME_POOL = 4  # before the localization of volumes
MEAN, DEVIATION = 0.1307, 0.3081  # of MNIST's pixels


@dataclass(frozen=True)
class NetSpec:
    """All that is needed to build a network again.

    Args:
        name: one of `MODELS`.
        shape: (C, H, W) of the images, or (C, D, H, W).
        classes: number of logits.
        budget: the most parameters the whole network may have; its classifier is made as wide as
            this allows, so that a net and its transformer twin cost the same.
        pool: average pooling after the transformer; the paper uses 2 on RTS and TC.
        batch_norm: in the classifier.
        dropout: probability, before the classifier's last layer.
        localization_batch_norm: in the localization network.
        localization_width: its units over the paper's.
        size: (H, W) or (D, H, W) of the transformer's output; None for the images' own.
        stem: layers of the classifier that stand before the transformer, on whose feature maps it
            then works; 0 puts it on the image, 2 behind the first convolution of `st-cnn-` nets.
        steps: transformers in series, `Cascade`, that correct each other; of `st-` nets.
        window: what the transformer reads at the start, over the image's height and width; below 1
            it begins zoomed in on the middle.
        theta_forward: the classifier's last layer is given theta, too: how the image was warped.
        antialias, mode, padding_mode: of the transformer.
        random_start: theta from a random layer, not from the identity.
        normalize: images to zero mean and unit variance before all else: black is no longer 0.
        members: networks, each of its share of the budget, that learn apart and answer together.
    """

    name: str
    shape: tuple[int, ...]
    classes: int = 10
    budget: int = 400_000
    pool: int = 1
    batch_norm: bool = True
    dropout: float = 0.0
    localization_batch_norm: bool = False
    localization_width: int = 1
    size: tuple[int, ...] | None = None
    stem: int = 0
    steps: int = 1
    window: float = 1.0
    theta_forward: bool = False
    antialias: bool = False
    mode: Mode = "bilinear"
    padding_mode: str = "zeros"
    random_start: bool = False
    normalize: bool = False
    members: int = 1

    def __post_init__(self):
        for name in ("shape", "size"):  # lists in JSON
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))
        check_count(self.members, "members")

    def build(self) -> "Network | Ensemble":
        """The network, or its members together, initialised from torch's global random state.

        Raises:
            ValueError: unknown name, or a budget or image too small.
        """
        if self.name not in MODELS:
            raise ValueError(f"unknown model {self.name!r}; known are {', '.join(MODELS)}")
        share = replace(self, budget=self.budget // self.members)
        networks = [_network(share) for _ in range(self.members)]
        made = networks[0] if self.members == 1 else Ensemble(networks)
        made.spec = self
        return made


class DepthMean(nn.Module):
    """(B, C * depth, H, W) -> (B, C, H, W): what is seen of volumes from the front."""

    def __init__(self, depth: int):
        super().__init__()
        self.depth = depth

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (-1, self.depth)).mean(2)


class Network(Pretrained):
    """[stem -] [transformer - pool -] classifier; images (B, C, H, W) or (B, 1, D, H, W) -> logits.

    The outputs of parallel transformers, and the depth of volumes, become channels. `of_theta`
    adds what theta says to the logits, as a last layer does of theta among its inputs.
    """

    def __init__(
        self,
        stem: nn.Module,
        transformer: Transformer | None,
        pool: nn.Module,
        classifier: nn.Module,
        of_theta: nn.Module | None = None,
    ):
        super().__init__()
        self.stem = stem
        self.transformer = transformer
        self.pool = pool
        self.classifier = classifier
        self.of_theta = of_theta

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.transformer is None:
            return self.classifier(self.pool(x.flatten(1, -3)))
        theta = self.transformer.theta(x)
        logits = self.classifier(self.pool(self.transformer.warp(x, theta).flatten(1, -3)))
        return logits if self.of_theta is None else logits + self.of_theta(theta.flatten(1))


class Normalize(nn.Module):
    """Images less the mean of MNIST, over its deviation."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - MEAN) / DEVIATION


def _network(spec: NetSpec) -> Network:
    channels, *canvas = spec.shape
    seen = list(canvas if spec.name in BASES or spec.size is None else spec.size)
    flat = DepthMean(seen[0]) if len(seen) == 3 else nn.Identity()
    stem = Normalize() if spec.normalize else nn.Identity()
    if spec.name in BASES:
        classifier = _classifier(spec, (channels, canvas[-2], canvas[-1]), spec.budget)
        return Network(stem, None, flat, classifier)
    if spec.stem:
        return widest(lambda width: _behind_stem(spec, width), spec.budget, WIDEST["cnn"])
    transformer = _transformer(spec, spec.shape)
    height, width = (n // spec.pool for n in seen[-2:])
    pool = nn.Sequential(flat, nn.AvgPool2d(spec.pool)) if spec.pool > 1 else flat
    num = TRANSFORMERS[spec.name.split("-")[0]]
    entries = num * transformer.composed().num_params
    of_theta = nn.Linear(entries, spec.classes, bias=False) if spec.theta_forward else None
    spent = count_parameters(nn.ModuleList([transformer, of_theta or nn.Identity()]))
    classifier = _classifier(spec, (num * channels, height, width), spec.budget - spent)
    return Network(stem, transformer, pool, classifier, of_theta)


def _behind_stem(spec: NetSpec, width: int) -> Network:
    """A cnn that is cut in two, with the transformer on the feature maps between."""
    plain = spec.pool == 1 and spec.size is None and not (spec.theta_forward or spec.dropout)
    if not (plain and spec.name.startswith("st-cnn-")):
        raise ValueError("a stem is for st-cnn- nets without pool, size, theta_forward, dropout")
    channels, height, wide = spec.shape
    layers = list(cnn((channels, height, wide), spec.classes, width, spec.batch_norm))
    first = [Normalize()] if spec.normalize else []
    stem = nn.Sequential(*first, *layers[: spec.stem])
    maps = stem(torch.zeros(1, *spec.shape)).shape[1:]
    transformer = _transformer(spec, tuple(maps))
    rest = nn.Sequential(*layers[spec.stem :])
    return Network(stem, transformer, nn.Identity(), rest)


def _transformer(spec: NetSpec, shape: tuple[int, ...]) -> Transformer:
    """The transformer of `spec` for inputs (C, H, W) or (C, D, H, W)."""
    prefix, base, family = spec.name.split("-")
    num, transform = TRANSFORMERS[prefix], FAMILIES[family](len(shape) - 1)
    norm, units = spec.localization_batch_norm, spec.localization_width
    localizations = [_localization(base, shape, units, norm) for _ in range(num)]
    start = torch.zeros(transform.num_params)
    if spec.window != 1:  # every step goes an equal part of the way
        points = coords.target_points((5,) * transform.dim)
        wanted = points * spec.window ** (1 / spec.steps)
        start = transform.fit(points, wanted)[0]
        if (transform.map_points(start[None], points) - wanted).abs().max() > 1e-3:
            raise ValueError(f"a transformer of {transform!r} cannot begin zoomed in; leave window")
    if spec.steps > 1:
        transformer = Cascade(
            localizations[0], transform, spec.steps, spec.size, initial_theta=start
        )
    elif num == 1:
        transformer = SpatialTransformer(
            localizations[0], transform, spec.size, initial_theta=start
        )
    else:
        transformer = ParallelTransformers(
            localizations, transform, num, spec.size, initial_theta=start.expand(num, -1)
        )
    transformer.antialias = spec.antialias
    transformer.mode, transformer.padding_mode = spec.mode, spec.padding_mode
    if spec.random_start:
        for module in transformer.modules():
            if isinstance(module, ThetaHead):
                module.reset_parameters()
    return transformer


def _localization(base: str, shape: tuple[int, ...], units: int, norm: bool) -> nn.Module:
    """`units` times the paper's; of volumes, of which it states none, fc on small copies."""
    channels, *canvas = shape
    if len(canvas) == 3:
        small = (channels, *(n // VOLUME_POOL for n in canvas))
        dense = DenseLocalization(small, 32 * units, batch_norm=norm)
        dense.insert(0, nn.AvgPool3d(VOLUME_POOL))
        dense.shape = shape
        return dense
    flat = (channels, canvas[0], canvas[1])
    if base == "fcn":
        return DenseLocalization(flat, 32 * units, batch_norm=norm)
    return ConvLocalization(flat, 20 * units, 20 * units, batch_norm=norm)


def _classifier(spec: NetSpec, shape: tuple[int, int, int], budget: int) -> nn.Module:
    base = spec.name.split("-")[1] if "-" in spec.name else spec.name
    made = widest(
        lambda width: BASES[base](shape, spec.classes, width, spec.batch_norm),
        budget,
        WIDEST[base],
    )
    return made.insert(-1, nn.Dropout(spec.dropout)) if spec.dropout else made
