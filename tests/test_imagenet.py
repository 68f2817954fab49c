"""The recipe of ImageNet, on a few made-up images."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch
from PIL import Image

from stn.cli import main
from stn.data import DataError, write_shards
from stn.data.image_set import Example, ImageSet
from stn.models import PartsSpec
from stn.recipes import make_experiment, run_experiment
from stn.recipes.imagenet import IMAGENET_MODELS, imagenet

NAMES = ("ant", "bee", "cat")


@pytest.fixture
def shards(tmp_path, monkeypatch):
    examples = []
    for row in range(12):
        pixels = np.random.default_rng(row).integers(256, size=(70, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{row}.png")
        examples.append(Example(tmp_path / f"{row}.png", row % 3))
    images = ImageSet(examples, NAMES, 64)
    few = images.subset(range(3))
    monkeypatch.setenv("STN_DATA", str(tmp_path))
    return write_shards({"train": images, "held-out": few, "test": few}, tmp_path / "imagenet", 4)


def test_faithful_is_the_usual_schedule(shards, monkeypatch):
    content = json.loads(shards.read_text())
    content["parts"]["train"]["counts"] = [1_281_167 - 8, 4, 4]
    shards.write_text(json.dumps(content))
    for model in IMAGENET_MODELS:
        made = make_experiment("imagenet", model, "faithful", seed=3)
        assert made.names == NAMES
        told = made.training
        assert told.steps == 90 * 1252
        assert told.steps * told.batch_size == pytest.approx(90 * 1_281_167, rel=1e-3)
        assert (told.lr, told.seed, told.evaluate_every) == (0.4, 3, 1252)
    plain, single, cascade = (make_experiment("imagenet", m, "faithful") for m in IMAGENET_MODELS)
    assert plain.net == PartsSpec((3, 224, 224), 3, "resnet50")
    assert (single.net.transform, single.net.steps, single.net.antialias) == ("affine", 1, False)
    assert dataclasses.replace(single.net, steps=2) == cascade.net


def test_it_has_no_best_column():
    with pytest.raises(ValueError, match="column must be one of 'quick', 'faithful', got 'best'"):
        make_experiment("imagenet", "resnet50", "best")


@pytest.mark.parametrize("model", IMAGENET_MODELS)
def test_quick_runs(shards, model, tmp_path):
    made = imagenet(model, "quick", 0)
    short = dataclasses.replace(made.training, steps=2, batch_size=4, evaluate_every=2)
    made = dataclasses.replace(made, training=short)
    results = run_experiment(made, tmp_path / "run", cpu=True)
    assert results["samples_seen"] == 8
    assert results["left_out"] == []
    assert 0 <= results["test_error_percent"] <= 100


def test_threads_change_no_batch(shards):
    made = imagenet("resnet50", "quick", 0)
    plain, threaded = (
        dataclasses.replace(made, workers=workers).load().batches(8, 5, made.augmentation)
        for workers in (0, 3)
    )
    expected = list(itertools.islice(plain(0, 1, 2), 12))
    for start in (0, 5):
        stream = threaded(start, 1, 2)
        for pair, wanted in zip(stream, expected[start:], strict=False):
            assert all(map(torch.equal, pair, wanted))
        stream.close()


def test_networks_start_as_resnet(shards):
    images = torch.rand(2, 3, 64, 64)
    for model in IMAGENET_MODELS[1:]:
        net = imagenet(model, "quick", 0).net.build().eval()
        with torch.no_grad():
            assert torch.allclose(net.transformer(images), images, atol=1e-5)


def test_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("STN_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"cannot be read.*stn data shards --from DIR --to .*net$"):
        imagenet("resnet50", "faithful", 0)
    assert main(["train", "imagenet", "--model", "st-cnn-multi"]) == 2
    assert "must be one of" in capsys.readouterr().err
