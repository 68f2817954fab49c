"""The playground tab: any family and any sampler on a picture, without a network."""

import functools
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .. import coords
from ..data import DataError
from ..data.pictures import SHOWN_PX, picture_size, read_shown
from ..sampling import grid_sample
from ..sampling.kernels import MODES
from ..sampling.padding import MODES as PADDINGS
from ..transforms import Transform
from ..transforms.flow import Flow
from .families import FAMILIES

MOST_PX = 2**26
STRIP_PX = 160
FLOW_POINTS = 129
FILL = 0.5
COMPARED = ("kernel", "padding", "antialias")
SHRINKS = {"full": 1, "1/2": 2, "1/4": 4, "1/8": 8}


class Sampler(NamedTuple):
    """How a picture is read: as in `grid_sample`."""

    mode: str = "bilinear"
    padding_mode: str = "zeros"
    antialias: bool = False

    def says(self, compared: str) -> str:
        """What sets this one apart where `compared` is varied."""
        if compared == "kernel":
            return self.mode
        if compared == "padding":
            return self.padding_mode
        return "antialias" if self.antialias else "plain"


@functools.lru_cache(64)
def transform_of(name: str, size: tuple[int, int]) -> Transform:
    """The family of that name for pictures of a size."""
    if name not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {name!r}")
    return FAMILIES[name].make(size)


@torch.no_grad()
def play(
    photo: Tensor, transform: Transform, theta: Tensor, sampler: Sampler, size: tuple[int, int]
) -> Tensor:
    """The photo (3, H, W) warped by theta (P,) to a size: (3, *size)."""
    return _read(photo, grid_of(transform, theta, size), sampler)


def grid_of(transform: Transform, theta: Tensor, size: tuple[int, int]) -> Tensor:
    """Where an output of `size` reads, (1, *size, 2) normalised.

    Flows are integrated point by point, which takes a second for a photo: theirs is computed at
    129 x 129 points and linear between them.
    """
    if not isinstance(transform, Flow):
        return transform.grid(theta.unsqueeze(0), size)
    nodes = coords.lattice_points((FLOW_POINTS, FLOW_POINTS)).float()
    moved = transform.map_points(theta.unsqueeze(0), nodes) - nodes
    field = moved.view(1, FLOW_POINTS, FLOW_POINTS, 2).movedim(-1, 1)
    target = coords.target_points(size).float().view(1, *size, 2)
    shift = grid_sample(field, target, padding_mode="border", align_corners=True)
    return target + shift.movedim(1, -1)


@torch.no_grad()
def side_by_side(
    photo: Tensor,
    transform: Transform,
    theta: Tensor,
    sampler: Sampler,
    size: tuple[int, int],
    compared: str,
) -> list[tuple[str, Tensor]]:
    """The same warp with every kernel, every padding, or with antialias and without."""
    if compared == "kernel":
        others = [sampler._replace(mode=mode) for mode in MODES]
    elif compared == "padding":
        others = [sampler._replace(padding_mode=padding) for padding in PADDINGS]
    else:
        others = [sampler._replace(antialias=antialias) for antialias in (False, True)]
    grid = grid_of(transform, theta, size)
    return [(other.says(compared), _read(photo, grid, other)) for other in others]


def _read(photo: Tensor, grid: Tensor, sampler: Sampler) -> Tensor:
    antialias = sampler.antialias and sampler.mode != "nearest"  # which never averages
    out = grid_sample(
        photo.unsqueeze(0),
        grid,
        sampler.mode,
        sampler.padding_mode,
        antialias=antialias,
        fill=FILL,
    )
    return out[0].clamp(0, 1)


def shrunk(size: tuple[int, int], factor: int, longest_px: int | None = None) -> tuple[int, int]:
    """A size divided by a factor, and then until it is no longer than `longest_px`."""
    height, width = size
    by = max(factor, 0 if longest_px is None else max(size) / longest_px)
    return max(1, round(height / by)), max(1, round(width / by))


def read_photo(path: str | Path) -> Tensor:
    """An image file (3, h, w) in [0, 1], its longer side at most 512 px.

    Raises:
        DataError: no image, a damaged one, or one of more than 67 million pixels.
    """
    name = Path(path).name
    height, width = picture_size(path, name)
    if width * height > MOST_PX:
        raise DataError(
            f"{name} has {width} x {height} px, more than {MOST_PX // 10**6} million: shrink it"
        )
    return read_shown(path, name=name).float() / 255


def start_photo() -> Tensor:
    """The portrait that comes with matplotlib; the chart where it was left out."""
    from importlib.resources import files

    path = files("matplotlib") / "mpl-data/sample_data/grace_hopper.jpg"
    return read_photo(Path(str(path))) if path.is_file() else start_chart()


def start_chart() -> Tensor:
    """A zone plate in 512 x 512 px, all frequencies at once, with a chequered corner."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, SHOWN_PX)] * 2, indexing="ij")
    plate = 0.5 + 0.5 * (torch.pi * SHOWN_PX / 4 * (x**2 + y**2)).cos()
    board = ((x * 16).floor() + (y * 16).floor()) % 2
    corner = (x < -0.5) & (y < -0.5)
    image = torch.where(corner, board, plate)
    tint = torch.tensor([1.0, 0.94, 0.82])[:, None, None]
    return (image * tint).clamp(0, 1)
