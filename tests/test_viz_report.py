"""The report: one file, whole and safe, whatever the runs are like."""

import base64
import io
import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

import stn
from stn.cli import main
from stn.recipes import run_experiment
from stn.viz import Examples, RunView, draw_examples, write_report
from stn.viz.charts import (
    MOST_LINES,
    Line,
    line_chart,
    linear_ticks,
    log_ticks,
    short_number,
)
from stn.viz.survey import Survey
from stn.viz.tables import diagnostics_table

from . import synthetic

VOID = {"meta", "img", "input"}


def finished(name="mnist-r_st-fcn-affine_quick_0", **changes):
    config = {
        "recipe": "mnist-r", "model": "st-fcn-affine", "column": "quick",
        "paper_error_percent": 1.2, "training": {"seed": 7, "lr": 0.00321},
    }  # fmt: skip
    results = {
        "recipe": "mnist-r", "model": "st-fcn-affine", "column": "quick", "seed": 7,
        "test_error_percent": 2.345, "test_errors_percent": [2.31, 2.38],
        "held_out_error_percent": 2.06, "paper_error_percent": 1.2, "parameters": 398_765,
        "steps": 3432, "samples_seen": 439_296, "seconds": 1234.5, "commit": "74e08b8ab12c+",
        "device": "cpu", "torch": "2.13.0", "threads": 2,
        "pose": {
            "before": {"angle_deg": 52.04, "scale": 0.0119, "centre_px": 0.5},
            "after": {"angle_deg": 17.36, "scale": 0.0523, "centre_px": 0.81},
        },
    }  # fmt: skip
    metrics = [
        {"step": 429 * i, "samples_seen": 54_912 * i, "train_loss": 1.5 / i,
         "held_out_error_percent": 9.7 / i, "lr": 1e-3, "seconds": 10.0 * i}
        for i in range(1, 9)
    ]  # fmt: skip
    return RunView(name, config, {**results, **changes}, metrics)


def examples(with_grid=True):
    inputs, theta = torch.rand(4, 1, 28, 28), 0.2 * torch.randn(4, 6)
    grids = stn.Affine().grid(theta, (14, 14))
    return Examples(
        inputs,
        stn.grid_sample(inputs, grids)[:, None] if with_grid else inputs[:, None][:, :0],
        grids[:, None] if with_grid else None,
        torch.tensor([3, 1, 4, 1]),
        torch.tensor([3, 1, 9, 1]),
        torch.tensor([0.99, 0.75, 0.61, 0.5]),
    )


def page_of(tmp_path, *runs):
    path = tmp_path / "report.html"
    write_report(runs, path)
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    page = path.read_text(encoding="utf-8")
    check_nesting(page)
    return page


def check_nesting(page):
    """Every tag is closed in order, no id twice, every #link has its target."""
    stack, ids, targets = [], [], []

    class Checker(HTMLParser):
        def handle_starttag(self, tag, attrs):
            attrs = dict(attrs)
            if "id" in attrs:
                ids.append(attrs["id"])
            targets.extend(v[1:] for k, v in attrs.items() if k == "href" and v.startswith("#"))
            targets.extend([attrs["aria-labelledby"]] if "aria-labelledby" in attrs else [])
            if tag not in VOID:
                stack.append(tag)
            if tag == "img":
                assert attrs["alt"]

        def handle_startendtag(self, tag, attrs):
            pass

        def handle_endtag(self, tag):
            assert stack.pop() == tag

    Checker().feed(page)
    assert not stack
    assert len(set(ids)) == len(ids)
    assert set(targets) <= set(ids)


def test_contains_the_numbers(tmp_path):
    page = page_of(tmp_path, finished())
    for value in ("2.35", "2.31 to 2.38 in 2", "2.06", "1.2", "398,765", "439,296", "1,23",
                  "74e08b8ab12c+", "52.0", "17.4", "0.012", "0.052", "0.00321"):  # fmt: skip
        assert value in page, value
    assert "held still" not in page
    assert "windows held still: 12.30" in page_of(tmp_path, finished(still_error_percent=12.3))
    assert "640 epochs" in page
    assert page.count('class="chart"') == 2


