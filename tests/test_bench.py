"""The benchmarks: fair turns, wrong rivals refused, results kept, tables from results alone."""

import dataclasses
import json
import re

import pytest
import torch

from stn.bench import agreement, memory, run
from stn.bench.cases import BASELINES, CASES, DIRECTIONS, TABLE, select
from stn.bench.contenders import contenders_of, truth_of
from stn.bench.measure import QUICK, Effort, interleave
from stn.bench.page import draw, write_page
from stn.bench.problem import Cannot, call_of, make_problem
from stn.bench.results import Key, Results, read_results
from stn.bench.rivals import RIVALS, torch_
from stn.bench.run import bench, measure_group
from stn.bench.tables import markdown
from stn.cli import main

TINY = next(case for case in CASES if case.name == "tiny-8")
MACHINE = {
    "device": "cpu", "name": "Abacus", "cores": 2, "isa": ["avx2"], "torch": "2", "quick": True,
    "libraries": {"torch-stn": "0"}, "environment": {},
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    yield
    torch.set_num_threads(1)


@pytest.fixture
def only_torch(monkeypatch):
    monkeypatch.setattr("stn.bench.contenders.RIVALS", {"torch": torch_})


def wrong(problem):
    """Half a pixel beside."""
    right = torch_(problem)
    return right._replace(run=lambda x, matrix: right.run(x, matrix + 0.1))


def absent(problem):
    raise Cannot("is on holiday")


def broken(problem):
    raise RuntimeError("dtype mismatch\nand much more")


class FakeClock:
    """Calls are numbers, the seconds that each takes; one sample of each is disturbed."""

    def __init__(self):
        self.seen = []

    def __call__(self, call, calls):
        self.seen.append((call(), calls))
        disturbed = [seen for seen in self.seen if seen == (call(), calls)]
        return call() * calls * (10 if len(disturbed) == 5 else 1)


def test_contenders_take_turns_and_the_median_is_sane():
    clock = FakeClock()
    calls = {"fast": lambda: 0.001, "slow": lambda: 0.5}
    timings = interleave(calls, clock, Effort(rounds=5, sample_s=0.02))
    assert clock.seen[-10:] == [(0.001, 20), (0.5, 1)] * 5
    assert timings["fast"].median_s == pytest.approx(0.001)
    assert timings["slow"].median_s == pytest.approx(0.5)
    assert (timings["fast"].calls, timings["slow"].calls) == (20, 1)
    assert timings["slow"].low_s <= timings["slow"].median_s <= timings["slow"].high_s


def test_slow_contenders_get_fewer_rounds():
    effort = Effort(rounds=50, limit_s=3, least_rounds=4)
    assert interleave({"slow": lambda: 1.0}, FakeClock(), effort)["slow"].rounds == 4
    effort = Effort(rounds=50, limit_s=6, least_rounds=4)
    assert interleave({"slow": lambda: 0.5}, FakeClock(), effort)["slow"].rounds in range(4, 14)


def test_the_table_is_complete():
    assert len({case.name for case in CASES}) == len(CASES)
    assert len(TABLE) == 8
    for case in TABLE:
        assert set(case.goal) == set(case.gate[1]) == set(case.gate[2]) == set(DIRECTIONS)
        assert all(case.gate[n][way] < case.goal[way] for n in (1, 2) for way in DIRECTIONS)
    assert set(BASELINES) < {case.kind for case in CASES}
    assert all(case.baseline in contenders_of(case, False) for case in CASES)


def test_gates_depend_on_the_machine():
    case = TABLE[0]
    assert case.targets("forward", 1, "cpu", avx512=True) == (20, 7)
    assert case.targets("forward", 1, "cpu", avx512=False) == (20, 4.9)
    assert case.targets("forward", 1, "cuda", avx512=False) == (1.5, 1)
    assert TINY.targets("forward", 1, "cpu", avx512=True) == (None, None)


def test_cases_by_name_and_kind():
    assert [case.name for case in select(["tps", "tiny-8"])] == ["tps-16", "tps-100", "tiny-8"]
    assert select([]) == list(CASES)
    with pytest.raises(ValueError, match="unknown case 'tiny'; known are warp, "):
        select(["tiny"])


def small(case):
    """The case with few and small images."""
    least = 42 if case.kind == "training" else 12
    sizes = [tuple(min(n, least) for n in size) for size in (case.input_size, case.size)]
    if case.kind in ("shrink", "antialias"):
        sizes = [(64, 64), (16, 16)]
    return dataclasses.replace(case, batch=2, input_size=sizes[0], size=sizes[1])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_stn_and_torch_agree(case):
    problem = make_problem(small(case), "cpu")
    for direction in case.directions:
        direction = "both" if direction == "memory" else direction
        expected = agreement.results_of(truth_of(case), problem, direction, double=True)
        for name in {"stn", "torch"} & set(contenders_of(case, False)):
            build = contenders_of(case, False)[name]
            found = agreement.compare(name, build, problem, direction, expected)
            assert found.timed, found
            call_of(problem, build, direction)()


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_wrong_rival_is_not_timed(direction):
    problem = make_problem(TINY, "cpu")
    rivals = {"torch": torch_, "wrong": wrong, "absent": absent, "broken": broken}
    rows = {name: {} for name in rivals}
    assert list(run.check_all(rivals, problem, direction, rows)) == ["torch"]
    assert rows["wrong"]["status"] == "disagrees"
    assert re.match(r"output differs by 0\.\d+, 0\.002 is allowed", rows["wrong"]["reason"])
    assert rows["absent"] == {"status": "cannot", "reason": "is on holiday"}
    assert rows["broken"]["reason"] == "RuntimeError: dtype mismatch"
    assert rows["torch"]["difference"] < 1e-5


def test_a_wrong_gradient_is_found():
    class Skewed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return 1.1 * gradient

    def skewed(problem):
        right = torch_(problem)
        return right._replace(run=lambda x, matrix: right.run(x, Skewed.apply(matrix)))

    problem = make_problem(TINY, "cpu")
    expected = agreement.results_of(torch_, problem, "theta", double=True)
    found = agreement.compare("skewed", skewed, problem, "theta", expected)
    assert not found.timed
    assert found.gradient_difference == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize("name", ["kornia", "monai", "interpol", "opencv"])
def test_a_missing_rival_is_named(name, monkeypatch):
    def refuse(module):
        raise ImportError(f"No module named {module!r}")

    monkeypatch.setattr("importlib.import_module", refuse)
    rows = measure_group(
        TINY, Key("tiny-8", "forward", 1), {**contenders_of(TINY, False)}, MACHINE, QUICK
    )
    row = next(row for row in rows if row["contender"] == name)
    assert row["status"] == "cannot"
    assert "pip install" in row["reason"]
    table = markdown({"machine": MACHINE, "rows": rows})
    assert "cannot be imported" in table


def test_finished_groups_are_not_run_again(tmp_path, monkeypatch, only_torch):
    done = []

    def fake(case, key, contenders, machine, effort):
        done.append(key)
        return [{**key._asdict(), "contender": name} for name in contenders]

    monkeypatch.setattr(run, "measure_group", fake)
    path = tmp_path / "deep" / "cpu.json"
    cases = [TINY, next(case for case in CASES if case.name == "memory-frame")]

    def go_on(**options):
        done.clear()
        left = bench(cases, (1, 2), Results(path, MACHINE), QUICK, **options)
        return left, len(done)

    assert go_on(budget_s=-1) == (7, 0)
    assert go_on() == (0, 7)  # three directions on one and two threads, memory once
    assert go_on() == (0, 0)
    assert go_on(with_compiled=True) == (0, 7)
    assert go_on(fresh=True) == (0, 7)
    assert len(read_results(path)["rows"]) == 7 * 2
    with pytest.raises(ValueError, match="name 'Abacus', this is 'Slide rule'"):
        Results(path, {**MACHINE, "name": "Slide rule"})
    path.write_text('{"rows": []}')
    with pytest.raises(ValueError, match=r"damaged .it has no machine"):
        Results(path, MACHINE)


def rows_of(case="digits-42", threads=1, times=(1.0, 4.0), direction="forward", **more):
    key = {"case": case, "direction": direction, "threads": threads}
    own, other = times
    stamp = {"goal": 20, "gate": 7, "passed": False, "commit": "abc", "backend": "torch"}
    return [
        {**key, "contender": "stn", "median_s": own / 1e3, "ratio": other / own, **stamp, **more},
        {**key, "contender": "torch", "median_s": other / 1e3},
        {**key, "contender": "copy", "median_s": own / 2e3},
        {**key, "contender": "opencv", "status": "cannot", "reason": "has no gradients"},
    ]


def test_tables():
    rows = rows_of() + rows_of(threads=2, times=(2.0, 1.0))
    assert markdown({"machine": MACHINE, "rows": rows}) == "\n".join(
        [
            "Abacus, 2 cores (avx2); torch 2; torch-stn 0; commit abc; backend torch. Quick and "
            "rough: few samples.",
            "",
            "### Speed-up over the baseline",
            "",
            "| B, C, size | threads | forward | theta | both | goal | gate | passed |",
            "|---|--:|--:|--:|--:|--:|--:|--:|",
            "| 256, 1, 42² → 28² | 1 | 4.00 |  |  | 20 | 7 | no: forward |",
            "| 256, 1, 42² → 28² | 2 | **0.50** |  |  | 20 | 7 | no: forward |",
            "",
            "### Time of the others over that of stn, 1 thread / 2 threads",
            "",
            "| B, C, size | direction | stn, ms | torch | over the bound |",
            "|---|---|--:|--:|--:|",
            "| 256, 1, 42² → 28² | forward | 1.00 / 2.00 | 4.00 / **0.50** | 2.00 / 2.00 |",
            "",
            "### Losses: stn takes longer in 1 of 2 comparisons",
            "",
            "* 256, 1, 42² → 28², forward: torch 0.50 (2 threads)",
            "",
            "### Who did not take part, and why",
            "",
            "* OpenCV has no gradients (digits-42 forward)",
        ]
    )


def test_geometric_mean_needs_all_of_the_table():
    rows = [row for case in TABLE for row in rows_of(case.name, times=(1.0, 4.0))]
    line = "| **geometric mean of the 8 warps** | 1 | 4.00 |  |  |  |  |  |"
    assert line in markdown({"machine": MACHINE, "rows": rows})
    assert line not in markdown({"machine": MACHINE, "rows": rows[4:]})


def test_memory_in_the_tables():
    row = rows_of("memory-frame", direction="memory")[0] | {"needed_bytes": 5e7, "extra_bytes": 6e7}
    del row["median_s"], row["ratio"]
    table = markdown({"machine": MACHINE, "rows": [row]})
    assert "| 1, 3, 1080 x 1920 | 50 | 60 |" in table


def test_the_page(tmp_path):
    results, page = tmp_path / "cpu.json", tmp_path / "speed.md"
    results.write_text(json.dumps({"machine": MACHINE, "rows": rows_of()}))
    page.write_text("before\n<!-- bench-cpu -->\nold\n<!-- /bench-cpu -->\nafter\n")
    assert write_page(results, page) == [page, tmp_path / "speed" / "cpu.svg"]
    text = page.read_text()
    assert "![Speed-ups of stn over torch on Abacus](speed/cpu.svg)" in text
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert (tmp_path / "speed" / "cpu.svg").read_bytes().startswith(b"<?xml")
    assert draw({"machine": MACHINE, "rows": []}) is None


@pytest.mark.skipif(not memory.RESET.exists(), reason="memory is measured on Linux only")
def test_memory_of_torch_is_that_of_its_tensors():
    case = next(case for case in CASES if case.name == "memory-frame")
    problem = make_problem(case, "cpu")
    grid_bytes = 2 * 2 * 4 * 1080 * 1920  # it and its gradient
    whole = memory.needed_bytes(problem) + grid_bytes
    assert memory.peak_bytes(case, "torch", 1, "cpu") == pytest.approx(whole, rel=0.15)


def test_the_command(tmp_path, capsys, only_torch):
    output, page = tmp_path / "cpu.json", tmp_path / "page.md"
    page.write_text("<!-- bench-cpu --><!-- /bench-cpu -->")
    words = ["bench", "--quick", "--cases", "tiny-8", "--threads", "1", "--output", str(output)]
    assert main([*words, "--page", str(page)]) == 0
    data = json.loads(output.read_text())
    assert data["machine"]["torch"] == torch.__version__
    assert data["machine"]["quick"] is True
    found = {(row["direction"], row["contender"]) for row in data["rows"]}
    assert found == {(way, who) for way in DIRECTIONS for who in ("stn", "torch", "copy")}
    for row in data["rows"]:
        assert 0 < row["low_s"] <= row["median_s"] <= row["high_s"]
    assert data["rows"][0]["backend"] in ("native", "triton", "torch", "reference")
    assert "| 1, 1, 8² | both |" in page.read_text()
    assert f"results are in {output}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--cases nothing", "unknown case 'nothing'; known are warp"),
        ("--threads 0", "threads must be at least 1, got 0"),
        ("--budget-s 0", "budget-s must be positive"),
    ],
)
def test_what_the_user_can_mend(words, message, capsys):
    assert main(["bench", *words.split()]) == 2
    assert message in capsys.readouterr().err


def test_rivals_are_all_tried():
    assert set(contenders_of(TINY, True)) == {"stn", *RIVALS, "torch.compile", "stn.compile"}
