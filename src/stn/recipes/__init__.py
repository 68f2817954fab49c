"""Experiments as functions, and how they are run."""

from .digits import COLUMNS, PAPER, RECIPES, make_experiment
from .experiment import Experiment, commit, frozen_digits, run_experiment

__all__ = [
    "COLUMNS",
    "PAPER",
    "RECIPES",
    "Experiment",
    "commit",
    "frozen_digits",
    "make_experiment",
    "run_experiment",
]
