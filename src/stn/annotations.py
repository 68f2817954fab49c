"""What travels with an image: which pixels are valid, label maps and boxes, by the same theta."""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from . import coords
from ._checks import check_floating, check_size, full_precision, shape_of, widen
from .sampling import padding
from .transforms import Transform

TOLERANCE_PX = 1e-3  # rounding of a float32 theta on an image of thousands of pixels
OUTSIDE_PX = -1e9


@full_precision
def valid_mask(
    transform: Transform,
    theta: Tensor,
    size: Sequence[int] | int,
    input_size: Sequence[int] | int,
    *,
    align_corners: bool = False,
    margin_px: float = 0.0,
) -> Tensor:
    """Which target pixels of a warp read inside the image, untouched by its padding.

    A pixel is valid where its source lies between the centres of the outermost pixels, less the
    margin, to a thousandth of a pixel.

    Args:
        transform, theta: as in `warp`: theta (B, P) or (B, K, P).
        size: of the output.
        input_size: of the image that is read.
        align_corners: as in `warp`.
        margin_px: how far inside; 0 suits "bilinear", 1 "bicubic", 2 "lanczos3", -0.5 "nearest".

    Returns:
        (B, *size) or (B, K, *size), bool. Points that are not finite are not valid.

    Raises:
        ValueError, TypeError: shapes or types that do not fit.

    Note:
        Not differentiable: a mask is a choice.

    Example:
        >>> one_pixel = torch.tensor([[0.5, 0.0]])
        >>> stn.valid_mask(stn.Translation(), one_pixel, (1, 4), (1, 4)).flatten().tolist()
        [True, True, True, False]
    """
    input_size = check_size(input_size, transform.dim, "input_size")
    px = transform.places(theta.detach(), size, align_corners).pixels(input_size)
    last = torch.tensor([n - 1.0 for n in reversed(input_size)], dtype=px.dtype, device=px.device)
    low, high = margin_px - TOLERANCE_PX, last - margin_px + TOLERANCE_PX
    return ((px >= low) & (px <= high)).all(-1)


@full_precision
def warp_labels(
    labels: Tensor,
    transform: Transform,
    theta: Tensor,
    size: Sequence[int] | int | None = None,
    *,
    fill: int | bool = 0,
    align_corners: bool = False,
) -> Tensor:
    """Warp label maps or masks: every target pixel takes the nearest label, none is blended.

    Args:
        labels: (B, H, W) or (B, D, H, W), any integer type or bool.
        transform, theta: as in `warp`: theta (B, P) or (B, K, P).
        size: of the output; None for the labels' own.
        fill: the label outside, and where the source is not finite; must fit the type of labels.
        align_corners: as in `warp`.

    Returns:
        (B, *size) or (B, K, *size), of the type of labels. Exact for every value: labels do not
        pass through floating point.

    Raises:
        TypeError: labels that are not integers.
        ValueError: shapes that do not fit, or a fill outside the type's range.

    Note:
        Not differentiable: labels are not numbers.

    Example:
        >>> labels = torch.tensor([[[7, 0, 9]]])
        >>> one_pixel = torch.tensor([[2 / 3, 0.0]])
        >>> stn.warp_labels(labels, stn.Translation(), one_pixel, fill=255).flatten().tolist()
        [0, 9, 255]
    """
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        kind = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(
            f"labels must be a tensor of integers or bool, got {kind}: for images use stn.warp, "
            'with mode="nearest" where values must not blend'
        )
    if labels.dim() != transform.dim + 1:
        axes = "(B, H, W)" if transform.dim == 2 else "(B, D, H, W)"
        raise ValueError(f"{transform!r} warps labels of shape {axes}, got {shape_of(labels)}")
    outside = _label(fill, labels)
    input_size = tuple(labels.shape[1:])
    size = input_size if size is None else size
    px = transform.places(theta.detach(), size, align_corners).pixels(input_size)
    batch = px.shape[0] if labels.shape[0] == 1 else labels.shape[0]
    if px.shape[0] not in (1, batch):
        raise ValueError(
            f"labels and theta must agree in their batch or have 1, got {labels.shape[0]} and "
            f"{px.shape[0]}"
        )
    px = torch.where(px.isfinite().all(-1, keepdim=True), px, OUTSIDE_PX)
    index = torch.zeros(px.shape[:-1], dtype=torch.long, device=px.device)
    inside = torch.ones_like(index, dtype=torch.bool)
    for axis, n in enumerate(input_size):
        x = padding.fold(px[..., -1 - axis], n, "zeros", align_corners, margin=1).round()
        place, within = padding.tap(x.long(), n, "zeros", align_corners)
        assert within is not None
        index, inside = index + place * math.prod(input_size[axis + 1 :]), inside & within
    # As signed integers of the same width, which have more operations than the unsigned ones.
    same = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[labels.element_size()]
    flat, outside = labels.contiguous().view(same).flatten(1), outside.view(same)
    index = index.expand(batch, *index.shape[1:])
    read = flat.expand(batch, -1).gather(1, index.flatten(1)).view(index.shape)
    return torch.where(inside, read, outside).view(labels.dtype)


