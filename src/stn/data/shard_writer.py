"""Image sets written as WebDataset shards and their index, for `shards.open_shards`."""

import io
import json
import math
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch

from .._checks import check_choice
from .digits import generator_of
from .image_set import DAMAGED, ImageSet
from .mnist import DataError
from .pictures import SUFFIXES, read_picture
from .shards import INDEX, MEND


def write_shards(
    sets: Mapping[str, ImageSet],
    folder: str | Path,
    per_shard: int = 1000,
    damaged: str = "refuse",
) -> Path:
    """Image sets as shards and their index, all of it or nothing.

    Image files are stored as they are; only where an example has a box is its part (to whole
    pixels) stored as a PNG. The order within a part is shuffled, the same each time. Every image
    is read once, to see that it can be.

    Args:
        sets: by the names of their parts, such as "train", "held-out" and "test"; with the same
            class names.
        folder: where to; created where missing.
        per_shard: images in a shard, all but a part's last.
        damaged: "refuse" raises for the first damaged file; "skip" leaves such files out, and
            names them in the index, under "left_out".

    Returns:
        The index, folder/shards.json, which appears when the shards are all there.

    Raises:
        DataError: a damaged image, or a part without any other.
        ValueError: a folder that has an index already, or arguments that do not fit.
    """
    check_choice(damaged, DAMAGED, "damaged")
    if per_shard < 1:
        raise ValueError(f"per_shard must be at least 1, got {per_shard}")
    if len({images.names for images in sets.values()}) != 1:
        raise ValueError("sets must be one or more, all with the same class names")
    for part in sets:
        if not re.fullmatch(r"\w[\w-]*", part):
            raise ValueError(f"a part's name must be letters, digits, - and _, got {part!r}")
    target = Path(folder).expanduser().resolve()
    target.mkdir(parents=True, exist_ok=True)
    if (target / INDEX).exists():
        raise ValueError(f"{target} holds shards already: delete them or choose another folder")
    first, faults, parts = next(iter(sets.values())), [], {}
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=target) as made_in:
        made = Path(made_in)
        for part, images in sets.items():
            counts = _write_part(part, images, made, per_shard, damaged, faults)
            shards = [f"{part}-{number:06d}.tar" for number in range(len(counts))]
            parts[part] = {"shards": shards, "counts": counts}
        index = {"names": first.names, "size_hint": first.size, "parts": parts}
        (made / INDEX).write_text(json.dumps({**index, "left_out": faults}, indent=1))
        for name in [name for part in parts.values() for name in part["shards"]] + [INDEX]:
            os.replace(made / name, target / name)
    return target / INDEX


def _write_part(
    part: str, images: ImageSet, folder: Path, per_shard: int, damaged: str, faults: list[str]
) -> list[int]:
    """How many images each shard got."""
    from webdataset.writer import ShardWriter

    order = torch.randperm(len(images), generator=generator_of("write_shards", part)).tolist()
    pattern = f"{folder}/{part}-".replace("%", "%%") + "%06d.tar"
    with ShardWriter(pattern, per_shard, math.inf, verbose=0, encoder=False, mtime=0) as writer:
        for row in order:
            try:
                suffix, raw = _stored(images, row)
            except DataError as error:
                if damaged == "refuse":
                    raise DataError(str(error) + MEND) from None
                faults.append(str(error))
                continue
            label = json.dumps({"label": images.examples[row].label}).encode()
            writer.write({"__key__": f"{writer.total:08d}", suffix: raw, "json": label})
        total = writer.total
    if total == 0:
        raise DataError(f"not one image of {part!r} can be read: {faults[-1]}")
    full, rest = divmod(total, per_shard)
    return [per_shard] * full + [rest] * (rest > 0)


def _stored(images: ImageSet, row: int) -> tuple[str, bytes]:
    """Suffix and bytes of an image file, which can be read."""
    path, _, box = images.examples[row]
    suffix = path.suffix.lower()
    if box is None and suffix in SUFFIXES:
        images[row]
        return suffix[1:], path.read_bytes()
    from PIL import Image

    pixels = read_picture(path, box=box)
    packed = io.BytesIO()
    Image.fromarray(pixels.movedim(0, -1).numpy()).save(packed, "PNG")
    return "png", packed.getvalue()
