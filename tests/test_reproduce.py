"""Tables: the order of the queue, what is kept, and the numbers that are written down."""

import itertools
import json
import operator
import runpy
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest
import torch

from stn.cli import main
from stn.data import MoveLattice
from stn.models import TENSORS, count_parameters, load_model, read_spec
from stn.recipes import (
    TABLES,
    make_experiment,
    publish_models,
    queue_of,
    read_experiment,
    read_results,
    reproduce,
    run_experiment,
)
from stn.recipes.digits import BEST
from stn.recipes.reproduce import result_path

from . import synthetic

ROOT = Path(__file__).parents[1]


def test_table_one_has_all_cells():
    assert len(set(TABLES["table1"])) == 4 * 8
    assert len(set(TABLES["cluttered"])) == 4
    assert len(set(TABLES["addition"])) == 8
    own = ("stand-ins", "controls")
    papers = {cell for name, cells in TABLES.items() if name not in own for cell in cells}
    assert set(TABLES["all"]) == papers
    assert len(set(TABLES["stand-ins"])) == 10


def test_ablations_change_what_they_say():
    plain, *others = queue_of("ablations", None, 1)
    assert len({experiment.folder_name for experiment in (plain, *others)}) == 1 + len(others)
    assert {experiment.column for experiment in others} == {"ablation"}
    for experiment in others:
        assert (experiment.net, experiment.training) != (plain.net, plain.training)
        x = torch.rand(2, 1, 42, 42)
        assert experiment.net.build()(x).shape == (2, 10)


def test_controls_are_the_best_columns_classifiers_alone_and_cost_as_much():
    for control in queue_of("controls", None, 1):
        best = make_experiment(control.recipe, BEST[control.recipe.removeprefix("mnist-")], "best")
        assert best.model.split("-")[1] == control.model
        assert control.training == best.training
        mine, its = (count_parameters(made.net.build()) for made in (control, best))
        assert 0.9 < mine / its < 1.1


def test_one_seed_everywhere_before_the_second_anywhere():
    seeds = [experiment.run_seed for experiment in queue_of("table1", "faithful", 3)]
    assert seeds == sorted(seeds)
    assert seeds.count(2) == 32


def test_the_quick_column_has_the_fully_connected_nets():
    models = [experiment.model for experiment in queue_of("table1", "quick", 1)]
    assert len(models) == 16
    assert {model.split("-")[1] if "-" in model else model for model in models} == {"fcn"}


