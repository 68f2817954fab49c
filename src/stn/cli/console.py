"""What the commands share: reading run folders, tables of errors, the progress bar."""

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..recipes import Experiment


# Advice of the library, and what is the same on the command line.
SKIP = ("skip (damaged images|what is damaged)", "leave it out by --damaged skip")
SLOWER = (
    "lower (the localization's learning rate|lr ).*",
    "begin again with a lower --lr and another --out",
)


def is_main() -> bool:
    """Whether this is the process, of those of `torchrun`, that speaks."""
    return os.environ.get("RANK", "0") == "0"


def results_of(folder: Path) -> dict | None:
    """results.json of a run; None if it is not finished."""
    path = folder / "results.json"
    try:
        return json.loads(path.read_text()) if path.exists() else None
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and run train again") from None


def metrics_of(folder: Path) -> list[dict]:
    """The lines of a run's metrics.jsonl."""
    from ..training import read_metrics

    return read_metrics(folder)


def images_of(experiment: "Experiment", data: str | None) -> Any:
    """What a run was made with, or of own images those of another place, `data`."""
    from ..recipes import Pictures

    if data is None:
        if isinstance(experiment, Pictures) and experiment.recipe == "images" and experiment.gone:
            raise ValueError(f"the run's images, {experiment.data}, are not here: pass --data DIR")
        return experiment.load()
    if not isinstance(experiment, Pictures):
        raise ValueError(f"--data is for runs on your own images, not {experiment.recipe}")
    return experiment.load_from(data)


def print_errors(folders: Sequence[Path]) -> None:
    """Errors of runs side by side, beside the paper's."""
    from rich.console import Console
    from rich.table import Table

    from ..models import read_config

    table = Table(title="Test error, %", title_justify="left")
    runs = [(folder, read_config(folder), results_of(folder)) for folder in folders]
    of_paper = any(results and results["paper_error_percent"] is not None for *_, results in runs)
    columns = ("recipe", "model", "error", *["paper"] * of_paper, "weights", "images seen")
    for name in (*columns, "time, s"):
        table.add_column(name, no_wrap=True)
    quick = False
    for folder, config, results in runs:
        if "recipe" not in config:  # what save_pretrained writes
            table.add_row(folder.name, "", "no run")
            continue
        if results is None:
            table.add_row(config["recipe"], config["model"], "not finished")
            continue
        paper = results["paper_error_percent"]
        quick = quick or (results["column"] == "quick" and paper is not None)
        table.add_row(
            results["recipe"],
            results["model"],
            f"{results['test_error_percent']:.2f}",
            *(["" if paper is None else f"{paper:.1f}"] if of_paper else ()),
            f"{results['parameters']:,}",
            f"{results['samples_seen']:,}",
            f"{results['seconds']:.0f}",
        )
    console = Console()
    console.print(table)
    if quick:
        console.print(
            "Quick runs are under-trained, all alike: minutes here, 640 epochs in the paper."
        )


@contextmanager
def told_by_options(*ways: tuple[str, str]) -> Iterator[None]:
    """Errors of the library, with options in place of its functions and arguments."""
    try:
        yield
    except (ValueError, FloatingPointError) as error:
        told = str(error)
        for advice, option in ways:
            told = re.sub(advice, option, told)
        if told == str(error):
            raise
        raise ValueError(told) from error


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int, str], None]]:
    """A bar to call with (step, steps, message); seen of the main process only."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    note = TextColumn("{task.fields[note]}")
    with Progress(*columns, note, Remaining(), disable=not is_main()) as progress:
        task = progress.add_task(title, total=None, note="")

        def show(step: int, steps: int, message: str) -> None:
            progress.update(task, completed=step, total=steps, note=message)

        yield show
