"""What many images have in common, found by looking everywhere: a search beside the gradient."""

import torch
from torch import Tensor, nn

from ..transforms import Attention
from ..warp import warp

# Between neighbouring windows, and rounds until the places agree.
SPACING_PX = 5
ROUNDS = 5


class Search:
    """Windows of one scale all over every image, and which of them look most alike.

    Where the hinge is open, its gradient with respect to e_n is 2 (patch - mean of the others):
    each window climbs <e_n, mean - patch>. Bilinear gradients are local, so a window that stands on
    clutter never sees the digit beside it. The same quantity at all places tells where it is.

    Args:
        encoder: crops (N, 1, h, w) -> features (N, F).
        images: (N, 1, H, W).
        scale: of the windows, over the image.
        crop_px: side of the crops.
    """

    @torch.no_grad()
    def __init__(self, encoder: nn.Module, images: Tensor, scale: float, crop_px: int):
        room = (round((1 - scale) * n / SPACING_PX) for n in images.shape[-2:])
        lines = (torch.linspace(-1, 1, steps + 1) * (1 - scale) for steps in room)
        y, x = torch.meshgrid(*lines, indexing="ij")
        self.places = torch.stack([x.flatten(), y.flatten()], -1).to(images.device)
        log_scale = self.places.new_full((1, 1), scale).log()
        crops = (
            encoder(
                warp(
                    images,
                    Attention(),
                    torch.cat([log_scale, place.unsqueeze(0)], -1).expand(len(images), -1),
                    (crop_px, crop_px),
                    antialias=True,
                )
            )
            for place in self.places
        )
        self.features = torch.stack(list(crops), 1)
        self.background = self.features.mean((0, 1))

    def common(self, features: Tensor) -> Tensor:
        """Places (N, 2) of the windows that look most alike, beginning from features (N, F)."""
        rows = torch.arange(len(self.features), device=features.device)
        best = self._most_like(features.detach().mean(0))
        for _ in range(ROUNDS - 1):
            best = self._most_like(self.features[rows, best].mean(0))
        return self.places[best]

    def _most_like(self, wanted: Tensor) -> Tensor:
        """Of every image, the window whose features are most like those (F,) that are wanted."""
        return ((self.features - self.background) @ (wanted - self.background)).argmax(1)
