"""Experiments as functions, and how they are run."""

from .digits import COLUMNS, PAPER, RECIPES, make_experiment
from .experiment import Experiment, run_experiment, test_images

__all__ = [
    "COLUMNS",
    "PAPER",
    "RECIPES",
    "Experiment",
    "make_experiment",
    "run_experiment",
    "test_images",
]
