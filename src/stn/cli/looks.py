"""`stn report | predict`: what a network sees."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from .console import images_of, metrics_of, print_errors, results_of

if TYPE_CHECKING:
    from ..viz import RunView


@dataclass(frozen=True)
class Report:
    """Draw one or several runs as a self-contained HTML page, and test images as PNG files."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Runs; several are set side by side."""
    output: Path | None = None
    """The page; by default report.html in the last folder."""
    examples: int = 24
    """Test images per run: a third at random, a third the worst, a third the best."""
    data: str | None = None
    """Of your own images: where they are now, or another place with the same classes."""
    trust_code: bool = False
    """Run the function that a network's backbone may name, MODULE:FUNCTION."""

    def __call__(self) -> None:
        from ..models import read_config
        from ..viz import write_report

        if not self.folders:
            raise ValueError("name at least one run folder; `stn list` shows them")
        if self.examples < 1:
            raise ValueError(f"examples must be at least 1, got {self.examples}")
        output = self.output or self.folders[-1] / "report.html"
        configs = [read_config(folder) for folder in self.folders]
        output.parent.mkdir(parents=True, exist_ok=True)
        drawn: set[Path] = set()
        views = [
            self.view(folder, config, output, drawn)
            for folder, config in zip(self.folders, configs, strict=True)
        ]
        write_report(views, output)
        print_errors(self.folders)
        print(f"wrote {output}")

    def view(self, folder: Path, config: dict, output: Path, drawn: set[Path]) -> "RunView":
        """What the page shows of a run; its examples are drawn as a picture of their own too.

        `drawn` are the pictures so far, to which this one is added: none is drawn over.
        """
        from ..models import TENSORS, load_model
        from ..recipes import read_experiment
        from ..training import read_frames
        from ..viz import RunView, collect_examples, diagnosed, draw_examples, make_film, survey
        from ..viz.overlays import untaken

        name = folder.resolve().name
        view = RunView(name, config, results_of(folder), metrics_of(folder))
        if "net" not in config or not (folder / TENSORS).exists():
            return view
        model = load_model(folder, trust_code=self.trust_code)
        experiment = read_experiment(folder / "config.json")
        images, labels, names = experiment.shown(images_of(experiment, self.data))
        examples = collect_examples(model, images, labels, self.examples, names)
        found = survey(model, images)
        if config["net"].get("stem") and found is not None:  # feature maps are not drawn
            examples = examples._replace(outputs=examples.outputs[:, :0], grids=None)
            found = found._replace(after=found.after[:0], coverage=None, centres=None)
        picture = untaken(output.with_name(f"{name}.png"), drawn)
        draw_examples(examples, picture, f"{config['recipe']}, {config['model']}")
        print(f"wrote {picture}")
        classes = [names[label] for label in labels.tolist()] if labels.dim() == 1 else ()
        view = replace(view, examples=examples, survey=found, classes=classes)
        frames = read_frames(folder)
        if frames is None:
            return view
        assert model.transformer is not None
        moments = diagnosed(model.transformer, frames, config["training"]["batch_size"])
        return replace(view, film=make_film(model.transformer, frames), moments=moments)


@dataclass(frozen=True)
class Predict:
    """Name pictures by a trained model, and draw what its transformers looked at."""

    folder: tyro.conf.Positional[Path]
    """Run or published model."""
    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files."""
    json: bool = False
    """Print JSON: for every image its label, its probabilities and the corners of what was looked
    at, px of the image."""
    output: Path | None = Path("predictions")
    """Where a picture of each is drawn; None for nowhere."""
    trust_code: bool = False
    """Run the function that a network's backbone may name, MODULE:FUNCTION."""

    def __call__(self) -> None:
        from ..recipes.predict import draw_prediction, predict

        if not self.images:
            raise ValueError("name at least one image file")
        found: list[dict] = []
        drawn: set[Path] = set()
        for prediction in predict(self.folder, self.images, self.trust_code):
            found.append(prediction.told)
            if not self.json:
                print(
                    f"{prediction.told['image']}: {prediction.told['label']}"
                    f" ({100 * prediction.told['probability']:.1f} %)"
                )
            if self.output is not None:
                draw_prediction(prediction, self.output, drawn)
        if self.json:
            print(json.dumps(found, indent=2))
