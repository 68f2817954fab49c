"""Warp one picture by every family, and save them side by side.

python examples/warp_gallery.py [OUTPUT.png]
"""

import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure

import stn

FAMILIES = {
    "Translation": (stn.Translation(), [0.3, 0.1]),
    "Attention": (stn.Attention(), [-0.6, 0.2, -0.1]),
    "Rigid": (stn.Rigid(aspect=(4, 3)), [0.4, 0.0, 0.0]),
    "Similarity": (stn.Similarity(aspect=(4, 3)), [0.3, -0.4, 0.0, 0.0]),
    "Affine": (stn.Affine(), [0.1, 0.4, 0.0, 0.0, 0.2, 0.0]),
    "Projective": (stn.Projective(), [0.0, 0.2, 0.0, 0.1, 0.0, 0.0, 0.3, -0.2]),
}


def main(output: str = "warp_gallery.png") -> None:
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(128.0), indexing="ij")
    checks = ((x // 16 + y // 16) % 2) * 0.5
    picture = (checks + 0.5 * (x / 128))[None, None]
    spline = stn.ThinPlateSpline((4, 4))
    bend = 0.15 * torch.randn(spline.num_params, generator=torch.Generator().manual_seed(1))
    families = FAMILIES | {"ThinPlateSpline": (spline, bend.tolist())}

    figure = Figure(figsize=(12, 5), layout="constrained")
    axes = figure.subplots(2, 4).flat
    for axis, (name, shown) in zip(
        axes,
        [("input", picture)]
        + [
            (name, stn.warp(picture, transform, torch.tensor([theta]), mode="bicubic"))
            for name, (transform, theta) in families.items()
        ],
        strict=True,
    ):
        axis.imshow(shown[0, 0], cmap="gray", vmin=0, vmax=1)
        axis.set_title(name)
        axis.set_axis_off()
    figure.savefig(Path(output))
    print(f"wrote {output}")


if __name__ == "__main__":
    main(*sys.argv[1:])
