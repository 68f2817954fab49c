"""One experiment, and the run folder that it fills."""

import json
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from .. import __version__
from ..data import Splits
from ..training import write_json
from ..training.loop import Progress

# Frozen sets are the same for every run, whatever its seed.
FROZEN_SEED = 2015

CODE = ("src/", "native/", "CMakeLists.txt", "pyproject.toml", "constraints.txt")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """All that decides a run's result; written to its config.json.

    A kind of experiment adds its choices, among them the seed, and says how it is `run`.

    Args:
        recipe: name of the recipe that made it.
        model: name of the network.
        column: "quick", minutes on two cores, or "faithful", the paper's.
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

    def run(
        self,
        folder: Path,
        splits: Splits,
        device: torch.device,
        progress: Progress | None = None,
    ) -> dict:
        """Train, choose on held-out digits, read the test set once; go on if it was begun.

        Returns:
            What goes into results.json: test_error_percent, parameters, steps, samples_seen, and
            whatever else was measured.
        """
        raise NotImplementedError


def run_experiment(
    experiment: Experiment,
    folder: Path,
    splits: Splits,
    *,
    cpu: bool = False,
    progress: Progress | None = None,
) -> dict:
    """Run an experiment in its folder.

    A folder in which the same experiment was begun is continued, a finished one returned as it is.

    Returns:
        The contents of results.json.

    Raises:
        ValueError: the folder holds another experiment.
    """
    claim(folder, experiment)
    finished = folder / "results.json"
    if finished.exists():
        return json.loads(finished.read_text())
    device = torch.device("cuda" if torch.cuda.is_available() and not cpu else "cpu")
    start = time.monotonic()
    found = experiment.run(folder, splits, device, progress)
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
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
    }
    write_json(finished, results)
    return results


def claim(folder: Path, experiment: Experiment) -> None:
    """Write config.json, or make sure that the one there says the same.

    Raises:
        ValueError: it says something else, or cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads(json.dumps(asdict(experiment)))
    path = folder / "config.json"
    if not path.exists():
        write_json(path, config)
        return
    try:
        there = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); delete {folder}") from None
    changed = [key for key in config if there.get(key) != config[key]]
    if changed:
        raise ValueError(
            f"{folder} holds another experiment (it differs in {', '.join(changed)}); choose "
            "another --out, or delete it"
        )


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
