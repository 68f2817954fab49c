"""Velocity: the flow of a velocity field, against SciPy, closed forms, and its own inverse."""

import itertools
import math

import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage
import torch

import stn

from .tables import points_in_square


def oracle(lattice, theta, points, steps=2000):
    """The plain Runge-Kutta formula over SciPy's interpolation, one image at a time."""
    dim, moved, h = len(lattice), points.numpy().copy(), 1 / steps
    field = theta.view(*lattice, dim).numpy()
    cells = np.array(lattice[::-1])

    def velocity(x):
        px = (((x + 1) * cells - 1) / 2).T[::-1]
        axes = [
            scipy.ndimage.map_coordinates(field[..., axis], px, order=1, mode="nearest")
            for axis in range(dim)
        ]
        return np.stack(axes, -1)

    for _ in range(steps):
        k1 = velocity(moved)
        k2 = velocity(moved + h / 2 * k1)
        k3 = velocity(moved + h / 2 * k2)
        k4 = velocity(moved + h * k3)
        moved = moved + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return torch.from_numpy(moved)


@pytest.mark.parametrize("lattice", [(5, 5), (4, 1), (3, 4, 3)])
def test_the_error_falls_fourfold_per_doubling_of_steps(lattice):
    drift = stn.Velocity(lattice)
    theta = 0.15 * torch.randn(1, drift.num_params, dtype=torch.float64)
    points = points_in_square(1, 300, drift.dim, reach=1.2)[0]
    exact = oracle(lattice, theta[0], points)
    errors = []
    for steps in (1, 2, 4, 8):
        drift.steps = steps
        errors.append((drift.map_points(theta, points)[0] - exact).norm(dim=-1))
    for size in (torch.mean, torch.max):
        sizes = [float(size(error)) for error in errors]
        assert all(b < a / 4 for a, b in itertools.pairwise(sizes)), sizes
    assert errors[2].mean() < 1e-6  # the default


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("lattice", [(5, 5), (4, 4, 4)])
def test_the_flow_of_minus_v_undoes_that_of_v(lattice, seed):
    torch.manual_seed(seed)
    drift = stn.Velocity(lattice)
    theta = 0.04 * torch.randn(4, drift.num_params, dtype=torch.float64)
    points = points_in_square(4, 300, drift.dim, reach=1.2)
    there = drift.map_points(theta, points)
    assert (there - points).abs().max() > 0.05
    for back in (drift.inverse_points(theta, there), drift.map_points(-theta, there)):
        torch.testing.assert_close(back, points, rtol=0, atol=1e-6)
    half = drift.map_points(theta / 2, drift.map_points(theta / 2, points))
    torch.testing.assert_close(half, there, rtol=0, atol=1e-6)


