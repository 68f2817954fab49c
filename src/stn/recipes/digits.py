"""Recipes of the distorted-digit experiments (Jaderberg et al. 2015, section 4.1, Table 1).

A recipe is a function (model, column, seed) -> Experiment. `stn list` prints them.
"""

from collections.abc import Callable
from dataclasses import replace

from ..data import DISTORTIONS
from ..models import MODELS, NetSpec
from ..training import TrainingConfig
from .experiment import Experiment

COLUMNS = ("quick", "faithful")
TRAINING_DIGITS = 55_000
# The faithful column: the paper's networks, without batch norm, on a schedule that two cores can
# run, the same for a net and its twins. The paper: SGD, 640 epochs. The learning rate of the fully
# connected nets was the best of 1e-3, 2e-3, 3e-3 and 5e-3 on held-out RTS digits at 10 epochs; SGD
# with 0.1 did as well for fcn, but its transformer twin did not learn.
FAITHFUL_EPOCHS = {"fcn": 60, "cnn": 20}
FAITHFUL_LR = {"fcn": 3e-3, "cnn": 1e-3}
FAITHFUL_REPEATS = 5

# % test error, Table 1 and section 4.1; TC is given for affine transformers only.
PAPER = {
    "r": {
        "fcn": 2.1, "cnn": 1.2,
        "st-fcn-affine": 1.2, "st-fcn-projective": 1.3, "st-fcn-tps": 1.1,
        "st-cnn-affine": 0.7, "st-cnn-projective": 0.8, "st-cnn-tps": 0.7,
    },
    "rts": {
        "fcn": 5.2, "cnn": 0.8,
        "st-fcn-affine": 0.8, "st-fcn-projective": 0.9, "st-fcn-tps": 0.8,
        "st-cnn-affine": 0.5, "st-cnn-projective": 0.6, "st-cnn-tps": 0.5,
    },
    "p": {
        "fcn": 3.1, "cnn": 1.5,
        "st-fcn-affine": 1.5, "st-fcn-projective": 1.4, "st-fcn-tps": 1.4,
        "st-cnn-affine": 0.8, "st-cnn-projective": 0.8, "st-cnn-tps": 0.8,
    },
    "e": {
        "fcn": 3.2, "cnn": 1.4,
        "st-fcn-affine": 2.7, "st-fcn-projective": 2.6, "st-fcn-tps": 2.4,
        "st-cnn-affine": 1.2, "st-cnn-projective": 1.3, "st-cnn-tps": 1.1,
    },
    "tc": {"fcn": 13.2, "cnn": 3.5, "st-fcn-affine": 2.0, "st-cnn-affine": 1.7},
}  # fmt: skip


def mnist_r(model: str, column: str, seed: int) -> Experiment:
    """Digits rotated by up to 90 degrees either way.

    `stn train mnist-r --model MODEL`, quick column, one core (EPYC): 8 epochs; expect 1.8 % in 36 s
    for st-fcn-affine, 2.7 % for fcn.
    """
    return _digits("r", model, column, seed, epochs=8)


def mnist_rts(model: str, column: str, seed: int) -> Experiment:
    """Digits rotated by up to 45 degrees, scaled by 0.7-1.2, at any place of a 42 x 42 image.

    `stn train mnist-rts --model MODEL`, quick column, one core (EPYC): 8 epochs; expect 1.9 % in
    70 s for st-fcn-affine, 12 % for fcn.
    """
    return _digits("rts", model, column, seed, epochs=8)


def mnist_p(model: str, column: str, seed: int) -> Experiment:
    """Digits in perspective: scaled by 0.75-1, corners moved by 5 px (standard deviation).

    `stn train mnist-p --model MODEL`, quick column, one core (EPYC): 8 epochs; expect 4.3 % in 51 s
    for st-fcn-affine, 12 % for fcn.
    """
    return _digits("p", model, column, seed, epochs=8)


def mnist_e(model: str, column: str, seed: int) -> Experiment:
    """Digits bent by a thin plate spline: 16 control points moved by 1.5 px.

    `stn train mnist-e --model MODEL`, quick column, one core (EPYC): 8 epochs; expect 2.2 % in 41 s
    for st-fcn-affine, 3.2 % for fcn.
    """
    return _digits("e", model, column, seed, epochs=8)


def mnist_tc(model: str, column: str, seed: int) -> Experiment:
    """Digits at any place of a 60 x 60 image, among six 6 x 6 crops of other digits.

    `stn train mnist-tc --model MODEL`, quick column, two cores (EPYC): 20 epochs; expect 3.2 % in
    171 s for st-fcn-affine, 21 % in 30 s for fcn.
    """
    return _digits("tc", model, column, seed, epochs=20)


RECIPES: dict[str, Callable[[str, str, int], Experiment]] = {
    "mnist-r": mnist_r,
    "mnist-rts": mnist_rts,
    "mnist-p": mnist_p,
    "mnist-e": mnist_e,
    "mnist-tc": mnist_tc,
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
        (model, MODELS, "model"),
        (column, COLUMNS, "column"),
    ):
        if value not in known:
            raise ValueError(f"unknown {what} {value!r}; known are {', '.join(known)}")
    experiment = RECIPES[recipe](model, column, seed)
    training = experiment.training
    if epochs is not None:
        steps, every = _length(epochs, training.batch_size)
        training = replace(training, steps=steps, evaluate_every=every)
    if lr is not None:
        training = replace(training, lr=lr)
    return replace(experiment, training=training)


def _digits(name: str, model: str, column: str, seed: int, epochs: float) -> Experiment:
    """The experiment of a cell; `epochs` are those of the quick column."""
    base = "fcn" if "fcn" in model else "cnn"
    faithful = column == "faithful"
    height, width = DISTORTIONS[name].canvas
    net = NetSpec(
        name=model,
        shape=(1, height, width),
        budget=400_000 if base == "fcn" else 200_000,
        pool=2 if name in ("rts", "tc") else 1,
        batch_norm=not faithful,
    )
    batch_size = 128
    steps, every = _length(FAITHFUL_EPOCHS[base] if faithful else epochs, batch_size)
    quick_lr = 3e-3 if base == "fcn" else 2e-3
    training = TrainingConfig(
        steps=steps,
        evaluate_every=every,
        batch_size=batch_size,
        lr=FAITHFUL_LR[base] if faithful else quick_lr,
        seed=seed,
    )
    return Experiment(
        recipe=f"mnist-{name}",
        model=model,
        column=column,
        distortion=name,
        net=net,
        training=training,
        test_repeats=FAITHFUL_REPEATS if faithful else 1,
        paper_error_percent=PAPER[name].get(model),
    )


def _length(epochs: float, batch_size: int) -> tuple[int, int]:
    """Steps in `epochs`, and steps between looks at the held-out digits: one epoch."""
    per_epoch = TRAINING_DIGITS // batch_size
    steps = round(epochs * per_epoch)
    if steps < 1:
        raise ValueError(f"epochs must be at least one step, got {epochs}")
    return steps, min(per_epoch, steps)
