"""The report: one file, whole and safe, whatever the runs are like."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

import stn
from stn.viz import Examples, RunView, write_report
from stn.viz.charts import linear_ticks, log_ticks, short_number

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


def test_text_is_escaped(tmp_path):
    bad = '<script>alert("1")</script> $title & \' é'
    run = finished(bad, model=bad, commit=bad, device=bad)
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


def test_a_failed_write_leaves_the_old_page(tmp_path):
    page_of(tmp_path, finished())
    before = (tmp_path / "report.html").read_bytes()
    unwritable = RunView("x", {}, None, [], examples()._replace(labels=torch.arange(9)))
    with pytest.raises(IndexError):
        write_report([unwritable], tmp_path / "report.html")
    assert (tmp_path / "report.html").read_bytes() == before
    with pytest.raises(ValueError, match="at least one run"):
        write_report([], tmp_path / "report.html")


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
