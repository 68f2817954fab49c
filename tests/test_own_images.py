"""Your own images, by one command: from a folder to a report; then eval, predict, shards."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from skimage import data as photos

import stn
from stn.cli import main
from stn.models import TENSORS, PartsSpec, count_parameters
from stn.recipes import ImageOptions, own_images, run_experiment
from stn.recipes.pictures import folder_sets

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
    assert 0 <= results["still_error_percent"] <= 100
    page = (run / "report.html").read_text()
    assert "coffee" in page
    guess = r"Always naming \w+, the most frequent class of 15 test images, would be wrong in 66.7"
    assert re.search(guess, page)
    assert not re.search(r"Paper, %|“Paper”|the paper", page)
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


def test_a_run_finds_its_images_from_another_folder(folder, tmp_path, monkeypatch, capsys):
    moved, place = shutil.copytree(folder, tmp_path / "photos"), tmp_path / "elsewhere"
    assert main(["train", "--data", "photos", "--out", "run", *SHORT, "--epochs", "1"]) == 0
    told = "3 classes: brick, coffee, grass; 51 to train on, 6 held out, 15 to test, canvas 32 px"
    assert capsys.readouterr().out.startswith(told)
    place.mkdir()
    monkeypatch.chdir(place)
    for command in ("eval", "report"):
        assert main([command, "../run"]) == 0
    moved.rename(tmp_path / "gone")
    for command in ("eval", "report"):
        assert main([command, "../run"]) == 2
        error = capsys.readouterr().err
        assert error == f"stn: the run's images, {moved}, are not here: pass --data DIR\n"
        assert main([command, "../run", "--data", "../gone"]) == 0


def test_eval_on_other_images(run, tmp_path, capsys):
    other = write_crops(tmp_path / "other", 12, seed=1)
    assert main(["eval", str(run), "--data", str(other)]) == 0
    assert "% of 36 images" in capsys.readouterr().out  # all of them
    parts = tmp_path / "parts"
    shutil.copytree(other, parts / "train")
    shutil.copytree(write_crops(tmp_path / "val", 1, seed=3), parts / "val")
    assert main(["eval", str(run), "--data", str(parts)]) == 0
    assert "% of 39 images" in capsys.readouterr().out
    shutil.copytree(write_crops(tmp_path / "test", 2, seed=2), parts / "test")
    assert main(["eval", str(run), "--data", str(parts)]) == 0
    assert "% of 6 images" in capsys.readouterr().out
    (tmp_path / "few" / "coffee").mkdir(parents=True)
    (tmp_path / "few" / "tea").mkdir()
    for name in ("coffee", "tea"):
        for number in range(3):
            source = other / "coffee" / f"{number}.png"
            (tmp_path / "few" / name / source.name).write_bytes(source.read_bytes())
    assert main(["eval", str(run), "--data", str(tmp_path / "few")]) == 2
    assert "has the classes coffee, tea" in capsys.readouterr().err


@pytest.mark.parametrize("split", ["test", "held-out"])
def test_eval_measures_no_image_trained_on(run, folder, tmp_path, capsys, split):
    assert main(["eval", str(run), "--split", split]) == 0
    wanted = capsys.readouterr().out
    table = tmp_path / "again.csv"
    rows = [f"{path},{path.parent.name}" for path in folder.rglob("*.png")]
    table.write_text("\n".join(["path,label", *rows]))
    moved = shutil.copytree(run, tmp_path / "run")
    config = (moved / "config.json").read_text()
    (moved / "config.json").write_text(config.replace(str(folder), "gone"))
    for place, data in ((run, folder), (run, table), (moved, folder)):
        assert main(["eval", str(place), "--split", split, "--data", str(data)]) == 0
        assert capsys.readouterr().out == wanted
    seen = tmp_path / "seen.csv"
    train = folder_sets(str(folder), (32, 32), "pad")[0]
    rows = [f"{path},{train.names[label]}" for path, label, _ in train.examples]
    seen.write_text("\n".join(["path,label", *rows]))
    assert main(["eval", str(run), "--data", str(seen)]) == 2
    assert f"the run has seen all {len(rows)} images there" in capsys.readouterr().err


def test_the_small_network_has_the_weights_that_are_told():
    small, twin = (PartsSpec((3, 64, 64), 10, transform=name) for name in ("none", "affine"))
    shares = [round(count_parameters(spec.build()) / 1e6, 1) for spec in (small, twin)]
    assert shares == [0.3, 0.4]
    told = "0.3 M weights, 0.4 M with an affine transformer"
    page = Path(__file__).parents[1] / "docs" / "own-images.md"
    assert told in page.read_text()
    assert told in str(ImageOptions.__doc__)


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
    assert "or leave it out by --damaged skip" in error
    assert main([*words, "--damaged", "skip"]) == 0
    (run,) = Path("runs").iterdir()
    (left,) = json.loads((run / "results.json").read_text())["left_out"]
    assert "7.png" in left


@pytest.mark.parametrize(
    ("options", "bad"),
    [
        ([], ["--backbone", "none"]),
        ([], ["--pretrained"]),
        (["--num", "2", "--backbone-epochs", "0.1"], ["--accumulate", "3"]),
    ],
)
def test_a_start_that_failed_leaves_the_folder_free(folder, options, bad):
    short = [*SHORT, "--epochs", "0.1", "--out", "run"]
    words = ["train", "--data", str(folder), *short, *options]
    assert main([*words, *bad]) == 2
    assert main(words) == 0
    assert main([*words, "--seed", "1"]) == 2  # trained, so kept


def test_of_a_training_that_runs_away_lr_is_the_way_out(folder, capsys):
    assert main(["train", "--data", str(folder), *SHORT, "--lr", "1e6"]) == 2
    error = capsys.readouterr().err
    assert "begin again with a lower --lr" in error
    assert "param_groups" not in error
    assert "localization_lr_factor" not in error


def test_shards_train_like_a_folder(folder, tmp_path, capsys):
    assert main(["data", "shards", "--from", str(folder), "--to", "shards"]) == 0
    index = Path("shards/shards.json")
    words = ["train", "--data", str(index), *SHORT, "--transform", "attention", "--num", "2"]
    assert main([*words, "--out", "run"]) == 0
    results = json.loads(Path("run/results.json").read_text())
    assert results["model"] == "2xst-small-attention"
    assert results["test_error_percent"] < 60
    assert Path("run/report.html").read_text().count('class="region of-1"') == 15  # the test set


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
    assert (made.backbone_training, made.net.localization) == (None, "small")


def test_several_windows_begin_with_a_backbone_that_has_seen_whole_images(folder):
    two = ImageOptions(transform="attention", num=2)
    made = own_images(str(folder), two, seed=3)
    assert made.backbone_training == replace(made.training, steps=150)
    assert made.net.localization == "backbone"
    asked = own_images(str(folder), replace(two, backbone_epochs=4))
    assert asked.backbone_training is not None
    assert asked.backbone_training.steps == 8
    for options in (replace(two, backbone_epochs=0), replace(two, pretrained=True)):
        assert own_images(str(folder), options).backbone_training is None
    with pytest.raises(ValueError, match="transform is 'none': choose a transform"):
        own_images(str(folder), ImageOptions(transform="none", backbone_epochs=1))


def test_a_break_while_the_backbone_learns_changes_nothing(folder, tmp_path):
    two = ImageOptions(size=32, transform="attention", num=2, batch_size=8)
    made = own_images(str(folder), two, epochs=2)
    assert made.backbone_training is not None
    steps = made.backbone_training.steps
    broken = []

    def power_cut(step, count, message):
        if not broken and (step, count) == (steps - 1, steps):
            broken.append(step)
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run_experiment(made, tmp_path / "broken", progress=power_cut)
    for name in ("broken", "whole"):
        results = run_experiment(made, tmp_path / name)
        assert results["samples_seen"] == 8 * (steps + made.training.steps)
    one, other = (load_file(tmp_path / name / TENSORS) for name in ("broken", "whole"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_streams_and_localization_begin_where_the_backbone_ended(folder, tmp_path):
    two = ImageOptions(size=32, transform="attention", num=2, batch_size=8)
    made = own_images(str(folder), two, epochs=2)
    run_experiment(replace(made, training=replace(made.training, steps=1, lr=1e-9)), tmp_path)
    (checkpoint,) = (tmp_path / "backbone/checkpoint").glob("step-*/state.safetensors")
    ended = load_file(checkpoint)["best/streams.0.0.0.0.weight"]
    state = load_file(tmp_path / TENSORS)
    for mine in ("streams.0", "streams.1", "transformer.localization.0.backbone"):
        torch.testing.assert_close(state[f"{mine}.0.0.0.weight"], ended, atol=1e-7, rtol=0)
