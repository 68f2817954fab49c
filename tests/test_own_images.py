"""Your own images, by one command: from a folder to a report; then eval, predict, shards."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as photos

import stn
from stn.cli import main
from stn.data import DataError, ImageSet, PictureStream, read_folder
from stn.data.image_set import Example
from stn.recipes import ImageOptions, own_images

CLASSES = ("brick", "coffee", "grass")
SHORT = ("--device", "cpu", "--threads", "1", "--batch-size", "8", "--size", "32", "--epochs", "12")


def write_crops(folder, each, side=40, seed=0):
    """Random crops of photos that come with scikit-image: their class is the photo's name."""
    rng = np.random.default_rng(seed)
    for name in CLASSES:
        photo = Image.fromarray(getattr(photos, name)()).convert("RGB")
        (folder / name).mkdir(parents=True)
        for number in range(each):
            x, y = (int(rng.integers(0, n - 80)) for n in photo.size)
            crop = photo.crop((x, y, x + 80, y + 80)).resize((side, side))
            crop.save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_crops(tmp_path_factory.mktemp("own") / "photos", 24)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    """What `stn train --data DIR` leaves."""
    place = tmp_path_factory.mktemp("run")
    done = subprocess.run(
        [sys.executable, "-m", "stn.cli", "train", "--data", str(folder), *SHORT],
        cwd=place, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (made,) = (place / "runs").iterdir()
    return made


def test_one_command_from_a_folder_to_a_report(run):
    assert run.name == "images-photos_st-small-affine_quick_0"
    results = json.loads((run / "results.json").read_text())
    assert results["test_error_percent"] < 40  # chance is 67
    page = (run / "report.html").read_text()
    assert "coffee" in page
    assert 'class="region of-0"' in page
    assert (run / f"{run.name}.png").exists()
    config = json.loads((run / "config.json").read_text())
    assert config["names"] == list(CLASSES)
    model = stn.load_model(run)
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 3)
    assert not any(module.training for module in model.modules())


def test_eval_and_a_second_run_say_the_same(run, folder, capsys):
    error = json.loads((run / "results.json").read_text())["test_error_percent"]
    assert main(["eval", str(run)]) == 0
    assert f"test error: {error:.2f} %" in capsys.readouterr().out
    assert main(["train", "--data", str(folder), "--out", "again", *SHORT]) == 0
    again = json.loads(Path("again/results.json").read_text())
    assert again["test_error_percent"] == error


def test_eval_on_other_images(run, tmp_path, capsys):
    other = write_crops(tmp_path / "other", 12, seed=1)
    assert main(["eval", str(run), "--data", str(other)]) == 0
    assert "test error" in capsys.readouterr().out
    (tmp_path / "few" / "coffee").mkdir(parents=True)
    (tmp_path / "few" / "tea").mkdir()
    for name in ("coffee", "tea"):
        for number in range(3):
            source = other / "coffee" / f"{number}.png"
            (tmp_path / "few" / name / source.name).write_bytes(source.read_bytes())
    assert main(["eval", str(run), "--data", str(tmp_path / "few")]) == 2
    assert "has the classes coffee, tea" in capsys.readouterr().err


