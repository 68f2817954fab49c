"""The native kernels against the reference: instruction sets, threads, types, layouts."""

import itertools
import os
import random
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import stn
from stn.places import Places
from stn.sampling import native, ops
from stn.sampling.functional import Options, sample

from .tables import TRANSFORMS, families, images

LEVELS = native.LEVELS[: native.LEVELS.index(native.LOADED.level) + 1]
MODES, PADDINGS = tuple(native.MODES), tuple(native.PADDINGS)
KINDS = ("affine", "projective", "grid", "px", "flow", "flow_px")
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-10, torch.float16: 2e-3, torch.bfloat16: 1e-2}
FAR = 4  # images away, where float32 places are worse than the tolerance


def random_call(seed):
    """Images, described places and options of one random call, now and then wild."""
    choose = random.Random(seed)
    noise = torch.Generator().manual_seed(seed)
    dim = choose.choice((2, 2, 3))
    sizes = (1, 2, 3, 5, 8, 17, 31, 64, 130) if dim == 2 else (1, 2, 3, 5, 9, 17)
    size, target = ([choose.choice(sizes) for _ in range(dim)] for _ in range(2))
    if dim == 3 and choose.random() < 0.2:
        target[-1] = 70
    images, many = choose.choice((1, 2, 3)), choose.choice((1, 1, 2))
    channels = choose.choice((1, 2, 3, 5, 16, 20, 33))
    image = torch.rand(images, channels, *size, generator=noise, dtype=torch.float64)
    if choose.random() < 0.3:
        layout = torch.channels_last if dim == 2 else torch.channels_last_3d
        image = image.contiguous(memory_format=layout)
    kind, rows = choose.choice(KINDS), images * many
    far = choose.choice((0.1, 0.4, 1.0, 3.0))
    if kind in ("affine", "projective"):
        lines = dim + (kind == "projective")
        values = torch.randn(rows, lines, dim + 1, generator=noise, dtype=torch.float64) * far / 2
        if kind == "projective":
            values[:, -1] *= 0.3
            values[:, -1, -1] = 0
    else:
        count = torch.tensor(target).prod().item()
        values = torch.randn(rows, count, dim, generator=noise, dtype=torch.float64) * far
        if kind == "flow_px":
            values = values * 3
        if kind == "px":
            values = (values + 1) * torch.tensor(size[::-1]) / 2
        if choose.random() < 0.5:
            values = values.mT.contiguous().mT
    if choose.random() < 0.2:
        flat = values.reshape(-1)
        for wild in (float("nan"), float("inf"), -1e30, 3e7, -5e5):
            flat[choose.randrange(flat.numel())] = wild
        values = flat.reshape(values.shape)
    places = Places(kind, values, tuple(target), (rows,), choose.random() < 0.5)
    if many > 1:
        places = places._replace(lead=(images, many))
    options = Options(choose.choice(MODES), choose.choice(PADDINGS), places.align_corners)
    return image, places, options


def results(image, places, options, dtype, places_dtype, backend, counted):
    """Output and gradients, of those outputs only that are `counted`."""
    image = image.detach().to(dtype).requires_grad_()
    values = places.values.detach().to(places_dtype).requires_grad_()
    out = sample(image, places._replace(values=values), options._replace(backend=backend))
    assert out.dtype == dtype
    weight = torch.linspace(0.5, 1.5, out.numel(), dtype=torch.float64, device=out.device)
    weight = weight.view(out.shape)
    weight = (weight * counted).to(dtype).double()  # a half gradient is what both are given
    grads = torch.autograd.grad((out.double() * weight).sum(), (image, values))
    return torch.where(counted, out.double(), 0), *(g.double() for g in grads)


