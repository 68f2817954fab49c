"""Sampling an image at given coordinates: checks, broadcasting and layout, around a backend."""

import math
from collections.abc import Callable
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor

from .._checks import (
    check_choice,
    check_device,
    check_floating,
    full_precision,
    is_traced,
    shape_of,
    widen,
)
from ..places import Places, pixels_of
from . import antialias as aa
from . import antialias_ops, antialias_traced, blur, dispatch, kernels, ops, padding
from .kernels import Mode
from .ops import layout_of

Fill = float | Tensor
OUTSIDE_PX = -1e9


class Options(NamedTuple):
    """How to sample: the options that all public samplers, warps and layers share."""

    mode: Mode = "bilinear"
    padding_mode: str = "zeros"
    align_corners: bool = False
    antialias: bool = False
    gradient_blur_px: float = 0.0
    fill: Fill = 0.0
    backend: str | None = None

    def check(self) -> None:
        kernels.check_mode(self.mode)
        check_choice(self.padding_mode, padding.MODES, "padding_mode")
        if self.antialias:
            aa.check(self.mode)
        if not 0 <= self.gradient_blur_px < math.inf:
            raise ValueError(
                f"gradient_blur_px must be 0 or a positive width in px, got "
                f"{self.gradient_blur_px!r}"
            )


@full_precision
def grid_sample(
    input: Tensor,
    grid: Tensor,
    mode: Mode = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    *,
    antialias: bool = False,
    gradient_blur_px: float = 0.0,
    fill: Fill = 0.0,
    backend: str | None = None,
) -> Tensor:
    """Sample images at the points of a grid; a drop-in for torch.nn.functional.grid_sample.

    output[b, c, t] = sum_m input[b, c, m] prod_axis k(p_axis - m_axis), with p the place in pixels
    of grid[b, t] and k the kernel of `mode`.

    Args:
        input: (B, C, *S) images, any float type; 1-D, 2-D or 3-D.
        grid: (B, *T, dim) normalised points, (x, y[, z]) in the last axis, any float type; or
            (B, K, *T, dim): K grids for one image, which is not copied. B may be 1 in either.
        mode: "nearest" (ties to even), "bilinear", "bicubic" (a = -0.75), "lanczos3", "gaussian"
            (sigma 0.5 px, cut at 3 px) or a `stn.Kernel`; per axis, so in 3-D trilinear and
            tricubic. The weights of the last three are divided by their sum.
        padding_mode: "zeros", "border", "reflection" as torch; "mirror" about the centres of the
            edge pixels; "wrap" with the period of the image; "fill": taps outside read `fill`.
        align_corners: whether +-1 are the centres of the corner pixels, or (False) their edges.
        antialias: whether the kernel widens, direction by direction, where the grid shrinks the
            image; the shrinking is read from neighbouring points of the grid. Not with "nearest".
        gradient_blur_px: sigma >= 0, px; above 0 the gradient to the grid is that of the image
            blurred by a Gaussian of this width, while the values stay as they are.
        fill: a finite float, or a (C,) tensor. Points that are not finite read it in every mode.
        backend: None for the fastest that can run, "native" (CPU), "triton" (GPU), "torch" or
            "reference".

    Returns:
        (B, C, *T), or (B, K, C, *T); of input's type, channels_last where input is.

    Raises:
        ValueError, TypeError: shapes, types or options that do not fit.
        NotImplementedError: antialias under torch.jit.trace, and under torch.compile where there is
            no native kernel.

    Note:
        Differentiable in input, grid, fill and the parameters of a Kernel. Where bilinear has a
        kink, at pixel centres, the derivative is the right-hand one (eqs. 6-7). The nearest mode
        has a zero grid gradient. Half images are accumulated in float32 or wider; use a float32
        grid with them.

    Example:
        >>> image = torch.rand(1, 3, 8, 8)
        >>> grid = stn.Affine().grid(torch.zeros(1, 6), (8, 8))
        >>> torch.testing.assert_close(stn.grid_sample(image, grid), image)

    Reference:
        Jaderberg et al., Spatial Transformer Networks, 2015, eqs. 3-7.
    """
    dim, align_corners = check_input(input), bool(align_corners)  # torch's own default is None
    check_floating(grid, "grid")
    if grid.dim() not in (dim + 2, dim + 3) or grid.shape[-1] != dim:
        raise ValueError(
            f"for input {shape_of(input)} the grid must have shape (B, *T, {dim}) with {dim} axes "
            f"T, or (B, K, *T, {dim}), got {shape_of(grid)}"
        )
    values, lead, size = (
        widen(grid),
        tuple(grid.shape[: -dim - 1]),
        tuple(grid.shape[-dim - 1 : -1]),
    )
    if len(lead) == 2:
        values = values.flatten(0, 1)
    places = Places("grid", values.flatten(1, -2), size, lead, align_corners)
    slopes = aa.differences(places.pixels(input.shape[2:]), dim) if antialias else None
    options = Options(mode, padding_mode, align_corners, antialias, gradient_blur_px, fill, backend)
    return sample(input, places, options, slopes)


