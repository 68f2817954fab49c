"""Antialiased sampling as torch operators, on the native kernels: schema, shapes and derivatives.

stn::footprint turns Jacobians into inverse footprints, and stn::antialias reads images through
them. Their derivatives are native too; those of the derivatives are those of `antialias`, in plain
PyTorch. As in `ops`, eager code does without the operators' own dispatch.
"""

import ctypes
import struct
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .._checks import widen
from . import antialias, native
from .kernels import Mode
from .ops import LIBRARY, is_batched, leaves, refuse_tangents

MODES = {"bilinear": 0, "bicubic": 1, "lanczos3": 2, "gaussian": 3}
# The fields of `Antialias` in native/antialias.h, in their order.
CALL = struct.Struct("@5q3q3q3q2q9P")
WORKS = ("forward", "backward_places", "backward_input")

OPTIONS = "SymInt[] size, str mode, str padding_mode, bool align_corners"
LIBRARY.define("footprint(Tensor jacobian, float bound) -> Tensor")
LIBRARY.define("footprint_backward(Tensor grad, Tensor jacobian, float bound) -> Tensor")
LIBRARY.define(f"antialias(Tensor input, Tensor px, Tensor inverse, {OPTIONS}) -> Tensor")
LIBRARY.define(
    f"antialias_backward(Tensor grad, Tensor input, Tensor px, Tensor inverse, {OPTIONS}, "
    "bool needs_input, bool needs_places) -> (Tensor, Tensor, Tensor)"
)


def _load() -> dict[str, Callable] | str:
    """The functions of the library, or why there are none."""
    if isinstance(native.LOADED, str):
        return native.LOADED
    library, run = native.LOADED.library, {}
    try:
        for name in WORKS:
            run[name] = getattr(library, f"stn_antialias_{name}")
            run[name].argtypes, run[name].restype = [ctypes.c_char_p], None
        call = run["footprints"] = library.stn_antialias_footprints
        pointer, integer = ctypes.c_void_p, ctypes.c_int64
        call.argtypes = [pointer, pointer, pointer, integer, integer, ctypes.c_double]
        call.restype = None
    except AttributeError as error:
        return f"the native kernels do not load: {error}"
    assert library.stn_antialias_call_bytes() == CALL.size
    return run


LOADED = _load()


def reason_against(dim: int, mode: Mode, dtype: torch.dtype) -> str | None:
    """None when the kernels can do a call, else why not."""
    if isinstance(LOADED, str):
        return LOADED
    if dim not in (2, 3):
        return f"there are no {dim}-D native kernels"
    if mode not in MODES:
        return f"the native kernels have no antialiased mode {mode!r}"
    if dtype not in native.TYPES:
        return f"the native kernels have no {dtype}"
    return None


def footprint(jacobian: Tensor, size: Sequence[int]) -> Tensor:
    """The inverse of `antialias.footprint`, float64."""
    jacobian, bound = jacobian.double(), float(max(size))
    if torch.compiler.is_compiling() or not _is_plain(jacobian):
        return torch.ops.stn.footprint(jacobian, bound)
    if not (torch.is_grad_enabled() and jacobian.requires_grad):
        return _run_footprint(jacobian, bound)
    return _Footprint.apply(jacobian, bound)  # type: ignore[return-value]


def sample(
    input: Tensor,
    px: Tensor,
    inverse: Tensor,
    size: tuple[int, ...],
    mode: str,
    padding_mode: str,
    align_corners: bool,
) -> Tensor:
    """Images (B, C, *S) at places `px` (R, N, dim), R a multiple of B -> (R, C, *size).

    `inverse` (R, N or 1, dim, dim) of the footprints. Places that are not finite read 0.
    """
    args = input, px, inverse, size, mode, padding_mode, align_corners
    if torch.compiler.is_compiling() or not all(map(_is_plain, args[:3])):
        return torch.ops.stn.antialias(*args)
    if not (torch.is_grad_enabled() and any(t.requires_grad for t in args[:3])):
        return _run(*args)
    return _Antialias.apply(*args)  # type: ignore[return-value]


def _is_plain(tensor: Tensor) -> bool:
    return type(tensor) in (Tensor, torch.nn.Parameter) and not torch._C._len_torch_dispatch_stack()


# Footprints --------------------------------------------------------------------------------


def _run_footprint(jacobian: Tensor, bound: float) -> Tensor:
    refuse_tangents(jacobian)
    return _footprints(jacobian, None, bound)


def _run_footprint_backward(grad: Tensor, jacobian: Tensor, bound: float) -> Tensor:
    refuse_tangents(grad, jacobian)
    return _footprints(jacobian, grad.contiguous(), bound)


