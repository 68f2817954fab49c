"""Many processes under torchrun: the same losses, the same evaluation, and the loss of one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from stn import load_model
from stn.data import frozen_set
from stn.evaluation import error_percent, in_chunks

from . import synthetic

ROOT = Path(__file__).parents[1]
# No batch norm: its statistics are those of one process's share. AdamW in float64: in float32 it
# would blow up the rounding of a gradient that is zero; SGD does not. Every step is measured.
CHILD = """
import sys, time
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, {root!r})
import torch
torch.set_num_threads(1)
from tests import synthetic
from stn.models import NetSpec
from stn.recipes import run_experiment
made = synthetic.experiment(steps={steps}, every={every})
training = replace(made.training, accumulate={accumulate}, optimizer={optimizer!r})
if training.optimizer == "sgd":
    training = replace(training, lr=0.1, momentum=0.9)
else:
    build = NetSpec.build
    NetSpec.build = lambda spec: build(spec).double()
    torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, values: tuple(value.double() for value in values)
    )
made = replace(made, net=replace(made.net, batch_norm=False), training=training)
try:
    run_experiment(made, Path({folder!r}), synthetic.splits(), cpu=True,
                   progress=lambda *_: time.sleep({pause}))
except RuntimeError as error:
    print(type(error).__name__, error, file=sys.stderr, flush=True)
    sys.exit(2)
"""
EVALUATE = """
import os, sys
sys.path.insert(0, {root!r})
from tests import synthetic
from stn import load_model
from stn.data import frozen_set
from stn.evaluation import error_percent, in_chunks
from stn.training import Processes
processes = Processes(cpu=True)
images, labels, _ = frozen_set(*synthetic.splits().held_out, "r", 0)
chunks = in_chunks(images[:4321], labels[:4321], 100)(processes.rank, processes.count)
error = error_percent(load_model({folder!r}), chunks, processes.total)
line = f"{{processes.rank}} {{processes.count}} {{error!r}}\\n"
os.write(2, line.encode())  # at once: print would mix the lines of two processes
processes.close()
"""


def start(folder, processes, steps=50, every=1, pause=0.0, accumulate=1, optimizer="adamw"):
    values = {"steps": steps, "every": every, "pause": pause, "accumulate": accumulate}
    values["optimizer"] = optimizer
    return spawn(CHILD.format(root=str(ROOT), folder=str(folder), **values), folder, processes)


def spawn(code, folder, processes):
    script = folder.with_suffix(".py")
    script.write_text(code)
    words = [sys.executable]
    if processes > 1:
        words += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    with folder.with_suffix(".log").open("a") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen([*words, str(script)], stderr=log, env=environment)


def run(folder, processes, **changes):
    process = start(folder, processes, **changes)
    assert process.wait(240) == 0, folder.with_suffix(".log").read_text()[-3000:]
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone") / "run"
    return folder, run(folder, 1)


@pytest.mark.parametrize(
    ("processes", "accumulate"), [(2, 1), (1, 4), pytest.param(2, 2, marks=pytest.mark.slow)]
)
def test_a_batch_cut_in_parts_is_trained_on_alike(tmp_path, alone, processes, accumulate):
    folder = tmp_path / "run"
    lines = run(folder, processes, accumulate=accumulate)
    assert len(lines) == len(alone[1]) == 50
    for a, b in zip(alone[1], lines, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], abs=1e-5), a["step"]
        assert a["held_out_error_percent"] == b["held_out_error_percent"]
        assert a["samples_seen"] == b["samples_seen"]
    assert json.loads((folder / "results.json").read_text())["processes"] == processes
    losses = [line["train_loss"] for line in lines]
    assert losses[0] - min(losses) > 0.1


@pytest.mark.slow
def test_two_processes_make_the_losses_of_one_in_float32_too(tmp_path):
    runs = [run(tmp_path / str(count), count, optimizer="sgd") for count in (1, 2)]
    one, two = ([line["train_loss"] for line in lines] for lines in runs)
    assert one == pytest.approx(two, abs=1e-4)
    assert one[0] - min(one) > 0.1


def test_evaluation_is_the_same_to_the_last_digit(tmp_path, alone):
    place = tmp_path / "evaluation"
    code = EVALUATE.format(root=str(ROOT), folder=str(alone[0]))
    assert spawn(code, place, 3).wait(120) == 0
    told = [line.split() for line in place.with_suffix(".log").read_text().splitlines()]
    told = [words for words in told if words[1:2] == ["3"]]
    images, labels, _ = frozen_set(*synthetic.splits().held_out, "r", 0)
    chunks = in_chunks(images[:4321], labels[:4321], 100)
    expected = repr(error_percent(load_model(alone[0]), chunks()))
    assert sorted(told) == [[str(rank), "3", expected] for rank in range(3)]


def test_the_loss_of_a_process_is_told_and_training_goes_on(tmp_path, alone):
    folder = tmp_path / "run"
    process = start(folder, 2, every=10, pause=0.2)
    deadline = time.monotonic() + 120
    while not (folder / "metrics.jsonl").exists() or not (folder / "metrics.jsonl").read_text():
        assert time.monotonic() < deadline
        assert process.poll() is None, folder.with_suffix(".log").read_text()[-3000:]
        time.sleep(0.05)
    ranks = {
        child.environ()["RANK"]: child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "RANK" in child.environ()
    }
    ranks["1"].send_signal(signal.SIGKILL)
    assert process.wait(120) != 0
    told = folder.with_suffix(".log").read_text()
    assert "another of the 2 processes was lost" in told
    assert "from the checkpoint at step 10" in told
    assert not (folder / "results.json").exists()

    lines = run(folder, 2, every=10)
    assert [line["step"] for line in lines] == [10, 20, 30, 40, 50]
    whole = alone[1]
    last = [line["train_loss"] for line in whole[40:]]
    assert lines[-1]["train_loss"] == pytest.approx(sum(last) / 10, abs=1e-5)
    for name, value in load_file(folder / "model.safetensors").items():
        assert torch.isfinite(value).all(), name
