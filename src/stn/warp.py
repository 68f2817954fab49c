"""Warping images by a transform, by a matrix or by a flow."""

from collections.abc import Sequence

import torch
from torch import Tensor

from . import coords, linalg
from ._checks import check_choice, check_floating, check_size, full_precision, shape_of, widen
from .linalg import NEAREST_W
from .places import Places
from .sampling.antialias import differences
from .sampling.functional import Fill, Options, check_input, sample
from .sampling.kernels import Mode
from .transforms import Transform
from .transforms.base import check_transform
from .transforms.linear import LinearTransform


@full_precision
def warp(
    input: Tensor,
    transform: Transform,
    theta: Tensor,
    size: Sequence[int] | int | None = None,
    *,
    mode: Mode = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    antialias: bool = False,
    gradient_blur_px: float = 0.0,
    fill: Fill = 0.0,
    backend: str | None = None,
) -> Tensor:
    """Warp images: output(target) = input(T_theta(target)).

    Args:
        input: (B, C, H, W) or (B, C, D, H, W), any float type.
        transform: the family T, of the same dimension.
        theta: (B, P) with P = transform.num_params; or (B, K, P), K warps of each image, which is
            not copied. B may be 1 in either. Computed in float32 or wider, under autocast too.
        size: output (H, W) or (D, H, W); None for the input's own.
        mode, padding_mode, align_corners, fill, backend: as in `grid_sample`.
        antialias, gradient_blur_px: as in `grid_sample`; the shrinking is read from the transform.

    Returns:
        (B, C, *size), or (B, K, C, *size).

    Raises:
        ValueError, TypeError: shapes, types or options that do not fit.

    Note:
        Differentiable in input, theta and fill. theta = 0 returns the image itself at any size to
        1e-5 in float32, which a grid in normalised float32 coordinates does not. Samples that are
        not finite read `fill`, with zero gradients.

    Example:
        >>> image = torch.rand(2, 3, 28, 28)
        >>> theta = torch.tensor([[0.5, 0.0, 0.0], [0.0, 0.0, 0.0]])  # (angle, tx, ty)
        >>> stn.warp(image, stn.Rigid(), theta).shape
        torch.Size([2, 3, 28, 28])

    Reference:
        Jaderberg et al., Spatial Transformer Networks, 2015, section 3.
    """
    check_transform(transform)
    input_size = check_images(input, transform, transform.dim)
    size = input_size if size is None else check_size(size, transform.dim)
    check_floating(theta, "theta")
    places = transform.places(theta, size, align_corners)
    slopes = _slopes(transform, theta, size, input_size, align_corners) if antialias else None
    options = Options(mode, padding_mode, align_corners, antialias, gradient_blur_px, fill, backend)
    return sample(input, places, options, slopes)


@full_precision
def warp_matrix(
    input: Tensor,
    matrix: Tensor,
    size: Sequence[int] | int | None = None,
    *,
    mode: Mode = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    antialias: bool = False,
    gradient_blur_px: float = 0.0,
    fill: Fill = 0.0,
    backend: str | None = None,
) -> Tensor:
    """Warp images by matrices in normalised coordinates, target -> source, as affine_grid's.

    Args:
        input: (B, C, H, W) or (B, C, D, H, W), any float type.
        matrix: affine (B, 2, 3) or (B, 3, 4), projective (B, 3, 3) or (B, 4, 4).
        size, and the options from mode to backend: as in `warp`.

    Returns:
        (B, C, *size). Points with w <= 0 under a projective matrix read `fill`.

    Raises:
        ValueError, TypeError: shapes, types or options that do not fit.

    Example:
        >>> image = torch.rand(1, 1, 5, 5)
        >>> mirror = torch.tensor([[[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
        >>> torch.testing.assert_close(stn.warp_matrix(image, mirror), image.flip(-1))
    """
    input_size = check_images(input, "a matrix")
    dim = len(input_size)
    check_floating(matrix, "matrix")
    if matrix.dim() != 3 or matrix.shape[1:] not in ((dim, dim + 1), (dim + 1, dim + 1)):
        raise ValueError(
            f"for input {shape_of(input)} the matrix must be (B, {dim}, {dim + 1}) or "
            f"(B, {dim + 1}, {dim + 1}), got {shape_of(matrix)}"
        )
    size = input_size if size is None else check_size(size, dim)
    matrix = widen(matrix)
    eye = torch.eye(*matrix.shape[1:], dtype=matrix.dtype, device=matrix.device)
    kind = "affine" if matrix.shape[1] == dim else "projective"
    places = Places(kind, matrix - eye, size, (matrix.shape[0],), align_corners)
    slopes = None
    if antialias:
        matrix = matrix.double()
        points = coords.target_points(size, align_corners, matrix.dtype, matrix.device)
        slopes = _matrix_jacobian(matrix, points.unsqueeze(0)) - eye[:dim, :dim]
        slopes = coords.jacobian_pixels(slopes, size, input_size, align_corners)
        slopes = slopes.unflatten(1, size if slopes.shape[1] > 1 else (1,) * dim)
    options = Options(mode, padding_mode, align_corners, antialias, gradient_blur_px, fill, backend)
    return sample(input, places, options, slopes)


