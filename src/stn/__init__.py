"""stn: spatial transformer networks for PyTorch."""

from .sampling import grid_sample
from .transforms import (
    Affine,
    Attention,
    Compose,
    Projective,
    Rigid,
    Similarity,
    ThinPlateSpline,
    Translation,
)
from .warp import warp, warp_flow, warp_matrix

__version__ = "0.1.0"

__all__ = [
    "Affine",
    "Attention",
    "Compose",
    "Projective",
    "Rigid",
    "Similarity",
    "ThinPlateSpline",
    "Translation",
    "grid_sample",
    "warp",
    "warp_flow",
    "warp_matrix",
]
