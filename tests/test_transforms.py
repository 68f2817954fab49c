"""The contract of transforms: matrices, inverses, fits, layouts of theta, and SciPy's splines."""

import math

import numpy as np
import pytest
import scipy.interpolate
import scipy.spatial.transform
import skimage.transform
import torch

import stn

from .tables import TRANSFORMS, families, points_in_square

CLOSE = {"rtol": 0, "atol": 1e-10}


@families()
def test_batches_of_points_are_loops(name):
    family = TRANSFORMS[name]
    transform, theta = family.make(), family.theta(batch=3)
    own = points_in_square(3, 5, transform.dim)
    for method in (transform.map_points, transform.jacobian, transform.inverse_points):
        for points in (own, own[0], own[:1]):
            together = method(theta, points)
            rows = points.expand(3, -1, -1)
            loop = [method(theta[i : i + 1], rows[i]) for i in range(3)]
            torch.testing.assert_close(together, torch.cat(loop), **CLOSE)
        torch.testing.assert_close(
            method(theta[:1], own),
            torch.cat([method(theta[:1], own[i]) for i in range(3)]),
            **CLOSE,
        )
        assert method(theta[:0], own[0]).shape[0] == 0
        assert method(theta.float(), own.float()).dtype == torch.float32
        assert method(theta.bfloat16(), own.float()).dtype == torch.float32


@pytest.mark.parametrize("align", [False, True])
@families()
def test_grid_is_map_points_at_the_pixel_centres(name, align):
    family = TRANSFORMS[name]
    transform, theta = family.make(), family.theta()
    size = (3, 4, 1)[-transform.dim :]
    axes = [
        np.linspace(-1, 1, n) if align and n > 1 else (2 * np.arange(n) + 1) / n - 1 for n in size
    ]
    mesh = np.stack(np.meshgrid(*axes, indexing="ij")[::-1], -1).reshape(-1, transform.dim)
    expected = transform.map_points(theta, torch.from_numpy(mesh)).view(2, *size, -1)
    torch.testing.assert_close(transform.grid(theta, size, align), expected, **CLOSE)


