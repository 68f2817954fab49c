"""Penalties on warps against closed forms, finite differences and dense Hessians."""

import functools
import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import stn
from stn import coords
from stn.nn import (
    bending_energy,
    diagnose,
    fold_penalty,
    inverse_consistency,
    jacobian_penalty,
    pull_back,
    smoothness,
)
from stn.transforms import Transform

from .tables import TRANSFORMS, families

PENALTIES = {
    "bending": bending_energy,
    "smoothness": smoothness,
    "fold": functools.partial(fold_penalty, margin=2.0),  # active everywhere
    "jacobian": jacobian_penalty,
    "pull-back": functools.partial(pull_back, margin=-0.9),
    "consistency": lambda transform, theta, size, **options: inverse_consistency(
        transform, theta, theta.flip(-1), size, **options
    ),
}
each_penalty = pytest.mark.parametrize("penalty", PENALTIES.values(), ids=PENALTIES)
QUICK = {
    "affine-2d", "similarity-3d", "projective-2d", "tps-2d", "tps-3d", "compose-2d",
    "piecewise-affine-2d", "displacement-2d",
}  # fmt: skip
every_family = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in TRANSFORMS]
)
SIZES = {2: (3, 2), 3: (2, 3, 2)}


class Bowed(Transform):
    """x = x + a y^2 + b x y: constant second derivatives, d_yy x = 2 a and d_xy x = b."""

    def __init__(self, dim=2):
        super().__init__(dim, 2)

    def displacement_at(self, theta, points):
        x, y = points[..., 0], points[..., 1]
        move = theta[:, :1] * y.square() + theta[:, 1:] * x * y
        return torch.stack([move, *[torch.zeros_like(move)] * (self.dim - 1)], -1)


class Creased(Transform):
    """x = x + c relu(x): flat but for one crease."""

    def __init__(self):
        super().__init__(2, 1)

    def displacement_at(self, theta, points):
        move = theta * points[..., 0].relu()
        return torch.stack([move, torch.zeros_like(move)], -1)


def doubles(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def check(got, expected, atol=1e-12):
    expected = torch.as_tensor(expected, dtype=got.dtype).expand_as(got)
    torch.testing.assert_close(got, expected, atol=atol, rtol=1e-9)


def centres(size, align_corners=False):
    return coords.target_points(size, align_corners, torch.float64)


def check_gradients(compare, name, penalty):
    transform = TRANSFORMS[name].make()
    theta = TRANSFORMS[name].theta(1, seed=3).requires_grad_()
    size = SIZES[transform.dim]
    assert compare(lambda theta: penalty(transform, theta, size), theta)


class TestEveryFamily:
    @each_penalty
    @families(identity_at_zero=True)
    def test_zero_at_the_identity(self, name, penalty):
        transform = TRANSFORMS[name].make()
        theta = torch.zeros(2, transform.num_params, dtype=torch.float64)
        if penalty in (PENALTIES["fold"], PENALTIES["pull-back"]):
            penalty = penalty.func  # with its own margin
        check(penalty(transform, theta, SIZES[transform.dim]), 0.0, atol=1e-20)

    @each_penalty
    @every_family
    def test_gradients(self, name, penalty):
        check_gradients(gradcheck, name, penalty)

    @each_penalty
    @pytest.mark.parametrize("name", sorted(QUICK))
    def test_gradients_of_gradients(self, name, penalty):
        check_gradients(gradgradcheck, name, penalty)

    @each_penalty
    @every_family
    def test_windows_are_rows(self, name, penalty):
        transform = TRANSFORMS[name].make()
        theta = TRANSFORMS[name].theta(6).view(2, 3, -1)
        size = SIZES[transform.dim]
        got = penalty(transform, theta, size)
        assert got.shape == (2, 3)
        for b, k in ((0, 2), (1, 0)):
            check(got[b, k], penalty(transform, theta[b, k : k + 1], size)[0])
        assert penalty(transform, theta[:0], size).shape == (0, 3)
        assert penalty(transform, theta[0].bfloat16(), size).dtype == torch.float32

    @every_family
    def test_a_theta_that_is_lost_gives_nan_in_its_row(self, name):
        transform = TRANSFORMS[name].make()
        for bad in (math.nan, math.inf):
            theta = TRANSFORMS[name].theta(3)
            theta[1, -1] = bad
            for key, penalty in PENALTIES.items():
                got = penalty(transform, theta, SIZES[transform.dim])
                assert got.isfinite().tolist() == [True, False, True], (key, got)
                assert got[1].isnan()

    @pytest.mark.parametrize(
        "name",
        # A learned basis need not hold a translation.
        [n for n, row in TRANSFORMS.items() if row.has_fit and not n.startswith("learned-basis")],
    )
    def test_a_transformer_that_looks_away_comes_back(self, name):
        """The image gives no gradient at all, the penalty alone brings the samples home."""
        transform = TRANSFORMS[name].make()
        size = (6,) * transform.dim
        away = torch.full((transform.dim,), 3.0)
        away[0] = -4.0
        points = centres(size).float()
        theta = transform.fit(points, points + away).requires_grad_()
        assert diagnose(transform, theta, size).outside.item() == 1
        seen = stn.warp(torch.rand(1, 1, *size), transform, theta).square().sum()
        assert not torch.autograd.grad(seen, theta)[0].any()

        start = pull_back(transform, theta, size).item()
        optimizer = torch.optim.Adam([theta], lr=0.05)
        for _ in range(250):
            optimizer.zero_grad()
            pull_back(transform, theta, size).sum().backward()
            optimizer.step()
        assert pull_back(transform, theta, size).item() < 1e-3 * start
        assert diagnose(transform, theta, size).outside.item() < 0.2
        seen = stn.warp(torch.rand(1, 1, *size), transform, theta).square().sum()
        assert torch.autograd.grad(seen, theta)[0].any()


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(5, 9), (2, 2), (4, 3, 5)])
def test_bending_of_constant_second_derivatives(size, align_corners):
    """d_xy stands twice in the sum; exact at every size, along every axis."""
    transform = Bowed(len(size))
    got = bending_energy(transform, doubles([0.3, 0.0], [0.0, 0.5]), size, align_corners)
    check(got, doubles(4 * 0.09, 2 * 0.25))
    narrow = (*size[:-2], 1, size[-1])
    got = bending_energy(transform, doubles([0.3, 0.0], [0.0, 0.5]), narrow, align_corners)
    check(got, doubles(0.0, 0.25))


