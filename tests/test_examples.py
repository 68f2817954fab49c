"""Every example runs, and says what its docstring promises."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


def run(path, folder):
    return subprocess.run(
        [sys.executable, str(path)], cwd=folder, capture_output=True, text=True, timeout=240
    )


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_runs(path, tmp_path):
    done = run(path, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_transformer_learns(tmp_path):
    done = run(EXAMPLES[0].parent / "transformer_layer.py", tmp_path)
    assert float(done.stdout.split("new images: ")[1].split()[0]) > 80


def test_points_straighten(tmp_path):
    done = run(EXAMPLES[0].parent / "straighten_by_points.py", tmp_path)
    before, after = (float(word) for word in done.stdout.split() if word[:2] == "0.")
    assert after < before / 2