@pytest.mark.parametrize("lattice", [(1, 1), (3, 4), (28, 28), (2, 3, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_velocity_is_a_translation(lattice, dtype):
    drift = stn.Velocity(lattice)
    shift = torch.tensor([0.3, -0.7, 0.2], dtype=dtype)[: drift.dim]
    theta = shift.expand(2, len(drift.control_points), -1).flatten(1)
    points = points_in_square(2, 50, drift.dim, reach=3).to(dtype)
    exact = 1e-6 if dtype == torch.float32 else 1e-14
    torch.testing.assert_close(drift.map_points(theta, points), points + shift, atol=exact, rtol=0)
    back = drift.inverse_points(theta, points)
    torch.testing.assert_close(back, points - shift, atol=exact, rtol=0)
    eye = torch.eye(drift.dim, dtype=dtype).expand(2, 50, -1, -1)
    torch.testing.assert_close(drift.jacobian(theta, points), eye, atol=exact, rtol=0)


@pytest.mark.parametrize("dim", [2, 3])
def test_a_linear_velocity_is_a_matrix_exponential(dim):
    drift = stn.Velocity((6,) * dim)
    slope = 0.2 * torch.randn(1, dim, dim, dtype=torch.float64)[0]
    shift = 0.05 * torch.randn(dim, dtype=torch.float64)
    theta = (drift.control_points @ slope.T + shift).flatten()[None]
    generator = np.zeros((dim + 1, dim + 1))
    generator[:dim, :dim], generator[:dim, dim] = slope, shift
    flow = torch.from_numpy(scipy.linalg.expm(generator))
    points = points_in_square(1, 200, dim, reach=0.4)[0]  # their paths stay between the centres
    expected = points @ flow[:dim, :dim].T + flow[:dim, dim]
    torch.testing.assert_close(drift.map_points(theta, points)[0], expected, rtol=0, atol=1e-7)
    # The places where steps are parted move with the point, which costs slopes one order.
    for steps, exact in ((4, 5e-5), (64, 1e-9)):
        drift.steps = steps
        jacobian = drift.jacobian(theta, points)[0]
        slopes = flow[:dim, :dim].expand_as(jacobian)
        torch.testing.assert_close(jacobian, slopes, rtol=0, atol=exact)
    torch.testing.assert_close(drift.map_points(theta, points)[0], expected, rtol=0, atol=1e-12)


def test_outside_the_velocity_is_that_of_the_edge():
    drift = stn.Velocity((3, 3))
    theta = torch.zeros(1, 3, 3, 2, dtype=torch.float64)
    theta[0, :, 2, 1] = torch.tensor([0.1, 0.2, 0.3])  # along the right edge, upwards and down
    points = torch.tensor([[0.7, -0.9], [5.0, -0.9], [1e6, 40.0], [-2.0, 0.3]]).double()
    moved = drift.map_points(theta.flatten(1), points)[0] - points
    expected = torch.tensor([[0, 0.1], [0, 0.1], [0, 0.3], [0, 0]]).double()
    torch.testing.assert_close(moved, expected, rtol=0, atol=2e-3)


def test_second_derivatives_see_the_kinks_that_a_path_crosses():
    """On a line with slopes a before 0 and b after it, the flow has a closed form."""
    values = torch.tensor([[0.1, 0.3, 0.2]], dtype=torch.float64)
    drift = stn.Velocity((1, 3), steps=16)

    def closed_form(values, x):
        first, middle, last = values[0]
        a, b = (middle - first) * 1.5, (last - middle) * 1.5
        crossing = (middle / (middle + a * x)).log() / a
        return middle / b * ((b * (1 - crossing)).exp() - 1)

    def ours(values, x):
        theta = torch.stack([values, torch.zeros_like(values)], -1).flatten(1)
        point = torch.stack([x, torch.zeros_like(x)])[None]
        return drift.map_points(theta, point)[0, 0, 0]

    x = torch.tensor(-0.13, dtype=torch.float64)
    torch.testing.assert_close(ours(values, x), closed_form(values, x), rtol=0, atol=1e-8)
    expected = torch.autograd.functional.hessian(closed_form, (values, x))
    got = torch.autograd.functional.hessian(ours, (values, x))
    assert expected[1][1].abs() > 0.1  # which the formula without crossings has as 0
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-3)


def test_a_field_as_large_as_the_image_stays_accurate():
    """Paths that cross many cells a step: the formula's own order is two there."""
    drift = stn.Velocity((28, 28))
    theta = (0.2 * torch.sin(4 * drift.control_points.flip(-1))).flatten()[None]
    points = points_in_square(1, 200, 2)[0]
    exact = oracle((28, 28), theta[0], points)
    assert (exact - points).abs().max() * 14 > 2  # pixels
    assert (drift.map_points(theta, points)[0] - exact).abs().max() * 14 < 1e-3  # pixels


def test_what_it_refuses():
    with pytest.raises(ValueError, match=r"lattice must be \(H, W\) or \(D, H, W\), got \(3,\)"):
        stn.Velocity((3,))
    with pytest.raises(ValueError, match="lattice must be 2 positive integers"):
        stn.Velocity((0, 3))
    for steps in (0, -1, 1.5, math.nan):
        with pytest.raises(ValueError, match="steps must be a positive integer, got"):
            stn.Velocity((2, 2), steps=steps)
    with pytest.raises(TypeError, match="has no least-squares fit"):
        stn.Velocity((2, 2)).fit(torch.rand(9, 2), torch.rand(9, 2))
