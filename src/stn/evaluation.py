"""What a trained network is worth: its error, and how upright and centred its transformer sees."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from . import coords
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


def error_percent(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images (N, C, H, W) whose most likely class is not their label, in percent."""
    wrong = logits_of(model, images).argmax(-1) != labels
    return 100 * wrong.double().mean().item()


class PoseSpread(NamedTuple):
    """Standard deviations over images of the pose of what the classifier sees.

    angle_deg: of the digit's rotation. scale: of the log of its size. centre: of its place along an
    axis, in output pixels, root mean square over x and y.
    """

    angle_deg: float
    scale: float
    centre_px: float


@torch.no_grad()
def pose_spread(
    pose: Tensor,
    size: tuple[int, int],
    transform: Transform | None = None,
    theta: Tensor | None = None,
    batch_size: int = 1000,
) -> PoseSpread:
    """Spread of the digits' poses after a warp, or in the images themselves without one.

    A low error does not prove an upright pose; this does. For each image the map from the output to
    the digit's own frame is fitted by a similarity.

    Args:
        pose: (N, 4), true (angle in rad, scale, x, y of the centre, normalised) of each digit.
        size: (H, W) of the images, and of the output.
        transform, theta: of the warps, theta (N, P).
    """
    points = coords.target_points(size, dtype=torch.float64, device=pose.device)
    rows = torch.zeros(len(pose), 0) if theta is None else theta.double()
    fitted = []
    for own_theta, true in zip(
        rows.split(batch_size), pose.double().split(batch_size), strict=True
    ):
        source = points.expand(len(true), -1, -1)
        if transform is not None:
            source = transform.map_points(own_theta, points)
        # The digit stands at centre + s R(angle) u, u in its own frame.
        angle, scale, centre = true[:, 0], true[:, 1], true[:, 2:]
        cos, sin = angle.cos()[:, None], angle.sin()[:, None]
        x, y = (source - centre.unsqueeze(1)).unbind(-1)
        own = torch.stack([cos * x + sin * y, cos * y - sin * x], -1) / scale[:, None, None]
        # Target and source swapped: from the digit's frame to the output.
        fitted.append(Similarity().fit(own, points))
    log_scale, angle, x, y = torch.cat(fitted).unbind(-1)
    direction = torch.polar(torch.ones_like(angle), angle)
    residual = (direction / direction.mean()).angle()
    half = torch.tensor([size[1] / 2, size[0] / 2], dtype=torch.float64)
    centre_px = (x.var() * half[0] ** 2 + y.var() * half[1] ** 2).div(2).sqrt()
    return PoseSpread(
        residual.square().mean().sqrt().rad2deg().item(), log_scale.std().item(), centre_px.item()
    )
