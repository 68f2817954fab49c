"""What a network's windows do: where they land on parts, and what it is worth that they move.

Measured, never trained on.
"""

import copy
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from .. import coords
from ..data import CubParts, ImageSet, to_canvas, window_boxes
from ..evaluation import error_percent
from ..models import PartsNetwork, PartsSpec
from ..nn.transformer import ThetaHead
from ..transforms import Transform

SLACK = 1e-6  # of half a window, for float32 theta


@torch.no_grad()
def moving_and_still_error(
    model: nn.Module,
    chunks: Callable[[], Iterable[tuple[Tensor, Tensor]]],
    total: Callable[[Tensor], Tensor] | None = None,
) -> tuple[float, float | None]:
    """The error, %, as it is, and with every transformer held still, at its mean theta.

    If they are the same, the transformers tell no picture from another, however low the error is.
    In the mean all calls of a head count: where steps share one, those of all steps.

    Args:
        model: left as it is; without a transformer the second error is None.
        chunks, total: as in `stn.evaluation.error_percent`; chunks is called for each error.
    """
    still = copy.deepcopy(model)
    heads = [module for module in still.modules() if isinstance(module, ThetaHead)]
    seen = [torch.zeros(1 + head.out_features, dtype=torch.float64) for head in heads]
    hooks = [
        head.register_forward_hook(partial(_add, sums))
        for head, sums in zip(heads, seen, strict=True)
    ]
    moving = error_percent(still, chunks(), total)
    if not heads:
        return moving, None
    for head, sums, hook in zip(heads, seen, hooks, strict=True):
        hook.remove()
        count, *theta = sums if total is None else total(sums)
        head.weight.zero_()
        head.bias.copy_(torch.stack(theta) / count)
    return moving, error_percent(still, chunks(), total)


def _add(sums: Tensor, head: nn.Module, seen: object, theta: Tensor) -> None:
    sums[0] += len(theta)
    sums[1:] += theta.double().sum(0).cpu()


@torch.no_grad()
def part_hits(
    model: PartsNetwork,
    spec: PartsSpec,
    pictures: ImageSet,
    parts: CubParts,
    batch_size: int = 250,
) -> dict:
    """How often a trained network's windows wholly contain each part, and how far windows move.

    A share near that `at_start` says that windows stayed where they began, however low the error.
    Parts are compared with windows and with nothing else: no loss, no choice sees them.

    Args:
        model: with a transformer of any 2-D family; one window, several, or one after steps.
        spec: that of the model; its windows begin where a new network's do.
        pictures: on the canvas that the model takes.
        parts: of the same pictures in the same order, as `read_cub_parts` reads them. Where sizes
            of parts are not known, as in CUB-200-2011, a part is its centre.
        batch_size: pictures read at once.

    Returns:
        By the name of each part, % of the pictures in which it is visible, None if there are none:
        `contained` in any window, `by_window` in each, `at_start` in any of the first windows; and
        `spread_px` of each window: the root mean square distance of its centre from the mean centre
        over all pictures, px of the canvas.

    Raises:
        ValueError: a model without windows, or parts of another number of pictures.
    """
    layer = model.transformer
    if layer is None:
        raise ValueError("part_hits takes a network with a transformer, got one without")
    if len(pictures) != len(parts.places):
        raise ValueError(
            f"pictures and parts must be of the same images, got {len(pictures)} and "
            f"{len(parts.places)}; read both for the same part of the split"
        )
    transform = layer.composed()
    theta = _thetas(model, pictures, batch_size).double()
    begun = _first_theta(spec).to(theta).expand_as(theta)
    corners = _corners(parts, pictures)
    held, held_at_start = (_contain(transform, at, corners) for at in (theta, begun))
    rows, windows = theta.shape[:2]
    boxes = window_boxes(transform, theta.flatten(0, 1), pictures.size).view(rows, windows, 2, 2)
    centres = boxes.mean(-2)
    away = centres - centres.mean(0)
    found: dict = {"contained": {}, "by_window": {}, "at_start": {}}
    for number, name in enumerate(parts.names):
        seen = parts.visible[:, number]
        mine = held[seen, :, number]
        found["contained"][name] = _percent(mine.any(1))
        found["by_window"][name] = [_percent(mine[:, window]) for window in range(windows)]
        found["at_start"][name] = _percent(held_at_start[seen, :, number].any(1))
    return found | {"spread_px": away.square().sum(-1).mean(0).sqrt().tolist()}


def _thetas(model: PartsNetwork, pictures: ImageSet, batch_size: int) -> Tensor:
    """theta (N, windows, P) in eval mode; the model's mode is restored."""
    layer, was_training = model.transformer, model.training
    assert layer is not None
    device = next(model.parameters()).device
    model.eval()
    try:
        found = []
        for start in range(0, len(pictures), batch_size):
            rows = range(start, min(start + batch_size, len(pictures)))
            for images, _ in pictures.subset(rows).in_memory().chunks(batch_size):
                found.append(layer.theta(images.to(device)))
    finally:
        model.train(was_training)
    return _by_window(torch.cat(found))


def _first_theta(spec: PartsSpec) -> Tensor:
    """theta (1, windows, P) before training, the same for every image."""
    with torch.random.fork_rng(devices=[]):
        layer = replace(spec, pretrained=False).build().eval().transformer
    assert layer is not None
    return _by_window(layer.theta(torch.zeros(1, *spec.shape)))


def _by_window(theta: Tensor) -> Tensor:
    return theta if theta.dim() == 3 else theta.unsqueeze(1)


def _corners(parts: CubParts, pictures: ImageSet) -> Tensor:
    """The corners of parts' boxes on the canvas, or their centres, normalised (N, parts, C, 2)."""
    points = parts.places.double().unsqueeze(2)
    if parts.sizes is not None:
        half = torch.tensor([[x, y] for x in (-0.5, 0.5) for y in (-0.5, 0.5)]).double()
        points = points + parts.sizes.double().unsqueeze(2) * half
    sizes = parts.image_sizes[:, None, None]
    px = to_canvas(points, sizes, pictures.size, pictures.fit)
    return coords.to_normalized(px - 0.5, pictures.size, align_corners=False)


def _contain(transform: Transform, theta: Tensor, corners: Tensor) -> Tensor:
    """Whether all C corners lie in a window, turned or not: bool (N, windows, parts)."""
    rows, windows = theta.shape[:2]
    points = corners.to(theta).flatten(1, 2).repeat_interleave(windows, 0)
    inside = transform.inverse_points(theta.flatten(0, 1), points).abs() <= 1 + SLACK
    return inside.all(-1).view(rows, windows, *corners.shape[1:3]).all(-1).cpu()


def _percent(hits: Tensor) -> float | None:
    return 100 * hits.double().mean().item() if len(hits) else None
