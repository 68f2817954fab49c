"""Your own images: folders named after their classes, or a CSV file of paths and labels."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from .image_set import Example, ImageSet
from .mnist import DataError
from .pictures import SUFFIXES

# The words for the parts of a set, as folders and in the column `split` of a CSV file.
PARTS = {
    "train": "train",
    "training": "train",
    "val": "held_out",
    "valid": "held_out",
    "validation": "held_out",
    "held-out": "held_out",
    "test": "test",
    "testing": "test",
}
COLUMNS = ("path", "label")


class Folder(NamedTuple):
    """To train on, to choose by, and to report on; None for what the folder does not have."""

    train: ImageSet
    held_out: ImageSet | None
    test: ImageSet | None


class Listed(NamedTuple):
    """An image file, the name of its class, and which part of the set it belongs to."""

    path: Path
    label: str
    part: str


def read_folder(
    folder: str | Path, size: Sequence[int] | int, channels: int = 3, fit: str = "pad"
) -> Folder:
    """Labelled images of your own. Nothing is decoded yet: files are only listed.

    Three layouts are understood. Names that begin with a dot are left out everywhere.

    - DIR/CLASS/**/*.png: a folder of each class, all to train on.
    - DIR/train/CLASS/**/*.png (or training), and the same for DIR/test (testing) and DIR/val
      (valid, validation, held-out), where there are any.
    - DIR/any.csv, beside one folder of images at most, or the path of a CSV file: columns `path`
      and `label`, and perhaps `split` with the same words. Paths are relative to the CSV file's
      folder, or absolute.

    Args:
        folder: the folder, or the CSV file.
        size: (H, W) of the canvas that images are put on, px.
        channels: 1 or 3.
        fit: "pad", "stretch" or "crop", see `read_picture`.

    Returns:
        Folder. The classes are those to train on, sorted: as numbers if all are whole numbers.

    Raises:
        DataError: no such folder, fewer than two classes, a class without images, a class that
            there is nothing to train on for, or a CSV file with a fault; it names the place.

    Example:
        >>> read_folder("flowers", (64, 64)).train.names  # doctest: +SKIP
        ('daisy', 'rose', 'tulip')
    """
    place = Path(folder).expanduser()
    table = _table(place)
    listed = list(_listed(place) if table is None else _rows(table))
    names = _in_order({image.label for image in listed if image.part == "train"})
    if len(names) < 2:
        found = f"only the class {names[0]!r}" if names else "no images"
        raise DataError(f"{place} has {found} to train on: at least two classes are needed")
    numbers = {name: number for number, name in enumerate(names)}
    parts: dict[str, list[Example]] = {"train": [], "held_out": [], "test": []}
    for path, label, part in listed:
        if label not in numbers:
            raise DataError(
                f"{path} is of the class {label!r}, for which there is nothing to train on: "
                f"the classes to train on are {', '.join(names)}"
            )
        parts[part].append(Example(path, numbers[label]))
    train, *others = (
        ImageSet(examples, names, size, channels, fit) if examples else None
        for examples in parts.values()
    )
    assert train is not None
    return Folder(train, *others)


def _table(place: Path) -> Path | None:
    """The CSV file that lists the images, if one does."""
    if place.suffix.lower() == ".csv" and place.is_file():
        return place
    if not place.is_dir():
        raise DataError(f"there is no folder {place}, nor a CSV file of this name")
    tables = [
        path for path in place.iterdir() if path.suffix.lower() == ".csv" and _seen(path, place)
    ]
    folders = _folders(place)
    plain = len(folders) <= 1 and not any(map(_holds_classes, folders))
    return tables[0] if len(tables) == 1 and plain else None


def _listed(place: Path) -> Iterator[Listed]:
    """The images in folders of classes."""
    folders = _folders(place)
    parts = {path: PARTS[path.name.lower()] for path in folders if path.name.lower() in PARTS}
    if not parts or not (len(parts) == len(folders) or any(map(_holds_classes, parts))):
        yield from _classes(place, "train")
        return
    if "train" not in parts.values():
        raise DataError(
            f"{place} has {', '.join(path.name for path in parts)} but no folder named train"
        )
    for path, part in parts.items():
        yield from _classes(path, part)


def _classes(place: Path, part: str) -> Iterator[Listed]:
    folders = _folders(place)
    if not folders:
        raise DataError(
            f"{place} has no folders of classes: put the images of each class into a folder named "
            "after it, or list them in a CSV file with the columns path and label"
        )
    inside = [[path.name for path in _folders(folder)] for folder in folders]
    if len(folders) > 1 and len(inside[0]) > 1 and all(names == inside[0] for names in inside):
        raise DataError(
            f"the folders {', '.join(path.name for path in folders)} of {place} all hold the "
            f"folders {', '.join(inside[0])}: call parts of a set train and test, "
            "and lay the images of classes straight into their folders"
        )
    for folder in folders:
        files = sorted(path for path in folder.rglob("*") if _is_picture(path, folder))
        if not files:
            raise DataError(
                f"the class folder {folder} has no images ({', '.join(SUFFIXES)}): fill it or "
                "delete it"
            )
        yield from (Listed(path, folder.name, part) for path in files)


def _folders(place: Path) -> list[Path]:
    return sorted(path for path in place.iterdir() if path.is_dir() and _seen(path, place))


def _holds_classes(folder: Path) -> bool:
    """Whether a folder `train` is the part of a set, and not a class: of vehicles, say."""
    return PARTS.get(folder.name.lower()) == "train" and not any(
        _is_picture(path, folder) for path in folder.iterdir()
    )


def _is_picture(path: Path, folder: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and _seen(path, folder) and path.is_file()


def _seen(path: PurePath, root: PurePath) -> bool:
    parts = path.relative_to(root).parts
    return not any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _rows(table: Path) -> Iterator[Listed]:
    """The images that a CSV file lists."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            yield from _checked_rows(table, csv.DictReader(file))
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{table} is no CSV file in UTF-8: {error}") from None


def _checked_rows(table: Path, rows: csv.DictReader) -> Iterator[Listed]:
    columns = [name.strip().lower() for name in rows.fieldnames or ()]
    if absent := [name for name in COLUMNS if name not in columns]:
        raise DataError(
            f"{table} has no column {' and no column '.join(absent)} in its first line; "
            f"found: {', '.join(columns) or 'nothing'}"
        )
    rows.fieldnames = columns
    for row in rows:
        where = f"{table}, line {rows.line_num}:"
        if any(row.pop(None, ())):
            raise DataError(f"{where} more fields than columns; put quotes around commas")
        cells = {name: (cell or "").strip() for name, cell in row.items()}
        for name in COLUMNS:
            if not cells[name]:
                raise DataError(f"{where} the {name} is missing")
        path = table.parent / Path(cells["path"]).expanduser()
        if not path.is_file():
            raise DataError(f"{where} there is no file {path}")
        word = cells.get("split") or "train"
        if word.lower() not in PARTS:
            raise DataError(f"{where} split must be one of {', '.join(PARTS)}, got {word!r}")
        yield Listed(path, cells["label"], PARTS[word.lower()])


def _in_order(names: Iterable[str]) -> list[str]:
    """Sorted: 2 before 10, but b before a10."""
    try:
        return sorted(names, key=lambda name: (int(name), name))
    except ValueError:
        return sorted(names)