def compare(seed, dtype, backend="native", device="cpu"):
    """Compiled kernels on `dtype` against the reference in float64."""
    image, places, options = random_call(seed)
    if dtype != torch.float64:  # both see the same numbers
        image, places = image.to(dtype).double(), places._replace(values=places.values.float())
    px = places._replace(values=places.values.double()).pixels(image.shape[2:])
    lost = ~px.isfinite().all(-1)
    px = torch.where(lost.unsqueeze(-1), 0, px)
    counted = torch.ones_like(lost)
    if dtype != torch.float64:
        # Float32 may find a place on the other side of a kink, where values or slopes jump.
        counted = lost | ((2 * px - (2 * px).round()).abs() > 1e-3 + 1e-6 * px.abs()).all(-1)
        if options.padding_mode in ("reflection", "mirror", "wrap"):  # which read from afar too
            counted &= (px.abs() < FAR * max(image.shape[2:])).all(-1)
    counted = counted.unsqueeze(len(places.lead))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    there = image.to(device), places._replace(values=places.values.to(device))
    got = results(*there, options, dtype, wide, backend, counted.to(device))
    expected = results(image, places, options, torch.float64, torch.float64, "reference", counted)
    # The places themselves are rounded: in float64 everywhere, in float32 around the image.
    reach = px.abs().clamp(max=FAR * max(image.shape[2:])).max().item()
    rounding = 1e-9 * px.abs().max().item() + (dtype != torch.float64) * 5e-7 * reach
    for one, other in zip(got, expected, strict=True):
        bound = (TOLERANCE[dtype] + rounding) * (1 + other.abs().max().item())
        torch.testing.assert_close(one.cpu(), other, rtol=0, atol=bound)
    return counted.double().mean().item()


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_random_calls_agree_with_the_reference(dtype):
    shares = [compare(seed, dtype) for seed in range(60)]
    assert sum(shares) > 0.8 * len(shares)  # most outputs count


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
def test_two_thousand_random_calls_agree_with_the_reference(block):
    for seed, dtype in itertools.product(range(100 + 50 * block, 150 + 50 * block), TOLERANCE):
        compare(seed, dtype)


@pytest.mark.parametrize("level", LEVELS[:-1])
def test_every_instruction_set(level):
    """The lower ones, in a process of their own."""
    code = (
        "import torch; from tests.test_native import compare, native\n"
        f"assert native.LOADED.level == {level!r}\n"
        "for seed in range(60, 90):\n"
        "    for dtype in (torch.float32, torch.bfloat16): compare(seed, dtype)"
    )
    env = {**os.environ, "STN_LEVEL": level}
    subprocess.run([sys.executable, "-c", code], env=env, check=True, timeout=250)


@pytest.mark.parametrize(
    "shape", [(1, 3, 97, 130), (5, 1, 28, 28), (1, 32, 40, 40), (1, 2, 20, 24, 70), (9, 1, 9, 9, 9)]
)
def test_same_bits_on_any_number_of_threads(shape):
    dim = len(shape) - 2
    noise = torch.Generator().manual_seed(0)
    image = torch.rand(shape, generator=noise)
    places = torch.randn(shape[0], dim, dim + 1, generator=noise) * 0.2
    options = shape[2:], "affine", False, "bilinear", "zeros"
    grad = torch.rand(shape, generator=noise)

    def run():
        out = ops.sample(image, places, *options)
        return out, *torch.ops.stn.sample_backward(grad, image, places, *options, True, True)

    before = torch.get_num_threads()
    try:
        runs = []
        for threads in (1, 2, 4, 2):
            torch.set_num_threads(threads)
            runs.append(run())
    finally:
        torch.set_num_threads(before)
    for other in runs[1:]:
        for one, same in zip(runs[0], other, strict=True):
            assert torch.equal(one, same)


@pytest.mark.parametrize("layout", ["planar", "channels_last", "expanded", "empty"])
@pytest.mark.parametrize("kind", ["affine", "grid"])
def test_operators_keep_the_rules_of_torch(kind, layout):
    image = torch.rand(2, 3, 6, 7)
    if layout == "channels_last":
        image = image.contiguous(memory_format=torch.channels_last)
    if layout == "expanded":
        image = image[:1].expand(2, -1, -1, -1)
    if layout == "empty":
        image = image[:0]
    rows = image.shape[0]
    places = torch.randn(rows, 2, 3) / 5 if kind == "affine" else torch.randn(rows, 20, 2) / 2
    options = (4, 5), kind, False, "bilinear", "zeros"
    args = image.requires_grad_(), places.requires_grad_(), *options
    torch.library.opcheck(torch.ops.stn.sample.default, args)
    grad = torch.rand(rows, 3, 4, 5).contiguous(memory_format=ops.layout_of(image))
    torch.library.opcheck(
        torch.ops.stn.sample_backward.default,
        (grad, image.detach(), places.detach(), *options, True, True),
    )


def a_layer(name, backend):
    """A layer of a family, with weights, and images for it."""
    family = TRANSFORMS[name]
    transform = family.make()
    image = images(2, 2, *((5, 6) if transform.dim == 2 else (3, 4, 5))).requires_grad_()
    layer = stn.SpatialTransformer(
        torch.nn.Flatten(), transform, num_features=image[0].numel(), backend=backend
    ).double()
    with torch.no_grad():
        layer.head.weight.normal_(0, family.spread / 20)
        layer.head.bias.copy_(family.theta(1)[0])
    return layer, image


@families()
def test_every_family_through_the_layer(name):
    layer, image = a_layer(name, "native")
    torch.autograd.gradcheck(layer, image, eps=1e-7, atol=1e-5, fast_mode=True)
    torch.autograd.gradgradcheck(layer, image, eps=1e-7, atol=1e-4, fast_mode=True)


