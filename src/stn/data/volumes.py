"""Digits in three dimensions: extruded to slabs, turned and moved in a volume (appendix A.3)."""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ..linalg import rotation_minus_identity
from ..transforms import Affine
from ..warp import warp
from .distort import SIDE_PX, Drawn, OneDigit, checked_digits, pose_on, uniform

RENDERED_AT_ONCE = 4


@dataclass(frozen=True)
class Volumes(OneDigit):
    """A digit extruded along z to a slab, turned about its centre and placed, trilinear.

    The paper states only the canvas; these ranges are chosen here. The rotation vector is uniform
    in the ball of radius `max_angle_deg`, the centre uniform over all places where the turned slab
    of 28 x 28 x `thickness_px` voxels lies inside the canvas.

    `Rigid(3)` with theta = (pose.angle_rad, pose.centre) brings the digit back: upright, in the
    middle, its depth along z.

    Args:
        thickness_px: depth of the slab before it is turned.
        max_angle_deg: largest rotation, below 90: from behind, a digit is its mirror image.
        canvas: (D, H, W), equal sides.

    Reference:
        Jaderberg et al., Spatial Transformer Networks, 2015, appendix A.3.
    """

    thickness_px: int = 14
    max_angle_deg: float = 60.0
    canvas: tuple[int, int, int] = (60, 60, 60)

    def __post_init__(self):
        side = self.canvas[0]
        slab = math.sqrt(2 * SIDE_PX**2 + self.thickness_px**2)
        if set(self.canvas) != {side} or not 0 < slab <= side:
            raise ValueError(
                f"canvas must have equal sides of at least {math.ceil(slab)} voxels, the diagonal "
                f"of a slab of thickness {self.thickness_px}, got {self.canvas}"
            )

    def __call__(
        self, images: Tensor, generator: Generator, clutter_pool: Tensor | None = None
    ) -> Drawn:
        count = checked_digits(images, self.digits)
        direction = torch.randn(count, 3, generator=generator)
        direction = direction / direction.norm(dim=-1, keepdim=True)
        radius = uniform((count, 1), 0, 1, generator) ** (1 / 3)
        angle = direction * radius * math.radians(self.max_angle_deg)
        turn = rotation_minus_identity(angle) + torch.eye(3)
        half = torch.tensor([SIDE_PX, SIDE_PX, self.thickness_px]) / self.canvas[0]
        room = 1 - (turn.abs() @ half)
        centre = room * uniform((count, 3), -1, 1, generator)

        linear = turn.mT / half.unsqueeze(-1)
        offset = torch.cat([linear - torch.eye(3), -linear @ centre.unsqueeze(-1)], -1)
        theta = offset.flatten(1).to(images.device)
        slabs = images.float().unsqueeze(2).expand(-1, -1, self.thickness_px, -1, -1)
        # A few at a time: the coordinates of all voxels, in float64, are six times the volume.
        parts = zip(slabs.split(RENDERED_AT_ONCE), theta.split(RENDERED_AT_ONCE), strict=True)
        drawn = torch.cat([warp(slab, Affine(3), own, self.canvas) for slab, own in parts])
        return Drawn(drawn.clamp_(0, 1), pose_on(images, angle, torch.ones(count), centre))
