"""The tables that the contracts run over: transforms, samplers, shapes. A new family is one row.

Helpers here make inputs or raise; none returns a verdict.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import stn


class Family(NamedTuple):
    """One row of the table of transforms.

    `spread` is the size of random thetas at which the map still has an inverse near [-1, 1];
    `largest` the size up to which its products stay within float32, and gradients are not NaN.
    """

    make: Callable[[], stn.Affine]
    spread: float = 0.2
    identity_at_zero: bool = True
    is_matrix: bool = True
    has_fit: bool = True
    largest: float = 3e38
    learns: bool = False  # whether it has parameters of its own

    def theta(self, batch: int = 2, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
        noise = torch.Generator().manual_seed(seed)
        shape = batch, self.make().num_params
        unit = torch.rand(shape, generator=noise, dtype=torch.float64) * 2 - 1
        return (self.spread * unit).to(dtype)


def _families(dim: int) -> dict[str, Family]:
    lattice = (3, 4) if dim == 2 else (2, 3, 2)
    aspect = (300.0, 100.0, 60.0)[:dim]
    return {
        "translation": Family(lambda: stn.Translation(dim)),
        "attention": Family(lambda: stn.Attention(dim)),
        "attention-fixed": Family(lambda: stn.Attention(dim, scale=0.6), identity_at_zero=False),
        "rigid": Family(lambda: stn.Rigid(dim)),
        "rigid-aspect": Family(lambda: stn.Rigid(dim, aspect=aspect)),
        "similarity": Family(lambda: stn.Similarity(dim)),
        "similarity-aspect": Family(lambda: stn.Similarity(dim, aspect=aspect)),
        "affine": Family(lambda: stn.Affine(dim)),
        "projective": Family(lambda: stn.Projective(dim), spread=0.1, largest=1e30),
        "tps": Family(lambda: stn.ThinPlateSpline(lattice), spread=0.1, is_matrix=False),
        "tps-smooth": Family(
            lambda: stn.ThinPlateSpline(lattice, regularization=0.1),
            spread=0.1,
            is_matrix=False,
            has_fit=False,  # fits, but many thetas give nearly the same map
        ),
        "piecewise-affine": Family(
            lambda: stn.PiecewiseAffine(lattice), spread=0.1, is_matrix=False
        ),
        "free-form": Family(lambda: stn.FreeForm(lattice), spread=0.1, is_matrix=False),
        "displacement": Family(lambda: stn.Displacement(lattice), spread=0.1, is_matrix=False),
        "velocity": Family(
            lambda: stn.Velocity((2, 3) if dim == 2 else (1, 2, 2), steps=1),
            spread=0.06,
            is_matrix=False,
            has_fit=False,
            largest=1e9,
        ),
        "cpab": Family(
            lambda: stn.CPAB((2, 1) if dim == 2 else (1, 2, 1), steps=1),
            is_matrix=False,
            has_fit=False,
            largest=1e9,
        ),
        "cpab-free": Family(
            lambda: stn.CPAB((1,) * dim, zero_boundary=False, steps=1),
            spread=0.06,
            is_matrix=False,
            has_fit=False,
            largest=1e9,
        ),
        "learned-basis": Family(lambda: stn.LearnedBasis(2, lattice), is_matrix=False, learns=True),
        "compose": Family(
            lambda: stn.Compose(stn.Affine(dim), stn.Projective(dim), stn.ThinPlateSpline(lattice)),
            spread=0.06,
            is_matrix=False,
            has_fit=False,
            largest=1e15,
        ),
    }


TRANSFORMS = {f"{name}-{dim}d": family for dim in (2, 3) for name, family in _families(dim).items()}
TRANSFORMS |= {
    "polar-2d": Family(stn.Polar, identity_at_zero=False, is_matrix=False),
    "log-polar-2d": Family(stn.LogPolar, identity_at_zero=False, is_matrix=False),
}
MODES = ("nearest", "bilinear", "bicubic", "lanczos3", "gaussian")
TORCH_MODES = MODES[:3]
INTERPOLATING = MODES[:4]  # those that return the image itself at pixel centres
PADDINGS = ("zeros", "border", "reflection", "mirror", "wrap", "fill")
TORCH_PADDINGS = ("zeros", "border", "reflection")
BACKENDS = ("native", "torch", "reference")
FILL = 0.75


class Sampler(NamedTuple):
    """One row of the table of samplers."""

    dim: int
    mode: str
    padding_mode: str
    align_corners: bool

    @property
    def options(self) -> dict:
        return {
            "mode": self.mode,
            "padding_mode": self.padding_mode,
            "align_corners": self.align_corners,
        }

    @property
    def backends(self) -> tuple[str, ...]:
        """Those that run this row, written here independently of the code under test."""
        if self.dim == 1 or self.mode not in TORCH_MODES:
            return ("reference",)
        tricubic = (self.dim, self.mode) == (3, "bicubic")
        if tricubic or self.padding_mode not in (*TORCH_PADDINGS, "fill"):
            return ("native", "reference")
        return BACKENDS


SAMPLERS = [Sampler(*row) for row in itertools.product((1, 2, 3), MODES, PADDINGS, (False, True))]

# (B, C, *S): prime, odd, non-square, axes of one pixel, 0, 1 and 5 channels, batch 0 and 1.
SHAPES = [
    (2, 3, 7, 11),
    (1, 1, 5, 5),
    (2, 5, 1, 13),
    (2, 1, 6, 1),
    (1, 2, 1, 1),
    (0, 3, 5, 7),
    (2, 0, 5, 7),
    (2, 2, 3, 5, 7),
    (1, 5, 4, 4, 4),
    (2, 1, 1, 5, 1),
    (1, 1, 1, 1, 1),
    (0, 1, 3, 3, 3),
    (1, 0, 3, 4, 5),
]


def families(**wanted) -> pytest.MarkDecorator:
    """Parametrise `name` over the rows of TRANSFORMS whose fields have the wanted values."""
    rows = [
        name
        for name, row in TRANSFORMS.items()
        if all(getattr(row, field) == value for field, value in wanted.items())
    ]
    assert rows, f"no family has {wanted}"
    return pytest.mark.parametrize("name", rows)


def samplers(rows: Sequence[Sampler]) -> pytest.MarkDecorator:
    ids = [f"{s.dim}d-{s.mode}-{s.padding_mode}-{'tf'[not s.align_corners]}" for s in rows]
    assert rows
    return pytest.mark.parametrize("sampler", rows, ids=ids)


def images(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(shape, dtype=torch.float64).to(dtype)


def points_in_square(batch: int, count: int, dim: int, reach: float = 0.95) -> Tensor:
    return (torch.rand(batch, count, dim, dtype=torch.float64) * 2 - 1) * reach


def pixels_off_kinks(size: Sequence[int], count: int, reach: float = 3.0) -> Tensor:
    """Random px (count, dim), some outside; none near a pixel's centre or a tie between two."""
    n = torch.tensor(list(reversed(size)), dtype=torch.float64)
    px = -reach + torch.rand(count, len(size), dtype=torch.float64) * (n - 1 + 2 * reach)
    # Fractions into [0.05, 0.45] or [0.55, 0.95].
    half = (px * 2).floor()
    return half / 2 + 0.05 + (px * 2 - half) * 0.4


def grid_of(px: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """Normalised coordinates of px, by the convention of the docs; axes of one pixel at 0."""
    n = torch.tensor(list(reversed(size)), dtype=px.dtype)
    if align_corners:
        return torch.where(n > 1, 2 * px / (n - 1).clamp(min=1) - 1, px)
    return (2 * px + 1) / n - 1
