"""Spatial transformer layers, the paper's localization networks, and diagnostics."""

from .diagnostics import Diagnostics, diagnose
from .localization import ConvLocalization, DenseLocalization
from .multi import Cascade, ParallelTransformers, param_groups
from .transformer import SpatialTransformer, Transformer, WarpResult

__all__ = [
    "Cascade",
    "ConvLocalization",
    "DenseLocalization",
    "Diagnostics",
    "ParallelTransformers",
    "SpatialTransformer",
    "Transformer",
    "WarpResult",
    "diagnose",
    "param_groups",
]
