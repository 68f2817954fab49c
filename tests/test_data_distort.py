"""The distortions of MNIST, their streams and frozen sets, on synthetic digits."""

import math

import numpy as np
import pytest
import torch
from scipy.interpolate import RBFInterpolator

import stn
from stn.data import (
    DISTORTIONS,
    DigitStream,
    Drawn,
    Mnist,
    MoveLattice,
    Split,
    frozen_set,
    split_mnist,
)
from stn.data.distort import Clutter, MoveCorners, Place, keeps_orientation
from stn.linalg import homography

NAMES = list(DISTORTIONS)
SIZES = {"r": 28, "rts": 42, "p": 28, "e": 28, "tc": 60}
DOT_PX = (6.0, -4.5)


def _seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def _digits(count, seed=0):
    return torch.randint(256, (count, 28, 28), generator=_seeded(seed), dtype=torch.uint8)


def _dot(count, x=DOT_PX[0], y=DOT_PX[1]):
    """A soft dot at (x, y) px from the centre of the image."""
    place = torch.arange(28) - 13.5
    dot = torch.exp(-((place - x).square() + (place[:, None] - y).square()) / (2 * 1.2**2))
    return dot.expand(count, 1, 28, 28)


def _centroid_px(images):
    """(x, y) of the mass, px from the canvas's centre."""
    place = torch.arange(images.shape[-1]) - (images.shape[-1] - 1) / 2
    mass = images.sum((1, 2, 3))
    x = (images.sum((1, 2)) * place).sum(-1) / mass
    y = (images.sum((1, 3)) * place).sum(-1) / mass
    return torch.stack([x, y], -1)


@pytest.mark.parametrize("name", NAMES)
def test_shape_range_and_pose(name):
    clean = _digits(40).unsqueeze(1) / 255
    for images in (clean, clean.double(), torch.ones(40, 1, 28, 28), clean[:0]):
        drawn, pose = DISTORTIONS[name](images, _seeded(), _digits(7))
        side = SIZES[name]
        assert DISTORTIONS[name].canvas == (side, side)
        assert drawn.shape == (len(images), 1, side, side)
        assert drawn.dtype == torch.float32
        assert bool(((drawn >= 0) & (drawn <= 1)).all())
        assert [tuple(p.shape) for p in pose] == [(len(images),), (len(images),), (len(images), 2)]
        assert all(bool(p.isfinite().all()) for p in pose)


@pytest.mark.parametrize("name", NAMES)
def test_the_generator_decides(name):
    images = _digits(9).unsqueeze(1) / 255
    generator = _seeded(4)
    first = DISTORTIONS[name](images, generator, _digits(7)).images
    second = DISTORTIONS[name](images, generator, _digits(7)).images
    assert torch.equal(DISTORTIONS[name](images, _seeded(4), _digits(7)).images, first)
    assert not torch.equal(second, first)


@pytest.mark.parametrize("name", ["r", "rts"])
def test_dot_lands_where_the_pose_says(name):
    drawn, (angle, scale, centre) = DISTORTIONS[name](_dot(300), _seeded())
    # By complex numbers: multiplying by exp(i a) turns x towards y.
    turned = torch.polar(scale, angle) * complex(*DOT_PX)
    expected = torch.stack([turned.real, turned.imag], -1) + centre * SIZES[name] / 2
    assert float((_centroid_px(drawn) - expected).norm(dim=-1).max()) < 0.25
    assert float(angle.std()) > 0.4


@pytest.mark.parametrize("name", ["r", "rts"])
def test_pose_is_the_similarity_that_undoes_it(name):
    drawn, (angle, scale, centre) = DISTORTIONS[name](_dot(50), _seeded())
    log_scale = (scale * 28 / SIZES[name]).log().unsqueeze(-1)
    theta = torch.cat([log_scale, angle.unsqueeze(-1), centre], -1)
    upright = stn.warp(drawn, stn.Similarity(), theta, (28, 28))
    assert float((_centroid_px(upright) - torch.tensor(DOT_PX)).norm(dim=-1).max()) < 0.25


def test_rts_box_is_inside_and_size_scales():
    images = _dot(1500)
    drawn, (_, scale, centre) = DISTORTIONS["rts"](images, _seeded())
    reach = centre.abs() * 21 + 14 * scale.unsqueeze(-1)
    assert float(reach.max()) <= 21 + 1e-4
    assert float(reach.max()) > 20.8
    growth = drawn.sum((1, 2, 3)) / images.sum((1, 2, 3)) / scale.square()
    assert float((growth - 1).abs().max()) < 0.1
    assert float(growth.mean()) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("name", ["r", "rts", "tc"])
