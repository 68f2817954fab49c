"""Polar and LogPolar against scikit-image; LearnedBasis: its parameters, and that it learns."""

import math

import pytest
import skimage.transform
import torch
from torch.autograd import gradcheck, gradgradcheck

import stn

from .tables import images, points_in_square


@pytest.mark.parametrize("scaling", ["linear", "log"])
def test_unwrapping_is_that_of_scikit_image(scaling):
    """Theirs has angles as rows and the first radius at the upper left corner of the pixel."""
    n, rows, columns, radius = 33, 12, 20, 11.0  # angles, radii; radius in pixels
    image = images(1, 1, n, n)
    centre = torch.tensor([15.0, 17.5]).double()  # (x, y) in pixels
    expected = skimage.transform.warp_polar(
        image[0, 0].numpy(),
        center=(17.5, 15.0),
        radius=radius,
        output_shape=(rows, columns),
        scaling=scaling,
        order=1,
    )
    if scaling == "linear":
        transform = stn.Polar(radius=2 * radius / n)
    else:
        transform = stn.LogPolar(radius=2 * radius / n, smallest=2 / n)
    angle = torch.arange(rows).double() / rows
    step = torch.arange(columns).double() / columns
    target = torch.stack(torch.meshgrid(2 * angle - 1, 2 * step - 1, indexing="ij"), -1)
    theta = ((2 * centre + 1) / n - 1)[None]
    source = transform.map_points(theta, target.flatten(0, 1)).view(1, rows, columns, 2)
    got = stn.grid_sample(image, source)[0, 0]
    torch.testing.assert_close(got, torch.from_numpy(expected), rtol=0, atol=1e-9)


@pytest.mark.parametrize("make", [stn.Polar, stn.LogPolar])
def test_turning_the_image_shifts_the_unwrapped_one(make):
    coarse = torch.nn.functional.interpolate(images(1, 1, 6, 6), (96, 96), mode="bicubic")
    turned = stn.warp(coarse, stn.Rigid(), torch.tensor([[math.pi / 4, 0, 0]]).double())
    zero = torch.zeros(1, 2).double()
    flat, flat_turned = (
        stn.warp(i, make(), zero, (40, 64), padding_mode="border")[..., :36, :]
        for i in (coarse, turned)
    )
    torch.testing.assert_close(flat_turned, flat.roll(-8, -1), rtol=0, atol=0.01)
    assert (flat_turned - flat).abs().max() > 0.2


def test_growing_the_image_shifts_the_log_polar_one():
    transform = stn.LogPolar(smallest=1 / 16)
    points = points_in_square(1, 30, 2)[0]
    zero = torch.zeros(1, 2).double()
    further = points + torch.tensor([0, 0.5])  # a quarter of the way from 1/16 to 1: twice as far
    torch.testing.assert_close(
        transform.map_points(zero, further), 2 * transform.map_points(zero, points)
    )


@pytest.mark.parametrize("make", [stn.Polar, stn.LogPolar])
def test_the_inverse_knows_every_point_but_the_centre(make):
    transform, theta = make(), torch.tensor([[0.25, -0.5]], dtype=torch.float64)
    points = points_in_square(1, 100, 2, reach=3)[0]
    points = torch.cat([points, theta, theta + torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])])
    points.requires_grad_()
    target = transform.inverse_points(theta, points)
    assert target[0, 100].isnan().all()
    known = target.isfinite().all(-1)
    assert known.sum() == len(points) - 1
    assert (target[known][:, 0] >= -1).all()
    assert (target[known][:, 0] < 1).all()
    expected = torch.tensor([[-1.0, 1], [0, 1], [-0.5, 1], [0.5, 1]]).double()
    torch.testing.assert_close(target[0, -4:], expected)
    back = transform.map_points(theta, target)
    torch.testing.assert_close(back[known], points[known[0]])
    (slope,) = torch.autograd.grad(target[known].sum(), points)
    assert slope.isfinite().all()


