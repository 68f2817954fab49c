"""Draw the pictures of conventions.md: python docs/draw_conventions.py [folder].

All places and values come from the library, so the pictures cannot say otherwise.
"""

import sys
from pathlib import Path

import matplotlib
import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

import stn
from stn import coords
from stn.viz import region_outline

INK, SOFT, RULE = "#1a1c1e", "#555c64", "#b9bfc6"
BLUE, ORANGE, PALE = "#0b5cad", "#c2570c", "#dbe7f4"
STYLE = {"svg.hashsalt": "stn", "svg.fonttype": "path", "font.size": 9}
MODES = ("zeros", "fill", "border", "reflection", "mirror", "wrap")


def save(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="svg", metadata={"Date": None}, facecolor="white")


def draw_pixels(path: Path) -> None:
    """A 4 x 3 image under both meanings of +-1."""
    height, width = 3, 4
    figure = Figure(figsize=(9, 4.1), layout="constrained")
    panels = figure.subplots(1, 2)
    for axis, align_corners in zip(panels, (False, True), strict=True):
        for y in range(height):
            for x in range(width):
                axis.add_patch(
                    Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=PALE, edgecolor="white", lw=2)
                )
        corners = coords.to_pixels(
            torch.tensor([[-1.0, -1.0], [1.0, 1.0]]), (height, width), align_corners
        )
        (left, top), (right, bottom) = corners.tolist()
        axis.add_patch(
            Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=ORANGE, lw=2.5)
        )
        points = coords.target_points((height, width), align_corners)
        px = coords.to_pixels(points, (height, width), align_corners)
        axis.plot(*px.T.tolist(), "o", color=BLUE, markersize=6)
        columns = points[:width, 0].tolist()
        rows = points[::width, 1].tolist()
        for x, value in enumerate(columns):
            axis.text(x, -0.85, signed(value), ha="center", color=BLUE)
            axis.text(x, height - 0.2, f"{x}", ha="center", va="center", color=SOFT)
        for y, value in enumerate(rows):
            axis.text(-0.75, y, signed(value), ha="right", va="center", color=BLUE)
            axis.text(width - 0.3, y, f"{y}", ha="left", va="center", color=SOFT)
        axis.text(left, top - 0.06, "(-1, -1)", ha="center", va="bottom", color=ORANGE, size=8)
        axis.text(right, bottom + 0.06, "(1, 1)", ha="center", va="top", color=ORANGE, size=8)
        arrow(axis, (-1.5, -1.25), (0.1, -1.25), INK)
        arrow(axis, (-1.5, -1.25), (-1.5, 0.35), INK)
        axis.text(0.2, -1.25, "x", va="center", style="italic")
        axis.text(-1.5, 0.45, "y", ha="center", va="top", style="italic")
        default = "" if align_corners else " (default)"
        axis.set_title(f"align_corners={align_corners}{default}", color=INK)
        frame(axis, (-1.75, width + 0.1), (height + 0.1, -1.45))
    figure.supxlabel(
        "Blue: normalised coordinates of the pixel centres. Grey: pixel coordinates. "
        "Orange: the square from -1 to 1.",
        size=9,
        color=SOFT,
    )
    save(figure, path)


