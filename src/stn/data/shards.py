"""Image sets of any size, streamed from WebDataset shards: tar files beside their index.

A sample is an image file and a json file, {"label": number or numbers}, of the same key.
"""

import io
import json
import math
import os
import random
import re
import shutil
import tarfile
import tempfile
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
from .digits import generator_of
from .image_set import DAMAGED, ImageSet
from .mnist import DataError
from .pictures import FITS, MODES, SUFFIXES, read_picture

INDEX = "shards.json"
BUFFER = 1000  # samples, still encoded, that a stream draws from
MEND = "; mend it, or skip what is damaged"

Label = int | list[int]
Shards = Sequence[tuple[str, int]]  # names, and how many samples each has
Batch = tuple[Tensor, Tensor]


def write_shards(
    sets: Mapping[str, ImageSet],
    folder: str | Path,
    per_shard: int = 1000,
    damaged: str = "refuse",
) -> Path:
    """Image sets as shards and their index, all of it or nothing.

    Image files are stored as they are; only where an example has a box is its part (to whole
    pixels) stored as a PNG. The order within a part is shuffled, the same each time. Every image
    is read once, to see that it can be.

    Args:
        sets: by the names of their parts, such as "train", "held-out" and "test"; with the same
            class names.
        folder: where to; created where missing.
        per_shard: images in a shard, all but a part's last.
        damaged: "refuse" raises for the first damaged file; "skip" leaves such files out, and
            names them in the index, under "left_out".

    Returns:
        The index, folder/shards.json, which appears when the shards are all there.

    Raises:
        DataError: a damaged image, or a part without any other.
        ValueError: a folder that has an index already, or arguments that do not fit.
    """
    check_choice(damaged, DAMAGED, "damaged")
    if per_shard < 1:
        raise ValueError(f"per_shard must be at least 1, got {per_shard}")
    if len({images.names for images in sets.values()}) != 1:
        raise ValueError("sets must be one or more, all with the same class names")
    for part in sets:
        if not re.fullmatch(r"\w[\w-]*", part):
            raise ValueError(f"a part's name must be letters, digits, - and _, got {part!r}")
    target = Path(folder).expanduser().resolve()
    target.mkdir(parents=True, exist_ok=True)
    if (target / INDEX).exists():
        raise ValueError(f"{target} holds shards already: delete them or choose another folder")
    first, faults, parts = next(iter(sets.values())), [], {}
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=target) as made_in:
        made = Path(made_in)
        for part, images in sets.items():
            counts = _write_part(part, images, made, per_shard, damaged, faults)
            shards = [f"{part}-{number:06d}.tar" for number in range(len(counts))]
            parts[part] = {"shards": shards, "counts": counts}
        index = {"names": first.names, "size_hint": first.size, "parts": parts}
        (made / INDEX).write_text(json.dumps({**index, "left_out": faults}, indent=1))
        for name in [name for part in parts.values() for name in part["shards"]] + [INDEX]:
            os.replace(made / name, target / name)
    return target / INDEX


def open_shards(
    index: str | Path,
    size: Sequence[int] | int,
    channels: int = 3,
    fit: str = "pad",
    damaged: str = "refuse",
) -> "ShardSet":
    """The shards that an index lists, which lie beside it.

    Args:
        index: shards.json, as a path or as an http or https URL; URLs are read through curl.
        size: (H, W) of the canvas that every image is put on, px.
        channels: 1 or 3.
        fit: how, see `read_picture`.
        damaged: "refuse" raises for what cannot be read; "skip" passes over it, and names it in
            `ShardSet.faults`.

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
    return ShardSet(url.rsplit("/", 1)[0], names, parts, size, channels, fit, damaged)


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
    ):
        check_choice(channels, tuple(MODES), "channels")
        check_choice(fit, FITS, "fit")
        check_choice(damaged, DAMAGED, "damaged")
        self.folder, self.names, self.parts = folder, names, parts
        self.size, self.channels, self.fit = check_size(size, 2), channels, fit
        self.damaged = damaged
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
        pairs = filter(None, map(self._decoded, self._samples(shards)))
        while chunk := list(islice(pairs, count)):
            images, labels = _stacked(chunk)
            yield images.float().div_(255), labels

    def _batches(self, samples: Iterator[Sample], count: int) -> Iterator[Batch]:
        """A batch at every `count` samples; for a damaged one the next that is not."""
        ahead: deque[Sample] = deque()
        while True:
            batch, tried = [], 0
            while len(batch) < count:
                if tried == count + BUFFER:
                    raise DataError(f"not {count} of {tried} images can be read: {self.faults[0]}")
                if tried == len(ahead):
                    ahead.append(next(samples))
                if pair := self._decoded(ahead[tried]):
                    batch.append(pair)
                tried += 1
            for _ in range(count):
                ahead.popleft()
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

    def _decoded(self, sample: Sample) -> tuple[Tensor, Label] | None:
        name = f"{sample.name}: the image"
        try:
            image = read_picture(sample.picture, self.size, self.channels, self.fit, name=name)
        except DataError as error:
            return self._fault(str(error))
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


def _stacked(pairs: Sequence[tuple[Tensor, Label]]) -> Batch:
    return torch.stack([image for image, _ in pairs]), torch.tensor([label for _, label in pairs])


def _write_part(
    part: str, images: ImageSet, folder: Path, per_shard: int, damaged: str, faults: list[str]
) -> list[int]:
    """How many images each shard got."""
    from webdataset.writer import ShardWriter

    order = torch.randperm(len(images), generator=generator_of("write_shards", part)).tolist()
    pattern = f"{folder}/{part}-".replace("%", "%%") + "%06d.tar"
    with ShardWriter(pattern, per_shard, math.inf, verbose=0, encoder=False, mtime=0) as writer:
        for row in order:
            try:
                suffix, raw = _stored(images, row)
            except DataError as error:
                if damaged == "refuse":
                    raise DataError(str(error) + MEND) from None
                faults.append(str(error))
                continue
            label = json.dumps({"label": images.examples[row].label}).encode()
            writer.write({"__key__": f"{writer.total:08d}", suffix: raw, "json": label})
        total = writer.total
    if total == 0:
        raise DataError(f"not one image of {part!r} can be read: {faults[-1]}")
    full, rest = divmod(total, per_shard)
    return [per_shard] * full + [rest] * (rest > 0)


def _stored(images: ImageSet, row: int) -> tuple[str, bytes]:
    """Suffix and bytes of an image file, which can be read."""
    path, _, box = images.examples[row]
    suffix = path.suffix.lower()
    if box is None and suffix in SUFFIXES:
        images[row]
        return suffix[1:], path.read_bytes()
    from PIL import Image

    pixels = read_picture(path, box=box)
    packed = io.BytesIO()
    Image.fromarray(pixels.movedim(0, -1).numpy()).save(packed, "PNG")
    return "png", packed.getvalue()


def _reason(error: Exception) -> str:
    """What an error of webdataset says, without the streams and commands it puts behind."""
    said = str(getattr(error, "strerror", None) or (error.args or ("",))[0])
    if ended := re.search(r"exit (\d+) \(read\)", said):
        return f"curl ended with code {ended[1]}"
    return said.split(" @ ")[0] or type(error).__name__
