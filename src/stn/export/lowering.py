"""A copy of a model whose transformers can be exported."""

import copy

from torch import nn

from ..nn.transformer import Transformer

LOWERINGS = ("native", "gather")


def lowered(model: nn.Module, lowering: str) -> nn.Module:
    """A copy of `model` in eval mode; lowered by "gather", its layers use no sampling operator."""
    model = copy.deepcopy(model).eval()
    for layer in model.modules():
        if isinstance(layer, Transformer):
            layer.backend = "reference" if lowering == "gather" else None
            layer.check_finite = False
            layer.gradient_blur_px = 0.0  # values do not depend on it
    return model
