"""Draw the pictures of sampling.md: python docs/draw_sampling.py [folder].

All curves and images come from the library. The basin of convergence takes some ten minutes to
measure; `python docs/draw_sampling.py --measure` does so and keeps the numbers in basin.json.
"""

import json
import math
import sys
from pathlib import Path

import matplotlib
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

import stn
from stn import coords

INK, SOFT, RULE = "#1a1c1e", "#555c64", "#b9bfc6"
COLORS = ("#c2570c", "#7fb0dd", "#0b5cad", "#06305c")
STYLE = {"svg.hashsalt": "stn", "svg.fonttype": "path", "font.size": 9}
MODES = ("bilinear", "bicubic", "lanczos3", "gaussian")
BASIN = Path(__file__).parent / "basin.json"
SIGMAS_PX = (0, 2, 4, 8)
DISTANCES_PX = (4, 8, 16, 24, 32, 48, 64)
STARTS, STEPS, SIZE = 24, 300, 128  # steps of Adam that reach 96 px at most
RADIUS_PX = SIZE / math.sqrt(6)  # RMS distance of a pixel from the centre: px per radian


def save(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="svg", metadata={"Date": None}, facecolor="white")


def draw_kernels(path: Path) -> None:
    """Weight against offset, read off a unit impulse."""
    impulse = torch.zeros(1, 1, 9, dtype=torch.float64)
    impulse[..., 4] = 1
    px = torch.linspace(0.5, 7.5, 701, dtype=torch.float64).view(1, -1, 1)
    grid = coords.to_normalized(px, (9,), align_corners=False)
    figure = Figure(figsize=(9, 2.4), layout="constrained")
    for axis, mode in zip(figure.subplots(1, len(MODES), sharey=True), MODES, strict=True):
        weight = stn.grid_sample(impulse, grid, mode).flatten()
        axis.axhline(0, color=RULE, lw=0.8)
        axis.plot((px.flatten() - 4).tolist(), weight.tolist(), color=COLORS[2], lw=1.6)
        axis.set_title(mode, family="monospace", color=INK)
        axis.set_xticks(range(-3, 4))
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlabel("offset, px", color=SOFT)
    save(figure, path)


