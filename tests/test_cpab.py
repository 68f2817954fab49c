"""CPAB against libcpab (its slow path), a scalar oracle, closed forms, and its own promises."""

import itertools
from types import SimpleNamespace

import libcpab.tesselation
import libcpab.transformer
import numpy as np
import pytest
import scipy.linalg
import torch

import stn

from .tables import points_in_square

CASES = [((1, 1), True), ((2, 3), True), ((4, 4), True), ((2, 3), False), ((1, 1), False)]
CASES_3D = [((1, 2, 2), True), ((3, 1, 2), True), ((1, 2, 2), False)]


class DoubleTorch:
    """torch for libcpab, which asks for float32 by name: its rounding would hide the comparison."""

    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


class Theirs:
    """libcpab's mesh, basis and flow, moved from [0, 1] to [-1, 1]; nothing is kept on disk."""

    def __init__(self, tessellation, zero_boundary, folder):
        self.dim = len(tessellation)
        cells = list(tessellation[::-1])
        kind = getattr(libcpab.tesselation, f"Tesselation{self.dim}D")
        low, high = [0] * self.dim, [1] * self.dim
        mesh = kind(cells, low, high, zero_boundary, False, f"{folder}/")
        self.basis, self.corners = torch.tensor(mesh.B), torch.tensor(mesh.verts)
        self.params = SimpleNamespace(
            ndim=self.dim,
            nC=len(mesh.verts),
            Ashape=[self.dim, self.dim + 1],
            basis=mesh.B,
            nc=cells,
        )

    def simplices(self):
        return 2 * self.corners[..., : self.dim] - 1

    def corner_velocities(self, theta):
        affine = (theta @ self.basis.T).view(len(theta), -1, self.dim, self.dim + 1)
        return 2 * torch.einsum("bcij,ckj->bcki", affine, self.corners)

    def flow(self, theta, points, steps):
        self.params.nstepsolver = steps
        unit = ((points + 1) / 2).T.contiguous()
        moved = libcpab.transformer.CPAB_transformer_slow(unit, theta, self.params)
        return 2 * moved.mT - 1


@pytest.fixture
def double_precision(monkeypatch):
    theirs = libcpab.transformer
    for function in (theirs.CPAB_transformer_slow, theirs.expm, theirs.findcellidx):
        monkeypatch.setitem(function.__globals__, "torch", DoubleTorch())
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def our_theta(transform, theirs, theta):
    """theta of the same velocity field, found through the velocities at the vertices."""
    at = torch.cdist(theirs.simplices().flatten(0, 1), transform.vertices)
    assert at.amin(-1).max() < 1e-12
    wanted = transform.vertices.new_zeros(len(theta), *transform.vertices.shape)
    wanted[:, at.argmin(-1)] = theirs.corner_velocities(theta).flatten(1, 2)
    wanted = wanted.flatten(1)
    ours = torch.linalg.lstsq(transform.mixing.T, wanted.T).solution.T
    got = transform.vertex_velocities(ours).flatten(1)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)
    return ours


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("tessellation", "zero_boundary"), CASES + CASES_3D)
def test_it_is_libcpab(tessellation, zero_boundary, tmp_path, double_precision):
    transform = stn.CPAB(tessellation, zero_boundary=zero_boundary, steps=32)
    theirs = Theirs(tessellation, zero_boundary, tmp_path)
    ours = {frozenset(map(tuple, s.round(decimals=9).tolist())) for s in corners_of(transform)}
    simplices = theirs.simplices().round(decimals=9)
    assert ours == {frozenset(map(tuple, s.tolist())) for s in simplices}
    if zero_boundary:
        assert transform.num_params == theirs.basis.shape[1]
    else:  # libcpab also asks for continuity outside, which not all continuous fields have
        assert transform.num_params == transform.vertices.numel() >= theirs.basis.shape[1]
    theta = 0.5 * torch.randn(3, theirs.basis.shape[1])
    points = points_in_square(1, 100, transform.dim)[0]
    mine = our_theta(transform, theirs, theta)
    moved = transform.map_points(mine, points)
    # Outside the square the two differ; compare the paths that never leave it.
    path = torch.stack([transform.map_points(mine * t, points) for t in torch.linspace(0, 1, 9)])
    inside = (path.abs() < 1).all(-1).all(0)
    assert inside.double().mean() > (0.99 if zero_boundary else 0.2)
    assert (moved - points).abs().max() > 0.1
    # libcpab keeps a point's simplex for a whole step: its error falls by 4 per doubling.
    errors = [
        (theirs.flow(theta, points, steps) - moved)[inside].abs().max() for steps in (50, 200)
    ]
    assert errors[0] < 2e-4
    assert errors[1] < 1.5e-5


def corners_of(transform):
    return transform.vertices[transform.simplices]


@pytest.mark.parametrize(("tessellation", "zero_boundary"), CASES + CASES_3D)
def test_the_basis_is_orthonormal_and_near_the_vertices(tessellation, zero_boundary):
    transform = stn.CPAB(tessellation, zero_boundary=zero_boundary)
    unit = torch.eye(transform.num_params, dtype=torch.float64)
    stacked = (transform.inverses @ transform.vertex_velocities(unit)[:, transform.simplices]).mT
    gram = stacked.flatten(1) @ stacked.flatten(1).T
    torch.testing.assert_close(gram, unit, rtol=0, atol=1e-10)
    # Number k of theta belongs to free component k, which it moves most.
    free = transform.vertex_velocities(unit).flatten(1).abs().amax(0) > 0
    at_vertices = transform.vertex_velocities(unit).flatten(1)[:, free]
    assert (at_vertices.argmax(-1) == torch.arange(transform.num_params)).all()
    torch.testing.assert_close(at_vertices, at_vertices.T, rtol=0, atol=1e-12)