def test_parameter_ranges(name):
    _, (angle, scale, centre) = DISTORTIONS[name](_dot(4000), _seeded(), _digits(3))
    limit = {"r": 90, "rts": 45}.get(name, 0)
    low, high = {"rts": (0.7, 1.2)}.get(name, (1.0, 1.0))
    _check_uniform(angle.rad2deg(), -limit, limit)
    _check_uniform(scale, low, high)
    assert float(centre.mean(0).abs().max()) < 0.03
    assert (name == "r") == (float(centre.abs().max()) == 0)


@pytest.mark.parametrize("still", [MoveCorners(sigma_px=0.0), MoveLattice(sigma_px=0.0)])
def test_scales_of_p_and_e(still):
    _, (angle, scale, centre) = still(_dot(2000), _seeded())
    _check_uniform(scale, 0.75, 1.0)
    assert float(angle.abs().max()) < 1e-5
    assert float(centre.abs().max()) < 1e-5


def _check_uniform(values, low, high):
    """Kolmogorov and Smirnov's statistic, whose 99.9 % point is 1.95 / sqrt(n)."""
    if low == high:
        assert bool((values == low).all())
        return
    place = ((values - low) / (high - low)).sort().values
    assert float(place[0]) >= -1e-5
    assert float(place[-1]) <= 1 + 1e-5
    ideal = (torch.arange(len(values)) + 0.5) / len(values)
    assert float((place - ideal).abs().max()) < 1.95 / math.sqrt(len(values))


@pytest.mark.parametrize("still", [MoveCorners(sigma_px=0.0), MoveLattice(sigma_px=0.0)])
def test_without_motion_it_is_a_pure_scale(still):
    images = _digits(30).unsqueeze(1) / 255
    drawn, (_, scale, centre) = still(images, _seeded())
    theta = torch.stack([-scale.log(), *torch.zeros(2, 30)], -1)
    torch.testing.assert_close(drawn, stn.warp(images, stn.Attention(), theta), atol=1e-4, rtol=0)
    assert float(centre.abs().max()) < 1e-6
    growth = still(_dot(30, 0, 0), _seeded()).images.sum((1, 2, 3)) / _dot(1, 0, 0).sum()
    torch.testing.assert_close(growth, scale.square(), atol=0, rtol=0.1)


@pytest.mark.parametrize("lattice", [(2, 2), (4, 4)])
def test_lattice_moves_by_its_sigma(lattice):
    """The centre moves by the nodes' moves, weighted as SciPy's thin plate spline weights them."""
    axes = [np.linspace(-1, 1, n) for n in lattice]
    nodes = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    weights = RBFInterpolator(nodes, np.eye(len(nodes)), kernel="thin_plate_spline")([[0.0, 0.0]])
    drawn = MoveLattice(sigma_px=1.0, lattice=lattice)(_dot(2000, 0, 0), _seeded()).images
    expected = float(np.linalg.norm(weights))
    assert float(_centroid_px(drawn).std()) == pytest.approx(expected, rel=0.1)


def test_keeps_orientation_is_w_positive_and_det_positive():
    square = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]).double()
    moves = torch.randn(3000, 4, 2, generator=_seeded(), dtype=torch.float64)
    quad = torch.cat([square + 0.6 * moves, square.flip(0)[None], square[None]])
    transform = stn.Projective()
    # `fit` refuses what is not sound.
    matrix = homography(quad, square.expand_as(quad), torch.ones_like(quad[..., 0]))
    theta = transform.theta_of(matrix / matrix[..., -1:, -1:])
    w = (torch.cat([quad, torch.ones_like(quad[..., :1])], -1) @ transform.matrix(theta).mT)[..., 2]
    sound = (w > 0).all(-1) & (torch.det(transform.jacobian(theta, quad)) > 0).all(-1)
    good = keeps_orientation(quad)
    assert not bool((good & ~sound).any())
    assert float((good == sound).float().mean()) > 0.95
    assert 0.2 < float(good.float().mean()) < 0.9
    assert bool(good[-1])
    assert not bool(good[-2])


def test_folded_quads_fall_back():
    wild = MoveCorners(sigma_px=60.0)
    drawn, pose = wild(_digits(400).unsqueeze(1) / 255, _seeded())
    assert bool(drawn.isfinite().all())
    still = pose.centre.abs().amax(-1) < 1e-5
    assert 0.05 < float(still.float().mean()) < 0.95
    assert float(pose.centre.abs().max()) < 60


