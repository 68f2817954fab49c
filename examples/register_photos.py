"""Align two photos of a flat scene by gradient descent on a homography, coarse to fine.

    python examples/register_photos.py [FOLDER]

FOLDER holds graf1.png, graf3.png and H1to3p.xml, two views of a painted wall with the true
homography between them (/usr/share/doc/opencv-doc/examples/data of Debian's package opencv-doc).
Without it, a photo of scikit-image is warped by a known homography.

Each of ten starts is the true homography with its four corners moved by 15 % of the image's width
in random directions. Photos are compared by their colours less the local mean, over the local
contrast, which forgives light, and by a robust distance, which forgives what one photo hides. On
the coarsest level 16 guesses around the start are followed, and the best one is kept.
"""

import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import stn
from stn import coords

HOMOGRAPHY = stn.Projective()
# Shrunk by this factor, so many steps of Adam, at this rate.
LEVELS = ((32, 100, 0.03), (16, 60, 0.01), (8, 60, 0.005), (4, 40, 0.002), (2, 30, 0.001))
ROBUST = 0.5  # differences beyond this count by their size, not its square
GUESSES, SPREAD = 16, 0.1  # of the width


def register(fixed: Tensor, moving: Tensor, theta: Tensor) -> Tensor:
    """theta (8,) of the homography under which `moving` looks like `fixed`, from a start (8,)."""
    torch.manual_seed(0)
    guesses = corners_px(theta, moving).repeat(GUESSES, 1, 1)
    guesses[1:] += SPREAD * moving.shape[-1] * torch.randn_like(guesses[1:])
    theta = theta_of_corners(guesses, fixed, moving)
    for shrink, steps, rate in LEVELS:
        target, image = appearance(fixed, shrink), appearance(moving, shrink)
        theta, loss = descend(target, image, theta, steps, rate)
        theta = theta[loss.argmin()].unsqueeze(0)
    return theta[0]


