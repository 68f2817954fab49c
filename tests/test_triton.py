"""The Triton kernels: in Triton's interpreter, compiled without a GPU, and on one where there is.

The interpreter must be chosen before Triton is imported, so it runs in a process of its own.
"""

import concurrent.futures
import functools
import itertools
import math
import multiprocessing
import os
import sys

import pytest
import torch

import stn
from stn.places import MATRICES, Places
from stn.sampling import dispatch, ops, triton
from stn.sampling.functional import Options, sample

from .test_native import KINDS, PADDINGS, TOLERANCE, compare, random_call


def interpret():
    """From now on calls on the CPU run the Triton kernels, interpreted."""
    assert "triton" not in sys.modules
    os.environ["TRITON_INTERPRET"] = "1"
    torch.set_num_threads(1)
    ops.KERNELS["cpu"] = triton
    # Twice as fast: what a kernel calls is not prepared anew for interpretation, which the kernel
    # is; and the programs are few and large.
    from triton.runtime.interpreter import InterpretedFunction

    from stn.sampling import triton_calls

    slow = InterpretedFunction.__call__
    InterpretedFunction.__call__ = lambda self, *args, **options: (
        self.rewrite() if self.fn.__module__.startswith("stn.") else functools.partial(slow, self)
    )(*args, **options)
    triton_calls.POINTS = 16384, 16384


@pytest.fixture(scope="module")
def interpreter():
    """Calls a function of this file in Triton's interpreter."""
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, spawn, interpret) as pool:
        yield lambda function, *args: pool.submit(function, *args).result()


@pytest.fixture
def cuda():
    """Calls a function of this file on the GPU."""
    if not torch.cuda.is_available():
        pytest.skip("backend triton did not run on a GPU: this machine has no CUDA device")
    return lambda function, *args: function(*args, device="cuda")


def calls(seeds):
    """Those of the random calls that have a kernel."""
    return [
        seed
        for seed, (image, _, options) in ((seed, random_call(seed)) for seed in seeds)
        if not triton.reason_against(image.dim() - 2, options.mode, "zeros", image.dtype)
    ]


def compare_all(seeds, dtype, device="cpu"):
    return [compare(seed, dtype, "triton", device) for seed in seeds]


SEEDS = {dtype: calls(range(12 * i, 12 * i + 12)) for i, dtype in enumerate(reversed(TOLERANCE))}


@pytest.mark.parametrize(
    "dtype",
    [
        pytest.param(dtype, marks=[] if dtype == torch.float32 else pytest.mark.slow, id=str(dtype))
        for dtype in TOLERANCE
    ],
)
def test_interpreted_calls_agree_with_the_reference(interpreter, dtype):
    shares = interpreter(compare_all, SEEDS[dtype], dtype)
    assert sum(shares) > 0.6 * len(shares)  # most outputs count


def test_the_random_calls_are_of_every_sort():
    seen, seeds = set(), [seed for some in SEEDS.values() for seed in some]
    for image, places, options in map(random_call, seeds):
        planar = "planar" if image.is_contiguous() else "last"
        seen |= {image.dim() - 2, places.kind, options.mode, options.padding_mode, planar}
        seen.add(len(places.lead) * "many")
    assert seen >= {2, 3, "planar", "last", *KINDS, *PADDINGS, *triton.MODES, "manymany"}
    assert len(seeds) >= 40


@pytest.mark.slow
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_many_interpreted_calls_agree_with_the_reference(interpreter, dtype):
    interpreter(compare_all, calls(range(100, 200)), dtype)


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_gpu_calls_agree_with_the_reference(cuda, dtype):
    shares = cuda(compare_all, calls(range(120)), dtype)
    assert sum(shares) > 0.8 * len(shares)


def kinks(device="cpu"):
    """Values and derivatives at pixel centres and ties, inside and outside, on any small image."""
    half = torch.arange(-10, 17, dtype=torch.float64, device=device) / 2
    px = torch.cartesian_prod(half, half[::2] + 0.25)
    px = torch.cat([px, px.flip(-1), torch.cartesian_prod(half, half)]).unsqueeze(0)
    rows = [
        *itertools.product([(3, 4)], triton.MODES, PADDINGS, (False, True)),
        *itertools.product([(2, 1)], ["bilinear"], PADDINGS[2:], (False, True)),
    ]
    for size, mode, padding_mode, align in rows:
        image = torch.rand(1, 1, *size, dtype=torch.float64, device=device)
        found = []
        for backend in ("triton", "reference"):
            source, at = image.clone().requires_grad_(), px.clone().requires_grad_()
            places = Places("px", at, (27, 55), (1,), align)
            out = sample(source, places, Options(mode, padding_mode, align, backend=backend))
            weight = torch.linspace(1, 2, out.numel(), device=device).view(out.shape)
            found.append((out, *torch.autograd.grad((out * weight).sum(), (source, at))))
        for name, got, wanted in zip(("out", "image", "px"), *found, strict=True):
            where = f"{size} {mode} {padding_mode} {align} {name}"
            torch.testing.assert_close(got, wanted, msg=functools.partial("{}: {}".format, where))


