"""Choose the quick column's learning rates: the same search for every model, on held-out digits.

    python benchmarks/choose_lr.py

Trains each model at each rate for a third of its recipe's length, one seed, and writes
benchmarks/results/choose_lr.json. The test digits are never read. Some 10 minutes on two cores.
"""

import dataclasses
import json
import tempfile
from pathlib import Path

import torch

from stn.data import DigitStream, joined, load_mnist, split_mnist
from stn.models import build_model
from stn.recipes import Digits, commit, frozen_digits, make_experiment
from stn.training import train, write_json

RATES = (1e-3, 2e-3, 3e-3, 6e-3, 1e-2)
MODELS = ("fcn", "st-fcn-affine", "st-fcn-attention")
RECIPE = "mnist-tc"
RESULTS = Path(__file__).parent / "results" / "choose_lr.json"


def main() -> None:
    torch.set_num_threads(1)
    splits = split_mnist(load_mnist())
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    for model_name in MODELS:
        for lr in RATES:
            if any(row["model"] == model_name and row["lr"] == lr for row in rows):
                continue
            experiment = make_experiment(RECIPE, model_name, lr=lr)
            assert isinstance(experiment, Digits)
            training = dataclasses.replace(
                experiment.training, steps=experiment.training.steps // 3
            )
            stream = DigitStream(*splits.train, experiment.distortion, training.batch_size, 0)
            held_out = joined(frozen_digits(experiment.distortion, splits, "held-out", 0))
            torch.manual_seed(0)
            model = build_model(experiment.net)
            with tempfile.TemporaryDirectory() as folder:
                trained = train(
                    model,
                    stream.batch,
                    (held_out.images, held_out.labels),
                    training,
                    Path(folder),
                    cpu=True,
                )
            row = {
                "recipe": RECIPE,
                "model": model_name,
                "lr": lr,
                "steps": training.steps,
                "held_out_error_percent": trained.held_out_error_percent,
                "seconds": round(trained.seconds, 1),
            }
            print(row, flush=True)
            rows.append(row)
            RESULTS.parent.mkdir(exist_ok=True)
            write_json(RESULTS, {"commit": commit(), "threads": 1, "rows": rows})


if __name__ == "__main__":
    main()
