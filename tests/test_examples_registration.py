"""The two registration examples find what is known, on small pictures."""

import gzip
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data, transform

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def photos():
    return runpy.run_path(str(EXAMPLES / "register_photos.py"))


@pytest.fixture(scope="module")
def fashion():
    return runpy.run_path(str(EXAMPLES / "register_fashion.py"))


def numbers(line: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d[\d.e+-]*", line)]


def test_a_photo_is_found_from_corners_moved_by_a_seventh_of_the_width(
    photos, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    photos["main"](starts=1)
    start, before, mean, worst, _ = numbers(capsys.readouterr().out.splitlines()[1])
    assert start == 0
    assert before == pytest.approx(0.15 * 512, abs=0.1)
    assert mean <= worst < 0.3
    assert Image.open("register_photos.png").size == (1024, 1024)


MATRIX = np.array([[0.8, -0.2, 40.0], [0.2, 0.95, -12.0], [0.0004, 0.0, 1.0]])  # px, 1 to 3


@pytest.fixture
def wall(tmp_path) -> Path:
    """A folder as opencv-doc's: a photo, and what scikit-image makes of it by MATRIX."""
    photo = data.astronaut()[:256, 128:448]
    there = transform.ProjectiveTransform(matrix=MATRIX)
    seen = transform.warp(photo, there.inverse, order=1, mode="edge", preserve_range=True)
    Image.fromarray(photo).save(tmp_path / "graf1.png")
    Image.fromarray(seen.round().astype(np.uint8)).save(tmp_path / "graf3.png")
    text = " ".join(str(n) for n in MATRIX.flatten())
    xml = f"<opencv_storage><H13><rows>3</rows><data>\n{text}</data></H13></opencv_storage>"
    (tmp_path / "H1to3p.xml").write_text(xml)
    return tmp_path


def test_a_folder_is_read_and_its_homography_found(photos, wall):
    fixed, moving, true = photos["wall"](wall)
    corners = np.array([[0, 0, 1], [319, 0, 1], [319, 255, 1], [0, 255, 1]]) @ MATRIX.T
    expected = torch.tensor(corners[:, :2] / corners[:, 2:])
    torch.testing.assert_close(photos["corners_px"](true, moving)[0], expected, rtol=0, atol=1e-3)

    start = photos["moved_start"](1, true, fixed, moving)
    found = photos["register"](fixed, moving, start)
    off = (photos["corners_px"](found, moving)[0] - expected).norm(dim=-1)
    assert off.max() < 1


def write_idx(path: Path, values: np.ndarray) -> None:
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes()))


@pytest.fixture
def garments(tmp_path) -> Path:
    """Discs of ten sizes, three of each, at slightly different places, as Fashion-MNIST's files."""
    rng = np.random.default_rng(0)
    labels = np.arange(30) % 10
    x, y = rng.uniform(11, 17, (2, 30, 1, 1))
    rows, columns = np.mgrid[:28, :28]
    away = np.hypot(columns - x, rows - y)
    images = 255 / (1 + np.exp(2 * (away - 4 - labels[:, None, None] / 3)))
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", images)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", labels)
    return tmp_path


def test_pairs_are_of_one_class(fashion, garments):
    moving, fixed = fashion["garments"](garments, 10)
    assert moving.shape == fixed.shape == (10, 1, 28, 28)
    sizes = moving.mean((1, 2, 3))
    torch.testing.assert_close(fixed.mean((1, 2, 3)), sizes, rtol=0.05, atol=0)
    assert (moving - fixed).abs().flatten(1).amax(1).min() > 0.1  # two garments, not one twice


def test_a_velocity_bends_them_alike_and_does_not_fold(fashion, garments, capsys):
    fashion["main"](str(garments), pairs=4, weights=(0.01,))
    first, _, velocity, displacement = capsys.readouterr().out.splitlines()
    before = numbers(first)[1]
    _, alike, folds, share, least, _ = numbers(velocity)
    assert before < 0.95 < alike
    assert folds == share == 0 < least
    assert numbers(displacement)[1] > before


def test_faces_come_in_pairs(fashion):
    moving, fixed = fashion["faces"](5)
    assert moving.shape == fixed.shape == (5, 1, 25, 25)
    assert torch.equal(moving[:-1], fixed[1:])
