"""What a task is, and the distortions of MNIST in the paper's Table 1: R, RTS, P, E and TC.

Every task is a frozen set of numbers and a function of (images, generator): parameters are drawn
on the CPU from the caller's generator and then moved to the images' device, so that all devices
see the same data. Tasks draw anew at each call.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Generator, Tensor

from .. import coords
from .._checks import check_floating, shape_of
from ..transforms import Affine, Projective, Similarity, ThinPlateSpline, Transform
from ..warp import warp

SIDE_PX = 28
DRAWS = 4
LEAST_TURN = 0.01
BOX_POINTS = (5, 5)
INVERTED_AT_ONCE = 64


class Pose(NamedTuple):
    """How each digit was drawn, for measuring what a transformer undoes.

    A similarity that undoes it has, target -> source, this angle, this scale (times 28 px over the
    canvas) and this centre as its shift. P and E are undone by no similarity: theirs is the nearest
    to what became of the digit's 28x28 box. Where images hold two digits, all fields have a second
    axis of two.

    Fields:
        angle_rad: (B,) the digit's rotation, positive from x to y, which is clockwise as displayed.
            In volumes a rotation vector (B, 3).
        scale: (B,) size of the digit over its size in MNIST.
        centre: (B, 2) where the centre of the digit's 28x28 box lies in the canvas, (x, y)
            normalised to [-1, 1] between the canvas's edges. In volumes (B, 3), (x, y, z).
    """

    angle_rad: Tensor
    scale: Tensor
    centre: Tensor


class Drawn:
    """Images float32 (B, C, *canvas) in [0, 1] with digits in them, and the pose of each digit.

    `images, pose = drawn` takes both apart. A pose that takes a fit is given as a function, called
    when the pose is first asked for: training never asks.
    """

    def __init__(self, images: Tensor, pose: Pose | Callable[[], Pose]):
        self.images = images
        self._pose = pose

    @functools.cached_property
    def pose(self) -> Pose:
        return self._pose() if callable(self._pose) else self._pose

    def __iter__(self) -> Iterator:
        return iter((self.images, self.pose))


class Task(Protocol):
    """What all tasks share: C digits to an image, a canvas (H, W) or (D, H, W), px, and a call."""

    @property
    def digits(self) -> int: ...

    @property
    def canvas(self) -> tuple[int, ...]: ...

    def __call__(
        self, images: Tensor, generator: Generator, clutter_pool: Tensor | None = None
    ) -> Drawn:
        """Draw a batch of digits into canvases.

        Args:
            images: (B, C, 28, 28) float in [0, 1], background 0, on any device, C = `digits`.
            generator: a CPU generator; its state decides all that is random, and moves on.
            clutter_pool: uint8 (N, 28, 28), where clutter comes from; tasks without ignore it.

        Returns:
            Drawn: images float32 (B, C, *canvas) in [0, 1] and their Pose, on images' device.

        Raises:
            ValueError, TypeError: images of another shape or type, or no clutter_pool for clutter.
        """
        ...


class OneDigit:
    """A task whose images hold one digit each."""

    @property
    def digits(self) -> int:
        return 1


@dataclass(frozen=True)
class Place(OneDigit):
    """R and RTS: rotate, scale and place at random, bilinear.

    The angle is U[-max, max], the scale U[low, high], and the centre uniform over all places where
    the scaled, not yet rotated 28-px box lies inside the canvas. R has no room to move.

    Reference:
        Jaderberg et al., Spatial Transformer Networks, 2015, section 4.1 and appendix.
    """

    canvas: tuple[int, int]
    max_angle_deg: float
    scales: tuple[float, float]

    def __call__(
        self, images: Tensor, generator: Generator, clutter_pool: Tensor | None = None
    ) -> Drawn:
        count = checked_digits(images, self.digits)
        limit = math.radians(self.max_angle_deg)
        angle = uniform((count,), -limit, limit, generator)
        scale = uniform((count,), *self.scales, generator)
        extent = torch.tensor([self.canvas[1], self.canvas[0]], dtype=torch.float32)
        room = (1 - SIDE_PX * scale.unsqueeze(-1) / extent).clamp(min=0)
        centre = room * uniform((count, 2), -1, 1, generator)

        cos, sin = angle.cos(), angle.sin()
        back = torch.stack([cos, sin, -sin, cos], -1).unflatten(-1, (2, 2))
        linear = back * extent / (SIDE_PX * scale[:, None, None])
        offset = torch.cat([linear - torch.eye(2), -linear @ centre.unsqueeze(-1)], -1)
        theta = offset.flatten(1).to(images.device)
        drawn = warp(images.float(), Affine(), theta, self.canvas).clamp_(0, 1)
        return Drawn(drawn, pose_on(images, angle, scale, centre))


@dataclass(frozen=True)
class MoveCorners(OneDigit):
    """P: scale by U[low, high], then move each corner of the image by N(0, sigma), bilinear.

    Four corners whose quadrilateral comes out folded, mirrored or within a hair of it, or beside
    the centre of the canvas, are drawn again, at most `DRAWS` times in all, and then not moved: the
    map keeps its orientation, and w > 0, at all corners. At 5 px one draw in 270 is refused.

    Reference:
        Jaderberg et al., Spatial Transformer Networks, 2015, section 4.1 and appendix.
    """

    sigma_px: float = 5.0
    scales: tuple[float, float] = (0.75, 1.0)
    canvas: tuple[int, int] = (SIDE_PX, SIDE_PX)

    def __call__(
        self, images: Tensor, generator: Generator, clutter_pool: Tensor | None = None
    ) -> Drawn:
        count = checked_digits(images, self.digits)
        scale = uniform((count,), *self.scales, generator)
        corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
        noise = torch.randn(DRAWS, count, 4, 2, generator=generator) * (2 * self.sigma_px / SIDE_PX)
        good = keeps_orientation(corners + noise)
        first = good.byte().argmax(0)
        noise = noise[first, torch.arange(count)] * good.any(0)[:, None, None]

        transform = Projective()
        source = corners.double() / scale.double()[:, None, None]
        theta = transform.fit((corners + noise).double(), source).float()
        drawn = warp(images.float(), transform, theta.to(images.device)).clamp_(0, 1)
        return Drawn(drawn, lambda: pose_on(images, *nearest_pose(transform, theta)))


@dataclass(frozen=True)
class MoveLattice(OneDigit):
    """E: scale by U[low, high], then move the nodes of a TPS lattice by N(0, sigma).

    The paper samples bilinearly; `mode` is that of `warp`.

    Reference:
        Jaderberg et al., Spatial Transformer Networks, 2015, section 4.1 and appendix.
    """

    sigma_px: float = 1.5
    scales: tuple[float, float] = (0.75, 1.0)
    lattice: tuple[int, int] = (4, 4)
    canvas: tuple[int, int] = (SIDE_PX, SIDE_PX)
    mode: str = "bilinear"

    def __call__(
        self, images: Tensor, generator: Generator, clutter_pool: Tensor | None = None
    ) -> Drawn:
        count = checked_digits(images, self.digits)
        scale = uniform((count,), *self.scales, generator)
        transform = _spline(self.lattice)
        nodes = transform.control_points.float()
        noise = torch.randn(count, *nodes.shape, generator=generator)
        noise = noise * (2 * self.sigma_px / SIDE_PX)
        # A spline through scaled nodes is the scaled spline: no second map is needed.
        theta = ((nodes + noise) / scale[:, None, None] - nodes).flatten(1)
        drawn = warp(images.float(), transform, theta.to(images.device), mode=self.mode)
        return Drawn(drawn.clamp_(0, 1), lambda: pose_on(images, *nearest_pose(transform, theta)))


@dataclass(frozen=True)
class Clutter(OneDigit):
    """TC and co-localisation: the digit at a random whole pixel, plus crops of others.

    They are added, and the sum is clipped to 1.

    Crops are taken uniformly from all places of all images of the pool, and so are often blank:
    blank crops are not refused. The pool is meant to be the training digits, for test images too.

    Reference:
        Jaderberg et al., Spatial Transformer Networks, 2015, section 4.1 and appendix A.2; Mnih
        et al., Recurrent models of visual attention, 2014, section 4.1.
    """

    crops: int = 6
    crop_px: int = 6
    canvas: tuple[int, int] = (60, 60)

    def __call__(
        self, images: Tensor, generator: Generator, clutter_pool: Tensor | None = None
    ) -> Drawn:
        count, device = checked_digits(images, self.digits), images.device
        extent = torch.tensor(self.canvas)
        corner = _whole((count, 2), extent - SIDE_PX, generator)
        canvas = torch.zeros(count, *self.canvas, device=device)
        batch = torch.arange(count, device=device)[:, None, None]
        rows, columns = (i.to(device) for i in _window(corner, SIDE_PX))
        canvas[batch, rows, columns] = images.squeeze(1).float()
        if self.crops:
            self._add_crops(canvas, _checked_pool(clutter_pool), generator)
        centre = ((2 * corner + SIDE_PX) / extent - 1).flip(-1)
        pose = pose_on(images, torch.zeros(count), torch.ones(count), centre)
        return Drawn(canvas.clamp_(0, 1).unsqueeze(1), pose)

    def _add_crops(self, canvas: Tensor, pool: Tensor, generator: Generator) -> None:
        count, device = len(canvas), canvas.device
        chosen = torch.randint(len(pool), (count, self.crops, 1, 1), generator=generator)
        shape = (count, self.crops, 2)
        taken = _whole(shape, torch.full((2,), SIDE_PX - self.crop_px), generator)
        put = _whole(shape, torch.tensor(self.canvas) - self.crop_px, generator)
        read = (i.to(pool.device) for i in (chosen, *_window(taken, self.crop_px)))
        crops = pool[tuple(read)].to(device).float() / 255
        batch = torch.arange(count, device=device)[:, None, None]
        rows, columns = (i.to(device) for i in _window(put, self.crop_px))
        # One crop at a time: the order of the sums is then the same on all devices.
        for k in range(self.crops):
            canvas[batch, rows[:, k], columns[:, k]] += crops[:, k]


DISTORTIONS: Mapping[str, Task] = {
    "r": Place((28, 28), max_angle_deg=90.0, scales=(1.0, 1.0)),
    "rts": Place((42, 42), max_angle_deg=45.0, scales=(0.7, 1.2)),
    "p": MoveCorners(),
    "e": MoveLattice(),
    "tc": Clutter(),
}


def keeps_orientation(quad: Tensor) -> Tensor:
    """Mask (...,) of quadrilaterals (..., 4, 2) that are convex, turn as the square, and hold 0.

    Convex ones that turn as the square (corners in the order -- +- ++ -+) are its images under a
    projective map with w of one sign on all of it; with 0 inside, that sign is w's at 0, where
    `Projective` has w = 1. Turns below `LEAST_TURN` of the square's own count as none.
    """
    edge = quad.roll(-1, -2) - quad
    turn = _cross(edge.roll(1, -2), edge)
    return (turn > 4 * LEAST_TURN).all(-1) & (_cross(quad, edge) > 0).all(-1)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


@functools.cache
def _spline(lattice: tuple[int, int]) -> ThinPlateSpline:
    return ThinPlateSpline(lattice)


def nearest_pose(transform: Transform, theta: Tensor) -> Pose:
    """Poses of digits drawn by warps theta (B, P), each the similarity nearest to its warp.

    Least squares over a lattice on the digit's box, from there to the canvas, which is the warp's
    inverse; points that the warp does not show do not count.
    """
    box = coords.target_points(BOX_POINTS)
    # A few at a time: an inverse that is hard to find makes the search finer for its whole batch.
    parts = [transform.inverse_points(own, box) for own in theta.split(INVERTED_AT_ONCE)]
    place = torch.cat(parts)
    shown = place.isfinite().all(-1)
    place = torch.where(shown.unsqueeze(-1), place, 0)
    fitted = Similarity().fit(box.double(), place.double(), shown.double()).float()
    return Pose(fitted[:, 1], fitted[:, 0].exp(), fitted[:, 2:])


def pose_on(images: Tensor, angle: Tensor, scale: Tensor, centre: Tensor) -> Pose:
    """A Pose on the images' device."""
    return Pose(*(value.to(images.device) for value in (angle, scale, centre)))