def photo(size: int) -> Tensor:
    """scikit-image's photograph of a man with a camera, (1, 1, size, size)."""
    from skimage import data

    image = torch.tensor(data.camera(), dtype=torch.float32)[None, None] / 255
    return F.avg_pool2d(image, 512 // size)


def zone_plate(n: int = 512) -> Tensor:
    """All frequencies up to Nyquist's in one image, amplitude 1/2 about 1/2."""
    c = torch.arange(n, dtype=torch.float64) - (n - 1) / 2
    return (0.5 + 0.5 * torch.cos(math.pi / n * (c[:, None] ** 2 + c**2)))[None, None]


def mip_map(image: Tensor, transform, theta: Tensor, size: tuple[int, int]) -> Tensor:
    """What graphics hardware does: averages over squares, as wide as the longest shrinking says."""
    points = coords.target_points(size, dtype=torch.float64)
    unit = torch.tensor(image.shape[:1:-1]) / torch.tensor(size[::-1])  # square images here
    shrink = torch.linalg.matrix_norm(unit[0] * transform.jacobian(theta, points), 2)
    level = shrink.clamp(1, 2**7).log2().view(1, 1, *size)
    out = torch.zeros(1, 1, *size, dtype=image.dtype)
    for k in range(9):
        read = stn.warp(image, transform, theta, size, padding_mode="wrap")
        out += (1 - (level - k).abs()).clamp(min=0) * read
        image = F.avg_pool2d(image, 2) if min(image.shape[2:]) > 1 else image
    return out


def draw_antialias(path: Path) -> None:
    """A zone plate turned and shrunk, and a chequered floor: plain, isotropic, anisotropic."""
    figure = Figure(figsize=(9, 6.2), layout="constrained")
    panels = figure.subplots(2, 3)
    rows = torch.arange(256)
    board = ((rows[:, None] // 8 + rows // 8) % 2).double()[None, None]
    tilt = torch.zeros(1, 8, dtype=torch.float64)
    tilt[0, [4, 7]] = 0.93  # the far edge is shrunk 27 times as much as the near one
    scenes = (
        (zone_plate(), stn.Rigid(), torch.tensor([[math.pi / 6, 0, 0]]).double(), (64, 64)),
        (board, stn.Projective(), tilt, (96, 96)),
    )
    for row, (image, transform, theta, size) in zip(panels, scenes, strict=True):
        run = {"size": size, "padding_mode": "wrap"}
        shown = {
            "plain": stn.warp(image, transform, theta, **run),
            "isotropic (mip-map)": mip_map(image, transform, theta, size),
            "antialias=True": stn.warp(image, transform, theta, antialias=True, **run),
        }
        for axis, (title, picture) in zip(row, shown.items(), strict=True):
            axis.imshow(picture[0, 0].numpy(), cmap="gray", vmin=0, vmax=1)
            axis.set_axis_off()
            if image.shape[-1] == 512:
                axis.set_title(title, color=INK)
    save(figure, path)


def registered(image: Tensor, transform: stn.Rigid, truth: Tensor, start: Tensor, sigma: float):
    """theta after descent from `start` on the squared difference to the image warped by `truth`."""
    target = stn.warp(image, transform, truth, padding_mode="border")
    theta = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([theta], lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        optimizer.zero_grad()
        run = {"padding_mode": "border", "gradient_blur_px": sigma}
        out = stn.warp(image, transform, theta, **run)
        (out - target).square().mean((1, 2, 3)).sum().backward()
        optimizer.step()
        schedule.step()
    return theta.detach()


def measure() -> dict:
    """Share of starts that end within half a pixel (RMS over the image), by distance and sigma."""
    torch.manual_seed(0)
    image, found = photo(SIZE), {}
    for name, transform in (("Translation", stn.Translation()), ("Rigid", stn.Rigid())):
        # theta of one pixel of RMS displacement, per parameter.
        unit = torch.tensor([1 / RADIUS_PX, 2 / SIZE, 2 / SIZE])[-transform.num_params :]
        truth = unit * torch.randn(STARTS, transform.num_params)
        way = F.normalize(torch.randn(STARTS, transform.num_params), dim=-1)
        found[name] = {}
        for sigma in SIGMAS_PX:
            shares = []
            for distance in DISTANCES_PX:
                start = truth + unit * way * distance
                end = registered(image, transform, truth, start, float(sigma))
                error_px = ((end - truth) / unit).norm(dim=-1)
                shares.append((error_px < 0.5).float().mean().item())
            found[name][str(sigma)] = shares
            print(name, sigma, shares, flush=True)
    return {"distances_px": DISTANCES_PX, "share": found}


def draw_basin(path: Path) -> None:
    basin = json.loads(BASIN.read_text())
    figure = Figure(figsize=(9, 3.3), layout="constrained")
    panels = figure.subplots(1, len(basin["share"]), sharey=True)
    for axis, (name, curves) in zip(panels, basin["share"].items(), strict=True):
        for (sigma, shares), color in zip(curves.items(), COLORS, strict=True):
            label = f"{sigma} px" if int(sigma) else "0 (bilinear)"
            axis.plot(
                basin["distances_px"],
                [100 * s for s in shares],
                "o-",
                color=color,
                ms=3.5,
                label=label,
            )
        axis.set_title(name, color=INK)
        axis.set_xlabel("start, px from the answer", color=SOFT)
        axis.set_ylim(-3, 103)
        axis.grid(color=RULE, lw=0.4)
        axis.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("starts that converge, %", color=SOFT)
    panels[-1].legend(title="gradient_blur_px", frameon=False)
    save(figure, path)


def main(folder: Path) -> None:
    with matplotlib.rc_context(STYLE):
        draw_kernels(folder / "kernels.svg")
        draw_antialias(folder / "antialias.svg")
        draw_basin(folder / "basin.svg")


if __name__ == "__main__":
    if sys.argv[1:] == ["--measure"]:
        BASIN.write_text(json.dumps(measure(), indent=1) + "\n")
    else:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "images")
