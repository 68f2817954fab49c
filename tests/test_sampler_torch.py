"""grid_sample against torch's own, for all that torch has: values, gradients, ties, kinks."""

import itertools

import pytest
import torch
import torch.nn.functional as F

import stn

from .tables import BACKENDS, SAMPLERS, TORCH_PADDINGS, grid_of, images, pixels_off_kinks, samplers

SIZES = {2: (7, 6), 3: (4, 5, 6)}
IN_TORCH = [s for s in SAMPLERS if s.padding_mode in TORCH_PADDINGS and "torch" in s.backends]
CLOSE = {"rtol": 0, "atol": 1e-10}


def outputs_and_gradients(run, image, grid):
    image, grid = image.clone().requires_grad_(), grid.clone().requires_grad_()
    out = run(image, grid)
    weight = torch.linspace(0.5, 2, out.numel(), dtype=out.dtype).view(out.shape)
    return [out, *torch.autograd.grad((out * weight).sum(), (image, grid))]


@pytest.mark.parametrize("backend", [None, *BACKENDS])
@samplers(IN_TORCH)
def test_values_and_both_gradients_are_those_of_torch(sampler, backend):
    size = SIZES[sampler.dim]
    image = images(2, 3, *size)
    px = pixels_off_kinks(size, 2 * 5 * 4 * 3).view(
        2, *(5, 4, 3)[: sampler.dim - 1], -1, *[sampler.dim]
    )
    grid = grid_of(px, size, sampler.align_corners)
    ours = outputs_and_gradients(
        lambda i, g: stn.grid_sample(i, g, **sampler.options, backend=backend), image, grid
    )
    theirs = outputs_and_gradients(lambda i, g: F.grid_sample(i, g, **sampler.options), image, grid)
    for mine, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, expected, **CLOSE)
    assert theirs[0].abs().max() > 0.1


@samplers([s for s in IN_TORCH if s.dim == 2])
def test_positional_arguments_are_those_of_torch(sampler):
    image, grid = images(1, 1, 4, 5), torch.rand(1, 3, 3, 2, dtype=torch.float64)
    args = sampler.mode, sampler.padding_mode, sampler.align_corners
    torch.testing.assert_close(
        stn.grid_sample(image, grid, *args), F.grid_sample(image, grid, *args), **CLOSE
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dim", [2, 3])
def test_nearest_breaks_ties_to_even(dim, backend):
    n = 8
    image = torch.arange(float(n)).expand(1, 1, *[n] * dim)
    ties = torch.arange(n + 1.0) - 0.5  # exact in float32, as is the grid
    grid = torch.zeros(1, *[1] * (dim - 1), n + 1, dim)
    grid[..., 0] = (2 * ties + 1) / n - 1
    out = stn.grid_sample(image, grid, "nearest", "border", backend=backend).flatten()
    assert out.tolist() == [0, 0, 2, 2, 4, 4, 6, 6, 7]
    torch.testing.assert_close(
        out, F.grid_sample(image, grid, "nearest", "border", False).flatten()
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [(8, 16), (4, 2, 8), (6, 14)])
def test_nearest_ties_when_a_warp_halves_the_image(size, backend):
    image = images(1, 2, *size, dtype=torch.float32)
    half = tuple(n // 2 for n in size)
    transform = stn.Affine(len(size))
    theta = torch.zeros(1, transform.num_params)
    out = stn.warp(image, transform, theta, half, mode="nearest", backend=backend)
    # Every sample lies midway between pixels 2i and 2i + 1: the even one.
    even = image[(..., *[slice(None, None, 2)] * len(size))]
    torch.testing.assert_close(out, even, rtol=0, atol=0)
    if size == (6, 14):
        return  # torch's own float32 grid misses the ties here
    grid = F.affine_grid(transform.matrix(theta), [1, 2, *half], align_corners=False)
    theirs = F.grid_sample(image, grid, "nearest", align_corners=False)
    torch.testing.assert_close(out, theirs, rtol=0, atol=0)


def right_hand_slopes(image, align):
    """d output / d normalised shift of all pixels but the last of each axis, (*S, dim)."""
    plane, dim = image[0, 0], image.dim() - 2
    columns = []
    for along in reversed(range(dim)):  # the last axis is (x, y[, z]), sizes are its reverse
        n = plane.shape[along]
        columns.append((plane.roll(-1, along) - plane) * ((n - 1) / 2 if align else n / 2))
    return torch.stack(columns, -1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backend", [None, *BACKENDS])
@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("size", [(5, 9), (13, 7), (3, 5, 4)])
def test_warp_at_the_identity_has_right_hand_derivatives(size, align, backend, dtype):
    dim = len(size)
    image = images(1, 1, *size, dtype=dtype)
    inner = [range(1, n - 1) for n in size]
    expected = right_hand_slopes(image, align)
    for place in itertools.product(*inner):
        theta = torch.zeros(1, dim, dtype=dtype, requires_grad=True)
        transform = stn.Translation(dim)
        out = stn.warp(image, transform, theta, align_corners=align, backend=backend)
        slope = torch.autograd.grad(out[(0, 0, *place)], theta)[0][0]
        torch.testing.assert_close(slope, expected[place], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backend", [None, *BACKENDS])
@pytest.mark.parametrize(("size", "align"), [((8, 16), False), ((9, 17), True), ((4, 8, 4), False)])
def test_grid_sample_at_exact_centres_has_right_hand_derivatives(size, align, backend, dtype):
    """With these sizes a normalised grid holds the centres exactly."""
    image, dim = images(1, 1, *size, dtype=dtype), len(size)
    px = torch.cartesian_prod(*[torch.arange(n) for n in size]).flip(-1).double()
    grid = grid_of(px, size, align).to(dtype).view(1, *size, dim).requires_grad_()
    inner = tuple(slice(1, -1) for _ in size)
    slopes = {}
    for run in (stn.grid_sample, F.grid_sample):
        options = {"backend": backend} if run is stn.grid_sample else {}
        out = run(image, grid, align_corners=align, **options)
        slopes[run] = torch.autograd.grad(out.sum(), grid)[0][0][inner]
    expected = right_hand_slopes(image, align)[inner]
    torch.testing.assert_close(slopes[F.grid_sample], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(slopes[stn.grid_sample], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", [None, *BACKENDS])
@pytest.mark.parametrize("dim", [2, 3])
def test_nearest_has_a_grid_gradient_of_zeros(dim, backend):
    grid = torch.zeros(1, *[2] * dim, dim, requires_grad=True)
    image = torch.rand(1, 1, *[4] * dim, requires_grad=True)
    out = stn.grid_sample(image, grid, "nearest", backend=backend)
    to_image, to_grid = torch.autograd.grad(out.sum(), (image, grid))
    assert to_grid is not None
    torch.testing.assert_close(to_grid, torch.zeros_like(grid))
    assert to_image.sum() == 2**dim


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_torch_backend_says_what_it_cannot_do(mode):
    image, grid = torch.rand(1, 1, 4, 4), torch.zeros(1, 2, 2, 2)
    for padding in ("mirror", "wrap"):
        with pytest.raises(ValueError, match=f"'torch' cannot run this call.*'{padding}'"):
            stn.grid_sample(image, grid, mode, padding, backend="torch")
    with pytest.raises(ValueError, match=r"'torch' cannot run this call.*1-D"):
        stn.grid_sample(image[0], torch.zeros(1, 3, 1), mode, backend="torch")
