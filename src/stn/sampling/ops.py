"""The fused sampler as torch operators: schema, shapes and derivatives, once for all devices.

stn::sample reads `input` at places that are described, not computed: see `stn.places.Places`.
Kernels register their device's implementation against it. Eager code calls the implementation
straight from an autograd.Function, which costs a third of what the operator's own dispatch does;
traced code sees the operator.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..places import MATRICES, pixels_of
from . import native, reference, triton

OPTIONS = "SymInt[] size, str kind, bool align_corners, str mode, str padding_mode"
LIBRARY = torch.library.Library("stn", "DEF")
LIBRARY.define(f"sample(Tensor input, Tensor places, {OPTIONS}) -> Tensor")
LIBRARY.define(
    f"sample_backward(Tensor grad, Tensor input, Tensor places, {OPTIONS}, bool needs_input, "
    "bool needs_places) -> (Tensor, Tensor)"
)
KERNELS = {"cpu": native, "cuda": triton}


def sample(
    input: Tensor,
    places: Tensor,
    size: tuple[int, ...],
    kind: str,
    align_corners: bool,
    mode: str,
    padding_mode: str,
) -> Tensor:
    """Images (B, C, *S) at `places` of R outputs, R a multiple of B -> (R, C, *size)."""
    options = size, kind, align_corners, mode, padding_mode
    if torch.compiler.is_compiling() or not (_is_plain(input) and _is_plain(places)):
        return torch.ops.stn.sample(input, places, *options)
    if not (torch.is_grad_enabled() and (input.requires_grad or places.requires_grad)):
        return _run(input, places, *options)
    return _Sample.apply(input, places, *options)  # type: ignore[return-value]


def _is_plain(tensor: Tensor) -> bool:
    return type(tensor) in (Tensor, torch.nn.Parameter) and not torch._C._len_torch_dispatch_stack()


def layout_of(input: Tensor) -> torch.memory_format:
    """channels_last where an image is, else planar."""
    if not is_batched(input) and not input.is_contiguous():  # vmap does not know of channels_last
        if input.dim() == 4 and input.is_contiguous(memory_format=torch.channels_last):
            return torch.channels_last
        if input.dim() == 5 and input.is_contiguous(memory_format=torch.channels_last_3d):
            return torch.channels_last_3d
    return torch.contiguous_format


def new_output(
    input: Tensor, places: Tensor, size: tuple[int, ...], layout: torch.memory_format
) -> Tensor:
    """An empty (R, C, *size)."""
    shape = (places.shape[0], input.shape[1], *size)
    if layout == torch.contiguous_format:
        return input.new_empty(shape)
    return torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=layout)


def new_gradients(
    input: Tensor, places: Tensor, kind: str, needs_input: bool, needs_places: bool
) -> tuple[Tensor, Tensor]:
    """Room for the gradients that are needed, nothing for the others."""
    if needs_input:
        grad_input = torch.empty_like(input, memory_format=layout_of(input))
    else:
        grad_input = input.new_empty(0)
    if not needs_places:
        return grad_input, places.new_empty(0)
    if kind not in MATRICES and places.stride(-1) != 1 and places.shape[-1] > 1:
        # A planar field has a planar gradient.
        return grad_input, torch.empty_like(places.mT, memory_format=torch.contiguous_format).mT
    return grad_input, torch.empty_like(places, memory_format=torch.contiguous_format)


def refuse_tangents(*tensors: Tensor) -> None:
    """Compiled before forward differentiation began, a graph would lose its derivatives here."""
    if torch.autograd.forward_ad._current_level < 0:
        return
    if any(torch.autograd.forward_ad.unpack_dual(t).tangent is not None for t in tensors):
        raise NotImplementedError(
            "this operator has no forward-mode derivative: compile what differentiates forward, "
            'or pass backend="reference"'
        )


def is_batched(tensor: Tensor) -> bool:
    """Whether vmap is at work, old or new, whose tensors kernels cannot read."""
    if torch.compiler.is_compiling():
        return False
    functorch = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    active = functorch.peek_interpreter_stack() is not None
    return active or bool(functorch.is_legacy_batchedtensor(tensor))


def _run(input, places, size, kind, *options):
    refuse_tangents(input, places)
    layout = layout_of(input)
    out = new_output(input, places, size, layout)
    if out.numel():
        image = input.contiguous(memory_format=layout)
        kernels = KERNELS[input.device.type]
        kernels.forward(image, _readable(places, kind), out, size, kind, *options)
    return out


def _run_backward(grad, input, places, size, kind, *options):
    refuse_tangents(grad, input, places)
    *options, needs_input, needs_places = options
    grads = new_gradients(input, places, kind, needs_input, needs_places)
    if not grad.numel():
        for gradient in grads:
            gradient.zero_()
    else:
        layout = layout_of(input)
        KERNELS[input.device.type].backward(
            grad.contiguous(memory_format=layout),
            input.contiguous(memory_format=layout),
            _readable(places, kind),
            grads[0] if needs_input else None,
            grads[1] if needs_places else None,
            size,
            kind,
            *options,
        )
    return grads


def _readable(places: Tensor, kind: str) -> Tensor:
    return places.contiguous() if kind in MATRICES else places


def _keep(ctx, inputs, output):
    input, places, *ctx.options = inputs
    ctx.save_for_backward(input, places)


def _keep_backward(ctx, inputs, output):
    grad, input, places, *ctx.options = inputs
    ctx.save_for_backward(grad, input, places)


def _differentiate(ctx, grad, run: Callable = torch.ops.stn.sample_backward):
    needs = ctx.needs_input_grad[:2]
    if not any(needs):
        return (None,) * 7
    grads = run(grad, *ctx.saved_tensors, *ctx.options, *needs)
    return *(g if n else None for g, n in zip(grads, needs, strict=True)), *(None,) * 5


def _differentiate_backward(ctx, of_grad_input, of_grad_places):
    """Derivatives of the gradients, by the reference sampler, to any order."""
    grad, input, places = ctx.saved_tensors
    *options, needs_input, needs_places = ctx.options
    needs = needs_input, needs_places
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        own = leaves((grad, input, places))
        out = sample_by_reference(own[1], own[2], *options)
        wanted = [t for t, n in zip(own[1:], needs, strict=True) if n]
        first = torch.autograd.grad(out, wanted, own[0], create_graph=True)
        given = [g for g, n in zip((of_grad_input, of_grad_places), needs, strict=True) if n]
        second = torch.autograd.grad(first, own, given, create_graph=again, allow_unused=True)
    return *second, *(None,) * 7


def _run_backward_by_reference(grad, input, places, *options):
    """Also of a grad under vmap, as of `is_grads_batched`."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        image, where = leaves((input, places))
        out = sample_by_reference(image, where, *options[:-2])
        return torch.autograd.grad(out, (image, where), grad, create_graph=again)


