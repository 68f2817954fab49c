"""All recipes by name. A recipe is a function (model, column, seed) -> Experiment."""

import json
from collections.abc import Callable
from pathlib import Path

from ..data import Augmentation
from ..models import MODELS, spec_of
from ..training import TrainingConfig
from .colocalization import (
    COLOCALIZER,
    Colocalization,
    mnist_colocalization,
    mnist_colocalization_cluttered,
)
from .digits import (
    COLUMNS,
    Digits,
    mnist_addition,
    mnist_e,
    mnist_p,
    mnist_p_42,
    mnist_r,
    mnist_rts,
    mnist_tc,
    mnist_volumes,
)
from .experiment import Experiment
from .imagenet import IMAGENET_MODELS, imagenet
from .paper_pictures import (
    PICTURE_MODELS,
    creatures,
    cub,
    street_numbers_64,
    street_numbers_128,
    svhn_64,
    svhn_128,
)
from .pictures import Pictures

RECIPES: dict[str, Callable[[str, str, int], Experiment]] = {
    "mnist-r": mnist_r,
    "mnist-rts": mnist_rts,
    "mnist-p": mnist_p,
    "mnist-p-42": mnist_p_42,
    "mnist-e": mnist_e,
    "mnist-tc": mnist_tc,
    "mnist-addition": mnist_addition,
    "mnist-volumes": mnist_volumes,
    "mnist-colocalization": mnist_colocalization,
    "mnist-colocalization-cluttered": mnist_colocalization_cluttered,
    "svhn-64": svhn_64,
    "svhn-128": svhn_128,
    "street-numbers-64": street_numbers_64,
    "street-numbers-128": street_numbers_128,
    "cub": cub,
    "creatures": creatures,
    "imagenet": imagenet,
}


def make_experiment(
    recipe: str,
    model: str,
    column: str = "quick",
    seed: int = 0,
    epochs: float | None = None,
    lr: float | None = None,
) -> Experiment:
    """The experiment of a recipe by name, with another length or learning rate if given.

    Raises:
        ValueError: an unknown name, or a length or rate out of range.
    """
    for value, known, what in (
        (recipe, tuple(RECIPES), "recipe"),
        (model, (*MODELS, COLOCALIZER, *PICTURE_MODELS, *IMAGENET_MODELS), "model"),
        (column, tuple(COLUMNS), "column"),
    ):
        if value not in known:
            raise ValueError(f"unknown {what} {value!r}; known are {', '.join(known)}")
    return RECIPES[recipe](model, column, seed).changed(epochs, lr)


def read_experiment(path: Path) -> Experiment:
    """The experiment of a results file or of a run's config.json, to be run again.

    Raises:
        ValueError: the file is not one.
    """
    try:
        found = json.loads(path.read_text())
        return experiment_of(found.get("config", found))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{path} is no results file of this version ({type(error).__name__}: {error}); those "
            "under results/ are"
        ) from None


def experiment_of(config: dict) -> Experiment:
    """The experiment that a config.json tells of; TypeError for fields that it does not have."""
    nested = {
        "net": spec_of,
        "training": lambda value: TrainingConfig(**value),
        "encoder_training": lambda value: TrainingConfig(**value),
        "backbone_training": lambda value: None if value is None else TrainingConfig(**value),
        "augmentation": lambda value: None if value is None else Augmentation(**value),
    }
    if "encoder" in config:  # of earlier results
        config = {"net": {"kind": "colocalizer", "reader": config["encoder"]}} | config
        del config["encoder"]
    values = {
        name: nested[name](value) if name in nested else value for name, value in config.items()
    }
    kind = Pictures if "source" in values else Colocalization if "cluttered" in values else Digits
    return kind(**values)
