"""Make choices on held-out digits: learning rates, alike for a net and its twins, and the best net.

    python benchmarks/choose.py             # or with names of recipes: those only

Trains each net of a column with each change for a part of its recipe's length, and writes
benchmarks/results/choices.json. The test digits are never read. What stands there is not trained
again; all of it takes some two hours on one core.
"""

import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from stn.data import Splits, joined, load_mnist, split_mnist
from stn.evaluation import error_percent, in_chunks
from stn.models import count_parameters
from stn.recipes import Digits, commit, frozen_digits, make_experiment
from stn.training import Processes, train, write_json

# Path of a choice in an experiment -> value.
Change = dict[str, float]


def rates(*values: float) -> list[Change]:
    return [{"training.lr": value} for value in values]


def alone(*changes: Change) -> list[Change]:
    """One network, where the recipe has several that answer together."""
    return [{"net.members": 1, **change} for change in changes]


# (column, recipe, models, part of the recipe's length, changes)
SEARCHES: Sequence[tuple[str, str, Sequence[str], float, Sequence[Change]]] = (
    ("quick", "mnist-tc", ("fcn", "st-fcn-affine", "st-fcn-attention"), 1 / 3,
     rates(1e-3, 2e-3, 3e-3, 6e-3, 1e-2)),
    ("faithful", "mnist-r", ("cnn", "st-cnn-affine"), 2 / 15, rates(1e-3, 2e-3, 3e-3, 5e-3, 1e-2)),
    ("faithful", "mnist-rts", ("st-cnn-affine",), 2 / 15, rates(1e-3, 2e-3, 3e-3, 5e-3, 1e-2)),
    ("best", "mnist-r", ("st-conv5-similarity",), 1 / 5,
     alone({"training.weight_decay": 0.05}, {}, {"bend_px": 0.5}, {"net.steps": 3},
           {"net.window": 0.8})),
    ("best", "mnist-r", ("st-vgg-similarity",), 1 / 5,
     alone({}, {"bend_px": 0.5}, {"net.localization_width": 3})),
    ("best", "mnist-r", ("st-vgg-similarity",), 1,
     alone({}, {"net.dropout": 0.5}, {"bend_px": 0.5})),
    ("best", "mnist-rts", ("st-conv5-similarity",), 1 / 5, alone({}, {"net.window": 1.0})),
)  # fmt: skip
# Frozen distortions of the held-out digits over which the error of the net is told.
REPEATS = 5
RESULTS = Path(__file__).parent / "results" / "choices.json"


def main(recipes: Sequence[str]) -> None:
    torch.set_num_threads(1)
    splits = split_mnist(load_mnist())
    cells = [
        ({"column": column, "recipe": recipe, "model": model, "change": change}, part)
        for column, recipe, models, part, changes in SEARCHES
        for model in models
        for change in changes
        if not recipes or recipe in recipes
    ]
    for cell, part in cells:
        if any(cell.items() <= row.items() for row in read()):
            continue
        row = cell | trial(cell, part, splits) | {"commit": commit()}
        print(row, flush=True)
        write_json(RESULTS, {"threads": 1, "rows": [*read(), row]})


def read() -> list[dict]:
    """What was tried; read anew each time, as others may be at other recipes."""
    return json.loads(RESULTS.read_text())["rows"]


def trial(cell: dict, part: float, splits: Splits) -> dict:
    """Train a net of a recipe with a change, for a part of its length."""
    experiment = make_experiment(cell["recipe"], cell["model"], cell["column"])
    assert isinstance(experiment, Digits)
    for path, value in cell["change"].items():
        experiment = changed(experiment, path.split("."), value)
    training = dataclasses.replace(
        experiment.training, steps=round(experiment.training.steps * part)
    )
    sets = [
        joined(frozen_digits(experiment.distortion, splits, "held-out", repeat))
        for repeat in range(REPEATS)
    ]
    looks = [in_chunks(digits.images, digits.labels) for digits in sets]
    torch.manual_seed(training.seed)
    model = experiment.net.build()
    with tempfile.TemporaryDirectory() as folder:
        batches = experiment.stream(splits).batches
        trained = train(model, batches, looks[0], training, Path(folder), Processes(cpu=True))
    return {
        "steps": training.steps,
        "parameters": count_parameters(model),
        "held_out_error_percent": trained.held_out_error_percent,
        "held_out_mean_percent": mean(error_percent(model, chunks(0, 1)) for chunks in looks),
        "seconds": round(trained.seconds, 1),
    }


def changed(choices: Any, path: Sequence[str], value: float) -> Any:
    """Choices with the one at `path` set to `value`."""
    first, *rest = path
    if rest:
        value = changed(getattr(choices, first), rest, value)
    return dataclasses.replace(choices, **{first: value})


if __name__ == "__main__":
    main(sys.argv[1:])