def sample(
    input: Tensor, places: Places, options: Options, jacobian: Tensor | None = None
) -> Tensor:
    """`grid_sample` at described places.

    `jacobian` d source px / d target px, which expands to (*lead, *size, dim, dim), for
    antialiasing.
    """
    options.check()
    if not options.gradient_blur_px:
        return _sample(input, places, options, jacobian)
    # The values of the image, the slopes of a smoother one.
    still = places._replace(values=places.values.detach())
    shown = _sample(input, still, options, None if jacobian is None else jacobian.detach())
    fill = options.fill.detach() if isinstance(options.fill, Tensor) else options.fill
    level = _check_fill(fill, input)
    smooth, shift = blur.blurred(
        input, options.gradient_blur_px, options.padding_mode, options.align_corners, level
    )
    plain = Options("bilinear", options.padding_mode, options.align_corners, fill=fill)

    def read(at: Places) -> Tensor:
        px = at.pixels(input.shape[2:]).flatten(len(at.lead), -2).flatten(0, -3) + shift
        return _sample(smooth, at._replace(kind="px", values=px), plain, None)

    slope = read(places)
    # Takes off its value, and the image's gradient, but not the mixed derivative.
    same = read(still) if input.requires_grad else slope.detach()
    return shown + (slope - same).to(shown.dtype)


def _sample(input: Tensor, places: Places, options: Options, jacobian: Tensor | None) -> Tensor:
    batch = _common_batch(input.shape[0], places.lead[0])
    check_device(input, "input", places.values, "its theta, matrix, flow or grid")
    call = dispatch.call_of(input, places, options.mode, options.padding_mode, options.antialias)
    backend = dispatch.choose(call, options.backend)
    if backend in dispatch.FUSED:
        return _fused(input, places, options, jacobian, batch)
    if options.antialias and not torch.compiler.is_exporting():
        aa.check_eager()
    return _at_points(input, places, options, jacobian, batch, dispatch.POINTWISE[backend])


def _fused(
    input: Tensor, places: Places, options: Options, jacobian: Tensor | None, batch: int
) -> Tensor:
    """By an operator that takes described places, or, antialiased, places and footprints."""
    _, values, size, lead, align_corners = places
    if lead[0] != batch:
        values = values.unflatten(0, lead).expand(batch, *lead[1:], *values.shape[1:])
        values = values.flatten(0, len(lead) - 1)
    where = size, places.kind, align_corners
    mode = options.mode
    assert isinstance(mode, str)
    if jacobian is None:

        def read(image: Tensor, padding_mode: str) -> Tensor:
            return ops.sample(image, values, *where, mode, padding_mode)
    else:
        px = pixels_of(places.kind, values, size, input.shape[2:], align_corners)
        inverse = antialias_ops.footprint(jacobian, input.shape[2:])
        inverse = inverse.expand(batch, *inverse.shape[1:]).flatten(0, len(lead) - 1)
        inverse = inverse.flatten(1, -3)  # one for all targets, or one for each

        def read(image: Tensor, padding_mode: str) -> Tensor:
            out = antialias_ops.sample(image, px, inverse, size, mode, padding_mode, align_corners)
            return out.contiguous(memory_format=layout_of(input))

    if _is_zero(options.fill):
        padding_mode = "zeros" if options.padding_mode == "fill" else options.padding_mode
        out = read(input, padding_mode)
    else:
        level = _check_fill(options.fill, input).to(widen(input).dtype)
        level = level.view(-1, *[1] * len(size))
        ones = torch.ones_like(input[:1, :1], dtype=torch.float64)
        if options.padding_mode == "fill":
            cover = read(ones, "zeros")
            out = (read(widen(input), "zeros") + level * (1 - cover)).to(input.dtype)
        else:  # `fill` is for points that are not finite
            out = read(input, options.padding_mode)
            finite = ops.sample(ones, values.detach(), *where, "nearest", "border")
            out = torch.where(finite == 1, out, level.to(out.dtype))
    return out if len(lead) == 1 else out.unflatten(0, (batch, lead[1]))


