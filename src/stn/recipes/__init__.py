"""Experiments as functions, and how they are run."""

from .catalog import COLUMNS, RECIPES, make_experiment
from .digits import PAPER, Digits, frozen_digits
from .experiment import Experiment, commit, run_experiment
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
    "Digits",
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