@families()
def test_inverse_points_undoes_map_points(name):
    family = TRANSFORMS[name]
    transform = family.make()
    for seed in range(3):
        theta = family.theta(batch=3, seed=seed)
        points = points_in_square(3, 20, transform.dim)
        there = transform.map_points(theta, points)
        back = transform.inverse_points(theta, there)
        torch.testing.assert_close(back, points, rtol=0, atol=1e-6)
        again = transform.map_points(theta, transform.inverse_points(theta, points))
        torch.testing.assert_close(again, points, rtol=0, atol=1e-6)
        low = transform.inverse_points(theta.float(), there.float())
        torch.testing.assert_close(low, points.float(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["tps-2d", "tps-3d"])
def test_a_folded_spline_gives_an_answer_or_nan_never_a_wrong_point(name):
    transform = TRANSFORMS[name].make()
    theta = torch.randn(4, transform.num_params, dtype=torch.float64)  # far beyond folding
    points = points_in_square(4, 60, transform.dim, reach=3)
    back = transform.inverse_points(theta, points)
    found = back.isfinite().all(-1)
    assert found.any()
    there = transform.map_points(theta, back)
    torch.testing.assert_close(there[found], points[found], rtol=0, atol=1e-6)


def test_points_that_nothing_maps_to_have_no_inverse():
    collapse = torch.tensor([[-1.0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]])
    back = stn.Affine().inverse_points(collapse, torch.rand(5, 2))
    assert back[0].isnan().all()
    assert back[1].isfinite().all()
    # Every node at the origin: the spline is constant.
    spline = stn.ThinPlateSpline((3, 3))
    theta = -spline.control_points.flatten()[None]
    assert spline.inverse_points(theta, torch.rand(1, 5, 2).double() + 0.1).isnan().all()
    horizon = torch.tensor([[0, 0, 0, 0, 0, 0, 1.5, 0]])  # w = 1 + 1.5 x
    assert stn.Projective().inverse_points(horizon, torch.tensor([[5.0, 0.0]])).isnan().all()


@families(is_matrix=True)
def test_matrix_maps_as_map_points_and_comes_back(name):
    family = TRANSFORMS[name]
    transform, dim = family.make(), family.make().dim
    for theta in (family.theta(), family.theta(seed=1) * 3, torch.zeros_like(family.theta())):
        matrix = transform.matrix(theta)
        points = points_in_square(1, 7, dim)[0]
        homogeneous = torch.cat([points, torch.ones_like(points[:, :1])], -1)
        mapped = torch.einsum("bij,nj->bni", matrix, homogeneous)
        mapped = mapped[..., :dim] / mapped[..., dim:] if mapped.shape[-1] > dim else mapped
        torch.testing.assert_close(transform.map_points(theta, points), mapped, **CLOSE)
        torch.testing.assert_close(transform.from_matrix(matrix), theta, **CLOSE)
        full = torch.eye(dim + 1, dtype=torch.float64).repeat(len(theta), 1, 1)
        full[:, : matrix.shape[1]] = matrix
        torch.testing.assert_close(transform.from_matrix(full), theta, **CLOSE)
        torch.testing.assert_close(transform.from_matrix(-2 * full), theta, **CLOSE)
        low = transform.from_matrix(matrix.float())
        torch.testing.assert_close(low, theta.float(), rtol=0, atol=1e-5)


def _square(matrix):
    last = torch.eye(matrix.shape[-1], dtype=matrix.dtype)[-1:].expand(len(matrix), -1, -1)
    return torch.cat([matrix, last], 1)


@families(is_matrix=True)
def test_from_matrix_refuses_what_is_not_in_the_family(name):
    transform = TRANSFORMS[name].make()
    dim = transform.dim
    member = transform.matrix(torch.zeros(2, transform.num_params, dtype=torch.float64))
    member = member[:, :dim]
    bent = torch.eye(dim + 1, dtype=torch.float64).repeat(2, 1, 1)
    bent[:, :dim] = member
    sheared, mirrored, grown = member.clone(), member.clone(), member.clone()
    bent[1, -1, 0] = 0.1
    sheared[1, 0, 1] = 0.1
    mirrored[1, 0, 0] *= -1
    grown[1] *= 1.1
    refused = {"translation": 4, "rigid": 4, "attention": 3, "similarity": 3, "affine": 1}
    count = 4 if name.startswith("attention-fixed") else refused.get(name.split("-")[0], 0)
    for matrix in (bent, sheared, mirrored, grown)[:count]:
        with pytest.raises(ValueError, match=r"matrix 1 of .*not in the family.*use Affine"):
            transform.from_matrix(matrix)
    for matrix in (bent, sheared, mirrored, grown)[count:]:
        transform.from_matrix(matrix if matrix.shape[1] == dim + 1 else _square(matrix))
    with pytest.raises(ValueError, match=r"from_matrix takes .*got \(3, 3\)"):
        transform.from_matrix(torch.eye(3))
    with pytest.raises(ValueError, match="not in the family"):
        transform.from_matrix(torch.full((1, dim + 1, dim + 1), torch.nan))


@pytest.mark.parametrize("name", ["rigid-3d", "similarity-3d", "rigid-aspect-3d"])
def test_rotations_by_any_angle_come_back(name):
    transform = TRANSFORMS[name].make()
    axes = torch.nn.functional.normalize(torch.randn(40, 3, dtype=torch.float64), dim=-1)
    axes = torch.cat([axes, torch.eye(3, dtype=torch.float64), -torch.eye(3, dtype=torch.float64)])
    for angle in (0, 1e-12, 1e-4, 0.0999, 0.1001, 1, 2.5, math.pi - 1e-4, math.pi - 1e-9):
        theta = torch.zeros(len(axes), transform.num_params, dtype=torch.float64)
        theta[:, -6:-3] = axes * angle
        torch.testing.assert_close(
            transform.from_matrix(transform.matrix(theta)), theta, rtol=0, atol=1e-7
        )
        if name == "rigid-3d":
            rotation = scipy.spatial.transform.Rotation.from_rotvec((axes * angle).numpy())
            expected = torch.from_numpy(rotation.as_matrix())
            torch.testing.assert_close(transform.matrix(theta)[..., :3], expected, **CLOSE)


def test_layouts_of_theta():
    points = torch.tensor([[0.5, -0.25]], dtype=torch.float64)
    theta = torch.tensor([[math.log(2), 0.1, 0.2]], dtype=torch.float64)
    attention = stn.Attention().map_points(theta, points).flatten().tolist()
    assert attention == pytest.approx([1.1, -0.3])
    theta = torch.tensor([[math.pi / 2, 0.1, 0.2]], dtype=torch.float64)  # x turns into y
    assert stn.Rigid().map_points(theta, points).flatten().tolist() == pytest.approx([0.35, 0.7])
    theta = torch.tensor([[math.log(2), math.pi / 2, 0.1, 0.2]], dtype=torch.float64)
    similar = stn.Similarity().map_points(theta, points).flatten().tolist()
    assert similar == pytest.approx([0.6, 1.2])
    theta = torch.tensor([[1, 2, 3, 4, 5, 6]], dtype=torch.float64)
    assert stn.Affine().matrix(theta)[0].tolist() == [[2, 2, 3], [4, 6, 6]]
    theta = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8]], dtype=torch.float64)
    assert stn.Projective().matrix(theta)[0].tolist() == [[2, 2, 3], [4, 6, 6], [7, 8, 1]]
    spline = stn.ThinPlateSpline((2, 3))
    expected = [[-1, -1], [0, -1], [1, -1], [-1, 1], [0, 1], [1, 1]]
    assert spline.control_points.tolist() == expected
    theta = torch.rand(1, 12, dtype=torch.float64)
    moved = spline.map_points(theta, spline.control_points) - spline.control_points
    torch.testing.assert_close(moved.flatten(1), theta, **CLOSE)


