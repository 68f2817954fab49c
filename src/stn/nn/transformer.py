"""The spatial transformer: a layer that looks at its input, picks a warp, and applies it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._checks import (
    check_size,
    full_precision,
    is_traced,
    keep_wide,
    shape_of,
    wide_dtype,
    widen,
)
from ..sampling.functional import Fill, Options
from ..sampling.kernels import Mode
from ..transforms import Transform
from ..transforms.base import check_transform
from ..warp import check_images, warp

Theta = Tensor | Sequence[float]


@dataclass(frozen=True)
class WarpResult:
    """What a transformer did: `output` (B, [K,] C, *size), `theta`, and on demand the `grid`."""

    output: Tensor
    theta: Tensor
    transform: Transform
    size: tuple[int, ...]
    align_corners: bool

    @property
    def grid(self) -> Tensor:
        """Where the output was read: (B, [K,] *size, dim), normalised."""
        rows = self.theta.flatten(0, -2)
        grid = self.transform.grid(rows, self.size, self.align_corners)
        return grid.unflatten(0, self.theta.shape[:-1])


class ThetaHead(nn.Linear):
    """The last layer, features (B, F) -> theta (B, P): zero weights, bias the initial theta.

    It stays in float32 in a half-precision model and under autocast: half theta moves pixels.
    """

    def __init__(self, num_features: int, initial_theta: Tensor):
        super().__init__(num_features, len(initial_theta), dtype=wide_dtype())
        with torch.no_grad():
            self.weight.zero_()
            self.bias.copy_(initial_theta)

    @full_precision
    def forward(self, input: Tensor) -> Tensor:
        return F.linear(widen(input).to(self.weight.dtype), self.weight, self.bias)

    def _apply(self, fn, recurse=True):
        return super()._apply(lambda tensor: keep_wide(tensor, fn), recurse)


class Transformer(nn.Module):
    """What all transformer layers share: options, heads, the theta check and `inspect`.

    A layer implements `theta` and `composed`, the transform that its theta belongs to.
    """

    def __init__(
        self,
        transform: Transform,
        size: Sequence[int] | int | None,
        check_finite: bool | None,
        options: Options,
    ):
        super().__init__()
        check_transform(transform)
        options.check()
        self.transform = transform
        self.size = None if size is None else check_size(size, transform.dim)
        self.check_finite = check_finite
        self.mode: Mode = options.mode  # a Kernel becomes a submodule: it is trained
        self.padding_mode, self.align_corners = options.padding_mode, options.align_corners
        self.antialias, self.gradient_blur_px = options.antialias, options.gradient_blur_px
        self.fill, self.backend = options.fill, options.backend

    def theta(self, x: Tensor) -> Tensor:
        """The parameters that the layer picks for images x."""
        raise NotImplementedError

    def composed(self) -> Transform:
        """The transform that `theta` parametrises."""
        return self.transform

    def warp(self, x: Tensor, theta: Tensor) -> Tensor:
        return self._warp(x, self.composed(), theta, self.size, self.antialias)

    def _warp(
        self,
        x: Tensor,
        transform: Transform,
        theta: Tensor,
        size: Sequence[int] | None,
        antialias: bool,
    ) -> Tensor:
        return warp(
            x,
            transform,
            theta,
            size,
            mode=self.mode,
            padding_mode=self.padding_mode,
            align_corners=self.align_corners,
            antialias=antialias,
            gradient_blur_px=self.gradient_blur_px,
            fill=self.fill,
            backend=self.backend,
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.warp(x, self.theta(x))

    def inspect(self, x: Tensor) -> WarpResult:
        """As forward, with theta and the grid."""
        theta = self.theta(x)
        size = self.size or tuple(x.shape[2:])
        output = self.warp(x, theta)
        return WarpResult(output, theta, self.composed(), size, self.align_corners)

    def _regressed(self, localization: nn.Module, head: nn.Module, x: Tensor) -> Tensor:
        """theta (B, P), or (B, K P), from what a localization says of images x."""
        assert isinstance(head, ThetaHead)
        check_images(x, self.transform, self.transform.dim)
        features = localization(x)
        wanted = x.shape[0], head.in_features
        if not isinstance(features, Tensor) or features.shape != wanted:
            got = shape_of(features) if isinstance(features, Tensor) else type(features).__name__
            flat = isinstance(features, Tensor) and features.dim() == 2
            raise ValueError(
                f"localization must return {wanted} features for {shape_of(x)}, got {got}; "
                + ("num_features says how many" if flat else "end it with nn.Flatten()")
            )
        return head(features)

    def _checked(self, theta: Tensor) -> Tensor:
        check = self.check_finite
        if check is None:
            check = self.training and theta.device.type == "cpu" and not is_traced()
        if check and not bool(theta.isfinite().all()):
            rows = theta.flatten(1).isfinite().all(-1)
            raise ValueError(
                f"theta of sample {int((~rows).nonzero()[0])} in the batch is not finite: lower "
                "the localization's learning rate (stn.param_groups) or clip its gradient; "
                "check_finite=False lets it pass"
            )
        return theta

    def extra_repr(self) -> str:
        return f"size={self.size}, mode={self.mode!r}, padding_mode={self.padding_mode!r}"


class SpatialTransformer(Transformer):
    """Learns where to look: forward(x) = warp(x, transform, theta(x)).

    Args:
        localization: any module (B, C, *S) -> (B, F).
        transform: the family of warps, such as stn.Affine().
        size: of the output, (H, W) or (D, H, W); None for the input's own.
        num_features: F; None to read localization.num_features.
        initial_theta: (P,) where training starts; None for zeros, the identity.
        check_finite: whether a theta that is not finite raises. None: in eager training on CPU.
        The options from mode to backend: as in `stn.warp`; a `stn.Kernel` is trained too.

    Shape:
        (B, C, *S) -> (B, C, *size).

    Raises:
        ValueError: F unknown, localization output of another shape, theta not finite.

    Note:
        The layer adds the regression of theta itself: zero weights, so that the network starts at
        `initial_theta`, and float32 even in a bfloat16 model. Give it its own learning rate by
        `stn.param_groups`. Zero padding is not background on normalised images: set `fill`, or
        normalise after this layer.

    Example:
        >>> localization = stn.nn.DenseLocalization((1, 28, 28))
        >>> layer = stn.SpatialTransformer(localization, stn.Affine())
        >>> x = torch.rand(4, 1, 28, 28)
        >>> torch.testing.assert_close(layer(x), x)  # it starts at the identity

    Reference:
        Jaderberg et al., Spatial Transformer Networks, 2015, section 3.
    """

    def __init__(
        self,
        localization: nn.Module,
        transform: Transform,
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
        self.localization = localization
        self.head = ThetaHead(
            features_of(localization, num_features),
            starting_theta(initial_theta, (transform.num_params,)),
        )

    def theta(self, x: Tensor) -> Tensor:
        """The parameters (B, P) that the layer picks for images x."""
        return self._checked(self._regressed(self.localization, self.head, x))


def features_of(localization: nn.Module, num_features: int | None) -> int:
    """F, as given or as the localization says."""
    found = getattr(localization, "num_features", None) if num_features is None else num_features
    if not isinstance(found, int) or found < 1:
        raise ValueError(
            f"how many features {type(localization).__name__} returns per image is not known: pass "
            "num_features, or set localization.num_features"
        )
    return found


def starting_theta(initial: Theta | None, shape: tuple[int, ...]) -> Tensor:
    """The initial theta as a float32 tensor of `shape`, zeros for None."""
    if initial is None:
        return torch.zeros(shape)
    if isinstance(initial, str):
        raise ValueError(f"initial_theta must have shape {shape}, got {initial!r}")
    theta = torch.as_tensor(initial, dtype=torch.float32)
    if theta.shape != shape:
        raise ValueError(f"initial_theta must have shape {shape}, got {shape_of(theta)}")
    return theta