def oracle_velocity(transform, theta, point):
    """Barycentric interpolation in the first simplex that holds the point, one by one."""
    point = np.clip(point, -1, 1)
    values = transform.vertex_velocities(theta)[0].numpy()
    for simplex in transform.simplices.numpy():
        corners = np.c_[transform.vertices.numpy()[simplex], np.ones(transform.dim + 1)]
        weights = np.linalg.solve(corners.T, np.r_[point, 1])
        if weights.min() >= -1e-12:
            return weights @ values[simplex]
    raise AssertionError(f"no simplex holds {point}")


@pytest.mark.parametrize(("tessellation", "zero_boundary"), [CASES[1], CASES[3], *CASES_3D])
def test_the_velocity_is_that_of_a_scalar_oracle(tessellation, zero_boundary):
    transform = stn.CPAB(tessellation, zero_boundary=zero_boundary)
    theta = torch.randn(1, transform.num_params, dtype=torch.float64)
    points = points_in_square(1, 60, transform.dim, reach=1.3)
    got = transform.field(theta)(points)[0]
    expected = np.stack([oracle_velocity(transform, theta, p) for p in points[0].numpy()])
    np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("tessellation", "zero_boundary"), [CASES[2], CASES[3], CASES_3D[0]])
def test_the_error_falls_fourfold_per_doubling_of_steps(tessellation, zero_boundary):
    """Against the plain formula with 2,000 steps, which knows of no simplex."""
    transform = stn.CPAB(tessellation, zero_boundary=zero_boundary)
    theta = 0.5 * torch.randn(3, transform.num_params, dtype=torch.float64)
    points = points_in_square(3, 100, transform.dim)
    velocity, exact, h = transform.field(theta), points, 1 / 2000
    for _ in range(2000):
        k1 = velocity(exact)
        k2 = velocity(exact + h / 2 * k1)
        k3 = velocity(exact + h / 2 * k2)
        exact = exact + h / 6 * (k1 + 2 * k2 + 2 * k3 + velocity(exact + h * k3))
    errors = []
    for steps in (1, 2, 4, 8):
        transform.steps = steps
        errors.append(float((transform.map_points(theta, points) - exact).norm(dim=-1).mean()))
    assert all(b < a / 4 for a, b in itertools.pairwise(errors)), errors
    assert errors[2] < 3e-6  # the default


def test_within_a_simplex_it_is_a_matrix_exponential():
    transform = stn.CPAB((1, 1), zero_boundary=False)
    wanted = torch.tensor([[0.3, -0.2, 0.1], [0.25, -0.15, -0.05]], dtype=torch.float64)
    corners = torch.cat([transform.vertices, torch.ones(5, 1)], -1)
    values = (corners @ wanted.T).flatten()
    theta = torch.linalg.lstsq(transform.mixing.T, values[:, None]).solution.T
    points = points_in_square(1, 50, 2, reach=0.4)[0]  # all simplices have the same matrix
    flow = torch.from_numpy(scipy.linalg.expm(np.r_[wanted.numpy(), np.zeros((1, 3))]))
    expected = points @ flow[:2, :2].T + flow[:2, 2]
    transform.steps = 16
    torch.testing.assert_close(transform.map_points(theta, points)[0], expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("tessellation", [(3, 2), (2, 1, 2)])
def test_nothing_flows_through_the_border(tessellation):
    transform = stn.CPAB(tessellation)
    theta = 2 * torch.randn(3, transform.num_params, dtype=torch.float64)
    points = points_in_square(3, 100, transform.dim, reach=1.0)
    wall = points.clone()
    wall[:, :50, 0] = 1.0
    wall[:, 50:, 1] = -1.0
    moved = transform.map_points(theta, wall)
    torch.testing.assert_close(moved[:, :50, 0], wall[:, :50, 0], rtol=0, atol=1e-12)
    torch.testing.assert_close(moved[:, 50:, 1], wall[:, 50:, 1], rtol=0, atol=1e-12)
    assert (moved - wall).abs().max() > 0.05  # along it there is a flow
    assert (transform.map_points(theta, points).abs() <= 1 + 1e-12).all()
    free = stn.CPAB(tessellation, zero_boundary=False)
    theta = 2 * torch.randn(3, free.num_params, dtype=torch.float64)
    assert (free.map_points(theta, points).abs() > 1).any()


def test_what_it_refuses():
    with pytest.raises(ValueError, match=r"tessellation must be \(H, W\) or \(D, H, W\), got \(3,"):
        stn.CPAB((3,))
    with pytest.raises(ValueError, match=r"positive integers"):
        stn.CPAB((0, 3))
    with pytest.raises(ValueError, match="no flow is left"):
        stn.CPAB((1, 1, 1))
    with pytest.raises(ValueError, match="steps must be a positive integer, got 0"):
        stn.CPAB((2, 2), steps=0)
    with pytest.raises(TypeError, match="has no least-squares fit"):
        stn.CPAB((2, 2)).fit(torch.rand(9, 2), torch.rand(9, 2))
