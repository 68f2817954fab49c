"""Naming pictures: your own images, and the paper's house numbers and birds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from ..data import (
    Augmentation,
    DataError,
    ImageSet,
    PictureSets,
    augmented,
    data_folder,
    made_ahead,
    open_shards,
    read_cub,
    read_cub_parts,
    read_folder,
    read_svhn,
    sets_of,
)
from ..models import TENSORS, PartsNetwork, PartsSpec, SvhnSpec
from ..training import (
    Processes,
    Trained,
    TrainingConfig,
    theta_recorder,
    train,
    write_tensors,
)
from ..training.loop import Progress
from .experiment import MOST_SHOWN, Experiment, Measured, Shown, measured, told
from .windows import moving_and_still_error, part_hits

TEST_SHARE, HELD_OUT_SHARE = 0.2, 0.1
HELD_OUT_NUMBERS = 5000
MOST_NAMED = 10
BATCHES_AHEAD = 2  # of shards
REMOTE = ("http://", "https://")
KNOWN = "@"  # begins the name of a set in stn's own data folder
MADE = ("street-numbers", "creatures")  # such sets as `stn data` makes


@dataclass(frozen=True, kw_only=True)
class Pictures(Experiment):
    """A network that names pictures, or reads the numbers on them.

    Args:
        source: where pictures are: a key of `SOURCES`.
        data: folder, CSV file, or path or address of an index of shards; "@name" for that folder in
            `stn.data.data_folder()`.
        names: of the classes. An answer of several parts is read as its names, one after the other.
        net, training: the choices in full.
        backbone_training: that of a backbone on whole pictures, with whose weights streams and
            localization begin; None for fresh ones.
        augmentation: random warps of training pictures; None for none.
        fit: how pictures are put on the canvas, `stn.data.read_picture`.
        damaged: "refuse" stops at a picture that cannot be read; "skip" leaves it out.
        workers: processes, for shards threads, that read pictures ahead, where they do not fit
            into memory.
    """

    source: str
    data: str
    names: tuple[str, ...]
    net: PartsSpec | SvhnSpec
    training: TrainingConfig
    backbone_training: TrainingConfig | None = None
    augmentation: Augmentation | None = None
    fit: str = "pad"
    damaged: str = "refuse"
    workers: int = 0

    def __post_init__(self):
        object.__setattr__(self, "names", tuple(self.names))  # a list in JSON

    @property
    def run_seed(self) -> int:
        return self.training.seed

    @property
    def place(self) -> str:
        """Where the data is on this machine."""
        known = self.data.startswith(KNOWN)
        return str(data_folder() / self.data.removeprefix(KNOWN)) if known else self.data

    @property
    def gone(self) -> bool:
        """Whether the pictures are not on this machine where they were."""
        return not self.data.startswith(REMOTE) and not Path(self.place).expanduser().exists()

    def check_made(self) -> None:
        """Raise a DataError if the pictures are made ones and were not made yet."""
        name = self.data.removeprefix(KNOWN)
        if name in MADE and self.gone:
            raise DataError(f"there is no {self.place}; make it: stn data {name}")

    def changed(self, epochs: float | None, lr: float | None) -> "Pictures":
        if epochs is not None:
            raise ValueError(f"{self.recipe} counts steps, not epochs")
        return self if lr is None else replace(self, training=replace(self.training, lr=lr))

    def load(self) -> PictureSets:
        self.check_made()
        return self._checked(SOURCES[self.source](self), self.data)

    def load_from(self, data: str) -> PictureSets:
        """Pictures of another place, to measure the error on.

        What a folder does not set apart is all of it, but for what the run was trained on. If the
        run's own folder is gone, this may be it, moved: then what training drew from it is.
        """
        if self.source != "folder":
            return replace(self, data=data).load()
        size = self.net.shape[1:]
        trained, chosen, reported = folder_sets(data if self.gone else self.place, size, self.fit)
        train, held_out, test = found = read_folder(data, size, fit=self.fit)
        every = [example for part in found if part is not None for example in part.examples]
        whole = ImageSet(every, train.names, size, fit=self.fit)
        held_out = held_out or _without(whole, trained, reported)
        test = test or _without(whole, trained, chosen)
        return self._checked(sets_of(test, held_out, test, self.damaged, self.workers), data)

    def _checked(self, found: PictureSets, data: str) -> PictureSets:
        if found.names != self.names:
            raise ValueError(
                f"{data} has the classes {', '.join(found.names)}; the run was begun with "
                f"{', '.join(self.names)}"
            )
        return found

    def sizes(self) -> str:
        """The classes, how many images each part has, and the canvas: a line to read."""
        size = self.net.shape[1:]
        if self.source == "shards":
            shards = open_shards(self.place, size)
            counts = [shards.count(part) for part in ("train", "held-out", "test")]
        else:
            counts = [len(part) for part in folder_sets(self.place, size, self.fit)]
        train, held_out, test = counts
        more = ", …" * (len(self.names) > MOST_NAMED)
        return (
            f"{len(self.names)} classes: {', '.join(self.names[:MOST_NAMED])}{more}; {train:,} to "
            f"train on, {held_out:,} held out, {test:,} to test, canvas {size[-1]} px"
        )

    def evaluate(self, model: nn.Module, data: PictureSets, split: str, repeat: int) -> Measured:
        return measured(model, (data.test if split == "test" else data.held_out)(0, 1))

    def shown(self, data: PictureSets) -> Shown:
        pairs, count = [], 0
        for images, labels in data.test(0, 1):
            pairs.append((images, labels))
            count += len(labels)
            if count >= MOST_SHOWN:
                break
        images, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        return Shown(images, labels, self.names)

    def run(
        self,
        folder: Path,
        data: PictureSets,
        processes: Processes,
        progress: Progress | None = None,
    ) -> dict:
        training = self.training
        torch.manual_seed(training.seed)
        model = self.net.build().to(processes.device)
        samples, seconds = 0, 0.0
        if self.backbone_training is not None:
            assert isinstance(model, PartsNetwork)
            backbone, seconds = self.trained_backbone(folder, data, processes, progress)
            samples = self.backbone_training.steps * self.backbone_training.batch_size
            model.begin_with(backbone)
        trained = self.trained(model, training, folder, data, processes, progress)
        if processes.is_main:
            write_tensors(folder / TENSORS, model.state_dict())
        chunks = partial(data.test, processes.rank, processes.count)
        moving, still = moving_and_still_error(model, chunks, processes.total)
        found = {
            "test_error_percent": moving,
            **told(model, training, trained),
            "left_out": list(data.faults()),
        }
        found["samples_seen"] += samples
        found["seconds"] = round(found["seconds"] + seconds, 1)
        if still is not None:
            found["still_error_percent"] = still
        if self.source == "cub" and isinstance(model, PartsNetwork) and processes.is_main:
            found |= self.parts_found(model)
        return found

    def trained(
        self,
        model: nn.Module,
        training: TrainingConfig,
        folder: Path,
        data: PictureSets,
        processes: Processes,
        progress: Progress | None,
    ) -> Trained:
        """Train a network on the pictures; continued if it was begun in the folder."""
        batches = data.batches(training.batch_size, training.seed, self.augmentation)
        watch = theta_recorder(model, data.held_out, folder)
        return train(model, batches, data.held_out, training, folder, processes, progress, watch)

    def trained_backbone(
        self, folder: Path, data: PictureSets, processes: Processes, progress: Progress | None
    ) -> tuple[nn.Module, float]:
        """The backbone, trained on whole pictures, and how many seconds it took."""
        assert isinstance(self.net, PartsSpec)
        assert self.backbone_training is not None
        training = self.backbone_training
        torch.manual_seed(training.seed)
        whole = self.net.whole().build().to(processes.device)
        place = folder / "backbone"
        place.mkdir(parents=True, exist_ok=True)
        trained = self.trained(whole, training, place, data, processes, progress)
        return whole.streams[0], trained.seconds

    def parts_found(self, model: PartsNetwork) -> dict:
        """Of a trained network with windows on birds, "parts": `part_hits` on the test pictures.

        Only here are parts read at all, for evaluation; training has seen classes alone. The main
        process does it by itself.
        """
        if model.transformer is None:
            return {}
        assert isinstance(self.net, PartsSpec)
        pictures = read_cub(self.place, self.net.shape[1:], "test", self.fit)
        return {"parts": part_hits(model, self.net, pictures, read_cub_parts(self.place, "test"))}


def folder_sets(place: str, size: tuple[int, ...], fit: str) -> tuple[ImageSet, ImageSet, ImageSet]:
    """To train on, to choose by and to report on; what a folder does not set apart is drawn.

    A fifth of the pictures to report on, a tenth of the rest to choose by, of every class, the same
    ones for every run.
    """
    train, held_out, test = read_folder(place, size, fit=fit)
    if test is None:
        train, test = train.split(TEST_SHARE)
    if held_out is None:
        train, held_out = train.split(HELD_OUT_SHARE)
    return train, held_out, test


def _without(pictures: ImageSet, *others: ImageSet) -> ImageSet:
    """Those that are in none of the others, by their files."""
    seen = {example.path.resolve() for other in others for example in other.examples}
    files = enumerate(example.path.resolve() for example in pictures.examples)
    rows = [row for row, file in files if file not in seen]
    if not rows:
        raise ValueError(f"the run has seen all {len(pictures)} images there: name another place")
    return pictures.subset(rows)


def _of_folder(made: Pictures) -> PictureSets:
    return sets_of(
        *folder_sets(made.place, made.net.shape[1:], made.fit), made.damaged, made.workers
    )


def _of_svhn(made: Pictures, loose: bool) -> PictureSets:
    size = made.net.shape[1:]
    numbers = read_svhn(made.place, size, "train", loose)
    train, held_out = numbers.split(min(HELD_OUT_SHARE, HELD_OUT_NUMBERS / len(numbers)))
    test = read_svhn(made.place, size, "test", loose)
    return sets_of(train, held_out, test, made.damaged, made.workers)


def _of_cub(made: Pictures) -> PictureSets:
    size = made.net.shape[1:]
    train, held_out = read_cub(made.place, size, "train", made.fit).split(HELD_OUT_SHARE)
    test = read_cub(made.place, size, "test", made.fit)
    return sets_of(train, held_out, test, made.damaged, made.workers)


def _of_shards(made: Pictures) -> PictureSets:
    shards = open_shards(
        made.place,
        made.net.shape[1:],
        fit=made.fit,
        damaged=made.damaged,
        workers=made.workers,
    )

    def batches(batch_size: int, seed: int, augmentation: Augmentation | None):
        def share(start: int, part: int, parts: int):
            pairs = shards.stream("train", batch_size, seed, start, part, parts)
            found = augmented(pairs, augmentation, seed, start, part, parts, made.workers)
            # Threads decode, threads warp, one puts together, while the network trains.
            return made_ahead(found, BATCHES_AHEAD) if made.workers else found

        return share

    return PictureSets(
        batches,
        partial(shards.chunks, "held-out"),
        partial(shards.chunks, "test"),
        shards.names,
        lambda: shards.faults,
    )


SOURCES: Mapping[str, Callable[[Pictures], PictureSets]] = {
    "folder": _of_folder,
    "shards": _of_shards,
    "svhn": partial(_of_svhn, loose=False),
    "svhn-loose": partial(_of_svhn, loose=True),
    "cub": _of_cub,
}
