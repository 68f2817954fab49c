"""Draw the pictures of stand-ins.md from finished runs: python docs/draw_stand_ins.py [runs].

`stn reproduce stand-ins` makes the runs, by default in runs/reproduce. What no run is there for is
left out.
"""

import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

import stn
from stn.models import load_model
from stn.recipes import read_experiment
from stn.viz import region_outline
from stn.viz.pictures import REGIONS

PICTURES = 6
NUMBERS = 8
CELL = 1.3  # inches


@torch.no_grad()
def draw_windows(folders: list[Path], path: Path) -> None:
    """Test pictures with each run's windows on them, and below each what the windows hold."""
    nets = [load_model(folder) for folder in folders]
    counts = [net.transformer.num for net in nets]
    experiment = read_experiment(folders[0] / "config.json")
    images, _, _ = experiment.shown(experiment.load())
    images = images[:: len(images) // PICTURES][:PICTURES]
    heights = [ratio for count in counts for ratio in (1, *[0.5] * (count // 2))]
    figure = Figure((CELL * PICTURES, CELL * sum(heights)), layout="compressed")
    grid = figure.add_gridspec(len(heights), 2 * PICTURES, height_ratios=heights)
    row = 0
    for net, count, folder in zip(nets, counts, folders, strict=True):
        found = net.transformer.inspect(images)
        size = tuple(images.shape[2:])
        for column, image in enumerate(images):
            axis = figure.add_subplot(grid[row, 2 * column : 2 * column + 2])
            axis.imshow(image.movedim(0, -1))
            axis.set_axis_off()
            if not column:
                axis.set_title(folder.name.split("_")[1], fontsize=8, loc="left")
            for window in range(count):
                edge = REGIONS[window]
                line = region_outline(found.grid[column, window], size)
                axis.add_patch(Polygon(line, fill=False, edgecolor=edge, lw=1.5))
                place = grid[row + 1 + window // 2, 2 * column + window % 2]
                cut = figure.add_subplot(place)
                cut.imshow(found.output[column, window].movedim(0, -1).clamp(0, 1))
                cut.set(xticks=[], yticks=[])
                for spine in cut.spines.values():
                    spine.set(color=edge, linewidth=1.5)
        row += 1 + count // 2
    figure.savefig(path, dpi=110)
    print(f"wrote {path}")


@torch.no_grad()
def draw_numbers(folders: list[Path], path: Path) -> None:
    """Test numbers with the region that each network reads, and below each that region."""
    experiment = read_experiment(folders[0] / "config.json")
    images, _, _ = experiment.shown(experiment.load())
    images = images[:: len(images) // NUMBERS][:NUMBERS]
    size = tuple(images.shape[2:])
    figure = Figure((CELL * NUMBERS, CELL * (len(folders) + 1)), layout="compressed")
    axes = figure.subplots(len(folders) + 1, NUMBERS)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, image in zip(axes[0], images, strict=True):
        axis.imshow(image.movedim(0, -1))
    for folder, row, edge in zip(folders, axes[1:], REGIONS, strict=False):
        theta = whole_theta(load_model(folder).eval(), images)
        grids = stn.Affine().grid(theta, size)
        outputs = stn.warp(images, stn.Affine(), theta)
        row[0].set_title(folder.name.split("_")[1], fontsize=8, loc="left", color=edge)
        for top, axis, grid, output in zip(axes[0], row, grids, outputs, strict=True):
            line = region_outline(grid, size)
            top.add_patch(Polygon(line, fill=False, edgecolor=edge, lw=1.5))
            axis.imshow(output.movedim(0, -1).clamp(0, 1))
    figure.savefig(path, dpi=110)
    print(f"wrote {path}")


def whole_theta(net: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """theta (N, 6) of all affine transformers of a network, one after the other."""
    matrices = []

    def keep(layer, inputs) -> None:
        linear = stn.Affine().matrix(layer.theta(*inputs))
        last = torch.tensor([0.0, 0.0, 1.0]).expand(len(linear), 1, 3)
        matrices.append(torch.cat([linear, last], 1))

    hooks = [
        layer.register_forward_pre_hook(keep)
        for layer in net.modules()
        if isinstance(layer, stn.SpatialTransformer)
    ]
    net(images)
    for hook in hooks:
        hook.remove()
    whole = matrices[0]
    for matrix in matrices[1:]:
        whole = whole @ matrix
    return stn.Affine().from_matrix(whole[:, :2])


def main() -> None:
    runs = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/reproduce")
    images = Path(__file__).parent / "images"
    windowed = [runs / f"creatures_{model}_quick_0" for model in ("2xst-cnn", "4xst-cnn")]
    done = [folder for folder in windowed if (folder / "results.json").exists()]
    if done:
        draw_windows(done, images / "creatures.png")
    reading = [
        runs / f"street-numbers-128_{model}_quick_0" for model in ("st-cnn-single", "st-cnn-multi")
    ]
    done = [folder for folder in reading if (folder / "results.json").exists()]
    if done:
        draw_numbers(done, images / "street-numbers.png")


if __name__ == "__main__":
    main()
