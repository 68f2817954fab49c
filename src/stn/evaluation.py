"""What a trained network is worth: its error, and how upright and centred its transformer sees."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import coords, linalg
from .transforms import Affine, Similarity, Transform

DIGIT_PX = 28
FALL_OFF = 16  # the power of its distance by which a point off the digit counts less


@torch.no_grad()
def logits_of(model: nn.Module, images: Tensor, batch_size: int = 1000) -> Tensor:
    """Logits (N, classes) in eval mode; the model's mode is restored."""
    was_training = model.training
    model.eval()
    try:
        return torch.cat([model(chunk) for chunk in images.split(batch_size)])
    finally:
        model.train(was_training)


def answer_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, the mean over images of the sum over the parts of an answer.

    Args:
        logits: (B, classes), or (B, parts, classes) for answers of several parts: five digits.
            An axis (B, members, …) of networks that learn apart: each is to give the answer, and
            the loss is their mean.
        labels: (B,) or (B, parts).
    """
    parts = math.prod(labels.shape[1:])
    if logits.dim() > labels.dim() + 1:
        labels = labels.unsqueeze(1).expand(logits.shape[:-1])
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten()) * parts


def is_wrong(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether any part of each answer is wrong, (B,) bool; shapes as in `answer_loss`."""
    return (logits.argmax(-1) != labels).view(len(labels), -1).any(-1)


def in_chunks(
    images: Tensor, labels: Tensor, count: int = 1000
) -> Callable[[int, int], Iterator[tuple[Tensor, Tensor]]]:
    """A set in memory as chunks of `count`, dealt out to the parts that call for them."""

    def chunks(part: int = 0, parts: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        pairs = zip(images.split(count), labels.split(count), strict=True)
        return itertools.islice(pairs, part, None, parts)

    return chunks


def error_percent(
    model: nn.Module,
    chunks: Iterable[tuple[Tensor, Tensor]],
    total: Callable[[Tensor], Tensor] | None = None,
) -> float:
    """Share of images for which the most likely answer is wrong in any part, in percent.

    Args:
        model: logits (B, [parts,] classes) from images.
        chunks: images and labels, on any device.
        total: sums over processes, where each has its own chunks: exact, whoever has how many.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    counts = torch.zeros(2, dtype=torch.float64)
    for images, labels in chunks:
        wrong = is_wrong(logits_of(model, images.to(device)), labels.to(device))
        counts += torch.tensor([wrong.sum().item(), len(labels)], dtype=torch.float64)
    wrong, seen = (counts if total is None else total(counts)).tolist()
    return 100 * (wrong / seen)


class PoseSpread(NamedTuple):
    """Standard deviations over images of the pose of what the classifier sees.

    angle_deg: of the digit's rotation; in volumes of the angle to the mean rotation. scale: of the
    log of its size. centre_px: of its place along an axis, root mean square over the axes; in
    pixels of an image of the `size` given to `pose_spread` that shows what the output shows,
    whatever the output's own size.
    """

    angle_deg: float
    scale: float
    centre_px: float


@torch.no_grad()
def pose_spread(
    pose: Tensor,
    size: tuple[int, ...],
    transform: Transform | None = None,
    theta: Tensor | None = None,
    batch_size: int = 1000,
) -> PoseSpread:
    """Spread of the digits' poses after a warp, or in the images themselves without one.

    A low error does not prove an upright pose; this does. The map from each output to the digit's
    own frame is fitted by an affine one where the output shows the digit's box, and that one by a
    similarity. Where the box is out of view, the points nearest to it decide: of an affine map all
    points tell the same. A digit is left out where no part of its output has a source, as behind
    the horizon of a projective map.

    Args:
        pose: true pose of each digit: (N, 4), angle in rad, scale, centre (x, y) normalised; in
            volumes (N, 7), with a rotation vector and (x, y, z). At scale 1 its box has 28 px.
        size: (H, W) or (D, H, W) of the images in which the digits have these poses.
        transform, theta: of the warps, theta (N, P).

    Raises:
        ValueError: no digit is left, or a warp shrinks the image to a point.
    """
    dim = len(size)
    extent = torch.tensor(size[::-1]).to(pose.device, torch.float64)
    # In three dimensions the maps are affine: a few points tell all of them.
    lattice = (28, 28) if dim == 2 else (5, 5, 5)
    points = coords.target_points(lattice, dtype=torch.float64, device=pose.device)
    rows = torch.zeros(len(pose), 0) if theta is None else theta.double()
    fitted = []
    for own_theta, true in zip(
        rows.split(batch_size), pose.double().split(batch_size), strict=True
    ):
        source = points.expand(len(true), -1, -1)
        if transform is not None:
            source = transform.grid(own_theta, lattice).flatten(1, -2)
        # The digit stands at centre + s R(angle) u, u in its own frame.
        angle, scale, centre = true[:, : -dim - 1], true[:, -dim - 1], true[:, -dim:]
        offset = source - centre.unsqueeze(1)
        own = (offset + offset @ linalg.rotation_minus_identity(angle)) / scale[:, None, None]
        fitted.append(_nearest(own, points, extent / DIGIT_PX))
    theta = torch.cat(fitted)
    if not len(theta):
        raise ValueError("the warps show no digit: theta must be finite, and w > 0 somewhere")
    log_scale, angle, centre = theta[:, 0], theta[:, 1:-dim], theta[:, -dim:]
    turned = linalg.rotation_minus_identity(angle) + torch.eye(dim).to(angle)
    u, _, vh = torch.linalg.svd(turned.mean(0))
    # |R - M|^2 = 8 sin^2(angle between them / 2), in two dimensions and in three.
    apart = (turned - u @ vh).flatten(1).norm(dim=-1) / 8**0.5
    residual = 2 * apart.clamp(max=1).asin()
    return PoseSpread(
        residual.square().mean().sqrt().rad2deg().item(),
        log_scale.std().item(),
        (centre * extent / 2).var(0).mean().sqrt().item(),
    )


def _nearest(own: Tensor, points: Tensor, boxes: Tensor) -> Tensor:
    """Similarities from the digit's frame to outputs whose points (N, dim) show own (B, N, dim).

    boxes (dim,): sizes of the image over those of the digit's box.
    """
    reach = (own * boxes).abs().amax(-1)  # 1 on the edge of the box
    known = reach.isfinite()
    enough = known.sum(-1) > points.shape[-1]
    own = torch.where(known.unsqueeze(-1), own, 0)[enough]
    reach = torch.where(known, reach, torch.inf)[enough].clamp(min=1)
    weights = (reach.amin(-1, keepdim=True) / reach) ** FALL_OFF
    affine = Affine(points.shape[-1])
    theta = affine.fit(points, own, weights)
    # Target and source swapped: from the digit's frame to the output.
    return Similarity(points.shape[-1]).fit(affine.map_points(theta, points), points)