def _at_points(
    input: Tensor,
    places: Places,
    options: Options,
    jacobian: Tensor | None,
    batch: int,
    run: Callable[..., Tensor],
) -> Tensor:
    """By a function of pixel coordinates."""
    mode, padding_mode, align_corners, antialias, _, fill, _ = options
    px, size = places.pixels(input.shape[2:]), places.size
    dim = len(size)
    many = len(places.lead) == 2
    channels = input.shape[1]

    # One image under many points, never copied: its batch becomes part of the points.
    shared = input.shape[0] == 1 and batch > 1
    image = input if input.shape[0] in (1, batch) else input.expand(batch, *input.shape[1:])
    points = math.prod(px.shape[1:-1]) * (batch if shared else 1)

    def per_point(values: Tensor, *own: int) -> Tensor:
        full = values.expand(px.shape[0] if shared else batch, *px.shape[1:-1], *own)
        return full.reshape(1 if shared else batch, points, *own)

    flat = per_point(px, dim)
    # Where outside reads `fill` anyway, NaN need only be moved there; infinite points are there.
    moved = padding_mode == "fill" or (padding_mode == "zeros" and _is_zero(fill))
    finite = None if moved else flat.isfinite().all(-1, keepdim=True)
    if finite is None:
        flat = torch.where(flat == flat, flat, OUTSIDE_PX)
    else:
        flat = torch.where(finite, flat, 0)
    filling = _check_fill(fill, image)
    if antialias and image.numel() and flat.numel():
        assert jacobian is not None
        by = antialias_traced if torch.compiler.is_exporting() else aa
        inverse, reach = by.footprints(jacobian, input.shape[2:])
        shape = per_point(inverse, dim, dim), per_point(reach, dim)
        out = by.sample(image, flat, *shape, mode, padding_mode, align_corners, filling)
    else:
        out = run(image, flat, mode, padding_mode, align_corners, filling)
    if finite is not None:
        out = torch.where(finite.mT, out, filling.to(out.dtype).unsqueeze(-1))

    lead = (batch, *places.lead[1:])
    out = out.view(out.shape[0], channels, *(lead if shared else lead[1:]), *size)
    if shared:
        out = out.squeeze(0).movedim(0, len(lead))
    elif many:
        out = out.transpose(1, 2)
    if many:
        return out.contiguous()
    return out.contiguous(memory_format=layout_of(input))


def check_input(input: Tensor) -> int:
    """The number of spatial axes of an image; raises for what is none."""
    check_floating(input, "input")
    dim = input.dim() - 2
    if dim not in (1, 2, 3):
        raise ValueError(
            f"input must have shape (B, C, W), (B, C, H, W) or (B, C, D, H, W), "
            f"got {shape_of(input)}"
        )
    if 0 in input.shape[2:]:
        raise ValueError(
            f"input must have at least one pixel along each axis, got {shape_of(input)}"
        )
    return dim


def _common_batch(images: int, points: int) -> int:
    if images != points and 1 not in (images, points):
        raise ValueError(
            f"the batch of the images and that of the points or theta must agree or be 1, got "
            f"{images} and {points}; for K warps of each image pass theta (B, K, P) or a grid "
            "(B, K, *T, dim)"
        )
    return points if images == 1 else images


def _check_fill(fill: Fill, image: Tensor) -> Tensor:
    if isinstance(fill, Tensor):
        if fill.shape != (image.shape[1],):
            raise ValueError(
                f"fill must be a float or a tensor of shape (C,) = ({image.shape[1]},), "
                f"got {shape_of(fill)}"
            )
        if fill.device.type == "cpu" and not is_traced() and not bool(fill.isfinite().all()):
            raise ValueError(f"fill must be finite, got {fill.tolist()}")
        return widen(fill).to(image.device)
    if not isinstance(fill, Real):
        raise TypeError(f"fill must be a float or a tensor of shape (C,), got {fill!r}")
    if not math.isfinite(fill):
        raise ValueError(f"fill must be finite, got {fill!r}; warp a mask to mark what is outside")
    return torch.full((1,), fill, dtype=torch.float64, device=image.device)


def _is_zero(fill: Fill) -> bool:
    return isinstance(fill, Real) and bool(fill == 0)
