"""The networks of the 2015 paper's MNIST experiments: fcn, cnn and their transformer twins.

`st-` puts one transformer before the classifier, `2xst-` two in parallel, each of which sees and
warps all channels.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from .. import transforms
from ..nn import ConvLocalization, DenseLocalization, ParallelTransformers, SpatialTransformer
from ..nn.transformer import Transformer
from .classifiers import cnn, count_parameters, fcn, widest

FAMILIES = {
    "affine": lambda: transforms.Affine(),
    "projective": lambda: transforms.Projective(),
    "tps": lambda: transforms.ThinPlateSpline((4, 4)),
    "attention": lambda: transforms.Attention(),
    "similarity": lambda: transforms.Similarity(),
}
BASES = ("fcn", "cnn")
TRANSFORMERS = {"st": 1, "2xst": 2}
MODELS = (
    *BASES,
    *(f"{st}-{base}-{family}" for st in TRANSFORMERS for base in BASES for family in FAMILIES),
)
# The paper asks for 32-64 filters; more only cost time.
WIDEST = {"fcn": 1024, "cnn": 64}


@dataclass(frozen=True)
class NetSpec:
    """All that is needed to build a network again.

    Args:
        name: one of `MODELS`.
        shape: (C, H, W) of the images.
        classes: number of logits.
        budget: the most parameters the whole network may have; its classifier is made as wide as
            this allows, so that a net and its transformer twin cost the same.
        pool: average pooling after the transformer; the paper uses 2 on RTS and TC.
        batch_norm: in the classifier.
        localization_batch_norm: in the localization network.
    """

    name: str
    shape: tuple[int, int, int]
    classes: int = 10
    budget: int = 400_000
    pool: int = 1
    batch_norm: bool = True
    localization_batch_norm: bool = False


class Network(nn.Module):
    """[transformer - average pool -] classifier; images (B, C, H, W) -> logits.

    The outputs of parallel transformers become channels.
    """

    def __init__(self, transformer: Transformer | None, pool: int, classifier: nn.Module):
        super().__init__()
        self.transformer = transformer
        self.pool = nn.AvgPool2d(pool) if pool > 1 else nn.Identity()
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        if self.transformer is not None:
            x = self.pool(self.transformer(x).flatten(1, -3))
        return self.classifier(x)


def build_model(spec: NetSpec) -> Network:
    """The network of `spec`, freshly initialised from torch's global random state.

    Raises:
        ValueError: unknown name, or a budget or image too small.
    """
    if spec.name not in MODELS:
        raise ValueError(f"unknown model {spec.name!r}; known are {', '.join(MODELS)}")
    shape = (spec.shape[0], spec.shape[1], spec.shape[2])
    if spec.name in BASES:
        return Network(None, 1, _classifier(spec.name, spec, shape, spec.budget))
    prefix, base, family = spec.name.split("-")
    localize = DenseLocalization if base == "fcn" else ConvLocalization
    num, norm = TRANSFORMERS[prefix], spec.localization_batch_norm
    localizations = [localize(shape, batch_norm=norm) for _ in range(num)]
    if num == 1:
        transformer = SpatialTransformer(localizations[0], FAMILIES[family]())
    else:
        transformer = ParallelTransformers(localizations, FAMILIES[family](), num)
    seen = (num * shape[0], shape[1] // spec.pool, shape[2] // spec.pool)
    left = spec.budget - count_parameters(transformer)
    return Network(transformer, spec.pool, _classifier(base, spec, seen, left))


def _classifier(base: str, spec: NetSpec, shape: tuple[int, int, int], budget: int) -> nn.Module:
    make = fcn if base == "fcn" else cnn
    return widest(
        lambda width: make(shape, spec.classes, width, spec.batch_norm), budget, WIDEST[base]
    )
