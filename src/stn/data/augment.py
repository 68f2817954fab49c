"""Training images, warped a little and differently each time they are seen."""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from .._checks import check_choice, check_floating, shape_of
from ..sampling.padding import MODES
from ..transforms import Similarity
from ..warp import warp
from .distort import uniform


@dataclass(frozen=True)
class Augmentation:
    """Random rotation, scale, shift and mirroring, by one warp of the image itself.

    Args:
        rotation_deg: the angle is U[-rotation_deg, rotation_deg], from 0 to 180.
        scale: what is shown becomes larger by U[low, high], 0 < low <= high.
        shift: the place that is looked at moves by U[-shift, shift] of the image's width, and of
            its height; from 0 to 1.
        flip: mirror every other image, left to right.
        padding_mode: what lies outside the image, as in `grid_sample`.

    Raises:
        ValueError: a setting out of its range.

    Example:
        >>> images = torch.rand(8, 3, 32, 48)
        >>> augment = Augmentation(rotation_deg=15, flip=True)
        >>> augment(images, torch.Generator().manual_seed(0)).shape
        torch.Size([8, 3, 32, 48])
    """

    rotation_deg: float = 10.0
    scale: tuple[float, float] = (0.9, 1.1)
    shift: float = 0.05
    flip: bool = False
    padding_mode: str = "border"

    def __post_init__(self):
        if not 0 <= self.rotation_deg <= 180:
            raise ValueError(f"rotation_deg must be from 0 to 180, got {self.rotation_deg}")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1] < math.inf:
            raise ValueError(f"scale must be (low, high) with 0 < low <= high, got {self.scale}")
        if not 0 <= self.shift <= 1:
            raise ValueError(f"shift must be from 0 to 1, a share of the image, got {self.shift}")
        check_choice(self.padding_mode, MODES, "padding_mode")

    def __call__(
        self, images: Tensor, generator: Generator, part: int = 0, parts: int = 1
    ) -> Tensor:
        """Warp a batch, or one part of a batch that is cut over processes.

        The parameters of all parts are drawn, whichever part this is: processes with generators
        in the same state warp as one process would the uncut batch.

        Args:
            images: (B, C, H, W) float, on any device: rows part * B to (part + 1) * B of a batch
                of parts * B.
            generator: a CPU generator; its state decides all that is random, and moves on.
            part: which, from 0.
            parts: how many.

        Returns:
            (B, C, H, W), of images' type and on their device.

        Raises:
            ValueError, TypeError: images of another shape or type, or a part that there is not.
        """
        check_floating(images, "images")
        if images.dim() != 4:
            raise ValueError(f"images must have shape (B, C, H, W), got {shape_of(images)}")
        if not 0 <= part < parts:
            raise ValueError(f"part must be from 0 to {parts - 1}, got {part} of {parts}")
        batch, (height, width) = len(images), images.shape[2:]
        mine = slice(part * batch, (part + 1) * batch)
        theta, mirrored = (
            drawn[mine].to(images.device) for drawn in self._draw(parts * batch, generator)
        )
        if self.flip:
            images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        similarity = Similarity(aspect=(width, height))
        return warp(images, similarity, theta, padding_mode=self.padding_mode)

    def _draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """theta (count, 4) = (log s, angle, tx, ty), target -> source, and who is mirrored."""
        limit = math.radians(self.rotation_deg)
        angle = uniform((count, 1), -limit, limit, generator)
        scale = uniform((count, 1), *self.scale, generator)
        shift = uniform((count, 2), -2 * self.shift, 2 * self.shift, generator)
        mirrored = torch.rand(count, generator=generator) < 0.5
        return torch.cat([-scale.log(), angle, shift], -1), mirrored
