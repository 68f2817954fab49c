"""Frames: theta of the same images all along a training, whether it was cut off or not."""

import os
import signal

import pytest
import torch
from torch import nn

import stn
from stn.recipes import run_experiment
from stn.training import Interrupted, read_frames, theta_recorder
from stn.training.frames import FRAMES, KEPT, WATCHED, ThetaRecorder

from . import synthetic


@pytest.fixture(scope="module")
def splits():
    return synthetic.splits()


def run(folder, splits, progress=None, **changes):
    made = synthetic.experiment(steps=20, every=5, **changes)
    return run_experiment(made, folder, splits, cpu=True, progress=progress)


def test_frames_run_from_the_start_to_the_end(tmp_path, splits):
    run(tmp_path, splits)
    found = read_frames(tmp_path)
    assert found is not None
    assert found.steps.tolist() == [0, 5, 10, 15, 20]
    assert found.theta.shape == (5, WATCHED, 6)
    assert not found.theta[0].any()  # the identity
    assert found.theta[1:].abs().amax((1, 2)).min() > 0
    assert found.images.shape == (KEPT, 1, 28, 28)


def test_a_frame_is_what_the_network_picks(tmp_path):
    model = synthetic.experiment("2xst-fcn-affine").net.build().train()
    layer = model.transformer
    assert layer is not None
    for head in layer.head:
        nn.init.normal_(head.weight, std=0.01)
    images = torch.rand(WATCHED + 9, 1, 28, 28)
    recorder = theta_recorder(model, lambda *_: [(images, torch.zeros(0))], tmp_path)
    assert recorder is not None
    for step in (0, 7):
        recorder(step, model)
    found = read_frames(tmp_path)
    assert found is not None
    assert model.training
    assert found.theta.shape == (2, WATCHED, 2, 6)
    torch.testing.assert_close(found.theta[1], layer.eval().theta(images[:WATCHED]))
    torch.testing.assert_close(found.images, images[:KEPT], atol=0.5 / 255 + 1e-6, rtol=0)


def test_a_training_that_was_cut_off_has_the_same_frames(tmp_path, splits):
    run(tmp_path / "whole", splits)

    def stop(step, steps, message):
        if step == 12:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        run(tmp_path / "cut", splits, progress=stop)
    # As if it had died between this frame and its checkpoint.
    recorder = theta_recorder(synthetic.experiment().net.build(), chunks, tmp_path / "cut")
    assert recorder is not None
    recorder(15, synthetic.experiment().net.build())
    run(tmp_path / "cut", splits)
    whole, cut = read_frames(tmp_path / "whole"), read_frames(tmp_path / "cut")
    assert whole is not None
    assert cut is not None
    for a, b in zip(whole, cut, strict=True):
        assert torch.equal(a, b)


def test_the_checkpoint_comes_before_the_look(tmp_path, splits, monkeypatch):
    look = ThetaRecorder.__call__

    def dies(recorder, step, model):
        if step == 10:
            raise OSError("no space left")
        look(recorder, step, model)

    with monkeypatch.context() as patch:
        patch.setattr(ThetaRecorder, "__call__", dies)
        with pytest.raises(OSError, match="no space left"):
            run(tmp_path, splits)
    assert (tmp_path / "checkpoint" / "step-10").exists()
    run(tmp_path, splits)
    found = read_frames(tmp_path)
    assert found is not None
    assert found.steps.tolist() == [0, 5, 10, 15, 20]  # looked again


def test_damaged_frames_end_no_training(tmp_path, splits):
    def damage(step, steps, message):
        if step == 12:
            (tmp_path / FRAMES).write_bytes(b"nonsense")

    with pytest.warns(UserWarning, match=r"frames\.safetensors is damaged; it begins anew"):
        run(tmp_path, splits, progress=damage)
    found = read_frames(tmp_path)
    assert found is not None
    assert found.steps.tolist() == [15, 20]


def chunks(part, parts):
    yield torch.rand(WATCHED, 1, 28, 28), torch.zeros(WATCHED)


def test_watching_changes_no_bit(tmp_path, splits, monkeypatch):
    run(tmp_path / "watched", splits)
    monkeypatch.setattr("stn.recipes.digits.theta_recorder", lambda *_: None)
    run(tmp_path / "alone", splits)
    assert not (tmp_path / "alone" / FRAMES).exists()
    a, b = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("watched", "alone"))
    assert a == b


def test_what_theta_alone_does_not_tell_is_not_recorded(tmp_path, splits):
    run(tmp_path, splits, model="fcn")
    assert read_frames(tmp_path) is None
    layer = stn.SpatialTransformer(stn.nn.DenseLocalization((1, 8, 8)), stn.LearnedBasis(2, (4, 4)))
    learns = nn.Module()
    learns.transformer = layer
    assert theta_recorder(learns, chunks, tmp_path) is None
    layer.transform = stn.Affine()
    assert theta_recorder(learns, chunks, tmp_path) is not None
    learns.stem = nn.Conv2d(1, 1, 3)
    assert theta_recorder(learns, chunks, tmp_path) is None


def test_damaged_frames_are_named(tmp_path):
    (tmp_path / FRAMES).write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"frames\.safetensors is damaged .* delete it"):
        read_frames(tmp_path)
