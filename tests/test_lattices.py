"""Piecewise affine maps, free-form deformations and displacement fields, and lattices' inverses."""

import copy
import itertools

import numpy as np
import pytest
import scipy.interpolate
import scipy.ndimage
import skimage.transform
import torch
import torch.nn.functional as F

import stn

from .tables import images, points_in_square

CLOSE = {"rtol": 0, "atol": 1e-12}
LATTICES = [(2, 2), (4, 3), (9, 8), (2, 3, 4), (3, 3, 2)]
FAMILIES = [stn.PiecewiseAffine, stn.FreeForm, stn.Displacement]

lattices = pytest.mark.parametrize("lattice", LATTICES, ids=str)
each_family = pytest.mark.parametrize("family", FAMILIES)


def random_theta(transform, batch=1, spread=1.0, seed=0):
    noise = torch.Generator().manual_seed(seed)
    unit = torch.rand(batch, transform.num_params, generator=noise, dtype=torch.float64)
    return (2 * unit - 1) * spread


def vectors_of(transform, theta):
    """Displacements as an array (*lattice, dim), the first sample's."""
    return theta[0].view(*transform.lattice, transform.dim).numpy()


def places_of(lattice, points, at_ends):
    """Lattice coordinates in the order of `lattice`, by the convention of the docs."""
    n = np.array(lattice)
    p = points.numpy()[..., ::-1]
    return (p + 1) / 2 * (n - 1) if at_ends else ((p + 1) * n - 1) / 2


# Oracles: one point at a time --------------------------------------------------------------


def piecewise_affine_oracle(vectors, place):
    """Kuhn's simplex of one place (z, y, x order), walked node by node; clamped outside."""
    n = np.array(vectors.shape[:-1])
    place = np.clip(place, 0, n - 1)
    node = np.minimum(np.floor(place).astype(int), n - 2)
    part = place - node
    total = vectors[tuple(node)].copy()
    for axis in sorted(range(len(n)), key=lambda a: (-part[a], -a)):
        ahead = node.copy()
        ahead[axis] += 1
        total += part[axis] * (vectors[tuple(ahead)] - vectors[tuple(node)])
        node = ahead
    return total


def free_form_oracle(vectors, place):
    """A sum over all nodes of a lattice that was extended along straight lines, far enough."""
    more = 12
    for axis in range(vectors.ndim - 1):
        v = np.moveaxis(vectors, axis, 0)
        steps = np.arange(1, more + 1).reshape(-1, *[1] * (v.ndim - 1))
        before, after = v[0] - steps[::-1] * (v[1] - v[0]), v[-1] + steps * (v[-1] - v[-2])
        vectors = np.moveaxis(np.concatenate([before, v, after]), 0, axis)
    beta = scipy.interpolate.BSpline.basis_element([-2, -1, 0, 1, 2], extrapolate=False)
    for x in place:
        weight = np.nan_to_num(beta(x - (np.arange(vectors.shape[0]) - more)))
        assert weight.sum() == pytest.approx(1)
        vectors = np.tensordot(weight, vectors, 1)
    return vectors


def displacement_oracle(vectors, place):
    rows = [[x] for x in place]
    channels = np.moveaxis(vectors, -1, 0)
    return np.array(
        [scipy.ndimage.map_coordinates(c, rows, order=1, mode="nearest")[0] for c in channels]
    )


ORACLES = {
    stn.PiecewiseAffine: piecewise_affine_oracle,
    stn.FreeForm: free_form_oracle,
    stn.Displacement: displacement_oracle,
}


@each_family
@lattices
def test_maps_are_those_of_the_oracle_inside_and_outside(family, lattice):
    transform = family(lattice)
    theta = random_theta(transform)
    points = points_in_square(1, 150, transform.dim, reach=1.7)[0]
    points = torch.cat([points, transform.control_points])
    places = places_of(lattice, points, family is not stn.Displacement)
    vectors = vectors_of(transform, theta)
    expected = np.stack([ORACLES[family](vectors, place) for place in places])
    moved = transform.map_points(theta, points)[0] - points
    np.testing.assert_allclose(moved.numpy(), expected, rtol=0, atol=1e-12)


@each_family
@lattices
def test_grids_are_built_from_the_same_map(family, lattice):
    transform = family(lattice)
    theta = random_theta(transform, batch=2)
    for size, align in itertools.product([(6, 5, 4), (1, 9, 3), lattice], [False, True]):
        size = size[: transform.dim]
        points = stn.Translation(transform.dim).grid(theta[:1, : transform.dim] * 0, size, align)
        expected = transform.map_points(theta, points.flatten(1, -2))
        for _ in range(2):  # the second time from what was kept
            grid = transform.grid(theta, size, align)
            torch.testing.assert_close(grid.flatten(1, -2), expected, **CLOSE)


