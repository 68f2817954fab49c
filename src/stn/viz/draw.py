"""Drawing warps on matplotlib axes; places are pixels of the image, from 0 at the first centre."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .. import coords
from ..transforms import Transform
from ..warp import warp
from .flow import beside, one_row
from .pictures import CELLS, REGIONS, displayable, grid_lines, margin_for, polylines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Image = Tensor | np.ndarray
ORANGE, BLUE = REGIONS[:2]
ARROWS = 20  # along the longer side


@torch.no_grad()
def draw_grid(
    image: Image,
    transform: Transform,
    theta: Tensor,
    ax: "Axes | None" = None,
    *,
    cells: int = CELLS,
    align_corners: bool = False,
    color: str = ORANGE,
) -> "Axes":
    """Draw an image, and on it where the lines of a square grid over the output are read.

    The dot marks the corner that becomes the output's top left.

    Args:
        image: a tensor (H, W) or (C, H, W) or an array (H, W) or (H, W, C); in [0, 1] or uint8.
        transform: of two dimensions.
        theta: (P,) or (1, P).
        ax: where to draw; None for a new figure of pyplot.
        cells: of the grid, along each axis.
        align_corners: what +-1 means.
        color: of the lines, as matplotlib takes it.

    Returns:
        The axes.

    Raises:
        ValueError: a batch instead of one image or one theta, or a transform of three dimensions.

    Example:
        >>> image = torch.rand(28, 28)
        >>> ax = stn.viz.draw_grid(image, stn.Rigid(), torch.tensor([0.5, 0.0, 0.0]))
        >>> len(ax.lines)  # 11 rows, 11 columns, the dot
        23
    """
    ax, size = _show(image, transform, ax)
    lines = grid_lines(
        transform, one_row(transform, theta), size, cells, align_corners=align_corners
    )
    for line in lines:
        for piece in polylines(line[0], size):
            ax.plot(*zip(*piece, strict=True), color=color, linewidth=1.0)
    start = lines[0][0, 0]
    if bool(start.isfinite().all()):
        ax.plot(*start.tolist(), "o", color=color, markeredgecolor="black", markersize=5)
    _frame(ax, torch.cat(lines, 1), size)
    return ax


@torch.no_grad()
def draw_control_points(
    image: Image,
    transform: Transform,
    theta: Tensor,
    ax: "Axes | None" = None,
    *,
    align_corners: bool = False,
    color: str = ORANGE,
) -> "Axes":
    """Draw an image and a lattice's control points: rings where they stand, dots where they read.

    Args:
        transform: with `control_points`, such as stn.ThinPlateSpline((4, 4)).
        The others: as in `draw_grid`.

    Returns:
        The axes.

    Raises:
        ValueError: a transform without control points, or as `draw_grid`.

    Example:
        >>> tps = stn.ThinPlateSpline((3, 3))
        >>> theta = 0.1 * torch.randn(tps.num_params)
        >>> ax = stn.viz.draw_control_points(torch.rand(3, 40, 40), tps, theta)
    """
    nodes = getattr(transform, "control_points", None)
    if nodes is None:
        raise ValueError(
            f"{transform!r} has no control points; draw_grid draws the warps of every family"
        )
    ax, size = _show(image, transform, ax)
    row = one_row(transform, theta)
    source = transform.map_points(row, nodes.to(torch.promote_types(row.dtype, torch.float32)))[0]
    here, there = (coords.to_pixels(p.cpu(), size, align_corners) for p in (nodes, source))
    x, y = here.T.numpy()
    u, v = (there - here).T.numpy()
    ax.quiver(x, y, u, v, angles="xy", scale_units="xy", scale=1, color=color, width=0.005)
    ax.plot(x, y, "o", markerfacecolor="none", markeredgecolor=BLUE, clip_on=False)
    ax.plot(*there.T.tolist(), "o", color=color, markeredgecolor="black", clip_on=False)
    _frame(ax, torch.stack([here, there]), size)
    return ax


def draw_flow(
    flow: Image,
    ax: "Axes | None" = None,
    *,
    image: Image | None = None,
    every_px: int | None = None,
    color: str = ORANGE,
) -> "Axes":
    """Draw a flow as arrows from each place of the output to where it reads.

    Args:
        flow: (H, W, 2), (x, y), px, such as `flow_of` returns.
        ax: where to draw; None for a new figure of pyplot.
        image: to draw under it, as in `draw_grid`; None for none.
        every_px: between two arrows; None for about 20 along the longer side.
        color: of the arrows.

    Returns:
        The axes.

    Raises:
        ValueError: flow of another shape.

    Example:
        >>> flow = stn.viz.flow_of(stn.Rigid(), torch.tensor([0.5, 0.0, 0.0]), (40, 60))
        >>> ax = stn.viz.draw_flow(flow)
    """
    field = torch.as_tensor(flow).detach().cpu().double()
    if field.dim() != 3 or field.shape[-1] != 2:
        raise ValueError(f"flow must be (H, W, 2), got {tuple(field.shape)}")
    size = (field.shape[0], field.shape[1])
    ax = _axes(ax)
    if image is not None:
        _imshow(ax, image)
    step = every_px or max(1, round(max(size) / ARROWS))
    rows, columns = (torch.arange(step // 2, n, step) for n in size)
    u, v = field[rows][:, columns].movedim(-1, 0).numpy()
    options = {"angles": "xy", "scale_units": "xy", "scale": 1, "color": color}
    ax.quiver(columns.numpy(), rows.numpy(), u, v, **options)
    _frame(ax, torch.zeros(0, 2), size)
    ax.set_aspect("equal")
    return ax


@torch.no_grad()
def draw_warp(
    image: Image,
    transform: Transform,
    theta: Tensor,
    axes: "tuple[Axes, Axes] | None" = None,
    *,
    size: Sequence[int] | None = None,
    padding_mode: str = "zeros",
    align_corners: bool = False,
) -> "tuple[Axes, Axes]":
    """Draw an image with the grid that is read, and beside it what comes out.

    Args:
        axes: two to draw on; None for a new figure of pyplot.
        size: (H, W) of the output; None for the image's own.
        padding_mode: as in `stn.warp`.
        The others: as in `draw_grid`.

    Returns:
        The two axes.

    Raises:
        ValueError: as `draw_grid`.

    Example:
        >>> theta = torch.tensor([-0.7, 0.2, 0.1])  # (log s, tx, ty): half the size
        >>> left, right = stn.viz.draw_warp(torch.rand(1, 28, 28), stn.Attention(), theta)
    """
    left, right = axes or _two_axes()
    draw_grid(image, transform, theta, left, align_corners=align_corners)
    row = one_row(transform, theta)
    out = warped(image, transform, row, size, padding_mode, align_corners)[0]
    _imshow(right, out)
    right.set_axis_off()
    return left, right


def warped(
    image: Image,
    transform: Transform,
    theta: Tensor,
    size: Sequence[int] | None,
    padding_mode: str,
    align_corners: bool,
) -> Tensor:
    """One image under each row of theta (T, P), as (T, C, h, w) on the CPU."""
    theta = beside(transform, theta)
    pixels = torch.from_numpy(displayable(image)).float() / 255
    pixels = pixels.movedim(-1, 0) if pixels.dim() == 3 else pixels.unsqueeze(0)
    return warp(
        pixels.unsqueeze(0).to(theta.device),
        transform,
        theta.float().unsqueeze(0),
        size,
        padding_mode=padding_mode,
        align_corners=align_corners,
    )[0].cpu()


def _two_axes() -> "tuple[Axes, Axes]":
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(8, 4), layout="constrained")
    return figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)


def _axes(ax: "Axes | None") -> "Axes":
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained")[1]


def _imshow(ax: "Axes", image: Image) -> tuple[int, int]:
    pixels = displayable(image)
    ax.imshow(pixels, cmap="gray", vmin=0, vmax=255)
    return pixels.shape[0], pixels.shape[1]


def _show(image: Image, transform: Transform, ax: "Axes | None") -> tuple["Axes", tuple[int, int]]:
    if transform.dim != 2:
        raise ValueError(f"a picture is of two dimensions, got {transform!r}; draw a slice")
    pixels = displayable(image)  # before a figure is made
    ax = _axes(ax)
    return ax, _imshow(ax, pixels)


def _frame(ax: "Axes", points: Tensor, size: tuple[int, int]) -> None:
    """The image, y down, with a margin in which lines that leave it are still seen."""
    margin = margin_for(points, size)
    ax.set_xlim(-0.5 - margin, size[1] - 0.5 + margin)
    ax.set_ylim(size[0] - 0.5 + margin, -0.5 - margin)
    ax.set_facecolor("#3c4248")
    ax.set_xticks([])
    ax.set_yticks([])
