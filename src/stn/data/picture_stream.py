"""Training batches from sets of pictures, in memory or on disk; a function of (seed, step)."""

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .ahead import ahead
from .augment import Augmentation
from .digits import generator_of
from .image_set import ImageSet, LoadedSet
from .mnist import DataError

Batch = tuple[Tensor, Tensor]
CHUNK = 250
MEMORY_BYTES = 2**31


class PictureSets(NamedTuple):
    """Pictures to train on, to choose by and to report on, wherever they are.

    batches: (batch_size, seed, augmentation) -> batches (start, part, parts) without end, for
        `stn.training.train`: float32 in [0, 1], and labels.
    held_out, test: (part, parts) -> chunks.
    names: of the classes.
    faults: what is damaged and was left out; grows as a stream is read.
    """

    batches: Callable[[int, int, Augmentation | None], Callable[[int, int, int], Iterator[Batch]]]
    held_out: Callable[[int, int], Iterator[Batch]]
    test: Callable[[int, int], Iterator[Batch]]
    names: tuple[str, ...]
    faults: Callable[[], tuple[str, ...]]


def sets_of(
    train: ImageSet, held_out: ImageSet, test: ImageSet, damaged: str = "refuse", workers: int = 0
) -> PictureSets:
    """Sets of files, in memory if they take less than two gigabytes, else read by `workers`.

    Raises:
        DataError: a damaged file that is to be refused, or one that is to be skipped among too many
            files for memory.
    """
    # Whoever looks at the first test pictures wants to see all classes.
    order = torch.randperm(len(test), generator=generator_of("test", 0))
    whole = (train, held_out, test.subset(order.tolist()))
    values = sum(len(part) * part.shape[0] * part.shape[1] * part.shape[2] for part in whole)
    small = values <= MEMORY_BYTES
    if not small and damaged == "skip":
        raise DataError(
            f"{len(train):,} files are too many to be read before training, so none can be "
            "skipped; write them as shards, which leaves damaged ones out: stn data shards"
        )
    parts = [part.in_memory(damaged) if small else part for part in whole]
    faults = tuple(fault for part in parts if isinstance(part, LoadedSet) for fault in part.faults)

    def batches(batch_size: int, seed: int, augmentation: Augmentation | None):
        return PictureStream(parts[0], batch_size, seed, augmentation, workers).batches

    return PictureSets(
        batches,
        _chunks_of(parts[1], workers),
        _chunks_of(parts[2], workers),
        train.names,
        lambda: faults,
    )


class PictureStream:
    """Training batches without end; a pure function of (seed, step).

    Every epoch is a permutation drawn from (seed, epoch), cut into whole batches; a ragged rest is
    dropped. Augmentations are drawn from (seed, step), for the whole batch in every process.

    Args:
        pictures: in memory or on disk.
        batch_size: of the whole batch, from 1 to the number of pictures.
        seed: any integer.
        augmentation: None for the pictures as they are.
        workers: processes that read files ahead; 0 to read in this one.
    """

    def __init__(
        self,
        pictures: ImageSet | LoadedSet,
        batch_size: int,
        seed: int,
        augmentation: Augmentation | None = None,
        workers: int = 0,
    ):
        if not 1 <= batch_size <= len(pictures.labels):
            raise ValueError(
                f"batch_size must be from 1 to the number of training pictures, "
                f"{len(pictures.labels)}, got {batch_size}"
            )
        self.pictures, self.batch_size, self.seed = pictures, batch_size, seed
        self.augmentation, self.workers = augmentation, workers

    def batches(self, start: int = 0, part: int = 0, parts: int = 1) -> Iterator[Batch]:
        """Batches from step `start` on; of each, the rows that are part number `part` of `parts`.

        Yields:
            images float32 (B / parts, C, H, W) in [0, 1], and labels.
        """
        rows = (self._rows(step).chunk(parts)[part] for step in itertools.count(start))
        pairs = _read(self.pictures, rows, self.workers)
        return augmented(pairs, self.augmentation, self.seed, start, part, parts)

    def _rows(self, step: int) -> Tensor:
        count = len(self.pictures.labels)
        epoch, place = divmod(step, count // self.batch_size)
        order = torch.randperm(count, generator=generator_of("pictures", self.seed, epoch))
        return order[place * self.batch_size : (place + 1) * self.batch_size]


def augmented(
    pairs: Iterator[Batch],
    augmentation: Augmentation | None,
    seed: int,
    start: int,
    part: int,
    parts: int,
    threads: int = 0,
) -> Iterator[Batch]:
    """uint8 batches as float32 in [0, 1], each step's warped by what is drawn from (seed, step).

    With threads, so many batches ahead; the same batches.
    """

    def warped(numbered: tuple[int, Batch]) -> Batch:
        step, (images, labels) = numbered
        scaled = images.float() / 255
        if augmentation is not None:
            scaled = augmentation(scaled, generator_of("augment", seed, step), part, parts)
        return scaled, labels

    return ahead(warped, enumerate(pairs, start), threads, threads)


def _chunks_of(
    pictures: ImageSet | LoadedSet, workers: int
) -> Callable[[int, int], Iterator[Batch]]:
    def chunks(part: int = 0, parts: int = 1) -> Iterator[Batch]:
        rows = torch.arange(len(pictures.labels)).split(CHUNK)[part::parts]
        for images, labels in _read(pictures, iter(rows), workers):
            yield images.float() / 255, labels

    return chunks


class _Reader(torch.utils.data.Dataset):
    """Pictures of given rows, for a DataLoader whose samples are batches."""

    def __init__(self, pictures: ImageSet):
        self.pictures = pictures

    def __getitem__(self, index: Tensor) -> Batch:
        images = torch.stack([self.pictures[row] for row in index.tolist()])
        return images, self.pictures.labels[index]


def _read(pictures: ImageSet | LoadedSet, rows: Iterator[Tensor], workers: int) -> Iterator[Batch]:
    """uint8 images and labels of each tensor of rows."""
    if isinstance(pictures, LoadedSet):
        return ((pictures.images[index], pictures.labels[index]) for index in rows)
    return iter(
        torch.utils.data.DataLoader(
            _Reader(pictures),
            sampler=rows,  # type: ignore[arg-type]  # any iterable will do
            batch_size=None,
            num_workers=workers,
        )
    )
