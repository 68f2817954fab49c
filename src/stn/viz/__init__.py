"""Looking: pictures of warps from Python, and the report page of training runs."""

from .animate import animate_warp, grid_picture, side_by_side
from .board import log_transformer
from .draw import draw_control_points, draw_flow, draw_grid, draw_warp
from .film import diagnosed, make_film
from .flow import flow_colors, flow_of, flow_wheel
from .overlays import (
    Examples,
    collect_examples,
    draw_examples,
    region_outline,
)
from .report import RunView, write_report
from .survey import Survey, survey

__all__ = [
    "Examples",
    "RunView",
    "Survey",
    "animate_warp",
    "collect_examples",
    "diagnosed",
    "draw_control_points",
    "draw_examples",
    "draw_flow",
    "draw_grid",
    "draw_warp",
    "flow_colors",
    "flow_of",
    "flow_wheel",
    "grid_picture",
    "log_transformer",
    "make_film",
    "region_outline",
    "side_by_side",
    "survey",
    "write_report",
]
