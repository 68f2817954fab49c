"""Whole tables of the paper: a resumable queue of runs."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

from .._checks import check_choice
from ..training import write_json
from .ablations import ABLATIONS, ablation
from .catalog import make_experiment
from .colocalization import COLOCALIZER
from .digits import BEST, CONTROLS, PAPER
from .experiment import Experiment, Progress, claim
from .paper_pictures import CREATURE_MODELS, SVHN_MODELS

# Models by the time they take: a table fills from its cheap end.
ORDER = tuple(dict.fromkeys((
    "fcn", "st-fcn-affine", "st-fcn-projective", "st-fcn-tps",
    "2xst-fcn-affine", "2xst-fcn-projective", "2xst-fcn-tps",
    "cnn-40", "cnn", "st-cnn-affine", "st-cnn-projective", "st-cnn-tps", COLOCALIZER,
    *CONTROLS.values(), *BEST.values(), *SVHN_MODELS, *CREATURE_MODELS,
)))  # fmt: skip
PLAIN_AND_TWIN = ("fcn", "st-fcn-affine")
COLOCALIZATIONS = ("colocalization", "colocalization-cluttered")
TABLES = {
    "table1": [
        (f"mnist-{name}", model)
        for model in ORDER
        for name in ("r", "rts", "p", "e")
        if model in PAPER[name]
    ],
    "cluttered": [("mnist-tc", model) for model in ORDER if model in PAPER["tc"]],
    "addition": [("mnist-addition", model) for model in ORDER if model in PAPER["addition"]],
    "canvas": [("mnist-p-42", model) for model in PLAIN_AND_TWIN],
    "volumes": [("mnist-volumes", model) for model in PLAIN_AND_TWIN],
    "colocalization": [(f"mnist-{name}", COLOCALIZER) for name in COLOCALIZATIONS],
}
TABLES["all"] = sorted(
    (cell for cells in TABLES.values() for cell in cells), key=lambda cell: ORDER.index(cell[1])
)
# Not the paper's, so not in "all".
TABLES["controls"] = [(f"mnist-{name}", model) for name, model in CONTROLS.items()]
TABLES["stand-ins"] = [
    *(("street-numbers-64", model) for model in SVHN_MODELS),
    *(("creatures", model) for model in CREATURE_MODELS),
    *(("street-numbers-128", model) for model in SVHN_MODELS),
]


# What a table's cells are run in, by default in the first.
COLUMNS_OF = {
    **dict.fromkeys(("table1", "cluttered", "addition"), ("faithful", "quick", "best", "long")),
    **dict.fromkeys(("colocalization", "all"), ("faithful", "quick", "best")),
    **dict.fromkeys(("canvas", "volumes"), ("faithful", "quick")),
    "controls": ("best",),
    "stand-ins": ("quick",),
    "ablations": ("ablation",),
}


def queue_of(table: str, column: str | None, seeds: int) -> list[Experiment]:
    """All runs of a table, one seed of every cell before the second of any.

    The quick column leaves out the convolutional nets of digits, which do not part from their twins
    in minutes, and the long one, as they would take days. The best column has one network for each
    set that the table is about; the controls are its classifiers alone. None is the first that the
    table has.

    Raises:
        ValueError: no such table, or it has no such column.
    """
    check_choice(table, tuple(COLUMNS_OF), "table")
    columns = COLUMNS_OF[table]
    column = column or columns[0]
    if column not in columns:
        raise ValueError(f"{table} has no column {column!r}; it has {', '.join(columns)}")
    if table == "ablations":
        return [ablation(variant, seed) for seed in range(seeds) for variant in ABLATIONS]
    cells = TABLES[table]
    if column in ("quick", "long"):
        cells = [cell for cell in cells if "mnist" not in cell[0] or "cnn" not in cell[1]]
    if column == "best" and table != "controls":
        names = dict.fromkeys(recipe.removeprefix("mnist-") for recipe, _ in cells)
        known = BEST | dict.fromkeys(COLOCALIZATIONS, COLOCALIZER)
        cells = [(f"mnist-{name}", known[name]) for name in names if name in known]
    return [
        make_experiment(recipe, model, column, seed)
        for seed in range(seeds)
        for recipe, model in cells
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
    budget_s: float | None = None,
) -> list[Experiment]:
    """Run what has no published results yet, `processes` at a time; returns what failed.

    Each run is a process of its own (`stn train`), resumed from its checkpoint if it was begun.
    Kill this at any time and start it again: nothing is repeated or lost. SIGTERM is passed on to
    what runs; should runs outlive this process, the next one waits for them. After `budget_s` no
    run begins.
    """
    start = time.monotonic()
    children: set[subprocess.Popen] = set()
    todo = [e for e in experiments if not result_path(results, e).exists()]

    def run(experiment: Experiment) -> bool:
        folder = runs / experiment.folder_name
        folder.mkdir(parents=True, exist_ok=True)
        options = ("--out", str(folder), "--device", device, "--threads", str(threads))
        options += ("--no-report",)
        with (folder / "log.txt").open("ab") as log:
            try:
                claim(folder, experiment)
            except ValueError as error:
                log.write(f"{error}\n".encode())
                return False
            words = (sys.executable, "-m", "stn.cli", "train", str(folder / "config.json"))
            child = subprocess.Popen([*words, *options], stdout=log, stderr=subprocess.STDOUT)
            children.add(child)
            ended_well = child.wait() == 0
            children.remove(child)
        if ended_well:
            publish(folder, result_path(results, experiment))
        return ended_well

    def run_in_time(experiment: Experiment) -> bool | None:
        late = budget_s is not None and time.monotonic() - start > budget_s
        return None if late else run(experiment)

    failed, done = [], len(experiments) - len(todo)
    progress(done, len(experiments), "")
    with _passing_on_sigterm(children), ThreadPoolExecutor(processes) as pool:
        started = {pool.submit(run_in_time, experiment): experiment for experiment in todo}
        try:
            for future in as_completed(started):
                if future.result() is None:
                    continue
                done += 1
                progress(done, len(experiments), f"last: {started[future].folder_name}")
                if not future.result():
                    failed.append(started[future])
        except BaseException:  # Ctrl-C: what runs stops at its checkpoint, the rest never begins
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return failed


@contextmanager
def _passing_on_sigterm(children: set[subprocess.Popen]) -> Iterator[None]:
    """SIGTERM goes to the children too, as Ctrl-C does by itself, and then is like Ctrl-C."""

    def handle(number, frame):
        for child in tuple(children):
            child.terminate()
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, handle)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def publish(folder: Path, path: Path) -> None:
    """Write a finished run's results with its config as one JSON file."""
    results = json.loads((folder / "results.json").read_text())
    config = json.loads((folder / "config.json").read_text())
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, results | {"config": config})


def read_results(results: Path, column: str) -> list[dict]:
    """All published results of a column."""
    return [json.loads(path.read_text()) for path in sorted((results / column).glob("*.json"))]