# Closed forms ------------------------------------------------------------------------------


@each_family
@lattices
def test_equal_vectors_are_a_translation_everywhere(family, lattice):
    transform = family(lattice)
    shift = torch.rand(transform.dim, dtype=torch.float64)
    theta = shift.repeat(len(transform.control_points))[None]
    points = points_in_square(1, 100, transform.dim, reach=4)[0]
    torch.testing.assert_close(transform.map_points(theta, points)[0], points + shift, **CLOSE)


@each_family
@lattices
def test_vectors_linear_in_the_nodes_are_an_affine_map(family, lattice):
    transform, dim = family(lattice), len(lattice)
    linear = torch.rand(dim, dim, dtype=torch.float64) - 0.5
    shift = torch.rand(dim, dtype=torch.float64)
    theta = (transform.control_points @ linear.T + shift).flatten()[None]
    # A free form goes on outside; the others are affine where nodes surround the point.
    reach = 3.0 if family is stn.FreeForm else transform.control_points.abs().amax(0)
    points = points_in_square(1, 200, dim, reach=1.0)[0] * reach
    expected = points + points @ linear.T + shift
    torch.testing.assert_close(transform.map_points(theta, points)[0], expected, **CLOSE)
    eye = torch.eye(dim, dtype=torch.float64)
    slope = transform.jacobian(theta, points)[0]
    torch.testing.assert_close(slope, (eye + linear).expand_as(slope), **CLOSE)


@lattices
def test_a_mesh_and_a_field_move_their_nodes_by_theta(lattice):
    for transform in (stn.PiecewiseAffine(lattice), stn.Displacement(lattice)):
        theta = random_theta(transform)
        moved = transform.map_points(theta, transform.control_points) - transform.control_points
        torch.testing.assert_close(moved.flatten(1), theta, **CLOSE)


@lattices
def test_a_free_form_moves_its_corners_by_theta_and_is_smooth_across_its_ends(lattice):
    transform, dim = stn.FreeForm(lattice), len(lattice)
    theta = random_theta(transform)
    corner = (transform.control_points.abs() == 1).all(-1)
    moved = transform.map_points(theta, transform.control_points)[0] - transform.control_points
    rows = theta.view(-1, dim)
    torch.testing.assert_close(moved[corner], rows[corner], **CLOSE)
    step = 1e-6
    at_end = points_in_square(1, 20, dim)[0]
    at_end[:, 0] = 1
    aside = torch.zeros(dim, dtype=torch.float64)
    aside[0] = step
    places = [at_end + k * aside for k in (1, 0, -1)]
    ahead, here, behind = (transform.jacobian(theta, p)[..., 0] for p in places)
    torch.testing.assert_close(ahead, here, rtol=0, atol=1e-9)  # straight on outside
    torch.testing.assert_close(behind, here, rtol=0, atol=1e-9)  # no second derivative there


# Against peers -----------------------------------------------------------------------------


@pytest.mark.parametrize("lattice", [(4, 4), (5, 6), (3, 7)])
def test_piecewise_affine_is_that_of_scikit_image(lattice):
    transform = stn.PiecewiseAffine(lattice)
    theta = random_theta(transform, spread=0.2)
    nodes = transform.control_points
    target = nodes.numpy()
    source = (nodes + theta.view(-1, 2)).numpy()
    kind = skimage.transform.PiecewiseAffineTransform
    if hasattr(kind, "from_estimate"):
        theirs = kind.from_estimate(target, source)
    else:  # before 0.26
        theirs = kind()
        assert theirs.estimate(target, source)
    np.testing.assert_allclose(transform.map_points(theta, nodes)[0], theirs(target), atol=1e-12)
    # Delaunay cuts a square along either diagonal: compare the squares cut along ours.
    height, width = lattice
    ours = set()
    for y, x in itertools.product(range(height - 1), range(width - 1)):
        a = y * width + x
        ours |= {frozenset((a, a + 1, a + width + 1)), frozenset((a, a + width, a + width + 1))}
    agree = [t for t in theirs._tesselation.simplices if frozenset(t) in ours]
    assert agree
    weights = np.random.default_rng(0).dirichlet(np.ones(3), size=(len(agree), 20))
    points = np.einsum("tnk,tkd->tnd", weights, target[np.array(agree)]).reshape(-1, 2)
    moved = transform.map_points(theta, torch.from_numpy(points))[0]
    np.testing.assert_allclose(moved, theirs(points), rtol=0, atol=1e-12)


