"""Tables of results: means, intervals, what each shows, and the pages that hold them."""

import statistics

import pytest
import scipy.stats

from stn.recipes import error_table, fill_in, fill_page, mean_and_interval
from stn.recipes.tables import (
    best_table,
    colocalization_table,
    control_table,
    difference_and_interval,
    gain_table,
    weight_table,
    window_table,
)

from .synthetic import result


@pytest.mark.parametrize("n", [2, 3, 5])
def test_interval_is_students(n):
    values = [1.0, 1.3, 0.9, 1.6, 1.1][:n]
    centre, half = mean_and_interval(values)
    error = statistics.stdev(values) / n**0.5
    low, high = scipy.stats.t.interval(0.95, n - 1, loc=statistics.mean(values), scale=error)
    assert (centre - half, centre + half) == pytest.approx((low, high), rel=1e-3)


def test_one_value_has_no_interval():
    assert mean_and_interval([2.5]) == (2.5, None)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_difference_has_welchs_interval(n):
    a, b = [5.0, 5.3, 4.9, 5.6, 5.1][:n], [1.0, 4.0, 2.5, 2.0, 3.5][:3]
    centre, half = difference_and_interval(a, b)
    assert centre == pytest.approx(statistics.mean(a) - statistics.mean(b))
    found = scipy.stats.ttest_ind(a, b, equal_var=False)
    low, high = scipy.stats.t.interval(
        0.95, int(found.df), loc=centre, scale=centre / found.statistic
    )
    assert (centre - half, centre + half) == pytest.approx((low, high), rel=1e-3)
    exact = found.confidence_interval()
    assert half >= (exact.high - exact.low) / 2 - 1e-9


def test_gains_are_over_the_plain_net_of_the_same_set():
    rows = [result("mnist-r", "cnn", seed, 4.0 + seed) for seed in (0, 1)]
    rows += [result("mnist-r", "st-cnn-affine", 0, 2.0), result("mnist-tc", "fcn")]
    assert gain_table(rows, ("r", "tc")).splitlines() == [
        "| model | R |", "|---|--:|", "| st-cnn-affine | 2.50 |",
    ]  # fmt: skip
    rows.append(result("mnist-r", "st-cnn-affine", 1, 2.0))
    assert gain_table(rows, ("r",)).endswith("| 2.50 ± 6.35 |")


def test_markdown():
    rows = [result(error=2.0), result(seed=1, error=3.0), result("mnist-tc", "st-fcn-affine", 0, 4)]
    assert error_table(rows, ("r", "rts", "tc")).splitlines() == [
        "| model | R | TC |",
        "|---|--:|--:|",
        "| fcn | 2.50 ± 6.35 (2.1) |  |",
        "| st-fcn-affine |  | 4.00 (2.1) |",
    ]


def test_errors_with_windows_held_still_are_of_those_runs_that_have_one():
    moving = result("mnist-r", "st-fcn-affine", error=2.0)
    rows = [result(error=2.0), moving | {"still_error_percent": 30.0}]
    assert error_table(rows, ("r",), "still_error_percent").splitlines() == [
        "| model | R |",
        "|---|--:|",
        "| st-fcn-affine | 30.00 (2.1) |",
    ]


def test_weights_stand_where_runs_are():
    rows = [
        result("mnist-r") | {"parameters": 123_456},
        result("mnist-tc", "cnn") | {"parameters": 9},
    ]
    assert weight_table(rows, ("r", "tc")).splitlines()[2:] == [
        "| fcn | 123,456 |  |",
        "| cnn |  | 9 |",
    ]


def test_where_windows_land():
    def found(seed, head, wing, spread):
        contained, at_start = {"head": head, "wing": wing}, {"head": 40.0, "wing": 30.0}
        parts = {"contained": contained, "at_start": at_start, "spread_px": spread}
        return result("creatures", "2xst-cnn", seed) | {"parts": parts}

    rows = [found(0, 80.0, 60.0, [4.0, 6.0]), found(1, 90.0, 70.0, [1.0, 3.0]), result()]
    assert window_table(rows).splitlines() == [
        "| model | head, % | wing, % | wander, px |",
        "|---|--:|--:|--:|",
        "| 2xst-cnn | 40 → 85 | 30 → 65 | 3.5 |",
    ]


def test_co_localisation_by_class_with_the_mean_of_its_seeds():
    def found(seed, first, others):
        shares = {"correct_percent": [first, *[100.0] * 9]}
        if others:
            shares["unseen_correct_percent"] = [others] * 10
        return result("mnist-colocalization-cluttered", "st-attention", seed) | shares

    lines = colocalization_table([found(1, 96.0, 50.0), found(0, 98.0, None)]).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        f"| with clutter, {name}" for name in ("seed 0", "seed 1", "mean", "others, seed 1")
    ]
    assert lines[4].startswith("| with clutter, mean | 97.0 ± 12.7 | 100.0 ± 0.0 |")
    assert lines[3].endswith("| 100 | 99.6 |")
    assert lines[5].endswith("| 50 | 50.0 |")


def table(rows, held_out=0.4):
    more = {"parameters": 1000, "held_out_error_percent": held_out}
    return best_table(more | row for row in rows).splitlines()


def test_of_several_best_nets_the_one_that_was_better_held_out_is_shown():
    old = result("mnist-r", "st-old", 0, 0.5, 0.61) | {"held_out_error_percent": 0.6}
    new = [result("mnist-r", "st-new", seed, 0.7, 0.61) for seed in (0, 1)]
    plain = result("mnist-r", "plain") | {"held_out_error_percent": 0.1}
    rows = table([old, plain, *new, result("mnist-tc", "st-tc", 0, 2.0, 1.7)])
    assert [row.split(" | ")[1] for row in rows[2:]] == ["st-new", "st-tc"]


def test_beaten_only_where_the_interval_is_below():
    def verdict(*errors):
        return table(result("mnist-r", "st-own", i, e, 0.61) for i, e in enumerate(errors))[-1]

    assert verdict(0.5).endswith("| 1 | 0.50 | 0.61 | one seed tells nothing |")
    assert verdict(0.5, 0.5, 0.5).endswith("| 0.50 ± 0.00 | 0.61 | yes |")
    assert verdict(0.5, 0.6, 0.7).endswith("| 0.60 ± 0.25 | 0.61 | no |")


def test_fill_in(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- quick -->\nold\n<!-- /quick -->\nb\n")
    fill_in(page, "quick", "new")
    assert page.read_text() == "a\n<!-- quick -->\nnew\n<!-- /quick -->\nb\n"
    with pytest.raises(ValueError, match="has no place for best"):
        fill_in(page, "best", "new")
    page.write_text("<!-- quick-cost -->\n<!-- /quick-cost -->")
    assert fill_page(page, "quick", [result() | {"seconds": 1800, "threads": 2}]) == ["cost"]
    assert "| mnist-r | 1 | 1.00 |" in page.read_text()
    with pytest.raises(ValueError, match="has no place for the best column"):
        fill_page(page, "best", [])


def test_controls_stand_beside_the_nets_whose_classifiers_they_are():
    whole, alone = (
        result("mnist-e", model, 0, e, 1.1) for model, e in (("st-vgg-affine", 1), ("vgg", 2))
    )
    others = [result("mnist-tc", "st-vgg-similarity"), result("mnist-p", "st-vgg-affine")]
    table = control_table([whole, alone, *others]).splitlines()
    assert table[0] == "| model | E |"
    assert table[2:] == ["| vgg | 2.00 (1.1) |", "| st-vgg-affine | 1.00 (1.1) |"]
