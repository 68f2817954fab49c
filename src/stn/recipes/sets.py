"""Data sets that are brought along in archives, made as stand-ins, or written as shards."""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from ..data import DataError, load_mnist, unpack, write_creatures, write_shards
from ..data import write_street_numbers as write_numbers
from ..data.archives import sha256_of
from ..training import write_json
from .pictures import folder_sets

SUFFIXES = (".tar.gz", ".tgz", ".tar", ".zip")
# Of each archive: the folder that it holds, and how many pictures are in that.
ARCHIVES: Mapping[str, Mapping[str, int]] = {
    "svhn": {"train": 33_402, "test": 13_068, "extra": 202_353},
    "cub": {"CUB_200_2011": 11_788},
}
OPTIONAL = {"extra"}
PUBLISHERS = {
    "svhn": "SVHN's page of Stanford's UFLDL group publishes train.tar.gz, test.tar.gz and "
    "extra.tar.gz (format 1, full numbers)",
    "cub": "CUB-200-2011's page of Caltech publishes CUB_200_2011.tgz",
}
WHOLE_PX = 1024  # shards keep files as they are; only the checking read needs a size


def brought(name: str, source: Path, target: Path) -> Path:
    """Unpack the official archives of "svhn" or "cub" that lie in `source`.

    archives.json in the target tells their sha256 and what they held. A part that is there already
    is left alone, so the command can be given again when another archive has come.

    Raises:
        DataError: an archive is missing, not to be trusted, damaged, or not the whole set.
    """
    told: dict[str, dict] = {}
    for part, pictures in ARCHIVES[name].items():
        place = target / part if name == "svhn" else target
        if place.exists():
            continue
        archive = next((p for s in SUFFIXES if (p := source / f"{part}{s}").is_file()), None)
        if archive is None:
            if part in OPTIONAL:
                continue
            raise DataError(f"{source} holds no {part}{SUFFIXES[0]}; {PUBLISHERS[name]}")
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=target.parent) as room:
            unpacked = unpack(archive, Path(room) / "all") / part
            found = sum(1 for path in unpacked.rglob("*") if path.suffix in (".png", ".jpg"))
            if found != pictures:
                raise DataError(
                    f"{archive} holds {found:,} pictures in {part}/, the official one "
                    f"{pictures:,}; {PUBLISHERS[name]}"
                )
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(unpacked, place)
        told[archive.name] = {"sha256": sha256_of(archive), "pictures": found}
    record = target / "archives.json"
    before = json.loads(record.read_text()) if record.exists() else {}
    write_json(record, before | told)
    return target


def made(name: str, target: Path, count: int | None) -> Path:
    """Make a stand-in: "street-numbers" of SVHN, or "creatures", of MNIST's digits, of the birds.

    Raises:
        ValueError: the target is there already.
    """
    makers: dict[str, Callable[[], object]] = {
        "street-numbers": lambda: _street_numbers(target, count or 20_000),
        "creatures": lambda: _creatures(target, count or 4_000),
    }
    makers[name]()
    return target


def _street_numbers(target: Path, count: int) -> None:
    write_numbers(target, {"train": count, "test": max(1, count // 5)})


def _creatures(target: Path, count: int) -> None:
    mnist = load_mnist()
    images, labels = mnist.train_images, mnist.train_labels
    heads, wings = labels < 4, (labels >= 4) & (labels < 8)
    parts = (images[heads], labels[heads]), (images[wings], labels[wings])
    write_creatures(target, *parts, count=2 * count)


def shards(source: Path, target: Path, damaged: str) -> Path:
    """Your own images as shards; what is not set apart for choosing and reporting is drawn."""
    train, held_out, test = folder_sets(str(source), (WHOLE_PX, WHOLE_PX), "pad")
    return write_shards({"train": train, "held-out": held_out, "test": test}, target, 1000, damaged)
