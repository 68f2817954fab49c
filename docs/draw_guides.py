"""Draw pictures of register.md, rectify.md and sampling.md: python docs/draw_guides.py [folder]."""

import runpy
import sys
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

import stn
from stn import coords

INK, ORANGE = "#1a1c1e", "#c2570c"
EXAMPLES = Path(__file__).parent.parent / "examples"


def written(text: str, size: tuple[int, int]) -> torch.Tensor:
    """A line of text, dark on light, (1, 1, *size)."""
    font = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans-Bold.ttf")
    page = Image.new("L", (size[1], size[0]), 255)
    write = ImageDraw.Draw(page)
    place = {"xy": (size[1] / 2, size[0] / 2), "anchor": "mm"}
    write.text(text=text, font=ImageFont.truetype(font, size[0] * 0.45), fill=20, **place)
    return torch.tensor(np.array(page), dtype=torch.float32)[None, None] / 255


def arch(n: int) -> torch.Tensor:
    """n points along the upper and n along the lower edge of a bent line, (2 n, 2)."""
    x = torch.linspace(-0.85, 0.85, n)
    middle = 0.5 * x**2 - 0.3
    return torch.stack([x.repeat(2), torch.cat([middle - 0.35, middle + 0.35])], -1)


def edges(n: int) -> torch.Tensor:
    """The same points on the straight line: the upper and lower edge of the output."""
    x = torch.linspace(-1, 1, n)
    return torch.stack([x.repeat(2), torch.tensor([-1.0, 1.0]).repeat_interleave(n)], -1)


def draw_text(path: Path) -> None:
    line, spline = written("SPATIAL TRANSFORMER", (48, 320)), stn.ThinPlateSpline((2, 8))
    bend = spline.fit(target_points=arch(8), source_points=edges(8))
    photo = stn.warp(line, spline, bend, (128, 320), padding_mode="fill", fill=1)
    theta = spline.fit(target_points=edges(8), source_points=arch(8))
    straight = stn.warp(photo, spline, theta, (48, 320), padding_mode="fill", fill=1)
    points = coords.to_pixels(arch(8), (128, 320), align_corners=False)
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(6, 3.6), layout="constrained")
        above, below = figure.subplots(2, 1, height_ratios=[128, 48])
        for axis, title, shown in ((above, "photo", photo), (below, "rectified", straight)):
            axis.imshow(shown[0, 0].numpy(), cmap="gray", vmin=0, vmax=1)
            axis.set_title(title, color=INK)
            axis.set_axis_off()
        above.plot(*points.T.tolist(), "o", color=ORANGE, markersize=4)
        figure.savefig(path, dpi=90, facecolor="white", metadata={"Software": None})


def draw_photos(path: Path) -> None:
    example = runpy.run_path(str(EXAMPLES / "register_photos.py"))
    fixed, moving, true = example["astronaut"]()
    start = example["moved_start"](0, true, fixed, moving)
    found = example["register"](fixed, moving, start)
    example["save_picture"](fixed, moving, (start, found), path)
    picture = Image.open(path)
    picture.resize((480, 480), Image.Resampling.LANCZOS).save(path)


def draw_samplers(path: Path) -> None:
    """A detail, turned and magnified by each mode; and shrunk, with and without antialias."""
    photo = runpy.run_path(str(EXAMPLES / "register_photos.py"))["astronaut"]()[1]
    detail, turn = photo[..., 88:120, 196:228], torch.tensor([[-0.2, 0.4, 0.0, 0.0]])
    striped = ((torch.arange(256) // 3) % 2).float().expand(1, 3, 256, 256) * photo[..., :256, :256]
    away = torch.tensor([[0.0, 0.5, 0.0, 0.0]])
    large = {"size": (160, 160), "padding_mode": "border"}
    small = {"size": (64, 64), "padding_mode": "border"}
    similarity = stn.Similarity()
    modes = ("nearest", "bilinear", "bicubic", "lanczos3", "gaussian")
    shown = [(m, stn.warp(detail, similarity, turn, mode=m, **large)) for m in modes]
    shown += [("the photo, striped", striped)]
    for mode in ("bilinear", "lanczos3"):
        for antialias in (False, True):
            title = mode + (", antialias" if antialias else "")
            run = small | {"mode": mode, "antialias": antialias}
            shown.append((title, stn.warp(striped, similarity, away, **run)))
    with matplotlib.rc_context({"font.size": 8}):
        figure = Figure(figsize=(8.4, 3.7), layout="constrained")
        for axis, (title, image) in zip(figure.subplots(2, 5).flat, shown, strict=True):
            axis.imshow(image[0].permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
            axis.set_title(title, color=INK)
            axis.set_axis_off()
        figure.savefig(path, dpi=100, facecolor="white", metadata={"Software": None})


def main(folder: Path) -> None:
    draw_samplers(folder / "samplers.png")
    draw_text(folder / "rectify.png")
    draw_photos(folder / "register.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "images")
