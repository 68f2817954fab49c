"""Several transforms as one, resampled once."""

from collections.abc import Iterator

import torch
from torch import Tensor

from .base import Transform, check_transform


class Compose(Transform):
    """Compose(a, b, …): as if the image were warped by a, the result by b, and so on.

    Target points go through the last transform first: source = a(b(target)). theta is
    [theta_a, theta_b, …].
    """

    def __init__(self, *transforms: Transform):
        if not transforms:
            raise ValueError("Compose needs at least one transform")
        for transform in transforms:
            check_transform(transform)
        dims = {t.dim for t in transforms}
        if len(dims) > 1:
            raise ValueError(f"Compose needs transforms of one dim, got {sorted(dims)}")
        super().__init__(dims.pop(), sum(t.num_params for t in transforms))
        self.parts = torch.nn.ModuleList(transforms)

    def _backwards(self, theta: Tensor) -> Iterator[tuple[Transform, Tensor]]:
        thetas = theta.split([t.num_params for t in self.parts], dim=-1)  # type: ignore[misc]
        return zip(reversed(self.parts), reversed(thetas), strict=True)  # type: ignore[return-value]

    def displacement_at(self, theta: Tensor, points: Tensor) -> Tensor:
        total = torch.zeros_like(points)
        for part, own in self._backwards(theta):
            total = total + part.displacement_at(own, points + total)
        return total

    def valid_at(self, theta: Tensor, points: Tensor) -> Tensor | None:
        valid = None
        for part, own in self._backwards(theta):
            here = part.valid_at(own, points)
            points = points + part.displacement_at(own, points)
            if here is not None:
                valid = here if valid is None else valid & here
        return valid

    def jacobian_at(self, theta: Tensor, points: Tensor) -> Tensor:
        total = None
        for part, own in self._backwards(theta):
            here = part.jacobian_at(own, points)
            points = points + part.displacement_at(own, points)
            total = here if total is None else here @ total
        assert total is not None
        return total

    def inverse_at(self, theta: Tensor, points: Tensor) -> Tensor:
        for part, own in reversed(list(self._backwards(theta))):
            points = part.inverse_at(own, points)
        return points

    def __repr__(self) -> str:
        return f"Compose({', '.join(map(repr, self.parts))})"