@pytest.mark.parametrize("dim", [2, 3])
def test_compose_sends_points_through_the_last_first(dim):
    a, b, c = stn.Affine(dim), stn.Projective(dim), stn.Rigid(dim)
    both = stn.Compose(a, stn.Compose(b, c))
    thetas = [0.1 * torch.randn(2, t.num_params, dtype=torch.float64) for t in (a, b, c)]
    points = points_in_square(2, 5, dim)
    expected = a.map_points(thetas[0], b.map_points(thetas[1], c.map_points(thetas[2], points)))
    torch.testing.assert_close(both.map_points(torch.cat(thetas, -1), points), expected, **CLOSE)


@pytest.mark.parametrize("make", [stn.Rigid, stn.Similarity])
def test_aspect_keeps_lengths_on_a_non_square_image(make):
    pixels = torch.tensor([[0.0, 0.0], [30.0, 0.0], [0.0, 30.0], [12.0, -40.0]])
    extents = torch.tensor([300.0, 100.0])
    transform = make(2, aspect=(300, 100))
    theta = torch.zeros(1, transform.num_params)
    theta[0, -3] = math.pi / 4
    moved = transform.map_points(theta, 2 * pixels / extents)[0] * extents / 2
    turn = torch.tensor([[1.0, -1.0], [1.0, 1.0]]) / math.sqrt(2)
    torch.testing.assert_close(moved, pixels @ turn.T, rtol=0, atol=1e-4)
    bent = make(2).map_points(theta, 2 * pixels / extents)[0] * extents / 2
    assert (bent - pixels @ turn.T).abs().max() > 5  # without aspect it shears


@pytest.mark.parametrize("smoothing", [0.0, 1e-3, 0.5])
@pytest.mark.parametrize("lattice", [(4, 4), (3, 5), (2, 3, 4), (3, 3, 3)])
def test_thin_plate_splines_are_those_of_scipy(lattice, smoothing):
    spline = stn.ThinPlateSpline(lattice, regularization=smoothing)
    theta = torch.randn(1, spline.num_params, dtype=torch.float64)
    nodes = spline.control_points.numpy()
    kernel = "thin_plate_spline" if spline.dim == 2 else "linear"  # linear: -r
    expected = scipy.interpolate.RBFInterpolator(
        nodes,
        nodes + theta.view(-1, spline.dim).numpy(),
        kernel=kernel,
        degree=1,
        smoothing=smoothing,
    )
    points = points_in_square(1, 200, spline.dim, reach=1.5)[0]
    moved = spline.map_points(theta, points)[0].numpy()
    np.testing.assert_allclose(moved, expected(points.numpy()), rtol=0, atol=1e-9)


@pytest.mark.parametrize("lattice", [(4, 4), (3, 3, 3)])
def test_more_regularization_bends_less(lattice):
    theta = torch.randn(1, stn.ThinPlateSpline(lattice).num_params, dtype=torch.float64)
    misses, nodes = [], stn.ThinPlateSpline(lattice).control_points
    for smoothing in (0.0, 0.01, 0.1, 1.0, 10.0, 1e6):
        spline = stn.ThinPlateSpline(lattice, regularization=smoothing)
        moved = (spline.map_points(theta, nodes) - nodes).flatten(1)
        misses.append(float((moved - theta).norm()))
    assert misses == sorted(misses)
    affine = stn.Affine(len(lattice))
    best = affine.fit(nodes, nodes + theta.view(-1, len(lattice)))
    expected = affine.map_points(best, nodes)
    torch.testing.assert_close(spline.map_points(theta, nodes), expected, rtol=0, atol=1e-4)


@families(has_fit=True)
def test_fit_recovers_theta(name):
    family = TRANSFORMS[name]
    transform = family.make()
    theta = family.theta(batch=3)
    points = points_in_square(3, 60, transform.dim)
    there = transform.map_points(theta, points)
    torch.testing.assert_close(transform.fit(points, there), theta, rtol=0, atol=1e-8)
    # Spoiled points that weigh nothing change nothing, one weight a point or one a pair.
    spoiled = there.clone()
    spoiled[:, :10] += 1
    weights = torch.ones(60)
    weights[:10] = 0
    for given in (weights, weights.expand(3, -1)):
        got = transform.fit(points, spoiled, weights=given)
        torch.testing.assert_close(got, theta, rtol=0, atol=1e-8)
    assert (transform.fit(points, spoiled) - theta).abs().max() > 1e-3
    assert transform.fit(points.float(), there.float()).dtype == torch.float32