@pytest.mark.parametrize("make", [stn.Polar, stn.LogPolar])
def test_unwrapped_rows_are_radii(make):
    transform = make(radius=0.8)
    corners = torch.tensor([[-1.0, -1], [-0.5, 1], [0, 1], [1, 1]]).double()
    source = transform.map_points(torch.zeros(1, 2).double(), corners)[0]
    first = transform.smallest if make is stn.LogPolar else 0.0
    expected = torch.tensor([[first, 0], [0, 0.8], [-0.8, 0], [0.8, 0]]).double()
    torch.testing.assert_close(source, expected)


@pytest.mark.parametrize("transform", [stn.Polar(), stn.LogPolar()], ids=repr)
def test_unwrapping_layers_compile_and_export(transform):
    net = torch.nn.Flatten()
    layer = stn.SpatialTransformer(net, transform, (5, 7), num_features=64).eval()
    torch.nn.init.normal_(layer.head.weight, std=0.02)
    x = torch.rand(3, 1, 8, 8)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))
    shapes = ({0: torch.export.Dim("batch", min=2)},)
    program = torch.export.export(layer, (x,), dynamic_shapes=shapes).module()
    more = torch.rand(5, 1, 8, 8)
    torch.testing.assert_close(program(more), layer(more))


def test_what_polar_refuses():
    for radius in (0, -1, math.inf, math.nan):
        with pytest.raises(ValueError, match="radius must be positive, got"):
            stn.Polar(radius=radius)
    for smallest in (0, 1, 2, math.nan):
        with pytest.raises(ValueError, match="smallest must be between 0 and radius"):
            stn.LogPolar(smallest=smallest)


