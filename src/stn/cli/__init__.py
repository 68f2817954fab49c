"""The command line: `stn list | data | train | eval | reproduce | report | bench`."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class List:
    """List recipes, models and columns, and the runs in a folder."""

    runs: Path = Path("runs")
    """Where to look for runs."""

    def __call__(self) -> None:
        from rich.console import Console
        from rich.table import Table

        from .models import MODELS
        from .recipes import COLUMNS, RECIPES

        console = Console()
        table = Table("recipe", "what it is", title="Recipes", title_justify="left")
        for name, recipe in RECIPES.items():
            table.add_row(name, (recipe.__doc__ or "").strip().splitlines()[0])
        console.print(table)
        console.print("models: ", ", ".join(MODELS), soft_wrap=True)
        console.print("columns:", ", ".join(COLUMNS))
        folders = sorted(path.parent for path in self.runs.glob("*/config.json"))
        if folders:
            _print_errors(folders)


@dataclass(frozen=True)
class Data:
    """Fetch a data set, verified byte by byte, into the data folder ($STN_DATA or ~/.cache/stn)."""

    name: tyro.conf.Positional[Literal["mnist"]]
    """Which one."""
    source: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """A local folder to take it from, instead of the internet."""

    def __call__(self) -> None:
        from .data import fetch_mnist

        print(f"MNIST is in {fetch_mnist(source=self.source)}")


@dataclass(frozen=True)
class Train:
    """Train a model by a recipe; the same command again continues where it stopped."""

    recipe: tyro.conf.Positional[str]
    """One of `stn list`, such as mnist-tc; or a file of results/, whose run is done again."""
    model: str = "st-fcn-affine"
    """One of `stn list`."""
    column: str = "quick"
    """One of `stn list`."""
    seed: int = 0
    """Of the weights and of the training images' order and distortion."""
    epochs: float | None = None
    """Another length than the recipe's."""
    lr: float | None = None
    """Another learning rate than the recipe's."""
    out: Path | None = None
    """Run folder; by default runs/RECIPE_MODEL_COLUMN_SEED, -again for a file."""
    device: Literal["auto", "cpu"] = "auto"
    """auto takes a GPU if there is one."""
    threads: int | None = None
    """CPU threads; another number can change the last bits of a result."""

    def __call__(self) -> None:
        import torch

        from .recipes import make_experiment, read_experiment, run_experiment

        again = self.recipe.endswith(".json")
        if again:
            experiment = read_experiment(Path(self.recipe)).changed(self.epochs, self.lr)
        else:
            experiment = make_experiment(
                self.recipe, self.model, self.column, self.seed, self.epochs, self.lr
            )
        if self.threads is not None:
            if self.threads < 1:
                raise ValueError(f"threads must be at least 1, got {self.threads}")
            torch.set_num_threads(self.threads)
        folder = self.out or Path("runs") / (experiment.folder_name + "-again" * again)
        with _progress_bar(f"{experiment.recipe} {experiment.model}") as progress:
            run_experiment(experiment, folder, cpu=self.device == "cpu", progress=progress)
        _print_errors([folder])
        print(f"the run is in {folder}; `stn report {folder}` draws it")


@dataclass(frozen=True)
class Eval:
    """Measure a run's or a published model's error on test digits of a recipe."""

    folder: tyro.conf.Positional[Path]
    """Run or published model."""
    split: Literal["held-out", "test"] = "test"
    """Which digits."""
    repeats: int = 1
    """Frozen distortions to average over."""

    def __call__(self) -> None:
        from .data import load_mnist, split_mnist
        from .models import load_model
        from .recipes import frozen_digits, measure

        if self.repeats < 1:
            raise ValueError(f"repeats must be at least 1, got {self.repeats}")
        model = load_model(self.folder)
        distortion = _config(self.folder)["distortion"]
        splits = split_mnist(load_mnist())
        errors = []
        for repeat in range(self.repeats):
            errors.append(measure(model, frozen_digits(distortion, splits, self.split, repeat))[0])
            print(f"{self.split} error, distortion {repeat}: {errors[-1]:.2f} %")
        if len(errors) > 1:
            print(f"mean: {sum(errors) / len(errors):.3f} %")


