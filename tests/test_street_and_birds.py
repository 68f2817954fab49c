"""House numbers and birds: the paper's rows as recipes, a step of each, and from data to report."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from stn.cli import main
from stn.data import read_cub, read_cub_parts, read_svhn
from stn.evaluation import answer_loss
from stn.models import PartsSpec, SvhnSpec, load_model, read_spec
from stn.nn.transformer import ThetaHead
from stn.recipes import make_experiment
from stn.recipes.paper_pictures import CUB_MODELS, SVHN_MODELS
from stn.recipes.windows import part_hits
from stn.training import write_json
from stn.training.config import lr_factor, make_optimizer

from . import synthetic

LITE = PartsSpec((3, 224, 224), 200, "efficientnet-lite0", pretrained=True, dropout=0.7)
BIRDS = {
    "cnn": (224, 0),
    "2xst-cnn": (224, 2),
    "2xst-cnn-448": (448, 2),
    "4xst-cnn-448": (448, 4),
}


@pytest.fixture(autouse=True)
def data(monkeypatch, tmp_path):
    """$STN_DATA, empty."""
    monkeypatch.setenv("STN_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


@pytest.fixture
def birds(data):
    return write_birds(data / "cub", 200)


def write_birds(folder, classes):
    """What `read_cub` reads of the official folder, with one picture a class, half of them test."""
    rows = range(1, classes + 1)
    tables = {
        "images.txt": [f"{row} {row:03d}.Bird_{row}/a.jpg" for row in rows],
        "image_class_labels.txt": [f"{row} {row}" for row in rows],
        "train_test_split.txt": [f"{row} {row % 2}" for row in rows],
        "classes.txt": [f"{row} {row:03d}.Bird_{row}" for row in rows],
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in tables.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    return folder


def falls(training):
    """The steps at which the learning rate falls, each to a tenth."""
    rates = [lr_factor(training, step) for step in range(0, training.steps, 1000)]
    at = [k for k in range(1, len(rates)) if rates[k] != rates[k - 1]]
    for number, k in enumerate(at, 1):
        assert rates[k] == pytest.approx(0.1**number)
        assert lr_factor(training, 1000 * k - 1) == pytest.approx(0.1 ** (number - 1))
    return [1000 * k for k in at]


class TestRows:
    @pytest.mark.parametrize("model", SVHN_MODELS)
    @pytest.mark.parametrize("side", [64, 128])
    def test_house_numbers(self, side, model):
        made = make_experiment(f"svhn-{side}", model, "faithful", seed=3)
        assert made.net == SvhnSpec(model, (3, side, side), width=1, dropout=0.5, batch_norm=False)
        assert made.source == {64: "svhn", 128: "svhn-loose"}[side]
        assert (
            made.paper_error_percent
            == {
                64: {"cnn": 4.0, "st-cnn-single": 3.7, "st-cnn-multi": 3.6},
                128: {"cnn": 5.6, "st-cnn-single": 3.9, "st-cnn-multi": 3.9},
            }[side][model]
        )
        told = made.training
        assert (told.steps, told.batch_size, told.lr, told.seed) == (400_000, 128, 0.01, 3)
        assert (told.optimizer, told.weight_decay) == ("sgd", 5e-4)
        assert told.localization_lr_factor == 0.1
        assert falls(told) == [80_000, 160_000, 240_000, 320_000]

    @pytest.mark.parametrize("model", CUB_MODELS)
    def test_birds(self, birds, model):
        made = make_experiment("cub", model, "faithful", seed=3)
        side, num = BIRDS[model]
        windows = {
            "transform": "attention",
            "num": num,
            "scale": 0.5,
            "size": (224, 224),
            "localization": "backbone",
            "localization_px": 224,
        }
        assert made.net == replace(LITE, shape=(3, side, side), **(windows if num else {}))
        assert len(made.names) == 200
        assert made.names[6] == "Bird_7"
        assert (
            made.paper_error_percent
            == dict(zip(BIRDS, (17.7, 16.9, 16.1, 15.9), strict=True))[model]
        )
        told = made.training
        assert (told.steps, told.lr, told.seed) == (30_000, 0.1, 3)
        assert (told.optimizer, told.weight_decay) == ("sgd", 1e-5)
        assert told.localization_lr_factor == 1e-4
        assert falls(told) == [10_000, 20_000, 25_000]

    def test_birds_of_another_number_are_refused(self, data, capsys):
        write_birds(data / "cub", 199)
        assert main(["train", "cub", "--model", "cnn"]) == 2
        error = capsys.readouterr().err
        assert "cub has 199 classes, CUB-200-2011 has 200; unpack the official archive" in error

    def test_creatures_have_the_classes_of_their_folder(self, data):
        write_birds(data / "creatures", 9)
        assert make_experiment("creatures", "2xst-cnn").net.classes == 9

    def test_what_is_not_a_row(self, birds):
        for recipe in ("cub", "creatures", "svhn-64"):
            with pytest.raises(ValueError, match=f"{recipe} has no model 'st-cnn-tps'; it has cnn"):
                make_experiment(recipe, "st-cnn-tps")
        for recipe, column in (
            ("cub", "best"), ("svhn-64", "best"),
            ("creatures", "faithful"), ("street-numbers-128", "faithful"),
        ):  # fmt: skip
            told = f"{recipe} has no column '{column}'; it has quick"
            with pytest.raises(ValueError, match=told):
                make_experiment(recipe, "cnn", column)

    @pytest.mark.parametrize(
        ("side", "width", "steps", "rate"), [(64, 0.25, 2000, 1), (128, 0.125, 2500, 0.3)]
    )
    def test_quick_house_numbers(self, side, width, steps, rate):
        made = make_experiment(f"street-numbers-{side}", "st-cnn-multi")
        assert made.net == SvhnSpec(
            "st-cnn-multi",
            (3, side, side),
            width=width,
            dropout=0.0,
            batch_norm=True,
            localization_batch_norm=True,
        )
        assert (made.training.steps, made.training.batch_size) == (steps, 64)
        assert made.training.localization_lr_factor == rate


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("recipe", "model"),
    [
        ("svhn-64", "cnn"),
        ("svhn-64", "st-cnn-single"),
        ("svhn-64", "st-cnn-multi"),
        slow("svhn-128", "cnn"),
        slow("svhn-128", "st-cnn-single"),
        slow("svhn-128", "st-cnn-multi"),
        ("cub", "cnn"),
        ("cub", "2xst-cnn"),
        ("cub", "2xst-cnn-448"),
        slow("cub", "4xst-cnn-448"),
    ],
)
def test_a_step_at_full_size(birds, recipe, model):
    made = make_experiment(recipe, model, "faithful")
    network = made.net.build().train()
    heads = [module for module in network.modules() if isinstance(module, ThetaHead)]
    assert len(heads) == {"cnn": 0, "st-cnn-multi": 4}.get(model, 1)  # birds share one
    last = network.classifier if recipe == "cub" else network.heads
    before = last.weight.detach().clone()
    labels = torch.randint(len(made.names), (2,) if recipe == "cub" else (2, 5))
    optimizer = make_optimizer(network, made.training)
    loss = answer_loss(network(torch.rand(2, *made.net.shape)), labels)
    loss.backward()
    optimizer.step()
    assert loss.isfinite()
    assert not torch.equal(last.weight, before)
    for head in heads:  # from weights that are zero
        assert head.weight.any()
    for weight in network.parameters():
        assert weight.isfinite().all()


def short(recipe, model, lr=2e-3):
    """A file whose experiment is that of the quick column, for two steps of eight."""
    made = make_experiment(recipe, model, "quick")
    few = replace(made.training, steps=2, batch_size=8, evaluate_every=1, lr=lr)
    first = None if made.backbone_training is None else few
    short = replace(made, training=few, backbone_training=first)
    write_json(Path("short.json"), asdict(short))
    return ["train", "short.json", "--device", "cpu", "--threads", "1", "--out", "run"]


@pytest.fixture
def quiet_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def told_by(*words, capsys):
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
@pytest.mark.usefixtures("quiet_threads", "birds")
@pytest.mark.parametrize(
    ("recipe", "model", "made_data"),
    [
        *((f"svhn-{side}", model, "street-numbers") for side in (64, 128) for model in SVHN_MODELS),
        *(("cub", model, "creatures") for model in CUB_MODELS),
    ],
)
def test_every_row_of_the_paper_from_data_to_report(recipe, model, made_data, monkeypatch, capsys):
    """The paper's networks at full size on the stand-in of their data."""
    monkeypatch.setattr("stn.recipes.sets.load_mnist", synthetic.mnist)
    assert main(["data", made_data, "--count", "60"]) == 0
    made = make_experiment(recipe, model, "faithful")
    few = replace(made.training, steps=2, batch_size=2, evaluate_every=1)
    made = replace(made, data=f"@{made_data}", training=few)
    if recipe == "cub":
        names = make_experiment("creatures", "cnn").names
        made = replace(made, names=names, net=replace(made.net, classes=len(names)))
    write_json(Path("short.json"), asdict(made))
    options = ["--device", "cpu", "--threads", "1", "--out", "run"]
    assert main(["train", "short.json", *options]) == 0
    results = json.loads(Path("run/results.json").read_text())
    assert results["paper_error_percent"] == made.paper_error_percent
    assert ("parts" in results) == ("xst" in model)
    capsys.readouterr()
    assert main(["eval", "run"]) == 0
    assert f"test error: {results['test_error_percent']:.2f} %" in capsys.readouterr().out
    page = Path("run/report.html").read_text()
    assert ('class="region of-0"' in page) == ("st-" in model)