def leaves(tensors: Sequence[Tensor]) -> list[Tensor]:
    """To differentiate by: on the graphs that they have, or on one of their own."""
    return [t.view_as(t) if t.requires_grad else t.detach().requires_grad_() for t in tensors]


class _Sample(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *inputs):
        _keep(ctx, inputs, None)
        return _run(*inputs)

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        run = _SampleBackward.apply if torch.is_grad_enabled() else _run_backward
        return _differentiate(ctx, grad, _run_backward_by_reference if is_batched(grad) else run)


class _SampleBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *inputs):
        _keep_backward(ctx, inputs, None)
        return _run_backward(*inputs)

    @staticmethod
    def backward(ctx, *grads):  # pyright: ignore[reportIncompatibleMethodOverride]
        return _differentiate_backward(ctx, *grads)


for _device in KERNELS:
    LIBRARY.impl("sample", _run, _device.upper())
    LIBRARY.impl("sample_backward", _run_backward, _device.upper())


@torch.library.register_fake("stn::sample", lib=LIBRARY)
def _(input, places, size, *options):
    return new_output(input, places, size, layout_of(input))


@torch.library.register_fake("stn::sample_backward", lib=LIBRARY)
def _(grad, input, places, size, kind, *options):
    return new_gradients(input, places, kind, *options[-2:])


torch.library.register_autograd("stn::sample", _differentiate, setup_context=_keep, lib=LIBRARY)
torch.library.register_autograd(
    "stn::sample_backward", _differentiate_backward, setup_context=_keep_backward, lib=LIBRARY
)


def sample_by_reference(
    input: Tensor,
    places: Tensor,
    size: tuple[int, ...],
    kind: str,
    align_corners: bool,
    mode: str,
    padding_mode: str,
) -> Tensor:
    """stn::sample in plain PyTorch."""
    px = pixels_of(kind, places, size, input.shape[2:], align_corners)
    finite = px.isfinite().all(-1, keepdim=True)
    image = input.repeat_interleave(px.shape[0] // input.shape[0], 0)
    fill = torch.zeros(1, dtype=torch.float64, device=px.device)
    flat = torch.where(finite, px, 0)
    out = reference.sample(image, flat, mode, padding_mode, align_corners, fill)
    return torch.where(finite.mT, out, 0).unflatten(-1, size)
