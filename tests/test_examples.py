"""Every example runs, and shows what its docstring promises."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = {path.stem: path for path in (Path(__file__).parent.parent / "examples").glob("*.py")}


def learned(out: str) -> None:
    assert float(re.findall(r"new images: ([\d.]+) %", out)[0]) > 80


def straightened(out: str) -> None:
    before, after = re.findall(r"(0\.\d+) bent, (0\.\d+) straightened", out)[0]
    assert float(after) < float(before) / 2


PROMISES = {
    "straighten_by_points": straightened,
    "transformer_layer": learned,
}


# test_examples_registration.py, test_imagenet_in_small.py
ELSEWHERE = {"register_fashion", "register_photos", "imagenet_in_small"}


def test_each_has_a_promise():
    assert set(PROMISES) | ELSEWHERE == set(EXAMPLES)


@pytest.mark.parametrize("name", PROMISES)
def test_runs(name, tmp_path):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES[name])],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # tests run side by side
    )
    assert done.returncode == 0, done.stderr
    PROMISES[name](done.stdout)
