"""The native antialiased kernels against the reference: kernels, paddings, footprints, threads."""

import itertools
import os
import subprocess
import sys

import pytest
import torch
from torch.autograd import gradcheck

import stn
from stn.places import Places
from stn.sampling import antialias_ops, native
from stn.sampling.functional import Options, sample

from .tables import FILL, PADDINGS, images

LEVELS = native.LEVELS[: native.LEVELS.index(native.LOADED.level) + 1]
MODES = tuple(antialias_ops.MODES)
SIZES = {2: (25, 33), 3: (5, 4, 7)}
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5}


def matrix_of(kind, dim):
    """(2, dim or dim + 1, dim + 1), whose footprints keep off the kinks of the tent."""
    noise = torch.Generator().manual_seed(3)
    shift = torch.tensor([0.113, -0.071, 0.057], dtype=torch.float64)[:dim]
    rigid = stn.Rigid(dim)
    angles = 0.4 + 0.1 * torch.rand(2, rigid.num_params, generator=noise, dtype=torch.float64)
    turn = rigid.matrix(angles)[:, :dim, :dim]
    scales = {
        "shrink": (1.91, -1.57, 1.33),
        "turned": (1.7,) * 3,
        "anisotropic": (2.3, 0.61, 1.4),
        "magnifying": (0.13, 0.11, 0.12),
        "horizon": (1.0, 1.0, 1.0),
    }
    linear = torch.diag(torch.tensor(scales[kind][:dim], dtype=torch.float64)).expand(2, -1, -1)
    if kind in ("turned", "anisotropic", "magnifying"):
        linear = turn @ linear
    matrix = torch.cat([linear, shift.expand(2, -1).unsqueeze(-1)], -1)
    if kind == "horizon":
        last = torch.tensor([*(1.63, 0.137, 0.071)[:dim], 1.0], dtype=torch.float64)
        matrix = torch.cat([matrix, last.expand(2, 1, -1)], 1)
    return matrix


KINDS = [(kind, 2) for kind in ("shrink", "turned", "anisotropic", "magnifying", "horizon")]
KINDS += [(kind, 3) for kind in ("shrink", "turned", "anisotropic")]


def results(backend, image, matrix, size, **options):
    image, matrix = image.clone().requires_grad_(), matrix.clone().requires_grad_()
    out = stn.warp_matrix(image, matrix, size, antialias=True, backend=backend, **options)
    weight = torch.linspace(0.5, 1.5, out.numel(), dtype=torch.float64).view(out.shape)
    grads = torch.autograd.grad((out * weight.to(out.dtype)).sum(), (image, matrix))
    return out.detach(), *grads


def compare(kind, dim, mode, padding, dtypes=TOLERANCE):
    image = images(2, 2, *SIZES[dim], dtype=torch.float64)
    options = {"mode": mode, "padding_mode": padding, "align_corners": padding == "reflection"}
    options |= {"fill": FILL} if padding == "fill" else {}
    run = (matrix_of(kind, dim), (7, 6, 4)[:dim] if dim == 2 else (3, 2, 4))
    expected = results("reference", image, *run, **options)
    for dtype in dtypes:
        got = results("native", image.to(dtype), *run, **options)
        # Rounding decides on which side of a kink a tap lies.
        compared = 2 if dtype == torch.float32 and mode == "bilinear" else 3
        for one, other in itertools.islice(zip(got, expected, strict=True), compared):
            bound = TOLERANCE[dtype] * (1 + other.abs().max().item())
            torch.testing.assert_close(one.double(), other.double(), rtol=0, atol=bound)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("kind", "dim"), KINDS)
def test_it_is_the_reference(kind, dim, mode, padding):
    both = padding in ("zeros", "wrap")
    compare(kind, dim, mode, padding, TOLERANCE if both else (torch.float64,))