@pytest.mark.parametrize("lattice", [(5, 6), (1, 4), (3, 4, 2)])
def test_a_displacement_is_torchs_interpolation_of_theta(lattice):
    transform, dim = stn.Displacement(lattice), len(lattice)
    theta = random_theta(transform, batch=2)
    field = theta.view(2, *lattice, dim).movedim(-1, 1)
    points = points_in_square(2, 60, dim, reach=1.5)
    grid = points.view(2, *[1] * (dim - 1), 60, dim)
    read = F.grid_sample(field, grid, padding_mode="border", align_corners=False)
    expected = points + read.flatten(2).mT
    torch.testing.assert_close(transform.map_points(theta, points), expected, **CLOSE)


@pytest.mark.parametrize("size", [(6, 7), (1, 5), (3, 4, 5)])
def test_a_lattice_of_the_images_size_is_a_flow(size):
    image = images(2, 3, *size)
    transform = stn.Displacement(size)
    theta = random_theta(transform, batch=2, spread=0.4)
    flow = theta.view(2, *size, len(size))
    out = stn.warp(image, transform, theta)
    torch.testing.assert_close(out, stn.warp_flow(image, flow, unit="normalized"), **CLOSE)
    shift = transform.grid_displacement(theta, size, False)
    assert shift.data_ptr() == theta.data_ptr()  # nothing was computed


# Derivatives at the kinks ------------------------------------------------------------------


@pytest.mark.parametrize(
    "transform",
    [  # whose nodes are exact binary fractions
        *[stn.PiecewiseAffine(lattice) for lattice in [(5, 3), (3, 2, 5)]],
        *[stn.Displacement(lattice) for lattice in [(4, 2), (2, 1, 4)]],
    ],
    ids=repr,
)
def test_derivatives_at_the_nodes_are_those_to_the_right(transform):
    dim = transform.dim
    theta = random_theta(transform)
    nodes = transform.control_points
    # In units of the cell most along x, then along y.
    ahead = torch.tensor([9e-9, 3e-9, 1e-9][:dim], dtype=torch.float64)
    ahead = ahead / torch.tensor(transform.lattice[::-1])
    got, expected = (transform.jacobian(theta, p) for p in (nodes, nodes + ahead))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-7)
    pulled = nodes.clone().requires_grad_()
    rows = [
        torch.autograd.grad(transform.map_points(theta, pulled)[0, :, i].sum(), pulled)[0]
        for i in range(dim)
    ]
    torch.testing.assert_close(torch.stack(rows, -2)[None], got, **CLOSE)


@each_family
@pytest.mark.parametrize("lattice", [(4, 3), (2, 3, 4)])
def test_the_jacobian_is_that_of_autograd_inside_and_outside(family, lattice):
    transform, dim = family(lattice), len(lattice)
    theta = random_theta(transform, batch=2)
    points = points_in_square(2, 40, dim, reach=2).requires_grad_()
    moved = transform.map_points(theta, points)
    rows = [
        torch.autograd.grad(moved[..., i].sum(), points, retain_graph=True)[0] for i in range(dim)
    ]
    torch.testing.assert_close(transform.jacobian(theta, points), torch.stack(rows, -2), **CLOSE)


# Inverses ----------------------------------------------------------------------------------


def lost_and_worst(transform, spread, seeds, batch=8, count=400, dtype=torch.float64):
    """Points that have an answer but got NaN, and the largest miss of the others."""
    lost, worst = 0, 0.0
    for seed in seeds:
        theta = random_theta(transform, batch, spread, seed).to(dtype)
        points = points_in_square(batch, count, transform.dim).to(dtype)
        there = transform.map_points(theta, points)
        back = transform.inverse_points(theta, there)
        found = back.isfinite().all(-1)
        lost += int((~found).sum())
        miss = (transform.map_points(theta, back) - there)[found].abs().max()
        worst = max(worst, float(miss))
    return lost, worst


# One start alone lost 2 to 8 points of each of these, and 30 where it says so.
FOLDED = {
    "tps": (lambda: stn.ThinPlateSpline((6, 6)), 0.15, range(3, 14, 2)),
    "tps-3d": (lambda: stn.ThinPlateSpline((4, 4, 4)), 0.3, range(4)),
    "free-form": (lambda: stn.FreeForm((6, 6)), 0.3, range(3)),  # 30
    "free-form-3d": (lambda: stn.FreeForm((4, 5, 4)), 0.4, range(4)),
    "displacement": (lambda: stn.Displacement((6, 6)), 0.15, range(3)),
    "displacement-image": (lambda: stn.Displacement((32, 32)), 0.025, range(3)),
    "displacement-3d": (lambda: stn.Displacement((4, 4, 4)), 0.2, range(4)),
    "piecewise-affine": (lambda: stn.PiecewiseAffine((6, 6)), 0.5, range(6)),
    "piecewise-affine-3d": (lambda: stn.PiecewiseAffine((4, 3, 4)), 0.6, range(6)),
}


