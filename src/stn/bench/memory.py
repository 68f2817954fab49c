"""Peak memory of one forward and backward pass, beyond the tensors that were there before it.

On CPU the process's peak resident memory, in a process of its own, where every large tensor is
mapped and unmapped as it comes and goes; it counts output, gradients, grids and scratch alike. On a
GPU what torch allocates. On a system without /proc nothing is measured.
"""

import dataclasses
import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from .cases import Case, select
from .contenders import contenders_of
from .problem import Cannot, Problem, call_of, make_problem

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MAPPED = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def needed_bytes(problem: Problem) -> int:
    """What no implementation can do without: the output and both gradients."""
    return problem.cotangent.nbytes + problem.parameter.nbytes + problem.image.nbytes


def peak_bytes(case: Case, name: str, threads: int, device: str) -> int:
    """Bytes that a contender needs on top of the inputs.

    Raises:
        Cannot: it fails, or this system cannot tell.
    """
    if device == "cuda":
        return _peak_of(case, name, device)
    if not RESET.exists():
        raise Cannot("memory is measured on Linux only")
    code = f"from stn.bench import memory; memory.child({case.name!r}, {name!r}, {threads})"
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, env=os.environ | MAPPED, capture_output=True, text=True)
    if done.returncode < 0:
        raise Cannot(f"is killed by signal {-done.returncode}")
    if done.returncode:
        raise Cannot((done.stderr.strip().splitlines() or ["fails"])[-1])
    found = json.loads(done.stdout.splitlines()[-1])
    if isinstance(found, str):
        raise Cannot(found)
    return found


def _peak_of(case: Case, name: str, device: str) -> int:
    build = contenders_of(case, with_compiled=True)[name]
    small = dataclasses.replace(case, input_size=(16,) * case.dim, size=(16,) * case.dim)
    call_of(make_problem(small, device), build, "both")()  # loads whatever is loaded late
    call = call_of(make_problem(case, device), build, "both")
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    RESET.write_text("5")  # the peak is now what is resident
    before = _resident("VmRSS")
    call()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    line = next(row for row in STATUS.read_text().splitlines() if row.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def child(name: str, contender: str, threads: int) -> None:
    """In the child: print the bytes, or the reason why not, as JSON."""
    torch.set_num_threads(threads)
    case = next(case for case in select([name]) if case.name == name)
    try:
        print(json.dumps(_peak_of(case, contender, "cpu")))
    except Cannot as reason:
        print(json.dumps(str(reason)))
