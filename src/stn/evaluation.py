"""What a trained network is worth: its error, and how upright and centred its transformer sees."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import coords, linalg
from .transforms import Similarity, Transform


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
        labels: (B,) or (B, parts).
    """
    parts = math.prod(labels.shape[1:])
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
    log of its size. centre: of its place along an axis, in output pixels, root mean square over
    the axes.
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

    A low error does not prove an upright pose; this does. For each image the map from the output to
    the digit's own frame is fitted by a similarity.

    Args:
        pose: true pose of each digit: (N, 4), angle in rad, scale, centre (x, y) normalised; in
            volumes (N, 7), with a rotation vector and (x, y, z).
        size: (H, W) or (D, H, W) of the images, and of the output.
        transform, theta: of the warps, theta (N, P).
    """
    dim = len(size)
    # In three dimensions the maps are affine: a few points tell all of them.
    points = coords.target_points(
        size if dim == 2 else (5,) * dim, dtype=torch.float64, device=pose.device
    )
    rows = torch.zeros(len(pose), 0) if theta is None else theta.double()
    fitted = []
    for own_theta, true in zip(
        rows.split(batch_size), pose.double().split(batch_size), strict=True
    ):
        source = points.expand(len(true), -1, -1)
        if transform is not None:
            source = transform.map_points(own_theta, points)
        # The digit stands at centre + s R(angle) u, u in its own frame.
        angle, scale, centre = true[:, : -dim - 1], true[:, -dim - 1], true[:, -dim:]
        offset = source - centre.unsqueeze(1)
        own = offset + offset @ linalg.rotation_minus_identity(angle)
        # Target and source swapped: from the digit's frame to the output.
        fitted.append(Similarity(dim).fit(own / scale[:, None, None], points))
    theta = torch.cat(fitted)
    log_scale, angle, centre = theta[:, 0], theta[:, 1:-dim], theta[:, -dim:]
    turned = linalg.rotation_minus_identity(angle) + torch.eye(dim).to(angle)
    u, _, vh = torch.linalg.svd(turned.mean(0))
    # |R - M|^2 = 8 sin^2(angle between them / 2), in two dimensions and in three.
    apart = (turned - u @ vh).flatten(1).norm(dim=-1) / 8**0.5
    residual = 2 * apart.clamp(max=1).asin()
    half = torch.tensor(size[::-1]).to(centre) / 2
    return PoseSpread(
        residual.square().mean().sqrt().rad2deg().item(),
        log_scale.std().item(),
        (centre * half).var(0).mean().sqrt().item(),
    )
