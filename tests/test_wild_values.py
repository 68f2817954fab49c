"""NaN, infinities and huge numbers in theta and in grids: no crash, no NaN that spreads."""

import itertools

import pytest
import torch

import stn

from .tables import (
    BACKENDS,
    FILL,
    MODES,
    PADDINGS,
    SAMPLERS,
    TRANSFORMS,
    families,
    images,
    samplers,
)

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
    # These kernels' weights overshoot the range of the image, by less than a third an axis.
    slack = (4 / 3) ** dim - 1 if sampler.mode in ("bicubic", "lanczos3") else 0
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


def check_wild_thetas(name, mode, padding, backend):
    """Sample 0 has a wild theta; sample 1 must not notice, and nothing may become NaN."""
    family = TRANSFORMS[name]
    transform = family.make()
    image = images(2, 2, *(4, 5, 3)[: transform.dim], dtype=torch.float32).requires_grad_()
    tame = family.theta(dtype=torch.float32)
    options = {"mode": mode, "padding_mode": padding, "fill": FILL, "backend": backend}
    columns = sorted({0, 1, transform.num_params // 2, transform.num_params - 1})
    with torch.no_grad():
        expected = stn.warp(image[1:], transform, tame[1:], **options)
    for value, column in itertools.product((*WILD, 1e30, -1e30, 3e38), columns):
        theta = tame.clone()
        theta[0, column] = value
        theta.requires_grad_()
        out = stn.warp(image, transform, theta, **options)
        place = f"theta[{column}] = {value}"
        assert out.isfinite().all(), place
        if value in WILD or value != value:
            assert (out[0] == FILL).all(), place
        torch.testing.assert_close(out[1:], expected, rtol=0, atol=1e-6)
        to_image, to_theta = torch.autograd.grad(out.sum(), (image, theta))
        assert to_image.isfinite().all(), place
        assert to_theta[1].isfinite().all(), place
        if value in WILD or value != value:
            assert (to_theta[0] == 0).all(), place
        elif abs(value) <= family.largest:
            assert not to_theta[0].isnan().any(), place


SOME = [
    ("bilinear", "zeros", None),
    ("bilinear", "reflection", None),
    ("bilinear", "wrap", None),
    ("bicubic", "border", None),
    ("nearest", "fill", "reference"),
]


@families()
def test_wild_thetas_disturb_no_other_sample(name):
    for mode, padding, backend in SOME:
        check_wild_thetas(name, mode, padding, backend)


@pytest.mark.slow
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("mode", MODES)
@families()
def test_wild_thetas_in_every_mode_and_padding(name, mode, padding):
    for backend in (None, "reference"):
        check_wild_thetas(name, mode, padding, backend)


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("dim", [2, 3])
def test_points_behind_the_horizon(dim, padding, backend):
    """w = 1 + 2x is positive on the right three quarters only."""
    transform = stn.Projective(dim)
    theta = torch.zeros(1, transform.num_params)
    theta[0, -dim] = 2
    theta.requires_grad_()
    image = images(1, 1, *[8] * dim, dtype=torch.float32).requires_grad_()
    options = {"padding_mode": padding, "fill": FILL, "backend": backend}
    matrix = transform.matrix(theta)
    for out in (
        stn.warp(image, transform, theta, **options),
        stn.warp_matrix(image, matrix, **options),
        stn.grid_sample(image, transform.grid(theta, [8] * dim), **options),
    ):
        assert (out[..., :2] == FILL).all()
        assert (out[..., 4:] != FILL).any()
        for gradient in torch.autograd.grad(out.sum(), (image, theta), retain_graph=True):
            assert gradient.isfinite().all()
    points = torch.rand(200, dim) * 2 - 1
    mapped = transform.map_points(theta, points)[0]
    behind = points[:, 0] <= -0.5
    assert behind.any()
    assert mapped.isfinite().all()
    assert (mapped[behind].abs() >= 100).any(-1).all()
    exact = torch.full((1, dim), -0.5)  # w = 0
    assert transform.map_points(theta, exact).isfinite().all()
    assert torch.autograd.grad(mapped.sum(), theta)[0].isfinite().all()


def test_flows_and_matrices_that_are_not_finite_read_fill():
    image = images(2, 1, 6, 5)
    for backend, value in itertools.product(BACKENDS, WILD):
        flow = torch.zeros(2, 6, 5, 2, dtype=torch.float64)
        flow[0, 2, 3, 1] = value
        options = {"fill": FILL, "padding_mode": "border", "backend": backend}
        out = stn.warp_flow(image, flow, **options)
        expected = image.clone()
        expected[0, 0, 2, 3] = FILL
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-10)
        matrix = torch.eye(2, 3, dtype=torch.float64).repeat(2, 1, 1)
        matrix[0, 0, 2] = value
        out = stn.warp_matrix(image, matrix, **options)
        expected = image.clone()
        expected[0] = FILL
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-10)
