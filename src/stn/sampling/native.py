"""The native CPU kernels: one shared library with a C interface, called through ctypes."""

import ctypes
import functools
import os
import struct
import warnings
from pathlib import Path

import torch
from torch import Tensor

from ..places import MATRICES

LIBRARY = Path(os.environ.get("STN_LIBRARY", Path(__file__).with_name("libstn_native.so")))
LEVELS = ("scalar", "avx2", "avx512")
MODES = {"nearest": 0, "bilinear": 1, "bicubic": 2}
PADDINGS = {"zeros": 0, "border": 1, "reflection": 2, "mirror": 3, "wrap": 4}
TYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
SOURCES = {"affine": 0, "projective": 1}
NORMALIZED, RELATIVE = ("grid", "flow"), ("flow", "flow_px")
# The fields of `Call` in native/call.h, in their order.
CALL = struct.Struct("@4q3q3q3q1q1q2q3q2q6P3q")


class Native:
    """The loaded library; `level` is the instruction set it runs on."""

    def __init__(self, path: Path):
        self.library = ctypes.CDLL(str(path))
        torch_cpu = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        address = [
            ctypes.cast(getattr(torch_cpu, name), ctypes.c_void_p)
            for name in ("torch_parallel_for", "torch_get_num_threads")
        ]
        start = self.library.stn_start
        start.argtypes, start.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64], int
        most = os.environ.get("STN_LEVEL", LEVELS[-1])
        if most not in LEVELS:
            raise ValueError(f"STN_LEVEL must be one of {', '.join(LEVELS)}, got {most!r}")
        self.level = LEVELS[start(*address, LEVELS.index(most))]
        self.run = {}
        for name in ("forward", "backward_places", "backward_input"):
            call = getattr(self.library, f"stn_{name}")
            call.argtypes, call.restype = [ctypes.c_char_p], None
            self.run[name] = call
        assert self.library.stn_call_bytes() == CALL.size


def _load() -> Native | str:
    """The library, or why there is none."""
    if not LIBRARY.exists():
        return "stn was installed without a C++ compiler, so there are no native kernels"
    try:
        return Native(LIBRARY)
    except (OSError, AttributeError) as error:
        return f"the native kernels do not load: {error}"


# Not found out at the first call: torch.compile cannot trace that.
LOADED = _load()


@functools.cache
def warn_if_missing() -> None:
    """Say once that sampling will be slow."""
    if isinstance(LOADED, str):
        warnings.warn(f"{LOADED}; sampling by torch instead, which is slower", stacklevel=6)


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
    image = _image(input)
    call = _pack(
        image, places, out, size, kind, align_corners, mode, padding_mode, output=out.data_ptr()
    )
    _run("forward", call)


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
    image = _image(input)
    call = functools.partial(
        _pack, image, places, grad, size, kind, align_corners, mode, padding_mode
    )
    if grad_places is not None:
        stride = (0, 0, 0) if kind in MATRICES else grad_places.stride()
        _run("backward_places", call(grad_places=grad_places.data_ptr(), grad_stride=stride))
    if grad_input is not None:
        wide = _image(grad_input)
        _run("backward_input", call(grad_input=wide.data_ptr()))
        if wide is not grad_input:
            grad_input.copy_(wide)


def _image(input: Tensor) -> Tensor:
    """Half images are read, and their gradients summed, in float32."""
    return input.float() if input.dtype in (torch.float16, torch.bfloat16) else input


def _run(name: str, call: bytes) -> None:
    assert isinstance(LOADED, Native)
    LOADED.run[name](call)


def _pack(
    image: Tensor,
    places: Tensor,
    out: Tensor,
    size: list[int],
    kind: str,
    align_corners: bool,
    mode: str,
    padding_mode: str,
    output: int = 0,
    grad_input: int = 0,
    grad_places: int = 0,
    grad_stride: tuple[int, ...] = (0, 0, 0),
) -> bytes:
    shape = image.shape
    dim = len(shape) - 2
    ones = (1,) * (3 - dim)
    return CALL.pack(
        *(dim, MODES[mode], PADDINGS[padding_mode], align_corners),
        *(shape[0], places.shape[0], shape[1]),
        *(*ones, *shape[2:], *ones, *size),
        not image.is_contiguous(),
        TYPES[out.dtype],
        *(SOURCES.get(kind, 2), places.dtype == torch.float64),
        *((0, 0, 0) if kind in MATRICES else places.stride()),
        *(kind in NORMALIZED, kind in RELATIVE),
        *(image.data_ptr(), places.data_ptr(), 0 if output else out.data_ptr(), output),
        *(grad_input, grad_places, *grad_stride),
    )


def reason_against(dim: int, mode: object, padding_mode: str, dtype: torch.dtype) -> str | None:
    """None when the kernels can do a call, else why not."""
    if isinstance(LOADED, str):
        return LOADED
    if dim not in (2, 3):
        return f"there are no {dim}-D native kernels"
    if mode not in MODES:
        return f"the native kernels have no mode {mode!r}"
    if padding_mode not in (*PADDINGS, "fill"):
        return f"the native kernels have no padding_mode {padding_mode!r}"
    if dtype not in TYPES:
        return f"the native kernels have no {dtype}"
    return None
