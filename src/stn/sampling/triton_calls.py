"""Calls of the Triton kernels: how a sampling is cut into programs, and what they write to."""

# pyright: reportCallIssue=false

import math

import torch
from torch import Tensor
from triton import cdiv, next_power_of_2
from triton import language as tl

from ..places import MATRICES
from . import triton_kernels

TAPS = {"nearest": 1, "bilinear": 2, "bicubic": 4}
POINTS = (256, 1024)  # targets of a tile: the fewer where there are too few tiles to fill a GPU
WIDEST = 32  # channels handled together, and the usual width of a tile
LONGEST = 128  # side of a tile; over so many steps float32 keeps a place to 1e-5 px
BITS = 60  # of the integers in which a deterministic image gradient is summed


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
    grid, sizes, constants = _cut(input, places, out, size, True)
    constants |= _options(input, kind, align_corners, mode, padding_mode)
    with torch.cuda.device_of(input):
        triton_kernels.forward_kernel[grid](
            input, places, out, *sizes, *_strides(places, kind), **constants
        )


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
    matrix = kind in MATRICES
    grid, sizes, constants = _cut(input, places, grad, size, matrix or grad_places is None)
    constants |= _options(input, kind, align_corners, mode, padding_mode)
    # Where there is nothing to write, `grad` and `places` stand for tensors that are not touched.
    image = fixed = scale = grad
    deterministic = grad_input is not None and torch.are_deterministic_algorithms_enabled()
    sums = places if grad_places is None else grad_places
    if grad_places is not None and matrix:
        shape = places.shape[0], grid[0] // places.shape[0] * grid[1], *places.shape[1:]
        sums = torch.empty(shape, dtype=torch.float64, device=places.device)
    if grad_input is not None:
        half = grad_input.dtype in (torch.float16, torch.bfloat16)
        image = torch.zeros_like(grad_input, dtype=torch.float32) if half else grad_input.zero_()
    if deterministic:
        fixed = torch.zeros_like(image, dtype=torch.int64)
        scale = _scale(grad, math.prod(size) * (places.shape[0] // input.shape[0]))
    with torch.cuda.device_of(input):
        triton_kernels.backward_kernel[grid](
            *(grad, input, places, image, fixed, scale, sums, *sizes),
            *_strides(places, kind),
            *_strides(places if matrix else sums, kind),
            INPUT=grad_input is not None,
            PLACES=grad_places is not None,
            FIXED=deterministic,
            **constants,
        )
    if grad_places is not None and matrix:
        grad_places.copy_(sums.sum(1))
    if deterministic:
        image += fixed.double() / scale
    if grad_input is not None and image is not grad_input:
        grad_input.copy_(image)


def _cut(
    input: Tensor, places: Tensor, out: Tensor, size: list[int], split_channels: bool
) -> tuple[tuple[int, int], tuple[int, ...], dict]:
    """Programs (tiles of all rows, runs of channels), sizes and layout, for `input` and `out`."""
    images, channels = input.shape[:2]
    rows, last = places.shape[0], not input.is_contiguous()
    in_size, out_size = ((*reversed(s), 1)[:3] for s in (input.shape[2:], size))
    block = min(next_power_of_2(channels), WIDEST) if last else 1
    wanted = _programs(input.device)
    points = POINTS[rows * math.prod(size) * cdiv(channels, block) > wanted * POINTS[1]] // block
    tile = _tile(out_size, points)
    tiles = rows * math.prod(cdiv(n, t) for n, t in zip(out_size, tile, strict=True))
    blocks = cdiv(channels, block)
    share = cdiv(blocks, min(blocks, cdiv(wanted, tiles))) if split_channels else blocks
    most = channels * max(math.prod(in_size), math.prod(out_size))
    constants = {
        **dict(zip("XYZ", tile, strict=True)),
        "BLOCK": block,
        "LAST": last,
        "OFFSET": tl.int64 if most >= 2**31 else tl.int32,
    }
    sizes = images, rows, channels, *in_size, *out_size, share
    return (tiles, cdiv(blocks, share)), sizes, constants


def _tile(size: tuple[int, ...], points: int) -> tuple[int, int, int]:
    """Width, height and depth, powers of 2, of the tiles of an output (W, H, D)."""
    width, height, depth = (next_power_of_2(n) for n in size)
    x = min(width, WIDEST, points)
    y = min(height, points // x, LONGEST)
    z = min(depth, points // (x * y), LONGEST)
    return min(width, points // (y * z), LONGEST), y, z


def _programs(device: torch.device) -> int:
    """How many keep a GPU busy; in the interpreter the fewer, the better."""
    if device.type != "cuda":
        return 4
    return 8 * torch.cuda.get_device_properties(device).multi_processor_count


def _options(input: Tensor, kind: str, align_corners: bool, mode: str, padding_mode: str) -> dict:
    return {
        "WORK": tl.float64 if input.dtype == torch.float64 else tl.float32,
        "DIM": input.dim() - 2,
        "KIND": kind,
        "TAPS": TAPS[mode],
        "MODE": mode,
        "PADDING": padding_mode,
        "ALIGN": align_corners,
    }


def _strides(places: Tensor, kind: str) -> tuple[int, int, int]:
    if kind in MATRICES:
        return math.prod(places.shape[1:]), 0, 0
    row, point, axis = places.stride()
    return row, point, axis


def _scale(grad: Tensor, count: int) -> Tensor:
    """A power of 2 by which sums of `count` entries of `grad`, weighted, grow to BITS bits."""
    largest = grad.double().nan_to_num(0, 0, 0).abs().amax()
    exponent = torch.frexp(largest).exponent.clamp(min=-900)
    return torch.exp2((BITS - 2 - count.bit_length() - exponent).double())
