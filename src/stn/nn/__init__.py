"""Spatial transformer layers, the paper's localization networks, diagnostics and regularizers."""

from .diagnostics import Diagnostics, diagnose
from .localization import ConvLocalization, DenseLocalization
from .multi import Cascade, ParallelTransformers, param_groups
from .regularizers import (
    bending_energy,
    fold_penalty,
    inverse_consistency,
    jacobian_penalty,
    pull_back,
    smoothness,
)
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
    "bending_energy",
    "diagnose",
    "fold_penalty",
    "inverse_consistency",
    "jacobian_penalty",
    "param_groups",
    "pull_back",
    "smoothness",
]
