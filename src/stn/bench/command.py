"""`stn bench`: measure, tabulate, fill in the page."""

from collections.abc import Sequence
from pathlib import Path

import torch

from .cases import select
from .machine import describe, file_name
from .measure import QUICK, Effort
from .page import write_page
from .results import Results
from .run import Progress, bench
from .tables import markdown

FOLDER = Path("benchmarks/results")


def command(
    cases: Sequence[str],
    threads: Sequence[int],
    device: str,
    quick: bool,
    fresh: bool,
    compiled: bool,
    output: Path | None,
    page: Path | None,
    budget_s: float | None,
    progress: Progress,
) -> str:
    """Run the benchmarks that the command line names; returns what it prints.

    Raises:
        ValueError: an unknown case, a device that is not there, or numbers out of range.
    """
    chosen = select(cases)
    if not threads or min(threads) < 1:
        raise ValueError(f"threads must be at least 1, got {' '.join(map(str, threads)) or 'none'}")
    if budget_s is not None and not budget_s > 0:
        raise ValueError(f"budget-s must be positive, got {budget_s}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("torch finds no CUDA device; use --device cpu")
    machine = describe(device) | {"quick": quick}
    path = output or FOLDER / file_name(machine, quick)
    results = Results(path, machine)
    left = bench(
        chosen,
        threads if device == "cpu" else threads[:1],
        results,
        QUICK if quick else Effort(),
        fresh=fresh,
        with_compiled=compiled,
        budget_s=budget_s,
        progress=progress,
    )
    if not results.rows:
        return "nothing was measured: --budget-s is too short"
    lines = [markdown({"machine": machine, "rows": results.rows}), "", f"results are in {path}"]
    if page is not None:
        lines += [f"wrote {written}" for written in write_page(path, page)]
    if left:
        lines.append(f"{left} measurements are left: run the same command again (not --fresh)")
    return "\n".join(lines)