@dataclass(frozen=True)
class Report:
    """Draw one or several runs as a self-contained HTML page, and their digits as PNG files."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Runs; several are set side by side."""
    output: Path | None = None
    """The page; by default report.html in the last folder."""
    examples: int = 12
    """Test digits per run."""

    def __call__(self) -> None:
        from itertools import islice

        from .data import joined, load_mnist, split_mnist
        from .models import TENSORS, load_model, read_spec
        from .recipes import frozen_digits
        from .viz import RunView, collect_examples, draw_examples, mean_images, write_report

        if not self.folders:
            raise ValueError("name at least one run folder; `stn list` shows them")
        if self.examples < 1:
            raise ValueError(f"examples must be at least 1, got {self.examples}")
        output = self.output or self.folders[-1] / "report.html"
        output.parent.mkdir(parents=True, exist_ok=True)
        splits = split_mnist(load_mnist())
        views = []
        for folder in self.folders:
            config = _config(folder)
            name, examples, means = folder.resolve().name, None, (None, None)
            spec = read_spec(folder) if "net" in config else None
            # Feature maps are not drawn.
            if spec is not None and not spec.stem and (folder / TENSORS).exists():
                model = load_model(folder)
                chunks = frozen_digits(config["distortion"], splits, "test", 0)
                # All volumes would not fit into memory.
                digits = joined(chunks if len(spec.shape) == 3 else islice(chunks, 10))
                examples = collect_examples(model, digits.images, digits.labels, self.examples)
                means = mean_images(model, digits.images)
                picture = output.with_name(f"{name}.png")
                draw_examples(examples, picture, f"{config['recipe']}, {config['model']}")
                print(f"wrote {picture}")
            results, metrics = _results(folder), _metrics(folder)
            views.append(RunView(name, config, results, metrics, examples, *means))
        write_report(views, output)
        _print_errors(self.folders)
        print(f"wrote {output}")


@dataclass(frozen=True)
class Reproduce:
    """Run a table of the paper and write it down; kill it at any time and start it again."""

    table: tyro.conf.Positional[
        Literal["table1", "cluttered", "addition", "volumes", "colocalization", "all", "ablations"]
    ]
    """table1: R, RTS, P, E by 8 models. cluttered: TC by 4. addition: 8. volumes: 2. ablations: of
    st-fcn-affine on RTS, quick."""
    column: str = "faithful"
    """One of `stn list`."""
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
        from .data import load_mnist
        from .recipes import PARTS, fill_page, publish_models, queue_of, read_results, reproduce

        for name in ("seeds", "processes", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        experiments = queue_of(self.table, "quick" if self.quick else self.column, self.seeds)
        load_mnist()  # says what to do if it is not there, before any process is started
        column = experiments[0].column
        with _progress_bar(f"{self.table} {column}") as progress:
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
        part = "best" if column == "best" and part != "colocalization" else part
        print(PARTS[part](rows))
        for page in self.page:
            print(f"wrote {', '.join(fill_page(page, column, rows))} in {page}")
        if self.models is not None:
            recipes = {experiment.recipe for experiment in experiments}
            own = [row for row in rows if row["recipe"] in recipes]
            for folder in publish_models(own, self.runs, self.models):
                print(f"wrote {folder}")
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
        from .bench import command

        with _progress_bar("bench") as progress:
            print(command(**vars(self), progress=progress))


Command = (
    Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Data, tyro.conf.subcommand("data")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Eval, tyro.conf.subcommand("eval")]
    | Annotated[Reproduce, tyro.conf.subcommand("reproduce")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Bench, tyro.conf.subcommand("bench")]
)


def main(args: Sequence[str] | None = None) -> int:
    """Run a command; 0 when it is done, 2 for what the user can mend, 130 after Ctrl-C."""
    command = tyro.cli(Command, prog="stn", description=__doc__, args=args)
    try:
        command()
    except (ValueError, FloatingPointError, FileNotFoundError, PermissionError) as error:
        print(f"stn: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"stn: {stop or 'interrupted'}", file=sys.stderr)
        return 130
    return 0


def _config(folder: Path) -> dict:
    from .models import read_config

    return read_config(folder)


def _results(folder: Path) -> dict | None:
    path = folder / "results.json"
    try:
        return json.loads(path.read_text()) if path.exists() else None
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and run train again") from None


def _metrics(folder: Path) -> list[dict]:
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _print_errors(folders: Sequence[Path]) -> None:
    """Errors of runs side by side, beside the paper's."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Test error, % (10,000 digits)", title_justify="left")
    for name in ("recipe", "model", "error", "paper", "weights", "digits seen", "time, s"):
        table.add_column(name, no_wrap=True)
    quick = False
    for folder in folders:
        config, results = _config(folder), _results(folder)
        if results is None:
            table.add_row(config["recipe"], config["model"], "not finished")
            continue
        paper = results["paper_error_percent"]
        quick = quick or results["column"] == "quick"
        table.add_row(
            results["recipe"],
            results["model"],
            f"{results['test_error_percent']:.2f}",
            "" if paper is None else f"{paper:.1f}",
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


def _progress_bar(title: str):
    from contextlib import contextmanager

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    @contextmanager
    def bar():
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TextColumn("{task.fields[note]}"), Remaining()) as progress:
            task = progress.add_task(title, total=None, note="")

            def show(step: int, steps: int, message: str) -> None:
                progress.update(task, completed=step, total=steps, note=message)

            yield show

    return bar()


if __name__ == "__main__":
    sys.exit(main())
