"""The command line: one sentence for what the user can mend, exit code 2, no traceback."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from PIL import Image

import stn
from stn.cli import main
from stn.data import Split
from stn.recipes import run_experiment

from . import synthetic


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("STN_DATA", str(tmp_path / "no-data"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def digits(monkeypatch):
    monkeypatch.setattr("stn.recipes.digits.load_mnist", synthetic.mnist)


def train(out, recipe="mnist-r", model="st-fcn-affine"):
    short = ("--epochs", "0.02", "--device", "cpu", "--threads", "1")
    return main(["train", recipe, "--model", model, "--out", str(out), *short])


def test_list_names_recipes_models_and_runs(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    for word in ("mnist-r", "mnist-rts", "mnist-p", "mnist-e", "mnist-tc", "st-cnn-tps", "quick"):
        assert word in out


def test_train_eval_report(tmp_path, capsys, digits):
    out = tmp_path / "runs" / "one"
    assert train(out) == 0
    results = json.loads((out / "results.json").read_text())
    assert f"{results['test_error_percent']:.2f}" in capsys.readouterr().out

    assert main(["eval", str(out)]) == 0
    assert f"{results['test_error_percent']:.2f} %" in capsys.readouterr().out

    assert main(["report", str(out), "--examples", "4"]) == 0
    page = (out / "report.html").read_text()
    assert f"{results['test_error_percent']:.2f}" in page
    assert (out / "one.png").read_bytes().startswith(b"\x89PNG")

    assert main(["list"]) == 0
    assert "st-fcn-affine" in capsys.readouterr().out


def test_a_run_is_done_again_with_the_threads_it_had(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("torch.set_num_threads", asked.append)
    monkeypatch.setattr("stn.recipes.run_experiment", lambda *_, **__: pytest.exit("not run"))
    row = {"threads": 3, "config": asdict(synthetic.experiment())}
    (tmp_path / "row.json").write_text(json.dumps(row))
    for options in ((), ("--threads", "2")):
        with pytest.raises(pytest.exit.Exception):
            main(["train", str(tmp_path / "row.json"), *options])
    assert asked == [3, 2]


def test_report_of_parallel_transformers_shows_their_poses(tmp_path, digits):
    out = tmp_path / "two"
    assert train(out, "mnist-addition", "2xst-fcn-affine") == 0
    assert main(["report", str(out)]) == 0
    page = (out / "report.html").read_text()
    assert "After transformer 1 digit 0" in page
    assert page.count('class="region of-1"') == 24  # what each of two transformers read
    assert "before training" in page  # the film


def test_eval_report_and_predict_of_members_that_answer_together(tmp_path, capsys, digits):
    out, picture = tmp_path / "together", tmp_path / "bar.png"
    made = synthetic.experiment(steps=2, every=2)
    made = replace(made, net=replace(made.net, members=2))
    results = run_experiment(made, out, synthetic.splits(), cpu=True)
    assert set(results["pose"]) == {"before", "after"}
    assert len(stn.load_model(out).members) == 2
    assert main(["eval", str(out)]) == 0
    assert f"{results['test_error_percent']:.2f} %" in capsys.readouterr().out
    assert main(["report", str(out)]) == 0
    assert 'class="region of-0"' in (out / "report.html").read_text()
    Image.fromarray(synthetic.bars(1, 0)[0][0].numpy()).save(picture)
    assert main(["predict", str(out), str(picture)]) == 0
    assert "bar.png" in capsys.readouterr().out


def test_report_of_volumes(tmp_path, capsys, digits, monkeypatch):
    out = tmp_path / "volumes"
    made = synthetic.experiment(recipe="mnist-volumes", steps=1, every=1, budget=400_000)
    splits = synthetic.splits()
    few = splits._replace(
        train=Split(*(t[:40] for t in splits.train)),
        held_out=Split(*(t[:8] for t in splits.held_out)),
        test=Split(*(t[:20] for t in splits.test)),
    )
    run_experiment(made, out, few, cpu=True)
    monkeypatch.setattr("stn.recipes.Digits.load", lambda _: few)
    assert main(["report", str(out), "--examples", "3"]) == 0
    page = (out / "report.html").read_text()
    assert "The same after the transformer" in page
    assert "Mean test image: after" in page


def test_report_of_an_unfinished_run(tmp_path, digits):
    out = tmp_path / "one"
    assert train(out) == 0
    for name in ("results.json", "model.safetensors"):
        (out / name).unlink()
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "train_l')  # killed in the middle of a line
    assert main(["report", str(out), "--output", str(tmp_path / "new" / "page.html")]) == 0
    assert (tmp_path / "new" / "page.html").exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train mnist-x", "unknown recipe 'mnist-x'; known are mnist-r, mnist-rts"),
        ("train mnist-r --model resnet", "unknown model 'resnet'; known are fcn"),
        ("train mnist-r --column worst", "unknown column 'worst'; known are quick"),
        ("train mnist-r --epochs 0", "epochs must be at least one step"),
        ("train mnist-r --lr 0", "lr must be positive"),
        ("train mnist-r --threads 0", "threads must be at least 1"),
        ("train mnist-r", "stn data mnist"),
        ("train", "name a recipe of `stn list`, or --data DIR"),
        ("train mnist-r --epochs nan", "epochs must be at least one step, got nan"),
        ("train mnist-r --transform tps", "--transform is for --data; of a recipe choose --model"),
        ("train mnist-r --no-augment", "--no-augment is for --data"),
        ("train mnist-r --size 0", "--size is for --data"),
        ("train a.json --seed 3", "--seed is for a recipe; a run that is done again has its own"),
        ("train --data nowhere --model fcn", "--model is for a recipe; with --data choose"),
        ("train --data nowhere --column best", "--column is for a recipe"),
        ("train pics", "pics is a folder: stn train --data pics"),
        ("train --data nowhere --size 0", "size must be at least 1, got 0"),
        ("train --data nowhere --size -5", "size must be at least 1, got -5"),
        ("train --data nowhere --crop 0", "crop must be at least 1, got 0"),
        ("train --data nowhere --num 0", "num must be at least 1, got 0"),
        ("train --data nowhere --batch-size 0", "batch_size must be at least 1, got 0"),
        ("train --data nowhere --workers -3", "workers must be at least 0, got -3"),
        ("train --data nowhere --epochs nan", "epochs must be positive and finite, got nan"),
        ("train --data nowhere --epochs -1", "epochs must be positive and finite, got -1.0"),
        ("train --data nowhere --transform none --num 2", "choose a transform or leave them out"),
        ("train --data nowhere --num 2 --steps-in-series 2", "set one of them to 1"),
        ("predict img.jpg pics", "img.jpg is a file, no run or model: name the folder first"),
        ("predict nowhere pics", "pics is a folder: name its files, pics/*"),
        ("train mnist-r --data nowhere", "one of the two; got the recipe 'mnist-r'"),
        ("train --data nowhere", "there is no folder nowhere"),
        ("train svhn-64 --model fcn", "svhn-64 has no model 'fcn'; it has cnn, st-cnn-single"),
        ("train cub --model cnn", "stn data cub --from DIR"),
        ("train creatures --model cnn", "creatures; make it: stn data creatures"),
        ("train street-numbers-64 --model cnn", "street-numbers; make it: stn data street-numbers"),
        ("reproduce table1 --quick --column best", "--quick and --column best are two columns"),
        ("data svhn", "say where from: stn data svhn --from DIR"),
        ("data svhn --from .", "UFLDL"),
        ("data cub --from .", "CUB_200_2011.tgz"),
        ("predict nowhere x.png", "nowhere is not a run or a model"),
        ("data mnist --from nowhere", "nowhere"),
        ("data creatures --from .", "--from is of mnist, svhn, cub, shards, not of creatures"),
        ("data mnist --count 5", "--count is of street-numbers, creatures, not of mnist"),
        ("data svhn --from . --damaged skip", "--damaged is of shards, not of svhn: leave it out"),
        ("eval nowhere", "nowhere is not a run or a model"),
        ("report nowhere", "nowhere is not a run or a model"),
        ("report nowhere --output new/page.html", "nowhere is not a run or a model"),
        ("report", "name at least one run folder"),
    ],
)
def test_what_the_user_can_mend(command, message, capsys):
    Path("pics").mkdir()
    Path("img.jpg").touch()
    assert main(command.split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert error.startswith("stn: ")
    assert not Path("nowhere").exists()
    assert not Path("new").exists()


@pytest.mark.parametrize(
    "words", [["nonsense"], ["train", "a", "b"], ["eval", "x", "--split", "train"]]
)
def test_a_command_that_does_not_parse(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2


def test_a_damaged_run(tmp_path, capsys, digits):
    out = tmp_path / "one"
    assert train(out) == 0
    (out / "model.safetensors").write_bytes(b"nonsense")
    assert main(["eval", str(out)]) == 2
    (out / "results.json").write_bytes(b"{")
    assert main(["report", str(out)]) == 2
    errors = capsys.readouterr().err
    assert "model.safetensors is damaged" in errors
    assert "Traceback" not in errors


def test_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "stn.cli", "train", "mnist-x"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("stn: unknown recipe 'mnist-x'")
    assert "Traceback" not in done.stderr
