"""Labelled image files, of whatever source: read when asked, or all at once into memory."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .._checks import check_choice, check_size
from .mnist import DataError
from .pictures import FITS, MODES, Box, read_picture

DAMAGED = ("refuse", "skip")
SHOWN = 5


class Example(NamedTuple):
    """An image file, its label, and the part of it to read: a box as `read_picture` takes it.

    The label is a number, or as many as a label has parts: five digits of a house number.
    """

    path: Path
    label: int | tuple[int, ...]
    box: Box | None = None


class ImageSet:
    """Image files and their labels.

    Args:
        examples: one for each image.
        names: of the classes; label k is called names[k].
        size: (H, W) of the canvas that every image is put on, px.
        channels: 1 or 3.
        fit: how, see `read_picture`.

    Raises:
        ValueError: a size, channels or fit that there is not.
        DataError: no examples, or a label that is not the number of a name.
    """

    def __init__(
        self,
        examples: Iterable[Example],
        names: Sequence[str],
        size: Sequence[int] | int,
        channels: int = 3,
        fit: str = "pad",
    ):
        self.examples, self.names = tuple(examples), tuple(names)
        check_choice(channels, tuple(MODES), "channels")
        check_choice(fit, FITS, "fit")
        self.size, self.channels, self.fit = check_size(size, 2), channels, fit
        if not self.examples:
            raise DataError("there is not one image in the set")
        self.labels = torch.tensor([example.label for example in self.examples])
        if self.labels.min() < 0 or self.labels.max() >= len(self.names):
            raise DataError(
                f"labels must be from 0 to {len(self.names) - 1}, the numbers of the class names, "
                f"got {int(self.labels.min())} to {int(self.labels.max())}"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return (self.channels, *self.size)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, row: int) -> Tensor:
        """Image `row`, uint8 (C, H, W); a DataError that names the file if it is damaged."""
        path, _, box = self.examples[row]
        return read_picture(path, self.size, self.channels, self.fit, box)

    def subset(self, rows: Iterable[int]) -> "ImageSet":
        """The examples of these rows, in this order."""
        chosen = (self.examples[row] for row in rows)
        return ImageSet(chosen, self.names, self.size, self.channels, self.fit)

    def split(self, share: float, seed: int = 0) -> tuple["ImageSet", "ImageSet"]:
        """Two sets: all but `share`, and `share` of every class, at least one of each in both.

        A class of one image stays whole in the first. Where labels have parts, as numbers have
        digits, they are no classes, and the share is drawn from all.
        """
        if not 0 < share < 1:
            raise ValueError(f"share must be between 0 and 1, got {share}")
        groups: dict[int, list[int]] = {}
        generator = torch.Generator().manual_seed(seed)
        for row in torch.randperm(len(self), generator=generator).tolist():
            label = self.examples[row].label
            groups.setdefault(label if isinstance(label, int) else 0, []).append(row)
        apart = [row for rows in groups.values() for row in rows[: _part(len(rows), share)]]
        rest = set(range(len(self))) - set(apart)
        if not apart or not rest:
            raise DataError(
                f"{len(self)} images of {len(groups)} classes cannot be split: some class needs two"
            )
        return self.subset(sorted(rest)), self.subset(sorted(apart))

    def in_memory(self, damaged: str = "refuse", threads: int = 4) -> "LoadedSet":
        """All images at once.

        Args:
            damaged: "refuse" raises for the first damaged file; "skip" leaves such files out.
            threads: that decode.
        """
        check_choice(damaged, DAMAGED, "damaged")
        kept: list[int] = []
        faults: list[str] = []
        images = []
        with ThreadPoolExecutor(threads) as pool:
            for row, found in enumerate(pool.map(self._try, range(len(self)))):
                if isinstance(found, Tensor):
                    kept.append(row)
                    images.append(found)
                elif damaged == "refuse":
                    raise DataError(f"{found}; mend or delete it, or skip damaged images")
                else:
                    faults.append(str(found))
        if not kept:
            raise DataError(f"not one of {len(self)} images can be read: {faults[0]}")
        return LoadedSet(torch.stack(images), self.labels[kept], self.names, tuple(faults))

    def _try(self, row: int) -> Tensor | DataError:
        try:
            return self[row]
        except DataError as error:
            return error


class LoadedSet(NamedTuple):
    """Images uint8 (N, C, H, W) and labels (N,) or (N, parts); faults names what was left out."""

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]
    faults: tuple[str, ...] = ()

    def chunks(self, count: int = 500) -> Iterator[tuple[Tensor, Tensor]]:
        """Images float32 in [0, 1] and labels, `count` at a time."""
        for images, labels in zip(self.images.split(count), self.labels.split(count), strict=True):
            yield images.float() / 255, labels


def faults_in_words(faults: Sequence[str]) -> str:
    """What was left out, counted and, the first few, named; "" for nothing."""
    if not faults:
        return ""
    more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
    return f"left out {len(faults)} damaged: {'; '.join(faults[:SHOWN])}{more}"


def _part(count: int, share: float) -> int:
    return min(max(1, round(count * share)), count - 1)
