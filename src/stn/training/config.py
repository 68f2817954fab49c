"""How a network is trained: every choice that changes the result, as data."""

import math
from dataclasses import dataclass

from torch import nn, optim

from .._checks import check_choice
from ..nn import param_groups

OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("one-cycle", "staircase", "constant")
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class TrainingConfig:
    """The choices of one training.

    Args:
        steps: optimiser steps in all.
        batch_size: images a step, over all processes.
        lr: peak learning rate.
        localization_lr_factor: the localizations' learning rate over `lr`.
        optimizer: "adamw" or "sgd" (with `momentum`).
        momentum: of sgd.
        weight_decay: of either.
        schedule: "one-cycle" (linear warm-up, then half a cosine to 0), "staircase" (x 0.1 at each
            of `milestones`, the paper's) or "constant".
        milestones: of staircase, shares of the steps.
        warmup: share of the steps in which one-cycle rises.
        clip_norm: largest gradient norm, 0 for none.
        evaluate_every: steps between two looks at the held-out images, each also a checkpoint.
        seed: of the weights and of the order and distortion of the images.
        precision: "bfloat16" trains under autocast, but in float32 on a processor that can only
            emulate it (`Trained.precision` says which); what is measured is always in float32.
        accumulate: parts into which each process cuts its share of a batch, for want of memory.
        compile: train and measure the network by `torch.compile`.
    """

    steps: int
    batch_size: int = 128
    lr: float = 3e-3
    localization_lr_factor: float = 1.0
    optimizer: str = "adamw"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: str = "one-cycle"
    milestones: tuple[float, ...] = (1 / 3, 2 / 3)
    warmup: float = 0.2
    clip_norm: float = 5.0
    evaluate_every: int = 500
    seed: int = 0
    precision: str = "float32"
    accumulate: int = 1
    compile: bool = False

    def __post_init__(self):
        object.__setattr__(self, "milestones", tuple(self.milestones))  # a list in JSON
        check_choice(self.optimizer, OPTIMIZERS, "optimizer")
        check_choice(self.schedule, SCHEDULES, "schedule")
        check_choice(self.precision, PRECISIONS, "precision")
        for name in ("steps", "batch_size", "evaluate_every", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.lr > 0:
            raise ValueError(f"lr must be positive, got {self.lr}")


def lr_factor(config: TrainingConfig, step: int) -> float:
    """Learning rate of step 0, 1, … over the peak: a function of the step alone."""
    done = step / config.steps
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "staircase":
        return 0.1 ** sum(done >= milestone for milestone in config.milestones)
    if done < config.warmup:
        return (step + 1) / max(1, math.ceil(config.warmup * config.steps))
    return 0.5 * (1 + math.cos(math.pi * (done - config.warmup) / (1 - config.warmup)))


def make_optimizer(model: nn.Module, config: TrainingConfig) -> optim.Optimizer:
    """The optimiser of `config`, each group with its peak rate under "peak"."""
    groups = param_groups(model, config.lr, config.lr * config.localization_lr_factor)
    for group in groups:
        group["peak"] = group["lr"]
    if config.optimizer == "sgd":
        return optim.SGD(groups, momentum=config.momentum, weight_decay=config.weight_decay)
    return optim.AdamW(groups, weight_decay=config.weight_decay, fused=True)
