"""Draw the pictures of looking.md: python docs/draw_viz.py [folder [run]].

With a run, such as that of `stn train mnist-rts --model st-fcn-tps`, parts of its report are
photographed in chromium, too.
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

import stn

SIZE = 96, 96
PARTS = ("How it learned to look", "Mean test image")


def main(folder: Path) -> None:
    image, tps = letter(), stn.ThinPlateSpline((4, 4))
    theta = bent(tps)
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(9, 2.9), layout="constrained")
        axes = figure.subplots(1, 3)
        stn.viz.draw_warp(image, tps, theta, tuple(axes[:2]), padding_mode="border")
        stn.viz.draw_control_points(image, tps, theta, axes[2])
        for axis, title in zip(axes, ("draw_warp: read here", "and what comes out",
                                      "draw_control_points"), strict=True):  # fmt: skip
            axis.set_title(title)
        save(figure, folder / "viz-warp.png")

        figure = Figure(figsize=(9, 2.9), layout="constrained")
        axes = figure.subplots(1, 3)
        flow = stn.viz.flow_of(tps, theta, SIZE)
        stn.viz.draw_flow(flow, axes[0], image=image)
        axes[1].imshow(stn.viz.flow_colors(flow))
        axes[2].imshow(stn.viz.flow_wheel())
        for axis, title in zip(axes, ("draw_flow", "flow_colors", "flow_wheel"), strict=True):
            axis.set_title(title)
            axis.set_xticks([])
            axis.set_yticks([])
        save(figure, folder / "viz-flow.png")
    shares = (1 - torch.linspace(0, 2 * torch.pi, 25)[:24].cos()) / 2
    thetas = shares[:, None] * theta
    stn.viz.animate_warp(image, tps, thetas, folder / "viz-bend.gif", padding_mode="border")


def letter() -> torch.Tensor:
    """A letter, (96, 96)."""
    font = ImageFont.truetype(
        str(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSerif.ttf")), 80
    )
    page = Image.new("L", SIZE, 30)
    ImageDraw.Draw(page).text((48, 48), "R", fill=235, font=font, anchor="mm")
    return torch.from_numpy(np.array(page)) / 255


def bent(tps: stn.ThinPlateSpline) -> torch.Tensor:
    noise = torch.Generator().manual_seed(4)
    return (torch.rand(tps.num_params, generator=noise) * 2 - 1) * 0.22


def save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=90, facecolor="white", metadata={"Software": None})


def photograph(run: Path, path: Path) -> None:
    """The test images and the film of a run's report, in a window of 900 px."""
    import shutil

    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1000, "height": 900}, reduced_motion="reduce")
        page.goto((run / "report.html").absolute().as_uri())
        top, bottom = (page.get_by_role("heading", name=name).bounding_box() for name in PARTS)
        assert top is not None
        assert bottom is not None
        page.locator(".film input").first.fill("2")
        page.locator("h1").click()  # takes the focus away
        clip = {"x": 0, "y": top["y"] - 8, "width": 1000, "height": bottom["y"] - top["y"] - 16}
        page.screenshot(path=path, full_page=True, clip=clip)
        browser.close()


if __name__ == "__main__":
    here = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "images"
    main(here)
    if len(sys.argv) > 2:
        photograph(Path(sys.argv[2]), here / "viz-report.png")