@pytest.mark.parametrize("n", [4, 10])
def test_bending_of_a_crease(n):
    """The slope jumps by c within one of n - 1 steps of 2 / n."""
    got = bending_energy(Creased(), doubles([0.6]), (3, n))
    check(got, (0.6 * n / 2) ** 2 / (n - 1))


@pytest.mark.parametrize("name", ["projective-2d", "projective-3d"])
def test_bending_against_a_dense_hessian(name):
    transform, theta = TRANSFORMS[name].make(), TRANSFORMS[name].theta(1)
    dim = transform.dim

    def source(point):
        return transform.map_points(theta, point[None])[0, 0]

    errors = []
    for n in (8, 16) if dim == 3 else (16, 32):
        size = (n,) * dim
        hessian = torch.func.vmap(torch.func.jacfwd(torch.func.jacrev(source)))(centres(size))
        exact = hessian.square().sum((1, 2, 3)).mean()
        errors.append((bending_energy(transform, theta, size)[0] / exact - 1).abs().item())
    assert errors[0] < 0.15
    # The half pixels at the border, which have no neighbour, are left out: first order.
    assert errors[1] < 0.6 * errors[0]


def test_bending_of_a_spline_is_its_quadratic_form():
    """Over the whole plane it is 8 pi w^T K w (Bookstein 1989), K = r^2 log r, w the weights.

    Compose(spline, zoom out by s) sees the plane out to s, with derivatives s^2 times as large.
    """
    spline = stn.ThinPlateSpline((3, 3))
    theta = torch.randn(1, 18, generator=torch.Generator().manual_seed(1)).double()
    nodes = spline.control_points
    square = (nodes[:, None] - nodes).square().sum(-1)
    kernel = torch.where(square > 0, square * square.clamp(min=1e-9).log() / 2, 0)
    weights = spline.weights[: len(nodes)] @ theta.view(-1, 2)
    exact = 8 * math.pi * (weights * (kernel @ weights)).sum()
    seen = []
    for scale in (4.0, 8.0):
        wide = stn.Compose(spline, stn.Attention(scale=scale))
        both = torch.cat([theta, doubles([0.0, 0.0])], -1)
        energy = bending_energy(wide, both, (400, 400)).item()
        seen.append(energy * 4 / scale**2)  # 4: the area of [-1, 1]^2
    assert seen[0] < seen[1]
    assert seen[1] == pytest.approx(exact.item(), rel=0.03)


def test_bending_does_not_drown_in_float32():
    theta = torch.tensor([[0.1, -0.2, 0.3, 0.05, 0.1, 0.2, 0.03, -0.02]])
    exact = bending_energy(stn.Projective(), theta.double(), (512, 512))
    got = bending_energy(stn.Projective(), theta, (512, 512))
    assert got.item() == pytest.approx(exact.item(), rel=1e-3)
    assert bending_energy(stn.Affine(), theta[:, :6], (512, 512)).item() == 0


