"""Streams and frozen sets of distorted digits."""

import hashlib
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from .._checks import shape_of
from .distort import Pose, distortion_named
from .mnist import Mnist

HELD_OUT = 5000
CHUNK = 1000


class Split(NamedTuple):
    """Undistorted images uint8 (N, 28, 28) and labels int64 (N,)."""

    images: Tensor
    labels: Tensor


class Splits(NamedTuple):
    """To train on, to choose by, and to report on."""

    train: Split
    held_out: Split
    test: Split


class FrozenSet(NamedTuple):
    """Distorted images float32 (N, 1, H, W) in [0, 1], labels int64 (N,), and poses."""

    images: Tensor
    labels: Tensor
    pose: Pose


def split_mnist(mnist: Mnist) -> Splits:
    """The first 55,000 training digits, the last 5,000 held out, and the 10,000 test digits."""
    images, labels = mnist.train_images, mnist.train_labels
    return Splits(
        Split(images[:-HELD_OUT], labels[:-HELD_OUT]),
        Split(images[-HELD_OUT:], labels[-HELD_OUT:]),
        Split(mnist.test_images, mnist.test_labels),
    )


class DigitStream:
    """Training batches without end, distorted afresh each time; a pure function of (seed, step).

    Every epoch is a permutation of the images drawn from (seed, epoch), cut into whole batches; a
    ragged rest is dropped. Distortions are drawn from (seed, step). Nothing is remembered between
    calls, so training resumes at any step, and all devices see the same data.

    Args:
        images: uint8 (N, 28, 28).
        labels: (N,) whole numbers.
        distortion: "r", "rts", "p", "e" or "tc".
        batch_size: images per batch, 1 to N.
        seed: any integer; distinct seeds give unrelated streams.
        device: where batches are made and returned.
        clutter_pool: uint8 (M, 28, 28), for the clutter of "tc"; None for `images`.

    Raises:
        ValueError: an unknown distortion, or shapes or sizes that do not fit.

    Example:
        >>> from stn.data import DigitStream
        >>> images = torch.randint(256, (40, 28, 28), dtype=torch.uint8)
        >>> stream = DigitStream(images, torch.arange(40) % 10, "rts", batch_size=16, seed=0)
        >>> stream.steps_per_epoch, stream.batch(7)[0].shape
        (2, torch.Size([16, 1, 42, 42]))
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        distortion: str,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        clutter_pool: Tensor | None = None,
    ):
        _check_digits(images, labels)
        if not 1 <= batch_size <= len(images):
            raise ValueError(
                f"batch_size must be from 1 to the number of images, {len(images)}, got "
                f"{batch_size}"
            )
        self.name, self.distortion = distortion, distortion_named(distortion)
        self.batch_size, self.seed = batch_size, seed
        self.images, self.labels = images.to(device), labels.to(device).long()
        self.clutter_pool = self.images if clutter_pool is None else clutter_pool.to(device)
        self._order: tuple[int, Tensor] | None = None

    @property
    def steps_per_epoch(self) -> int:
        return len(self.images) // self.batch_size

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Batch number `step`, from 0: images float32 (B, 1, H, W) in [0, 1], labels int64 (B,)."""
        if step < 0:
            raise ValueError(f"step must not be negative, got {step}")
        epoch, place = divmod(step, self.steps_per_epoch)
        rows = self._permutation(epoch)[place * self.batch_size : (place + 1) * self.batch_size]
        rows = rows.to(self.images.device)
        generator = _generator("stream", self.name, self.seed, step)
        clean = _as_float(self.images[rows])
        return self.distortion(clean, generator, self.clutter_pool).images, self.labels[rows]

    def _permutation(self, epoch: int) -> Tensor:
        if self._order is None or self._order[0] != epoch:
            order = torch.randperm(
                len(self.images), generator=_generator("order", self.seed, epoch)
            )
            self._order = (epoch, order)
        return self._order[1]


def frozen_set(
    images: Tensor,
    labels: Tensor,
    distortion: str,
    seed: int,
    repeat: int = 0,
    clutter_pool: Tensor | None = None,
) -> FrozenSet:
    """A distorted set that is the same every time, for validation and test.

    Distortions are drawn from (seed, repeat, chunk) in chunks of 1,000 images, so a set begins as
    that of its first thousands of images does.

    Args:
        images: uint8 (N, 28, 28), on any device.
        labels: (N,) whole numbers.
        distortion: "r", "rts", "p", "e" or "tc".
        seed: any integer.
        repeat: number of the copy, for averaging over several distortions of each image.
        clutter_pool: uint8 (M, 28, 28), needed by "tc": the training images.

    Returns:
        FrozenSet of N images in the order given, on images' device.

    Raises:
        ValueError: an unknown distortion, shapes that do not fit, or "tc" without clutter_pool.
    """
    _check_digits(images, labels)
    distort = distortion_named(distortion)
    parts = [
        distort(
            _as_float(chunk), _generator("frozen", distortion, seed, repeat, number), clutter_pool
        )
        for number, chunk in enumerate(images.split(CHUNK))
    ]
    pose = Pose(*(torch.cat(field) for field in zip(*(part.pose for part in parts), strict=True)))
    return FrozenSet(
        torch.cat([part.images for part in parts]), labels.to(images.device).long(), pose
    )


def _as_float(images: Tensor) -> Tensor:
    return images.unsqueeze(1).float().div_(255)


def _generator(*parts: str | int) -> Generator:
    """A CPU generator seeded by the hash of its parts: near seeds and steps are unrelated."""
    key = "/".join(str(part) for part in parts).encode()
    seed = int.from_bytes(hashlib.sha256(key).digest()[:8], "big", signed=True)
    return Generator().manual_seed(seed)


def _check_digits(images: Tensor, labels: Tensor) -> None:
    if images.dtype != torch.uint8 or images.dim() != 3 or images.shape[1:] != (28, 28):
        raise ValueError(
            f"images must be uint8 of shape (N, 28, 28), got {images.dtype} {shape_of(images)}"
        )
    if labels.shape != images.shape[:1]:
        raise ValueError(f"labels must have shape ({len(images)},), got {shape_of(labels)}")
