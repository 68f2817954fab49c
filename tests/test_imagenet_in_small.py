"""The example that makes ImageNet's recipe pictures to run on."""

import csv
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stn.data import read_folder

EXAMPLE = Path(__file__).parent.parent / "examples" / "imagenet_in_small.py"


@pytest.fixture
def example():
    return runpy.run_path(str(EXAMPLE))


@pytest.mark.parametrize("seed", range(5))
def test_the_box_is_where_the_thing_lies(example, seed):
    white, black = Image.new("L", (80, 60), 255), Image.new("L", (64, 64))
    picture, (x0, y0, x1, y1) = example["compose"](white, [black] * 4, np.random.default_rng(seed))
    seen = Image.fromarray(np.asarray(picture).max(-1) > 60).getbbox()
    assert np.abs(np.subtract(seen, (x0, y0, x1, y1))).max() <= 1
    assert 0 <= x0 < x1 <= 64
    assert 0 <= y0 < y1 <= 64


def test_a_folder_of_classes_is_written_with_its_boxes(example, tmp_path, monkeypatch):
    folder = tmp_path / "photos"
    monkeypatch.setitem(example["main"].__globals__, "COUNTS", {"train": 16, "test": 8})
    monkeypatch.setattr("sys.argv", ["", str(folder)])
    example["main"]()
    read = read_folder(folder, 64)
    assert read.test is not None
    assert len(read.train) == 16
    assert len(read.test) == 8
    assert len(read.train.names) == 8
    with (folder / "boxes.csv").open(newline="") as file:
        assert all((folder / row["path"]).is_file() for row in csv.DictReader(file))
    with pytest.raises(SystemExit, match="name a new folder"):
        example["main"]()
