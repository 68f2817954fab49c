"""All recipes by name. A recipe is a function (model, column, seed) -> Experiment."""

from collections.abc import Callable

from ..models import MODELS
from .colocalization import COLOCALIZER, mnist_colocalization, mnist_colocalization_cluttered
from .digits import mnist_addition, mnist_e, mnist_p, mnist_r, mnist_rts, mnist_tc
from .experiment import Experiment

COLUMNS = ("quick", "faithful")
RECIPES: dict[str, Callable[[str, str, int], Experiment]] = {
    "mnist-r": mnist_r,
    "mnist-rts": mnist_rts,
    "mnist-p": mnist_p,
    "mnist-e": mnist_e,
    "mnist-tc": mnist_tc,
    "mnist-addition": mnist_addition,
    "mnist-colocalization": mnist_colocalization,
    "mnist-colocalization-cluttered": mnist_colocalization_cluttered,
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
        (model, (*MODELS, COLOCALIZER), "model"),
        (column, COLUMNS, "column"),
    ):
        if value not in known:
            raise ValueError(f"unknown {what} {value!r}; known are {', '.join(known)}")
    return RECIPES[recipe](model, column, seed).changed(epochs, lr)