@full_precision
def warp_boxes(
    boxes: Tensor,
    transform: Transform,
    theta: Tensor,
    input_size: Sequence[int] | int,
    size: Sequence[int] | int | None = None,
    *,
    align_corners: bool = False,
) -> Tensor:
    """Boxes in the input as boxes in the warped image, by the same theta.

    Corners and midpoints of edges and faces go through `transform.inverse_points`; the answer is
    the upright box around them. It encloses the warped box where the map is affine, nearly so
    where it bends little over the box.

    Args:
        boxes: (B, N, 2 dim), x0 y0 x1 y1 or x0 y0 z0 x1 y1 z1, in px from the image's outer edge:
            the whole image is (0, 0, W, H), and pixel i spans i to i + 1.
        transform, theta: as in `warp`, theta (B, P). B may be 1 in either.
        input_size: of the image that is read, where the boxes are.
        size: of the warped image; None for input_size.
        align_corners: as in `warp`.

    Returns:
        (B, N, 2 dim), in px from the warped image's outer edge, not clipped to it; NaN where a
        corner has no place in the output.

    Raises:
        ValueError, TypeError: shapes or types that do not fit.

    Note:
        Differentiable in boxes and theta, as far as `inverse_points` is.

    Example:
        >>> zoom = torch.log(torch.tensor([[0.5]]))  # reads the middle half: twice as large
        >>> theta = torch.cat([zoom, torch.zeros(1, 2)], -1)
        >>> boxes = torch.tensor([[[5.0, 5.0, 6.0, 8.0]]])
        >>> stn.warp_boxes(boxes, stn.Attention(), theta, (16, 16)).round().tolist()
        [[[2.0, 2.0, 4.0, 8.0]]]
    """
    dim = transform.dim
    check_floating(boxes, "boxes")
    check_floating(theta, "theta")
    if boxes.dim() != 3 or boxes.shape[-1] != 2 * dim:
        order = "x0 y0 x1 y1" if dim == 2 else "x0 y0 z0 x1 y1 z1"
        raise ValueError(f"boxes must have shape (B, N, {2 * dim}), {order}, got {shape_of(boxes)}")
    input_size = check_size(input_size, dim, "input_size")
    size = input_size if size is None else check_size(size, dim)
    low, high = (widen(boxes).double() - 0.5).unsqueeze(-2).split(dim, -1)
    share = torch.tensor(
        [p for p in itertools.product((0.0, 0.5, 1.0), repeat=dim) if set(p) != {0.5}],
        dtype=low.dtype,
        device=low.device,
    )
    px = (low + (high - low) * share).flatten(1, 2)  # (B, N * points, dim), from pixel centres
    source = coords.to_normalized(px, input_size, align_corners)
    target = transform.inverse_points(theta.to(low.dtype), source)
    out = coords.to_pixels(target, size, align_corners) + 0.5
    out = out.unflatten(1, (boxes.shape[1], len(share)))
    return torch.cat([out.amin(-2), out.amax(-2)], -1).to(widen(boxes).dtype)


def _label(fill: int | bool, labels: Tensor) -> Tensor:
    try:
        outside = torch.tensor([fill], dtype=labels.dtype, device=labels.device)
    except (RuntimeError, OverflowError, TypeError):
        outside = None
    if outside is None or outside.item() != fill:
        raise ValueError(f"fill must be a label of type {labels.dtype}, got {fill!r}")
    return outside
