"""One experiment: a data set, a network, a training, and the run folder they fill."""

import json
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from .. import __version__
from ..data import DigitStream, FrozenSet, Splits, frozen_set
from ..evaluation import error_percent, pose_spread
from ..models import NetSpec, Network, build_model, count_parameters
from ..training import TrainingConfig, train, write_json, write_tensors
from ..training.loop import Progress

# Frozen sets are the same for every run, whatever its seed.
FROZEN_SEED = 2015

CODE = ("src/", "native/", "CMakeLists.txt", "pyproject.toml", "constraints.txt")


@dataclass(frozen=True)
class Experiment:
    """All that decides a run's result; written to its config.json.

    Args:
        recipe: name of the recipe that made it.
        model: name of the network.
        column: "quick", minutes on two cores.
        distortion: of the digits.
        net, training: the choices in full.
        test_repeats: frozen distortions of the test digits over which the error is averaged.
        paper_error_percent: the paper's figure for this cell, None where it has none.
    """

    recipe: str
    model: str
    column: str
    distortion: str
    net: NetSpec
    training: TrainingConfig
    test_repeats: int = 1
    paper_error_percent: float | None = None

    @property
    def folder_name(self) -> str:
        return f"{self.recipe}_{self.model}_{self.column}_{self.training.seed}"


def run_experiment(
    experiment: Experiment,
    folder: Path,
    splits: Splits,
    *,
    cpu: bool = False,
    progress: Progress | None = None,
) -> dict:
    """Train, choose on held-out digits, read the test set once, write the run folder.

    A folder in which the same experiment was begun is continued, a finished one returned as it is.

    Returns:
        The contents of results.json.

    Raises:
        ValueError: the folder holds another experiment.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _claim(folder, experiment)
    finished = folder / "results.json"
    if finished.exists():
        return json.loads(finished.read_text())

    training = experiment.training
    device = torch.device("cuda" if torch.cuda.is_available() and not cpu else "cpu")
    torch.manual_seed(training.seed)
    model = build_model(experiment.net).to(device)
    stream = DigitStream(
        *splits.train, experiment.distortion, training.batch_size, training.seed, device
    )
    held_out = frozen_digits(experiment.distortion, splits, "held-out", 0, device)
    trained = train(
        model,
        stream.batch,
        (held_out.images, held_out.labels),
        training,
        folder,
        cpu=cpu,
        progress=progress,
    )
    write_tensors(folder / "model.safetensors", model.state_dict())

    errors, pose = [], None
    for repeat in range(experiment.test_repeats):
        test = frozen_digits(experiment.distortion, splits, "test", repeat, device)
        errors.append(error_percent(model, test.images, test.labels))
        pose = pose or _pose(model, test)
    results = {
        "recipe": experiment.recipe,
        "model": experiment.model,
        "column": experiment.column,
        "seed": training.seed,
        "test_error_percent": sum(errors) / len(errors),
        "test_errors_percent": errors,
        "held_out_error_percent": trained.held_out_error_percent,
        "paper_error_percent": experiment.paper_error_percent,
        "best_step": trained.best_step,
        "parameters": count_parameters(model),
        "steps": training.steps,
        "samples_seen": training.steps * training.batch_size,
        "seconds": round(trained.seconds, 1),
        "commit": commit(),
        "version": __version__,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "pose": pose,
    }
    write_json(finished, results)
    return results


def frozen_digits(
    distortion: str, splits: Splits, part: str, repeat: int, device: torch.device | str = "cpu"
) -> FrozenSet:
    """Frozen distortion number `repeat` of the "held-out" or the "test" digits."""
    images, labels = splits.test if part == "test" else splits.held_out
    pool = splits.train.images.to(device)
    seed = FROZEN_SEED + (part == "held-out")
    return frozen_set(images.to(device), labels.to(device), distortion, seed, repeat, pool)


def _pose(model: Network, test: FrozenSet) -> dict:
    """Spread of the digits' poses in the test images, and after the transformer if there is one."""
    pose = torch.cat([test.pose.angle_rad[:, None], test.pose.scale[:, None], test.pose.centre], 1)
    spread = {"before": pose_spread(None, test.images, pose)._asdict()}
    if model.transformer is not None:
        spread["after"] = pose_spread(model.transformer, test.images, pose)._asdict()
    return spread


def _claim(folder: Path, experiment: Experiment) -> None:
    """Write config.json, or make sure that the one there says the same."""
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
