"""Looking at runs: example images with the region that was read, and the report page."""

from .overlays import Examples, collect_examples, draw_examples, mean_images, region_outline
from .report import RunView, write_report

__all__ = [
    "Examples",
    "RunView",
    "collect_examples",
    "draw_examples",
    "mean_images",
    "region_outline",
    "write_report",
]
