"""Data sets that are brought along in archives, made as stand-ins, or written as shards."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ..data import (
    DataError,
    load_mnist,
    unpack,
    write_creatures,
    write_shards,
    write_street_numbers,
)
from ..data.archives import sha256_of
from ..training import write_json
from .paper_pictures import CREATURE_PX
from .pictures import folder_sets

SUFFIXES = (".tar.gz", ".tgz", ".tar", ".zip")
# Of each archive: the folder that it holds, and how many pictures are in that.
ARCHIVES: Mapping[str, Mapping[str, int]] = {
    "svhn": {"train": 33_402, "test": 13_068, "extra": 202_353},
    "cub": {"CUB_200_2011": 11_788},
}
OPTIONAL = {"extra"}
MARKS = {"svhn": "digitStruct.mat", "cub": "images.txt"}  # by which a part is known to be there
PUBLISHERS = {
    "svhn": "SVHN's page of Stanford's UFLDL group publishes train.tar.gz, test.tar.gz and "
    "extra.tar.gz (format 1, full numbers)",
    "cub": "CUB-200-2011's page of Caltech publishes CUB_200_2011.tgz",
}
TEST_SHARE = 0.25  # of creatures
WHOLE_PX = 1024  # shards keep files as they are; only the checking read needs a size


def brought(name: str, source: Path, target: Path) -> Path:
    """Unpack the official archives of "svhn" or "cub" that lie in `source`.

    archives.json in the target tells their sha256 and what they held. A part that is there already
    is left alone, so the command can be given again when another archive has come.

    Raises:
        DataError: an archive is missing, not to be trusted, damaged, or not the whole set; or
            something else is where it should go.
    """
    places = {part: target / part if name == "svhn" else target for part in ARCHIVES[name]}
    wanted = [part for part, place in places.items() if not _is_there(place, MARKS[name])]
    archives = {part: _archive_of(source, part) for part in wanted}
    missing = [part for part, path in archives.items() if path is None and part not in OPTIONAL]
    if missing:
        raise DataError(f"{source} holds no {missing[0]}{SUFFIXES[0]}; {PUBLISHERS[name]}")
    for part, archive in archives.items():
        if archive is not None:
            _unpack_part(archive, part, name, target, places[part])
    return target


def _is_there(place: Path, mark: str) -> bool:
    """Whether a part is; an empty folder is none, and anything else is in the way."""
    if not place.exists() or (place.is_dir() and next(place.iterdir(), None) is None):
        return False
    if not (place / mark).is_file():
        raise DataError(f"{place} is there and holds no {mark}: name another folder, or delete it")
    return True


def _archive_of(source: Path, part: str) -> Path | None:
    paths = (source / f"{part}{suffix}" for suffix in SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def _unpack_part(archive: Path, part: str, name: str, target: Path, place: Path) -> None:
    """The folder `part` of an archive, counted, to its place; and a line in archives.json."""
    pictures = ARCHIVES[name][part]
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=target.parent) as room:
        unpacked = unpack(archive, Path(room) / "all") / part
        files = (path for path in unpacked.rglob("*") if path.suffix in (".png", ".jpg"))
        found = sum(1 for path in files if not path.name.startswith("."))
        if found != pictures:
            raise DataError(
                f"{archive} holds {found:,} pictures in {part}/, the official one "
                f"{pictures:,}; {PUBLISHERS[name]}"
            )
        record = target / "archives.json"
        told = json.loads(record.read_text()) if record.exists() else {}
        told[archive.name] = {"sha256": sha256_of(archive), "pictures": found}
        if place.exists():
            place.rmdir()
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(unpacked, place)
    write_json(record, told)


def made(name: str, target: Path, count: int | None) -> Path:
    """Make a stand-in: "street-numbers" of SVHN, or "creatures", of MNIST's digits, of the birds.

    Raises:
        ValueError: the target is there already, or fewer than one picture is wanted.
    """
    if count is not None and count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    if name == "street-numbers":
        count = count or 20_000
        return write_street_numbers(target, {"train": count, "test": max(1, count // 5)})
    count, mnist = count or 9_000, load_mnist()
    images, labels = mnist.train_images, mnist.train_labels
    heads, wings = labels < 4, (labels >= 4) & (labels < 8)
    parts = (images[heads], labels[heads]), (images[wings], labels[wings])
    return write_creatures(
        target, *parts, count=count + count // 3, side_px=CREATURE_PX, test_share=TEST_SHARE
    )


def shards(source: Path, target: Path, damaged: str) -> Path:
    """Your own images as shards; what is not set apart for choosing and reporting is drawn."""
    train, held_out, test = folder_sets(str(source), (WHOLE_PX, WHOLE_PX), "pad")
    return write_shards({"train": train, "held-out": held_out, "test": test}, target, 1000, damaged)
