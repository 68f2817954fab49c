"""Draw the picture of each page in docs/transforms: python docs/draw_transform_pages.py [folder].

Left the input with the places that lines of the output read, right the output with these lines.
"""

import runpy
import sys
from pathlib import Path

import matplotlib
import torch
from matplotlib.figure import Figure

import stn
from stn import coords

panels = runpy.run_path(str(Path(__file__).with_name("draw_transforms.py")))
INK, ORANGE, SIZE = panels["INK"], panels["ORANGE"], panels["SIZE"]
LINES, POINTS = 9, 200


def cases() -> dict:
    """{class name: (transform, theta)}: those of transforms.md, and a composition."""
    both = stn.Compose(stn.Rigid(), stn.ThinPlateSpline((4, 4)))
    found = {title.split()[0]: (t, theta) for title, t, theta in panels["panels"]()}
    bend = found["ThinPlateSpline"][1]
    return found | {"Compose": (both, torch.cat([torch.tensor([[0.4, 0.0, 0.0]]), bend], -1))}


def lines() -> torch.Tensor:
    """Upright and level lines over [-1, 1], (2 LINES, POINTS, 2)."""
    across, along = torch.linspace(-1, 1, LINES), torch.linspace(-1, 1, POINTS)
    upright = torch.stack(torch.meshgrid(across, along, indexing="ij"), -1)
    return torch.cat([upright, upright.flip(-1)])


def draw(name: str, transform: stn.Affine, theta: torch.Tensor, path: Path) -> None:
    image = panels["board"]()
    out = stn.warp(image, transform, theta, padding_mode="fill", fill=0.12)
    target = lines()
    source = transform.map_points(theta, target.flatten(0, 1)).view_as(target).detach()
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(6.4, 3.3), layout="constrained")
        sides = (("input, and where it is read", image, source), (f"{name}: output", out, target))
        for axis, (title, shown, drawn) in zip(figure.subplots(1, 2), sides, strict=True):
            axis.imshow(shown.detach()[0, 0].numpy(), cmap="Blues", vmin=0, vmax=1.15)
            for line in coords.to_pixels(drawn, SIZE, align_corners=False):
                axis.plot(*line.T.tolist(), color=ORANGE, lw=0.8, clip_on=False)
            axis.set_xlim(-24, SIZE[1] + 23)
            axis.set_ylim(SIZE[0] + 23, -24)
            axis.set_axis_off()
            axis.set_title(title, color=INK)
        figure.savefig(path, dpi=90, facecolor="white", metadata={"Software": None})


def file_of(name: str) -> str:
    return f"transform-{name}.png"


def main(folder: Path) -> None:
    for name, (transform, theta) in cases().items():
        draw(name, transform, theta, folder / file_of(name))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "images")
