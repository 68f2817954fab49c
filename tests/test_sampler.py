"""grid_sample where torch has no answer: a scalar-loop oracle, SciPy, and backends in agreement."""

import itertools
import math

import numpy as np
import pytest
import scipy.ndimage
import torch

import stn

from .tables import BACKENDS, FILL, SAMPLERS, SHAPES, grid_of, images, pixels_off_kinks, samplers

SIZES = {1: (7,), 2: (5, 6), 3: (4, 3, 5)}
CLOSE = {"rtol": 0, "atol": 1e-10}


def extend(i, n, padding, align):
    """The pixel that index i of an endless image shows, None for outside."""
    if padding in ("zeros", "fill"):
        return i if 0 <= i < n else None
    if padding == "border":
        return min(max(i, 0), n - 1)
    if padding == "wrap":
        return i % n
    whole = padding == "mirror" or align
    if whole and n == 1:
        return 0
    while not 0 <= i < n:
        low, high = (0, 2 * (n - 1)) if whole else (-1, 2 * n - 1)
        i = low - i if i < 0 else high - i
    return i


def kernel(d, mode):
    d = abs(d)
    if mode == "bilinear":
        return max(0.0, 1 - d)
    if mode == "gaussian":
        return max(0.0, math.exp(-2 * d * d) - math.exp(-18))
    if mode == "lanczos3":
        x = math.pi * d
        wave = 3 * math.sin(x) * math.sin(x / 3) / x**2 if d else 1.0
        return wave if d < 3 else 0.0
    if d < 1:
        return 1.25 * d**3 - 2.25 * d**2 + 1
    return -0.75 * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0


def oracle(image, px, sampler, fill=0.0):
    """One value, by nested loops over the taps; image (*S), px (dim,) in the order (x, y[, z])."""
    axes = []
    for x, n in zip(reversed(px), image.shape, strict=True):
        if sampler.mode == "nearest":
            # Python rounds half to even. A wrapped image is periodic, its ties too.
            taps = [(round(x % n if sampler.padding_mode == "wrap" else x), 1.0)]
        else:
            places = range(math.floor(x) - 3, math.ceil(x) + 4)
            taps = [(i, kernel(x - i, sampler.mode)) for i in places]
            total = sum(w for _, w in taps)
            taps = [(i, w / total) for i, w in taps]
        axes.append(
            [(extend(i, n, sampler.padding_mode, sampler.align_corners), w) for i, w in taps]
        )
    total = 0.0
    for corner in itertools.product(*axes):
        place = tuple(i for i, _ in corner)
        outside = fill if sampler.padding_mode == "fill" else 0.0
        value = outside if None in place else float(image[place])
        total += math.prod(w for _, w in corner) * value
    return total


@samplers(SAMPLERS)
def test_values_are_those_of_scalar_loops(sampler):
    size = SIZES[sampler.dim]
    image = images(1, 2, *size)
    centres = torch.randint(-9, 12, (4, sampler.dim)).double()
    px = torch.cat([pixels_off_kinks(size, 10, reach=2 * max(size)), centres])
    shape = 1, *[1] * (sampler.dim - 1), len(px), sampler.dim
    grid = grid_of(px, size, sampler.align_corners).view(shape)
    expected = torch.tensor(
        [[oracle(channel, p, sampler, FILL) for p in px.tolist()] for channel in image[0].numpy()],
        dtype=torch.float64,
    )
    for backend in (None, *sampler.backends):
        out = stn.grid_sample(image, grid, **sampler.options, fill=FILL, backend=backend)
        torch.testing.assert_close(out[0].flatten(1), expected, **CLOSE)


@samplers([s for s in SAMPLERS if s.dim > 1 and s.mode == "nearest"])
def test_ties_of_nearest_are_those_of_scalar_loops(sampler):
    size = SIZES[sampler.dim]
    image = images(1, 1, *size)
    # A flow in px keeps ties exact; none lies on a mirror, where either pixel is right.
    flow = torch.randint(0, 3, (1, *size, sampler.dim)) + 0.5
    index = torch.cartesian_prod(*[torch.arange(n) for n in size]).flip(-1)
    px = index + flow.flatten(1, -2)[0]
    expected = [oracle(image[0, 0].numpy(), p, sampler, FILL) for p in px.tolist()]
    last = torch.tensor(size[::-1]) - 0.5
    on_mirror = ((px % 1 == 0.5) & (px >= last)).any(-1)
    for backend in sampler.backends:
        out = stn.warp_flow(image, flow, **sampler.options, fill=FILL, backend=backend)
        unlike = (out.flatten() - torch.tensor(expected)).abs() > 1e-6
        if sampler.padding_mode == "reflection":
            unlike &= ~on_mirror  # reflected ties are ties of other pixels: see torch
        assert not unlike.any(), px[unlike]


