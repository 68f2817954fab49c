"""Several transformers: in parallel on one image, or in series with a single resampling."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from .. import coords
from .._checks import check_count
from ..sampling.functional import Fill, Options
from ..sampling.kernels import Mode
from ..transforms import Compose, Transform
from .transformer import (
    Theta,
    ThetaHead,
    Transformer,
    features_of,
    starting_theta,
)

TILE_TOLERANCE = 1e-3  # of a window's centre


class ParallelTransformers(Transformer):
    """`num` transformers on one image, which is not copied: one per object or part.

    Args:
        localization: one module shared by all, or a sequence of `num`.
        transform: the family of warps.
        num: how many.
        size: of each output; None for the input's own.
        num_features: of each localization; None to read localization.num_features.
        initial_theta: (num, P); "tile" for windows that tile the image; None for zeros.
        check_finite, and the options from mode to backend: as in SpatialTransformer.

    Shape:
        (B, C, *S) -> (B, num, C, *size).

    Raises:
        ValueError: as SpatialTransformer, or a sequence of another length, or "tile" with a family
            that cannot look at any part of the image, as a LearnedBasis.

    Example:
        >>> localization = stn.nn.DenseLocalization((3, 32, 32))
        >>> parts = stn.ParallelTransformers(
        ...     localization, stn.Attention(scale=0.5), 4, (16, 16), initial_theta="tile")
        >>> parts(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 4, 3, 16, 16])

    Reference:
        Jaderberg et al. (2015), sections 3.4 and 4.3.
    """

    def __init__(
        self,
        localization: nn.Module | Sequence[nn.Module],
        transform: Transform,
        num: int,
        size: Sequence[int] | int | None = None,
        *,
        num_features: int | None = None,
        initial_theta: Theta | str | None = None,
        check_finite: bool | None = None,
        mode: Mode = "bilinear",
        padding_mode: str = "zeros",
        align_corners: bool = False,
        antialias: bool = False,
        gradient_blur_px: float = 0.0,
        fill: Fill = 0.0,
        backend: str | None = None,
    ):
        options = Options(
            mode, padding_mode, align_corners, antialias, gradient_blur_px, fill, backend
        )
        super().__init__(transform, size, check_finite, options)
        check_count(num, "num")
        if isinstance(initial_theta, str):
            if initial_theta != "tile":
                raise ValueError(f'initial_theta must be (num, P) or "tile", got {initial_theta!r}')
            start = tile_theta(transform, num)
        else:
            start = starting_theta(initial_theta, (num, transform.num_params))
        self.num = num
        self.localization = _listed(localization, num)
        rows = start.unsqueeze(1) if len(self.localization) > 1 else start.unsqueeze(0)
        self.head = nn.ModuleList(
            ThetaHead(features_of(module, num_features), row.flatten())
            for module, row in zip(self.localization, rows, strict=True)
        )

    def theta(self, x: Tensor) -> Tensor:
        """The parameters (B, num, P) that the layer picks for images x."""
        pairs = zip(self.localization, self.head, strict=True)
        theta = torch.cat([self._regressed(module, head, x) for module, head in pairs], -1)
        return self._checked(theta.unflatten(-1, (self.num, -1)))


class Cascade(Transformer):
    """`steps` transformers in series, each correcting the last, resampled once at the end.

    Step k's localization sees the original image resampled once through all earlier steps, at the
    input's size; nothing is ever resampled twice, so nothing blurs.

    Args:
        localization: one module, shared by all steps together with its regression layer, or a
            sequence of `steps`.
        transform: the family of warps of each step.
        steps: how many.
        size: of the output; None for the input's own.
        num_features: of each localization; None to read localization.num_features.
        initial_theta: (P,), of every step; None for zeros.
        check_finite, and the options from mode to backend: as in SpatialTransformer. antialias is
            for the output; what the localizations see on the way is at the input's own size.

    Shape:
        (B, C, *S) -> (B, C, *size); theta is (B, steps * P), that of Compose(step 1, step 2, …).

    Raises:
        ValueError: as SpatialTransformer, or a sequence of another length.

    Example:
        >>> localization = stn.nn.DenseLocalization((1, 28, 28))
        >>> layer = stn.Cascade(localization, stn.Similarity(), steps=2)
        >>> layer(torch.rand(4, 1, 28, 28)).shape
        torch.Size([4, 1, 28, 28])

    Reference:
        Lin and Lucey, Inverse Compositional Spatial Transformer Networks, 2017.
    """

    def __init__(
        self,
        localization: nn.Module | Sequence[nn.Module],
        transform: Transform,
        steps: int,
        size: Sequence[int] | int | None = None,
        *,
        num_features: int | None = None,
        initial_theta: Theta | None = None,
        check_finite: bool | None = None,
        mode: Mode = "bilinear",
        padding_mode: str = "zeros",
        align_corners: bool = False,
        antialias: bool = False,
        gradient_blur_px: float = 0.0,
        fill: Fill = 0.0,
        backend: str | None = None,
    ):
        options = Options(
            mode, padding_mode, align_corners, antialias, gradient_blur_px, fill, backend
        )
        super().__init__(transform, size, check_finite, options)
        check_count(steps, "steps")
        self.steps = steps
        self.localization = _listed(localization, steps)
        start = starting_theta(initial_theta, (transform.num_params,))
        self.head = nn.ModuleList(
            ThetaHead(features_of(module, num_features), start) for module in self.localization
        )

    def composed(self) -> Transform:
        return Compose(*[self.transform] * self.steps)

    def theta(self, x: Tensor) -> Tensor:
        """The parameters (B, steps * P) that the layer picks for images x."""
        seen, thetas = x, []
        for step in range(self.steps):
            which = step % len(self.localization)
            if thetas:
                earlier = Compose(*[self.transform] * step)
                seen = self._warp(x, earlier, torch.cat(thetas, -1), None, antialias=False)
            thetas.append(self._regressed(self.localization[which], self.head[which], seen))
        return self._checked(torch.cat(thetas, -1))


def param_groups(model: nn.Module, lr: float, localization_lr: float) -> list[dict]:
    """Parameter groups for an optimiser: localizations learn at their own rate.

    A transformer whose localization runs away samples outside the image, where there is no
    gradient to bring it back; a lower rate (x 0.1 down to x 1e-4) is the usual cure.

    Args:
        model: any module that contains transformer layers.
        lr: for everything else.
        localization_lr: for localizations, regression layers and what a transform learns.

    Returns:
        One or two groups that hold every parameter once.

    Example:
        >>> localization = stn.nn.DenseLocalization((1, 28, 28))
        >>> layer = stn.SpatialTransformer(localization, stn.Affine())
        >>> model = torch.nn.Sequential(layer, torch.nn.Flatten(), torch.nn.Linear(784, 10))
        >>> optimizer = torch.optim.AdamW(stn.param_groups(model, 1e-3, 1e-4))
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be an nn.Module, as its layers tell localizations apart, got "
            f"{type(model).__name__}; pass the model, not its parameters()"
        )
    layers = [module for module in model.modules() if isinstance(module, Transformer)]
    localizing = {
        id(parameter)
        for layer in layers
        for part in (layer.localization, layer.head, layer.transform)
        for parameter in _parameters(part)
    }
    slow = [p for p in model.parameters() if id(p) in localizing]
    rest = [p for p in model.parameters() if id(p) not in localizing]
    groups = [{"params": rest, "lr": lr}, {"params": slow, "lr": localization_lr}]
    return [group for group in groups if group["params"]]


