"""The best run of each task as a small model with its card: a folder that `load_model` reads."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from statistics import mean

from ..models import TENSORS, usage
from ..models.pretrained import CARD, replacing
from .catalog import RECIPES, experiment_of
from .colocalization import Colocalization
from .digits import Digits

RESULTS = "results.json"
HEAD = """\
---
license: apache-2.0
library_name: torch-stn
datasets: [mnist]
---

# {recipe}: {model}

{task}

"""
DIGITS = (
    HEAD
    + """\
A spatial transformer net of stn (`pip install torch-stn`), trained from class labels alone. Nobody
told it where to look or how to straighten what it sees.

| | |
|---|---|
| test error | {error:.2f} %, the mean over {repeats} distortion(s) of the 10,000 test digits |
| held-out error | {held_out:.2f} %, on the training digits by which the weights were chosen |
| parameters | {parameters:,} |
| input | float images (B, {shape}) in [0, 1] |
| output | logits (B, {classes}) |
| trained | {steps:,} steps of {batch} digits, seed {seed}, {seconds:.0f} s on {device} |
| commit | {commit} |

{usage}
{pose}
## Limits

It knows white digits on black, distorted as in its training and no further: not photographs, not
other canvases. It was chosen by its held-out error from {runs} run(s) of transformer nets in the
{column} column whose weights were kept; its test error is one draw, the table of all runs stands in
docs/reproduction.md.
"""
)
WINDOWS = (
    HEAD
    + """\
Ten spatial transformers of stn (`pip install torch-stn`), one for each class of digits. Each was
trained on a hundred images of its class, which alone tells what to look for: nobody told it where
digits are. A network that was trained to name undistorted digits compared what windows show, and
reads it here: logit k is the logarithm of its probability that window k shows a k.

| | |
|---|---|
| misses | {error:.2f} % of the images it was trained on, {unseen:.2f} % of as many others |
| parameters | {parameters:,} of a window |
| input | float images (B, {shape}) in [0, 1], black but for the digit and clutter |
| output | logits (B, {classes}) |
| trained | {steps:,} steps of {batch} images a class, seed {seed}, {seconds:.0f} s on {device} |
| commit | {commit} |

{usage}
`model.transformer.theta(images)[:, k]` is where window k looks, log scale and place.

## Limits

A window is made to find what its own hundred images share; how far that carries to others of its
class is said above, and on another class it may lie anywhere. Of each class the training with the
lower loss was kept, and of {runs} run(s) in the {column} column the lowest. Missed means that
window and true box overlap by less than half; the table stands in docs/reproduction.md.
"""
)


def publish_models(rows: Iterable[dict], runs: Path, models: Path) -> list[Path]:
    """Publish each recipe's transformer net with the lowest held-out error; returns the folders.

    Of co-localization, which knows no such error, it is that with the lowest loss. A published
    model that is as good stays.

    Args:
        rows: published results. Those of other nets than transformer nets for digits, of which
            cards speak, are passed over.
        runs: where their run folders stand; what is not there is passed over.
        models: gets a folder for each recipe.

    Raises:
        ValueError: such a folder holds other files than a published model has.
    """
    groups: dict[str, list[dict]] = {}
    for row in rows:
        made = experiment_of(row["config"])
        told = isinstance(made, Colocalization) or (
            isinstance(made, Digits) and "st-" in made.net.name
        )
        if told and (runs / made.folder_name / TENSORS).exists():
            groups.setdefault(row["recipe"], []).append(row)
    for recipe, group in groups.items():
        best = min(group, key=_chosen_by)
        there = models / recipe
        if not (there / RESULTS).exists() or _chosen_by(best) < _chosen_by(_row_of(there)):
            _publish(best, len(group), runs, models / recipe)
    return [models / recipe for recipe in groups]


def _row_of(folder: Path) -> dict:
    """The row of a published model, whole as those under results/."""
    config = json.loads((folder / "config.json").read_text())
    return json.loads((folder / RESULTS).read_text()) | {"config": config}


def _finds_windows(row: dict) -> bool:
    return isinstance(experiment_of(row["config"]), Colocalization)


def _chosen_by(row: dict) -> float:
    if _finds_windows(row):
        return mean(min(start["loss"] for start in digit) for digit in row["tried"])
    return row["held_out_error_percent"]


def _publish(row: dict, count: int, runs: Path, folder: Path) -> None:
    """Weights and configuration as they are, and the card; whole or not at all."""
    source = runs / experiment_of(row["config"]).folder_name
    copied = ("config.json", RESULTS, TENSORS)
    with replacing(folder, (*copied, CARD)) as new:
        for name in copied:
            shutil.copyfile(source / name, new / name)
        (new / CARD).write_text(card(row, count, folder.as_posix()))


def card(row: dict, count: int, folder: str) -> str:
    """The model card of the best of `count` runs, every number from its results."""
    net = row["config"]["net"]
    shape = ", ".join(map(str, net["shape"]))
    own = {
        "error": row["test_error_percent"],
        "task": (RECIPES[row["recipe"]].__doc__ or "").strip().splitlines()[0],
        "shape": shape,
        "classes": net["classes"],
        "batch": row["samples_seen"] // row["steps"],
        "usage": usage(folder, shape, True, net.get("members", 1)),
        "runs": count,
    }
    if _finds_windows(row):
        own["unseen"] = 100 - mean(row["unseen_correct_percent"])
        return WINDOWS.format(**{**row, **own})
    own |= {
        "held_out": row["held_out_error_percent"],
        "repeats": len(row["test_errors_percent"]),
        "pose": _pose(row.get("pose") or {}),
    }
    return DIGITS.format(**{**row, **own})


def _pose(pose: dict) -> str:
    if not pose:
        return ""
    head = "How upright it sees, standard deviations over the test digits:\n\n"
    lines = ["| | angle, ° | log scale | centre, px |", "|---|--:|--:|--:|"]
    lines += [
        f"| {name} | {p['angle_deg']:.1f} | {p['scale']:.2f} | {p['centre_px']:.1f} |"
        for name, p in pose.items()
    ]
    return head + "\n".join(lines) + "\n"
