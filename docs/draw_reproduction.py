"""Draw the pictures of reproduction.md from finished runs: python docs/draw_reproduction.py [runs].

`stn reproduce` makes the runs, by default in runs/reproduce. What no run is there for is left out.
"""

import json
import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from safetensors.torch import load_file
from torch import Tensor

from stn import Attention, coords
from stn.data import digit_boxes, load_mnist, split_mnist, window_boxes
from stn.models import load_model
from stn.recipes import frozen_digits, read_experiment
from stn.recipes.colocalization import CANVAS, FRAMES, Colocalization, part_name

INK, TRUE, WINDOW = "#1a1c1e", "#7fb0dd", "#ffb000"
SETS = ("r", "rts", "p", "e", "tc")
TRANSFORMS = ("affine", "projective", "tps")
CELL = 1.25  # inches
GRID_LINES = 8


def finished(runs: Path, recipe: str, model: str, column: str = "faithful") -> Path | None:
    """The run of the first seed that is there."""
    found = sorted(runs.glob(f"{recipe}_{model}_{column}_[0-9]/results.json"))
    return found[0].parent if found else None


@torch.no_grad()
def means(folder: Path, distortion: str, splits) -> list[Tensor]:
    """Mean test image by channel (C, H, W) before the transformer, then (K, C, h, w) after it."""
    model = load_model(folder)
    sums, count = [], 0
    for chunk in frozen_digits(distortion, splits, "test", 0):
        seen = model.transformer(chunk.images)
        if seen.dim() == chunk.images.dim():  # one transformer
            seen = seen.unsqueeze(1)
        parts = [chunk.images.sum(0), seen.sum(0)]
        sums = [a + b for a, b in zip(sums, parts, strict=True)] if sums else parts
        count += len(chunk.images)
    return [part / count for part in sums]


def show(axis, image: Tensor, title: str = "") -> None:
    axis.imshow(image.numpy(), cmap="gray", vmin=0, vmax=float(image.max()))
    axis.set_title(title, fontsize=8, color=INK)
    axis.set_axis_off()


def draw_box(axis, box: Tensor, color: str) -> None:
    """A box (x0, y0, x1, y1) in px of pixel edges."""
    x0, y0, x1, y1 = box.tolist()
    axis.add_patch(
        Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, color=color, lw=1.4)
    )


def grid_of(rows: int, columns: int) -> tuple[Figure, list]:
    figure = Figure(figsize=(CELL * columns, (CELL + 0.25) * rows), layout="constrained")
    if rows == 0:
        return figure, []
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    return figure, axes


def save(figure: Figure, path: Path) -> None:
    if not figure.axes:
        print(f"no runs for {path}")
        return
    figure.savefig(path, dpi=110, facecolor="white", metadata={"Software": None})
    print(f"wrote {path}")


def draw_means(runs: Path, splits, path: Path) -> None:
    """The mean test image of every set, before and after every transformer."""
    models = [f"st-{base}-{name}" for base in ("fcn", "cnn") for name in TRANSFORMS]
    found = {
        (name, model): folder
        for name in SETS
        for model in models
        if (folder := finished(runs, f"mnist-{name}", model))
    }
    sets = [name for name in SETS if any(own == name for own, _ in found)]
    models = [model for model in models if any(own == model for _, own in found)]
    figure, axes = grid_of(len(sets), 1 + len(models))
    for row, name in zip(axes, sets, strict=True):
        for column, model in enumerate(models, start=1):
            if (name, model) in found:
                before, after = means(found[name, model], name, splits)
                show(row[0], before[0], name.upper())
                show(row[column], after[0, 0], model.removeprefix("st-"))
    save(figure, path)


@torch.no_grad()
def draw_grids(runs: Path, splits, path: Path, digit: int = 4) -> None:
    """Where the transformers of every set read a test digit, as a grid over it, and what they see.

    The digit is the first `digit` of the test set, whatever becomes of it.
    """
    models = [f"st-fcn-{name}" for name in TRANSFORMS]
    sets = [name for name in SETS if any(finished(runs, f"mnist-{name}", m) for m in models)]
    figure, axes = grid_of(len(sets), 2 * len(models))
    row_of = int((splits.test.labels == digit).nonzero()[0])
    for row, name in zip(axes, sets, strict=True):
        chunk = next(iter(frozen_digits(name, splits, "test", 0)))
        image = chunk.images[row_of : row_of + 1]
        for column, model in enumerate(models):
            folder = finished(runs, f"mnist-{name}", model)
            if folder is None:
                continue
            seen = load_model(folder).transformer.inspect(image)
            px = coords.to_pixels(seen.grid[0], image.shape[-2:], seen.align_corners)
            axis, output = row[2 * column : 2 * column + 2]
            show(axis, image[0, 0], f"{name.upper()}, {model.removeprefix('st-fcn-')}")
            lines = torch.linspace(0, len(px) - 1, GRID_LINES).round().long()
            for line in (*px[lines], *px[:, lines].movedim(1, 0)):
                axis.plot(*line.T.numpy(), color=WINDOW, lw=0.7)
            axis.set_xlim(-0.5, image.shape[-1] - 0.5)
            axis.set_ylim(image.shape[-2] - 0.5, -0.5)
            show(output, seen.output[0, 0])
    save(figure, path)


