"""CUB-200-2011, or any folder laid out as it is: 200 bird species, with boxes and parts.

Classes are what to train on. Boxes and parts are for looking, after training, at where a network
looked.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._checks import check_choice, check_size
from .image_set import Example, ImageSet
from .mnist import DataError
from .pictures import FITS, picture_size

PARTS = ("train", "test")
Row = tuple[Any, ...]
Kinds = Sequence[Callable[[str], Any]]


class CubParts(NamedTuple):
    """What is known of N images and their P parts; px from an image's outer upper left edge.

    `boxes` (N, 4) as (x0, y0, x1, y1), around the bird; `places` (N, P, 2) as (x, y), of parts
    that are `visible` (N, P); `image_sizes` (N, 2) as (H, W); `names` of the P parts; `sizes`
    (N, P, 2) as (width, height) of the parts, None but for folders of `write_creatures`.
    """

    boxes: Tensor
    places: Tensor
    visible: Tensor
    image_sizes: Tensor
    names: tuple[str, ...]
    sizes: Tensor | None = None


def read_cub(
    folder: str | Path, size: Sequence[int] | int, part: str = "train", fit: str = "pad"
) -> ImageSet:
    """The images of one half of the official split, with their classes.

    Args:
        folder: CUB_200_2011, the one that holds images.txt.
        size: (H, W) of the canvas, px.
        part: "train", 5,994 images of the original, or "test", 5,794.
        fit: how images are put on the canvas, see `read_picture`.

    Returns:
        ImageSet, in the order of images.txt. Classes are named without their number:
        "001.Black_footed_Albatross" is "Black_footed_Albatross".

    Raises:
        DataError: a file that is missing or has a malformed line, or ids that do not match.

    Reference:
        Wah, Branson, Welinder, Perona, Belongie, The Caltech-UCSD Birds-200-2011 Dataset, 2011.
    """
    folder = Path(folder).expanduser()
    images = _images(folder, part)
    classes = _table(folder, "classes.txt", "class id, name", (int, str))
    labels = _table(folder, "image_class_labels.txt", "image id, class id", (int, int))
    _check_ids(folder / "image_class_labels.txt", labels, images)
    _check_ids(folder / "classes.txt", classes, dict.fromkeys(labels[image] for image in images))
    numbers = {id: number for number, id in enumerate(classes)}
    examples = [Example(path, numbers[labels[image]]) for image, path in images.items()]
    names = [re.sub(r"^\d+\.", "", name) for (name,) in classes.values()]
    return ImageSet(examples, names, size, fit=fit)


def read_cub_parts(folder: str | Path, part: str = "test") -> CubParts:
    """Boxes and parts, for evaluation only, of the images of `read_cub` in their order.

    Args:
        folder: as in `read_cub`.
        part: "train" or "test".

    Raises:
        DataError: a file that is missing or has a malformed line, or ids that do not match.
    """
    folder = Path(folder).expanduser()
    images = _images(folder, part)
    columns = "image id, x, y, width, height"
    boxes = _table(folder, "bounding_boxes.txt", columns, (int, *[_finite] * 4))
    _check_ids(folder / "bounding_boxes.txt", boxes, images)
    names = _table(folder, "parts/parts.txt", "part id, name", (int, str))
    columns = "image id, part id, x, y, visible"
    kinds = (int, int, _finite, _finite, _flag)
    places = _table(folder, "parts/part_locs.txt", columns, kinds, ids=2)
    wanted = [(*image, *part) for image in images for part in names]
    _check_ids(folder / "parts/part_locs.txt", places, wanted)
    count, sizes = (len(images), len(names)), None
    if (folder / "parts/part_sizes.txt").is_file():
        columns = "image id, part id, width, height"
        kinds = (int, int, _finite, _finite)
        found = _table(folder, "parts/part_sizes.txt", columns, kinds, ids=2)
        _check_ids(folder / "parts/part_sizes.txt", found, wanted)
        sizes = torch.tensor([found[id] for id in wanted]).view(*count, 2)
    corners = torch.tensor([boxes[image] for image in images])
    corners[:, 2:] += corners[:, :2]
    rows = torch.tensor([places[id] for id in wanted]).view(*count, 3)
    return CubParts(
        corners,
        rows[..., :2],
        rows[..., 2].bool(),
        torch.tensor([picture_size(path) for path in images.values()]),
        tuple(name for (name,) in names.values()),
        sizes,
    )


def to_canvas(
    points: Tensor, image_size: Tensor | Sequence[int], size: Sequence[int] | int, fit: str = "pad"
) -> Tensor:
    """Where points of an image lie on the canvas on which `read_picture` puts it.

    Args:
        points: (…, 2) as (x, y), px from the image's outer upper left edge.
        image_size: (H, W) of the image, px, or (…, 2) of many, which broadcasts with points.
        size: (H, W) of the canvas, px.
        fit: "pad", "stretch" or "crop".

    Returns:
        (…, 2), px from the canvas's outer edge; outside of it for what "crop" cuts off.

    Example:
        >>> from stn.data.cub import to_canvas
        >>> to_canvas(torch.tensor([400.0, 0.0]), (200, 400), (100, 100), "pad")
        tensor([100.,  25.])
    """
    check_choice(fit, FITS, "fit")
    canvas = torch.tensor(check_size(size, 2), dtype=torch.float64).flip(-1)
    image = torch.as_tensor(image_size, dtype=torch.float64).flip(-1)
    if fit == "stretch":
        return (points * (canvas / image)).to(points.dtype)
    if fit == "crop":
        scale = (canvas / image).amax(-1, keepdim=True)
        return ((points - image / 2) * scale + canvas / 2).to(points.dtype)
    inner = (image * (canvas / image).amin(-1, keepdim=True)).round().clamp(min=1)
    return (points * (inner / image) + ((canvas - inner) / 2).floor()).to(points.dtype)


def _images(folder: Path, part: str) -> dict[Row, Path]:
    """The files of one part by their image ids, in the order of images.txt."""
    check_choice(part, PARTS, "part")
    names = _table(folder, "images.txt", "image id, file", (int, str))
    training = _table(folder, "train_test_split.txt", "image id, 0 or 1", (int, _flag))
    _check_ids(folder / "train_test_split.txt", training, names)
    _check_ids(folder / "images.txt", names, training)
    wanted = (part == "train",)
    images = {id: folder / "images" / name for id, (name,) in names.items()}
    found = {id: path for id, path in images.items() if training[id] == wanted}
    if not found:
        raise DataError(f"{folder} has no images to {part}: train_test_split.txt says so of all")
    return found


def _table(folder: Path, name: str, columns: str, kinds: Kinds, ids: int = 1) -> dict[Row, Row]:
    """The rows of a file by their first `ids` columns."""
    path = folder / name
    if not path.is_file():
        raise DataError(
            f"{folder} has no {name}: download CUB_200_2011.tgz, which Caltech publishes, into a "
            "folder DIR and unpack it by: stn data cub --from DIR"
        )
    rows: dict[Row, Row] = {}
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            values = line.strip().split(maxsplit=len(kinds) - 1)
            try:
                row = tuple(kind(value) for kind, value in zip(kinds, values, strict=True))
            except ValueError:
                raise DataError(
                    f"{path}, line {number}, must hold {columns}, got {line.strip()[:80]!r}; "
                    "unpack the archive anew"
                ) from None
            if row[:ids] in rows:
                raise DataError(
                    f"{path}, line {number}, has the id {' '.join(values[:ids])} for the second "
                    "time; unpack the archive anew"
                )
            rows[row[:ids]] = row[ids:]
    return rows


def _check_ids(path: Path, found: Mapping[Row, Row], wanted: Iterable[Row]) -> None:
    if missing := [" ".join(map(str, id)) for id in wanted if id not in found]:
        raise DataError(
            f"{path} lacks {len(missing):,} ids that the other files have, the first of them "
            f"{missing[0]}; unpack the archive anew"
        )


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError
    return value


def _flag(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError
    return text == "1"
