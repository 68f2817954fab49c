"""Measure case after case; what is in the results file already is not measured again."""

import time
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Protocol

import torch

from ..recipes import commit
from .agreement import compare, results_of
from .cases import Case
from .contenders import (
    backend_of,
    compulsory_bytes,
    contenders_of,
    copy_of,
    truth_of,
)
from .machine import has_avx512
from .measure import Effort, clock_of, interleave
from .memory import needed_bytes, peak_bytes
from .problem import Cannot, Problem, call_of, make_problem
from .results import Key, Results
from .rivals import Build


class Progress(Protocol):
    def __call__(self, step: int, steps: int, message: str, /) -> None: ...


def bench(
    cases: Sequence[Case],
    threads: Sequence[int],
    results: Results,
    effort: Effort,
    *,
    fresh: bool = False,
    with_compiled: bool = False,
    budget_s: float | None = None,
    progress: Progress = lambda step, steps, message: None,
) -> int:
    """Measure what `results` does not hold yet; returns how many groups are left.

    Args:
        cases, threads: every case in all its directions on every number of threads; memory on the
            first only.
        results: where rows go, group by group: kill this at any time and start it again.
        effort: how long a group takes.
        fresh: measure again what is there.
        with_compiled: torch.compile takes part too.
        budget_s: no group begins later.
        progress: called before each group.
    """
    groups = {
        Key(case.name, direction, count): case
        for count in threads
        for case in cases
        for direction in case.directions
        if direction != "memory" or count == threads[0]
    }
    if fresh:
        results.drop(groups.keys())
    todo = {
        key: case
        for key, case in groups.items()
        if not results.has(key, contenders_of(case, with_compiled))
    }
    start, before = time.monotonic(), torch.get_num_threads()
    try:
        for done, (key, case) in enumerate(todo.items()):
            if budget_s is not None and time.monotonic() - start > budget_s:
                return len(todo) - done
            progress(len(groups) - len(todo) + done, len(groups), " ".join(map(str, key)))
            torch.set_num_threads(key.threads)
            contenders = contenders_of(case, with_compiled)
            results.put(key, measure_group(case, key, contenders, results.machine, effort))
    finally:
        torch.set_num_threads(before)
    progress(len(groups), len(groups), "")
    return 0


def measure_group(
    case: Case, key: Key, contenders: dict[str, Build], machine: dict, effort: Effort
) -> list[dict]:
    """Check every contender, time those that agree, and write down all."""
    device, direction = machine["device"], key.direction
    problem = make_problem(case, device)
    stamp = {
        "commit": commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "backend": backend_of(problem),
    }
    rows = {name: {**key._asdict(), "contender": name, "kind": case.kind} for name in contenders}
    if direction == "memory":
        for name, row in rows.items():
            row |= _memory(case, name, key.threads, device)
            row["needed_bytes"] = needed_bytes(problem)
        _rate(rows, "extra_bytes", case.baseline)
    else:
        calls = check_all(contenders, problem, direction, rows)
        if direction != "step":
            calls["copy"] = copy_of(compulsory_bytes(problem, direction), device)
            rows["copy"] = {**key._asdict(), "contender": "copy", "kind": "bound"}
        for name, timing in interleave(calls, clock_of(device), effort).items():
            rows[name] |= {"status": "timed", **timing._asdict()}
            if "copy" in calls:
                rows[name]["bytes"] = compulsory_bytes(problem, direction)
        _rate(rows, "median_s", case.baseline)
    goal, gate = case.targets(direction, key.threads, device, has_avx512(machine))
    ratio = rows["stn"].get("ratio")
    passed = None if gate is None else bool(ratio and ratio >= gate)
    rows["stn"] |= {"goal": goal, "gate": gate, "passed": passed, **stamp}
    return list(rows.values())


def check_all(contenders: dict[str, Build], problem: Problem, direction: str, rows: dict) -> dict:
    """The calls of those that compute the right thing; the others' rows say why not."""
    expected = results_of(truth_of(problem.case), problem, direction, double=True)
    calls = {}
    for name, build in contenders.items():
        row = rows[name]
        try:
            agreement = compare(name, build, problem, direction, expected)
            row |= {"status": "disagrees", **agreement._asdict()}
            if row.pop("timed"):
                calls[name] = call_of(problem, build, direction)
        except Cannot as reason:
            row |= {"status": "cannot", "reason": str(reason)}
        except Exception as error:  # whatever a library raises is its reason
            first = (str(error).strip().splitlines() or [""])[0]
            row |= {"status": "cannot", "reason": f"{type(error).__name__}: {first}"}
    return calls


def _memory(case: Case, name: str, threads: int, device: str) -> dict:
    try:
        return {"status": "measured", "extra_bytes": peak_bytes(case, name, threads, device)}
    except Cannot as reason:
        return {"status": "cannot", "reason": str(reason)}


def _rate(rows: dict[str, dict], measure: str, baseline: str) -> None:
    """The baseline's measure over each one's own: above 1 is better than the baseline."""
    base = rows[baseline].get(measure)
    for row in rows.values():
        if base and row.get(measure):
            row |= {"baseline": baseline, "ratio": base / row[measure]}
