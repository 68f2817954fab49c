"""Which backend runs a call."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .._checks import check_choice
from ..places import Places
from . import antialias_ops, aten, native, ops, reference, triton
from .kernels import Mode

# Operators that take described places, and functions of pixel coordinates, best first.
FUSED = {"native": native, "triton": triton}
POINTWISE: dict[str, Callable[..., Tensor]] = {"torch": aten.sample, "reference": reference.sample}
BACKENDS = (*FUSED, *POINTWISE)


class Call(NamedTuple):
    """What a backend must know to say whether it can run."""

    dim: int
    mode: Mode
    padding_mode: str
    empty: bool
    antialias: bool = False
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    transformed: bool = False  # by torch.func
    forward_mode: bool = False  # differentiated forward
    exported: bool = False


def call_of(
    input: Tensor,
    places: Places,
    mode: Mode,
    padding_mode: str,
    antialias: bool = False,
) -> Call:
    """The call that samples `input` at `places`."""
    transformed, forward_mode = _transforms()
    return Call(
        len(places.size),
        mode,
        padding_mode,
        input.numel() == 0 or places.values.numel() == 0 or 0 in places.size,
        antialias,
        input.device.type,
        input.dtype,
        transformed,
        forward_mode,
        torch.compiler.is_exporting() or torch._C._get_tracing_state() is not None,
    )


def can_run(backend: str, call: Call) -> str | None:
    """None when `backend` can run `call`, else the reason why not."""
    if backend == "reference":
        return None
    if backend == "torch":
        return aten.reason_against(
            call.dim, call.mode, call.padding_mode, call.empty, call.antialias, call.forward_mode
        )
    if ops.KERNELS.get(call.device) is not FUSED[backend]:
        return f"the image is on {call.device}"
    if call.antialias and backend != "native":
        return f"there is no {backend} antialiased warp"
    if call.exported:
        return "an exported program must not need the library of stn"
    if call.transformed or call.forward_mode:
        return f"torch.func and forward-mode differentiation do not reach into {backend} kernels"
    if call.antialias:
        return antialias_ops.reason_against(call.dim, call.mode, call.dtype)
    return FUSED[backend].reason_against(call.dim, call.mode, call.padding_mode, call.dtype)


def choose(call: Call, backend: str | None = None) -> str:
    """The first backend that can run `call`; or `backend`, or a ValueError."""
    if backend is not None:
        check_choice(backend, BACKENDS, "backend")
        reason = can_run(backend, call)
        if reason is not None:
            raise ValueError(f"backend {backend!r} cannot run this call: {reason}")
        return backend
    if call.device == "cpu" and not torch.compiler.is_compiling():
        native.warn_if_missing()
    for name in FUSED:
        if can_run(name, call) is None:
            return name
    return "torch" if can_run("torch", call) is None else "reference"


def _transforms() -> tuple[bool, bool]:
    """Whether torch.func is at work, and whether derivatives are carried forward."""
    functorch = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    forward = torch.autograd.forward_ad._current_level >= 0
    stack = functorch.get_interpreter_stack()
    if not stack:
        return False, forward
    return True, forward or any(layer.key() == functorch.TransformType.Jvp for layer in stack)


# As torch.compiler.assume_constant_result does, which would load all of the compiler.
_transforms._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]
