"""Image sets of any size, streamed from WebDataset shards: tar files beside their index.

A sample is an image file and a json file, {"label": number or numbers}, of the same key.
"""

import json
import random
import re
import shutil
import tarfile
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import count as numbers_from
from itertools import islice
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import torch
from torch import Tensor

from .._checks import check_choice, check_size
from .ahead import ahead
from .digits import generator_of
from .image_set import DAMAGED
from .mnist import DataError
from .pictures import FITS, MODES, SUFFIXES, read_picture

INDEX = "shards.json"
BUFFER = 1000  # samples, still encoded, that a stream draws from
MEND = "; mend it, or skip what is damaged"

Label = int | list[int]
Shards = Sequence[tuple[str, int]]  # names, and how many samples each has
Pair = tuple[Tensor, Label]
Batch = tuple[Tensor, Tensor]


def open_shards(
    index: str | Path,
    size: Sequence[int] | int,
    channels: int = 3,
    fit: str = "pad",
    damaged: str = "refuse",
    workers: int = 0,
) -> "ShardSet":
    """The shards that an index lists, which lie beside it.

    Args:
        index: shards.json, as a path or as an http or https URL; URLs are read through curl.
        size: (H, W) of the canvas that every image is put on, px.
        channels: 1 or 3.
        fit: how, see `read_picture`.
        damaged: "refuse" raises for what cannot be read; "skip" passes over it, and names it in
            `ShardSet.faults`.
        workers: threads that decode images before they are asked for; 0 to decode when asked. What
            comes is the same.

    Raises:
        DataError: an index that cannot be read or is not one, or a URL where there is no curl.
    """
    from webdataset.gopen import gopen

    shown = str(index)
    remote = shown.startswith(("http://", "https://"))
    if remote and shutil.which("curl") is None:
        raise DataError(f"{shown} is read through curl, which is not installed: install curl")
    url = shown if remote else Path(index).expanduser().absolute().as_uri()
    try:
        with gopen(url, "rb") as file:
            content = json.loads(file.read())
        parts = {
            str(name): list(zip(map(str, part["shards"]), map(int, part["counts"]), strict=True))
            for name, part in content["parts"].items()
        }
        names = tuple(str(name) for name in content["names"])
        if not names or not all(part and all(n > 0 for _, n in part) for part in parts.values()):
            raise ValueError("names, or a part, are empty")
    except OSError as error:
        raise DataError(f"{shown} cannot be read: {_reason(error)}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"is no index of shards ({error!r}): make one with write_shards"
        raise DataError(f"{shown} {reason}") from None
    return ShardSet(url.rsplit("/", 1)[0], names, parts, size, channels, fit, damaged, workers)


class Sample(NamedTuple):
    """An image, still encoded, and its label; `name` is that of its shard and its key."""

    name: str
    picture: bytes
    label: Label


class ShardSet:
    """Labelled images of any number, in memory a few at a time; made by `open_shards`.

    Label k is called names[k]; `parts` gives the shards of each part and how many samples each has.
    """

    def __init__(
        self,
        folder: str,
        names: tuple[str, ...],
        parts: Mapping[str, Shards],
        size: Sequence[int] | int,
        channels: int,
        fit: str,
        damaged: str,
        workers: int,
    ):
        check_choice(channels, tuple(MODES), "channels")
        check_choice(fit, FITS, "fit")
        check_choice(damaged, DAMAGED, "damaged")
        self.folder, self.names, self.parts = folder, names, parts
        self.size, self.channels, self.fit = check_size(size, 2), channels, fit
        if workers < 0:
            raise ValueError(f"workers must not be negative, got {workers}")
        self.damaged, self.workers = damaged, workers
        self._faults: dict[str, None] = {}

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return (self.channels, *self.size)

    @property
    def faults(self) -> tuple[str, ...]:
        """What was passed over so far, each named once."""
        return tuple(self._faults)

    def count(self, part: str) -> int:
        """Samples in a part, by the index."""
        return sum(count for _, count in self._part(part))

    def stream(
        self, part: str, batch_size: int, seed: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """Training batches without end, the same for the same arguments.

        Every epoch deals the shards anew to the processes, by (seed, epoch); each shuffles the
        samples of its own in a buffer of 1,000. Processes may have more or fewer samples, so their
        epochs end at different steps, but none ends for good or waits. A damaged image that is
        passed over leaves its place to one that comes next, so places are the same whether or not
        earlier images were decoded: a resumed stream goes on exactly.

        To get to `start`, no image is decoded; where damage is refused, the epochs before are not
        read either, but where it is skipped they are, as only reading tells how long they were.

        Args:
            part: its name.
            batch_size: images in a step, over all processes.
            seed: any integer.
            start: the step to begin with, from 0.
            rank, world: number of this process, and of all of them.

        Returns:
            An iterator over images uint8 (batch_size // world, C, H, W) and labels int64.

        Raises:
            ValueError: a batch_size that world does not divide, or arguments out of range.
            DataError: fewer shards than processes; later, what cannot be read.
        """
        shards = self._part(part, rank, world)
        if batch_size < 1 or batch_size % world:
            raise ValueError(
                f"batch_size must be a multiple of world, the processes, {world}, got {batch_size}"
            )
        if start < 0:
            raise ValueError(f"start must not be negative, got {start}")
        if len(shards) < world:
            raise DataError(
                f"{part!r} has {len(shards)} shards, too few for {world} processes: write it with "
                "a smaller per_shard"
            )
        each = batch_size // world
        return self._batches(self._endless(shards, seed, start * each, rank, world), each)

    def chunks(self, part: str, rank: int = 0, world: int = 1, count: int = 500) -> Iterator[Batch]:
        """All samples of a part once, in order; over several processes, each once in one of them.

        Args:
            part: its name.
            rank, world: number of this process, and of all of them; one may get no samples.
            count: samples in a chunk, all but the last.

        Returns:
            An iterator over images float32 (count, C, H, W) in [0, 1] and labels int64.

        Raises:
            ValueError: arguments out of range.
            DataError: what cannot be read.
        """
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        return self._chunks(self._part(part, rank, world)[rank::world], count)

    def _chunks(self, shards: Shards, count: int) -> Iterator[Batch]:
        pairs = filter(None, self._decoded(self._samples(shards), count))
        while chunk := list(islice(pairs, count)):
            images, labels = _stacked(chunk)
            yield images.float().div_(255), labels

    def _batches(self, samples: Iterator[Sample], count: int) -> Iterator[Batch]:
        """A batch at every `count` samples; for a damaged one the next that is not."""
        pairs = self._decoded(samples, 2 * count)
        due: deque[Pair | None] = deque()
        while True:
            batch, tried = [], 0
            while len(batch) < count:
                if tried == count + BUFFER:
                    raise DataError(f"not {count} of {tried} images can be read: {self.faults[0]}")
                if tried == len(due):
                    due.append(next(pairs))
                if pair := due[tried]:
                    batch.append(pair)
                tried += 1
            for _ in range(count):
                due.popleft()
            yield _stacked(batch)

    def _endless(
        self, shards: Shards, seed: int, skip: int, rank: int, world: int
    ) -> Iterator[Sample]:
        """The samples of a process, epoch after epoch, but for the first `skip`."""
        from webdataset.filters import shuffle

        barren: set[int] = set()
        for epoch in numbers_from():
            order = torch.randperm(len(shards), generator=generator_of("shards", seed, epoch))
            dealt = order[rank::world].tolist()
            own = [shards[number] for number in dealt]
            due = sum(count for _, count in own)
            if self.damaged == "refuse" and skip >= due:
                skip -= due
                continue
            drawn = shuffle(BUFFER, initial=BUFFER, rng=random.Random(f"{seed}/{epoch}/{rank}"))
            barren.update(dealt)
            for sample in drawn(self._samples(own)):
                barren.clear()
                if skip:
                    skip -= 1
                else:
                    yield sample
            if len(barren) == len(shards):
                raise DataError(f"not one sample of any shard can be read: {self.faults[0]}")

    def _samples(self, shards: Shards) -> Iterator[Sample]:
        """The samples of shards, one shard after the other."""
        from webdataset.tariterators import tarfile_samples

        for shard, count in shards:
            seen, reason = 0, ""
            try:
                for files in tarfile_samples(iter([{"url": f"{self.folder}/{quote(shard)}"}])):
                    seen += 1
                    if sample := self._sample(shard, files):
                        yield sample
            except DataError:
                raise
            except (tarfile.TarError, OSError, EOFError, ValueError) as error:
                reason = f": {_reason(error)}"
            # tarfile takes some cut or garbled shards for ended, so count.
            if reason or seen != count:
                self._fault(f"{shard}: gives {seen} samples, not the index's {count}{reason}")

    def _sample(self, shard: str, files: Mapping) -> Sample | None:
        name = f"{shard}: {files['__key__']}"
        picture = next((raw for suffix, raw in files.items() if f".{suffix}" in SUFFIXES), None)
        if picture is None:
            return self._fault(f"{name}: there is no image")
        try:
            label = json.loads(files["json"])["label"]
        except (ValueError, KeyError, TypeError):
            return self._fault(f"{name}: there is no label")
        for number in label if isinstance(label, list) and label else [label]:
            if type(number) is not int or not 0 <= number < len(self.names):
                return self._fault(f"{name}: label {label} is no number of a class name")
        return Sample(name, picture, label)

    def _decoded(self, samples: Iterator[Sample], most: int) -> Iterator[Pair | None]:
        """Images and labels, `most` ahead of being asked for; None where one is passed over."""
        for found, label in ahead(self._read, samples, self.workers, most):
            yield (found, label) if isinstance(found, Tensor) else self._fault(str(found))

    def _read(self, sample: Sample) -> tuple[Tensor | DataError, Label]:
        name = f"{sample.name}: the image"
        try:
            image = read_picture(sample.picture, self.size, self.channels, self.fit, name=name)
        except DataError as error:
            return error, sample.label
        return image, sample.label

    def _fault(self, text: str) -> None:
        if self.damaged == "refuse":
            raise DataError(text + MEND)
        self._faults[text] = None

    def _part(self, part: str, rank: int = 0, world: int = 1) -> Shards:
        check_choice(part, tuple(self.parts), "part")
        if not 0 <= rank < world:
            raise ValueError(f"rank must be from 0 to world - 1, {world - 1}, got {rank}")
        return self.parts[part]


def _stacked(pairs: Sequence[Pair]) -> Batch:
    return torch.stack([image for image, _ in pairs]), torch.tensor([label for _, label in pairs])


def _reason(error: Exception) -> str:
    """What an error of webdataset says, without the streams and commands it puts behind."""
    said = str(getattr(error, "strerror", None) or (error.args or ("",))[0])
    if ended := re.search(r"exit (\d+) \(read\)", said):
        return f"curl ended with code {ended[1]}"
    return said.split(" @ ")[0] or type(error).__name__
