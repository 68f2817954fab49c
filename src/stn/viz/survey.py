"""What transformers do to many images: means, theta, where they look, whether they fold."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import coords
from ..nn import diagnose
from ..transforms import Compose, Transform
from .overlays import flat, inspect, outputs_of

HEAT = 32  # cells of the heat map, along each axis
DENSE = 64  # points of an output whose places are marked in it
DIAGNOSED = 16  # pixels of the output, along each axis, over which a warp is diagnosed


class Survey(NamedTuple):
    """Of N images and K transformers side by side, on the CPU.

    before, after: mean images (H, W) and (K, h, w), over channels and the depth of volumes too;
        `after` (0, h, w) is not shown.
    theta: (N, K, P); names: of its P numbers.
    outside, scale, folded: (N, K), of `stn.nn.diagnose`, over 16 pixels along each axis.
    coverage: (K, 32, 32), share of the images of which a window covers each part; centres:
        (N, K, 2), where windows have their middle, px of the image. None for volumes.
    """

    before: Tensor
    after: Tensor
    theta: Tensor
    names: tuple[str, ...]
    outside: Tensor
    scale: Tensor
    folded: Tensor
    coverage: Tensor | None
    centres: Tensor | None


@torch.no_grad()
def survey(model: nn.Module, images: Tensor, batch_size: int = 500) -> Survey | None:
    """What a model's transformers do to images; None for a model without one.

    Args:
        model: its attribute `transformer`, if it has one that is not None, is the layer to look at.
        images: (N, C, H, W) or (N, C, D, H, W) in [0, 1], on the model's device; N at least 1.
        batch_size: images at a time.

    Example:
        >>> import stn.viz
        >>> net = torch.nn.Module()
        >>> localization = stn.nn.DenseLocalization((1, 28, 28))
        >>> net.transformer = stn.SpatialTransformer(localization, stn.Rigid())
        >>> found = stn.viz.survey(net, torch.rand(5, 1, 28, 28))
        >>> found.names, found.theta.shape
        (('angle', 't_x', 't_y'), torch.Size([5, 1, 3]))
    """
    seen, after, parts = None, torch.zeros(()), []
    for chunk in images.split(batch_size):
        seen = inspect(model, chunk)
        if seen is None:
            return None
        transform, theta = seen.transform, seen.theta.float()
        theta = theta.unsqueeze(1) if theta.dim() == 2 else theta
        after = after + outputs_of(seen).float().mean(2).sum(0).cpu()
        found = diagnose(transform, theta, DIAGNOSED, seen.align_corners)
        own = [theta, found.outside, found.scale, found.folded]
        if transform.dim == 2:
            own += _places(transform, theta, tuple(chunk.shape[2:]), seen.align_corners)
        parts.append(own)
    assert seen is not None
    theta, outside, scale, folded, *places = (
        torch.cat(chunks).cpu() for chunks in zip(*parts, strict=True)
    )
    return Survey(
        flat(images, 4).mean((0, 1)).cpu(),
        after / len(images),
        theta,
        theta_names(seen.transform),
        outside,
        scale,
        folded,
        places[0].mean(0) if places else None,
        places[1] if places else None,
    )


def _places(
    transform: Transform, theta: Tensor, size: tuple[int, ...], align: bool
) -> tuple[Tensor, Tensor]:
    """Cells of the image that windows cover, (N, K, 32, 32) of 0 or 1, and their centres, px."""
    rows = theta.flatten(0, 1)
    px = coords.to_pixels(transform.grid(rows, (DENSE, DENSE), align).flatten(1, 2), size, align)
    source = coords.to_normalized(px, size, False)  # the cells end where the image does
    inside = (source.abs() < 1).all(-1)
    cell = coords.to_pixels(source.nan_to_num(0.0), (HEAT, HEAT), False)
    x, y = cell.round().long().clamp(0, HEAT - 1).unbind(-1)
    hit = torch.zeros(len(rows), HEAT * HEAT, device=rows.device)
    hit.scatter_reduce_(1, y * HEAT + x, inside.float(), "amax")
    centres = transform.map_points(rows, torch.zeros(1, 2, device=rows.device))[:, 0]
    lead = theta.shape[:2]
    return hit.view(*lead, HEAT, HEAT), coords.to_pixels(centres, size, align).view(*lead, 2)


def theta_names(transform: Transform) -> tuple[str, ...]:
    """A name for each number of a family's theta, in its order."""
    axes = "xyz"[: transform.dim]
    moves = [f"t_{axis}" for axis in axes]
    turns = ["angle"] if transform.dim == 2 else [f"turn_{axis}" for axis in axes]
    matrix = [name for row in axes for name in (*(f"{row}{by}" for by in axes), f"t_{row}")]
    kind = type(transform).__name__
    if isinstance(transform, Compose):
        named = [theta_names(part) for part in transform.parts]  # pyright: ignore[reportArgumentType]
        return tuple(f"step {k + 1}: {name}" for k, own in enumerate(named) for name in own)
    known = {
        "Translation": moves,
        "Attention": ["log s", *moves][-transform.num_params :],
        "Rigid": [*turns, *moves],
        "Similarity": ["log s", *turns, *moves],
        "Affine": matrix,
        "Projective": [*matrix, *(f"w{axis}" for axis in axes)],
        "Polar": [f"centre_{axis}" for axis in axes],
        "LogPolar": [f"centre_{axis}" for axis in axes],
    }
    nodes = getattr(transform, "control_points", None)
    if nodes is not None and len(nodes) * len(axes) == transform.num_params:
        known[kind] = [f"node {node} {axis}" for node in range(len(nodes)) for axis in axes]
    return tuple(known.get(kind, [f"number {i}" for i in range(transform.num_params)]))