@pytest.mark.parametrize("dim", [2, 3])
def test_smoothness_of_turns_zooms_and_bows(dim):
    size = (5, 4, 6)[:dim]
    angle = 0.7
    turn = doubles([angle, 1, 2]) if dim == 2 else doubles([0.0, angle, 0.0, 1, 2, 3])
    check(smoothness(stn.Rigid(dim), turn, size), 4 * (1 - math.cos(angle)))
    zoom = doubles([math.log(3)] + [0.0] * dim)
    check(smoothness(stn.Attention(dim), zoom, size), dim * 4.0)
    x, y = centres(size)[:, 0], centres(size)[:, 1]
    a, b = 0.3, 0.5
    slopes = (b * y).square() + (2 * a * y + b * x).square()
    check(smoothness(Bowed(dim), doubles([a, b]), size), slopes.mean())


@pytest.mark.parametrize("dim", [2, 3])
def test_jacobian_penalties_of_zooms_and_mirrors(dim):
    size = (3,) * dim
    zoom = doubles([math.log(0.5)] + [0.1] * dim)
    det = 0.5**dim
    check(fold_penalty(stn.Attention(dim), zoom, size, margin=0.6), (0.6 - det) ** 2)
    check(fold_penalty(stn.Attention(dim), zoom, size), 0.0)
    check(jacobian_penalty(stn.Attention(dim), zoom, size), (dim * math.log(2)) ** 2)
    check(jacobian_penalty(stn.Attention(dim), -zoom, size), (dim * math.log(2)) ** 2)
    mirror = torch.zeros(1, stn.Affine(dim).num_params, dtype=torch.float64)
    mirror[0, 0] = -2
    check(fold_penalty(stn.Affine(dim), mirror, size, margin=0.5), 1.5**2)
    folded = jacobian_penalty(stn.Affine(dim), mirror, size, least=0.1)
    check(folded, (math.log(0.1) - 1.1 / 0.1) ** 2)
    # Value and slope go through `least` without a step.
    mirror[0, 0] = -0.9
    mirror.requires_grad_()
    values = [jacobian_penalty(stn.Affine(dim), mirror + e, size, 0.1) for e in (-1e-9, 1e-9)]
    slopes = [torch.autograd.grad(v.sum(), mirror)[0][0, 0] for v in values]
    torch.testing.assert_close(values[0], values[1], rtol=1e-6, atol=0)
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-6, atol=0)
    assert slopes[0] == pytest.approx(2 * math.log(0.1) / 0.1, rel=1e-6)
    with pytest.raises(ValueError, match="least must be above 0, got 0"):
        jacobian_penalty(stn.Affine(dim), mirror, size, least=0)


