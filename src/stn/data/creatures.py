"""Made creatures in the layout of CUB-200-2011: a stand-in for birds, with all parts known.

A creature stands on a crop of a photo. Its body says nothing; its class is a pair (a, b), of what
its head and its wing show: two small images at free places. Neither alone tells the class.
"""

import itertools
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .digits import check_digits, generator_of
from .textures import textures_from

# In sides of the picture:
PART = 0.2  # the longer side of what a part shows, give or take a tenth
APART = (0.35, 0.6)  # the parts' centres
MARGIN = 0.17  # around the parts' centres

TURN_DEG = 15.0  # by which what a part shows is turned at most
DISTRACTORS = 4  # strokes, and as many discs
INK = 32  # from this value on a pixel of a part's image shows something
LEAST_SIDE_PX = 32
PART_NAMES = ("head", "wing")
# Those in colour, and textures, that come with scikit-image.
PHOTOS = ("astronaut", "brick", "chelsea", "coffee", "grass", "gravel", "hubble_deep_field")
PHOTOS += ("motorcycle_left", "retina", "rocket")
README = """Made, not photographed: creatures composed by stn.data.creatures, a stand-in for
CUB-200-2011 (Wah et al., 2011) in its layout. parts/part_sizes.txt is an addition to that.
"""

Point = tuple[float, float]
Pools = dict[int, tuple[np.ndarray, np.ndarray]]


class Creature(NamedTuple):
    """A picture uint8 (side, side, 3); its box (x0, y0, x1, y1), its parts' centres and sizes."""

    picture: np.ndarray
    box: np.ndarray
    places: tuple[Point, ...]
    sizes: tuple[Point, ...]