@full_precision
def warp_flow(
    input: Tensor,
    flow: Tensor,
    *,
    unit: str = "px",
    mode: Mode = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    antialias: bool = False,
    gradient_blur_px: float = 0.0,
    fill: Fill = 0.0,
    backend: str | None = None,
) -> Tensor:
    """Warp images by a dense flow: output(target) = input(target + flow(target)).

    Args:
        input: (B, C, H, W) or (B, C, D, H, W), any float type.
        flow: (B, *T, dim), the displacement (x, y[, z]) of the source from the target's place.
        unit: of the flow: "px", pixels of the input, or "normalized".
        The options from mode to backend: as in `warp`.

    Returns:
        (B, C, *T).

    Raises:
        ValueError, TypeError: shapes, types or options that do not fit.

    Example:
        >>> image = torch.arange(4.0).view(1, 1, 1, 4)
        >>> flow = torch.tensor([1.0, 0.0]).expand(1, 1, 4, 2)  # read one pixel to the right
        >>> stn.warp_flow(image, flow).flatten().tolist()
        [1.0, 2.0, 3.0, 0.0]
    """
    input_size = check_images(input, "a flow")
    dim = len(input_size)
    check_floating(flow, "flow")
    check_choice(unit, ("px", "normalized"), "unit")
    if flow.dim() != dim + 2 or flow.shape[-1] != dim:
        hint = ""
        if flow.dim() == dim + 2 and flow.shape[1] == dim:
            hint = "; this one looks channel-first: use flow.movedim(1, -1)"
        raise ValueError(
            f"for input {shape_of(input)} the flow must have shape (B, *T, {dim}) with the "
            f"components in the last axis, got {shape_of(flow)}{hint}"
        )
    size = tuple(flow.shape[1:-1])
    kind = "flow_px" if unit == "px" else "flow"
    places = Places(kind, widen(flow).flatten(1, -2), size, (flow.shape[0],), align_corners)
    slopes = None
    if antialias:
        # Of the shift alone, so that an output one pixel wide knows how much it shrinks.
        base = coords.identity_pixels(size, input_size, align_corners, flow.device)
        shift = places.pixels(input_size) - base.unflatten(0, size)
        slopes = differences(shift, dim)
        slopes = slopes + coords.jacobian_pixels(
            torch.zeros_like(slopes), size, input_size, align_corners
        )
    options = Options(mode, padding_mode, align_corners, antialias, gradient_blur_px, fill, backend)
    return sample(input, places, options, slopes)


