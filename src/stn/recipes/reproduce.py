"""Whole tables of the paper: a resumable queue of runs, and the tables made from their results."""

import json
import math
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from statistics import mean, stdev

from .._checks import check_choice
from ..training import write_atomically, write_json
from .catalog import make_experiment
from .digits import PAPER
from .experiment import Experiment, Progress

# Models by the time they take: a table fills from its cheap end.
ORDER = (
    "fcn", "st-fcn-affine", "st-fcn-projective", "st-fcn-tps",
    "2xst-fcn-affine", "2xst-fcn-projective", "2xst-fcn-tps",
    "cnn", "st-cnn-affine", "st-cnn-projective", "st-cnn-tps",
)  # fmt: skip
TABLES = {
    "table1": [
        (f"mnist-{name}", model)
        for model in ORDER
        for name in ("r", "rts", "p", "e")
        if model in PAPER[name]
    ],
    "cluttered": [("mnist-tc", model) for model in ORDER if model in PAPER["tc"]],
    "addition": [("mnist-addition", model) for model in ORDER if model in PAPER["addition"]],
}
TABLES["all"] = sorted(
    (cell for cells in TABLES.values() for cell in cells), key=lambda cell: ORDER.index(cell[1])
)
# 97.5 % quantiles of Student's t for 1, 2, … degrees of freedom.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def queue_of(table: str, column: str, seeds: int) -> list[Experiment]:
    """All runs of a table, one seed of every cell before the second of any."""
    check_choice(table, tuple(TABLES), "table")
    return [
        make_experiment(recipe, model, column, seed)
        for seed in range(seeds)
        for recipe, model in TABLES[table]
    ]


def result_path(results: Path, experiment: Experiment) -> Path:
    """Where the results of a run are published."""
    return results / experiment.column / f"{experiment.folder_name}.json"


def reproduce(
    experiments: Sequence[Experiment],
    runs: Path,
    results: Path,
    device: str,
    processes: int,
    threads: int,
    progress: Progress,
) -> list[Experiment]:
    """Run what has no published results yet, `processes` at a time; returns what failed.

    Each run is a process of its own (`stn train`), resumed from its checkpoint if it was begun.
    Kill this at any time and start it again: nothing is repeated or lost.
    """
    todo = [e for e in experiments if not result_path(results, e).exists()]

    def run(experiment: Experiment) -> bool:
        folder = runs / experiment.folder_name
        folder.mkdir(parents=True, exist_ok=True)
        words = [
            *("train", experiment.recipe, "--model", experiment.model),
            *("--column", experiment.column, "--seed", str(experiment.run_seed)),
            *("--out", str(folder), "--device", device, "--threads", str(threads)),
        ]
        with (folder / "log.txt").open("ab") as log:
            done = subprocess.run(
                [sys.executable, "-m", "stn.cli", *words], stdout=log, stderr=subprocess.STDOUT
            )
        if done.returncode == 0:
            publish(folder, result_path(results, experiment))
        return done.returncode == 0

    failed, done = [], len(experiments) - len(todo)
    progress(done, len(experiments), "")
    with ThreadPoolExecutor(processes) as pool:
        started = {pool.submit(run, experiment): experiment for experiment in todo}
        for future in as_completed(started):
            done += 1
            progress(done, len(experiments), f"last: {started[future].folder_name}")
            if not future.result():
                failed.append(started[future])
    return failed


def publish(folder: Path, path: Path) -> None:
    """Write a finished run's results with its config as one JSON file."""
    results = json.loads((folder / "results.json").read_text())
    config = json.loads((folder / "config.json").read_text())
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, results | {"config": config})


def read_results(results: Path, column: str) -> list[dict]:
    """All published results of a column."""
    return [json.loads(path.read_text()) for path in sorted((results / column).glob("*.json"))]


def mean_and_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and half the width of its 95 % interval, None for fewer than two values."""
    n = len(values)
    if n < 2:
        return mean(values), None
    quantile = STUDENT[min(n - 1, len(STUDENT)) - 1]
    return mean(values), quantile * stdev(values) / math.sqrt(n)


def markdown_table(rows: Iterable[dict]) -> str:
    """Test errors of results, models down, recipes across; the paper's figure in brackets."""
    cells: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        cells.setdefault((row["model"], row["recipe"]), []).append(row)
    recipes = [f"mnist-{name}" for name in PAPER if any(r == f"mnist-{name}" for _, r in cells)]
    models = [model for model in ORDER if any(m == model for m, _ in cells)]
    lines = [
        "| model | " + " | ".join(r.removeprefix("mnist-").upper() for r in recipes) + " |",
        "|---|" + "--:|" * len(recipes),
    ]
    for model in models:
        shown = [_cell(cells.get((model, recipe), [])) for recipe in recipes]
        lines.append(f"| {model} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _cell(rows: list[dict]) -> str:
    if not rows:
        return ""
    centre, half = mean_and_interval([row["test_error_percent"] for row in rows])
    paper = rows[0]["paper_error_percent"]
    spread = "" if half is None else f" ± {half:.2f}"
    return f"{centre:.2f}{spread}" + ("" if paper is None else f" ({paper:.1f})")


def fill_in(path: Path, mark: str, text: str) -> None:
    """Replace what stands between <!-- mark --> and <!-- /mark --> in a file."""
    page = path.read_text()
    start, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    if start not in page or end not in page:
        raise ValueError(f"{path} has no place for {mark}: it needs {start} and {end}")
    before, _, rest = page.partition(start)
    _, _, after = rest.partition(end)
    write_atomically(path, f"{before}{start}\n{text}\n{end}{after}".encode())
