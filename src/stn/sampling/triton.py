"""The Triton GPU kernels: whether they can run, and their entry, which loads Triton when called."""

import importlib.util

import torch
from torch import Tensor

from .native import PADDINGS, TYPES

MODES = ("nearest", "bilinear", "bicubic")


def _find() -> str | None:
    """None when there is a Triton that compiles the kernels, else why not."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if torch.__version__ < "2.8":
        return (
            f"the Triton kernels need torch 2.8, which brings Triton 3.4, got {torch.__version__}"
        )
    return None


# Not found out at the first call: torch.compile cannot trace that.
MISSING = _find()


def forward(
    input: Tensor,
    places: Tensor,
    out: Tensor,
    size: list[int],
    kind: str,
    align_corners: bool,
    mode: str,
    padding_mode: str,
) -> None:
    """Fill `out` (R, C, *size)."""
    from . import triton_calls

    triton_calls.forward(input, places, out, size, kind, align_corners, mode, padding_mode)


def backward(
    grad: Tensor,
    input: Tensor,
    places: Tensor,
    grad_input: Tensor | None,
    grad_places: Tensor | None,
    size: list[int],
    kind: str,
    align_corners: bool,
    mode: str,
    padding_mode: str,
) -> None:
    """Fill `grad_input` and `grad_places`; both optional."""
    from . import triton_calls

    options = size, kind, align_corners, mode, padding_mode
    triton_calls.backward(grad, input, places, grad_input, grad_places, *options)


def reason_against(dim: int, mode: object, padding_mode: str, dtype: torch.dtype) -> str | None:
    """None when the kernels can do a call, else why not."""
    if MISSING is not None:
        return MISSING
    if dim not in (2, 3):
        return f"there are no {dim}-D Triton kernels"
    if mode not in MODES:
        return f"the Triton kernels have no mode {mode!r}"
    if dim == 3 and mode == "bicubic":
        return "there is no tricubic Triton kernel"
    if padding_mode not in (*PADDINGS, "fill"):
        return f"the Triton kernels have no padding_mode {padding_mode!r}"
    if dtype not in TYPES:
        return f"the Triton kernels have no {dtype}"
    return None