def test_the_long_column_is_the_faithful_one_at_the_papers_length():
    cells = queue_of("table1", "long", 1)
    assert len(cells) == 16
    for cell in cells:
        short = make_experiment(cell.recipe, cell.model, "faithful")
        assert cell.training.steps == 640 * (55_000 // 128)
        for name in ("net", "training", "test_repeats", "paper_error_percent"):
            mine, own = getattr(cell, name), getattr(short, name)
            assert mine == (replace(own, steps=640 * 429) if name == "training" else own)


def test_table_one_in_miniature(tmp_path):
    """`stn reproduce table1 --quick` with type in place of handwriting, 120 steps a net."""
    splits, errors = synthetic.typed(), {}
    for cell in queue_of("table1", "quick", 1):
        short = replace(cell.training, steps=120, evaluate_every=120)
        cell = replace(cell, training=short)
        results = run_experiment(cell, tmp_path / cell.folder_name, splits, cpu=True)
        errors.setdefault(cell.recipe, {})[cell.model] = results["test_error_percent"]
    assert len(errors) == 4
    for recipe, found in errors.items():
        base = found.pop("fcn")
        assert len(found) == 3
        assert max(found.values()) < base, (recipe, base, found)


def test_the_run_with_the_lowest_held_out_error_becomes_a_model(tmp_path):
    rows = []
    for seed, held_out in ((0, 5.0), (1, 4.0)):
        made = synthetic.experiment(steps=2, every=2, seed=seed)
        folder = tmp_path / made.folder_name
        results = run_experiment(made, folder, synthetic.splits(), cpu=True)
        config = json.loads((folder / "config.json").read_text())
        rows.append(results | {"held_out_error_percent": held_out, "config": config})
    gone = rows[0] | {"recipe": "mnist-e", "config": rows[0]["config"] | {"recipe": "mnist-e"}}
    numbers = make_experiment("street-numbers-64", "st-cnn-single")
    (tmp_path / numbers.folder_name).mkdir()
    (tmp_path / numbers.folder_name / TENSORS).touch()
    other = rows[0] | {"recipe": numbers.recipe, "config": asdict(numbers)}
    rows += [gone, other]  # of neither does a card tell
    (folder,) = publish_models(rows, tmp_path, tmp_path / "models")
    assert folder == tmp_path / "models" / "mnist-r"
    x = torch.rand(2, 1, 28, 28)
    expected = load_model(tmp_path / "mnist-r_st-fcn-affine_quick_1")(x)
    assert torch.equal(load_model(folder)(x), expected)
    card = (folder / "README.md").read_text()
    assert f"{rows[1]['test_error_percent']:.2f} %, the mean over 1" in card
    assert "from 2 run(s) of transformer nets in the\nquick column" in card
    assert "{" not in card.replace("{'", "")
    # No better one: it stays.
    (folder / "notes.txt").touch()
    worse = [row | {"held_out_error_percent": 100.0} for row in rows]
    assert publish_models(worse, tmp_path, tmp_path / "models") == [folder]
    rows[0]["held_out_error_percent"] = 0.0
    with pytest.raises(ValueError, match=r"mnist-r holds other files \(notes.txt\)"):
        publish_models(rows, tmp_path, tmp_path / "models")
    assert (folder / "notes.txt").exists()


def test_what_became_no_model_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("stn.recipes.reproduce", lambda *_: [])
    monkeypatch.setattr("stn.data.load_mnist", lambda: None)
    folders = [word for name in ("runs", "results", "models") for word in (f"--{name}", name)]
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", "volumes", *folders]) == 0
    assert "no model of mnist-volumes: transformer nets for digits" in capsys.readouterr().out


PUBLISHED = sorted(Path(__file__).parents[1].glob("results/models/*"))


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
def test_published_models(folder):
    model, spec = load_model(folder), read_spec(folder)
    logits = model(torch.rand(2, *spec.shape))
    assert logits.shape == (2, spec.classes)
    assert count_parameters(model) <= 400_000
    results = json.loads((folder / "results.json").read_text())
    assert f"{results['test_error_percent']:.2f} %" in (folder / "README.md").read_text()
    assert sum(file.stat().st_size for file in folder.iterdir()) < 2_000_000


def test_choices_on_held_out_digits_are_of_cells_that_exist():
    script = runpy.run_path(str(ROOT / "benchmarks" / "choose.py"))
    for column, recipe, models, part, changes in script["SEARCHES"]:
        assert 0 < part <= 1
        for model, change in itertools.product(models, changes):
            experiment = make_experiment(recipe, model, column)
            for path, value in change.items():
                experiment = script["changed"](experiment, path.split("."), value)
                assert operator.attrgetter(path)(experiment) == value
    experiment = make_experiment("mnist-r", "fcn")
    bent = script["changed"](experiment, ["bend_px"], 0.5).stream(synthetic.splits())
    assert bent.bend == MoveLattice(0.5, (0.9, 1.1), mode="bicubic")
    assert experiment.stream(synthetic.splits()).bend is None


def test_only_what_is_missing_is_run(tmp_path, monkeypatch):
    experiments = queue_of("cluttered", "faithful", 1)
    runs, results = tmp_path / "runs", tmp_path / "results"
    asked = []

    class Pretend:
        def __init__(self, words, **_):
            self.folder = Path(words[words.index("--out") + 1])
            self.model = read_experiment(Path(words[words.index("train") + 1])).model
            asked.append(self.model)

        def wait(self):
            if self.model == "cnn":
                return 2
            row = synthetic.result("mnist-tc", self.model)
            for name, value in (("results.json", row), ("config.json", {"model": self.model})):
                (self.folder / name).write_text(json.dumps(value))
            return 0

    monkeypatch.setattr("subprocess.Popen", Pretend)
    arguments = (experiments, runs, results, "cpu", 2, 1, lambda *_: None)
    assert [e.model for e in reproduce(*arguments)] == ["cnn"]
    assert sorted(asked) == ["cnn", "fcn", "st-cnn-affine", "st-fcn-affine"]
    assert len(read_results(results, "faithful")) == 3
    assert read_results(results, "faithful")[0]["config"]["model"]

    asked.clear()
    reproduce(*arguments)
    assert asked == ["cnn"]
    assert result_path(results, experiments[0]).exists()


QUEUE = """
import subprocess, sys
from pathlib import Path
from stn.recipes import queue_of, reproduce
real = subprocess.Popen
subprocess.Popen = lambda words, **_: real([sys.executable, "-c", {child!r}])
reproduce(queue_of("canvas", "quick", 1), Path("runs"), Path("results"), "cpu", 2, 1, print)
"""


def test_sigterm_ends_what_runs(tmp_path):
    """Of a queue whose runs sleep."""
    code = QUEUE.format(child="import time; time.sleep(300)")
    queue = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stderr=subprocess.DEVNULL)
    me = psutil.Process(queue.pid)
    deadline = time.monotonic() + 60
    while len(children := me.children()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    queue.terminate()
    assert queue.wait(30) != 0
    assert not any(child.is_running() for child in children)


def test_a_second_process_waits_for_the_first(tmp_path):
    """As a queue that is started again does for a run that outlived it."""
    made, ends = synthetic.experiment(steps=2, every=2), []
    code = (
        "import sys; from pathlib import Path; from stn.recipes.experiment import alone_in\n"
        "with alone_in(Path('run')):\n    print('in', flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    first = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, **pipes)
    assert first.stdout is not None
    assert first.stdout.readline() == b"in\n"

    def second():
        run_experiment(made, tmp_path / "run", synthetic.splits(), cpu=True)
        ends.append(time.monotonic())

    thread = threading.Thread(target=second)
    thread.start()
    thread.join(3)
    assert not ends
    assert not (tmp_path / "run" / "config.json").exists()
    first.kill()
    thread.join(60)
    assert ends
    assert (tmp_path / "run" / "results.json").exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("reproduce cluttered --column worst", "cluttered has no column 'worst'; it has faithful"),
        ("reproduce volumes --column best", "volumes has no column 'best'; it has faithful, quick"),
        ("reproduce ablations --column faithful", "it has ablation"),
        ("reproduce ablations", "stn data mnist"),
        ("reproduce stand-ins --column faithful", "it has quick"),
        ("reproduce stand-ins", "creatures; make it: stn data creatures"),
        ("reproduce cluttered --seeds 0", "seeds must be at least 1"),
        ("reproduce cluttered", "stn data mnist"),
    ],
)
def test_errors(command, message, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("STN_DATA", str(tmp_path))
    assert main(command.split()) == 2
    assert message in capsys.readouterr().err