@families()
def test_forward_mode_through_the_layer(name):
    layer, image = a_layer(name, None)
    forward = {"check_forward_ad": True, "check_backward_ad": False}
    torch.autograd.gradcheck(layer, image, eps=1e-7, atol=1e-5, fast_mode=True, **forward)


def test_half_images_do_not_move():
    for dtype in (torch.float16, torch.bfloat16):
        image = torch.rand(1, 2, 300, 301).to(dtype)
        assert torch.equal(
            stn.warp(image, stn.Affine(), torch.zeros(1, 6), backend="native"), image
        )


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setattr(native, "LOADED", "stn was installed without a C++ compiler")
    with pytest.raises(ValueError, match=r"cannot run this call: .*without a C\+\+ compiler"):
        stn.warp(torch.rand(1, 1, 4, 4), stn.Affine(), torch.zeros(1, 6), backend="native")
    stn.warp(torch.rand(1, 1, 4, 4), stn.Affine(), torch.zeros(1, 6))


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((16, 1, 42, 42), (28, 28)),
        ((16, 1, 60, 60), (28, 28)),
        ((2, 3, 224, 224), (224, 224)),
        ((1, 1, 540, 960), (540, 960)),
        ((2, 32, 64, 64), (64, 64)),
        ((4, 1, 28, 28, 28), (28, 28, 28)),
        ((1, 1, 64, 64, 64), (64, 64, 64)),
        ((1, 16, 32, 32, 32), (32, 32, 32)),
    ],
    ids=str,
)
def test_errors_are_not_above_those_of_torch(shape, size):
    """Against float64, of the output and of both gradients; the mean of the smaller half.

    Kinks aside: where float32 falls on their other side, one sample outweighs all rounding.
    """
    dim = len(size)
    noise = torch.Generator().manual_seed(3)
    image = torch.rand(shape, generator=noise)
    theta = torch.randn(shape[0], dim * (dim + 1), generator=noise) * 0.1
    grad = torch.rand(shape[0], shape[1], *size, generator=noise)

    def run(warp, dtype):
        own = image.to(dtype).requires_grad_(), theta.to(dtype).requires_grad_()
        out = warp(*own)
        return [t.double() for t in (out, *torch.autograd.grad(out, own, grad.to(dtype)))]

    def by_torch(image, theta):
        eye = torch.eye(dim, dim + 1, dtype=theta.dtype)
        matrix = theta.unflatten(-1, (dim, dim + 1)) + eye
        grid = F.affine_grid(matrix, [*shape[:2], *size], align_corners=False)
        return F.grid_sample(image, grid, align_corners=False)

    def by_stn(image, theta):
        return stn.warp(image, stn.Affine(dim), theta, size, backend="native")

    exact = run(by_torch, torch.float64)
    for got, other, true in zip(
        run(by_stn, torch.float32), run(by_torch, torch.float32), exact, strict=True
    ):
        ours, theirs = (
            (t - true)[true != 0].abs().sort()[0][: int((true != 0).sum()) // 2].mean()
            for t in (got, other)
        )
        assert ours <= theirs


@pytest.mark.slow
def test_a_wheel_without_a_compiler_works(tmp_path):
    """Built from a copy of the sources where CMake finds none."""
    root = Path(__file__).parents[1]
    for name in ("src", "native"):
        ignore = shutil.ignore_patterns("*.so", "__pycache__")
        shutil.copytree(root / name, tmp_path / name, ignore=ignore)
    for name in ("pyproject.toml", "CMakeLists.txt", "README.md", "LICENSE"):
        shutil.copy(root / name, tmp_path)
    none = {**os.environ, "CXX": "/nonexistent", "CC": "/nonexistent"}
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", "out", "."]
    subprocess.run(build, cwd=tmp_path, env=none, check=True, timeout=280)
    (wheel,) = (tmp_path / "out").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    assert not list((tmp_path / "installed").rglob("*.so"))
    code = (
        f"import sys; sys.meta_path = [f for f in sys.meta_path if 'ScikitBuild' not in repr(f)]\n"
        f"sys.path.insert(0, {str(tmp_path / 'installed')!r})\n"
        "import torch, stn, warnings\n"
        "from stn.sampling import native\n"
        "assert isinstance(native.LOADED, str), native.LOADED\n"
        "with warnings.catch_warnings(record=True) as seen:\n"
        "    warnings.simplefilter('always')\n"
        "    x = torch.rand(1, 1, 5, 5)\n"
        "    for _ in range(2): out = stn.warp(x, stn.Affine(), torch.zeros(1, 6))\n"
        "torch.testing.assert_close(out, x)\n"
        "assert len(seen) == 1 and 'without a C++ compiler' in str(seen[0].message), seen"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, cwd=tmp_path)