def identity(height, width, device="cpu"):
    """theta = 0 moves nothing, and a shift is as exact far from the origin as near it."""
    image = torch.rand(1, 1, height, width, device=device)
    warp = functools.partial(stn.warp, backend="triton")
    theta = torch.zeros(1, 8, device=device)
    for padding_mode in ("zeros", "reflection"):
        assert torch.equal(
            warp(image, stn.Affine(), theta[:, :6], padding_mode=padding_mode), image
        )
    assert torch.equal(warp(image, stn.Projective(), theta), image)
    for dtype in (torch.float16, torch.bfloat16):
        half = image.to(dtype)
        assert torch.equal(warp(half, stn.Affine(), theta[:, :6]), half)
    shift = torch.tensor([[0.6 / width, 0.3 / height]], device=device)
    wanted = stn.warp(image.double(), stn.Translation(), shift, backend="reference")
    got = warp(image, stn.Translation(), shift)
    torch.testing.assert_close(got.double(), wanted, rtol=0, atol=1e-5)


def lost(device="cpu"):
    """Places that are not finite read 0, with zero gradients."""
    for dim, kind, padding_mode in zip((2, 3) * 15, KINDS * 5, PADDINGS * 6, strict=True):
        if device == "cpu" and (dim == 2) == (kind in MATRICES):
            continue  # the interpreter is slow
        image = torch.rand(1, 2, *(5, 4, 3)[:dim], device=device).requires_grad_()
        lines = dim + (kind == "projective")
        shape = (3, lines, dim + 1) if kind in MATRICES else (3, 2**dim, dim)
        values = torch.zeros(shape, device=device)
        for row, wild in enumerate((math.nan, math.inf, -math.inf)):
            values[row, :, 0] = wild
        places = Places(kind, values.requires_grad_(), (2,) * dim, (1, 3))
        out = sample(image, places, Options("bilinear", padding_mode, backend="triton"))
        assert torch.equal(out, torch.zeros_like(out))
        for grad in torch.autograd.grad(out.sum(), (image, values)):
            assert torch.equal(grad, torch.zeros_like(grad))


def image_gradient(dtype, device, wild=False):
    """By grids, whose places do not depend on the tile in which they are computed."""
    noise = torch.Generator().manual_seed(0)
    size = torch.tensor((12, 14)) * (1 if device == "cpu" else 16)
    image = torch.rand(2, 2, *size, generator=noise).to(device, dtype).requires_grad_()
    grid = torch.randn(2, 2, *(size - 3), 2, generator=noise).to(device)
    grid[:, :, 4, 5] = 0
    out = stn.grid_sample(image, grid, padding_mode="border", backend="triton")
    weight = torch.randn(out.shape, generator=noise).to(device, dtype)
    if wild:
        weight[0, 0, 0, 4, 5], weight[1, 1, 1, 4, 5] = math.nan, math.inf
    return torch.autograd.grad((out * weight).sum(), image)[0]


def deterministic(device="cpu"):
    """An image gradient has the same bits in any order of programs, here that of other tiles."""
    from stn.sampling import triton_calls

    plain = [image_gradient(dtype, device) for dtype in TOLERANCE]
    points, runs = triton_calls.POINTS, []
    torch.use_deterministic_algorithms(True)
    try:
        for triton_calls.POINTS in (points, (64, 64)):
            runs.append([image_gradient(dtype, device) for dtype in TOLERANCE])
        wild = image_gradient(torch.float32, device, wild=True)
    finally:
        triton_calls.POINTS = points
        torch.use_deterministic_algorithms(False)
    for one, same in zip(*runs, strict=True):
        assert torch.equal(one, same)
    for (dtype, tolerance), one, other in zip(TOLERANCE.items(), runs[0], plain, strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one, other, rtol=tolerance, atol=10 * tolerance)
    bad = ~wild.isfinite()  # around the two bad values, and nowhere else
    assert bad.sum((2, 3)).tolist() == [[4, 0], [0, 4]]
    torch.testing.assert_close(wild[~bad], runs[0][0][~bad])


CHECKS = [(kinks,), (identity, 3, 4096), (identity, 150, 7), (lost,), (deterministic,)]


