"""House numbers made, not photographed: a stand-in where SVHN itself cannot be had.

Folders have SVHN's official format, so that all that reads one reads the other. Errors measured on
them say whether a network learns to read numbers, and nothing about SVHN.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from .. import coords
from ..annotations import warp_boxes
from ..transforms import Projective
from ..warp import warp
from .mnist import DataError
from .svhn import STRUCT, StreetNumber
from .textures import textures_from

PARTS = ("train", "extra", "test")
LENGTHS = (0.15, 0.5, 0.28, 0.06, 0.01)  # of numbers of 1 to 5 digits, about as in SVHN
HEIGHTS_PX, WIDTHS_PX = (50, 200), (80, 300)
TEST_SHARE = 0.3  # of the height of every texture
CONTRAST = 60.0  # least difference, of 255, between the ink and what lies behind a digit
PHOTOS = ("astronaut", "brick", "camera", "cell", "chelsea", "coffee", "coins", "grass", "gravel")
PHOTOS += ("hubble_deep_field", "ihc", "moon", "motorcycle_left", "retina", "rocket")
FRAGMENTS = "0123456789ABCDEFGHKLMNPRSTXYZ"


class Layout(NamedTuple):
    """Digits side by side: `ink` uint8 (h, w), and the box of each, (n, 4) px."""

    ink: np.ndarray
    boxes: np.ndarray


def write_street_numbers(
    folder: str | Path,
    counts: Mapping[str, int],
    seed: int = 0,
    textures: Sequence[np.ndarray] | None = None,
) -> Path:
    """Draw house numbers, and write them as SVHN's official folder.

    Numbers of one to five digits in many typefaces, sizes, colours and perspectives, wholly inside
    an image of 80 to 300 by 50 to 200 px, on pieces of photos, between lines and fragments of other
    characters. Image k of a part is a function of (seed, part, k), for given textures and versions
    of the libraries that draw. Test images stand on the lowest 30 % of every texture, the others on
    the rest, so no piece of a photo is behind both.

    Args:
        folder: what must not be there yet; it appears when complete.
        counts: images of each part, of "train", "extra" and "test"; a part without is not written.
        seed: any integer.
        textures: uint8 (H, W, 3) each; None for the photos that come with scikit-image, or smooth
            noise where it is not installed.

    Returns:
        The folder.

    Raises:
        DataError: the folder is there.
        ValueError: unknown parts, negative counts, or textures of another shape.
    """
    if not set(counts) <= set(PARTS) or min(counts.values(), default=-1) < 0:
        raise ValueError(f"counts must map parts of {PARTS} to 0 or more, got {dict(counts)}")
    folder = Path(folder)
    if folder.exists():
        raise DataError(f"{folder} exists: name another folder, or delete it")
    photos = textures_from(textures, PHOTOS)
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        whole = unfinished / folder.name
        for part, count in counts.items():
            if count:
                _write_part(whole / part, count, seed, photos)
        whole.mkdir(exist_ok=True)
        whole.rename(folder)
    finally:
        shutil.rmtree(unfinished)
    return folder


def write_digit_struct(path: Path, numbers: Iterable[StreetNumber]) -> None:
    """SVHN's digitStruct.mat, but for the attributes by which MATLAB knows its types.

    `name` and `bbox` refer to an array of characters and to a group for each image; the group's
    values are arrays where there is one digit, references to arrays where there are several.
    """
    import h5py
    from h5py import h5d, h5g, h5r, h5s, h5t  # pyright: ignore[reportAttributeAccessIssue]

    reference_type = h5t.py_create(h5py.ref_dtype)
    kinds = {"H": h5t.NATIVE_UINT16, "d": h5t.NATIVE_DOUBLE, "O": reference_type}
    with h5py.File(path, "w") as file:
        store = file.create_group("#refs#").id

        def put(group, key: str, values: Sequence, kind: str) -> None:
            array = np.array(values, kind).reshape(-1, 1)
            stored = h5t.STD_REF_OBJ if kind == "O" else kinds[kind]
            dataset = h5d.create(group, key.encode(), stored, h5s.create_simple(array.shape))
            dataset.write(h5s.ALL, h5s.ALL, array, kinds[kind])

        def reference(key: str):
            return h5r.create(store, key.encode(), h5r.OBJECT)

        names, groups = [], []
        for index, (name, digits, boxes) in enumerate(numbers):
            put(store, f"n{index}", [ord(letter) for letter in name], "H")
            names.append(reference(f"n{index}"))
            group = h5g.create(store, f"b{index}".encode())
            groups.append(reference(f"b{index}"))
            x0, y0, x1, y1 = np.array(boxes, float).T
            labels = [digit or 10 for digit in digits]
            columns = {"height": y1 - y0, "label": labels, "left": x0, "top": y0, "width": x1 - x0}
            for key, column in columns.items():
                if len(column) == 1:
                    put(group, key, column, "d")
                    continue
                keys = [f"v{index}-{key}-{place}" for place in range(len(column))]
                for own, value in zip(keys, column, strict=True):
                    put(store, own, [value], "d")
                put(group, key, [reference(own) for own in keys], "O")
        struct = file.create_group("digitStruct").id
        put(struct, "name", names, "O")
        put(struct, "bbox", groups, "O")


def _write_part(folder: Path, count: int, seed: int, textures: Sequence) -> None:
    from PIL import Image

    folder.mkdir(parents=True)
    test = folder.name == "test"
    pieces = [_piece(texture, test) for texture in textures]
    numbers = []
    for index in range(1, count + 1):
        key = f"street/{seed}/{folder.name}/{index}".encode()
        rng = np.random.default_rng(int.from_bytes(hashlib.sha256(key).digest()[:8], "big"))
        pixels, digits, boxes = _drawn(rng, pieces)
        Image.fromarray(pixels).save(folder / f"{index}.png", compress_type=3)
        numbers.append(StreetNumber(f"{index}.png", digits, boxes))
    write_digit_struct(folder / STRUCT, numbers)


def _drawn(rng: np.random.Generator, textures: Sequence):
    """One image uint8 (H, W, 3), its digits, and their boxes."""
    from PIL import Image, ImageFilter

    height = int(np.exp(rng.uniform(*np.log(HEIGHTS_PX))))
    width = int(np.clip(height * rng.uniform(1, 2.5), *WIDTHS_PX))
    digits = _digits(rng)
    layout = _laid_out(rng, digits, width, height)
    corners = _placed(rng, layout.ink.shape, width, height)
    behind = _background(rng, textures, corners, width, height)
    mask, boxes = _warped(layout, corners, width, height)
    ink = _ink(rng, behind, boxes)
    alpha = mask[..., None] * np.float32(rng.uniform(0.85, 1))
    pixels = behind + alpha * (ink - behind)
    left, right = rng.uniform(0.75, 1.1, 2)
    light = np.linspace(left, right, width).astype(np.float32)[:, None]
    noise = rng.standard_normal(pixels.shape, np.float32) * np.float32(rng.uniform(0, 5))
    pixels = pixels * light + noise
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    radius = rng.uniform(0, 0.025) * float((boxes[:, 3] - boxes[:, 1]).mean())
    image = image.filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(image), digits, tuple(tuple(box) for box in boxes.tolist())


def _digits(rng: np.random.Generator) -> tuple[int, ...]:
    """No number of several digits begins with 0."""
    count = 1 + rng.choice(len(LENGTHS), p=LENGTHS)
    drawn = rng.integers(0, 10, count)
    drawn[0] = rng.integers(int(count > 1), 10)
    return tuple(drawn.tolist())


def _laid_out(rng, digits: Sequence[int], width: int, height: int) -> Layout:
    from PIL import Image, ImageDraw

    face = rng.choice(_faces())
    size = int(max(14, height * rng.uniform(0.3, 0.9)))
    gap, lift = rng.uniform(0.02, 0.25), rng.uniform(-0.04, 0.04, len(digits))

    def boxes_at(size: int) -> np.ndarray:
        """Of ink, from where each digit's text is put; then side by side."""
        return np.array([_font(face, size).getbbox(str(digit)) for digit in digits], float)

    def span(boxes: np.ndarray, size: int) -> float:
        return (boxes[:, 2] - boxes[:, 0]).sum() + gap * size * (len(digits) - 1)

    raw = boxes_at(size)
    if span(raw, size) > 0.8 * width:
        size = int(size * 0.8 * width / span(raw, size))
        raw = boxes_at(size)
    widths = raw[:, 2] - raw[:, 0]
    left = 2 + np.concatenate([[0], np.cumsum(widths + round(gap * size))[:-1]])
    shift = np.stack([left - raw[:, 0], (lift * size).round()], -1)
    shift[:, 1] += 2 - (raw[:, 1] + shift[:, 1]).min()
    boxes = raw + np.tile(shift, 2)
    plane = Image.new("L", (int(boxes[:, 2].max()) + 2, int(boxes[:, 3].max()) + 2))
    pen = ImageDraw.Draw(plane)
    for digit, (x, y) in zip(digits, shift.tolist(), strict=True):
        pen.text((x, y), str(digit), 255, _font(face, size))
    return Layout(np.asarray(plane), boxes)