def test_clutter_keeps_the_digit_and_its_place():
    digits = _digits(300)
    drawn, pose = Clutter()(digits.unsqueeze(1) / 255, _seeded(), torch.zeros_like(digits[:2]))
    corners = ((pose.centre + 1) * 30 - 14).round().long()
    for image, digit, (column, row) in zip(drawn, digits, corners.tolist(), strict=True):
        expected = torch.zeros(60, 60)
        expected[row : row + 28, column : column + 28] = digit / 255
        assert torch.equal(image[0], expected)
    _, pose = Clutter()(_dot(5000), _seeded(), digits)
    corners = ((pose.centre + 1) * 30 - 14).round().long()
    for axis in (0, 1):
        assert bool((corners[:, axis].bincount(minlength=33) > 90).all())
        assert int(corners[:, axis].max()) == 32


def test_clutter_adds_six_crops_of_six_pixels():
    grey = torch.full((2, 28, 28), 36, dtype=torch.uint8)
    blank = torch.zeros(4000, 1, 28, 28)
    drawn = Clutter()(blank, _seeded(), grey).images
    torch.testing.assert_close(
        drawn.sum((1, 2, 3)), torch.full((4000,), 6 * 36 * 36 / 255), rtol=1e-5, atol=0
    )
    covered = drawn.sum((0, 1))
    assert all(float(covered[r, c]) > 0 for r in (0, -1) for c in (0, -1))
    full = Clutter()(torch.ones(50, 1, 28, 28), _seeded(), torch.full_like(grey, 255)).images
    assert float(full.max()) == 1


def test_crops_are_windows_of_the_pool():
    """Crops of a ramp are ramps, and all of its places occur."""
    row, column = torch.arange(28)[:, None], torch.arange(28)
    ramp = (5 * row + 3 * column + 1).to(torch.uint8)[None]
    drawn = Clutter(crops=1)(torch.zeros(3000, 1, 28, 28), _seeded(), ramp).images * 255
    first = []
    for image in drawn[:, 0]:
        rows, columns = image.nonzero().unbind(-1)
        crop = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert crop.shape == (6, 6)
        torch.testing.assert_close(crop.diff(dim=0), torch.full((5, 6), 5.0), atol=1e-3, rtol=0)
        torch.testing.assert_close(crop.diff(dim=1), torch.full((6, 5), 3.0), atol=1e-3, rtol=0)
        first.append(round(float(crop[0, 0])))
    assert set(first) == {5 * r + 3 * c + 1 for r in range(23) for c in range(23)}


def test_place_on_a_canvas_that_is_not_square():
    drawn, (angle, scale, centre) = Place((40, 60), 30.0, (0.8, 1.0))(_dot(100), _seeded())
    turned = torch.polar(scale, angle) * complex(*DOT_PX)
    x = turned.real + centre[:, 0] * 30
    place = torch.arange(60) - 29.5
    found = (drawn.sum((1, 2)) * place).sum(-1) / drawn.sum((1, 2, 3))
    assert float((found - x).abs().max()) < 0.25


@pytest.mark.parametrize("name", NAMES)
def test_stream_is_a_function_of_seed_and_step(name):
    images, labels = _digits(50), torch.arange(50)
    stream = DigitStream(images, labels, name, 16, seed=3)
    batches = [stream.batch(step) for step in range(7)]
    assert stream.steps_per_epoch == 3
    for step in (6, 2, 5):
        resumed = DigitStream(images, labels, name, 16, seed=3).batch(step)
        again = stream.batch(step)
        for value, first, second in zip(batches[step], resumed, again, strict=True):
            assert torch.equal(value, first)
            assert torch.equal(value, second)
    for epoch in (0, 1):
        seen = torch.cat([labels for _, labels in batches[3 * epoch : 3 * epoch + 3]])
        assert len(seen.unique()) == 48
    assert batches[0][0].dtype == torch.float32
    assert batches[0][1].dtype == torch.int64


@pytest.mark.parametrize("name", NAMES)
def test_streams_differ(name):
    """By seed and by step: the same digit is never drawn twice alike."""
    images, labels = _digits(1).expand(8, -1, -1), torch.zeros(8, dtype=torch.long)
    drawn = [
        image.flatten()
        for seed in (0, 1, 2)
        for step in (0, 1, 2)
        for image in DigitStream(images, labels, name, 8, seed).batch(step)[0]
    ]
    assert len(torch.stack(drawn).unique(dim=0)) == len(drawn)
    orders = [tuple(DigitStream(_digits(9), torch.arange(9), name, 9, s).batch(0)[1].tolist())
              for s in range(5)]  # fmt: skip
    assert len(set(orders)) == 5


