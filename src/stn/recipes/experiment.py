"""One experiment, and the run folder that it fills."""

import json
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import __version__
from ..evaluation import error_percent
from ..models import count_parameters
from ..training import Processes, Trained, TrainingConfig, write_json
from ..training.loop import Progress

MOST_SHOWN = 1000
# Frozen sets are the same for every run, whatever its seed.
FROZEN_SEED = 2015

LOCK = ".lock"
# What a start writes before the first step.
BEGUN = {"config.json", "log.txt", LOCK}
CODE = ("src/", "native/", "CMakeLists.txt", "pyproject.toml", "constraints.txt")


class Shown(NamedTuple):
    """Test images (N, C, *S) to draw, their labels (N,) or (N, parts), and the names of classes."""

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]


class Measured(NamedTuple):
    """An error, and the number of images that it was measured on."""

    error_percent: float
    images: int


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """All that decides a run's result; written to its config.json.

    A kind of experiment adds its choices, among them the seed, and says how it is `run`.

    Args:
        recipe: name of the recipe that made it.
        model: name of the network.
        column: "quick", minutes on two cores; "faithful", the paper's networks; of digits "long",
            those as long as the paper trained, and "best", the best that are known.
        paper_error_percent: the paper's figure for this cell, None where it has none; in the best
            column the best published one.
        variant: what is changed of the recipe, in a word; "" for nothing.
    """

    recipe: str
    model: str
    column: str
    paper_error_percent: float | None = None
    variant: str = ""

    @property
    def run_seed(self) -> int:
        raise NotImplementedError

    @property
    def folder_name(self) -> str:
        variant = f"-{self.variant}" * bool(self.variant)
        return f"{self.recipe}{variant}_{self.model}_{self.column}_{self.run_seed}"

    def changed(self, epochs: float | None, lr: float | None) -> "Experiment":
        """The same with another length or learning rate.

        Raises:
            ValueError: one of them is given and out of range, or this kind has no such choice.
        """
        if epochs is not None or lr is not None:
            raise ValueError(f"{self.recipe} has its own epochs and lr, which cannot be changed")
        return self

    def load(self) -> Any:
        """The data to `run` on; says what to do where it is missing."""
        raise NotImplementedError

    def evaluate(self, model: nn.Module, data: Any, split: str, repeat: int) -> "Measured":
        """The error on the "held-out" or "test" images; of digits, on distortion `repeat`."""
        raise ValueError(f"{self.recipe} has no error of this kind")

    def shown(self, data: Any) -> Shown:
        """Test images for the report."""
        raise ValueError(f"{self.recipe} has no pictures of this kind")

    def run(
        self, folder: Path, data: Any, processes: Processes, progress: Progress | None = None
    ) -> dict:
        """Train, choose on held-out images, read the test set once; go on if it was begun.

        Every one of the processes calls this and gets the same; the main one writes files.

        Returns:
            What goes into results.json: test_error_percent, parameters, steps, samples_seen, and
            whatever else was measured.
        """
        raise NotImplementedError


def run_experiment(
    experiment: Experiment,
    folder: Path,
    data: Any = None,
    *,
    cpu: bool = False,
    progress: Progress | None = None,
) -> dict:
    """Run an experiment in its folder, in each process of `torchrun` alike.

    A folder in which the same experiment was begun is continued, a finished one returned as it is.
    While another process runs there, this one waits for it.

    Args:
        experiment: what to do.
        folder: of the run.
        data: to do it on; None to `load` it.
        cpu: stay on the CPU even if there is a GPU.
        progress: called after every step.

    Returns:
        The contents of results.json.

    Raises:
        ValueError: the folder holds another experiment.
    """
    processes = Processes(cpu)
    try:
        with alone_in(folder) if processes.is_main else nullcontext():
            return _run(experiment, folder, data, processes, progress)
    finally:
        if sys.exc_info()[0] is None:  # the others would wait for a process that fails
            processes.close()


def _run(
    experiment: Experiment,
    folder: Path,
    data: Any,
    processes: Processes,
    progress: Progress | None,
) -> dict:
    if processes.is_main:
        claim(folder, experiment)
    processes.wait()
    finished = folder / "results.json"
    if finished.exists():
        return json.loads(finished.read_text())
    start = time.monotonic()
    data = experiment.load() if data is None else data
    found = experiment.run(folder, data, processes, progress)
    gpu = processes.device.type == "cuda"
    results = {
        "recipe": experiment.recipe,
        "model": experiment.model,
        "variant": experiment.variant,
        "column": experiment.column,
        "seed": experiment.run_seed,
        "paper_error_percent": experiment.paper_error_percent,
        "seconds": round(time.monotonic() - start, 1),
        **found,
        "commit": commit(),
        "version": __version__,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if gpu else "cpu",
        "threads": torch.get_num_threads(),
        "processes": processes.count,
    }
    if processes.is_main:
        write_json(finished, results)
    return results


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Nobody else runs in a folder meanwhile; a process that dies, however it dies, is out of it.

    So a queue can be started again while runs of the one that was killed live on.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"another process runs in {folder}; waiting for its end", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        with suppress(OSError):  # held as long as it has its name: who waits opens it anew
            (folder / LOCK).unlink()
        lock.release()


def told(model: nn.Module, training: TrainingConfig, trained: Trained) -> dict:
    """What results.json says of any training."""
    return {
        "held_out_error_percent": trained.held_out_error_percent,
        "best_step": trained.best_step,
        "parameters": count_parameters(model),
        "steps": training.steps,
        "samples_seen": training.steps * training.batch_size,
        "seconds": round(trained.seconds, 1),
        "precision": trained.precision,
    }


def measured(model: nn.Module, chunks: Iterable[tuple[Tensor, Tensor]]) -> Measured:
    """`error_percent`, with the number of images."""
    counts = []

    def counted() -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in chunks:
            counts.append(len(labels))
            yield images, labels

    return Measured(error_percent(model, counted()), sum(counts))


def claim(folder: Path, experiment: Experiment) -> None:
    """Write config.json, or make sure that the one there says the same.

    A choice that is not in it, as it was made by an older version, stood at its default. Where no
    step was trained, another experiment takes the folder.

    Raises:
        ValueError: it says something else, or cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.json"
    if not path.exists():
        write_json(path, asdict(experiment))
        return
    try:
        there = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); delete {folder}") from None
    changed = list(_differences(experiment, there))
    files = {file.name for file in folder.rglob("*") if file.is_file()}
    if changed and "recipe" in there and files <= BEGUN:
        write_json(path, asdict(experiment))
    elif changed:
        raise ValueError(
            f"{folder} holds another experiment (it differs in {', '.join(changed)}); choose "
            "another --out, or delete it"
        )


def _differences(choices: Any, there: dict) -> Iterator[str]:
    for field in fields(choices):
        value = getattr(choices, field.name)
        if field.name not in there:
            if value != field.default:
                yield field.name
        elif is_dataclass(value) and isinstance(there[field.name], dict):
            if any(_differences(value, there[field.name])):
                yield field.name
        elif json.loads(json.dumps(value)) != there[field.name]:
            yield field.name


def commit() -> str | None:
    """The commit of the checkout this file is in, with + if its code was changed; None outside."""
    here = Path(__file__)

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=here.parent, capture_output=True, text=True, check=True, timeout=10
        )
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # not merely installed inside some checkout
        head, status = git("rev-parse", "--short=12", "HEAD"), git("status", "--porcelain", ":/")
    except (OSError, subprocess.SubprocessError):
        return None
    code = [line for line in status.splitlines() if line[3:].startswith(CODE)]
    return head + ("+" if code else "")
