"""Draw the pictures of stand-ins.md from finished runs: python docs/draw_stand_ins.py [runs].

`stn reproduce stand-ins` makes the runs, by default in runs/reproduce. What no run is there for is
left out.
"""

import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from stn.models import load_model
from stn.recipes import read_experiment
from stn.viz import region_outline
from stn.viz.pictures import REGIONS

PICTURES = 6
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


def main() -> None:
    runs = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/reproduce")
    images = Path(__file__).parent / "images"
    windowed = [runs / f"creatures_{model}_quick_0" for model in ("2xst-cnn", "4xst-cnn")]
    done = [folder for folder in windowed if (folder / "results.json").exists()]
    if done:
        draw_windows(done, images / "creatures.png")


if __name__ == "__main__":
    main()