def each(checks):
    return pytest.mark.parametrize("check", checks, ids=lambda check: check[0].__name__)


@each(CHECKS)
def test_in_the_interpreter(interpreter, check):
    interpreter(*check)


@each([*CHECKS, (identity, 4096, 4096)])
def test_on_a_gpu(cuda, check):
    cuda(*check)


def test_gpu_layers_compile(cuda):
    layer = stn.SpatialTransformer(torch.nn.Flatten(), stn.Affine(), num_features=3 * 8 * 8)
    layer = layer.cuda()
    image = torch.rand(2, 3, 8, 8, device="cuda")
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(image), layer(image))


class NoGpu:
    """Lets Triton compile for a GPU that is not there, under a number that no other one has."""

    def __init__(self, target):
        self.get_current_target = lambda: target

    def get_current_device(self):
        return 99

    def get_current_stream(self, device=None):
        return 0


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """Calls a function; CPU calls in it compile the kernels, which are listed, instead of them."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    from stn.sampling import triton_kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setitem(ops.KERNELS, "cpu", triton)
    kernels = []
    for kernel in (triton_kernels.forward_kernel, triton_kernels.backward_kernel):
        compile_only = functools.partial(kernel.run, warmup=True)

        def run(*args, compile_only=compile_only, **options):
            kernels.append(compile_only(*args, **{**options, "warmup": True}))

        monkeypatch.setattr(kernel, "run", run)

    def call(function, *args, target=90):
        monkeypatch.setattr(driver, "_active", NoGpu(GPUTarget("cuda", target, 32)))
        function(*args)
        return kernels

    return call


VARIANTS = [
    (torch.float32, "affine", "bilinear", "zeros", (2, 1, 28, 28)),
    (torch.float16, "affine", "nearest", "border", (2, 5, 3, 4, 5)),
    (torch.bfloat16, "projective", "bilinear", "reflection", (1, 3, 30, 40)),
    (torch.float32, "grid", "bicubic", "mirror", (1, 1, 1, 1)),
    (torch.float64, "flow_px", "bilinear", "wrap", (2, 16, 6, 7, 8)),
]


def gradients(dtype, kind, mode, padding_mode, shape, layout=torch.contiguous_format):
    image = torch.rand(shape).to(dtype, memory_format=layout).requires_grad_()
    dim = len(shape) - 2
    lines = dim + (kind == "projective")
    rows = (lines, dim + 1) if kind in MATRICES else (math.prod(shape[2:]), dim)
    places = Places(kind, torch.zeros(shape[0], *rows).requires_grad_(), shape[2:], shape[:1])
    sample(image, places, Options(mode, padding_mode, backend="triton")).sum().backward()


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(map(str, v[1:4])))
def test_kernels_compile_for_gpus(compiled, variant, monkeypatch):
    """To machine code, which needs no GPU, as all calls do up to the launch."""
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: variant[4][0] == 2)
    kernels = compiled(gradients, *variant, target=80)
    assert len(kernels) == 2
    assert all(kernel.asm["cubin"] for kernel in kernels)


def test_channels_last_is_read_in_whole_vectors(compiled):
    variant = torch.float16, "affine", "bilinear", "zeros", (2, 32, 64, 64), torch.channels_last
    forward, backward = (kernel.asm["ptx"] for kernel in compiled(gradients, *variant))
    assert "ld.global.v4.b32" in forward
    assert "st.global.v4.b32" in forward
    assert "ld.global.v4.b32" in backward


def reason(**changed):
    usual = {"dim": 2, "mode": "bilinear", "padding_mode": "zeros", "empty": False}
    return dispatch.can_run("triton", dispatch.Call(**{**usual, "device": "cuda", **changed}))


def test_what_the_kernels_cannot_do_is_named(monkeypatch):
    assert reason() is None
    assert reason(device="cpu") == "the image is on cpu"
    assert reason(dim=1) == "there are no 1-D Triton kernels"
    assert reason(mode="lanczos3") == "the Triton kernels have no mode 'lanczos3'"
    assert reason(dim=3, mode="bicubic") == "there is no tricubic Triton kernel"
    assert reason(dtype=torch.float8_e5m2) == "the Triton kernels have no torch.float8_e5m2"
    assert reason(antialias=True) == "there is no triton antialiased warp"
    assert "do not reach into triton kernels" in reason(transformed=True)
    monkeypatch.setattr(triton, "MISSING", "Triton is not installed")
    assert reason() == "Triton is not installed"
    with pytest.raises(ValueError, match="cannot run this call: the image is on cpu"):
        stn.warp(torch.rand(1, 1, 4, 4), stn.Affine(), torch.zeros(1, 6), backend="triton")
