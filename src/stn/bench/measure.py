"""Interleaved timing: A B C A B C …, so that what slows the machine slows all contenders."""

import gc
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import quantiles
from typing import NamedTuple

import torch

Call = Callable[[], object]
Clock = Callable[[Call, int], float]


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Args:
        rounds: samples of each contender.
        sample_s: length of a sample, at least; a single call may be longer.
        limit_s: of all rounds together; past it no round begins, but `least_rounds` are made.
    """

    rounds: int = 21
    sample_s: float = 0.02
    limit_s: float = 20.0
    least_rounds: int = 5


QUICK = Effort(rounds=3, sample_s=0.001, limit_s=1.0, least_rounds=2)


class Timing(NamedTuple):
    """Seconds a call: the median of the samples and their quartiles."""

    median_s: float
    low_s: float
    high_s: float
    calls: int
    rounds: int


def cpu_clock(call: Call, calls: int) -> float:
    """Seconds that `calls` calls take."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return time.perf_counter() - start


def cuda_clock(call: Call, calls: int) -> float:
    """The same on the GPU, by its own events."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(calls):
        call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


def clock_of(device: str) -> Clock:
    return cuda_clock if device == "cuda" else cpu_clock


def settle_allocator() -> None:
    """Leave glibc's allocator as a long-running program finds it.

    Until a process frees its first large block, glibc gives memory back to the system at every free
    and faults it in again at every call: page faults then outweigh all else, by chance of history.
    """
    torch.ones(30 << 20, dtype=torch.uint8)


def interleave(calls: Mapping[str, Call], clock: Clock, effort: Effort) -> dict[str, Timing]:
    """Time all calls in turn, round after round."""
    settle_allocator()
    numbers = {name: _calls_per_sample(call, clock, effort) for name, call in calls.items()}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    spent, collecting = 0.0, gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for done in range(effort.rounds):
            if done >= effort.least_rounds and spent > effort.limit_s:
                break
            for name, call in calls.items():
                if numbers[name] > 1:  # memory that the one before gave back is not this one's debt
                    call()
                seconds = clock(call, numbers[name])
                samples[name].append(seconds / numbers[name])
                spent += seconds
    finally:
        if collecting:
            gc.enable()
    return {name: _summary(samples[name], numbers[name]) for name in calls}


def _calls_per_sample(call: Call, clock: Clock, effort: Effort) -> int:
    """After a warm-up; the second estimate mends a first call that was slow."""
    clock(call, 1)
    number = 1
    for _ in range(2):
        seconds = clock(call, number) / number
        number = max(1, math.ceil(effort.sample_s / max(seconds, 1e-9)))
    return number


def _summary(samples: list[float], calls: int) -> Timing:
    low, median, high = quantiles(samples, n=4, method="inclusive")
    return Timing(median, low, high, calls, len(samples))
