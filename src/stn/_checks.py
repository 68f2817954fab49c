"""Argument checks, whose messages say what was got and the way out, and the precision rule."""

import functools
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, TypeVar

import torch
from torch import Tensor

F = TypeVar("F", bound=Callable)


def widen(tensor: Tensor) -> Tensor:
    """Half-precision tensors as float32; wider ones unchanged."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def wide_dtype() -> torch.dtype:
    """Of parameters that say where to read, whatever the default dtype is."""
    return torch.promote_types(torch.get_default_dtype(), torch.float32)


def check_count(count: int, name: str) -> None:
    if not isinstance(count, Integral) or count < 1:
        raise ValueError(f"{name} must be a positive integer, got {count!r}")


def keep_wide(tensor: Tensor, fn: Callable[[Tensor], Tensor]) -> Tensor:
    """fn(tensor), a move or a cast, but no cast to half precision."""
    moved = fn(tensor)
    return moved if widen(moved) is moved else tensor.to(moved.device)


def full_precision(function: F) -> F:
    """Run `function` outside autocast, which would round coordinates to half precision."""

    @functools.wraps(function)
    def run(*args, **kwargs):
        if torch._C._is_any_autocast_enabled():
            arg = next((a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), None)
            if arg is not None and torch.is_autocast_enabled(arg.device.type):
                with torch.autocast(arg.device.type, enabled=False):
                    return function(*args, **kwargs)
        return function(*args, **kwargs)

    return run  # type: ignore[return-value]


def is_traced() -> bool:
    """Whether values cannot be looked at: under compile, export, torch.func and fake tensors."""
    functorch = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    return (
        torch.compiler.is_compiling()
        or functorch.peek_interpreter_stack() is not None
        or bool(torch._C._len_torch_dispatch_stack())
    )


def shape_of(tensor: Tensor) -> str:
    return "(" + ", ".join(str(n) for n in tensor.shape) + ("," if tensor.dim() == 1 else "") + ")"


def check_floating(tensor: Tensor, name: str) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
    if not tensor.is_floating_point():
        hint = (
            "divide by 255 for images in [0, 1]" if tensor.dtype == torch.uint8 else "use .float()"
        )
        raise TypeError(f"{name} must be floating point, got {tensor.dtype}: {hint}")


def check_size(size: Sequence[int] | int, dim: int, name: str = "size") -> tuple[int, ...]:
    """A spatial size as a tuple of `dim` positive integers, in the order (H, W) or (D, H, W)."""
    if type(size) is tuple and len(size) == dim and all(type(n) is int and n > 0 for n in size):
        return size  # as nearly all are
    got: Any = size
    try:
        got = (size,) * dim if isinstance(size, int | Integral) else tuple(size)
        if len(got) == dim and all(int(n) == n and n >= 1 for n in got):
            return tuple(int(n) for n in got)
    except (TypeError, ValueError, OverflowError):
        pass
    order = ("W",) if dim == 1 else ("H", "W") if dim == 2 else ("D", "H", "W")
    raise ValueError(f"{name} must be {dim} positive integers ({', '.join(order)}), got {got!r}")


def check_choice(value: object, choices: Sequence[object], name: str) -> None:
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name} must be one of {listed}, got {value!r}")


def check_device(tensor: Tensor, name: str, other: Tensor, other_name: str) -> None:
    if tensor.device != other.device:
        raise ValueError(
            f"{name} is on {tensor.device} and {other_name} on {other.device}: move one of them by "
            ".to(device)"
        )


def check_shape(input: Tensor, shape: tuple[int, ...], owner: str) -> None:
    """Images (B, *shape), channels first."""
    got = tuple(input.shape[1:])
    if got != shape:
        hint = ""
        if got == (*shape[1:], shape[0]):
            hint = "; these have their channels last: use .movedim(-1, 1)"
        elif tuple(input.shape) == shape:
            hint = "; for one image use .unsqueeze(0)"
        axes = ", ".join(str(n) for n in ("B", *shape))
        raise ValueError(f"{owner} was made for images ({axes}), got {shape_of(input)}{hint}")


def check_theta(theta: Tensor, num_params: int, owner: object) -> None:
    check_floating(theta, "theta")
    if theta.dim() != 2 or theta.shape[-1] != num_params:
        raise ValueError(
            f"{owner!r} takes theta of shape (B, {num_params}), got {shape_of(theta)}; "
            + (
                "a matrix goes to stn.warp_matrix, or through from_matrix"
                if theta.dim() == 3 and theta.shape[-1] - theta.shape[-2] in (0, 1)
                else f"the layer that predicts it must output {num_params} values per image"
            )
        )


def check_points(points: Tensor, dim: int, name: str = "points") -> Tensor:
    """Points as (1 or B, N, dim)."""
    check_floating(points, name)
    if points.dim() not in (2, 3) or points.shape[-1] != dim:
        axes = "(x, y)" if dim == 2 else "(x, y, z)"
        raise ValueError(
            f"{name} must have shape (N, {dim}) or (B, N, {dim}) with {axes} in the last axis, "
            f"got {shape_of(points)}"
        )
    return points if points.dim() == 3 else points.unsqueeze(0)
