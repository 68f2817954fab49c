"""SVHN, format 1: photos of house numbers, each with its digits and their boxes (Netzer et al.).

The official folder holds `train`, `extra` and `test`, each with images 1.png, 2.png, … and
digitStruct.mat, a MATLAB 7.3 file, which is HDF5.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .._checks import check_choice
from .image_set import Example, ImageSet
from .mnist import DataError
from .pictures import Box

STRUCT = "digitStruct.mat"
PARTS = ("train", "test")
PLACES, NONE = 5, 10
NAMES = (*"0123456789", "")
MARGIN = 0.15  # of the box's width or height, at each side
_FAULTS = (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError)


class StreetNumber(NamedTuple):
    """An image's file name, the digits in it from left to right, and (x0, y0, x1, y1) px of each.

    Boxes count from the image's outer edge and, as the official ones, may reach beyond it.
    """

    name: str
    digits: tuple[int, ...]
    boxes: tuple[Box, ...]


def read_svhn(
    folder: str | Path, size: Sequence[int] | int, part: str = "train", loose: bool = False
) -> ImageSet:
    """House numbers, cropped, as an `ImageSet` whose labels are five numbers each.

    The label of 210 is (2, 1, 0, 10, 10): 10, the class named "", stands for no digit. Numbers of
    more than five digits are left out; the official training set has one.

    Args:
        folder: the official folder.
        size: (H, W) of the canvas that crops are stretched to, px; the paper's are 64 and 128.
        part: "train", which takes `extra` along if the folder has it, or "test".
        loose: take crops twice as wide and high, as the paper's 128 px images; see `crop_box`.

    Raises:
        DataError: something is missing or damaged; it names the file.

    Reference:
        Netzer et al., Reading Digits in Natural Images with Unsupervised Feature Learning, 2011.
    """
    check_choice(part, PARTS, "part")
    folder = Path(folder)
    parts = [part, "extra"] if part == "train" and (folder / "extra").exists() else [part]
    examples = [example for name in parts for example in _examples(folder / name, loose)]
    return ImageSet(examples, NAMES, size, fit="stretch")


def crop_box(number: StreetNumber, loose: bool = False) -> Box:
    """The part of an image that is shown to a network, (x0, y0, x1, y1) px.

    The smallest box around all digits, extended by 30 % in x and in y, half at each side.

    Args:
        number: of one digit or more.
        loose: twice as wide and high, about the same centre. The paper crops its 128 px images
            more loosely, without saying how much: the two is ours.

    Reference:
        Goodfellow et al., Multi-digit Number Recognition from Street View Imagery using Deep
        Convolutional Neural Networks, 2013.
    """
    x0, y0 = (min(box[axis] for box in number.boxes) for axis in (0, 1))
    x1, y1 = (max(box[axis] for box in number.boxes) for axis in (2, 3))
    grown = 1 + 2 * MARGIN
    reach = grown if loose else grown / 2
    x, y, dx, dy = (x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) * reach, (y1 - y0) * reach
    return x - dx, y - dy, x + dx, y + dy


def read_digit_struct(path: str | Path) -> list[StreetNumber]:
    """The entries of a digitStruct.mat, in its order.

    Raises:
        DataError: the file is missing or damaged.
        ImportError: h5py is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise ImportError(
            "h5py, which reads SVHN's digitStruct.mat, is missing: pip install 'torch-stn[images]'"
        ) from None
    try:
        with h5py.File(path, "r") as file:
            return list(_entries(file))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except _FAULTS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} is damaged: {reason}; unpack it again") from None


def _examples(folder: Path, loose: bool) -> Iterator[Example]:
    if not (folder / STRUCT).is_file():
        raise DataError(
            f"{folder} holds no {STRUCT}: SVHN is a folder with train, test and, if wanted, extra, "
            f"each of 1.png, 2.png, … and {STRUCT}; the archives train.tar.gz, test.tar.gz and "
            "extra.tar.gz are published on the SVHN page of Stanford's UFLDL group, and `stn data "
            "svhn --from DIR` unpacks them"
        )
    numbers = read_digit_struct(folder / STRUCT)
    present = set(os.listdir(folder))
    missing = [number.name for number in numbers if number.name not in present]
    if missing:
        raise DataError(
            f"{folder} lacks {len(missing)} of the {len(numbers)} images that {STRUCT} names, "
            f"{missing[0]} first; unpack the archive again"
        )
    for number in numbers:
        if len(number.digits) <= PLACES:
            label = number.digits + (NONE,) * (PLACES - len(number.digits))
            yield Example(folder / number.name, label, crop_box(number, loose))


def _entries(file) -> Iterator[StreetNumber]:
    """By h5py's low-level calls, since `extra` takes four million reads."""
    from h5py import h5d, h5r, h5s, h5t, ref_dtype  # pyright: ignore[reportAttributeAccessIssue]

    whole, single, one = h5s.ALL, h5s.create_simple((1, 1)), np.zeros((1, 1))
    reference_type = h5t.py_create(ref_dtype)

    def number(dataset) -> float:
        dataset.read(single, whole, one, h5t.NATIVE_DOUBLE)
        return one.item()

    def numbers(group, key: bytes) -> list[float]:
        dataset = h5d.open(group, key)
        if dataset.shape == (1, 1):
            return [number(dataset)]
        references = np.empty(dataset.shape, ref_dtype)
        dataset.read(whole, whole, references, reference_type)
        return [number(h5r.dereference(reference, file.id)) for reference in references.flat]

    struct = file["digitStruct"]
    for name_at, group_at in zip(struct["name"][:].flat, struct["bbox"][:].flat, strict=True):
        text, group = (h5r.dereference(place, file.id) for place in (name_at, group_at))
        letters = np.empty(text.shape, np.uint16)
        text.read(whole, whole, letters, h5t.NATIVE_UINT16)
        name = "".join(map(chr, letters.flat))
        keys = (b"label", b"left", b"top", b"width", b"height")
        rows = list(zip(*(numbers(group, key) for key in keys), strict=True))
        if not rows or not all(label in range(11) for label, *_ in rows):
            raise ValueError(f"the entry of {name} has no digit, or a label that is none")
        digits = tuple(int(row[0]) % 10 for row in rows)
        yield StreetNumber(name, digits, tuple((x, y, x + w, y + h) for _, x, y, w, h in rows))
