"""Draw the picture of scale.md and fill its table from finished runs.

    python docs/draw_imagenet_in_small.py PHOTOS [RUNS]

PHOTOS is what `python examples/imagenet_in_small.py` wrote; RUNS, by default runs, has the folders
of `stn train imagenet`.
"""

import csv
import json
import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from stn.data import CubParts, ImageSet, read_folder
from stn.models import load_model
from stn.recipes import fill_in, read_experiment
from stn.recipes.imagenet import IMAGENET_MODELS, QUICK_PX
from stn.recipes.windows import part_hits
from stn.viz import region_outline
from stn.viz.pictures import REGIONS

CELL = 1.15  # inches
MARK = "imagenet-in-small"


@torch.no_grad()
def draw(runs: list[Path], pictures: ImageSet, path: Path) -> None:
    """A test picture of each class; below, for each run, its window on it and what it holds."""
    labels = pictures.labels.tolist()
    rows = [labels.index(label) for label in range(len(pictures.names))]
    images = pictures.subset(rows).in_memory().images.float() / 255
    figure = Figure((CELL * len(rows), CELL * (len(runs) + 1)), layout="compressed")
    axes = figure.subplots(len(runs) + 1, len(rows))
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, image, name in zip(axes[0], images, pictures.names, strict=True):
        axis.imshow(image.movedim(0, -1))
        axis.set_title(name, fontsize=8)
    for run, below, color in zip(runs, axes[1:], REGIONS, strict=False):
        found = load_model(run).transformer.inspect(images)
        for top, axis, grid, output in zip(axes[0], below, found.grid, found.output, strict=True):
            line = region_outline(grid, pictures.size)
            top.add_patch(Polygon(line, fill=False, edgecolor=color, lw=1.5))
            axis.imshow(output.movedim(0, -1).clamp(0, 1))
        below[0].set_title(run.name.split("_")[1], fontsize=8, loc="left", color=color)
    figure.savefig(path, dpi=110)
    print(f"wrote {path}")


def things(photos: Path, pictures: ImageSet) -> CubParts:
    """Where the things of the pictures lie."""
    with (photos / "boxes.csv").open(newline="") as file:
        boxes = {row["path"]: [float(row[k]) for k in ("x0", "y0", "x1", "y1")]
                 for row in csv.DictReader(file)}  # fmt: skip
    paths = (Path(example.path).relative_to(photos).as_posix() for example in pictures.examples)
    found = torch.tensor([boxes[path] for path in paths])
    places, sizes = (found[:, :2] + found[:, 2:]) / 2, found[:, 2:] - found[:, :2]
    count = len(pictures)
    whole = torch.tensor(pictures.size).expand(count, 2)
    visible = torch.ones(count, 1, dtype=torch.bool)
    return CubParts(found, places.unsqueeze(1), visible, whole, ("thing",), sizes.unsqueeze(1))


def table(runs: list[Path], pictures: ImageSet, parts: CubParts) -> str:
    """Error of each run, and what its window does, in Markdown."""
    lines = ["| model | steps | error, % | thing whole in the window, % | window, of the side, % |"]
    lines += ["|---|--:|--:|--:|--:|"]
    for run in runs:
        results = json.loads((run / "results.json").read_text())
        start = f"| {results['model']} | {results['steps']:,} | {results['test_error_percent']:.1f}"
        model = load_model(run).eval()
        held = wide = ""
        if model.transformer is not None:
            spec = read_experiment(run / "config.json").net
            held = f"{part_hits(model, spec, pictures, parts)['contained']['thing']:.0f}"
            wide = f"{100 * sides(model, pictures).mean():.0f}"
        lines.append(f"{start} | {held} | {wide} |")
    return "\n".join(lines)


@torch.no_grad()
def sides(model, pictures: ImageSet) -> torch.Tensor:
    """The side of a square as large as the window, over the picture's, (N,)."""
    layer = model.transformer
    theta = torch.cat([layer.theta(images) for images, _ in pictures.in_memory().chunks()])
    return layer.composed().matrix(theta)[:, :2, :2].det().abs().sqrt()


def main() -> None:
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    photos, docs = Path(sys.argv[1]), Path(__file__).parent
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else "runs")
    named = (folder / f"imagenet_{model}_quick_0" for model in IMAGENET_MODELS)
    runs = [run for run in named if (run / "results.json").exists()]
    pictures = read_folder(photos, (QUICK_PX, QUICK_PX)).test
    assert pictures is not None
    fill_in(docs / "scale.md", MARK, table(runs, pictures, things(photos, pictures)))
    draw(
        [run for run in runs if load_model(run).transformer is not None],
        pictures,
        docs / "images" / f"{MARK}.png",
    )


if __name__ == "__main__":
    main()