def draw_addition(runs: Path, splits, path: Path) -> None:
    """What each transformer of the addition nets makes of each digit, on average."""
    models = [f"{st}-fcn-{name}" for st in ("st", "2xst") for name in TRANSFORMS]
    folders = {m: f for m in models if (f := finished(runs, "mnist-addition", m))}
    figure, axes = grid_of(len(folders), 6 if any(m.startswith("2x") for m in folders) else 4)
    for row, (model, folder) in zip(axes, folders.items(), strict=True):
        before, after = means(folder, "addition", splits)
        for channel, image in enumerate(before):
            show(row[channel], image, f"{model}\ndigit {channel}" if not channel else "digit 1")
        cells = ((k, c) for k in range(len(after)) for c in range(after.shape[1]))
        for column, (k, c) in enumerate(cells, start=2):
            show(row[column], after[k, c], f"transformer {k}\ndigit {c}")
    save(figure, path)


def colocalization_of(folder: Path) -> Colocalization:
    made = read_experiment(folder / "config.json")
    assert isinstance(made, Colocalization)
    return made


def draw_colocalization(runs: Path, splits, path: Path) -> None:
    """Windows that found what a hundred images have in common, and the true boxes."""
    kinds = ("mnist-colocalization", "mnist-colocalization-cluttered")
    folders = [folder for kind in kinds if (folder := finished(runs, kind, "st-attention", "best"))]
    digits = range(10)
    figure, axes = grid_of(2 * len(folders), len(digits))
    for number, folder in enumerate(folders):
        made = colocalization_of(folder)
        chosen = json.loads((folder / "results.json").read_text())["chosen_start"]
        for digit in digits:
            shown = made.images(splits, digit)
            start = chosen[digit]
            theta = load_file(folder / f"{part_name(digit, start)}.safetensors")["theta"]
            windows = window_boxes(Attention(), theta, CANVAS)
            boxes = digit_boxes(shown.pose, CANVAS)
            for k in range(2):
                axis = axes[2 * number + k][digit]
                show(axis, shown.images[k, 0])
                draw_box(axis, boxes[k], TRUE)
                draw_box(axis, windows[k], WINDOW)
    save(figure, path)


def draw_colocalization_steps(runs: Path, splits, path: Path, digits=(2, 6)) -> None:
    """The windows of one image of a class along the training, without and with clutter."""
    kinds = ("mnist-colocalization", "mnist-colocalization-cluttered")
    folders = [folder for kind in kinds if (folder := finished(runs, kind, "st-attention", "best"))]
    rows = [(folder, digit) for folder in folders for digit in digits]
    figure, axes = grid_of(len(rows), FRAMES + 1)
    for row, (folder, digit) in zip(axes, rows, strict=True):
        shown = colocalization_of(folder).images(splits, digit)
        results = json.loads((folder / "results.json").read_text())
        steps, start = results["steps"], results["chosen_start"][digit]
        found = load_file(folder / f"{part_name(digit, start)}.safetensors")
        frames = [*found["path"][:FRAMES], found["theta"]]
        for k, (axis, theta) in enumerate(zip(row, frames, strict=True)):
            show(axis, shown.images[0, 0], f"step {min(k * (steps // FRAMES), steps)}")
            draw_box(axis, digit_boxes(shown.pose, CANVAS)[0], TRUE)
            draw_box(axis, window_boxes(Attention(), theta, CANVAS)[0], WINDOW)
    save(figure, path)


@torch.no_grad()
def draw_volumes(runs: Path, splits, path: Path, count: int = 8) -> None:
    """Volumes seen from the front and from above, as they are and as the 3-D transformer turns."""
    folder = finished(runs, "mnist-volumes", "st-fcn-affine")
    if folder is None:
        return
    model = load_model(folder)
    chunk = next(iter(frozen_digits("volumes", splits, "test", 0)))
    images = chunk.images[:count]
    figure, axes = grid_of(4, count)
    views = ((2, "from the front"), (3, "from above"))
    for part, volumes in enumerate((images, model.transformer(images))):
        for view, (axis, name) in enumerate(views):
            for k, flat in enumerate(volumes.mean(axis)[:, 0]):
                label = ("before, " if part == 0 else "after, ") + name
                show(axes[2 * part + view][k], flat, "" if k else label)
    save(figure, path)


def main(folder: Path) -> None:
    images = Path(__file__).parent / "images"
    splits = split_mnist(load_mnist())
    draw_means(folder, splits, images / "mean-pose.png")
    draw_grids(folder, splits, images / "grids.png")
    draw_addition(folder, splits, images / "addition.png")
    draw_colocalization(folder, splits, images / "colocalization.png")
    draw_colocalization_steps(folder, splits, images / "colocalization-steps.png")
    draw_volumes(folder, splits, images / "volumes.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/reproduce"))
