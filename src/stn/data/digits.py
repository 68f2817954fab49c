"""The tasks by name, their streams and their frozen sets."""

import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from .._checks import shape_of
from .addition import Addition
from .distort import DISTORTIONS, Clutter, MoveCorners, Pose, Task
from .mnist import Mnist
from .volumes import Volumes

HELD_OUT = 5000
CHUNK = 1000
CHUNK_PX = 4_000_000

TASKS: Mapping[str, Task] = {
    **DISTORTIONS,
    # P if its 5 px were meant for the 42 x 42 px of RTS: the paper does not state the canvas.
    "p-42": MoveCorners(sigma_px=5.0 * 28 / 42),
    "addition": Addition(),
    "colocalization": Clutter(crops=0, canvas=(84, 84)),
    "colocalization-cluttered": Clutter(crops=16, canvas=(84, 84)),
    "volumes": Volumes(),
}


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
    """Images float32 (N, C, *canvas) in [0, 1], labels int64 (N,), and poses."""

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
    """Training batches without end, drawn afresh each time; a pure function of (seed, step).

    Every epoch is a permutation of the images drawn from (seed, epoch), cut into whole batches; a
    ragged rest is dropped. A task of several digits pairs several permutations; the label is the
    sum of its digits'. Distortions are drawn from (seed, step). Nothing is remembered between
    calls, so training resumes at any step, and all devices see the same data.

    Args:
        images: uint8 (N, 28, 28).
        labels: (N,) whole numbers.
        task: a name in `TASKS`.
        batch_size: images per batch, 1 to N.
        seed: any integer; distinct seeds give unrelated streams.
        device: where batches are made and returned.
        clutter_pool: uint8 (M, 28, 28), where clutter comes from; None for `images`.
        bend: distorts every digit in its 28x28 px before the task does, as other hands would
            write it; training only, no frozen set has it.

    Raises:
        ValueError: an unknown task, or shapes or sizes that do not fit.

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
        task: str,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        clutter_pool: Tensor | None = None,
        bend: Task | None = None,
    ):
        check_digits(images, labels)
        if bend is not None and (bend.digits, *bend.canvas) != (1, *images.shape[1:]):
            raise ValueError(
                f"bend must keep single digits of 28 x 28 px, got a task of {bend.digits} on "
                f"{' x '.join(map(str, bend.canvas))} px"
            )
        if not 1 <= batch_size <= len(images):
            raise ValueError(
                f"batch_size must be from 1 to the number of images, {len(images)}, got "
                f"{batch_size}"
            )
        self.name, self.task = task, task_named(task)
        self.batch_size, self.seed = batch_size, seed
        self.images, self.labels = images.to(device), labels.to(device).long()
        self.clutter_pool = self.images if clutter_pool is None else clutter_pool.to(device)
        self.bend = bend
        self._order: tuple[int, Tensor] | None = None

    @property
    def steps_per_epoch(self) -> int:
        return len(self.images) // self.batch_size

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Batch number `step`, from 0: images float32 (B, C, *canvas), labels int64 (B,)."""
        if step < 0:
            raise ValueError(f"step must not be negative, got {step}")
        epoch, place = divmod(step, self.steps_per_epoch)
        rows = self._orders(epoch)[place * self.batch_size : (place + 1) * self.batch_size]
        rows = rows.to(self.images.device)
        generator = generator_of("stream", self.name, self.seed, step)
        clean = self.images[rows].float().div_(255)
        if self.bend is not None:
            clean = self.bend(clean.view(-1, 1, 28, 28), generator).images.view(clean.shape)
        drawn = self.task(clean, generator, self.clutter_pool)
        return drawn.images, self.labels[rows].sum(-1)

    def batches(
        self, start: int = 0, part: int = 0, parts: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches from step `start` on, without end; of each, part number `part` of `parts`."""
        for step in itertools.count(start):
            images, labels = self.batch(step)
            yield images.chunk(parts)[part], labels.chunk(parts)[part]

    def _orders(self, epoch: int) -> Tensor:
        """Rows (N, digits) of the images, in the order of an epoch."""
        if self._order is None or self._order[0] != epoch:
            generator = generator_of("order", self.seed, epoch)
            count = len(self.images)
            orders = [torch.randperm(count, generator=generator) for _ in range(self.task.digits)]
            self._order = (epoch, torch.stack(orders, -1))
        return self._order[1]


def frozen_set(
    images: Tensor,
    labels: Tensor,
    task: str,
    seed: int,
    repeat: int = 0,
    clutter_pool: Tensor | None = None,
) -> FrozenSet:
    """A set of a task that is the same every time, for validation and test.

    All that is random is drawn from (seed, repeat, chunk) in chunks of 1,000 images, fewer where
    they have more than 4,000 values each, so a set begins as that of its first chunks does. For a
    task of several digits, the first is the image in its order, the others come from its chunk.

    Args:
        images: uint8 (N, 28, 28), on any device.
        labels: (N,) whole numbers.
        task: a name in `TASKS`.
        seed: any integer.
        repeat: number of the copy, for averaging over several distortions of each image.
        clutter_pool: uint8 (M, 28, 28), needed where there is clutter: the training images.

    Returns:
        FrozenSet of N images in the order given, on images' device.

    Raises:
        ValueError: an unknown task, shapes that do not fit, or clutter without clutter_pool.
    """
    return joined(frozen_chunks(images, labels, task, seed, repeat, clutter_pool))


def joined(chunks: Iterable[FrozenSet]) -> FrozenSet:
    """Chunks, at least one, as one set."""
    parts = list(chunks)
    fields = zip(*(part.pose for part in parts), strict=True)
    return FrozenSet(
        torch.cat([part.images for part in parts]),
        torch.cat([part.labels for part in parts]),
        Pose(*(torch.cat(field) for field in fields)),
    )


def frozen_chunks(
    images: Tensor,
    labels: Tensor,
    task: str,
    seed: int,
    repeat: int = 0,
    clutter_pool: Tensor | None = None,
) -> Iterator[FrozenSet]:
    """The chunks of `frozen_set`, made one at a time: 10,000 volumes at once would take 9 GB.

    Args:
        images, labels, task, seed, repeat, clutter_pool: as in `frozen_set`.

    Yields:
        FrozenSets that, one after the other, are that of `frozen_set`.
    """
    check_digits(images, labels)
    chosen = task_named(task)
    labels = labels.to(images.device).long()
    values = chosen.digits * math.prod(chosen.canvas)
    chunk = min(CHUNK, max(1, CHUNK_PX // values))
    for number, rows in enumerate(torch.arange(len(images)).split(chunk)):
        generator = generator_of("frozen", task, seed, repeat, number)
        others = [
            rows[torch.randperm(len(rows), generator=generator)] for _ in range(chosen.digits - 1)
        ]
        rows = torch.stack([rows, *others], -1).to(images.device)
        clean = images[rows].float().div_(255)
        drawn = chosen(clean, generator, clutter_pool)
        yield FrozenSet(drawn.images, labels[rows].sum(-1), drawn.pose)


def task_named(name: str) -> Task:
    """The task of a name in `TASKS`; ValueError for other names."""
    if name not in TASKS:
        known = ", ".join(repr(known) for known in TASKS)
        raise ValueError(f"task must be one of {known}, got {name!r}")
    return TASKS[name]


def generator_of(*parts: str | int) -> Generator:
    """A CPU generator seeded by the hash of its parts: near seeds and steps are unrelated."""
    key = "/".join(str(part) for part in parts).encode()
    seed = int.from_bytes(hashlib.sha256(key).digest()[:8], "big", signed=True)
    return Generator().manual_seed(seed)


def check_digits(images: Tensor, labels: Tensor) -> None:
    if images.dtype != torch.uint8 or images.dim() != 3 or images.shape[1:] != (28, 28):
        raise ValueError(
            f"images must be uint8 of shape (N, 28, 28), got {images.dtype} {shape_of(images)}"
        )
    if labels.shape != images.shape[:1]:
        raise ValueError(f"labels must have shape ({len(images)},), got {shape_of(labels)}")