def test_predict_names_draws_and_tells_where_it_looked(run, folder, tmp_path, capsys):
    large = tmp_path / "photo.jpg"
    Image.fromarray(photos.coffee()).save(large)
    small = folder / "grass" / "0.png"
    assert main(["predict", str(run), str(large), str(small), str(small), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [Path(one["image"]).name for one in told] == ["photo.jpg", "0.png", "0.png"]
    assert sorted(path.name for path in Path("predictions").iterdir()) == [
        "0-2.png", "0.png", "photo.png"
    ]  # fmt: skip
    for one in told:
        assert one["label"] in CLASSES
        assert sum(one["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert one["probability"] == pytest.approx(max(one["probabilities"].values()))
    height, width = photos.coffee().shape[:2]
    (corners,) = told[0]["regions"]
    # The canvas is square, the photo is not: the region hangs over its upper and lower edges.
    assert [x for x, _ in corners] == pytest.approx([0, width, width, 0], abs=0.25 * width)
    middle, half = height / 2, width / 2
    assert [y for _, y in corners] == pytest.approx(
        [middle - half, middle - half, middle + half, middle + half], abs=0.25 * width
    )
    assert main(["predict", str(run), str(large), "--output", "None"]) == 0
    assert capsys.readouterr().out.startswith(str(large))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: p.write_bytes((p.parent / "0.png").read_bytes()[:200]), "is damaged"),
        (lambda p: p.write_text("no image"), "is no image that can be read"),
    ],
)
def test_a_damaged_image_is_refused_or_skipped(tmp_path, capsys, write, message):
    folder = write_crops(tmp_path / "photos", 12)
    write(folder / "grass" / "7.png")
    words = ["train", "--data", str(folder), *SHORT, "--epochs", "1"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "7.png" in error
    assert main([*words, "--damaged", "skip", "--out", "skipped"]) == 0
    (left,) = json.loads(Path("skipped/results.json").read_text())["left_out"]
    assert "7.png" in left


def test_shards_train_like_a_folder(folder, tmp_path, capsys):
    assert main(["data", "shards", "--from", str(folder), "--to", "shards"]) == 0
    index = Path("shards/shards.json")
    words = ["train", "--data", str(index), *SHORT, "--transform", "attention", "--num", "2"]
    assert main([*words, "--out", "run"]) == 0
    results = json.loads(Path("run/results.json").read_text())
    assert results["model"] == "2xst-small-attention"
    assert results["test_error_percent"] < 60
    assert Path("run/report.html").read_text().count('class="region of-1"') == 12


def test_options_make_the_network_and_the_schedule(folder):
    made = own_images(str(folder), seed=3)
    assert made.net.shape == (3, 40, 40)  # the images' own size
    assert made.training.seed == 3
    # 51 of 72 are to train on: two batches of 25. 300 steps are more than 30 epochs of them.
    assert made.training.steps == 300
    assert own_images(str(folder), epochs=200).training.steps == 400
    many = own_images(
        str(folder),
        ImageOptions(backbone="resnet18", transform="similarity", steps_in_series=2, flip=True),
    )
    assert many.model == "st-resnet18-similarity-2steps"
    assert many.augmentation is not None
    assert many.augmentation.flip
    plain = own_images(str(folder), ImageOptions(transform="none", augment=False))
    assert plain.model == "small"
    assert plain.augmentation is None
    assert plain.net.build().transformer is None


def test_a_network_of_your_own_needs_trust(folder, tmp_path, capsys, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\ndef net():\n    return nn.Conv2d(3, 8, 3, stride=4)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["train", "--data", str(folder), *SHORT, "--backbone", "mine:net", "--epochs", "1"]
    assert main([*words, "--out", "run"]) == 0
    with pytest.raises(ValueError, match="would call mine:net"):
        stn.load_model("run")
    assert stn.load_model("run", trust_code=True)(torch.rand(1, 3, 32, 32)).shape == (1, 3)
    assert main(["eval", "run"]) == 2
    assert "--trust-code" in capsys.readouterr().err
    assert main(["eval", "run", "--trust-code"]) == 0


class TestStream:
    def pictures(self, folder):
        return read_folder(folder, (16, 16)).train

    @pytest.mark.parametrize("workers", [0, 2])
    def test_files_and_memory_give_the_same_batches(self, folder, workers):
        files = self.pictures(folder)
        read = PictureStream(files, 8, 1, workers=workers).batches(5)
        kept = PictureStream(files.in_memory(), 8, 1).batches(5)
        for _ in range(6):  # over the end of an epoch
            for a, b in zip(next(read), next(kept), strict=True):
                assert torch.equal(a, b)

    @pytest.mark.parametrize("parts", [2, 4])
    def test_parts_are_rows_of_the_whole(self, folder, parts):
        made = own_images(str(folder))
        stream = PictureStream(self.pictures(folder).in_memory(), 8, 0, made.augmentation)
        whole = stream.batches(3)
        cut = [stream.batches(3, part, parts) for part in range(parts)]
        for _ in range(4):
            images, labels = next(whole)
            shares = [next(share) for share in cut]
            assert torch.equal(images, torch.cat([x for x, _ in shares]))
            assert torch.equal(labels, torch.cat([y for _, y in shares]))

    def test_an_epoch_shows_every_picture_once(self, folder):
        stream = PictureStream(self.pictures(folder).in_memory(), 8, 0)
        batches = stream.batches()
        first = torch.cat([next(batches)[0] for _ in range(9)]).flatten(1)
        assert len(first.unique(dim=0)) == 72

    def test_a_batch_larger_than_the_set(self, folder):
        with pytest.raises(ValueError, match="from 1 to the number of training pictures, 72"):
            PictureStream(self.pictures(folder), 73, 0)


def test_answers_of_parts_are_split_at_large(tmp_path):
    path = tmp_path / "x.png"
    Image.new("RGB", (4, 4)).save(path)
    numbers = ImageSet([Example(path, (k % 10, 1)) for k in range(20)], [*"0123456789"], 4)
    train, apart = numbers.split(0.25)
    assert (len(train), len(apart)) == (15, 5)
    with pytest.raises(DataError, match="not one image"):
        ImageSet([], ["a"], 4)