def with_basis(transform, basis, method, *args):
    """A method's result for another basis, float64, which it is differentiable in."""

    class Call(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.transform = transform

        def forward(self):
            return getattr(self.transform, method)(*args)

    return torch.func.functional_call(Call(), {"transform.basis": basis}, ())


@pytest.mark.parametrize("lattice", [(3, 4), pytest.param((2, 3, 2), marks=pytest.mark.slow)])
def test_derivatives_in_the_basis(lattice):
    transform = stn.LearnedBasis(2, lattice)
    theta = 0.5 * torch.randn(2, transform.num_params, dtype=torch.float64)
    points = points_in_square(2, 3, transform.dim, reach=1.2)
    basis = transform.basis.detach().double().requires_grad_()
    for method in ("map_points", "jacobian", "inverse_points"):
        gradcheck(lambda b, m=method: with_basis(transform, b, m, theta, points), basis)
    theta.requires_grad_()
    gradgradcheck(
        lambda b, t: with_basis(transform, b, "map_points", t, points),
        (basis, theta),
        fast_mode=True,
    )


def test_the_map_is_theta_times_the_basis():
    transform = stn.LearnedBasis(2, (1, 3))
    basis = torch.tensor([[[1.0, 2, 4]], [[0, 0, 8]]])
    transform.basis.data = basis
    points = torch.tensor([[-2 / 3, 0.0], [0, 0.9], [1 / 3, 0], [0.9, 0]], dtype=torch.float64)
    read = torch.tensor([[1.0, 0], [2, 0], [3, 4], [4, 8]], dtype=torch.float64)
    matrix = torch.tensor([[0.1, 0.2], [0.3, -0.4]], dtype=torch.float64)
    moved = transform.map_points(matrix.flatten()[None], points)[0]
    torch.testing.assert_close(moved, points + read @ matrix.T, rtol=0, atol=1e-12)


def test_the_basis_is_a_parameter_like_any_other():
    torch.manual_seed(3)
    first = stn.LearnedBasis(2, (4, 5))
    torch.manual_seed(3)
    again, other = stn.LearnedBasis(2, (4, 5)), stn.LearnedBasis(2, (4, 5))
    assert torch.equal(first.basis, again.basis)
    assert not torch.equal(first.basis, other.basis)
    assert 0.05 < first.basis.std() < 0.2
    other.load_state_dict(first.state_dict())
    assert torch.equal(first.basis, other.basis)
    assert first.half().basis.dtype == torch.float32
    assert first.double().basis.dtype == torch.float32
    both = stn.Compose(stn.Affine(), first)
    assert [name for name, _ in both.named_parameters()] == ["parts.1.basis"]

    localization = stn.nn.DenseLocalization((1, 9, 9))
    layer = stn.SpatialTransformer(localization, first)
    model = torch.nn.Sequential(layer, torch.nn.Flatten(), torch.nn.Linear(81, 3))
    rest, slow = stn.param_groups(model, 1.0, 0.1)
    assert {id(p) for p in rest["params"]} == {id(p) for p in model[2].parameters()}
    assert id(first.basis) in {id(p) for p in slow["params"]}
    assert len(rest["params"] + slow["params"]) == len(list(model.parameters()))


def bend(amount, points):
    """Shift along x by amount * sin(pi y)."""
    shift = amount.view(-1, 1, 1) * torch.sin(math.pi * points[..., 1])
    return torch.stack([points[..., 0] + shift, points[..., 1].expand_as(shift)], -1)


def bent_pairs(count, size=24):
    """Smooth noise, and the same bent by amounts in [-0.4, 0.4]: what undoes it has a closed form.

    Returns:
        straight, bent (count, 1, size, size).
    """
    coarse = torch.randn(count, 1, size // 3, size // 3)
    straight = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic")
    amount = 0.8 * torch.rand(count) - 0.4
    axis = (2 * torch.arange(size) + 1) / size - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    grid = bend(amount, torch.stack([x, y], -1))
    return straight, stn.grid_sample(straight, grid, padding_mode="border")


def straighten(transform, bent, straight, steps, learned=()):
    """Mean squared error after gradient descent on a theta for each image, and on `learned`."""
    theta = torch.zeros(len(bent), transform.num_params, requires_grad=True)
    optimizer = torch.optim.Adam([theta, *learned], lr=0.03)
    error = torch.zeros(())
    for _ in range(steps):
        optimizer.zero_grad()
        out = stn.warp(bent, transform, theta, padding_mode="border")
        error = (out - straight)[..., 4:-4].square().mean()
        error.backward()
        optimizer.step()
    return float(error.detach())


def test_one_learned_field_undoes_a_bend_that_no_other_two_numbers_can():
    straight, bent = bent_pairs(24)
    transform = stn.LearnedBasis(1, (8, 8))
    untrained = stn.LearnedBasis(1, (8, 8)).requires_grad_(False)
    straighten(transform, bent, straight, 200, transform.parameters())
    transform.requires_grad_(False)
    straight, bent = bent_pairs(24)  # new images; from here on only theta is free
    learned = straighten(transform, bent, straight, 40)
    others = {
        repr(other): straighten(other, bent, straight, 40)
        for other in (
            stn.Translation(),
            stn.Attention(scale=1.0),
            stn.Attention(scale=0.9),
            stn.Displacement((1, 1)),
            stn.Velocity((1, 1), steps=1),
            stn.CPAB((1, 1), steps=1),
            untrained,
        )
    }
    assert all(made.num_params == 2 for made in (transform, untrained, stn.CPAB((1, 1))))
    assert all(learned < error / 10 for error in others.values()), (learned, others)


def test_what_learned_basis_refuses():
    for rank in (0, 1.5):
        with pytest.raises(ValueError, match="rank must be a positive integer, got"):
            stn.LearnedBasis(rank, (3, 3))
    with pytest.raises(ValueError, match=r"lattice must be \(H, W\) or \(D, H, W\), got \(3,"):
        stn.LearnedBasis(1, (3,))
