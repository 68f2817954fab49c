"""Data for the paper's experiments: MNIST, tasks made of its digits, streams and frozen sets."""

from .addition import Addition
from .colocalization import colocalization_set, digit_boxes, iou, window_boxes
from .digits import (
    TASKS,
    DigitStream,
    FrozenSet,
    Split,
    Splits,
    frozen_chunks,
    frozen_set,
    joined,
    split_mnist,
    task_named,
)
from .distort import DISTORTIONS, Drawn, Pose, Task
from .mnist import DataError, Mnist, data_folder, fetch_mnist, load_mnist
from .volumes import Volumes

__all__ = [
    "DISTORTIONS",
    "TASKS",
    "Addition",
    "DataError",
    "DigitStream",
    "Drawn",
    "FrozenSet",
    "Mnist",
    "Pose",
    "Split",
    "Splits",
    "Task",
    "Volumes",
    "colocalization_set",
    "data_folder",
    "digit_boxes",
    "fetch_mnist",
    "frozen_chunks",
    "frozen_set",
    "iou",
    "joined",
    "load_mnist",
    "split_mnist",
    "task_named",
    "window_boxes",
]
