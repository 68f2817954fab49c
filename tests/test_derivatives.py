"""Derivatives against finite differences (float64, default tolerances) and against each other."""

from functools import partial

import pytest
import torch
from torch.autograd import gradcheck
from torch.autograd.functional import hessian

import stn

from .tables import BACKENDS, TRANSFORMS, families, images, points_in_square

SIZES = {2: ((4, 5), (2, 3)), 3: ((3, 3, 2), (2, 1, 3))}  # input, output
INTERPOLATING = ("bilinear", "bicubic")
# Along one random direction: no wrong entry hides from it, at a fraction of the calls.
gradgradcheck = partial(torch.autograd.gradgradcheck, fast_mode=True)


def case(name, batch=1):
    family = TRANSFORMS[name]
    transform = family.make()
    theta = family.theta(batch=batch).requires_grad_()
    points = points_in_square(batch, 3, transform.dim, reach=0.8).requires_grad_()
    image = images(batch, 1, *SIZES[transform.dim][0]).requires_grad_()
    return transform, theta, points, image, SIZES[transform.dim][1]


def backends(dim, mode):
    return ("reference",) if (dim, mode) == (3, "bicubic") else BACKENDS


@pytest.mark.parametrize("mode", INTERPOLATING)
@families()
def test_first_derivatives_of_warp(name, mode):
    transform, theta, _, image, size = case(name)
    for backend in backends(transform.dim, mode):

        def run(image, theta, backend=backend):
            return stn.warp(image, transform, theta, size, mode=mode, backend=backend)

        gradcheck(run, (image, theta))


@families()
def test_first_and_second_derivatives_of_map_points(name):
    transform, theta, points, _, _ = case(name, batch=2)
    gradcheck(transform.map_points, (theta, points))
    gradcheck(lambda t, p: transform.map_points(t, p[0]), (theta, points))
    gradgradcheck(transform.map_points, (theta, points))


@families()
def test_derivatives_of_inverse_points(name):
    transform, theta, points, _, _ = case(name)
    gradcheck(transform.inverse_points, (theta, points))
    gradgradcheck(lambda t, p: transform.inverse_points(t, p[:, :1]), (theta, points))


@families()
def test_jacobian(name):
    transform, theta, points, _, _ = case(name, batch=2)
    got = transform.jacobian(theta, points)
    assert got.shape == (2, 3, transform.dim, transform.dim)
    step = 1e-5
    for axis in range(transform.dim):
        shift = torch.zeros(transform.dim, dtype=torch.float64)
        shift[axis] = step
        ahead = transform.map_points(theta, points + shift)
        behind = transform.map_points(theta, points - shift)
        expected = (ahead - behind) / (2 * step)
        torch.testing.assert_close(got[..., axis], expected, rtol=0, atol=1e-8)
    gradcheck(transform.jacobian, (theta, points), fast_mode=True)


@pytest.mark.parametrize("backend", BACKENDS)
@families()
def test_second_derivatives_of_warp(name, backend):
    transform, theta, _, image, size = case(name)
    size = tuple(min(n, 2) for n in size)
    if name.startswith("compose"):
        size = (1,) * transform.dim
    gradgradcheck(
        lambda i, t: stn.warp(i, transform, t, size, padding_mode="border", backend=backend),
        (image, theta),
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["affine-2d", "rigid-2d", "projective-2d"])
def test_second_derivatives_of_a_bicubic_warp(name, backend):
    transform, theta, _, image, size = case(name)
    gradgradcheck(
        lambda i, t: stn.warp(i, transform, t, size, mode="bicubic", backend=backend),
        (image, theta),
    )


@pytest.mark.slow
@families()
def test_second_derivatives_of_a_bicubic_warp_in_every_family(name):
    transform, theta, _, image, size = case(name)
    gradgradcheck(
        lambda i, t: stn.warp(i, transform, t, size, mode="bicubic", backend="reference"),
        (image, theta),
    )


@families(identity_at_zero=True)
def test_second_derivatives_at_zero_are_right(name):
    transform, theta, points, _, _ = case(name)
    zero = torch.zeros_like(theta).requires_grad_()
    gradcheck(transform.map_points, (zero, points))
    gradgradcheck(transform.map_points, (zero, points))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@families()
def test_first_and_second_derivatives_at_zero_are_finite(name, dtype):
    transform, theta, _, image, _ = case(name)
    zero = torch.zeros_like(theta, dtype=dtype)
    image = image.detach().to(dtype)
    lattice = getattr(transform, "control_points", torch.zeros(1, transform.dim)).to(dtype)
    nodes = torch.cat([torch.rand(4, transform.dim, dtype=dtype), lattice])
    objectives = [
        lambda t: transform.map_points(t, nodes).square().sum(),
        lambda t: transform.inverse_points(t, nodes).square().sum(),
        *[
            lambda t, m=mode, b=backend: (
                stn.warp(image, transform, t, mode=m, backend=b).square().sum()
            )
            for mode in ("nearest", *INTERPOLATING)
            for backend in (None, "reference")
        ],
    ]
    for objective in objectives:
        theta = zero.clone().requires_grad_()
        (slope,) = torch.autograd.grad(objective(theta), theta, create_graph=True)
        assert slope.isfinite().all()
        if slope.requires_grad:
            (curve,) = torch.autograd.grad(slope.sum(), theta, allow_unused=True)
            assert curve is None or curve.isfinite().all()
    full = hessian(objectives[0], zero)
    assert full.isfinite().all()
    assert full.abs().max() > 0


