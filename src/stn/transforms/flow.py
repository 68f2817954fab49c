"""Maps that are flows of a velocity field, and how they are integrated."""

from collections.abc import Callable

import torch
from torch import Tensor

from .. import coords, linalg
from .base import Transform

PARTS = 3


class Flow(Transform):
    """source = x(1) of dx/dt = v(x), x(0) = target; the inverse is the flow of -v.

    Hook: `field`, the velocity at any points. `kinks` are affine functions (F, dim + 1) of a point;
    the velocity is smooth except where one of them is an integer.
    """

    kinks: Tensor

    def __init__(self, dim: int, num_params: int, steps: int, kinks: Tensor):
        super().__init__(dim, num_params)
        if not steps >= 1 or int(steps) != steps:
            raise ValueError(f"steps must be a positive integer, got {steps!r}")
        self.steps = int(steps)
        self.register_buffer("kinks", kinks, persistent=False)

    def field(self, theta: Tensor) -> Callable[[Tensor], Tensor]:
        """The map from points (B, N, dim) to their velocities."""
        raise NotImplementedError

    def displacement_at(self, theta: Tensor, points: Tensor) -> Tensor:
        points = points.expand(theta.shape[0], -1, -1)
        return integrate(self.field(theta), points, self.steps, self.kinks)

    def jacobian_at(self, theta: Tensor, points: Tensor) -> Tensor:
        # Backwards: far fewer operations than forward-mode's for a long chain.
        points = points.expand(theta.shape[0], -1, -1).contiguous()
        out, pull, *_ = torch.func.vjp(self._moved(theta), points)
        rows = []
        for axis in range(self.dim):
            weight = torch.zeros_like(out)
            weight[..., axis] = 1
            rows.append(weight + pull(weight)[0])
        return torch.stack(rows, dim=-2)

    def inverse_at(self, theta: Tensor, points: Tensor) -> Tensor:
        return points + self.displacement_at(-theta, points)


def integrate(
    velocity: Callable[[Tensor], Tensor], points: Tensor, steps: int, kinks: Tensor
) -> Tensor:
    """How far points (B, N, dim) move from t = 0 to 1 under dx/dt = velocity(x).

    Each step is PARTS times the classical Runge-Kutta formula. A part ends where the path meets a
    kink of the velocity, so that the formula sees a smooth field; without kinks the parts are
    equal. Exactly 0 where the velocity is.

    Args:
        kinks: (F, dim + 1), affine functions of a point; the velocity is smooth except where one
            of them is an integer.
    """
    total = torch.zeros_like(points)
    kinks = kinks.to(points).unsqueeze(0)
    for _ in range(steps):
        rest = torch.full_like(points[..., :1], 1 / steps)
        met = torch.zeros((), dtype=torch.bool, device=points.device)
        for left in range(PARTS, 0, -1):
            start = points + total
            before = velocity(start)
            h = rest
            if left > 1:
                place = linalg.apply_affine(kinks, start)
                place = torch.where(met, place.round(), place)  # it stands on that kink
                times = _times_to_integer(place, linalg.apply_linear(kinks[..., :-1], before), rest)
                half_way = velocity(start + times.amin(-1, keepdim=True) / 2 * before)
                speed = linalg.apply_linear(kinks[..., :-1], half_way)
                times = _times_to_integer(place, speed, rest)
                first = times.amin(-1, keepdim=True)
                met = (times == first) & (first < rest)
                # A kink beyond the step's end lets go of it gradually: the map stays continuous.
                free = (rest - (first - rest) * (1 - 1 / left)).maximum(rest / left)
                h = first.minimum(free)
            total = total + _runge_kutta(velocity, start, before, h)
            rest = rest - h
    return total


def _runge_kutta(
    velocity: Callable[[Tensor], Tensor], start: Tensor, before: Tensor, h: Tensor
) -> Tensor:
    k2 = velocity(start + h / 2 * before)
    k3 = velocity(start + h / 2 * k2)
    k4 = velocity(start + h * k3)
    return h / 6 * before + h / 3 * k2 + h / 3 * k3 + h / 6 * k4


def _times_to_integer(place: Tensor, speed: Tensor, rest: Tensor) -> Tensor:
    """When each of `place` (B, N, F), moving at `speed`, is an integer next; at most 2 rest."""
    ahead = torch.where(speed > 0, place.floor() + 1 - place, place - place.ceil() + 1)
    speed = speed.abs()
    soon = 2 * rest * speed > ahead
    return torch.where(soon, ahead / torch.where(soon, speed, 1), 2 * rest)


def planes(cells: tuple[int, ...]) -> Tensor:
    """Affine functions (dim, dim + 1) of a point: how many cells it is from the first edge."""
    corners = torch.cat([torch.eye(len(cells)), torch.zeros(1, len(cells))]).double()
    place = coords.to_pixels(corners, cells, align_corners=False) + 0.5
    return torch.cat([(place[:-1] - place[-1]).mT, place[-1:].mT], -1)
