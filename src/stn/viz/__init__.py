"""Looking at runs: example images with the region that was read, and the report page."""

from .overlays import (
    Examples,
    answer,
    collect_examples,
    draw_examples,
    mean_images,
    read_answers,
    region_outline,
)
from .report import RunView, write_report

__all__ = [
    "Examples",
    "RunView",
    "answer",
    "collect_examples",
    "draw_examples",
    "mean_images",
    "read_answers",
    "region_outline",
    "write_report",
]