def draw_direction(path: Path) -> None:
    """A shift and a turn: the region that is read, and the output."""
    image = letter()
    size = tuple(image.shape[-2:])
    cases = (
        ("Translation, tx = 0.4", stn.Translation(), [0.4, 0.0]),
        ("Rigid, angle = 0.4 rad", stn.Rigid(), [0.4, 0.0, 0.0]),
        ("Attention, log s = -0.5", stn.Attention(), [-0.5, 0.0, 0.0]),
    )
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    panels = figure.subplots(2, len(cases))
    for (title, transform, values), above, below in zip(cases, *panels, strict=True):
        theta = torch.tensor([values])
        grid = transform.grid(theta, size)
        output = stn.warp(image, transform, theta)
        for axis, shown in ((above, image), (below, output)):
            axis.imshow(shown[0, 0].numpy(), cmap="Blues", vmin=0, vmax=1.3)
            axis.add_patch(
                Rectangle(
                    (-0.5, -0.5), size[1], size[0], fill=False, edgecolor=RULE, lw=1, clip_on=False
                )
            )
        outline = region_outline(grid[0], size)
        above.plot(*outline.T.tolist(), color=ORANGE, lw=2)
        above.plot(*outline[0].tolist(), "o", color=ORANGE, markersize=7)
        below.plot(0, 0, "o", color=ORANGE, markersize=7)
        above.set_title(title, color=INK)
        for axis in (above, below):
            frame(axis, (-5, size[1] + 10), (size[0] + 4, -6))
    panels[0, 0].text(-4.6, size[0] / 2, "input (source)", rotation=90, va="center", color=SOFT)
    panels[1, 0].text(-4.6, size[0] / 2, "output (target)", rotation=90, va="center", color=SOFT)
    save(figure, path)


def draw_padding(path: Path) -> None:
    """A row of four pixels, continued by every padding mode."""
    values = torch.tensor([0.15, 0.4, 0.65, 0.9])
    names, outside, reach = "abcd", "·", 6
    places = range(-reach, len(values) + reach)
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axis = figure.subplots()
    px = torch.tensor([float(x) for x in places]).view(1, -1, 1)
    grid = coords.to_normalized(px, (len(values),), align_corners=False)
    for row, mode in enumerate(MODES):
        read = stn.grid_sample(values.view(1, 1, -1), grid, "nearest", mode, fill=2.0)
        for x, value in zip(places, read.flatten().tolist(), strict=True):
            match = (values - value).abs() < 1e-6
            name = names[int(match.nonzero()[0])] if bool(match.any()) else outside
            name = {0.0: "0", 2.0: "f"}.get(value, name)
            inside = 0 <= x < len(values)
            blue = matplotlib.colormaps["Blues"](value * 0.75 if value <= 1 else 0.0)
            face = "#fbe3cf" if value == 2 else "#eceef0" if value == 0 else blue
            axis.add_patch(
                Rectangle((x - 0.5, row - 0.42), 1, 0.84, facecolor=face, edgecolor="white")
            )
            dark = 0.7 < value <= 1
            axis.text(
                x, row, name, ha="center", va="center", color="white" if dark else INK,
                weight="bold" if inside else "normal",
            )  # fmt: skip
        axis.text(-reach - 0.8, row, mode, ha="right", va="center", color=INK, family="monospace")
    axis.add_patch(
        Rectangle((-0.5, -0.5), len(values), len(MODES), fill=False, edgecolor=ORANGE, lw=2)
    )
    for x in places:
        axis.text(x, len(MODES) - 0.3, f"{x}", ha="center", va="top", color=SOFT, size=8)
    frame(axis, (-reach - 3.2, len(values) + reach - 0.4), (len(MODES) + 0.1, -0.6))
    save(figure, path)


def letter() -> torch.Tensor:
    """A letter F, (1, 1, 28, 28)."""
    image = torch.zeros(1, 1, 28, 28)
    image[..., 6:22, 9:12] = 1
    image[..., 6:9, 9:20] = 1
    image[..., 13:16, 9:17] = 1
    return image


def signed(value: float) -> str:
    return f"{value:+.2f}" if abs(value) > 1e-9 else "0"


def arrow(axis, start: tuple[float, float], end: tuple[float, float], color: str) -> None:
    axis.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color=color, lw=1.2)
    )


def frame(axis, x: tuple[float, float], y: tuple[float, float]) -> None:
    axis.set_xlim(*x)
    axis.set_ylim(*y)
    axis.set_aspect("equal" if axis.images or len(axis.lines) else "auto")
    axis.set_axis_off()


def main(folder: Path) -> None:
    with matplotlib.rc_context(STYLE):
        draw_pixels(folder / "pixels.svg")
        draw_direction(folder / "direction.svg")
        draw_padding(folder / "padding.svg")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "images")
