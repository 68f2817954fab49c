"""The poses of digits whose corners or lattice nodes were moved: the nearest similarities."""

import math

import numpy as np
import pytest
import torch
from scipy.interpolate import RBFInterpolator

import stn
from stn.data import DISTORTIONS, DigitStream
from stn.data.distort import BOX_POINTS, MoveCorners, MoveLattice, nearest_pose

BOX = stn.coords.target_points(BOX_POINTS).numpy()


def _seeded():
    return torch.Generator().manual_seed(0)


def _blank(count):
    return torch.zeros(count, 1, 28, 28)


def _dot(count, x, y):
    """A soft dot at (x, y) px from the centre of the image."""
    place = torch.arange(28) - 13.5
    dot = torch.exp(-((place - x).square() + (place[:, None] - y).square()) / (2 * 1.2**2))
    return dot.expand(count, 1, 28, 28)


def _centroid(images):
    """(x, y) of the mass, normalised."""
    place = (torch.arange(28) - 13.5) / 14
    mass = images.sum((1, 2, 3))
    x = (images.sum((1, 2)) * place).sum(-1) / mass
    y = (images.sum((1, 3)) * place).sum(-1) / mass
    return torch.stack([x, y], -1)


def _check_nearest(pose, points, landed, atol):
    """Against the best place ~ turned point + centre in complex numbers, landed (N, B, 2)."""
    design = np.stack([points @ [1, 1j], np.ones(len(points))], -1)
    turned, centre = np.linalg.lstsq(design, landed @ [1, 1j], rcond=None)[0]
    np.testing.assert_allclose(pose.angle_rad, np.angle(turned), rtol=0, atol=atol)
    np.testing.assert_allclose(pose.scale, abs(turned), rtol=0, atol=atol)
    np.testing.assert_allclose(pose.centre.numpy() @ [1, 1j], centre, rtol=0, atol=atol)


@pytest.mark.parametrize("moved", [MoveCorners(2.5, (0.6, 0.7)), MoveLattice(1.5, (0.6, 0.7))])
def test_pose_of_p_and_e_is_nearest_to_where_dots_land(moved):
    """The same distortions of a dot at every point of the box, fitted by complex numbers."""
    drawn = [moved(_dot(50, *point), _seeded()) for point in (14 * BOX).tolist()]
    landed = torch.stack([_centroid(images) for images, _ in drawn]).double()
    assert float(drawn[0].pose.angle_rad.std()) > 0.03
    _check_nearest(drawn[0].pose, BOX, landed.numpy(), atol=0.02)


def test_corners_moved_by_a_similarity_have_its_pose():
    angle, scale, centre = math.radians(9), 0.8, complex(0.1, -0.2)
    square = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]).double()
    moved = torch.polar(torch.tensor(scale), torch.tensor(angle)) * torch.complex(*square.T)
    transform = stn.Projective()
    pose = nearest_pose(transform, transform.fit(torch.view_as_real(moved + centre), square))
    assert pose.angle_rad.item() == pytest.approx(angle, abs=1e-6)
    assert pose.scale.item() == pytest.approx(scale, abs=1e-6)
    assert pose.centre[0].tolist() == pytest.approx([centre.real, centre.imag], abs=1e-6)


def test_points_that_a_warp_does_not_show_do_not_spoil_the_pose():
    """p / (1 - 4 x / 3) shows what has x > -3/4: not the first column of the box, at -4/5."""
    theta = torch.zeros(1, 8)
    theta[0, 6] = -4 / 3
    shown = BOX[BOX[:, 0] > -0.75]
    assert len(shown) == 20
    landed = shown / (1 + 4 * shown[:, :1] / 3)
    _check_nearest(nearest_pose(stn.Projective(), theta), shown, landed[:, None], atol=1e-5)


def test_corners_turn_and_scale_the_digit():
    """To first order each by sigma / sqrt 8: at 5 px by 7 degrees. The scale has its own spread."""
    slightly = MoveCorners(sigma_px=0.5, scales=(1.0, 1.0))(_blank(4000), _seeded()).pose
    expected = 0.5 / 14 / math.sqrt(8)
    assert float(slightly.angle_rad.std()) == pytest.approx(expected, rel=0.05)
    assert float(slightly.scale.log().std()) == pytest.approx(expected, rel=0.05)
    pose = DISTORTIONS["p"](_blank(4000), _seeded()).pose
    assert float(pose.angle_rad.rad2deg().std()) == pytest.approx(7.3, abs=0.3)
    assert float(pose.scale.log().std()) == pytest.approx(0.18, abs=0.01)


def test_corners_move_by_their_sigma():
    """The centre by sigma / 2, as the mean of four, and by what perspective adds.

    To first order the map is t + L p + p (h . p). At the corners, x^2 = 1, the last is h + (h_y,
    h_x) x y: the corners' x y part gives h, which has the deviation sigma / 2, and their mean is
    t + h. Over the box the mean of the map is t + h times that of x^2.
    """
    _, pose = MoveCorners(sigma_px=0.5, scales=(1.0, 1.0))(_blank(4000), _seeded())
    expected = 0.5 / 2 * math.hypot(1, 1 - np.square(BOX[:, 0]).mean())
    assert float(pose.centre.std()) * 14 == pytest.approx(expected, rel=0.05)


def test_nodes_turn_scale_and_move_the_digit():
    """To first order by minus their moves on the box, weighted by SciPy's thin plate spline."""
    axis = np.linspace(-1, 1, 4)
    nodes = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    weights = RBFInterpolator(nodes, np.eye(16), kernel="thin_plate_spline")(BOX)
    pose = MoveLattice(sigma_px=0.1, scales=(1.0, 1.0))(_blank(4000), _seeded()).pose
    turn = 0.1 / 14 * np.linalg.norm(BOX.T @ weights) / np.square(BOX).sum()
    assert float(pose.angle_rad.std()) == pytest.approx(turn, rel=0.05)
    assert float(pose.scale.log().std()) == pytest.approx(turn, rel=0.05)
    shift = 0.1 / 14 * np.linalg.norm(weights.mean(0))
    assert float(pose.centre.std()) == pytest.approx(shift, rel=0.05)


def test_training_does_not_pay_for_poses(monkeypatch):
    monkeypatch.setattr("stn.data.distort.nearest_pose", None)
    digits = torch.zeros(8, 28, 28, dtype=torch.uint8)
    for name in ("p", "e"):
        DigitStream(digits, torch.arange(8), name, 4, seed=0).batch(0)