def descend(
    target: Tensor, image: Tensor, theta: Tensor, steps: int, rate: float
) -> tuple[Tensor, Tensor]:
    """theta (N, 8) after descent from every row, and what is left of the loss, (N,)."""
    theta = theta.clone().requires_grad_()
    optimizer = torch.optim.Adam([theta], rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    size, loss = target.shape[2:], torch.zeros(len(theta))
    for _ in range(steps):
        warped = stn.warp(image, HOMOGRAPHY, theta, size, padding_mode="border")
        seen = stn.valid_mask(HOMOGRAPHY, theta, size, image.shape[2:])
        apart = ((warped - target).square().sum(1) + ROBUST**2).sqrt()
        loss = (apart * seen).sum((1, 2)) / seen.sum((1, 2)).clamp(min=1)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        schedule.step()
    return theta.detach(), loss.detach()


def appearance(photo: Tensor, shrink: int, window: int = 21) -> Tensor:
    """The photo shrunk, less its local mean, over its local contrast."""
    height, width = photo.shape[2:]
    size = height // shrink, width // shrink
    small = stn.warp(photo, stn.Affine(), torch.zeros(1, 6), size, antialias=True)
    above = small - local_mean(small, window)
    contrast = local_mean(above.square(), window).mean(1, keepdim=True)
    return above / (contrast + 0.05**2).sqrt()


def local_mean(image: Tensor, window: int) -> Tensor:
    return F.avg_pool2d(image, window, 1, window // 2, count_include_pad=False)


def corner_points(photo: Tensor) -> Tensor:
    """Centres of the corner pixels (4, 2), normalised, in float64."""
    height, width = photo.shape[2:]
    right, bottom = width - 1.0, height - 1.0
    px = torch.tensor([[0, 0], [right, 0], [right, bottom], [0, bottom]], dtype=torch.float64)
    return coords.to_normalized(px, (height, width), align_corners=False)


def corners_px(theta: Tensor, photo: Tensor) -> Tensor:
    """Where the corners of a photo of the same size lie in `photo` under theta (8,): (1, 4, 2)."""
    places = HOMOGRAPHY.map_points(theta.double().unsqueeze(0), corner_points(photo))
    return coords.to_pixels(places, tuple(photo.shape[2:]), align_corners=False)


def theta_of_corners(corners: Tensor, fixed: Tensor, moving: Tensor) -> Tensor:
    """theta (N, 8) that takes the corners of `fixed` to corners (N, 4, 2) in px of `moving`."""
    places = coords.to_normalized(corners, tuple(moving.shape[2:]), align_corners=False)
    return HOMOGRAPHY.fit(corner_points(fixed), places).float()


def wall(folder: Path) -> tuple[Tensor, Tensor, Tensor]:
    """graf1, graf3, and theta of the true homography from the one to the other."""
    fixed, moving = (read(np.asarray(Image.open(folder / f"graf{n}.png"))) for n in (1, 3))
    numbers = ElementTree.parse(folder / "H1to3p.xml").findtext(".//data", "").split()
    matrix = torch.tensor([float(n) for n in numbers], dtype=torch.float64).view(3, 3)
    height, width = fixed.shape[2:]
    px = coords.to_pixels(corner_points(fixed), (height, width), align_corners=False)
    there = torch.cat([px, torch.ones(4, 1)], -1) @ matrix.T
    corners = (there[:, :2] / there[:, 2:]).unsqueeze(0)
    return fixed, moving, theta_of_corners(corners, fixed, moving)[0]


def astronaut() -> tuple[Tensor, Tensor, Tensor]:
    """A photo seen from the side, darker; the photo; and theta of the homography."""
    from skimage import data

    photo = read(data.astronaut())
    theta = torch.tensor([-0.25, 0.1, 0.05, -0.1, -0.2, -0.05, 0.15, 0.1])
    return 0.7 * stn.warp(photo, HOMOGRAPHY, theta.unsqueeze(0)), photo, theta


def read(pixels: np.ndarray) -> Tensor:
    return torch.tensor(pixels[..., :3]).permute(2, 0, 1).unsqueeze(0) / 255


def moved_start(seed: int, true: Tensor, fixed: Tensor, moving: Tensor) -> Tensor:
    """The true theta, its corners moved by 15 % of the width in random directions."""
    angle = 2 * math.pi * torch.rand(4, generator=torch.Generator().manual_seed(seed))
    aside = 0.15 * moving.shape[-1] * torch.stack([angle.cos(), angle.sin()], -1)
    return theta_of_corners(corners_px(true, moving) + aside, fixed, moving)[0]


def save_picture(fixed: Tensor, moving: Tensor, thetas: Sequence[Tensor], path: Path) -> None:
    """Both photos, and below them chequers of the one and the warped other, before and after."""
    size = fixed.shape[2:]
    rows, columns = (torch.arange(n) * 8 // n for n in size)
    chequers = (rows[:, None] + columns) % 2 == 0
    warped = [stn.warp(moving, HOMOGRAPHY, theta.unsqueeze(0), size) for theta in thetas]
    mixed = [torch.where(chequers, fixed, image) for image in warped]
    lines = [torch.cat([fixed, moving], -1), torch.cat(mixed, -1)]
    pixels = (torch.cat(lines, -2)[0].permute(1, 2, 0) * 255).round().clamp(0, 255)
    Image.fromarray(pixels.byte().numpy()).save(path)


def main(folder: str | None = None, starts: int = 10) -> None:
    fixed, moving, true = astronaut() if folder is None else wall(Path(folder))
    answer, errors, seconds = corners_px(true, moving), [], []
    print("start  corners off, px: before   after (mean)   after (worst)   time, s")
    start = found = true
    for seed in range(starts):
        start = moved_start(seed, true, fixed, moving)
        begun = time.perf_counter()
        found = register(fixed, moving, start)
        seconds.append(time.perf_counter() - begun)
        before = (corners_px(start, moving) - answer).norm(dim=-1).mean().item()
        off = (corners_px(found, moving) - answer).norm(dim=-1)
        errors.append(off.mean().item())
        worst = off.max().item()
        print(f"{seed:5} {before:24.1f} {errors[-1]:14.2f} {worst:15.2f} {seconds[-1]:10.1f}")
    print(f"median corner error {np.median(errors):.2f} px, worst start {max(errors):.2f} px")
    print(f"{np.mean(seconds):.1f} s a start on {torch.get_num_threads()} threads")
    save_picture(fixed, moving, (start, found), Path("register_photos.png"))
    print("wrote register_photos.png: chequers of both photos, before and after the last start")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
