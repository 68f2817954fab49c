"""Choose learning rates on held-out digits: the same search for a net and its transformer twins.

    python benchmarks/choose_lr.py

Trains each net of a column at each rate for a part of its recipe's length, one seed, and writes
benchmarks/results/choose_lr.json. The test digits are never read. Some 25 minutes on one core.
"""

import dataclasses
import json
import tempfile
from pathlib import Path

import torch

from stn.data import DigitStream, joined, load_mnist, split_mnist
from stn.evaluation import in_chunks
from stn.models import build_model
from stn.recipes import Digits, commit, frozen_digits, make_experiment
from stn.training import Processes, train, write_json

# (column, recipe, models, part of the recipe's length, rates)
SEARCHES = (
    ("quick", "mnist-tc", ("fcn", "st-fcn-affine", "st-fcn-attention"), 1 / 3,
     (1e-3, 2e-3, 3e-3, 6e-3, 1e-2)),
    ("faithful", "mnist-r", ("cnn", "st-cnn-affine"), 2 / 15, (1e-3, 2e-3, 3e-3, 5e-3, 1e-2)),
    ("faithful", "mnist-rts", ("st-cnn-affine",), 2 / 15, (1e-3, 2e-3, 3e-3, 5e-3, 1e-2)),
)  # fmt: skip
RESULTS = Path(__file__).parent / "results" / "choose_lr.json"


def main() -> None:
    torch.set_num_threads(1)
    splits = split_mnist(load_mnist())
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    cells = [
        (column, recipe, model, part, lr)
        for column, recipe, models, part, rates in SEARCHES
        for model in models
        for lr in rates
    ]
    for column, recipe, model_name, part, lr in cells:
        cell = {"column": column, "recipe": recipe, "model": model_name, "lr": lr}
        if any(cell.items() <= row.items() for row in rows):
            continue
        experiment = make_experiment(recipe, model_name, column, lr=lr)
        assert isinstance(experiment, Digits)
        training = dataclasses.replace(
            experiment.training, steps=round(experiment.training.steps * part)
        )
        stream = DigitStream(*splits.train, experiment.distortion, training.batch_size, 0)
        held_out = joined(frozen_digits(experiment.distortion, splits, "held-out", 0))
        torch.manual_seed(0)
        model = build_model(experiment.net)
        with tempfile.TemporaryDirectory() as folder:
            chunks = in_chunks(held_out.images, held_out.labels)
            trained = train(
                model, stream.batches, chunks, training, Path(folder), Processes(cpu=True)
            )
        row = {
            **cell,
            "steps": training.steps,
            "held_out_error_percent": trained.held_out_error_percent,
            "seconds": round(trained.seconds, 1),
        }
        print(row, flush=True)
        rows.append(row | {"commit": commit()})
        RESULTS.parent.mkdir(exist_ok=True)
        write_json(RESULTS, {"threads": 1, "rows": rows})


if __name__ == "__main__":
    main()
