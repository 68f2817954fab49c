"""`stn list | train | eval`: runs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from ..recipes import ImageOptions
from .console import (
    SKIP,
    SLOWER,
    images_of,
    is_main,
    print_errors,
    progress_bar,
    told_by_options,
)
from .looks import Report

if TYPE_CHECKING:
    from ..recipes import Experiment


IMAGES = tuple(field.name for field in fields(ImageOptions))  # of `stn train --data`
MADE = ("model", "column")  # of a recipe


@dataclass(frozen=True)
class List:
    """List recipes, models and columns, and the runs in a folder."""

    runs: Path = Path("runs")
    """Where to look for runs."""

    def __call__(self) -> None:
        from rich.console import Console
        from rich.table import Table

        from ..models import MODELS
        from ..recipes import COLUMNS, PICTURE_MODELS, RECIPES
        from ..recipes.imagenet import IMAGENET_MODELS

        console = Console()
        table = Table("recipe", "what it is", title="Recipes", title_justify="left")
        for name, recipe in RECIPES.items():
            table.add_row(name, (recipe.__doc__ or "").strip().splitlines()[0])
        console.print(table)
        console.print("models of mnist: ", ", ".join(MODELS), soft_wrap=True)
        console.print("models of pictures: ", ", ".join(PICTURE_MODELS), soft_wrap=True)
        console.print("models of imagenet: ", ", ".join(IMAGENET_MODELS), soft_wrap=True)
        console.print("columns:", ", ".join(COLUMNS))
        folders = sorted(path.parent for path in self.runs.glob("*/config.json"))
        if folders:
            print_errors(folders)


@dataclass(frozen=True)
class Train:
    """Train a model by a recipe, or on your own images; again, it continues where it stopped."""

    recipe: tyro.conf.Positional[str | None] = None
    """One of `stn list`, such as mnist-tc; or a file of results/, whose run is done again; none for
    your own images, see --data."""
    data: str | None = None
    """Your own images: a folder with one folder for each class, a CSV file with the columns path
    and label, or the path or address of a shards.json (`stn data shards`)."""
    images: Annotated[ImageOptions, tyro.conf.arg(name="")] = field(default_factory=ImageOptions)
    model: str | None = None
    """Of a recipe: one of `stn list`; by default st-fcn-affine."""
    column: str | None = None
    """Of a recipe: one of `stn list`; by default quick."""
    seed: int | None = None
    """Of the weights and of the training images' order and distortion; by default 0."""
    epochs: float | None = None
    """Another length than the recipe's."""
    lr: float | None = None
    """Another learning rate than the recipe's."""
    out: Path | None = None
    """Run folder; by default runs/RECIPE_MODEL_COLUMN_SEED, -again for a file."""
    device: Literal["auto", "cpu"] = "auto"
    """auto takes a GPU if there is one."""
    threads: int | None = None
    """CPU threads; another number can change the last bits of a result. By default torch's, and
    those of the first time for a run that is done again."""
    report: bool = True
    """Draw report.html when done."""

    def __call__(self) -> None:
        import torch

        from ..recipes import Pictures, run_experiment

        experiment = self.experiment()
        threads = self._threads()
        if threads is not None:
            if threads < 1:
                raise ValueError(f"threads must be at least 1, got {threads}")
            torch.set_num_threads(threads)
        again = "-again" * (self.recipe or "").endswith(".json")
        folder = self.out or Path("runs") / (experiment.folder_name + again)
        title = f"{experiment.recipe} {experiment.model}"
        ways = (SLOWER,) if self.data is None else (SLOWER, SKIP)
        if self.data is not None and is_main():
            assert isinstance(experiment, Pictures)
            print(experiment.sizes())
        with told_by_options(*ways), progress_bar(title) as progress:
            run_experiment(experiment, folder, cpu=self.device == "cpu", progress=progress)
        if not is_main():
            return
        if self.report:
            Report((folder,), trust_code=True)()
        else:
            print_errors([folder])
        print(f"the run is in {folder}")

    def _threads(self) -> int | None:
        if self.threads is None and (self.recipe or "").endswith(".json"):
            return json.loads(Path(self.recipe or "").read_text()).get("threads")
        return self.threads

    def experiment(self) -> "Experiment":
        """What these options ask for."""
        from ..recipes import make_experiment, own_images, read_experiment

        if self.data is not None:
            if self.recipe is not None:
                raise ValueError(
                    "name a recipe of `stn list`, or --data DIR for your own images, one of the "
                    f"two; got the recipe {self.recipe!r} and --data {self.data}"
                )
            self._refuse("a recipe; with --data choose --backbone and --transform", MADE)
            return own_images(self.data, self.images, self.seed or 0, self.epochs, self.lr)
        if self.recipe is None:
            raise ValueError("name a recipe of `stn list`, or --data DIR for your own images")
        if Path(self.recipe).is_dir():
            raise ValueError(f"{self.recipe} is a folder: stn train --data {self.recipe}")
        self._refuse("--data; of a recipe choose --model, such as st-fcn-tps", IMAGES)
        if self.recipe.endswith(".json"):
            self._refuse("a recipe; a run that is done again has its own", (*MADE, "seed"))
            return read_experiment(Path(self.recipe)).changed(self.epochs, self.lr)
        return make_experiment(
            self.recipe,
            "st-fcn-affine" if self.model is None else self.model,
            "quick" if self.column is None else self.column,
            self.seed or 0,
            self.epochs,
            self.lr,
        )

    def _refuse(self, whose: str, names: Sequence[str]) -> None:
        """Refuse options that would be of no effect."""
        plain = Train()
        for name in names:
            place, default = (self.images, plain.images) if name in IMAGES else (self, plain)
            if (value := getattr(place, name)) != getattr(default, name):
                option = ("no-" * (value is False) + name).replace("_", "-")
                raise ValueError(f"--{option} is for {whose}")


@dataclass(frozen=True)
class Eval:
    """Measure a run's or a published model's error on the images of its recipe."""

    folder: tyro.conf.Positional[Path]
    """Run or published model."""
    split: Literal["held-out", "test"] = "test"
    """Which images."""
    repeats: int = 1
    """Of digits: frozen distortions to average over."""
    data: str | None = None
    """Of your own images: another place with the same classes. Its test images are measured; if it
    sets none apart, all of them, but for those trained on."""
    trust_code: bool = False
    """Run the function that a network's backbone may name, MODULE:FUNCTION."""

    def __call__(self) -> None:
        from ..models import load_model
        from ..recipes import read_experiment

        if self.repeats < 1:
            raise ValueError(f"repeats must be at least 1, got {self.repeats}")
        model = load_model(self.folder, trust_code=self.trust_code)
        experiment = read_experiment(self.folder / "config.json")
        data = images_of(experiment, self.data)
        errors = []
        for repeat in range(self.repeats):
            error, images = experiment.evaluate(model, data, self.split, repeat)
            errors.append(error)
            which = f", distortion {repeat}" * (self.repeats > 1)
            print(f"{self.split} error{which}: {error:.2f} % of {images:,} images")
        if len(errors) > 1:
            print(f"mean: {sum(errors) / len(errors):.3f} %")
