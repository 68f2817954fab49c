"""`stn reproduce` and `stn bench`: whole tables."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from .console import progress_bar


@dataclass(frozen=True)
class Reproduce:
    """Run a table of the paper and write it down; kill it at any time and start it again."""

    table: tyro.conf.Positional[
        Literal[
            "table1",
            "cluttered",
            "addition",
            "canvas",
            "volumes",
            "colocalization",
            "all",
            "ablations",
            "controls",
            "stand-ins",
        ]
    ]
    """table1: R, RTS, P, E by 8 models. cluttered: TC by 4. addition: 8. canvas: P as
    on 42 px, by 2. volumes: 2. ablations: of the quick st-fcn-affine on RTS. controls: the
    best column's classifiers without their transformers, on R, P, E. stand-ins: made house
    numbers and creatures, quick."""
    column: str | None = None
    """One of `stn list`; by default faithful, or the only one that a table has."""
    quick: bool = False
    """The quick column: minutes, without the convolutional nets, which take an hour."""
    seeds: int = 1
    """Runs of every cell; all cells get their first before any gets its second."""
    processes: int = 1
    """Runs at a time."""
    threads: int = 1
    """CPU threads of each."""
    device: Literal["auto", "cpu"] = "auto"
    """auto takes a GPU if there is one."""
    runs: Path = Path("runs/reproduce")
    """Where runs and their checkpoints stand."""
    results: Path = Path("results")
    """Where one JSON file per finished run is kept; what is there is not run again."""
    budget_s: float | None = None
    """Begin no run after so many seconds; the same command goes on where this stopped."""
    page: tuple[Path, ...] = ()
    """Markdown files to write tables in, wherever they have <!-- COLUMN-PART --> and its end."""
    models: Path | None = None
    """Where to publish the best run of each task as a model with its card."""

    def __call__(self) -> None:
        from ..data import load_mnist
        from ..recipes import (
            PARTS,
            fill_page,
            parts_of,
            publish_models,
            queue_of,
            read_results,
            reproduce,
            result_path,
        )

        for name in ("seeds", "processes", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.quick and self.column not in (None, "quick"):
            raise ValueError(
                f"--quick and --column {self.column} are two columns: give one of them"
            )
        column = "quick" if self.quick else self.column
        experiments = queue_of(self.table, column, self.seeds)
        if self.table != "stand-ins":
            load_mnist()  # says what to do if it is not there, before any process is started
        column = experiments[0].column
        for page in self.page:
            parts_of(page, column)
        there = sum(result_path(self.results, experiment).exists() for experiment in experiments)
        if there:
            print(
                f"{there} of {len(experiments)} runs stand in {self.results} and are not run again;"
                " --results DIR keeps your own apart"
            )
        with progress_bar(f"{self.table} {column}") as progress:
            failed = reproduce(
                experiments,
                self.runs,
                self.results,
                self.device,
                self.processes,
                self.threads,
                progress,
                self.budget_s,
            )
        rows = read_results(self.results, column)
        part = self.table if self.table in PARTS else "digits"
        if column == "best" and self.table not in ("colocalization", "controls"):
            part = "best"
        print(PARTS[part](rows))
        for page in self.page:
            print(f"wrote {', '.join(fill_page(page, column, rows))} in {page}")
        if self.models is not None:
            recipes = {experiment.recipe for experiment in experiments}
            own = [row for row in rows if row["recipe"] in recipes]
            published = publish_models(own, self.runs, self.models)
            for folder in published:
                print(f"the best run is in {folder}")
            left = recipes - {folder.name for folder in published}
            if left:
                print(
                    f"no model of {', '.join(sorted(left))}: transformer nets for digits "
                    f"become one, where their runs stand in {self.runs}"
                )
        if failed:
            names = ", ".join(experiment.folder_name for experiment in failed)
            raise ValueError(f"failed: {names}; their log.txt stand in {self.runs}")


@dataclass(frozen=True)
class Bench:
    """Time stn against torch and other libraries; kill it at any time and start it again."""

    cases: tuple[str, ...] = ()
    """Names or kinds of stn.bench.CASES; all by default."""
    threads: tuple[int, ...] = (1, 2)
    """CPU threads, one number after the other; 1 only on a GPU."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where."""
    quick: bool = False
    """Few and short samples, in a results file of their own."""
    fresh: bool = False
    """Measure again what is in the results."""
    compiled: bool = False
    """torch and stn under torch.compile take part too; needs a C++ compiler."""
    output: Path | None = None
    """Results; by default a file in benchmarks/results that is named for the machine."""
    page: Path | None = None
    """A Markdown file to write the tables in, between <!-- bench-DEVICE --> and its end."""
    budget_s: float | None = None
    """Begin no measurement after so many seconds; the same command goes on where this stopped."""

    def __call__(self) -> None:
        from ..bench import command

        with progress_bar("bench") as progress:
            print(command(**vars(self), progress=progress))