SCIPY = {"mirror": "mirror", "wrap": "grid-wrap", "fill": "grid-constant", "border": "nearest"}
SCIPY_ORDER = {"nearest": 0, "bilinear": 1}


@samplers([s for s in SAMPLERS if s.padding_mode in SCIPY and s.mode in SCIPY_ORDER])
def test_values_are_those_of_scipy(sampler):
    size = SIZES[sampler.dim]
    image = images(1, 1, *size)
    px = pixels_off_kinks(size, 60, reach=1.5 * max(size))
    grid = grid_of(px, size, sampler.align_corners).view(1, *[1] * (sampler.dim - 1), 60, -1)
    expected = scipy.ndimage.map_coordinates(
        image[0, 0].numpy(),
        px.numpy().T[::-1],
        order=SCIPY_ORDER[sampler.mode],
        mode=SCIPY[sampler.padding_mode],
        cval=FILL,
    )
    for backend in (None, *sampler.backends):
        out = stn.grid_sample(image, grid, **sampler.options, fill=FILL, backend=backend)
        np.testing.assert_allclose(out.flatten().numpy(), expected, rtol=0, atol=1e-10)


@samplers([s for s in SAMPLERS if len(s.backends) > 1])
def test_backends_agree_on_values_and_gradients(sampler):
    size = SIZES[sampler.dim]
    image = images(2, 3, *size).requires_grad_()
    fill = torch.rand(3, dtype=torch.float64, requires_grad=True)
    px = pixels_off_kinks(size, 40).view(2, *[1] * (sampler.dim - 1), 20, -1)
    grid = grid_of(px, size, sampler.align_corners).requires_grad_()
    results = []
    for backend in sampler.backends:
        out = stn.grid_sample(image, grid, **sampler.options, fill=fill, backend=backend)
        weight = torch.linspace(0.5, 2, out.numel(), dtype=out.dtype).view(out.shape)
        wanted = (image, grid, fill)
        results.append(
            [out, *torch.autograd.grad((out * weight).sum(), wanted, materialize_grads=True)]
        )
    for first, *others in zip(*results, strict=True):
        for other in others:
            torch.testing.assert_close(first, other, **CLOSE)


@samplers([s for s in SAMPLERS if s.mode != "nearest"])
def test_gradients_are_those_of_finite_differences(sampler):
    size = {1: (5,), 2: (3, 4), 3: (2, 3, 3)}[sampler.dim]
    image = images(1, 1, *size).requires_grad_()
    fill = torch.rand(1, dtype=torch.float64, requires_grad=True)
    px = pixels_off_kinks(size, 3).view(1, *[1] * (sampler.dim - 1), 3, -1)
    grid = grid_of(px, size, sampler.align_corners).requires_grad_()
    for backend in sampler.backends:
        torch.autograd.gradcheck(
            lambda i, g, f, b=backend: stn.grid_sample(i, g, **sampler.options, fill=f, backend=b),
            (image, grid, fill),
        )


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_shape_keeps_batch_channels_type_and_values(shape, backend):
    dim = len(shape) - 2
    image = images(*shape)
    target = (3, 5, 2)[:dim]
    px = pixels_off_kinks(shape[2:], shape[0] * 3 * 5 * 2 ** (dim - 2)).view(shape[0], *target, dim)
    grid = grid_of(px, shape[2:], False)
    out = stn.grid_sample(image, grid, padding_mode="mirror", backend=backend)
    assert out.shape == (*shape[:2], *target)
    assert out.dtype == image.dtype
    row = next(s for s in SAMPLERS if s[:3] == (dim, "bilinear", "mirror"))
    for b, c in itertools.product(range(shape[0]), range(shape[1])):
        expected = oracle(image[b, c].numpy(), px[b].flatten(0, -2)[1].tolist(), row)
        assert abs(out[b, c].flatten()[1].item() - expected) < 1e-10


@pytest.mark.parametrize("padding", ["zeros", "border", "fill"])
@pytest.mark.parametrize("align", [False, True])
def test_axes_of_one_pixel_have_an_outside_in_every_backend(align, padding):
    image = torch.ones(1, 1, 1, 4, dtype=torch.float64)
    flow = torch.tensor([0.0, 0.5], dtype=torch.float64).expand(1, 1, 4, 2)
    expected = {"zeros": 0.5, "border": 1.0, "fill": 0.5 + FILL / 2}[padding]
    for backend in BACKENDS:
        out = stn.warp_flow(
            image, flow, padding_mode=padding, align_corners=align, fill=FILL, backend=backend
        )
        torch.testing.assert_close(out, torch.full_like(image, expected), rtol=0, atol=1e-10)
