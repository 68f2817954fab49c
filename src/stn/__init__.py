"""stn: spatial transformer networks for PyTorch."""

import importlib
from types import ModuleType

from . import nn
from .annotations import valid_mask, warp_boxes, warp_labels
from .models import load_model
from .nn import Cascade, ParallelTransformers, SpatialTransformer, WarpResult, param_groups
from .sampling import Kernel, TableKernel, grid_sample
from .transforms import (
    CPAB,
    Affine,
    Attention,
    Compose,
    Displacement,
    FreeForm,
    LearnedBasis,
    LogPolar,
    PiecewiseAffine,
    Polar,
    Projective,
    Rigid,
    Similarity,
    ThinPlateSpline,
    Translation,
    Velocity,
)
from .warp import splat, warp, warp_flow, warp_matrix

__version__ = "0.1.0"

__all__ = [
    "CPAB",
    "Affine",
    "Attention",
    "Cascade",
    "Compose",
    "Displacement",
    "FreeForm",
    "Kernel",
    "LearnedBasis",
    "LogPolar",
    "ParallelTransformers",
    "PiecewiseAffine",
    "Polar",
    "Projective",
    "Rigid",
    "Similarity",
    "SpatialTransformer",
    "TableKernel",
    "ThinPlateSpline",
    "Translation",
    "Velocity",
    "WarpResult",
    "grid_sample",
    "load_model",
    "nn",
    "param_groups",
    "splat",
    "valid_mask",
    "warp",
    "warp_boxes",
    "warp_flow",
    "warp_labels",
    "warp_matrix",
]


def __getattr__(name: str) -> ModuleType:
    """`stn.viz` is loaded when it is first asked for."""
    if name == "viz":
        return importlib.import_module(".viz", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
