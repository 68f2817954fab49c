"""The ImageNet recipe on pictures that anyone can have: photos of scikit-image, shrunk, in clutter.

    python examples/imagenet_in_small.py photos        # 10,000 pictures in the folder photos
    stn data shards --from photos --to small/imagenet
    STN_DATA=small stn train imagenet --model st-resnet50 --epochs 8

Each picture has 64 x 64 px: a piece of a plain photo, six cuttings from any photo, and over them,
anywhere, turned and a third of the side long, one of eight things, which is its class. Photos are
grey and tinted at random, so that no colour tells the class. photos/boxes.csv says where the thing
lies, which no training reads.
"""

import csv
import sys
from pathlib import Path

import numpy as np
import skimage
from PIL import Image

SIDE_PX, COUNTS = 64, {"train": 9000, "test": 1000}
THING_PX, TURN_DEG, CUTTINGS, CUTTING_PX = (18, 26), 30, 6, (8, 14)
# Of photos of scikit-image: file, and the box x0, y0, x1, y1 of a thing.
THINGS = {
    "astronaut": ("astronaut.png", (150, 0, 310, 160)),
    "cat": ("chelsea.png", (90, 20, 360, 290)),
    "coin": ("coins.png", (300, 5, 384, 89)),
    "cup": ("coffee.png", (100, 10, 470, 380)),
    "horse": ("horse.png", (10, 0, 390, 328)),
    "motorcycle": ("motorcycle_left.png", (60, 120, 700, 470)),
    "photographer": ("camera.png", (60, 50, 360, 350)),
    "rocket": ("rocket.jpg", (220, 100, 410, 420)),
}
PLAIN = ("brick.png", "grass.png", "gravel.png", "moon.png")


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    if folder.exists():
        sys.exit(f"{folder} exists: name a new folder")
    things = {name: photo(file).crop(box) for name, (file, box) in THINGS.items()}
    wholes = [photo(file) for file in (*PLAIN, *(file for file, _ in THINGS.values()))]
    rows = []
    for part, count in COUNTS.items():
        for name in things:
            (folder / part / name).mkdir(parents=True)
        for row in range(count):
            random = np.random.default_rng([row, part == "test"])
            name = list(things)[row % len(things)]
            picture, box = compose(things[name], wholes, random)
            path = Path(part) / name / f"{row:05d}.png"
            picture.save(folder / path)
            rows.append((path, *box))
    with (folder / "boxes.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "x0", "y0", "x1", "y1"), *rows])
    print(f"wrote {sum(COUNTS.values())} pictures to {folder}")


def photo(file: str) -> Image.Image:
    """A photo of scikit-image in grey."""
    return Image.open(Path(skimage.__file__).parent / "data" / file).convert("L")


def compose(
    thing: Image.Image, wholes: list[Image.Image], random: np.random.Generator
) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """A picture of a thing, and its box x0, y0, x1, y1, px."""
    plain = wholes[random.integers(len(PLAIN))]
    canvas = tinted(cutting(plain, SIDE_PX, random), random)
    for _ in range(CUTTINGS):
        side = int(random.integers(*CUTTING_PX))
        piece = cutting(wholes[random.integers(len(wholes))], side, random)
        x, y = random.integers(0, SIDE_PX - side, 2)
        canvas.paste(tinted(piece, random), (int(x), int(y)))
    long, angle = int(random.integers(*THING_PX)), random.uniform(-TURN_DEG, TURN_DEG)
    scale = long / max(thing.size)
    size = round(thing.width * scale), round(thing.height * scale)
    small = tinted(thing.resize(size, Image.Resampling.LANCZOS), random)
    opaque = Image.new("L", size, 255).rotate(angle, Image.Resampling.BICUBIC, expand=True)
    turned = small.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    x, y = (int(random.integers(0, SIDE_PX - side + 1)) for side in turned.size)
    canvas.paste(turned, (x, y), opaque)
    return canvas, (x, y, x + turned.width, y + turned.height)


def cutting(whole: Image.Image, side: int, random: np.random.Generator) -> Image.Image:
    """A square of a photo, up to three times as large as it is shown."""
    cut = min(min(whole.size), side * random.uniform(1, 3))
    x, y = random.uniform(0, whole.width - cut), random.uniform(0, whole.height - cut)
    return whole.resize((side, side), Image.Resampling.LANCZOS, (x, y, x + cut, y + cut))


def tinted(grey: Image.Image, random: np.random.Generator) -> Image.Image:
    """A grey image in some colour, mirrored or not."""
    pixels = np.asarray(grey, np.float32)[..., None] * random.uniform(0.5, 1, 3)
    mirrored = pixels[:, ::-1] if random.integers(2) else pixels
    return Image.fromarray(mirrored.round().astype(np.uint8))


if __name__ == "__main__":
    main()