@pytest.mark.parametrize("penalty", [fold_penalty, jacobian_penalty])
def test_descent_unfolds(penalty):
    transform = stn.ThinPlateSpline((4, 4))
    theta = torch.zeros(1, 32)
    theta[0, 10] = 1.5
    assert diagnose(transform, theta, (20, 20)).folded.item() > 0.02
    theta.requires_grad_()
    optimizer = torch.optim.Adam([theta], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        penalty(transform, theta, (20, 20)).sum().backward()
        optimizer.step()
    assert diagnose(transform, theta, (20, 20)).folded.item() == 0


def test_the_determinant_has_derivatives_where_it_is_zero():
    for dim in (2, 3):
        theta = -torch.eye(dim, dim + 1, dtype=torch.float64).flatten()[None]  # the matrix is 0
        theta.requires_grad_()
        size = (1,) * dim
        assert gradcheck(lambda t, d=dim, s=size: fold_penalty(stn.Affine(d), t, s, 0.5), theta)
        assert gradgradcheck(lambda t, d=dim, s=size: fold_penalty(stn.Affine(d), t, s, 0.5), theta)


class TestInverseConsistency:
    @pytest.mark.parametrize(
        "name",
        # The inverse of a window of fixed scale has another scale.
        [n for n, row in TRANSFORMS.items() if row.is_matrix and "fixed" not in n],
    )
    def test_zero_for_the_inverse(self, name):
        """The inverse's theta is read off the inverse map, in the families that hold it."""
        transform, theta = TRANSFORMS[name].make(), TRANSFORMS[name].theta()
        points = centres((4,) * transform.dim)
        back = transform.fit(transform.map_points(theta, points), points.expand(2, -1, -1))
        size = (5,) * transform.dim
        check(inverse_consistency(transform, theta, back, size), 0.0, atol=1e-18)
        wrong = inverse_consistency(transform, theta, -theta / 2, size)
        assert bool((wrong > 1e-4).all())

    def test_order(self):
        """First there, then back: T_ba(T_ab(p)) with T_ab = 2 p, T_ba = p + t."""
        size, points = (3, 4), centres((3, 4))
        zoom, move = doubles([math.log(2), 0, 0]), doubles([0, 0.3, -0.1])
        shift = doubles([0.3, -0.1])
        got = inverse_consistency(stn.Attention(), zoom, move, size)
        check(got, (points + shift).square().sum(-1).mean())
        got = inverse_consistency(stn.Attention(), move, zoom, size)
        check(got, (points + 2 * shift).square().sum(-1).mean())

    def test_needs_two_of_a_kind(self):
        with pytest.raises(ValueError, match=r"one shape, got \(2, 3\) and \(1, 3\)"):
            inverse_consistency(stn.Attention(), torch.zeros(2, 3), torch.zeros(1, 3), 4)


class TestPullBack:
    def test_closed_form(self):
        theta = doubles([2.5, 0.0], [0.0, -0.8])
        points = centres((4, 6))
        d = (points[:, 0] + 2.5 - 1.2).clamp(min=0)
        e = (-(points[:, 1] - 0.8) - 1.2).clamp(min=0)
        expected = torch.stack([(d * d / (1 + d)).mean(), (e * e / (1 + e)).mean()])
        check(pull_back(stn.Translation(), theta, (4, 6), margin=0.2), expected)

    @pytest.mark.parametrize("away", [1.8, 10.0, 1e6, 1e30])
    @pytest.mark.parametrize("sign", [-1, 1])
    def test_the_gradient_neither_vanishes_nor_explodes(self, away, sign):
        theta = torch.tensor([[0.0, sign * away, 0.0]], requires_grad=True)
        penalty = pull_back(stn.Translation(3), theta, (4, 5, 6))
        slope = torch.autograd.grad(penalty.sum(), theta)[0]
        assert 0.4 < sign * slope[0, 1].item() < 1.0001
        assert slope[0, 0] == slope[0, 2] == 0

    def test_inside_it_is_silent(self):
        theta = torch.tensor([[-0.7, 0.4, 0.3]], requires_grad=True)
        penalty = pull_back(stn.Attention(), theta, (8, 8))
        assert penalty.item() == 0
        assert not torch.autograd.grad(penalty.sum(), theta)[0].any()


class TestHorizon:
    """w = 1 + 2 x: the left quarter of the samples lies behind, and does not count."""

    theta = doubles([0, 0, 0, 0, 0, 0, 2.0, 0])

    @pytest.mark.parametrize("name", ["smoothness", "fold", "jacobian", "pull-back"])
    def test_is_left_out(self, name):
        transform, size = stn.Projective(), (3, 8)
        x = centres(size)[:, 0]
        points = centres(size)[1 + 2 * x > 0]
        assert len(points) == 18
        theta = self.theta.clone().requires_grad_()
        got = PENALTIES[name](transform, theta, size)
        jacobian = transform.jacobian(self.theta, points)[0]
        det = torch.linalg.det(jacobian)
        beyond = (transform.map_points(self.theta, points)[0].abs() - 0.1).clamp(min=0)
        expected = {
            "smoothness": (jacobian - torch.eye(2)).square().sum((-2, -1)),
            "fold": (2 - det).clamp(min=0).square(),
            "jacobian": det.log().square(),
            "pull-back": (beyond.square() / (1 + beyond)).sum(-1),
        }
        check(got, expected[name].mean())
        assert torch.autograd.grad(got.sum(), theta)[0].isfinite().all()

    @pytest.mark.parametrize("side", [-1, 1])
    def test_bending_takes_pairs_of_pixels_that_both_have_sources(self, side):
        theta, points = side * self.theta, centres((1, 8))
        points = points[1 + 2 * side * points[:, 0] > 0]
        slopes = stn.Projective().jacobian(theta, points)[0].diff(dim=0) * 4
        got = bending_energy(stn.Projective(), theta, (1, 8))
        check(got, slopes.square().sum((-2, -1)).mean())

    def test_consistency_needs_a_source_there_and_back(self):
        transform, size, points = stn.Projective(), (3, 8), centres((3, 8))
        still = torch.zeros_like(self.theta)
        front = 1 + 2 * points[:, 0] > 0
        moved = (transform.map_points(self.theta, points)[0] - points).square().sum(-1)
        for there, back in ((self.theta, still), (still, self.theta)):
            check(inverse_consistency(transform, there, back, size), moved[front].mean())

    def test_bending_is_finite_even_where_no_pair_of_pixels_has_sources(self):
        got = bending_energy(stn.Projective(), doubles([0, 0, 0, 0, 0, 0, 3.0, 0]), (1, 2))
        assert got.item() == 0