@pytest.mark.parametrize("level", LEVELS[:-1])
def test_every_instruction_set(level):
    """The lower ones, in a process of their own."""
    code = (
        "import torch; from tests.test_antialias_native import KINDS, MODES, compare, native\n"
        f"assert native.LOADED.level == {level!r}\n"
        "for (kind, dim), mode in zip(KINDS, 2 * MODES): compare(kind, dim, mode, 'mirror')"
    )
    env = {**os.environ, "STN_LEVEL": level}
    subprocess.run([sys.executable, "-c", code], env=env, check=True, timeout=250)


def operator_call(kind="anisotropic", dtype=torch.float64, constant=True):
    """Arguments of stn::antialias, of three samplings of each of two images."""
    matrix = matrix_of(kind, 2).repeat_interleave(3, 0)
    matrix = matrix + 0.05 * torch.linspace(-1, 1, 6, dtype=torch.float64)[:, None, None]
    affine = stn.Affine()
    theta = affine.from_matrix(matrix)
    px = affine.places(theta, (4, 5)).pixels((9, 11)).flatten(1, 2)
    linear = matrix[:, None, :, :2] * torch.tensor([11 / 5, 9 / 4], dtype=torch.float64)
    if not constant:
        linear = linear + 0.1 * torch.randn(6, 20, 2, 2, dtype=torch.float64)
    inverse = antialias_ops.footprint(linear, (9, 11))
    return images(2, 2, 9, 11, dtype=dtype), px, inverse, (4, 5)


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["shrink", "anisotropic"])
def test_derivatives_of_the_operators(kind, mode, constant):
    image, px, inverse, size = operator_call(kind, constant=constant)
    leaves = [t.detach().requires_grad_() for t in (image, px, inverse)]

    def run(*tensors):
        return antialias_ops.sample(*tensors, size, mode, "mirror", False)

    gradcheck(run, leaves, fast_mode=True)
    jacobian = 3 * torch.randn(5, 2, 2, dtype=torch.float64)
    jacobian[0] = torch.eye(2) * 2  # equal singular values
    gradcheck(lambda j: antialias_ops.footprint(j, (4, 6)), jacobian.requires_grad_())
    volume = 3 * torch.randn(5, 3, 3, dtype=torch.float64)
    gradcheck(lambda j: antialias_ops.footprint(j, (4, 6)), volume.requires_grad_())


@pytest.mark.parametrize("kind", ["shrink", "anisotropic"])
def test_torch_finds_no_fault_with_the_operators(kind):
    image, px, inverse, size = operator_call(kind)
    leaves = [t.detach().requires_grad_() for t in (image, px, inverse)]
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    call = *leaves, list(size), "bicubic", "zeros", False
    torch.library.opcheck(torch.ops.stn.antialias, call, test_utils=checks)
    grad = torch.rand(6, 2, *size, dtype=torch.float64)
    for needs in itertools.product((False, True), repeat=2):
        args = (grad, *call, *needs)
        torch.library.opcheck(torch.ops.stn.antialias_backward, args, test_utils=checks)
    jacobian = torch.randn(4, 2, 2, dtype=torch.float64, requires_grad=True)
    torch.library.opcheck(torch.ops.stn.footprint, (jacobian, 9.0), test_utils=checks)
    args = torch.rand_like(jacobian), jacobian, 9.0
    torch.library.opcheck(torch.ops.stn.footprint_backward, args, test_utils=checks)


@pytest.mark.parametrize("padding", ["zeros", "wrap"])
@pytest.mark.parametrize(("kind", "dim"), KINDS)
def test_same_bits_on_any_number_of_threads(kind, dim, padding):
    image = images(2, 2, *SIZES[dim], dtype=torch.float32)
    size = (7, 6, 4)[:dim]
    options = {"mode": "bicubic", "padding_mode": padding}
    before = torch.get_num_threads()
    try:
        runs = []
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            runs.append(results("native", image, matrix_of(kind, dim), size, **options))
    finally:
        torch.set_num_threads(before)
    for other in runs[1:]:
        for one, two in zip(runs[0], other, strict=True):
            assert torch.equal(one, two)


