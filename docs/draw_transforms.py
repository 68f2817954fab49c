"""Draw the picture of transforms.md: python docs/draw_transforms.py [folder].

Every panel is `stn.warp` of the same image, so the picture cannot say otherwise.
"""

import sys
from pathlib import Path

import matplotlib
import torch
from matplotlib.figure import Figure

import stn
from stn import coords

INK, ORANGE, RULE = "#1a1c1e", "#c2570c", "#b9bfc6"
SIZE = 160, 160
COLUMNS = 4


def main(folder: Path) -> None:
    image = board()
    cases = list(panels())
    rows = -(-(len(cases) + 1) // COLUMNS)
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(8.4, 2.25 * rows), layout="constrained")
        axes = figure.subplots(rows, COLUMNS).flatten()
        for axis in axes:
            axis.set_axis_off()
        show(axes[0], "the image itself", image)
        for axis, (title, transform, theta) in zip(axes[1:], cases, strict=False):
            out = stn.warp(image, transform, theta, padding_mode="fill", fill=0.12)
            show(axis, title, out, getattr(transform, "control_points", None))
        figure.savefig(
            folder / "transforms.png", dpi=90, facecolor="white", metadata={"Software": None}
        )


def panels():
    """(title, transform, theta) of every family. All lattices of 4 x 4 get the same vectors."""
    lattice, noise = (4, 4), torch.Generator().manual_seed(4)
    same = (torch.rand(1, 32, generator=noise) * 2 - 1) * 0.28
    yield "Translation", stn.Translation(), torch.tensor([[0.3, -0.2]])
    yield "Attention", stn.Attention(), torch.tensor([[-0.5, 0.1, -0.2]])
    yield "Rigid", stn.Rigid(), torch.tensor([[0.4, 0.0, 0.0]])
    yield "Similarity", stn.Similarity(), torch.tensor([[-0.4, 0.4, 0.0, 0.0]])
    yield "Affine", stn.Affine(), torch.tensor([[0.1, 0.35, 0.0, -0.1, -0.25, 0.0]])
    yield (
        "Projective",
        stn.Projective(),
        torch.tensor([[0.0, 0.15, 0.0, 0.0, 0.0, 0.0, 0.05, 0.4]]),
    )
    yield "ThinPlateSpline", stn.ThinPlateSpline(lattice), same
    yield "PiecewiseAffine", stn.PiecewiseAffine(lattice), same
    yield "FreeForm", stn.FreeForm(lattice), same
    yield "Displacement", stn.Displacement(lattice), same
    yield "Velocity", stn.Velocity(lattice), same
    cpab = stn.CPAB((2, 2))
    yield "CPAB", cpab, 0.8 * torch.randn(1, cpab.num_params, generator=noise)
    torch.manual_seed(0)
    yield "LearnedBasis (a bend)", bent_basis(), torch.tensor([[0.35, 0.0]])
    yield "Polar", stn.Polar(), torch.zeros(1, 2)
    yield "LogPolar", stn.LogPolar(smallest=1 / 16), torch.zeros(1, 2)


def bent_basis() -> stn.LearnedBasis:
    """A basis of one field, sin(pi y): with theta along x it bends upright lines."""
    transform = stn.LearnedBasis(rank=1, lattice=(32, 1))
    y = coords.target_points((32, 1))[:, 1]
    with torch.no_grad():
        transform.basis.copy_((torch.pi * y).sin().view(1, 32, 1))
    return transform.requires_grad_(False)


def board() -> torch.Tensor:
    """Squares of 20 px with an F on them, (1, 1, 160, 160), in [0.12, 1]."""
    y, x = torch.meshgrid(*[torch.arange(n) for n in SIZE], indexing="ij")
    board = torch.where((x // 20 + y // 20) % 2 == 0, 0.25, 0.45)
    board[35:125, 50:68] = 1
    board[35:53, 50:110] = 1
    board[72:88, 50:98] = 1
    return board[None, None]


def show(axis, title: str, image: torch.Tensor, nodes: torch.Tensor | None = None) -> None:
    axis.imshow(image[0, 0].numpy(), cmap="Blues", vmin=0, vmax=1.15)
    if nodes is not None:
        px = coords.to_pixels(nodes, SIZE, align_corners=False)
        axis.plot(*px.T.tolist(), "o", color=ORANGE, markersize=3, clip_on=False)
    axis.set_title(title, color=INK)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "images")
