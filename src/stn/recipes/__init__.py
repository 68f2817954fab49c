"""Experiments as functions, and how they are run."""

from .cards import publish_models
from .catalog import COLUMNS, RECIPES, make_experiment, read_experiment
from .digits import PAPER, Digits, frozen_digits, measure
from .experiment import Experiment, Shown, commit, run_experiment
from .own_images import ImageOptions, own_images
from .paper_pictures import PICTURE_MODELS
from .pictures import Pictures
from .reproduce import TABLES, publish, queue_of, read_results, reproduce, result_path
from .tables import PARTS, error_table, fill_in, fill_page, mean_and_interval, parts_of

__all__ = [
    "COLUMNS",
    "PAPER",
    "PARTS",
    "PICTURE_MODELS",
    "RECIPES",
    "TABLES",
    "Digits",
    "Experiment",
    "ImageOptions",
    "Pictures",
    "Shown",
    "commit",
    "error_table",
    "fill_in",
    "fill_page",
    "frozen_digits",
    "make_experiment",
    "mean_and_interval",
    "measure",
    "own_images",
    "parts_of",
    "publish",
    "publish_models",
    "queue_of",
    "read_experiment",
    "read_results",
    "reproduce",
    "result_path",
    "run_experiment",
]
