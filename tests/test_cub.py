"""CUB's folder: read, refused, and made."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from stn.data import DataError
from stn.data.creatures import write_creatures
from stn.data.cub import read_cub, read_cub_parts, to_canvas

TABLES = {
    "images.txt": "1 001.Auk/a.jpg\n2 001.Auk/b.jpg\n3 002.Gull/c.jpg\n4 002.Gull/d.jpg\n",
    "image_class_labels.txt": "1 1\n2 1\n3 2\n4 2\n",
    "train_test_split.txt": "1 0\n2 1\n3 0\n4 1\n",
    "classes.txt": "1 001.Auk\n2 002.Gull\n",
    "bounding_boxes.txt": "1 2.0 3.0 10.0 5.0\n2 0 0 1 1\n3 4.5 1.0 20.0 6.0\n4 0 0 1 1\n",
    "parts/parts.txt": "1 beak\n2 left eye\n",
    "parts/part_locs.txt": (
        "1 1 3.5 4.0 1\n1 2 0.0 0.0 0\n2 1 1 1 1\n2 2 1 1 1\n"
        "3 1 9.0 2.0 1\n3 2 8.0 1.0 1\n4 1 1 1 1\n4 2 1 1 1\n"
    ),
}
SIZES = {"a": (30, 20), "b": (31, 21), "c": (40, 10), "d": (12, 13)}  # (W, H)


@pytest.fixture
def folder(tmp_path):
    for name, text in TABLES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    for line in TABLES["images.txt"].splitlines():
        path = tmp_path / "images" / line.split()[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZES[path.stem], (len(path.name), 90, 200)).save(path)
    return tmp_path


def blocks(seed=0, labels=(0, 1), each=6):
    """Images (N, 28, 28) that are each a block of its own size, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.zeros(len(labels) * each, 28, 28, dtype=torch.uint8)
    for image in images:
        height, width = torch.randint(8, 21, (2,), generator=generator).tolist()
        image[4 : 4 + height, 5 : 5 + width] = 255
    return images, torch.tensor(labels).repeat_interleave(each)


def made(folder, count=16, seed=3, side_px=96):
    grey = [np.full((60, 80, 3), 40, np.uint8)]
    heads, wings = blocks(0), blocks(1, (5, 7))
    return write_creatures(folder, heads, wings, count, seed, side_px, textures=grey)


class TestReading:
    def test_a_part_of_the_split_with_its_classes(self, folder):
        train, test = read_cub(folder, 16), read_cub(str(folder), (16, 24), "test")
        assert train.names == test.names == ("Auk", "Gull")
        assert [example.path.name for example in train.examples] == ["b.jpg", "d.jpg"]
        assert [example.path.name for example in test.examples] == ["a.jpg", "c.jpg"]
        assert test.labels.tolist() == [0, 1]
        assert test.shape == (3, 16, 24)
        assert all(example.box is None for example in test.examples)  # nothing but the class helps

    def test_boxes_and_parts_in_the_same_order(self, folder):
        parts = read_cub_parts(folder)
        assert parts.boxes.tolist() == [[2, 3, 12, 8], [4.5, 1, 24.5, 7]]
        assert parts.places.tolist() == [[[3.5, 4], [0, 0]], [[9, 2], [8, 1]]]
        assert parts.visible.tolist() == [[True, False], [True, True]]
        assert parts.image_sizes.tolist() == [[20, 30], [10, 40]]
        assert parts.names == ("beak", "left eye")
        assert parts.sizes is None
        assert read_cub_parts(folder, "train").image_sizes.tolist() == [[21, 31], [13, 12]]

    @pytest.mark.parametrize("name", TABLES)
    def test_a_missing_file_is_named_with_the_way_out(self, folder, name):
        (folder / name).unlink()
        with pytest.raises(DataError, match=f"has no {name}: .*CUB_200_2011.tgz.*stn data cub"):
            read_cub(folder, 16), read_cub_parts(folder)

    @pytest.mark.parametrize(
        ("name", "line", "message"),
        [
            ("images.txt", "5", "images.txt, line 5, must hold image id, file, got '5'"),
            ("images.txt", "4 again.jpg", "line 5, has the id 4 for the second time"),
            ("images.txt", "5 002.Gull/e.jpg", "train_test_split.txt lacks 1 ids .* first of them"),
            ("train_test_split.txt", "5 2", "line 5, must hold image id, 0 or 1, got '5 2'"),
            ("train_test_split.txt", "5 1", "images.txt lacks 1 ids .*, the first of them 5"),
            ("image_class_labels.txt", "x 1", "line 5, must hold image id, class id, got 'x 1'"),
            ("bounding_boxes.txt", "5 1 2 nan 4", "line 5, must hold image id, x, y, width"),
            ("bounding_boxes.txt", "5 1 2 3 4 5", "line 5, must hold image id, x, y, width"),
            ("parts/part_locs.txt", "1 2 0 0 1", "line 9, has the id 1 2 for the second time"),
            ("parts/parts.txt", "3 tail", "part_locs.txt lacks 2 ids .* the first of them 1 3"),
        ],
    )
    def test_a_line_that_is_wrong_is_named(self, folder, name, line, message):
        with (folder / name).open("a") as file:
            file.write(line)
        with pytest.raises(DataError, match=message):
            read_cub(folder, 16), read_cub_parts(folder)

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("image_class_labels.txt", "1 1\n2 1\n3 2\n", "class_labels.txt lacks 1 ids .* 4;"),
            ("image_class_labels.txt", "1 1\n2 1\n3 2\n4 9\n", "classes.txt lacks 1 ids .* 9;"),
            ("train_test_split.txt", "1 0\n2 0\n3 0\n4 0\n", "has no images to train"),
        ],
    )
    def test_tables_that_do_not_match(self, folder, name, text, message):
        (folder / name).write_text(text)
        with pytest.raises(DataError, match=message):
            read_cub(folder, 16)

    def test_a_missing_or_damaged_image_is_named(self, folder):
        (folder / "images/001.Auk/a.jpg").unlink()
        with pytest.raises(DataError, match=r"001.Auk/a.jpg does not exist"):
            read_cub_parts(folder)
        (folder / "images/001.Auk/a.jpg").write_bytes(b"no image")
        with pytest.raises(DataError, match=r"001.Auk/a.jpg is no image"):
            read_cub_parts(folder)

    def test_part_and_fit_are_checked(self, folder):
        with pytest.raises(ValueError, match="part must be one of 'train', 'test', got 'val'"):
            read_cub(folder, 16, "val")
        with pytest.raises(ValueError, match="fit must be one of"):
            to_canvas(torch.zeros(2), (4, 4), 8, "fill")