def test_pixels_without_weight_may_be_anything():
    image = images(1, 1, 40, 64, dtype=torch.float32)
    plain = image.clone()
    image[..., 20, 30] = torch.nan
    for kind in ("shrink", "turned", "anisotropic"):
        run = matrix_of(kind, 2)[:1], (8, 9)
        hit = stn.warp_matrix(image, *run, antialias=True).isnan()
        marked = torch.zeros_like(image)
        marked[..., 20, 30] = 1
        weight = stn.warp_matrix(marked, *run, antialias=True)
        assert (hit == (weight != 0)).all()
        out = stn.warp_matrix(image, *run, antialias=True)
        expected = stn.warp_matrix(plain, *run, antialias=True)
        torch.testing.assert_close(out[~hit], expected[~hit])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_images(dtype):
    image = images(2, 2, 25, 33, dtype=torch.float32).to(dtype)
    run = matrix_of("turned", 2), (6, 7)
    half = results("native", image, *run)
    assert half[1].dtype == dtype
    wide = results("native", image.float(), *run)
    for one, other in zip(half, wide, strict=True):
        torch.testing.assert_close(one.double(), other.double(), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("name", ["warp", "grid_sample", "warp_flow"])
def test_it_compiles_as_one_graph(name):
    image = images(2, 2, 16, 18, dtype=torch.float32)
    affine = stn.Affine()
    theta = affine.from_matrix(matrix_of("anisotropic", 2)).float()

    def run(image, theta):
        if name == "warp":
            return stn.warp(image, affine, theta, (5, 4), antialias=True, padding_mode="mirror")
        grid = affine.grid(theta, (5, 4))
        if name == "grid_sample":
            return stn.grid_sample(image, grid, "bicubic", antialias=True)
        return stn.warp_flow(image, 3 * grid, mode="lanczos3", antialias=True)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    found = []
    for call in (run, compiled):
        leaves = image.clone().requires_grad_(), theta.clone().requires_grad_()
        out = call(*leaves)
        found.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_second_derivatives_are_those_of_the_reference():
    image, found = images(1, 1, 7, 6).requires_grad_(), []
    for backend in ("native", "reference"):
        matrix = matrix_of("anisotropic", 2)[:1].requires_grad_()
        out = stn.warp_matrix(
            image, matrix, (3, 3), mode="bicubic", antialias=True, backend=backend
        )
        first = torch.autograd.grad(out.square().sum(), (image, matrix), create_graph=True)
        found.append(torch.autograd.grad(sum(g.square().sum() for g in first), (image, matrix)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def test_wild_places_read_fill_and_have_no_gradient():
    values = torch.tensor([[[0.2, 0.3], [torch.nan, 1.0], [torch.inf, 0.0], [1e30, -1e30]]])
    image = images(1, 1, 6, 7, dtype=torch.float32)
    jacobian = (2 * torch.eye(2)).expand(1, 2, 2, 2, 2)
    for padding in PADDINGS:
        field = values.clone().requires_grad_()
        places = Places("grid", field, (2, 2), (1,))
        options = Options("bicubic", padding, antialias=True, fill=FILL, backend="native")
        out = sample(image, places, options, jacobian)
        assert out.isfinite().all()
        assert (out.flatten()[1:3] == FILL).all()
        (grad,) = torch.autograd.grad(out.sum(), field)
        assert (grad[0, 1:3] == 0).all()
        assert grad.isfinite().all()


def test_why_it_does_not_run():
    x, zero = torch.rand(1, 1, 8, 8), torch.zeros(1, 6)
    with pytest.raises(ValueError, match="no antialiased mode"):
        stn.warp(x, stn.Affine(), zero, mode=stn.TableKernel(1), antialias=True, backend="native")
