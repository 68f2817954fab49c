"""Unwrapping about a centre: rows become radii, columns angles (Esteves et al., ICLR 2018)."""

import math

import torch
from torch import Tensor

from .. import linalg
from .base import Transform
from .linear import MAX_LOG_SCALE


class Polar(Transform):
    """source = centre + r (cos a, sin a), with r = (1 + y) / 2 * radius and a = pi (1 + x).

    theta = (cx, cy) is the centre; theta = 0 is the image's centre, not the identity. From left to
    right the angle goes once round, from 0 (along +x) towards +y; from top to bottom the radius
    grows from 0 to `radius`. Rotating the image about the centre moves the output along x.

    Args:
        radius: the largest, normalised; 1 is the circle (on a non-square image, the ellipse)
            inscribed in the image.

    Note:
        `inverse_points` returns x in [-1, 1), and NaN for the centre itself, where all angles
        meet; beyond `radius` it returns y > 1. `fit` is exact: it moves the centre.

    Example:
        >>> theta = torch.tensor([[0.1, 0.0]])
        >>> target = torch.tensor([[-1.0, 1.0], [-0.5, 0.0]])  # angle 0, radius 1; 90 deg, 1 / 2
        >>> stn.Polar().map_points(theta, target)
        tensor([[[1.1000, 0.0000],
                 [0.1000, 0.5000]]])

    Reference:
        Esteves et al., Polar Transformer Networks, ICLR 2018, section 3.
    """

    def __init__(self, radius: float = 1.0):
        super().__init__(2, 2)
        if not 0 < radius < math.inf:
            raise ValueError(f"radius must be positive, got {radius!r}")
        self.radius = radius

    def radius_at(self, y: Tensor) -> Tensor:
        return (1 + y) / 2 * self.radius

    def row_at(self, radius: Tensor) -> Tensor:
        return 2 * radius / self.radius - 1

    def displacement_at(self, theta: Tensor, points: Tensor) -> Tensor:
        return theta.unsqueeze(1) + self._unwrapped(points) - points

    def inverse_at(self, theta: Tensor, points: Tensor) -> Tensor:
        arm = points - theta.unsqueeze(1)
        centre = (arm == 0).all(-1, keepdim=True)
        arm = torch.where(centre, 1, arm)  # keeps NaN out of the gradients of the others
        turns = torch.atan2(-arm[..., 1], -arm[..., 0]) / math.pi  # half a turn back: [-1, 1]
        row = self.row_at(torch.hypot(arm[..., 0], arm[..., 1]))
        target = torch.stack([torch.where(turns >= 1, turns - 2, turns), row], -1)
        return torch.where(centre, torch.nan, target)

    def fit_to(self, target: Tensor, source: Tensor, weights: Tensor) -> Tensor:
        mean_target, mean_source = linalg.centroids(self._unwrapped(target), source, weights)
        return (mean_source - mean_target).squeeze(-2)

    def _unwrapped(self, points: Tensor) -> Tensor:
        angle, radius = math.pi * (1 + points[..., 0]), self.radius_at(points[..., 1])
        return torch.stack([radius * angle.cos(), radius * angle.sin()], -1)

    def extra_repr(self) -> str:
        return f"radius={self.radius}"


class LogPolar(Polar):
    """As `Polar`, with radii in proportion: r = smallest ** (1 - s) * radius ** s, s = (1 + y) / 2.

    Scaling the image about the centre then moves the output along y, as rotating does along x.

    Args:
        radius: at the lower edge, as in `Polar`.
        smallest: radius at the upper edge, normalised; 1/32 is a pixel of an image of 64. What lies
            within is not seen: `inverse_points` gives it y < -1, and NaN to the centre.

    Example:
        >>> theta = torch.zeros(1, 2)
        >>> target = torch.tensor([[-1.0, -1.0], [-1.0, 0.0], [-1.0, 1.0]])
        >>> stn.LogPolar(smallest=0.01).map_points(theta, target)[0, :, 0]
        tensor([0.0100, 0.1000, 1.0000])

    Reference:
        Esteves et al., Polar Transformer Networks, ICLR 2018, section 3.
    """

    def __init__(self, radius: float = 1.0, smallest: float = 1 / 32):
        super().__init__(radius)
        if not 0 < smallest < radius:
            raise ValueError(f"smallest must be between 0 and radius {radius}, got {smallest!r}")
        self.smallest = smallest

    def radius_at(self, y: Tensor) -> Tensor:
        power = (y - 1) / 2 * math.log(self.radius / self.smallest)
        return self.radius * power.clamp(max=MAX_LOG_SCALE).exp()

    def row_at(self, radius: Tensor) -> Tensor:
        return 1 + 2 * (radius / self.radius).log() / math.log(self.radius / self.smallest)

    def extra_repr(self) -> str:
        return super().extra_repr() + f", smallest={self.smallest:.4g}"
