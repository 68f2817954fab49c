"""Digits made of bars, for tests that must not need a download."""

from dataclasses import replace

import torch

from stn.data import Mnist, split_mnist
from stn.recipes import make_experiment


def bars(count: int, seed: int):
    """uint8 (count, 28, 28) and labels: each class is a bar of its own place and length."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (count,), generator=generator)
    images = torch.randint(40, (count, 28, 28), generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[4 + 2 * label : 6 + 2 * label, 6 : 10 + label] = 255
    return images.to(torch.uint8), labels


def mnist() -> Mnist:
    """A small stand-in of MNIST; 512 digits to train on, the last 5,000 are held out."""
    return Mnist(*bars(5_512, 0), *bars(200, 1))


def experiment(model="st-fcn-affine", recipe="mnist-r", steps=12, every=4, seed=0, budget=60_000):
    """A tiny experiment on `mnist()`."""
    made = make_experiment(recipe, model, seed=seed)
    training = replace(made.training, steps=steps, evaluate_every=every, batch_size=32)
    return replace(made, training=training, net=replace(made.net, budget=budget))


def splits():
    return split_mnist(mnist())