def test_asks_for_nothing_outside(tmp_path):
    run = finished()
    view = RunView(run.name, run.config, run.results, run.metrics, examples())
    page = page_of(tmp_path, view)
    kept = re.sub(r"data:image/png;base64,[\w+/=]*", "", page)
    assert not re.search(r"https?:|//\w|url\(|@import|<script [^t]|<link|<iframe", kept)
    found = re.findall(r'(?:src|href)="(?!#)([^"]*)"', page)
    assert len(found) == 2 * 4
    for address in found:
        assert address.startswith("data:image/png;base64,")
        data = base64.b64decode(address.partition(",")[2])
        assert Image.open(io.BytesIO(data)).size in {(28, 28), (14, 14)}


def test_quick_note_only_for_quick_runs(tmp_path):
    assert "640 epochs" not in page_of(tmp_path, finished(column="faithful"))


def test_the_paper_only_beside_its_numbers(tmp_path):
    own = finished(paper_error_percent=None)
    del own.config["paper_error_percent"]
    for words, runs in ((0, [own]), (2, [own, finished()])):
        page = page_of(tmp_path, *runs)
        assert page.count("Paper, %") + page.count("“Paper”") == words
        assert page.count("640 epochs") == words // 2


def test_what_naming_one_class_would_give(tmp_path):
    run = replace(finished(), classes=["cat", "cow", "cow", "dog"])
    assert "Always naming cow, the most frequent class of 4 test images" in page_of(tmp_path, run)


def test_curves_of_zeros_have_an_axis_to_one():
    chart = line_chart([Line("run", [(1, 0.0), (2, 0.0)])], "samples seen", "Folded, %")
    ticks = re.findall(r'text-anchor="end">(.*?)<', chart)
    assert ticks == ["0", "0.25", "0.5", "0.75", "1"]


def test_text_is_escaped(tmp_path):
    bad = '<script>alert("1")</script> $title & \' é'
    run = finished(bad, model=bad, commit=bad, device=bad, pose={bad: {"scale": 1.0}})
    run.config["remark"] = bad
    page = page_of(tmp_path, run, finished())
    assert page.count("<script") == 1  # the page's own
    assert "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt; $title &amp; &#x27; é" in page


def test_unfinished_runs_are_shown_as_such(tmp_path):
    run = finished()
    begun = RunView("begun", run.config, None, run.metrics[:3])
    empty = RunView("empty", {}, None, [])
    page = page_of(tmp_path, run, begun, empty)
    assert page.count("<strong>Not finished:</strong>") == 2
    assert page.count("<td>not finished</td>") == 2
    assert "3.23<small>best so far</small>" in page
    assert "164,736" in page


def test_damaged_values_do_not_stop_the_report(tmp_path):
    run = finished(test_error_percent=None, pose={"before": None}, parameters="many", seconds={})
    odd = [{}, {"samples_seen": 1, "train_loss": float("nan")}, {"samples_seen": None}]
    page_of(tmp_path, RunView("odd", {"training": None}, run.results, odd))
    page_of(tmp_path, finished(pose=None, test_errors_percent=None))


@pytest.mark.parametrize("with_grid", [True, False])
def test_examples_and_their_mistakes(tmp_path, with_grid):
    run = finished()
    page = page_of(tmp_path, RunView("run", run.config, run.results, [], examples(with_grid)))
    assert page.count("<li") == 4
    assert page.count('<li class="wrong">') == 1
    assert "<strong>4, read as 9</strong><small>61 % sure</small>" in page
    assert page.count('class="region of-0"') == (4 if with_grid else 0)


def test_many_runs_are_charted_by_recipe(tmp_path):
    runs = [finished(f"run {i}", recipe=f"mnist-{'rp'[i % 2]}") for i in range(10)]
    page = page_of(tmp_path, *runs)
    assert page.count('class="chart"') == 4
    assert page.count("<h3>mnist-p</h3>") == 1


def test_seeds_of_one_recipe_can_be_told_apart(tmp_path):
    page = page_of(tmp_path, *(finished(f"seed {i}") for i in range(MOST_LINES + 1)))
    legends = re.findall(r'<ul class="legend">.*?</ul>', page)
    found = [re.findall(r'class="series (.*?)"', legend) for legend in legends]
    assert [len({*classes}) for classes in found] == [MOST_LINES, 1]
    assert sum(map(len, found)) == MOST_LINES + 1