@pytest.mark.usefixtures("quiet_threads")
class TestFromDataToReport:
    def test_house_numbers(self, data, capsys):
        assert main(["data", "street-numbers", "--count", "20"]) == 0
        folder = data / "street-numbers"
        assert f"street-numbers is in {folder}" in capsys.readouterr().out
        assert len(list((folder / "train").glob("*.png"))) == 20
        assert len(list((folder / "test").glob("*.png"))) == 4
        assert main(short("street-numbers-64", "st-cnn-multi")) == 0
        results = json.loads(Path("run/results.json").read_text())
        assert (results["steps"], results["samples_seen"]) == (2, 16)
        assert results["paper_error_percent"] is None  # it is no SVHN
        assert "parts" not in results

        # As if it had learnt one number: that of the first test picture.
        labels = read_svhn(folder, 64, "test").labels
        weights = load_file("run/model.safetensors")
        weights["heads.weight"].zero_()
        weights["heads.bias"] = 9.0 * torch.eye(11)[labels[0]].flatten()
        save_file(weights, "run/model.safetensors")
        capsys.readouterr()
        assert main(["eval", "run"]) == 0
        error = 100 * (labels != labels[0]).any(1).double().mean().item()
        assert error > 0
        assert f"test error: {error:.2f} %" in capsys.readouterr().out

        picture = folder / "test" / "2.png"
        (told,) = told_by("predict", "run", str(picture), capsys=capsys)
        number = "".join(str(digit) for digit in labels[0].tolist() if digit < 10)
        assert told["label"] == number
        assert len(told["probabilities"]) == 5
        assert told["probabilities"][0][number[0]] == pytest.approx(
            torch.tensor([9.0, *[0.0] * 10]).softmax(0)[0].item()
        )
        (corners,) = told["regions"]
        width, height = Image.open(picture).size
        wanted = [[0, 0], [width, 0], [width, height], [0, height]]  # two steps hardly move it
        torch.testing.assert_close(
            torch.tensor(corners), torch.tensor(wanted).float(), atol=0.2 * width, rtol=0
        )
        assert Path("predictions/2.png").exists()

        assert main(["report", "run", "--examples", "3", "--output", "page.html"]) == 0
        page = Path("page.html").read_text()
        assert page.count('class="region of-0"') == 3
        assert number in page

    def test_creatures(self, data, capsys, monkeypatch):
        monkeypatch.setattr("stn.recipes.sets.load_mnist", synthetic.mnist)
        assert main(["data", "creatures", "--count", "60"]) == 0
        assert len(list((data / "creatures").rglob("*.jpg"))) == 80
        assert main(short("creatures", "2xst-cnn", 0.02)) == 0
        results = json.loads(Path("run/results.json").read_text())
        found = results["parts"]
        assert set(found) == {"contained", "by_window", "at_start", "spread_px"}
        assert set(found["contained"]) == {"head", "wing"}
        for name, share in found["contained"].items():
            assert max(found["by_window"][name]) <= share <= 100
            assert 0 < found["at_start"][name] < 100
        assert len(found["spread_px"]) == 2
        assert 0 < min(found["spread_px"]) <= max(found["spread_px"]) < 40
        parts = read_cub_parts(data / "creatures", "test")
        assert parts.sizes is not None
        reach = (parts.places - torch.tensor([[20.0, 40.0], [60.0, 40.0]])[:, None, None]).abs()
        held = (reach + parts.sizes / 2 <= 20).all(-1).any(0)  # two of 40 px side by side
        shares = (100 * held.double().mean(0)).tolist()
        assert list(found["at_start"].values()) == pytest.approx(shares)
        pictures, net = read_cub(data / "creatures", 80, "test"), read_spec(Path("run"))
        again = part_hits(load_model("run"), net, pictures, parts)
        assert again.pop("spread_px") == pytest.approx(found.pop("spread_px"), rel=1e-3)
        assert again == found

        capsys.readouterr()
        assert main(["eval", "run"]) == 0
        assert f"test error: {results['test_error_percent']:.2f} %" in capsys.readouterr().out
        picture = next((data / "creatures").rglob("test_*.jpg"))
        (told,) = told_by("predict", "run", str(picture), capsys=capsys)
        assert told["label"] in told["probabilities"]
        assert told["label"].startswith("head_")
        left, right = (torch.tensor(corners) for corners in told["regions"])
        torch.testing.assert_close(left.mean(0), torch.tensor([20.0, 40.0]), atol=10, rtol=0)
        torch.testing.assert_close(right.mean(0), torch.tensor([60.0, 40.0]), atol=10, rtol=0)
        sides = left[2] - left[0]  # of a fixed scale
        torch.testing.assert_close(sides, torch.tensor([40.0, 40.0]), atol=0.02, rtol=0)
        page = Path("run/report.html").read_text()
        assert page.count('class="region of-1"') == 20  # all that there are for test

    def test_a_network_without_windows_has_no_parts(self, data, monkeypatch):
        monkeypatch.setattr("stn.recipes.sets.load_mnist", synthetic.mnist)
        assert main(["data", "creatures", "--count", "60"]) == 0
        assert main([*short("creatures", "cnn"), "--no-report"]) == 0
        assert "parts" not in json.loads(Path("run/results.json").read_text())

    def test_too_few_to_make(self, capsys):
        assert main(["data", "street-numbers", "--count", "0"]) == 2
        assert "count must be at least 1, got 0" in capsys.readouterr().err