def test_stream_labels_stay_with_their_images():
    images = torch.arange(40, dtype=torch.uint8)[:, None, None].expand(40, 28, 28)
    drawn, labels = DigitStream(images, torch.arange(40), "r", 40, seed=0).batch(3)
    assert torch.equal((drawn[:, 0, 14, 14] * 255).round().long(), labels)


@pytest.mark.parametrize("name", ["rts", "addition"])
def test_stream_bends_digits_before_the_task_does(name):
    class Flip:
        digits, canvas = 1, (28, 28)

        def __call__(self, images, generator, clutter_pool=None):
            return Drawn(images.flip(-1), lambda: pytest.fail("training asks for no pose"))

    images, labels = _digits(20), torch.arange(20)
    bent, sums = DigitStream(images, labels, name, 6, seed=1, bend=Flip()).batch(4)
    flipped = DigitStream(images.flip(-1), labels, name, 6, seed=1).batch(4)
    assert torch.equal(bent, flipped[0])
    assert torch.equal(sums, flipped[1])

    spline = MoveLattice(0.8, (0.9, 1.1))
    first, again = (DigitStream(images, labels, name, 6, 1, bend=spline).batch(4) for _ in "ab")
    assert torch.equal(first[0], again[0])
    with pytest.raises(
        ValueError, match=r"bend must keep single digits .* got a task of 1 on 42 x"
    ):
        DigitStream(images, labels, name, 6, 1, bend=DISTORTIONS["rts"])


@pytest.mark.parametrize("name", NAMES)
def test_frozen_set(name):
    images, labels, pool = _digits(1300), torch.arange(1300), _digits(5)
    whole = frozen_set(images, labels, name, seed=1, clutter_pool=pool)
    again = frozen_set(images, labels, name, seed=1, clutter_pool=pool)
    start = frozen_set(images[:1000], labels[:1000], name, seed=1, clutter_pool=pool)
    assert torch.equal(whole.images, again.images)
    assert torch.equal(whole.labels, labels)
    assert torch.equal(whole.images[:1000], start.images)
    for value, first in zip(whole.pose, start.pose, strict=True):
        assert len(value) == 1300
        assert torch.equal(value[:1000], first)
    for seed, repeat in ((1, 1), (2, 0), (0, 1), (11, 0)):
        other = frozen_set(images[:20], labels[:20], name, seed, repeat, pool)
        assert not torch.equal(other.images, whole.images[:20])


def test_split():
    digits = torch.arange(5003).remainder(256).to(torch.uint8)[:, None, None].expand(-1, 28, 28)
    whole = Mnist(digits, torch.arange(5003), _digits(4), torch.arange(4))
    train, held_out, test = split_mnist(whole)
    assert train.labels.tolist() == [0, 1, 2]
    assert held_out.labels.tolist() == list(range(3, 5003))
    assert len(train.images) == 3
    assert torch.equal(held_out.images, digits[3:])
    assert torch.equal(test.images, whole.test_images)
    assert isinstance(test, Split)


def test_errors():
    images, labels = _digits(8), torch.arange(8)
    with pytest.raises(ValueError, match=r"'r', 'rts', 'p', 'e', 'tc', .* got 'rst'"):
        DigitStream(images, labels, "rst", 4, 0)
    with pytest.raises(ValueError, match=r"task must be .* got 'x'"):
        frozen_set(images, labels, "x", 0)
    with pytest.raises(ValueError, match="clutter_pool, got None"):
        frozen_set(images, labels, "tc", 0)
    with pytest.raises(ValueError, match=r"batch_size must be from 1 to .* 8, got 9"):
        DigitStream(images, labels, "r", 9, 0)
    with pytest.raises(ValueError, match=r"labels must have shape \(8,\), got \(7,\)"):
        DigitStream(images, labels[:7], "r", 4, 0)
    with pytest.raises(ValueError, match=r"uint8 of shape \(N, 28, 28\), got torch.float32"):
        DigitStream(images / 255, labels, "r", 4, 0)
    with pytest.raises(ValueError, match="step must not be negative"):
        DigitStream(images, labels, "r", 4, 0).batch(-1)
    with pytest.raises(ValueError, match=r"\(B, 1, 28, 28\), got \(8, 28, 28\)"):
        DISTORTIONS["r"](images / 255, _seeded())
    with pytest.raises(TypeError, match="divide by 255"):
        DISTORTIONS["r"](images.unsqueeze(1), _seeded())
    with pytest.raises(ValueError, match="clutter_pool must be uint8"):
        DISTORTIONS["tc"](images.unsqueeze(1) / 255, _seeded(), images / 255)
