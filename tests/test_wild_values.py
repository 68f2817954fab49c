"""NaN, infinities and huge numbers in theta and in grids: no crash, no NaN that spreads."""

import itertools

import pytest
import torch
from tables import FILL, SAMPLERS, TRANSFORMS, families, images, samplers

import stn

NAN, INF = float("nan"), float("inf")
WILD = (NAN, INF, -INF)
HUGE = (1e30, -1e30, 3e38, -3e38, 1e9, -2.5e7)
SIZES = {1: (7,), 2: (5, 6), 3: (4, 3, 5)}


def sample_with_gradients(sampler, image, grid, backend):
    image, grid = image.clone().requires_grad_(), grid.clone().requires_grad_()
    grid_shape = 1, *[1] * (sampler.dim - 1), *grid.shape
    out = stn.grid_sample(
        image, grid.view(grid_shape), **sampler.options, fill=FILL, backend=backend
    )
    to_image, to_grid = torch.autograd.grad(out.sum(), (image, grid))
    return out.flatten(2)[0, 0].detach(), to_image, to_grid


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@samplers(SAMPLERS)
def test_points_that_are_not_finite_read_fill_and_disturb_nobody(sampler, dtype):
    dim = sampler.dim
    image = images(1, 1, *SIZES[dim], dtype=dtype)
    tame = torch.rand(5, dim, dtype=dtype) * 3 - 1.5
    wild = torch.rand(len(WILD) * dim, dim, dtype=dtype) - 0.5
    for row, (value, axis) in enumerate(itertools.product(WILD, range(dim))):
        wild[row, axis] = value
    wild = torch.cat([wild, *[torch.full((1, dim), value, dtype=dtype) for value in WILD]])
    for backend in sampler.backends:
        alone = sample_with_gradients(sampler, image, tame, backend)
        out, to_image, to_grid = sample_with_gradients(
            sampler, image, torch.cat([tame, wild]), backend
        )
        assert (out[5:] == FILL).all()
        assert (to_grid[5:] == 0).all()
        torch.testing.assert_close((out[:5], to_image, to_grid[:5]), alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@samplers(SAMPLERS)
def test_huge_coordinates_follow_the_padding_mode(sampler, dtype):
    dim = sampler.dim
    image = images(1, 1, *SIZES[dim], dtype=dtype)
    huge = [*HUGE, 1e300, -1e300] if dtype == torch.float64 else HUGE
    signs = torch.tensor(list(itertools.product((1, -1), repeat=dim)), dtype=dtype)
    grid = torch.cat([value * signs for value in torch.tensor(huge, dtype=dtype)])
    corners = image[0, 0]
    for axis in range(dim):
        corners = corners.index_select(axis, torch.tensor([0, corners.shape[axis] - 1]))
    # A cubic kernel's weights overshoot the range of the image, by less than a third a axis.
    slack = (4 / 3) ** dim - 1 if sampler.mode == "bicubic" else 0
    for backend in sampler.backends:
        out, to_image, to_grid = sample_with_gradients(sampler, image, grid, backend)
        assert out.isfinite().all()
        assert to_image.isfinite().all()
        assert to_grid.isfinite().all()
        if sampler.padding_mode == "zeros":
            assert (out == 0).all()
        elif sampler.padding_mode == "fill":
            torch.testing.assert_close(out, torch.full_like(out, FILL))
        elif sampler.padding_mode == "border":
            nearest = (out[:, None] - corners.flatten()).abs().amin(1)
            assert nearest.max() < 1e-6
            where = torch.where(grid.flip(-1) > 0, torch.tensor(image.shape[2:]) - 1, 0)
            expected = image[0, 0][tuple(where.unbind(-1))]
            torch.testing.assert_close(out, expected, rtol=0, atol=1e-6)
        else:
            assert out.min() >= image.min() - slack - 1e-6
            assert out.max() <= image.max() + slack + 1e-6


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection", "mirror", "wrap", "fill"])
@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
@families()
def test_wild_thetas_disturb_no_other_sample(name, mode, padding):
    family = TRANSFORMS[name]
    transform = family.make()
    image = images(2, 2, *(4, 5, 3)[: transform.dim], dtype=torch.float32).requires_grad_()
    tame = family.theta(dtype=torch.float32)
    options = {"mode": mode, "padding_mode": padding, "fill": FILL}
    columns = sorted({0, 1, transform.num_params // 2, transform.num_params - 1})
    for backend in (None, "reference"):
        with torch.no_grad():
            expected = stn.warp(image[1:], transform, tame[1:], **options, backend=backend)
        for value, column in itertools.product((*WILD, 1e30, -1e30, 3e38), columns):
            theta = tame.clone()
            theta[0, column] = value
            theta.requires_grad_()
            out = stn.warp(image, transform, theta, **options, backend=backend)
            assert out.isfinite().all(), (value, column)
            torch.testing.assert_close(out[1:], expected, rtol=0, atol=1e-6)
            to_image, to_theta = torch.autograd.grad(out.sum(), (image, theta))
            assert to_image.isfinite().all(), (value, column)
            assert to_theta[1].isfinite().all(), (value, column)
            assert not to_theta[0].isnan().any(), (value, column)