@families(has_fit=True)
def test_weights_count_as_repeated_points(name):
    transform = TRANSFORMS[name].make()
    target = points_in_square(1, 40, transform.dim)
    source = target * 1.1 + 0.1 * torch.randn_like(target)
    weights = torch.randint(1, 4, (40,))
    repeated = [p.repeat_interleave(weights, 1) for p in (target, source)]
    expected = transform.fit(*repeated)
    torch.testing.assert_close(
        transform.fit(target, source, weights.double()), expected, rtol=0, atol=1e-8
    )


SKIMAGE = {
    "rigid": skimage.transform.EuclideanTransform,
    "similarity": skimage.transform.SimilarityTransform,
    "affine": skimage.transform.AffineTransform,
    "projective": skimage.transform.ProjectiveTransform,
}


def skimage_matrix(family, target, source):
    kind, pairs = SKIMAGE[family], (target[0].numpy(), source[0].numpy())
    if hasattr(kind, "from_estimate"):
        theirs = kind.from_estimate(*pairs)
    else:  # before 0.26
        theirs = kind(dimensionality=target.shape[-1])
        assert theirs.estimate(*pairs)
    return torch.from_numpy(np.asarray(theirs.params / theirs.params[-1, -1]))


@pytest.mark.parametrize("noise", [0.0, 0.02])
@pytest.mark.parametrize("family", SKIMAGE)
@pytest.mark.parametrize("dim", [2, 3])
def test_fit_is_that_of_scikit_image(family, dim, noise):
    row = TRANSFORMS[f"{family}-{dim}d"]
    transform = row.make()
    target = points_in_square(1, 30, dim)
    source = transform.map_points(row.theta(batch=1), target)
    source = source + noise * torch.randn_like(source)
    matrix = skimage_matrix(family, target, source)
    ours = transform.matrix(transform.fit(target, source))[0]
    if family == "affine" and noise:
        # skimage minimises an algebraic error here too; least squares is a step away.
        design = np.concatenate([target[0].numpy(), np.ones((30, 1))], 1)
        best = torch.from_numpy(np.linalg.lstsq(design, source[0].numpy(), rcond=None)[0].T)
        torch.testing.assert_close(best, matrix[:dim], rtol=0, atol=0.02)
        matrix = best
    torch.testing.assert_close(ours, matrix[: len(ours)], rtol=0, atol=1e-7)


@pytest.mark.parametrize("family", ["rigid", "similarity"])
@pytest.mark.parametrize("dim", [2, 3])
def test_the_best_rotation_onto_a_mirror_image_is_no_reflection(family, dim):
    transform = TRANSFORMS[f"{family}-{dim}d"].make()
    target = points_in_square(1, 30, dim)
    source = target * torch.tensor([-1.0, *[1.0] * (dim - 1)]) + 0.1 * torch.randn_like(target)
    matrix = transform.matrix(transform.fit(target, source))[0]
    assert torch.det(matrix[:, :dim]) > 0
    expected = skimage_matrix(family, target, source)[:dim]
    torch.testing.assert_close(matrix, expected, rtol=0, atol=1e-7)


@families(has_fit=True)
def test_fit_says_what_is_wrong(name):
    transform = TRANSFORMS[name].make()
    points = torch.rand(9, transform.dim)
    with pytest.raises(ValueError, match="must pair up, got 9 and 8"):
        transform.fit(points, points[:8])
    with pytest.raises(ValueError, match=r"target_points must have shape .*got \(9,\)"):
        transform.fit(points[:, 0], points)
    with pytest.raises(ValueError, match=r"weights must have shape .*got \(4,\)"):
        transform.fit(points, points, torch.ones(4))
    with pytest.raises(ValueError, match="negative, nor all zero"):
        transform.fit(points, points, torch.zeros(9))
    with pytest.raises(ValueError, match="points"):
        transform.fit(points * torch.nan, points)


@pytest.mark.parametrize("name", ["attention-2d", "similarity-3d", "projective-2d"])
def test_fit_refuses_points_that_determine_nothing(name):
    transform = TRANSFORMS[name].make()
    one_place = torch.ones(9, transform.dim)
    with pytest.raises(ValueError, match="points do not determine"):
        transform.fit(one_place, one_place)


def test_compose_has_no_fit():
    with pytest.raises(TypeError, match=r"Compose.*has no least-squares fit"):
        stn.Compose(stn.Affine(), stn.Rigid()).fit(torch.rand(9, 2), torch.rand(9, 2))
