"""The explorer: a local page on which a trained network, and every transform, is played with."""

from .app import build, explore

__all__ = ["build", "explore"]