@pytest.mark.parametrize("fit", ["pad", "stretch", "crop"])
@pytest.mark.parametrize("size", [(61, 47), (40, 97)])
def test_points_go_where_pictures_go(folder, fit, size):
    """A white square on black, found again on the canvas; and sizes broadcast."""
    path, centre = folder / "images/001.Auk/a.jpg", torch.tensor([88.0, 60.0])
    pixels = np.zeros((90, 131, 3), np.uint8)
    pixels[52:68, 80:96] = 255
    Image.fromarray(pixels).save(path, quality=100)
    canvas = read_cub(folder, size, "test", fit)[0][0].double()
    across, down = torch.arange(size[1]) + 0.5, torch.arange(size[0]) + 0.5
    found = torch.stack([(canvas.sum(0) * across).sum(), (canvas.sum(1) * down).sum()])
    found = (found / canvas.sum()).float()
    torch.testing.assert_close(to_canvas(centre, (90, 131), size, fit), found, atol=0.1, rtol=0)
    many = to_canvas(centre.expand(2, 5, 2), torch.tensor([[[90, 131]], [[45, 131]]]), size, fit)
    assert many.shape == (2, 5, 2)
    torch.testing.assert_close(many[0, 3], found, atol=0.1, rtol=0)
    assert (many[1, 3] - found).abs().max() > 0.5  # another image, another place


