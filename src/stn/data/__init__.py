"""Data: MNIST and tasks made of its digits; house numbers, birds, your own images; streams."""

from .addition import Addition
from .ahead import ahead, made_ahead
from .archives import unpack
from .augment import Augmentation
from .colocalization import colocalization_set, digit_boxes, iou, window_boxes
from .creatures import write_creatures
from .cub import CubParts, read_cub, read_cub_parts, to_canvas
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
from .distort import DISTORTIONS, Drawn, MoveLattice, Pose, Task
from .folders import read_folder
from .image_set import Example, ImageSet, LoadedSet
from .mnist import DataError, Mnist, data_folder, fetch_mnist, load_mnist
from .picture_stream import PictureSets, PictureStream, augmented, sets_of
from .pictures import read_picture
from .shard_writer import write_shards
from .shards import ShardSet, open_shards
from .street_numbers import write_street_numbers
from .svhn import read_svhn
from .volumes import Volumes

__all__ = [
    "DISTORTIONS",
    "TASKS",
    "Addition",
    "Augmentation",
    "CubParts",
    "DataError",
    "DigitStream",
    "Drawn",
    "Example",
    "FrozenSet",
    "ImageSet",
    "LoadedSet",
    "Mnist",
    "MoveLattice",
    "PictureSets",
    "PictureStream",
    "Pose",
    "ShardSet",
    "Split",
    "Splits",
    "Task",
    "Volumes",
    "ahead",
    "augmented",
    "colocalization_set",
    "data_folder",
    "digit_boxes",
    "fetch_mnist",
    "frozen_chunks",
    "frozen_set",
    "iou",
    "joined",
    "load_mnist",
    "made_ahead",
    "open_shards",
    "read_cub",
    "read_cub_parts",
    "read_folder",
    "read_picture",
    "read_svhn",
    "sets_of",
    "split_mnist",
    "task_named",
    "to_canvas",
    "unpack",
    "window_boxes",
    "write_creatures",
    "write_shards",
    "write_street_numbers",
]