def _placed(rng, shape: tuple[int, ...], width: int, height: int) -> np.ndarray:
    """Where the layout's four corners come to lie, (4, 2) px: turned, bent, wholly inside."""
    h, w = shape
    corners = np.array([[-w, -h], [w, -h], [w, h], [-w, h]]) / 2
    turn, slant = rng.normal(0, 0.07), rng.normal(0, 0.08)
    cos, sin = np.cos(turn), np.sin(turn)
    corners = corners @ np.array([[cos, sin], [slant - sin, cos]])
    corners += rng.uniform(-0.08, 0.08, (4, 2)) * h
    corners -= corners.min(0)
    room = np.array([width, height]) - 2
    corners *= min(1.0, *(room / corners.max(0)))
    return corners + 1 + rng.uniform(0, 1, 2) * (room - corners.max(0))


def _warped(layout: Layout, corners: np.ndarray, width: int, height: int):
    """The ink in the image, float (H, W) in [0, 1], and the boxes there, in whole px."""
    h, w = layout.ink.shape
    own = torch.tensor([[0.0, 0.0], [w, 0.0], [w, h], [0.0, h]], dtype=torch.float64)
    source = coords.to_normalized(own - 0.5, (h, w), align_corners=False)
    target = coords.to_normalized(torch.from_numpy(corners) - 0.5, (height, width), False)
    transform = Projective()
    theta = transform.fit(target[None], source[None])
    ink = torch.from_numpy(layout.ink.astype(np.float32) / 255)[None, None]
    mask = warp(ink, transform, theta.float(), (height, width))[0, 0].numpy()
    boxes = torch.from_numpy(layout.boxes)[None]
    boxes = warp_boxes(boxes, transform, theta, (h, w), (height, width))[0].numpy()
    return mask, np.concatenate([np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])], -1)


