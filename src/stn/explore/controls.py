"""Two controls that Gradio lacks: points to drag on an image, and a square to draw on."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data import DataError
from .drawing import reach

STATIC = Path(__file__).parent


def handles(gr: Any, value: str, elem_id: str) -> Any:
    """Points over the layers of an image: to drag, or to reach by Tab and move by arrow keys.

    Its value is `handles_value`; `input` comes at every move, `release` at the end of one.
    """
    return gr.HTML(
        value,
        html_template='<div class="handles" role="group" aria-label="points to drag"></div>',
        js_on_load=(STATIC / "handles.js").read_text(),
        apply_default_css=False,
        elem_id=elem_id,
    )


def handles_value(points: Tensor, names: Sequence[str], size: Sequence[int]) -> str:
    """Points (K, 2), normalised, with their names, over an image of `size`."""
    return json.dumps(
        {
            "points": [[round(v, 4) for v in point] for point in points.tolist()],
            "names": list(names),
            "reach": reach(size),
        }
    )


def points_of(value: Any) -> Tensor:
    """The points (K, 2) that the page sends back.

    Raises:
        DataError: it sent something else.
    """
    try:
        points = torch.tensor(json.loads(value)["points"], dtype=torch.float32).reshape(-1, 2)
    except (ValueError, TypeError, KeyError, RuntimeError):
        raise DataError("the points of this page are damaged; reload it") from None
    return points.nan_to_num(0.0, 0.0, 0.0).clamp(-2, 2)


def pad(gr: Any, value: str, elem_id: str) -> Any:
    """A square to draw on, white on black; its value is a data: address, `input` ends a stroke."""
    return gr.HTML(
        value,
        html_template=(
            '<canvas class="pad" width="112" height="112" role="img" '
            'aria-label="square to draw a digit on"></canvas>'
        ),
        js_on_load=(STATIC / "pad.js").read_text(),
        apply_default_css=False,
        elem_id=elem_id,
    )


def layer(gr: Any, value: str, elem_id: str) -> Any:
    """HTML or SVG to look at."""
    return gr.HTML(value, apply_default_css=False, elem_id=elem_id)


def choice(gr: Any, label: str, names: Sequence[str], start: str) -> Any:
    """One of a few; its id is made of its label."""
    elem_id = label.lower().replace(" ", "-")
    return gr.Radio(list(names), value=start, label=label, elem_id=elem_id)


def upload(gr: Any, label: str, elem_id: str) -> Any:
    """A field to drop an image file on, or to choose one by."""
    return gr.File(label=label, file_types=["image"], type="filepath", height=130, elem_id=elem_id)
