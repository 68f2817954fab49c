"""Benchmarks: stn against torch and other libraries, each checked before it is timed."""

from .cases import CASES, Case, select
from .command import command
from .measure import Effort, interleave
from .page import write_page
from .results import Results, read_results
from .run import bench
from .tables import markdown

__all__ = [
    "CASES",
    "Case",
    "Effort",
    "Results",
    "bench",
    "command",
    "interleave",
    "markdown",
    "read_results",
    "select",
    "write_page",
]