def _background(rng, textures: Sequence, corners: np.ndarray, width: int, height: int):
    """A piece of a texture, perhaps a plate, lines, and fragments of characters beside `corners`.

    Float (H, W, 3).
    """
    from PIL import Image, ImageDraw

    texture = textures[rng.integers(len(textures))]
    share = min(1.0, texture.width / width, texture.height / height) * rng.uniform(0.4, 1)
    x = rng.uniform(0, texture.width - share * width)
    y = rng.uniform(0, texture.height - share * height)
    box = (x, y, x + share * width, y + share * height)
    image = texture.resize((width, height), Image.Resampling.BILINEAR, box)
    pen = ImageDraw.Draw(image)
    for _ in range(rng.poisson(1)):
        ends = (rng.uniform(-0.2, 1.2, (2, 2)) * (width, height)).flatten().tolist()
        pen.line(ends, _colour(rng), int(rng.integers(1, 4)))
    middle, reach = corners.mean(0), np.ptp(corners[:, 1])
    if rng.random() < 0.3:
        plate = middle + (corners - middle) * rng.uniform(1.05, 1.4, 2)
        pen.polygon(plate.flatten().tolist(), _colour(rng))
    for _ in range(rng.integers(0, 4)):
        letter = FRAGMENTS[rng.integers(len(FRAGMENTS))]
        font = _font(rng.choice(_faces()), int(max(8, reach * rng.uniform(0.4, 1))))
        _, _, wide, high = (int(edge) for edge in font.getbbox(letter))
        glyph = Image.new("L", (wide, high))
        ImageDraw.Draw(glyph).text((0, 0), letter, 255, font)
        cut, left = max(1, round(wide * rng.uniform(0.3, 0.8))), rng.random() < 0.5
        piece = glyph.crop((wide - cut, 0, wide, high) if left else (0, 0, cut, high))
        gap = rng.uniform(0.15, 0.8) * reach
        x = corners[:, 0].min() - gap - piece.width if left else corners[:, 0].max() + gap
        y = rng.uniform(corners[:, 1].min() - 0.5 * reach, corners[:, 1].max() - 0.3 * reach)
        image.paste(_colour(rng), (int(x), int(y)), piece)
    behind = np.asarray(image, np.float32)
    mean = behind.mean((0, 1))
    return mean + (behind - mean) * np.float32(rng.uniform(0.4, 1))


def _ink(rng, behind: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """A random colour that stands out behind every digit; the best of some, if none does."""
    grey = behind.mean(-1)
    places = [grey[y0:y1, x0:x1].mean() for x0, y0, x1, y1 in boxes.astype(int)]
    colours = np.concatenate([rng.uniform(0, 255, (12, 3)), [[0] * 3, [255] * 3]])
    contrast = np.abs(colours.mean(-1)[:, None] - places).min(-1)
    enough = np.flatnonzero(contrast >= CONTRAST)
    return colours[enough[0] if len(enough) else contrast.argmax()].astype(np.float32)


def _colour(rng) -> tuple[int, int, int]:
    red, green, blue = rng.integers(0, 256, 3).tolist()
    return red, green, blue


@lru_cache
def _faces() -> tuple[str, ...]:
    """Matplotlib's typefaces that have digits."""
    import matplotlib

    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    found = [*fonts.glob("DejaVu*.ttf"), *fonts.glob("STIXGeneral*.ttf")]
    return tuple(sorted(str(path) for path in found if "Display" not in path.stem))


@lru_cache(1024)
def _font(face: str, size: int):
    from PIL import ImageFont

    return ImageFont.truetype(face, size)


def _piece(texture, test: bool):
    """What images of a part may stand on: its lowest rows for test, the others otherwise."""
    border = round(texture.height * (1 - TEST_SHARE))
    rows = (border, texture.height) if test else (0, border)
    return texture.crop((0, rows[0], texture.width, rows[1]))
