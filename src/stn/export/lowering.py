"""A copy of a model whose transformers can be exported."""

import copy
from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from ..nn.transformer import Transformer
from ..sampling.functional import Options
from ..transforms import Transform
from ..warp import _slopes
from .antialias import sample

LOWERINGS = ("native", "gather")


def lowered(model: nn.Module, lowering: str) -> nn.Module:
    """A copy of `model` in eval mode; lowered by "gather", its layers use no sampling operator."""
    model = copy.deepcopy(model).eval()
    for layer in model.modules():
        if isinstance(layer, Transformer):
            layer.backend = "reference" if lowering == "gather" else None
            layer.check_finite = False
            layer.gradient_blur_px = 0.0  # values do not depend on it
            if layer.antialias:
                layer._warp = partial(_warp, layer)
    return model


def _warp(
    layer: Transformer,
    x: Tensor,
    transform: Transform,
    theta: Tensor,
    size: Sequence[int] | None,
    antialias: bool,
) -> Tensor:
    """`Transformer._warp`, antialiased so that it can be traced."""
    if not antialias:
        return Transformer._warp(layer, x, transform, theta, size, antialias)
    seen = tuple(x.shape[2:])
    target = seen if size is None else tuple(size)
    options = Options(layer.mode, layer.padding_mode, layer.align_corners, fill=layer.fill)
    places = transform.places(theta, target, layer.align_corners)
    slopes = _slopes(transform, theta, target, seen, layer.align_corners)
    return sample(x, places, options, slopes)
