"""Samplers: how an image is read at points between its pixels."""

from .functional import grid_sample

__all__ = ["grid_sample"]