@pytest.mark.filterwarnings("error")
def test_one_image_with_many_numbers(tmp_path):
    net = torch.nn.Module()
    localization = stn.nn.DenseLocalization((1, 28, 28))
    net.transformer = stn.SpatialTransformer(localization, stn.ThinPlateSpline((4, 4)))
    found = stn.viz.survey(net, torch.rand(1, 1, 28, 28))
    assert "24 that differ most" in page_of(tmp_path, RunView("one", {}, None, survey=found))


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_report([finished()], path),
        lambda path: draw_examples(examples(), path, "title"),
        lambda path: stn.viz.animate_warp(
            torch.rand(8, 8), stn.Translation(), torch.zeros(2, 2), path
        ),
    ],
    ids=["page", "png", "gif"],
)
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, write):
    def full(_):
        raise OSError("the disk is full")

    path = tmp_path / "old"
    path.write_bytes(b"as it was")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="the disk is full"):
        write(path)
    assert [*tmp_path.iterdir()] == [path]
    assert path.read_bytes() == b"as it was"


def test_no_runs_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one run"):
        write_report([], tmp_path / "report.html")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Trains a step of a network, given how it differs, in a folder of that name."""
    splits = synthetic.splits()
    monkeypatch.setattr("stn.recipes.Digits.load", lambda _: splits)

    def made(name, **changes):
        experiment = synthetic.experiment("st-cnn-affine", "mnist-rts", 1, 1)
        experiment = replace(experiment, net=replace(experiment.net, **changes))
        run_experiment(experiment, tmp_path / name, splits, cpu=True)
        return str(tmp_path / name)

    return made


def test_pictures_of_runs_of_one_name_stand_side_by_side(tmp_path, run):
    page = tmp_path / "pages" / "all.html"
    assert main(["report", run("a/m"), run("b/m"), "--output", str(page), "--examples", "3"]) == 0
    assert sorted(path.name for path in page.parent.iterdir()) == ["all.html", "m-2.png", "m.png"]


def test_of_feature_maps_numbers_are_shown(tmp_path, run):
    assert main(["report", run("maps", stem=2, pool=1), "--examples", "3"]) == 0
    page = (tmp_path / "maps" / "report.html").read_text()
    for heading in ("Test images", "What it picks", "Out of view"):
        assert f"<h3>{heading}" in page
    for heading in ("Before and after", "Mean test image", "Where it looks"):
        assert f"<h3>{heading}" not in page


def test_a_transformer_that_does_the_same_to_all_images_has_no_spread():
    theta = torch.tensor(
        [[[0.3, 0.5], [0.1, -0.3]], [[0.3, 0.5], [0.1, 0.3]]]
    )  # 2 images, 2 windows
    none = torch.zeros(2, 2)
    image = torch.zeros(2, 8, 8)
    found = Survey(image[0], image, theta, ("a", "b"), none, none, none, None, None)
    rows = diagnostics_table(found).split("<tr>")[2:]
    assert [re.findall("<td>(.*?)</td>", row)[-1] for row in rows] == ["0.000", "0.300"]


def test_configuration_is_shown_whole(tmp_path):
    run = finished()
    page = page_of(tmp_path, run)
    shown = re.search(r"<pre[^>]*>(.*?)</pre>", page, re.S)
    assert shown is not None
    assert json.loads(shown[1].replace("&quot;", '"')) == run.config


def test_ticks_are_round_and_inside():
    assert linear_ticks(0, 439_296) == [0, 200_000, 400_000]
    assert linear_ticks(0, 1) == [0, 0.25, 0.5, 0.75, 1]
    assert log_ticks(0.8, 130) == [1, 10, 100]
    assert log_ticks(1.1, 9.5) == [2, 5] or len(log_ticks(1.1, 9.5)) >= 3
    for low, high in ((0.5, 0.55), (2.0, 70.0), (1e-5, 3e-5)):
        ticks = log_ticks(low, high)
        assert len(ticks) >= 2
        assert all(low * 0.999 <= tick <= high * 1.001 for tick in ticks)
    assert [short_number(n) for n in (0, 950, 54_912, 1_500_000)] == ["0", "950", "54.9k", "1.5M"]
