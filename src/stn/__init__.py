"""stn: spatial transformer networks for PyTorch."""

from . import nn
from .models import load_model
from .nn import Cascade, ParallelTransformers, SpatialTransformer, WarpResult, param_groups
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
    "Cascade",
    "Compose",
    "ParallelTransformers",
    "Projective",
    "Rigid",
    "Similarity",
    "SpatialTransformer",
    "ThinPlateSpline",
    "Translation",
    "WarpResult",
    "grid_sample",
    "load_model",
    "nn",
    "param_groups",
    "warp",
    "warp_flow",
    "warp_matrix",
]
