"""Co-localisation: sets of one digit class, true boxes, and how well a window meets them (A.2)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import coords
from .._checks import check_size
from ..transforms import Transform
from .digits import FrozenSet, check_digits, frozen_set, generator_of
from .distort import SIDE_PX, Pose


def colocalization_set(
    images: Tensor,
    labels: Tensor,
    digit: int,
    seed: int,
    cluttered: bool = False,
    count: int = 100,
    clutter_pool: Tensor | None = None,
) -> FrozenSet:
    """The paper's set of one class: `count` digits, each at a random whole pixel of 84x84.

    Which digits, and where they lie, follow from (seed, digit); with and without clutter they are
    the same digits, at other places. `digit_boxes(found.pose, (84, 84))` are the true boxes.

    Args:
        images: uint8 (N, 28, 28), on any device.
        labels: (N,), 0 to 9.
        digit: the class.
        seed: any integer.
        cluttered: add sixteen random 6x6 crops.
        count: images in the set.
        clutter_pool: uint8 (M, 28, 28), where crops come from; None for `images`.

    Returns:
        FrozenSet: images float32 (count, 1, 84, 84), labels all `digit`, and poses.

    Raises:
        ValueError: shapes that do not fit, or fewer than `count` images of the class.

    Reference:
        Jaderberg et al., Spatial Transformer Networks, 2015, appendix A.2.
    """
    check_digits(images, labels)
    rows = (labels == digit).nonzero().squeeze(-1)
    if not 1 <= count <= len(rows):
        raise ValueError(
            f"count must be from 1 to the number of images of digit {digit}, {len(rows)}, "
            f"got {count}"
        )
    generator = generator_of("colocalization", seed, digit)
    rows = rows[torch.randperm(len(rows), generator=generator)[:count].to(rows.device)]
    task = "colocalization-cluttered" if cluttered else "colocalization"
    # The class is the set's number: other classes lie at other places.
    return frozen_set(
        images[rows.to(images.device)],
        labels[rows],
        task,
        seed,
        repeat=digit,
        clutter_pool=images if clutter_pool is None else clutter_pool,
    )


def digit_boxes(pose: Pose, canvas: Sequence[int]) -> Tensor:
    """Smallest upright boxes around the digits' turned and scaled 28x28 squares.

    The square, not the ink in it: a window of one scale in x and y, as the paper's, cannot meet the
    ink of a 1 by more than half. For P and E, whose maps are no similarities, only a guide.

    Args:
        pose: of 2-D digits, with fields (B,) or (B, digits).
        canvas: (H, W), px.

    Returns:
        (B, 4) or (B, digits, 4): (x0, y0, x1, y1), px from the canvas's upper left edge, so that
        pixel i spans [i, i + 1].
    """
    if pose.centre.shape[-1] != 2:
        raise ValueError("digit_boxes takes the pose of digits in images, got one in volumes")
    centre = _edge_pixels(pose.centre, check_size(canvas, 2, "canvas"))
    reach = (pose.angle_rad.cos().abs() + pose.angle_rad.sin().abs()) * pose.scale * SIDE_PX / 2
    reach = reach.to(centre).unsqueeze(-1)
    return torch.cat([centre - reach, centre + reach], -1)


def window_boxes(transform: Transform, theta: Tensor, canvas: Sequence[int]) -> Tensor:
    """Where a transformer looks: the smallest upright boxes around its windows' corners.

    For Attention and Translation the box is the window itself.

    Args:
        transform: a 2-D or 3-D family.
        theta: (B, transform.num_params).
        canvas: (H, W) or (D, H, W) of the input, px.

    Returns:
        (B, 2 dim): (x0, y0, x1, y1) or (x0, y0, z0, x1, y1, z1), px as in `digit_boxes`.

    Note:
        Differentiable in theta.
    """
    canvas = check_size(canvas, transform.dim, "canvas")
    corners = coords.lattice_points((2,) * transform.dim).to(theta.device)
    places = _edge_pixels(transform.map_points(theta, corners), canvas)
    return torch.cat([places.amin(-2), places.amax(-2)], -1)


def iou(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """Intersection over union of boxes, pair by pair; 0 where they do not overlap.

    Args:
        boxes_a, boxes_b: (…, 4) as (x0, y0, x1, y1), or (…, 6) as (x0, y0, z0, x1, y1, z1), in one
            unit; leading axes broadcast.

    Returns:
        (…,), from 0 to 1. A box whose end lies before its start is empty.

    Example:
        >>> from stn.data import iou
        >>> iou(torch.tensor([0.0, 0.0, 2.0, 2.0]), torch.tensor([1.0, 0.0, 3.0, 2.0]))
        tensor(0.3333)
    """
    (low_a, high_a), (low_b, high_b) = boxes_a.chunk(2, -1), boxes_b.chunk(2, -1)
    shared = _volume(torch.maximum(low_a, low_b), torch.minimum(high_a, high_b))
    union = _volume(low_a, high_a) + _volume(low_b, high_b) - shared
    return shared / torch.where(union == 0, 1, union)


def _volume(low: Tensor, high: Tensor) -> Tensor:
    return (high - low).clamp(min=0).prod(-1)


def _edge_pixels(points: Tensor, canvas: tuple[int, ...]) -> Tensor:
    """Pixels counted from the canvas's outer edge, where `coords` counts from the first centre."""
    return coords.to_pixels(points, canvas, align_corners=False) + 0.5