def _footprints(jacobian: Tensor, grad: Tensor | None, bound: float) -> Tensor:
    assert not isinstance(LOADED, str)
    jacobian, dim = jacobian.contiguous(), jacobian.shape[-1]
    out = torch.empty_like(jacobian)
    from_grad = 0 if grad is None else grad.data_ptr()
    count = out.numel() // dim**2
    LOADED["footprints"](jacobian.data_ptr(), from_grad, out.data_ptr(), count, dim, bound)
    return out


def _keep_footprint(ctx, inputs, output):
    *tensors, ctx.bound = inputs
    ctx.save_for_backward(*tensors)


def _differentiate_footprint(ctx, grad, run: Callable = torch.ops.stn.footprint_backward):
    return run(grad, *ctx.saved_tensors, ctx.bound), None


def _differentiate_footprint_backward(ctx, of_grad):
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        grad, jacobian = leaves(ctx.saved_tensors)
        out = antialias.footprints(jacobian, (round(ctx.bound),))[0]
        (first,) = torch.autograd.grad(out, jacobian, grad, create_graph=True)
        second = torch.autograd.grad(first, (grad, jacobian), of_grad, create_graph=again)
    return *second, None


def _footprint_backward_by_reference(grad: Tensor, jacobian: Tensor, bound: float) -> Tensor:
    """Also of a grad under vmap, as of `is_grads_batched`."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        (own,) = leaves([jacobian])
        out = antialias.footprints(own, (round(bound),))[0]
        return torch.autograd.grad(out, own, grad, create_graph=again)[0]


class _Footprint(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *inputs):
        _keep_footprint(ctx, inputs, None)
        return _run_footprint(*inputs)

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        run = _FootprintBackward.apply if torch.is_grad_enabled() else _run_footprint_backward
        if is_batched(grad):
            run = _footprint_backward_by_reference
        return _differentiate_footprint(ctx, grad, run)


class _FootprintBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *inputs):
        _keep_footprint(ctx, inputs, None)
        return _run_footprint_backward(*inputs)

    @staticmethod
    def backward(ctx, of_grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        return _differentiate_footprint_backward(ctx, of_grad)


# Samples -----------------------------------------------------------------------------------


def _run(input, px, inverse, size, *options):
    refuse_tangents(input, px, inverse)
    shape = px.shape[0], input.shape[1], *size
    out = torch.empty(shape, dtype=input.dtype, device=input.device)
    if out.numel():
        wide = out if out.dtype == widen(out).dtype else torch.empty_like(out, dtype=torch.float32)
        _call("forward", input, px, inverse, size, *options, output=wide)
        if wide is not out:
            out.copy_(wide)
    return out


def _new_gradients(input, px, inverse, needs_input, needs_places):
    """Room for the gradients that are needed, nothing for the others."""
    layout = torch.contiguous_format
    grad_input = (
        torch.empty_like(input, memory_format=layout) if needs_input else input.new_empty(0)
    )
    if not needs_places:
        return grad_input, px.new_empty(0), inverse.new_empty(0)
    places = (torch.empty_like(t, memory_format=layout) for t in (px, inverse))
    return grad_input, *places


def _run_backward(grad, input, px, inverse, size, *options):
    refuse_tangents(grad, input, px, inverse)
    *options, needs_input, needs_places = options
    grads = _new_gradients(input, px, inverse, needs_input, needs_places)
    if not grad.numel() or not input.numel():
        for gradient in grads:
            gradient.zero_()
        return grads
    to_input, *to_places = grads
    if not needs_places:  # the sums of weights come with them
        to_places = torch.empty_like(px), torch.empty_like(inverse)
    total = torch.empty(px.shape[:2], dtype=torch.float64)
    call = input, px, inverse, size, *options
    _call("backward_places", *call, grad=grad, to_px=to_places[0], to_inverse=to_places[1],
          total=total)  # fmt: skip
    if needs_input:
        wide = widen(to_input)
        _call("backward_input", *call, grad=grad, to_input=wide, total=total)
        if wide is not to_input:
            to_input.copy_(wide)
    return grads


def _call(
    work: str,
    input: Tensor,
    px: Tensor,
    inverse: Tensor,
    size: Sequence[int],
    mode: str,
    padding_mode: str,
    align_corners: bool,
    grad: Tensor | None = None,
    output: Tensor | None = None,
    to_input: Tensor | None = None,
    to_px: Tensor | None = None,
    to_inverse: Tensor | None = None,
    total: Tensor | None = None,
) -> None:
    """Run one of `WORKS` on tensors that stay alive here; all outputs are contiguous."""
    assert isinstance(native.LOADED, native.Native)
    assert not isinstance(LOADED, str)
    image, px, inverse = widen(input).contiguous(), px.contiguous(), inverse.contiguous()
    grad = None if grad is None else grad.to(image.dtype).contiguous()
    pointers = image, px, inverse, grad, output, to_input, to_px, to_inverse, total
    dim = px.shape[-1]
    ones = (1,) * (3 - dim)
    call = CALL.pack(
        *(native.LEVELS.index(native.LOADED.level), dim, MODES[mode]),
        *(native.PADDINGS[padding_mode], align_corners),
        *(image.shape[0], px.shape[0], image.shape[1]),
        *(*ones, *image.shape[2:], *ones, *size),
        *(image.dtype == torch.float64, inverse.shape[1] == 1),
        *(0 if tensor is None else tensor.data_ptr() for tensor in pointers),
    )
    LOADED[work](call)


def _keep(ctx, inputs, output):
    input, px, inverse, *ctx.options = inputs
    ctx.save_for_backward(input, px, inverse)


def _keep_backward(ctx, inputs, output):
    grad, input, px, inverse, *ctx.options = inputs
    ctx.save_for_backward(grad, input, px, inverse)


def _differentiate(ctx, grad, run: Callable = torch.ops.stn.antialias_backward):
    needs = ctx.needs_input_grad[:3]
    if not any(needs):
        return (None,) * 7
    grads = run(grad, *ctx.saved_tensors, *ctx.options, needs[0], needs[1] or needs[2])
    return *(g if n else None for g, n in zip(grads, needs, strict=True)), *(None,) * 4


def _differentiate_backward(ctx, *of_grads):
    """Derivatives of the gradients, by the reference sampler, to any order."""
    *options, needs_input, needs_places = ctx.options
    needs = needs_input, needs_places, needs_places
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        own = leaves(ctx.saved_tensors)
        out = sample_by_reference(*own[1:], *options)
        wanted = [t for t, n in zip(own[1:], needs, strict=True) if n]
        first = torch.autograd.grad(out, wanted, own[0], create_graph=True)
        given = [g for g, n in zip(of_grads, needs, strict=True) if n]
        second = torch.autograd.grad(first, own, given, create_graph=again, allow_unused=True)
    return *second, *(None,) * 6


def _run_backward_by_reference(grad, input, px, inverse, *options):
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        own = leaves((input, px, inverse))
        out = sample_by_reference(*own, *options[:-2])
        return torch.autograd.grad(out, own, grad, create_graph=again)


class _Antialias(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *inputs):
        _keep(ctx, inputs, None)
        return _run(*inputs)

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        run = _AntialiasBackward.apply if torch.is_grad_enabled() else _run_backward
        return _differentiate(ctx, grad, _run_backward_by_reference if is_batched(grad) else run)


class _AntialiasBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *inputs):
        _keep_backward(ctx, inputs, None)
        return _run_backward(*inputs)

    @staticmethod
    def backward(ctx, *of_grads):  # pyright: ignore[reportIncompatibleMethodOverride]
        return _differentiate_backward(ctx, *of_grads)


def sample_by_reference(input, px, inverse, size, mode, padding_mode, align_corners):
    """stn::antialias in plain PyTorch."""
    image = input.repeat_interleave(px.shape[0] // input.shape[0], 0)
    finite = px.isfinite().all(-1, keepdim=True)
    inverse = inverse.expand(*px.shape[:2], *inverse.shape[2:])
    reach = torch.linalg.inv(inverse.detach()).abs().sum(-1)
    fill = torch.zeros(1, dtype=torch.float64, device=px.device)
    flat = torch.where(finite, px, 0)
    out = antialias.sample(image, flat, inverse, reach, mode, padding_mode, align_corners, fill)
    return torch.where(finite.mT, out, 0).unflatten(-1, tuple(size))


# Registration ------------------------------------------------------------------------------

LIBRARY.impl("footprint", _run_footprint, "CPU")
LIBRARY.impl("footprint_backward", _run_footprint_backward, "CPU")
LIBRARY.impl("antialias", _run, "CPU")
LIBRARY.impl("antialias_backward", _run_backward, "CPU")


@torch.library.register_fake("stn::footprint", lib=LIBRARY)
def _(jacobian, bound):
    return torch.empty_like(jacobian, memory_format=torch.contiguous_format)


@torch.library.register_fake("stn::footprint_backward", lib=LIBRARY)
def _(grad, jacobian, bound):
    return torch.empty_like(jacobian, memory_format=torch.contiguous_format)


@torch.library.register_fake("stn::antialias", lib=LIBRARY)
def _(input, px, inverse, size, *options):
    return input.new_empty(px.shape[0], input.shape[1], *size)


@torch.library.register_fake("stn::antialias_backward", lib=LIBRARY)
def _(grad, input, px, inverse, size, *options):
    return _new_gradients(input, px, inverse, *options[-2:])


for _name, _backward, _setup in (
    ("footprint", _differentiate_footprint, _keep_footprint),
    ("footprint_backward", _differentiate_footprint_backward, _keep_footprint),
    ("antialias", _differentiate, _keep),
    ("antialias_backward", _differentiate_backward, _keep_backward),
):
    torch.library.register_autograd(f"stn::{_name}", _backward, setup_context=_setup, lib=LIBRARY)
