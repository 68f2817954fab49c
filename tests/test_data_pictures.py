"""Image files of every kind on a canvas, and labelled sets of them."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stn.data.image_set import Example, ImageSet, faults_in_words
from stn.data.mnist import DataError
from stn.data.pictures import picture_size, read_picture

# Four patches of 16 x 16 px: red and green above, blue and white below.
COLOURS = [[(240, 20, 20), (20, 200, 20)], [(20, 20, 220), (250, 250, 250)]]
QUARTERS = torch.tensor(COLOURS).movedim(-1, 0).float()


def _patches(mode="RGB"):
    pixels = np.array(COLOURS, dtype=np.uint8).repeat(16, 0).repeat(16, 1)
    return Image.fromarray(pixels).convert(mode)


def _grey(values):
    return Image.fromarray(np.asarray(values))


def _encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _quarters(picture):
    """The colour (C, 2, 2) at the middle of each quarter."""
    height, width = picture.shape[1:]
    rows, columns = [height // 4, 3 * height // 4], [width // 4, 3 * width // 4]
    return picture[:, rows][:, :, columns].float()


def _turned(angle_code):
    """A JPEG stored so that its EXIF orientation brings it back to `_patches()`."""
    undo = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}[angle_code]
    exif = Image.Exif()
    exif[0x0112] = angle_code
    return _encoded(_patches().transpose(undo), "JPEG", quality=95, exif=exif)


def _chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png_of_size(width, height):
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(100))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", data)


COLOURED = {
    "png": _encoded(_patches(), "PNG"),
    "bmp": _encoded(_patches(), "BMP"),
    "webp": _encoded(_patches(), "WEBP", lossless=True),
    "palette": _encoded(_patches().quantize(4), "PNG"),
    "gif": _encoded(_patches().quantize(4), "GIF"),
    "animation": _encoded(
        _patches().quantize(4), "GIF", save_all=True, append_images=[Image.new("P", (32, 32))]
    ),
    "jpeg": _encoded(_patches(), "JPEG", quality=95),
    "cmyk jpeg": _encoded(_patches("CMYK"), "JPEG", quality=95),
    "upside down": _turned(3),
    "lying": _turned(6),
}


class TestKinds:
    @pytest.mark.parametrize("name", COLOURED)
    def test_colours(self, name):
        got = read_picture(COLOURED[name])
        assert got.dtype == torch.uint8
        assert got.shape == (3, 32, 32)
        torch.testing.assert_close(_quarters(got), QUARTERS, atol=6, rtol=0)
        grey = read_picture(COLOURED[name], channels=1)
        luma = (QUARTERS * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0, keepdim=True)
        torch.testing.assert_close(_quarters(grey), luma, atol=6, rtol=0)

    @pytest.mark.parametrize(
        ("values", "kind", "expected"),
        [
            (np.array([[0, 257 * 100, 65535]], np.uint16), "PNG", [0, 100, 255]),
            (np.array([[0, 257 * 100, 65535]], np.uint16), "TIFF", [0, 100, 255]),
            (np.array([[0, 100, 255]], np.int32), "TIFF", [0, 100, 255]),
            (np.array([[-0.5, 0.2, 7, np.nan]], np.float32), "TIFF", [0, 51, 255, 0]),
            (np.array([[0, 9, 255]], np.uint8), "PNG", [0, 9, 255]),
        ],
        ids=["16-bit png", "16-bit tiff", "32-bit", "float", "8-bit"],
    )
    def test_grey_of_any_depth(self, values, kind, expected):
        data = _encoded(_grey(values), kind)
        assert read_picture(data, channels=1).tolist() == [[expected]]
        assert read_picture(data).tolist() == [[expected]] * 3

    def test_transparency_lies_on_black(self):
        half = np.full((2, 2, 4), [200, 100, 50, 255], np.uint8)
        half[0, 0, 3], half[0, 1, 3] = 0, 51
        got = read_picture(_encoded(_grey(half), "PNG"))
        assert got[:, 0, 0].tolist() == [0, 0, 0]
        assert got[:, 0, 1].tolist() == [40, 20, 10]
        assert got[:, 1, 1].tolist() == [200, 100, 50]
        palette = _patches().quantize(4)
        hole = palette.getpixel((0, 0))
        got = read_picture(_encoded(palette, "PNG", transparency=hole))
        assert got[:, 0, 0].tolist() == [0, 0, 0]
        assert got[:, -1, -1].tolist() == [250, 250, 250]

    def test_one_pixel(self, tmp_path):
        Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "dot.png")
        assert read_picture(tmp_path / "dot.png").flatten().tolist() == [1, 2, 3]
        grown = read_picture(str(tmp_path / "dot.png"), (5, 7))
        assert grown[:, 0, 3].tolist() == [1, 2, 3]
        assert grown[:, :, 0].tolist() == [[0] * 5] * 3

    @pytest.mark.parametrize("size", [None, (16, 16)])
    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (COLOURED["png"][:-40], "rose.png is damaged: "),
            (COLOURED["jpeg"][:-20], "rose.png is damaged: .*truncated"),
            (COLOURED["gif"][:60], "rose.png is damaged: "),
            (COLOURED["png"][:90] + b"\xff" + COLOURED["png"][91:], "rose.png is damaged: "),
            (b"", "rose.png is no image that can be read"),
            (b"<html>sign in first</html>", "rose.png is no image that can be read"),
            (_png_of_size(12000, 12000), r"rose.png is too large: 12000 x 12000 px; shrink it"),
            (_png_of_size(70000, 70000), r"rose.png is too large: .*; shrink it"),
        ],
        ids=["cut png", "cut jpeg", "cut gif", "altered", "empty", "html", "large", "bomb"],
    )
    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    def test_bad_files_are_named(self, tmp_path, data, message, size):
        (tmp_path / "rose.png").write_bytes(data)
        with pytest.raises(DataError, match=message):
            read_picture(tmp_path / "rose.png", size)
        with pytest.raises(DataError, match=message):
            read_picture(data, size, name="rose.png")

    @pytest.mark.parametrize("read", [read_picture, picture_size])
    def test_only_pictures_are_decoded(self, tmp_path, read):
        """PostScript is a program: Pillow would have Ghostscript run it."""
        path = tmp_path / "x.png"
        path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
        with pytest.raises(DataError, match=r"x\.png is no image that can be read: save it as"):
            read(path)

    def test_what_phones_write(self):
        """Two JPEGs in a file; lying pictures have the size in which they are seen."""
        two = {"save_all": True, "append_images": [Image.new("RGB", (32, 32))]}
        data = _encoded(_patches(), "MPO", **two)
        assert Image.open(io.BytesIO(data)).format == "MPO"
        torch.testing.assert_close(_quarters(read_picture(data)), QUARTERS, atol=9, rtol=0)
        exif = Image.Exif()
        exif[0x0112] = 6
        lying = _encoded(Image.new("RGB", (8, 3)), "JPEG", exif=exif)
        assert picture_size(lying) == read_picture(lying).shape[1:] == (8, 3)

    def test_no_file(self, tmp_path):
        with pytest.raises(DataError, match=r"none.png does not exist"):
            read_picture(tmp_path / "none.png")
        with pytest.raises(DataError, match=f"{tmp_path.name} is no image"):
            read_picture(tmp_path)

    def test_arguments(self):
        with pytest.raises(ValueError, match=r"fit must be one of 'pad', .* got 'fill'"):
            read_picture(COLOURED["png"], (4, 4), fit="fill")
        with pytest.raises(ValueError, match="channels must be 1 or 3, got 4"):
            read_picture(COLOURED["png"], channels=4)


class TestFits:
    """A ramp: grey 4 x at column x, so what a column of the canvas shows tells its place."""

    RAMP = _encoded(_grey(np.tile(4 * np.arange(60, dtype=np.uint8), (20, 1))), "PNG")

    def _read(self, size, fit, box=None):
        return read_picture(self.RAMP, size, 1, fit, box)[0].float()

    def _source(self, row):
        """Columns of the image, px from its edge, whose grey a row of the canvas shows."""
        return row / 4 + 0.5

    def _check(self, row, start, step):
        inner = slice(2, -2)  # Lanczos overshoots where the ramp ends
        expected = start + step * (torch.arange(len(row)) + 0.5)
        torch.testing.assert_close(self._source(row)[inner], expected[inner], atol=0.2, rtol=0)

    def test_own_size(self):
        assert torch.equal(self._read(None, "pad"), 4.0 * torch.arange(60).expand(20, 60))
        part = self._read(None, "pad", (10, 5, 14, 8))
        assert torch.equal(part, 4.0 * torch.arange(10, 14).expand(3, 4))

    def test_pad(self):
        got = self._read((30, 30), "pad")
        assert got[:10].abs().max() == 0
        assert got[20:].abs().max() == 0
        for row in got[10:20]:
            self._check(row, 0, 2)
        tall = self._read((20, 80), "pad")
        assert torch.equal(tall[:, 10:70], self._read(None, "pad"))
        assert tall[:, :10].abs().max() == tall[:, 70:].abs().max() == 0

    def test_stretch(self):
        for row in self._read((7, 20), "stretch"):
            self._check(row, 0, 3)
        for row in self._read((40, 30), "stretch"):
            self._check(row, 0, 2)

    def test_crop(self):
        assert torch.equal(self._read((20, 20), "crop"), 4.0 * torch.arange(20, 40).expand(20, 20))
        for row in self._read((10, 10), "crop"):
            self._check(row, 20, 2)
        flat = self._read((5, 30), "crop")  # the rows between 5 and 15 of 20
        for row in flat:
            self._check(row, 0, 2)

    def test_crop_keeps_the_middle_rows(self):
        steep = _encoded(_grey(np.tile(4 * np.arange(60, dtype=np.uint8)[:, None], (1, 20))), "PNG")
        got = read_picture(steep, (20, 20), 1, "crop")[0]
        assert got[:, 0].tolist() == list(range(80, 160, 4))

    @pytest.mark.parametrize("fit", ["pad", "stretch", "crop"])
    def test_box(self, fit):
        got = self._read((4, 8), fit, (10, 2, 26, 10))
        for row in got:
            self._check(row, 10, 2)
        over = self._read((20, 20), fit, (40, -5, 99, 99))  # cut to 20 x 20 at the right
        assert torch.equal(over, 4.0 * torch.arange(40, 60).expand(20, 20))

    @pytest.mark.parametrize(
        "box", [(60, 0, 70, 20), (5, 5, 5, 9), (8, 0, 3, 9), (float("nan"),) * 4]
    )
    def test_empty_box(self, box):
        with pytest.raises(DataError, match="an image, 60 x 20 px, has nothing in the box"):
            self._read((4, 4), "pad", box)

    def test_shrinking_does_not_alias(self):
        board = _encoded(_grey(255 * (np.indices((64, 64)).sum(0) % 2).astype(np.uint8)), "PNG")
        got = read_picture(board, (16, 16), 1)[0].float()
        assert float((got - 127.5).abs().max()) < 4


@pytest.fixture
def folder(tmp_path) -> Path:
    """12 images: image k is grey 20 k, of class 0 (0 to 7), 1 (8 to 10) or 2 (11)."""
    for k in range(12):
        Image.new("L", (4, 4), 20 * k).save(tmp_path / f"{k}.png")
    return tmp_path


def _set(folder, labels=(0,) * 8 + (1,) * 3 + (2,)):
    examples = [Example(folder / f"{k}.png", label) for k, label in enumerate(labels)]
    return ImageSet(examples, ["a", "b", "c"], (4, 6), channels=1, fit="stretch")


class TestImageSet:
    def test_reads_when_asked(self, folder):
        images = _set(folder)
        assert len(images) == 12
        assert images.shape == (1, 4, 6)
        assert images.labels.tolist() == [0] * 8 + [1] * 3 + [2]
        assert torch.equal(images[5], torch.full((1, 4, 6), 100, dtype=torch.uint8))
        assert ImageSet(images.examples, images.names, 5)[3].shape == (3, 5, 5)
        part = images.subset([9, 2])
        assert part.labels.tolist() == [1, 0]
        assert [int(part[k].max()) for k in (0, 1)] == [180, 40]
        assert part.shape == images.shape

    def test_boxes(self, folder):
        image = Image.new("L", (8, 4), 10)
        image.paste(200, (6, 0, 8, 4))
        image.save(folder / "half.png")
        images = ImageSet([Example(folder / "half.png", 0, (6, 1, 8, 3))], ["a"], 2, 1)
        assert images[0].unique().tolist() == [200]

    def test_in_memory(self, folder):
        loaded = _set(folder).in_memory(threads=2)
        assert loaded.images[:, 0, 0, 0].tolist() == [20 * k for k in range(12)]
        assert torch.equal(loaded.labels, _set(folder).labels)
        assert loaded.faults == ()
        chunks = list(loaded.chunks(5))
        assert [len(images) for images, _ in chunks] == [5, 5, 2]
        assert torch.equal(torch.cat([labels for _, labels in chunks]), loaded.labels)
        expected = loaded.images.float() / 255
        torch.testing.assert_close(torch.cat([images for images, _ in chunks]), expected)

    def test_labels_of_several_parts(self, folder):
        images = _set(folder, [(0, k % 3) for k in range(12)])
        assert images.in_memory().labels.tolist() == [[0, k % 3] for k in range(12)]
        rest, apart = images.split(0.5)
        for part in (rest, apart):
            assert part.labels[:, 1].bincount().tolist() == [2, 2, 2]

    def test_damaged_files(self, folder):
        (folder / "3.png").write_bytes(b"no image")
        (folder / "9.png").unlink()
        images = _set(folder)
        with pytest.raises(DataError, match=r"3\.png is no image .*; mend or delete it, or skip"):
            images.in_memory()
        loaded = images.in_memory("skip")
        assert loaded.images[:, 0, 0, 0].tolist() == [20 * k for k in range(12) if k not in (3, 9)]
        assert loaded.labels.tolist() == [0] * 7 + [1] * 2 + [2]
        words = faults_in_words(loaded.faults)
        assert words.startswith("left out 2 damaged: ")
        assert "3.png is no image" in words
        assert "9.png does not exist" in words
        assert faults_in_words(()) == ""
        assert faults_in_words([f"f{k}" for k in range(8)]).endswith("f4; and 3 more")
        with pytest.raises(DataError, match=r"not one of 2 images can be read: .*3\.png"):
            images.subset([3, 9]).in_memory("skip")
        with pytest.raises(ValueError, match="damaged must be one of 'refuse', 'skip', got 'no'"):
            images.in_memory("no")

    @pytest.mark.parametrize(
        ("share", "counts"),
        [(0.25, [2, 1, 0]), (0.5, [4, 2, 0]), (0.01, [1, 1, 0]), (0.99, [7, 2, 0])],
    )
    def test_split_by_class(self, folder, share, counts):
        images = _set(folder)
        rest, apart = images.split(share, seed=1)
        assert apart.labels.bincount(minlength=3).tolist() == counts
        paths = [{example.path for example in part.examples} for part in (rest, apart)]
        assert not paths[0] & paths[1]
        assert paths[0] | paths[1] == {example.path for example in images.examples}
        assert rest.labels.unique().tolist() == [0, 1, 2]
        assert rest.shape == apart.shape == images.shape
        assert images.split(share, seed=1)[1].examples == apart.examples
        drawn = {images.split(share, seed)[1].examples for seed in range(8)}
        assert len(drawn) > 1

    @pytest.mark.parametrize("share", [0, 1, -0.1, 1.5])
    def test_split_needs_a_share(self, folder, share):
        with pytest.raises(ValueError, match=f"share must be between 0 and 1, got {share}"):
            _set(folder).split(share)

    def test_split_needs_two_of_a_class(self, folder):
        with pytest.raises(DataError, match="2 images of 2 classes cannot be split"):
            _set(folder).subset([0, 11]).split(0.5)

    @pytest.mark.parametrize(
        ("error", "message", "change"),
        [
            (DataError, "not one image in the set", {"examples": []}),
            (DataError, "from 0 to 0, .* got 0 to 2", {"names": ["a"]}),
            (DataError, "got -1 to -1", {"examples": [Example(Path("x.png"), -1)]}),
            (ValueError, r"2 positive integers \(H, W\), got \(0, 4\)", {"size": (0, 4)}),
            (ValueError, "channels must be one of 1, 3, got 2", {"channels": 2}),
            (ValueError, "fit must be one of 'pad', .* got 'fill'", {"fit": "fill"}),
        ],
    )
    def test_arguments(self, folder, error, message, change):
        right = {"examples": _set(folder).examples, "names": ["a", "b", "c"], "size": (4, 4)}
        assert len(ImageSet(**right)) == 12
        with pytest.raises(error, match=message):
            ImageSet(**{**right, **change})