def uniform(shape: tuple[int, ...], low: float, high: float, generator: Generator) -> Tensor:
    """Uniform random numbers in [low, high), on the CPU."""
    return low + (high - low) * torch.rand(shape, generator=generator)


def _whole(shape: tuple[int, ...], highest: Tensor, generator: Generator) -> Tensor:
    """Whole numbers, uniform from 0 to `highest` along the last axis, both ends included."""
    high = [int(n) + 1 for n in highest]
    columns = [torch.randint(n, shape[:-1], generator=generator) for n in high]
    return torch.stack(columns, -1)


def _window(corner: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Rows (..., side, 1) and columns (..., 1, side) of windows at corners (..., (row, column))."""
    steps = torch.arange(side)
    row, column = corner[..., 0, None, None], corner[..., 1, None, None]
    return row + steps[:, None], column + steps


def checked_digits(images: Tensor, digits: int) -> int:
    """The number of images, after a look at their shape and type."""
    check_floating(images, "images")
    if images.dim() != 4 or images.shape[1:] != (digits, SIDE_PX, SIDE_PX):
        raise ValueError(f"images must have shape (B, {digits}, 28, 28), got {shape_of(images)}")
    return len(images)


def _checked_pool(pool: Tensor | None) -> Tensor:
    if pool is None:
        raise ValueError(
            "clutter needs a clutter_pool, got None; pass the training images, uint8 (N, 28, 28)"
        )
    if pool.dtype != torch.uint8 or pool.shape[1:] != (SIDE_PX, SIDE_PX) or not len(pool):
        raise ValueError(
            "clutter_pool must be uint8 of shape (N, 28, 28) with N >= 1, "
            f"got {pool.dtype} {shape_of(pool)}"
        )
    return pool