def write_creatures(
    folder: str | Path,
    parts_a: tuple[Tensor, Tensor],
    parts_b: tuple[Tensor, Tensor],
    count: int,
    seed: int = 0,
    side_px: int = 128,
    test_share: float = 0.5,
    textures: Sequence[np.ndarray] | None = None,
) -> Path:
    """Write pictures of made creatures as a folder that `read_cub` reads.

    A creature has a soft body of any colour between two dark discs: the head, round, shows an
    image of `parts_a`, and the wing, oval, one of `parts_b`, each tinted, turned a little, and a
    fifth of the picture's side long. Strokes and discs of no meaning lie around. Classes are all
    pairs of labels, equally often.

    parts/part_sizes.txt, which CUB-200-2011 does not have, holds image id, part id, width and
    height of what each part shows, px: its box, whose centre is in parts/part_locs.txt.

    Args:
        folder: where to; must not exist, or be empty. Written whole or not at all.
        parts_a, parts_b: images uint8 (N, 28, 28), 255 is ink, and labels (N,): of MNIST, say,
            the digits 0 to 3 and the digits 4 to 7, which make 16 classes.
        count: pictures, those for training and test together.
        seed: any integer; the same arguments give the same folder.
        side_px: of the square pictures, at least 32.
        test_share: of the pictures that are for test, between 0 and 1; and of each label's images
            that are shown in those and never in training.
        textures: uint8 (H, W, 3), to crop backgrounds from; None for photos that come with
            scikit-image, or smooth noise where that is not installed.

    Returns:
        The folder.

    Raises:
        ValueError: arguments out of range, a label with a single image, or a folder in use.

    Example:
        >>> zeros = torch.full((4, 28, 28), 255, dtype=torch.uint8)
        >>> heads, wings = (zeros, torch.tensor([0, 0, 1, 1])), (zeros, torch.tensor([2, 2, 3, 3]))
        >>> write_creatures("creatures", heads, wings, 2000)  # doctest: +SKIP
    """
    from PIL import Image

    folder = Path(folder).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not an empty folder: name a new one")
    if not 0 < test_share < 1:
        raise ValueError(f"test_share must be between 0 and 1, got {test_share}")
    heads, wings = (_pools(*parts, test_share, seed) for parts in (parts_a, parts_b))
    pairs = list(itertools.product(heads, wings))
    tests = round(count * test_share)
    if side_px < LEAST_SIDE_PX or min(tests, count - tests) < len(pairs):
        raise ValueError(
            f"side_px must be at least {LEAST_SIDE_PX} and count enough for a picture of each of "
            f"{len(pairs)} classes in training and in test, got {side_px} and {count}"
        )
    photos = textures_from(textures, PHOTOS)
    names = [f"{number:03d}.head_{a}_wing_{b}" for number, (a, b) in enumerate(pairs, 1)]
    tables: dict[str, list[Sequence[object]]] = {
        "classes.txt": list(enumerate(names, 1)),
        "parts/parts.txt": list(enumerate(PART_NAMES, 1)),
    }
    made = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    (made / "parts").mkdir(parents=True)
    try:
        for name in names:
            (made / "images" / name).mkdir(parents=True)
        for id, (number, test, row) in enumerate(_order(len(pairs), count - tests, tests), 1):
            random = np.random.default_rng([seed % 2**63, test, row])
            a, b = pairs[number]
            shown = random.choice(heads[a][test]), random.choice(wings[b][test])
            creature = _creature(shown, random, side_px, photos)
            file = f"{names[number]}/{('train', 'test')[test]}_{row:06d}.jpg"
            Image.fromarray(creature.picture).save(made / "images" / file, quality=95)
            for table, line in _lines(id, file, number + 1, test, creature):
                tables.setdefault(table, []).append(line)
        for table, lines in tables.items():
            text = "".join(" ".join(map(_word, line)) + "\n" for line in lines)
            (made / table).write_text(text)
        (made / "README").write_text(README)
        if folder.exists():
            folder.rmdir()
        made.replace(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder


def _order(classes: int, *counts: int) -> list[tuple[int, int, int]]:
    """(class, 0 for training or 1 for test, number) of every picture, class by class."""
    rows = ((row % classes, part, row) for part, n in enumerate(counts) for row in range(n))
    return sorted(rows)


def _lines(
    id: int, file: str, number: int, test: int, creature: Creature
) -> Iterator[tuple[str, Sequence[object]]]:
    """The lines that tell of a picture, each with its table."""
    x0, y0, x1, y1 = creature.box
    yield "images.txt", (id, file)
    yield "image_class_labels.txt", (id, number)
    yield "train_test_split.txt", (id, 1 - test)
    yield "bounding_boxes.txt", (id, x0, y0, x1 - x0, y1 - y0)
    for part, (place, size) in enumerate(zip(creature.places, creature.sizes, strict=True), 1):
        yield "parts/part_locs.txt", (id, part, *place, 1)
        yield "parts/part_sizes.txt", (id, part, *size)


def _word(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _pools(images: Tensor, labels: Tensor, test_share: float, seed: int) -> Pools:
    """The images of each label, for training and for test."""
    check_digits(images, labels)
    pools = {}
    for label in labels.unique().tolist():
        rows = (labels == label).nonzero().squeeze(-1)
        if len(rows) < 2:
            raise ValueError(f"label {label} needs two images, for training and test, and has one")
        # Of a label alone: where heads and wings show the same images, neither meets the other's.
        order = torch.randperm(len(rows), generator=generator_of("creatures", seed, label))
        tests = min(max(1, round(len(rows) * test_share)), len(rows) - 1)
        shuffled = images[rows[order]].numpy()
        pools[label] = (shuffled[tests:], shuffled[:tests])
    return pools


def _creature(
    shown: Sequence[np.ndarray], random: np.random.Generator, side: int, photos: Sequence[Any]
) -> Creature:
    canvas = _background(random, side, photos)
    for _ in range(DISTRACTORS):
        radii = random.uniform(0.05, 0.15) * side, random.uniform(0.006, 0.015) * side
        _ellipse(canvas, _anywhere(random, side, 0), radii, _turn(random), _light(random))
    for _ in range(DISTRACTORS):
        radius, ratio = random.uniform(0.05, 0.13) * side, random.uniform(0.7, 1)
        radii = radius, radius * ratio
        _ellipse(canvas, _anywhere(random, side, 0), radii, _turn(random), _dark(random))
    head = wing = np.zeros(2)
    while not APART[0] * side <= math.dist(head, wing) <= APART[1] * side:
        head, wing = (_anywhere(random, side, MARGIN) for _ in PART_NAMES)
    boxes, places, sizes = [_body(canvas, head, wing, random)], [], []
    for image, place, oval in zip(shown, (head, wing), (1.0, 1.3), strict=True):
        ink = _ink(image, random, side)
        height, width = ink.shape
        x, y = round(place[0] - width / 2), round(place[1] - height / 2)
        centre = np.array((x + width / 2, y + height / 2))
        radius = math.hypot(width, height) / 2
        disc = _ellipse(canvas, centre, (oval * radius, radius), _turn(random), _dark(random))
        _blend(canvas[y : y + height, x : x + width], ink, _light(random))
        boxes.append(disc)
        places.append((float(centre[0]), float(centre[1])))
        sizes.append((float(width), float(height)))
    low, high = np.array(boxes)[:, :2].min(0), np.array(boxes)[:, 2:].max(0)
    box = np.concatenate([low, high]).clip(0, side)
    picture = canvas.round().clip(0, 255).astype(np.uint8)
    return Creature(picture, box, tuple(places), tuple(sizes))


def _body(
    canvas: np.ndarray, head: np.ndarray, wing: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """A soft ellipse from one part to the other with a belly of another colour; its box."""
    side, (x, y) = len(canvas), wing - head
    angle, middle = math.atan2(y, x), (head + wing) / 2
    long = math.hypot(x, y) / 2 * random.uniform(0.8, 1)
    short = random.uniform(0.08, 0.15) * side
    soft = 0.04 * side
    box = _ellipse(canvas, middle, (long, short), angle, random.uniform(0, 255, 3), soft)
    belly = long * random.uniform(0.4, 0.7), short * random.uniform(0.4, 0.7)
    _ellipse(canvas, middle, belly, angle, random.uniform(0, 255, 3), soft)
    return box


def _ellipse(
    canvas: np.ndarray,
    centre: np.ndarray,
    radii: Point,
    angle_rad: float,
    colour: np.ndarray,
    edge_px: float = 1.0,
) -> np.ndarray:
    """Paint an ellipse, whose outline fades within edge_px, and return its box."""
    cos, sin = math.cos(angle_rad), math.sin(angle_rad)
    reach = np.hypot((radii[0] * cos, radii[0] * sin), (radii[1] * sin, radii[1] * cos))
    x0, y0 = np.floor(centre - reach - edge_px).clip(0).astype(int)
    x1, y1 = np.ceil(centre + reach + edge_px).clip(0, len(canvas)).astype(int)
    y, x = np.ogrid[y0:y1, x0:x1]
    x, y = x + 0.5 - centre[0], y + 0.5 - centre[1]
    radius = np.hypot((cos * x + sin * y) / radii[0], (cos * y - sin * x) / radii[1])
    inside = (1 - radius) * min(radii) / edge_px + 0.5
    _blend(canvas[y0:y1, x0:x1], inside.clip(0, 1), colour)
    return np.concatenate([centre - reach, centre + reach])


def _blend(region: np.ndarray, opacity: np.ndarray, colour: np.ndarray) -> None:
    region += opacity[..., None].astype(np.float32) * (colour.astype(np.float32) - region)


def _ink(image: np.ndarray, random: np.random.Generator, side: int) -> np.ndarray:
    """What an image shows, cut out, turned and scaled: opacity (h, w), from 0 to 1."""
    from PIL import Image

    angle, long = random.uniform(-TURN_DEG, TURN_DEG), PART * side * random.uniform(0.9, 1.1)
    turned = Image.fromarray(image).rotate(angle, Image.Resampling.BICUBIC, expand=True)
    box = Image.fromarray(np.asarray(turned) >= INK).getbbox() or (0, 0, *turned.size)
    width, height = box[2] - box[0], box[3] - box[1]
    scale = long / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(turned.resize(size, Image.Resampling.BICUBIC, box), np.float32) / 255


def _background(random: np.random.Generator, side: int, photos: Sequence[Any]) -> np.ndarray:
    """A square crop of some photo, mirrored or not, in other light: float32 (side, side, 3)."""
    from PIL import Image

    photo = photos[int(random.integers(len(photos)))]
    cut = min(photo.size) * random.uniform(0.3, 1)
    x, y = random.uniform(0, photo.width - cut), random.uniform(0, photo.height - cut)
    crop = photo.resize((side, side), Image.Resampling.BILINEAR, (x, y, x + cut, y + cut))
    pixels = np.asarray(crop, np.float32)
    mirrored = pixels[:, ::-1] if random.integers(2) else pixels
    return mirrored * random.uniform(0.5, 1, 3).astype(np.float32)


def _anywhere(random: np.random.Generator, side: int, margin: float) -> np.ndarray:
    return random.uniform(margin * side, (1 - margin) * side, 2)


def _turn(random: np.random.Generator) -> float:
    return random.uniform(0, math.pi)


def _light(random: np.random.Generator) -> np.ndarray:
    return random.uniform(180, 255, 3)


def _dark(random: np.random.Generator) -> np.ndarray:
    return random.uniform(0, 90, 3)
