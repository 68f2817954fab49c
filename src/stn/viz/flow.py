"""Flow: what a warp moves, pixel by pixel, and the colours in which it is shown."""

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .. import coords
from .._checks import check_size
from ..transforms import Transform

# Red, yellow, green, cyan, blue, magenta, and where they stand on the wheel of 55 steps.
COLOURS = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1], [1, 0, 0]])
PLACES, ROUND = (0, 15, 21, 25, 36, 49, 55), 55


def beside(transform: Transform, theta: Tensor) -> Tensor:
    """theta on the device of the transform's Parameters and constants; without any, on the CPU."""
    state = itertools.chain(transform.parameters(), transform.buffers(), [torch.empty(0)])
    return theta.detach().to(next(state).device)


def one_row(transform: Transform, theta: Tensor) -> Tensor:
    """theta of one image, (P,) or (1, P), as (1, P), where the transform is."""
    rows = beside(transform, torch.as_tensor(theta))
    rows = rows.unsqueeze(0) if rows.dim() == 1 else rows
    if rows.dim() != 2 or len(rows) != 1:
        raise ValueError(
            f"theta must be of one image, (P,) or (1, P), got {tuple(rows.shape)}; draw one image "
            "of a batch at a time, theta[0]"
        )
    return rows


@torch.no_grad()
def flow_of(
    transform: Transform, theta: Tensor, size: Sequence[int] | int, align_corners: bool = False
) -> Tensor:
    """The dense flow of a warp: source minus target of every pixel.

    Args:
        transform: the family.
        theta: (P,) or (1, P).
        size: (H, W) or (D, H, W) of image and output.
        align_corners: what +-1 means.

    Returns:
        (*size, dim), px, as `stn.warp_flow` takes it; NaN where a pixel has no source.

    Example:
        >>> theta = torch.tensor([0.25, 0.0])  # an eighth of the width to the right
        >>> stn.viz.flow_of(stn.Translation(), theta, (8, 16))[0, 0]
        tensor([2., 0.], dtype=torch.float64)
    """
    size = check_size(size, transform.dim)
    places = transform.places(one_row(transform, theta), size, align_corners)
    source = places.pixels(size)[0].cpu()
    return source - coords.identity_pixels(size, size, align_corners, None).view(*size, -1)


def flow_colors(flow: Tensor | np.ndarray, largest_px: float | None = None) -> np.ndarray:
    """Flow as colours: direction is hue, length is saturation.

    Args:
        flow: (…, 2), (x, y), px.
        largest_px: length of full colour; longer ones are darkened. None for the longest there is.

    Returns:
        (…, 3) float32 in [0, 1]: white where nothing moves; red is right, yellow down, cyan left,
        blue to violet up; black where flow is not finite.

    Raises:
        ValueError: flow of another shape, or `largest_px` not above 0.

    Example:
        >>> flow = torch.tensor([[0.0, 0.0], [3.0, 0.0]])
        >>> stn.viz.flow_colors(flow).tolist()
        [[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]

    Reference:
        Baker et al., A Database and Evaluation Methodology for Optical Flow, 2011, figure 3.
    """
    field = torch.as_tensor(flow).detach().cpu().double().numpy()
    if field.ndim < 1 or field.shape[-1] != 2:
        raise ValueError(
            f"flow must be (…, 2), (x, y) last, got {field.shape}; of channels first, "
            ".movedim(1, -1)"
        )
    if largest_px is not None and not largest_px > 0:
        raise ValueError(f"largest_px must be above 0, got {largest_px}")
    known = np.isfinite(field).all(-1, keepdims=True)
    x, y = np.moveaxis(np.where(known, field, 0.0), -1, 0)
    length = np.hypot(x, y)
    length /= largest_px or (length.max(initial=0.0) or 1.0)
    place = np.arctan2(y, x) / (2 * np.pi) % 1 * ROUND
    hue = np.stack([np.interp(place, PLACES, band) for band in COLOURS.T], -1)
    length = length[..., None]
    colour = np.where(length <= 1, 1 - length * (1 - hue), 0.75 * hue)
    return np.where(known, colour, 0.0).astype(np.float32)


def flow_wheel(size_px: int = 151) -> np.ndarray:
    """The key to `flow_colors`: a disc, each place in the colour of the flow that points there.

    Returns:
        (size_px, size_px, 3) float32 in [0, 1].

    Example:
        >>> stn.viz.flow_wheel(101).shape
        (101, 101, 3)
    """
    points = coords.target_points((size_px, size_px)).view(size_px, size_px, 2)
    inside = points.norm(dim=-1) <= 1
    colours = flow_colors(points, largest_px=1.0)
    return np.where(inside.unsqueeze(-1).numpy(), colours, np.float32(1.0))
