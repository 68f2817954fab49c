"""Samplers: how an image is read at points between its pixels."""

from .functional import grid_sample
from .kernels import Kernel, TableKernel

__all__ = ["Kernel", "TableKernel", "grid_sample"]
