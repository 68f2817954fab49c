"""The loop: choices, checkpoints, and a kill in the middle that changes nothing."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from stn.data import Split
from stn.recipes import publish, read_experiment, run_experiment
from stn.training import CheckpointError, Interrupted, TrainingConfig, loop, read_metrics
from stn.training.config import lr_factor, make_optimizer

from . import synthetic

CHILD = """
import sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
import torch
torch.set_num_threads(1)
from tests import synthetic
from stn.recipes import run_experiment
run_experiment(synthetic.experiment(steps=40, every=5), Path({folder!r}), synthetic.splits(),
               cpu=True, progress=lambda *_: time.sleep({pause}))
"""


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def splits():
    return synthetic.splits()


def run(folder, splits, **changes):
    return run_experiment(synthetic.experiment(**changes), folder, splits, cpu=True)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def spawn(folder, pause):
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    code = CHILD.format(root=root, folder=str(folder), pause=pause)
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)


def wait_for_metrics(process, folder, count):
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        path = folder / "metrics.jsonl"
        if path.exists() and path.read_text().count("\n") >= count:
            return
        time.sleep(0.02)
    raise AssertionError(f"no {count} lines of metrics: {process.stderr.read().decode()[-2000:]}")


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT])
def test_a_stop_in_the_middle_changes_no_bit(tmp_path, splits, blow):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(whole, splits, steps=40, every=5)
    process = spawn(cut, pause=0.05)
    wait_for_metrics(process, cut, 2)
    time.sleep(0.12)  # into the steps after a checkpoint
    process.send_signal(blow)
    process.wait(60)
    assert process.returncode != 0
    assert not (cut / "results.json").exists()

    run(cut, splits, steps=40, every=5)
    expected, found = (load_file(folder / "model.safetensors") for folder in (whole, cut))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name
    assert [line["step"] for line in lines(cut)] == list(range(5, 41, 5))
    for a, b in zip(lines(whole), lines(cut), strict=True):
        assert a["held_out_error_percent"] == b["held_out_error_percent"]
    a, b = (json.loads((f / "results.json").read_text()) for f in (whole, cut))
    assert a["test_error_percent"] == b["test_error_percent"]


def test_learns(tmp_path, splits):
    results = run(tmp_path, splits, model="fcn", steps=120, every=60)
    assert results["test_error_percent"] < 50  # chance is 90
    assert lines(tmp_path)[-1]["train_loss"] < lines(tmp_path)[0]["train_loss"]


def test_results_hold_the_contract(tmp_path, splits):
    results = run(tmp_path, splits)
    wanted = "recipe model column seed test_error_percent parameters steps samples_seen seconds"
    assert set(wanted.split()) | {"commit", "device"} <= results.keys()
    assert results == json.loads((tmp_path / "results.json").read_text())
    assert results["samples_seen"] == 12 * 32
    assert set(results["pose"]) == {"before", "after"}
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "config.json", "metrics.jsonl", "model.safetensors", "results.json", "checkpoint",
        "frames.safetensors",
    }  # fmt: skip


def test_half_a_line_of_metrics_is_none(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 4}\n{"st')
    assert read_metrics(tmp_path) == [{"step": 4}]
    path.write_text('{"st\n{"step": 4}\n')
    with pytest.raises(ValueError, match=r"jsonl is damaged in line 1 .* delete that line"):
        read_metrics(tmp_path)


def test_best_weights_are_those_of_the_best_step(tmp_path, splits):
    results = run(tmp_path, splits, steps=40, every=5)
    errors = {line["step"]: line["held_out_error_percent"] for line in lines(tmp_path)}
    assert errors[results["best_step"]] == min(errors.values())
    assert results["held_out_error_percent"] == min(errors.values())


def test_two_transformers_in_parallel_are_measured_one_by_one(tmp_path, splits):
    model = {"model": "2xst-fcn-affine", "recipe": "mnist-addition", "budget": 300_000}
    results = run(tmp_path, splits, steps=2, **model)
    assert set(results["pose"]) == {
        *("before digit 0", "before digit 1"),
        *(f"after transformer {t} digit {d}" for t in (0, 1) for d in (0, 1)),
    }
    before = results["pose"]["before digit 0"]
    assert results["pose"]["after transformer 0 digit 0"]["centre_px"] == pytest.approx(
        before["centre_px"], rel=0.1
    )  # hardly trained, hardly moved


def test_a_results_file_says_all_that_its_run_needs(tmp_path, splits):
    first = run(tmp_path / "first", splits, model="st-fcn-tps")
    publish(tmp_path / "first", tmp_path / "result.json")
    again = run_experiment(
        read_experiment(tmp_path / "result.json"), tmp_path / "again", splits, cpu=True
    )
    for name in ("test_error_percent", "held_out_error_percent", "pose"):
        assert again[name] == first[name]
    (tmp_path / "result.json").write_text('{"config": {"net": 1}}')
    with pytest.raises(ValueError, match="is no results file of this version"):
        read_experiment(tmp_path / "result.json")


def test_bfloat16_changes_the_training_not_what_is_measured(tmp_path, splits, monkeypatch):
    monkeypatch.setattr(loop, "computes_bfloat16", lambda device: True)
    losses = []
    for precision in ("float32", "bfloat16"):
        made = synthetic.experiment(steps=4, every=4)
        made = replace(made, training=replace(made.training, precision=precision))
        folder = tmp_path / precision
        results = run_experiment(made, folder, splits, cpu=True)
        losses.append(lines(folder)[-1]["train_loss"])
        assert {t.dtype for t in load_file(folder / "model.safetensors").values()} <= {
            torch.float32,
            torch.int64,
        }
        assert 0 <= results["test_error_percent"] <= 100
        assert results["precision"] == precision
    assert 0 < abs(losses[0] - losses[1]) < 0.05 * losses[0]


def test_a_processor_without_bfloat16_trains_in_float32_and_says_so(tmp_path, splits, monkeypatch):
    monkeypatch.setattr(loop, "computes_bfloat16", lambda device: False)
    made = synthetic.experiment(steps=4, every=4)
    half = replace(made, training=replace(made.training, precision="bfloat16"))
    with pytest.warns(UserWarning, match="does not compute in bfloat16: training in float32"):
        told = run_experiment(half, tmp_path / "told", splits, cpu=True)
    assert told["precision"] == "float32"
    whole = run_experiment(made, tmp_path / "whole", splits, cpu=True)
    assert told["held_out_error_percent"] == whole["held_out_error_percent"]


def test_half_precision_keeps_channels_last_with_one_channel_too(tmp_path, splits, monkeypatch):
    monkeypatch.setattr(loop, "computes_bfloat16", lambda device: True)
    made = synthetic.experiment(model="st-cnn-affine", steps=1, every=1)
    made = replace(made, training=replace(made.training, precision="bfloat16"))
    planar = []

    def look(module, _, output):
        half = output.dtype == torch.bfloat16 and isinstance(module, torch.nn.Conv2d)
        if half and not output.is_contiguous(memory_format=torch.channels_last):
            planar.append(module)

    hook = torch.nn.modules.module.register_module_forward_hook(look)
    try:
        run_experiment(made, tmp_path, splits, cpu=True)
    finally:
        hook.remove()
    assert not planar


def test_going_on_with_convolutions_in_bfloat16_changes_no_bit(tmp_path, splits, monkeypatch):
    monkeypatch.setattr(loop, "computes_bfloat16", lambda device: True)
    made = synthetic.experiment(model="st-cnn-affine", steps=6, every=3)
    made = replace(made, training=replace(made.training, precision="bfloat16"))

    def stop(step, *_):
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_experiment(made, tmp_path / "cut", splits, cpu=True, progress=stop)
    for name in ("cut", "whole"):
        run_experiment(made, tmp_path / name, splits, cpu=True)
    expected, found = (load_file(tmp_path / f / "model.safetensors") for f in ("whole", "cut"))
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


def test_volumes_are_measured_chunk_by_chunk(tmp_path, splits):
    few = splits._replace(
        train=Split(*(t[:40] for t in splits.train)),
        held_out=Split(*(t[:8] for t in splits.held_out)),
        test=Split(*(t[:24] for t in splits.test)),
    )
    results = run(tmp_path, few, recipe="mnist-volumes", steps=1, every=1, budget=400_000)
    assert set(results["pose"]) == {"before", "after"}
    assert 25 < results["pose"]["before"]["angle_deg"] < 60


def test_a_finished_run_is_not_run_again(tmp_path, splits, monkeypatch):
    first = run(tmp_path, splits)
    monkeypatch.setattr("stn.recipes.digits.train", lambda *_: pytest.fail("trained again"))
    assert run(tmp_path, splits) == first


def test_the_test_set_is_read_once(tmp_path, splits, monkeypatch):
    from stn.recipes import digits

    seen = []
    frozen = digits.frozen_digits

    def watched(distortion, splits, part, *rest):
        seen.append((part, (tmp_path / "model.safetensors").exists()))
        return frozen(distortion, splits, part, *rest)

    monkeypatch.setattr(digits, "frozen_digits", watched)
    run(tmp_path, splits)
    assert seen == [("held-out", False), ("test", True)]


def test_another_experiment_in_the_folder(tmp_path, splits):
    run(tmp_path, splits)
    with pytest.raises(ValueError, match=r"holds another experiment \(it differs in training\)"):
        run(tmp_path, splits, steps=13)


@pytest.mark.parametrize("name", ["state.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "gone", "garbage"])
def test_a_damaged_checkpoint_is_named(tmp_path, splits, name, damage):
    run(tmp_path, splits)
    (tmp_path / "results.json").unlink()
    path = next((tmp_path / "checkpoint").glob("step-*")) / name
    if damage == "gone":
        path.unlink()
    else:
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2] if damage == "cut" else b"\x00" * 64)
    with pytest.raises(CheckpointError, match=r"step-12 is damaged .* delete it to start again"):
        run(tmp_path, splits)


def test_a_checkpoint_of_another_network(tmp_path, splits):
    run(tmp_path, splits)
    (tmp_path / "results.json").unlink()
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match="belongs to another network"):
        run(tmp_path, splits, model="fcn")


def test_a_loss_that_is_not_finite(tmp_path, splits):
    made = synthetic.experiment(model="fcn", steps=8, every=4)
    made = replace(
        made, training=replace(made.training, lr=1e30, clip_norm=0.0, schedule="constant")
    )
    with pytest.raises(FloatingPointError, match="lower lr"):
        run_experiment(made, tmp_path, splits, cpu=True)
    assert not (tmp_path / "results.json").exists()


def test_interrupted_is_an_interrupt():
    assert issubclass(Interrupted, KeyboardInterrupt)


class TestConfig:
    def test_one_cycle(self):
        config = TrainingConfig(steps=100)
        factors = [lr_factor(config, step) for step in range(100)]
        assert factors[0] == pytest.approx(1 / 20)
        assert max(factors) == factors[19] == factors[20] == 1.0
        assert factors[-1] < 0.01
        assert all(a <= b for a, b in itertools.pairwise(factors[:20]))
        assert all(a >= b for a, b in itertools.pairwise(factors[20:]))

    def test_staircase(self):
        config = TrainingConfig(steps=9, schedule="staircase")
        factors = [lr_factor(config, step) for step in range(9)]
        assert factors == pytest.approx([1] * 3 + [0.1] * 3 + [0.01] * 3)

    def test_the_localization_has_its_own_rate(self):
        model = synthetic.experiment().net.build()
        config = TrainingConfig(steps=1, lr=0.5, localization_lr_factor=0.1)
        rest, slow = make_optimizer(model, config).param_groups
        assert (rest["peak"], slow["peak"]) == (0.5, 0.05)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"steps": 0}, "steps must be at least 1, got 0"),
            ({"lr": -1.0}, "lr must be positive, got -1.0"),
            ({"optimizer": "adam"}, "optimizer must be one of 'adamw', 'sgd', got 'adam'"),
        ],
    )
    def test_errors(self, change, message):
        with pytest.raises(ValueError, match=message):
            TrainingConfig(**({"steps": 1} | change))