@pytest.mark.parametrize("name", FOLDED)
def test_an_answer_is_found_where_there_is_one_though_the_map_folds(name):
    make, spread, seeds = FOLDED[name]
    count = 100 if make().dim == 3 else 400
    lost, worst = lost_and_worst(make(), spread, seeds, count=count)
    assert lost == 0
    assert worst < 1e-12
    lost, worst = lost_and_worst(make(), spread, seeds[:1], count=count, dtype=torch.float32)
    assert lost == 0
    assert worst < 1e-4


@each_family
@pytest.mark.parametrize("lattice", [(4, 3), (3, 2, 3)])
def test_wild_maps_give_an_answer_or_nan_never_a_wrong_point(family, lattice):
    transform = family(lattice)
    theta = random_theta(transform, batch=4, spread=2.0)
    points = points_in_square(4, 60, transform.dim, reach=3)
    back = transform.inverse_points(theta, points)
    found = back.isfinite().all(-1)
    there = transform.map_points(theta, back)
    torch.testing.assert_close(there[found], points[found], rtol=0, atol=1e-9)
    # A mesh moves points by a bounded, continuous amount, so it covers the plane.
    assert found.all() if family is stn.PiecewiseAffine else found.any()


def test_where_a_mesh_collapses_nothing_is_found():
    """All nodes go to the origin: the square becomes a point, what is beside it two lines."""
    mesh = stn.PiecewiseAffine((3, 4))
    theta = -mesh.control_points.flatten()[None]
    points = torch.tensor([[0.0, 0.0], [0.3, 0.0], [0.0, -0.2], [0.3, -0.2]], dtype=torch.float64)
    back = mesh.inverse_points(theta, points)[0]
    assert back[0].isnan().all()
    torch.testing.assert_close(back[3], torch.tensor([1.3, -1.2], dtype=torch.float64), **CLOSE)
    there = mesh.map_points(theta, back)[0]  # the lines: any of many answers, or none
    right = (there - points).abs().amax(-1) < 1e-12
    assert (right | back.isnan().any(-1))[1:3].all()
    with_nan = torch.tensor([[torch.nan, 0.0], [0.3, -0.2]], dtype=torch.float64)
    back = mesh.inverse_points(theta, with_nan)[0]
    assert back[0].isnan().all()
    assert back[1].isfinite().all()


@each_family
def test_far_outside_the_inverse_is_found(family):
    transform = family((3, 4))
    theta = random_theta(transform, spread=0.1)
    if family is stn.FreeForm:  # it goes on bilinearly, and folds where it has gone on for long
        theta = theta * 0.1
    far = torch.tensor([[50.0, 0.2], [-30.0, 20.0], [0.1, -40.0]]).double()
    back = transform.inverse_points(theta, transform.map_points(theta, far))
    torch.testing.assert_close(back[0], far, rtol=0, atol=1e-9)


# Fit, buffers, errors ----------------------------------------------------------------------


@each_family
def test_fit_at_the_nodes_is_exact_and_leaves_free_nodes_alone(family):
    transform = family((4, 5))
    theta = random_theta(transform)
    nodes = transform.control_points
    there = transform.map_points(theta, nodes)
    torch.testing.assert_close(transform.fit(nodes, there), theta, rtol=0, atol=1e-9)
    one = torch.tensor([[-0.9, -0.9]]).double()
    few = transform.fit(one, one + 0.1)
    torch.testing.assert_close(transform.map_points(few, one)[0], one + 0.1, **CLOSE)
    assert few[0, -2:].abs().max() < 1e-12  # the far corner


def test_only_plain_grids_are_kept():
    transform = stn.ThinPlateSpline((3, 3))
    theta = torch.zeros(2, 18)
    torch.func.vmap(lambda row: transform.grid(row[None], (4, 4)))(theta)
    assert not transform._kept
    for n in range(1, 40):
        transform.grid(theta, (n, 3))
    assert 0 < len(transform._kept) <= 16
    both = transform.grid(theta, (4, 4)), transform.grid(theta.double(), (4, 4))
    assert [g.dtype for g in both] == [torch.float32, torch.float64]
    copied = copy.deepcopy(transform)
    torch.testing.assert_close(copied.grid(theta, (4, 4)), both[0], rtol=0, atol=0)


@each_family
def test_lattices_are_checked(family):
    least = 1 if family is stn.Displacement else 2
    for bad in ((least - 1, 4), (4,), (3, 3, 3, 3)):
        with pytest.raises(ValueError, match=f"lattice must be .*at least {least} node"):
            family(bad)
    with pytest.raises(ValueError, match="lattice must be 2 positive integers"):
        family((2.5, 3))
    assert repr(family((3, 4))) == f"{family.__name__}(lattice=(3, 4))"