class TestCreatures:
    def test_the_folder_is_read_as_cub_is(self, tmp_path):
        folder = made(tmp_path / "made")
        train, test = read_cub(folder, 96), read_cub(folder, 96, "test")
        assert train.names == ("head_0_wing_5", "head_0_wing_7", "head_1_wing_5", "head_1_wing_7")
        assert train.labels.bincount().tolist() == test.labels.bincount().tolist() == [2] * 4
        assert train[0].shape == (3, 96, 96)
        assert "Made, not photographed" in (folder / "README").read_text()
        assert not list(tmp_path.glob(".*"))

    def test_parts_are_where_the_tables_say(self, tmp_path):
        folder = made(tmp_path / "made", count=40)
        parts, images = read_cub_parts(folder), read_cub(folder, 96, "test")
        assert parts.names == ("head", "wing")
        assert parts.sizes is not None
        assert parts.visible.all()
        long = parts.sizes.amax(-1)
        assert long.min() >= 0.17 * 96
        assert long.max() <= 0.23 * 96
        low, high = parts.places - parts.sizes / 2, parts.places + parts.sizes / 2
        assert (low >= parts.boxes[:, None, :2] - 0.01).all()
        assert (high <= parts.boxes[:, None, 2:] + 0.01).all()
        assert parts.boxes.min() >= 0
        assert parts.boxes.max() <= 96
        for image, corners in zip(images, torch.cat([low, high], -1), strict=True):
            for x0, y0, x1, y1 in corners.int().tolist():
                inside = image[:, y0:y1, x0:x1].float().mean(0)
                around = image[:, max(y0 - 2, 0) : y1 + 2, max(x0 - 2, 0) : x1 + 2].float().mean(0)
                ring = (around.sum() - inside.sum()) / (around.numel() - inside.numel())
                assert inside.mean() > ring + 50  # a light block on a dark disc

    def test_the_same_arguments_give_the_same_folder(self, tmp_path):
        def digest(folder):
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            contents = ((str(f.relative_to(folder)), f.read_bytes()) for f in files)
            return hashlib.sha256(repr(list(contents)).encode()).hexdigest()

        first = digest(made(tmp_path / "a"))
        assert digest(made(tmp_path / "b")) == first
        assert digest(made(tmp_path / "c", seed=4)) != first

    def test_training_and_test_show_other_images(self, tmp_path):
        """Each label has a disc and a bar, which the parts' sizes tell apart, turned or not."""
        y, x = torch.meshgrid(torch.arange(28), torch.arange(28), indexing="ij")
        disc, bar = (x - 14) ** 2 + (y - 14) ** 2 < 100, (x - 14).abs() < 2
        images = torch.stack([disc, bar, disc, bar]).to(torch.uint8) * 255
        heads = images, torch.tensor([0, 0, 1, 1])
        folder = write_creatures(tmp_path / "made", heads, blocks(), 80)
        for label in (0, 1):
            kinds = []
            for part in ("train", "test"):
                sizes, labels = read_cub_parts(folder, part).sizes, read_cub(folder, 8, part).labels
                assert sizes is not None
                mine = sizes[labels // 2 == label, 0]
                round_ones = mine.amin(-1) > 0.8 * mine.amax(-1)
                assert len(mine) == 20
                assert round_ones.all() or not round_ones.any()
                kinds.append(bool(round_ones[0]))
            assert kinds[0] != kinds[1]

    def test_backgrounds_without_textures(self, tmp_path, monkeypatch):
        photos = write_creatures(tmp_path / "photos", blocks(), blocks(), 8, side_px=48)
        monkeypatch.setattr("stn.data.textures.find_spec", lambda name: None)
        noise = write_creatures(tmp_path / "noise", blocks(), blocks(), 8, side_px=48)
        first, second = (read_cub(folder, 48)[0].float() for folder in (photos, noise))
        assert (first - second).abs().mean() > 5
        assert second.std() > 5

    def test_written_whole_or_not_at_all(self, tmp_path, monkeypatch):
        save, saved = Image.Image.save, []

        def failing(image, path, **options):
            if len(saved) == 5:
                raise OSError("the disk is full")
            saved.append(path)
            save(image, path, **options)

        monkeypatch.setattr(Image.Image, "save", failing)
        with pytest.raises(OSError, match="the disk is full"):
            made(tmp_path / "made")
        assert not list(tmp_path.iterdir())

    def test_what_is_wrong_is_said(self, tmp_path):
        (tmp_path / "used").mkdir()
        (tmp_path / "used" / "mine.txt").touch()
        with pytest.raises(ValueError, match="used exists and is not an empty folder"):
            made(tmp_path / "used")
        with pytest.raises(ValueError, match=r"each of 4 classes .* got 96 and 7"):
            made(tmp_path / "made", count=7)
        with pytest.raises(ValueError, match="side_px must be at least 32"):
            made(tmp_path / "made", side_px=16)
        with pytest.raises(ValueError, match="test_share must be between 0 and 1, got 1"):
            write_creatures(tmp_path / "made", blocks(), blocks(), 8, test_share=1)
        with pytest.raises(ValueError, match="label 0 needs two images"):
            write_creatures(tmp_path / "made", blocks(each=1), blocks(), 8)
        grey = [np.zeros((9, 9), np.uint8)]
        with pytest.raises(ValueError, match=r"textures must be uint8 arrays \(H, W, 3\)"):
            write_creatures(tmp_path / "made", blocks(), blocks(), 8, textures=grey)
        assert [path.name for path in tmp_path.iterdir()] == ["used"]
