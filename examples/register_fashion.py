"""Bend one garment into another, many pairs at once: a velocity field, and a field that may fold.

    python examples/register_fashion.py [FOLDER]

FOLDER holds train-images-idx3-ubyte and train-labels-idx1-ubyte of Fashion-MNIST, with or without
.gz (/usr/share/datasets/fashion-mnist of Debian's package dataset-fashion-mnist). Without it, the
faces of scikit-image's lfw_subset are bent into each other.

For each pair theta, a vector at each node of a lattice, is found by Adam on the squared difference
plus a weight times the roughness of these vectors. As a Velocity points drift along them, and the
map cannot fold; as a Displacement they are the map, which can. The descent integrates velocities
in 2 steps; what is measured, in 8: in too few steps large velocities overshoot, and fold.
"""

import gzip
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import stn

LATTICE = (7, 7)
FAMILIES = {  # name: (in the descent, when measured), of the same theta
    "Velocity": (stn.Velocity(LATTICE, steps=2), stn.Velocity(LATTICE, steps=8)),
    "Displacement": (stn.Displacement(LATTICE), stn.Displacement(LATTICE)),
}
WEIGHTS = (0.0, 0.01, 0.1)


def register(
    moving: Tensor, fixed: Tensor, transform: stn.Velocity | stn.Displacement, weight: float
) -> Tensor:
    """theta (B, P) under which each image of `moving` (B, 1, H, W) looks like that of `fixed`."""
    theta = torch.zeros(len(moving), transform.num_params, requires_grad=True)
    optimizer = torch.optim.Adam([theta], lr=0.02)
    vectors = stn.Displacement(LATTICE)  # theta as a field, whatever the map makes of it
    for _ in range(60):
        warped = stn.warp(moving, transform, theta, gradient_blur_px=1.0)
        apart = (warped - fixed).square().mean((1, 2, 3))
        bent = stn.nn.smoothness(vectors, theta, LATTICE)
        optimizer.zero_grad()
        (apart + weight * bent).sum().backward()
        optimizer.step()
    return theta.detach()


def correlation(images: Tensor, others: Tensor) -> Tensor:
    """Of the grey values of each pair, (B,): 1 is the same picture."""
    one, other = (x.flatten(1) - x.flatten(1).mean(1, keepdim=True) for x in (images, others))
    return torch.nn.functional.cosine_similarity(one, other)


def garments(folder: Path, pairs: int) -> tuple[Tensor, Tensor]:
    """Pairs of different garments of one class."""
    images = read_idx(folder, "train-images-idx3-ubyte")
    labels = read_idx(folder, "train-labels-idx1-ubyte")
    of_class = [np.flatnonzero(labels == k) for k in range(10)]
    chosen = [of_class[n % 10][2 * (n // 10) : 2 * (n // 10) + 2] for n in range(pairs)]
    both = torch.tensor(images[np.array(chosen)])[:, :, None] / 255
    return both[:, 0], both[:, 1]


def read_idx(folder: Path, name: str) -> np.ndarray:
    """An idx file of bytes, packed by gzip or not."""
    path = folder / name
    raw = path.read_bytes() if path.exists() else gzip.decompress(Path(f"{path}.gz").read_bytes())
    shape = np.frombuffer(raw, ">u4", count=raw[3], offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


def faces(pairs: int) -> tuple[Tensor, Tensor]:
    """Pairs of the 100 faces of scikit-image's lfw_subset, 25 x 25."""
    from skimage import data

    images = torch.tensor(data.lfw_subset()[:100])[:, None].float()
    return images[:pairs], images[:pairs].roll(1, 0)


def main(folder: str | None = None, pairs: int = 40, weights: Sequence[float] = WEIGHTS) -> None:
    moving, fixed = faces(pairs) if folder is None else garments(Path(folder), pairs)
    size = tuple(fixed.shape[2:])
    before = correlation(moving, fixed).mean().item()
    print(f"{len(moving)} pairs, correlation {before:.3f} before")
    print("family        weight  correlation  pairs with folds  folded pixels  least det  time, s")
    for name, (rough, exact) in FAMILIES.items():
        for weight in weights:
            begun = time.perf_counter()
            theta = register(moving, fixed, rough, weight)
            seconds = time.perf_counter() - begun
            alike = correlation(stn.warp(moving, exact, theta), fixed).mean().item()
            found = stn.nn.diagnose(exact, theta, size)
            folds, share = (found.folded > 0).sum().item(), 100 * found.folded.mean().item()
            print(
                f"{name:12} {weight:7.2f} {alike:12.3f} {folds:17} {share:12.2f} % "
                f"{found.min_det.min().item():10.2g} {seconds:8.1f}"
            )


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
