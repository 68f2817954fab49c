"""Warping images by a transform, by a matrix or by a flow."""

from collections.abc import Sequence

import torch
from torch import Tensor

from . import coords, linalg
from ._checks import check_choice, check_floating, check_size, full_precision, shape_of, widen
from .sampling.functional import Fill, sample
from .transforms import Transform
from .transforms.projective import homogeneous_displacement, in_front


@full_precision
def warp(
    input: Tensor,
    transform: Transform,
    theta: Tensor,
    size: Sequence[int] | int | None = None,
    *,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
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
    input_size = _check(input, repr(transform), transform.dim)
    size = input_size if size is None else check_size(size, transform.dim)
    check_floating(theta, "theta")
    many = theta.dim() == 3
    rows = theta.flatten(0, 1) if many else theta
    px = transform.source_pixels(rows, size, input_size, align_corners)
    px = px.unflatten(0, theta.shape[:2]) if many else px
    px = px.unflatten(-2, size)
    return sample(input, px, mode, padding_mode, align_corners, fill, backend)


@full_precision
def warp_matrix(
    input: Tensor,
    matrix: Tensor,
    size: Sequence[int] | int | None = None,
    *,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    fill: Fill = 0.0,
    backend: str | None = None,
) -> Tensor:
    """Warp images by matrices in normalised coordinates, target -> source, as affine_grid's.

    Args:
        input: (B, C, H, W) or (B, C, D, H, W), any float type.
        matrix: affine (B, 2, 3) or (B, 3, 4), projective (B, 3, 3) or (B, 4, 4).
        size, mode, padding_mode, align_corners, fill, backend: as in `warp`.

    Returns:
        (B, C, *size). Points with w <= 0 under a projective matrix read `fill`.

    Raises:
        ValueError, TypeError: shapes, types or options that do not fit.

    Example:
        >>> image = torch.rand(1, 1, 5, 5)
        >>> mirror = torch.tensor([[[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
        >>> torch.testing.assert_close(stn.warp_matrix(image, mirror), image.flip(-1))
    """
    input_size = _check(input, "a matrix")
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
    points = coords.target_points(size, align_corners, matrix.dtype, matrix.device).unsqueeze(0)
    if matrix.shape[1] == dim:
        shift = linalg.apply_affine(matrix - eye, points)
    else:
        shift = homogeneous_displacement(matrix - eye, points)
        shift = torch.where(in_front(matrix - eye, points).unsqueeze(-1), shift, torch.nan)
    px = coords.shifted_pixels(shift, size, input_size, align_corners).unflatten(1, size)
    return sample(input, px, mode, padding_mode, align_corners, fill, backend)


@full_precision
def warp_flow(
    input: Tensor,
    flow: Tensor,
    *,
    unit: str = "px",
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    fill: Fill = 0.0,
    backend: str | None = None,
) -> Tensor:
    """Warp images by a dense flow: output(target) = input(target + flow(target)).

    Args:
        input: (B, C, H, W) or (B, C, D, H, W), any float type.
        flow: (B, *T, dim), the displacement (x, y[, z]) of the source from the target's place.
        unit: of the flow: "px", pixels of the input, or "normalized".
        mode, padding_mode, align_corners, fill, backend: as in `warp`.

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
    input_size = _check(input, "a flow")
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
    shift = widen(flow).flatten(1, -2)
    if unit == "px":
        px = coords.identity_pixels(size, input_size, align_corners, shift.device) + shift
    else:
        px = coords.shifted_pixels(shift, size, input_size, align_corners)
    return sample(input, px.unflatten(1, size), mode, padding_mode, align_corners, fill, backend)


def _check(input: Tensor, owner: str, dim: int | None = None) -> tuple[int, ...]:
    """The image's spatial size; `dim` axes where that is given, else 2 or 3."""
    check_floating(input, "input")
    if input.dim() - 2 not in ((2, 3) if dim is None else (dim,)):
        axes = {2: "(B, C, H, W)", 3: "(B, C, D, H, W)", None: "(B, C, H, W) or (B, C, D, H, W)"}
        raise ValueError(f"{owner} warps images of shape {axes[dim]}, got {shape_of(input)}")
    return tuple(input.shape[2:])