def tangents(function, primals):
    """Forward-mode derivative of sum(w * function), and the same from reverse mode."""
    directions = tuple(torch.randn_like(p) for p in primals)
    out, tangent = torch.func.jvp(function, primals, directions)
    weight = torch.randn_like(out)
    _, pull = torch.func.vjp(function, *primals)
    back = sum((g * d).sum() for g, d in zip(pull(weight), directions, strict=True))
    return (tangent * weight).sum(), back


@pytest.mark.parametrize("mode", INTERPOLATING)
@families()
def test_forward_mode_is_right_with_the_reference(name, mode):
    transform, theta, points, image, size = case(name, batch=2)
    primals = image.detach(), theta.detach()
    forward, reverse = tangents(
        lambda i, t: stn.warp(i, transform, t, size, mode=mode, backend="reference"), primals
    )
    torch.testing.assert_close(forward, reverse)
    assert forward.abs() > 1e-6
    for method in (transform.map_points, transform.jacobian, transform.inverse_points):
        forward, reverse = tangents(method, (theta.detach(), points.detach()))
        torch.testing.assert_close(forward, reverse)


@pytest.mark.parametrize("mode", INTERPOLATING)
@pytest.mark.parametrize("name", ["affine-2d", "affine-3d", "tps-2d"])
def test_forward_mode(name, mode):
    transform, theta, _, image, size = case(name)

    def run(image, theta):
        return stn.warp(image, transform, theta, size, mode=mode)

    forward, reverse = tangents(run, (image.detach(), theta.detach()))
    torch.testing.assert_close(forward, reverse)


@pytest.mark.parametrize("name", ["affine-2d", "rigid-3d"])
def test_forward_over_reverse(name):
    transform, theta, _, image, size = case(name)

    def objective(theta):
        return stn.warp(image.detach(), transform, theta, size).square().sum()

    expected = hessian(objective, theta.detach())
    torch.testing.assert_close(torch.func.hessian(objective)(theta.detach()), expected)


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_backends_without_forward_mode_refuse_it(backend):
    transform, theta, _, image, size = case("affine-2d")

    def run(theta):
        return stn.warp(image.detach(), transform, theta, size, backend=backend)

    with pytest.raises(ValueError, match=r"cannot run this call: .*forward-mode"):
        torch.func.jvp(run, (theta.detach(),), (torch.ones_like(theta),))
    with (
        torch.autograd.forward_ad.dual_level(),
        pytest.raises(ValueError, match=r"cannot run this call: .*forward-mode"),
    ):
        run(torch.autograd.forward_ad.make_dual(theta.detach(), torch.ones_like(theta)))


def test_native_kernels_refuse_torch_func():
    transform, theta, _, image, size = case("affine-2d")
    with pytest.raises(ValueError, match=r"cannot run this call: torch\.func"):
        torch.func.vmap(
            lambda row: stn.warp(image.detach(), transform, row[None], size, backend="native")
        )(theta.detach())


@pytest.mark.parametrize("backend", [None, "torch", "reference"])
@families()
def test_vmap_over_theta_is_a_loop(name, backend):
    transform, _, points, image, size = case(name)
    theta = TRANSFORMS[name].theta(batch=3)
    image = image.detach()

    def run(row):
        return stn.warp(image, transform, row[None], size, backend=backend)[0]

    together = torch.func.vmap(run)(theta)
    torch.testing.assert_close(together, torch.stack([run(row) for row in theta]))
    torch.testing.assert_close(together, stn.warp(image, transform, theta, size, backend=backend))

    slope = torch.func.grad(lambda row: run(row).square().sum())
    together = torch.func.vmap(slope)(theta)
    torch.testing.assert_close(together, torch.stack([slope(row) for row in theta]))

    def moved(row):
        return transform.map_points(row[None], points[0].detach())[0]

    loop = torch.stack([moved(row) for row in theta])
    torch.testing.assert_close(torch.func.vmap(moved)(theta), loop)


@pytest.mark.parametrize("name", ["tps-2d", "tps-3d", "projective-2d", "projective-3d"])
def test_points_without_an_inverse_do_not_spoil_gradients(name):
    transform = TRANSFORMS[name].make()
    theta = torch.randn(3, transform.num_params, dtype=torch.float64, requires_grad=True)
    points = points_in_square(3, 60, transform.dim, reach=3).requires_grad_()
    back = transform.inverse_points(theta, points)
    found = back.isfinite().all(-1)
    assert found.any()
    assert not found.all()
    for gradient in torch.autograd.grad(back[found].sum(), (theta, points)):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", ["rigid-3d", "similarity-3d", "rigid-2d"])
def test_large_angles_have_finite_gradients(name):
    transform = TRANSFORMS[name].make()
    theta = torch.zeros(1, transform.num_params)
    theta[0, 1 if "similarity" in name else 0] = 1e6
    theta.requires_grad_()
    (slope,) = torch.autograd.grad(
        transform.map_points(theta, torch.rand(4, 3)[:, : transform.dim]).sum(), theta
    )
    assert slope.isfinite().all()
