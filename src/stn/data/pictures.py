"""Image files of any kind as uint8 tensors on a canvas, or an error that names the file."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .._checks import check_choice
from .mnist import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

# More pixels than this are taken for a bomb: 11,500 x 11,500. Pillow's own limit is a little more.
MOST_PX = 2**27
SHOWN_PX = 512  # longer side of pictures that are looked at
FITS = ("pad", "stretch", "crop")
MODES = {1: "L", 3: "RGB"}
# What may be decoded: Pillow's EPS would start Ghostscript. JPEG opens what phones write, MPO, too.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

ORIENTATION = 0x0112  # in EXIF; from 5 on the picture lies on its side

Box = tuple[float, float, float, float]


@contextmanager
def opened_picture(source: str | Path | bytes, name: str | None = None) -> Iterator["Image"]:
    """An image file of `FORMATS`, of which only the head was read.

    Raises:
        DataError: as `read_picture`, here and for what is done with the image.
    """
    from PIL import Image, UnidentifiedImageError

    name = _name_of(source, name)
    opened = io.BytesIO(source) if isinstance(source, bytes) else Path(source)
    try:
        with Image.open(opened, formats=FORMATS) as image:
            if image.width * image.height > MOST_PX:
                raise Image.DecompressionBombError(f"{image.width} x {image.height} px")
            yield image
    except FileNotFoundError:
        raise DataError(f"{name} does not exist") from None
    except (UnidentifiedImageError, IsADirectoryError):
        raise DataError(
            f"{name} is no image that can be read: save it as one of {', '.join(FORMATS)}"
        ) from None
    except Image.DecompressionBombError as error:
        raise DataError(f"{name} is too large: {error}; shrink it by other means") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise DataError(f"{name} is damaged: {str(error) or type(error).__name__}") from None


def picture_size(source: str | Path | bytes, name: str | None = None) -> tuple[int, int]:
    """(H, W) of an image file, upright as `read_picture` shows it, from its head.

    Raises:
        DataError: as `read_picture`.
    """
    with opened_picture(source, name) as image:
        lies = image.getexif().get(ORIENTATION, 1) >= 5
        return (image.width, image.height) if lies else (image.height, image.width)


def read_shown(source: str | Path, channels: int = 3, name: str | None = None) -> Tensor:
    """As `read_picture`, shrunk until no side is longer than `SHOWN_PX`; small ones stay."""
    size = picture_size(source, name)
    by = max(1, max(size) / SHOWN_PX)
    small = [max(1, round(n / by)) for n in size]
    return read_picture(source, small, channels, "stretch", name=name)


def read_picture(
    source: str | Path | bytes,
    size: Sequence[int] | None = None,
    channels: int = 3,
    fit: str = "pad",
    box: Box | None = None,
    name: str | None = None,
) -> Tensor:
    """An image file on a canvas.

    Colours of every kind become RGB or grey: palettes, CMYK, 16 bits (their upper 8, floats from 0
    to 1), transparency (laid on black). A photo's EXIF orientation is applied. Of animations, the
    first frame.

    Args:
        source: a path, or the bytes of a file.
        size: (H, W) of the canvas; None for the image's own size.
        channels: 1 or 3.
        fit: "pad" keeps the aspect and all of the image, with black at two sides; "stretch" fills
            the canvas; "crop" keeps the aspect and cuts what is over on two sides.
        box: (x0, y0, x1, y1), px from the image's outer edge, of the part to read; what lies
            outside the image is cut off the box.
        name: of the file, for errors; by default its path.

    Returns:
        uint8 (channels, H, W). Smaller canvases are filtered (Lanczos), so nothing aliases.

    Raises:
        DataError: a file that is missing, damaged, cut off, no image, or too large; or an empty
            box. It names the file.
    """
    from PIL import ImageOps

    check_choice(fit, FITS, "fit")
    if channels not in MODES:
        raise ValueError(f"channels must be 1 or 3, got {channels}")
    with opened_picture(source, name) as image:
        if box is None and size is not None and fit != "crop":
            image.draft(None, (2 * size[1], 2 * size[0]))  # a JPEG need not be decoded whole
        image.load()
        flat = _flattened(ImageOps.exif_transpose(image), MODES[channels])
    region = _region(box, flat.size, _name_of(source, name))
    shown = flat.crop(_whole(region)) if size is None else _fitted(flat, region, size, fit)
    pixels = torch.from_numpy(np.array(shown)).view(shown.height, shown.width, channels)
    return pixels.movedim(-1, 0).contiguous()


def _name_of(source: str | Path | bytes, name: str | None) -> str:
    return name or ("an image" if isinstance(source, bytes) else str(source))


def _flattened(image, mode: str):
    """8 bits, without palette, transparency or CMYK."""
    from PIL import Image

    if image.mode.startswith(("I", "F")):
        values = np.nan_to_num(np.asarray(image).astype(np.float64))
        wide = image.mode.startswith("I;16") or (image.mode == "I" and values.max() > 255)
        values *= 255 if image.mode == "F" else 1 / 257 if wide else 1
        image = Image.fromarray(values.clip(0, 255).round().astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image)
    return image.convert(mode)


def _region(box: Box | None, size: tuple[int, int], name: str) -> Box:
    width, height = size
    if box is None:
        return 0.0, 0.0, float(width), float(height)
    x0, y0, x1, y1 = box
    cut = max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))
    if not (cut[0] < cut[2] and cut[1] < cut[3]):
        raise DataError(f"{name}, {width} x {height} px, has nothing in the box {box}")
    return cut


def _whole(region: Box) -> tuple[int, int, int, int]:
    x0, y0, x1, y1 = region
    return int(x0), int(y0), max(int(x0) + 1, round(x1)), max(int(y0) + 1, round(y1))


def _fitted(image, region: Box, size: Sequence[int], fit: str):
    from PIL import Image

    height, width = size
    x0, y0, x1, y1 = region
    if fit == "stretch":
        return image.resize((width, height), Image.Resampling.LANCZOS, region)
    across, down = width / (x1 - x0), height / (y1 - y0)
    if fit == "crop":
        scale = max(across, down)
        half_x, half_y = width / scale / 2, height / scale / 2
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        part = max(x0, x - half_x), max(y0, y - half_y), min(x1, x + half_x), min(y1, y + half_y)
        return image.resize((width, height), Image.Resampling.LANCZOS, part)
    scale = min(across, down)
    inner = max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale))
    canvas = Image.new(image.mode, (width, height))
    shrunk = image.resize(inner, Image.Resampling.LANCZOS, region)
    canvas.paste(shrunk, ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return canvas
