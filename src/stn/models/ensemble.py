"""Networks that answer together."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from ..nn.transformer import Transformer
from .pretrained import Pretrained

if TYPE_CHECKING:
    from .stn2015 import Network


class Ensemble(Pretrained):
    """Networks alike, each from a start of its own: they learn apart and answer together.

    Shape:
        Images (B, C, H, W) -> logits (B, members, classes) in training mode, each to be right by
        itself (`stn.evaluation.answer_loss`); in eval mode (B, classes), the logarithms of the mean
        of the members' probabilities.

    Its stem and transformer, for those who look at them, are those of the first member.
    """

    def __init__(self, members: Sequence["Network"]):
        super().__init__()
        self.members = nn.ModuleList(members)

    @property
    def stem(self) -> nn.Module:
        return cast("Network", self.members[0]).stem

    @property
    def transformer(self) -> Transformer | None:
        return cast("Network", self.members[0]).transformer

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.stack([member(x) for member in self.members], 1)
        if self.training:
            return logits
        return logits.log_softmax(-1).logsumexp(1) - math.log(len(self.members))
