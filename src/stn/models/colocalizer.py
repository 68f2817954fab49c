"""Windows on what the images of a class have in common (the 2015 paper, appendix A.2)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..nn import ParallelTransformers, SpatialTransformer
from ..transforms import Attention
from .pretrained import Pretrained
from .stn2015 import NetSpec, Network

FEATURES = 8  # of a localization
READER = NetSpec("cnn", (1, 28, 28), budget=200_000)


@dataclass(frozen=True)
class ColocalizerSpec:
    """All that is needed to build a network again.

    Args:
        shape: (1, H, W) of the images.
        classes: windows, one for each class of images.
        crop_px: side of what a window shows, px.
        reader: the network for digits of that size.
        kind: of specification, for the files it is kept in.
    """

    shape: tuple[int, ...] = (1, 84, 84)
    classes: int = 10
    crop_px: int = 28
    reader: NetSpec = READER
    kind: str = "colocalizer"

    def __post_init__(self):
        object.__setattr__(self, "shape", tuple(self.shape))  # a list in JSON
        if isinstance(self.reader, dict):
            object.__setattr__(self, "reader", NetSpec(**self.reader))

    def build(self) -> "Colocalizer":
        """The network, initialised from torch's global random state."""
        reader = self.reader.build()
        assert isinstance(reader, Network)
        made = Colocalizer([self.window() for _ in range(self.classes)], reader)
        made.spec = self
        return made

    def window(self, start_scale: float = 0.5) -> SpatialTransformer:
        """The transformer of a class, images (B, 1, H, W) -> what it reads, at the start the middle
        at a scale.

        The paper's: conv 9x9x8 stride 4 - maxpool 2 - fc8 - fc8 - (log s, tx, ty), with batch norm.
        Without it the eight units hardly differ between images, and all windows stay the same.
        """
        height, width = (((n - 9) // 4 + 1) // 2 for n in self.shape[1:])
        localization = nn.Sequential(
            nn.BatchNorm2d(1, affine=False),
            nn.Conv2d(1, FEATURES, 9, stride=4),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(FEATURES * height * width, FEATURES),
            nn.BatchNorm1d(FEATURES),
            nn.ReLU(),
            nn.Linear(FEATURES, FEATURES),
            nn.BatchNorm1d(FEATURES),
            nn.ReLU(),
        )
        start = Attention().from_matrix(
            torch.tensor([[[start_scale, 0.0, 0.0], [0.0, start_scale, 0.0]]])
        )
        return SpatialTransformer(
            localization,
            Attention(),
            self.crop_px,
            num_features=FEATURES,
            initial_theta=start[0],
            antialias=True,
        )


class Colocalizer(Pretrained):
    """A window for each class, and a network that reads what they show.

    Shape:
        Images (B, 1, H, W) -> (B, classes), the logarithm of the probability that what the window
        of class k shows is a k. `transformer` gives what the windows show, (B, classes, 1, h, w).
    """

    def __init__(self, windows: Sequence[SpatialTransformer], reader: Network):
        super().__init__()
        first = windows[0]
        self.transformer = ParallelTransformers(
            [window.localization for window in windows],
            first.transform,
            len(windows),
            first.size,
            num_features=FEATURES,
            antialias=first.antialias,
        )
        self.transformer.head = nn.ModuleList(window.head for window in windows)
        self.reader = reader

    def forward(self, x: Tensor) -> Tensor:
        crops = self.transformer(x)
        classes = crops.shape[1]
        chances = self.reader(crops.flatten(0, 1)).log_softmax(-1)
        mine = torch.eye(classes, dtype=torch.bool, device=x.device)
        return chances.unflatten(0, (-1, classes)).masked_fill(~mine, 0.0).sum(-1)
