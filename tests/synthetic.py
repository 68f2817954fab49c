"""Digits made of bars or of type, for tests that must not need a download."""

from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from stn.data import Mnist, Split, Splits, split_mnist
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


def typed() -> Splits:
    """640 digits set in 16 typefaces and four sizes; a quarter of them are the test set."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    faces = [*folder.glob("DejaVuS*.ttf"), *folder.glob("STIXGeneral*.ttf")]
    images, labels = [], []
    for face in sorted(face for face in faces if "Display" not in face.name):
        for size_px in (18, 20, 22, 24):
            font = ImageFont.truetype(str(face), size_px)
            for digit in range(10):
                image = Image.new("L", (28, 28))
                place = {"fill": 255, "font": font, "anchor": "mm"}
                ImageDraw.Draw(image).text((14, 14), str(digit), **place)
                images.append(np.asarray(image))
                labels.append(digit)
    rows = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    all_images, all_labels = torch.tensor(np.stack(images))[rows], torch.tensor(labels)[rows]
    test = len(rows) // 4
    train = Split(all_images[test:], all_labels[test:])
    return Splits(
        train, Split(*(t[:200] for t in train)), Split(all_images[:test], all_labels[:test])
    )


def result(recipe="mnist-r", model="fcn", seed=0, error=2.0, paper=2.1) -> dict:
    """What tables read of a finished run."""
    return {
        "recipe": recipe,
        "model": model,
        "seed": seed,
        "test_error_percent": error,
        "paper_error_percent": paper,
    }
