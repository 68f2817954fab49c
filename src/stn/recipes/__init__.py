"""Experiments as functions, and how they are run."""

from .digits import COLUMNS, PAPER, RECIPES, make_experiment
from .experiment import Experiment, commit, frozen_digits, run_experiment
from .reproduce import (
    TABLES,
    fill_in,
    markdown_table,
    mean_and_interval,
    publish,
    queue_of,
    read_results,
    reproduce,
)

__all__ = [
    "COLUMNS",
    "PAPER",
    "RECIPES",
    "TABLES",
    "Experiment",
    "commit",
    "fill_in",
    "frozen_digits",
    "make_experiment",
    "markdown_table",
    "mean_and_interval",
    "publish",
    "queue_of",
    "read_results",
    "reproduce",
    "run_experiment",
]
