"""What the published digit networks miss, on digits of which the test set is no part.

    python benchmarks/misses.py [SET ...]

For each network in results/models: its error on 5,000 digits that it was trained on, distorted
anew, and on the 5,000 held-out ones. Where they are alike, more data, averaging or bending would
not help; where the first is far lower, they might. And its held-out error by how much ink the
distortion has left, in tenths of the digits. Writes benchmarks/results/misses.json, where other
sets' rows stay; some minutes on one core.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor, nn

from stn.data import Split, Splits, joined, load_mnist, split_mnist
from stn.evaluation import is_wrong, logits_of
from stn.models import load_model
from stn.recipes import commit, frozen_digits
from stn.training import write_json

MODELS = Path(__file__).parents[1] / "results" / "models"
RESULTS = Path(__file__).parent / "results" / "misses.json"
SETS = ("r", "rts", "p", "e", "tc", "addition")
WITHOUT_CLUTTER = ("r", "rts", "p", "e")
REPEATS = 5
TENTHS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", default=SETS, metavar="SET", help=", ".join(SETS))
    torch.set_num_threads(1)
    splits = split_mnist(load_mnist())
    rows = {row["recipe"]: row for row in json.loads(RESULTS.read_text())}
    for name in parser.parse_args().sets:
        folder = MODELS / f"mnist-{name}"
        told = json.loads((folder / "results.json").read_text())
        row = {key: told[key] for key in ("recipe", "model", "seed")}
        row |= misses(load_model(folder), name, splits) | {"commit": commit()}
        print(row, flush=True)
        rows[row["recipe"]] = row
    write_json(RESULTS, list(rows.values()))


def misses(model: nn.Module, name: str, splits: Splits) -> dict:
    """Errors, %, in the mean over frozen distortions."""
    count = len(splits.held_out.labels)
    known = splits._replace(held_out=Split(*(part[:count] for part in splits.train)))
    held_out, ink = looked_at(model, name, splits)
    found: dict = {
        "training_error_percent": percent(looked_at(model, name, known)[0]),
        "held_out_error_percent": percent(held_out),
    }
    if name in WITHOUT_CLUTTER:
        by_ink = held_out[ink.argsort()].chunk(TENTHS)
        found["held_out_error_percent_by_ink"] = [percent(part) for part in by_ink]
    return found


def looked_at(model: nn.Module, name: str, splits: Splits) -> tuple[Tensor, Tensor]:
    """Of every distorted held-out digit whether it is named wrongly, and how much ink is left."""
    wrong, ink = [], []
    for repeat in range(REPEATS):
        shown = joined(frozen_digits(name, splits, "held-out", repeat))
        wrong.append(is_wrong(logits_of(model, shown.images), shown.labels))
        before = splits.held_out.images.double().sum((1, 2)) / 255
        ink.append(shown.images.double().sum((1, 2, 3)) / before)
    return torch.cat(wrong), torch.cat(ink)


def percent(wrong: Tensor) -> float:
    return round(100 * wrong.double().mean().item(), 3)


if __name__ == "__main__":
    main()
