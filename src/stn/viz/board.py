"""Pictures and numbers of a transformer for TensorBoard, or for any writer with its methods."""

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..nn import WarpResult, diagnose
from .animate import enlarged, over, side_by_side
from .overlays import flat, inspect, outputs_of, region_outline
from .pictures import REGIONS, displayable
from .survey import theta_names

SHOWN = 6  # images
MOST_NUMBERS = 24  # of theta


class Writer(Protocol):
    """What is used of torch.utils.tensorboard.SummaryWriter."""

    def add_image(
        self, tag: str, img_tensor: Any, global_step: int, *, dataformats: str
    ) -> None: ...

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None: ...

    def add_histogram(self, tag: str, values: Any, global_step: int) -> None: ...


@torch.no_grad()
def log_transformer(
    writer: Writer, model: nn.Module, images: Tensor, step: int, tag: str = "transformer"
) -> None:
    """Write what a model's transformer does to images, to be looked at in TensorBoard.

    `tag`/regions is a picture: the first six images with the regions that were read, beside the
    outputs. `tag`/outside, /scale, /folded and /min_det are the means of `stn.nn.diagnose`, of
    min_det the least; `tag`/theta … are histograms of theta's numbers.

    Args:
        writer: a torch.utils.tensorboard.SummaryWriter, or what has its add_image, add_scalar and
            add_histogram.
        model: its attribute `transformer` is looked at, in eval mode.
        images: (N, C, H, W) in [0, 1], on the model's device; volumes give no picture.
        step: of the training.
        tag: in front of all names.

    Raises:
        ValueError: a model without a transformer.

    Example:
        >>> class Printer:
        ...     def add_image(self, tag, *rest, **options): print(tag)
        ...     def add_scalar(self, tag, *rest): pass
        ...     def add_histogram(self, tag, *rest): print(tag)
        >>> net = torch.nn.Module()
        >>> localization = stn.nn.DenseLocalization((1, 28, 28))
        >>> net.transformer = stn.SpatialTransformer(localization, stn.Rigid())
        >>> stn.viz.log_transformer(Printer(), net, torch.rand(4, 1, 28, 28), step=0)
        transformer/regions
        transformer/theta angle
        transformer/theta t_x
        transformer/theta t_y
    """
    seen = inspect(model, images)
    if seen is None:
        raise ValueError(f"{type(model).__name__} has no transformer to look at")
    if seen.transform.dim == 2:
        pages = _pages(images[:SHOWN], outputs_of(seen)[:SHOWN], seen)
        writer.add_image(f"{tag}/regions", pages, step, dataformats="HWC")
    found = diagnose(seen.transform, seen.theta, seen.size, seen.align_corners)
    for name in ("outside", "scale", "folded"):
        writer.add_scalar(f"{tag}/{name}", getattr(found, name).mean().item(), step)
    writer.add_scalar(f"{tag}/min_det", found.min_det.min().item(), step)
    names = theta_names(seen.transform)[:MOST_NUMBERS]
    for values, name in zip(seen.theta.flatten(0, -2).T, names, strict=False):
        writer.add_histogram(f"{tag}/theta {name}", values.detach().cpu(), step)


def _pages(images: Tensor, outputs: Tensor, seen: WarpResult) -> np.ndarray:
    """One row for each image: it with its regions, and its outputs."""
    size = tuple(images.shape[2:])
    grids = seen.grid[: len(images)].cpu()
    grids = grids.unsqueeze(1) if seen.theta.dim() == 2 else grids
    rows = []
    for image, grid, output in zip(flat(images, 4), grids, outputs, strict=True):
        lines = [
            (region_outline(one, size, seen.align_corners), REGIONS[k % len(REGIONS)])
            for k, one in enumerate(grid)
        ]
        beside = [enlarged(displayable(one)) for one in output]
        rows.append(side_by_side([over(displayable(image), lines), *beside]))
    return np.concatenate(rows)