@full_precision
def splat(
    values: Tensor,
    transform: Transform,
    theta: Tensor,
    size: Sequence[int] | int,
    *,
    mode: Mode = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    antialias: bool = False,
) -> Tensor:
    """Spread values back to where a warp read them: the adjoint of `warp`.

    splat(values)[m] = sum_t k(T_theta(t) - m) values[t], so that for every image x
    <warp(x), values> = <x, splat(values)>.

    Args:
        values: (B, C, *T), any float type; what a warp to size T would return.
        transform: the family T, target -> source as in `warp`.
        theta: (B, P); or (B, K, P) with values (B, K, C, *T), which are summed over K. B may be 1.
        size: of the image that the warp would read, (H, W) or (D, H, W).
        mode, padding_mode, align_corners, antialias: as in `warp`. What falls outside is dropped
            under "zeros" and "fill" and put where the warp would have read under the others.

    Returns:
        (B, C, *size), of the type of values. Sums: for means divide by the splat of ones.

    Raises:
        ValueError, TypeError: shapes, types or options that do not fit.

    Note:
        Differentiable in values, where the derivative is `warp`, theta and a Kernel's parameters.
        Values at points that are not finite are dropped.

    Example:
        >>> theta = torch.tensor([[0.5, 0.0]])  # reads one pixel to the right
        >>> values = torch.tensor([[[[1.0, 2.0, 3.0, 4.0]]]])
        >>> stn.splat(values, stn.Translation(), theta, (1, 4)).flatten().tolist()
        [0.0, 1.0, 2.0, 3.0]
    """
    size = check_size(size, transform.dim)
    check_floating(values, "values")
    check_floating(theta, "theta")
    lead = theta.dim() - 1
    if theta.dim() not in (2, 3) or values.dim() != lead + 1 + transform.dim:
        raise ValueError(
            f"values must have shape (B, C, *T) with {transform.dim} axes T for theta (B, P), or "
            f"(B, K, C, *T) for theta (B, K, P), got {shape_of(values)} and {shape_of(theta)}"
        )
    batch, target = values.shape[0], tuple(values.shape[lead + 1 :])
    if theta.shape[0] not in (1, batch) or theta.shape[1:-1] != values.shape[1:lead]:
        raise ValueError(
            f"values and theta must agree in their batch, got {shape_of(values)} and "
            f"{shape_of(theta)}"
        )

    def read(image: Tensor) -> Tensor:
        return warp(
            image,
            transform,
            theta,
            target,
            mode=mode,
            padding_mode=padding_mode,
            align_corners=align_corners,
            antialias=antialias,
        )

    wide = widen(values)
    image = wide.new_zeros(batch, values.shape[lead], *size)
    return torch.func.vjp(read, image)[1](wide)[0].to(values.dtype)


def check_images(input: Tensor, owner: object, dim: int | None = None) -> tuple[int, ...]:
    """The image's spatial size; `dim` axes where that is given, else 2 or 3."""
    check_floating(input, "input")
    if input.dim() - 2 not in ((2, 3) if dim is None else (dim,)):
        axes = {2: "(B, C, H, W)", 3: "(B, C, D, H, W)", None: "(B, C, H, W) or (B, C, D, H, W)"}
        raise ValueError(f"{owner} warps images of shape {axes[dim]}, got {shape_of(input)}")
    check_input(input)
    return tuple(input.shape[2:])


def _slopes(
    transform: Transform,
    theta: Tensor,
    size: tuple[int, ...],
    input_size: tuple[int, ...],
    align_corners: bool,
) -> Tensor:
    """d source px / d target px (B, [K,] *size, dim, dim), 1 along T where it is constant."""
    rows = widen(theta).flatten(0, -2)
    constant = isinstance(transform, LinearTransform)
    if not (constant and transform.linear_in_theta):
        # As in Transform.places: a row that is not finite would turn its zero gradient into NaN.
        rows = rows.masked_fill(~rows.isfinite().all(-1, keepdim=True), 0)
    if constant:
        slopes = transform.offset(rows)[:, None, :, : transform.dim]
    else:
        points = coords.target_points(size, align_corners, rows.dtype, rows.device)
        slopes = transform.jacobian(rows, points)
        slopes = slopes - torch.eye(transform.dim, dtype=slopes.dtype, device=slopes.device)
    slopes = coords.jacobian_pixels(slopes, size, input_size, align_corners)
    slopes = slopes.unflatten(1, (1,) * len(size) if constant else size)
    return slopes.unflatten(0, theta.shape[:-1])


def _matrix_jacobian(matrix: Tensor, points: Tensor) -> Tensor:
    """d source_i / d target_j (B, 1 or N, dim, dim) of affine or projective matrices."""
    dim = points.shape[-1]
    # A row that is not finite would turn its zero gradient into NaN.
    matrix = matrix.masked_fill(~matrix.isfinite().flatten(1).all(-1)[:, None, None], 0)
    if matrix.shape[1] == dim:
        return matrix[:, None, :, :dim]
    hom = linalg.apply_affine(matrix, points).unsqueeze(-1)
    w = hom[..., -1:, :]
    front = w > NEAREST_W
    w = torch.where(front, w, 1)
    source = torch.where(front, hom[..., :-1, :], 0) / w
    slope = (matrix[:, None, :dim, :dim] - source * matrix[:, None, dim:, :dim]) / w
    return torch.where(front, slope, 0)