def _parameters(module: Tensor | nn.Module) -> Iterable[nn.Parameter]:
    assert isinstance(module, nn.Module)
    return module.parameters()


def tile_theta(transform: Transform, num: int) -> Tensor:
    """theta (num, P) of windows that tile the image in rows, as near to square as they come."""
    columns = math.ceil(math.sqrt(num))
    rows = math.ceil(num / columns)
    target = coords.lattice_points((5,) * transform.dim)
    windows = []
    for row in range(rows):
        in_row = min(columns, num - row * columns)
        for column in range(in_row):
            size = torch.tensor([1 / in_row, 1 / rows] + [1.0] * (transform.dim - 2))
            place = torch.tensor([2 * column + 1.0, 2 * row + 1.0] + [1.0] * (transform.dim - 2))
            windows.append(target * size + place * size - 1)
    source = torch.stack(windows)
    theta = transform.fit(target, source)
    off = transform.map_points(theta, target).mean(1) - source.mean(1)
    if off.abs().max() > TILE_TOLERANCE:
        raise ValueError(
            f'initial_theta "tile" needs a family that can look at any part of the image, got '
            f"{transform!r}, which cannot; pass initial_theta (num, P) or None"
        )
    return theta.float()


def _listed(localization: nn.Module | Sequence[nn.Module], num: int) -> nn.ModuleList:
    if isinstance(localization, nn.Module) and not isinstance(localization, nn.ModuleList):
        return nn.ModuleList([localization])
    if len(localization) != num:
        raise ValueError(f"localization must be one module or {num}, got {len(localization)}")
    return nn.ModuleList(localization)
