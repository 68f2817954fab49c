"""Data for the paper's experiments: MNIST, its distortions, streams and frozen sets."""

from .digits import DigitStream, FrozenSet, Split, Splits, frozen_set, split_mnist
from .distort import DISTORTIONS, Distorted, Distortion, Pose
from .mnist import DataError, Mnist, data_folder, fetch_mnist, load_mnist

__all__ = [
    "DISTORTIONS",
    "DataError",
    "DigitStream",
    "Distorted",
    "Distortion",
    "FrozenSet",
    "Mnist",
    "Pose",
    "Split",
    "Splits",
    "data_folder",
    "fetch_mnist",
    "frozen_set",
    "load_mnist",
    "split_mnist",
]
