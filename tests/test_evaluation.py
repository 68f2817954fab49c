"""What is measured of a trained network: poses."""

import math

import numpy as np
import pytest
import torch

import stn
from stn import data
from stn.evaluation import pose_spread


def drawn(task: str, count: int = 12):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 1, 28, 28, generator=generator)
    return data.TASKS[task](images, generator).pose, data.TASKS[task].canvas


def rows(pose) -> torch.Tensor:
    angle = pose.angle_rad.view(len(pose.scale), -1)
    return torch.cat([angle, pose.scale[:, None], pose.centre], -1)


@pytest.mark.parametrize("task", ["rts", "volumes"])
def test_the_true_pose_undoes_itself(task):
    pose, canvas = drawn(task)
    theta = torch.cat(
        [pose.scale.log()[:, None], rows(pose)[:, : -len(canvas) - 1], pose.centre], -1
    )
    spread = pose_spread(rows(pose), canvas, stn.Similarity(len(canvas)), theta)
    assert max(spread) < 1e-3


def test_spread_of_the_images_themselves():
    pose, canvas = drawn("rts", 400)
    angle, scale, centre = pose_spread(rows(pose), canvas)
    assert angle == pytest.approx(pose.angle_rad.rad2deg().std().item(), rel=0.01)
    assert scale == pytest.approx(pose.scale.log().std().item(), rel=1e-3)
    assert centre == pytest.approx(21 * pose.centre.var(0).mean().sqrt().item(), rel=1e-3)


def test_rotations_of_volumes_are_compared_to_their_mean():
    turn = math.radians(20)
    angles = torch.tensor([[turn, 0, 0], [-turn, 0, 0], [0, turn, 0], [0, -turn, 0]])
    pose = torch.cat([angles, torch.ones(4, 1), torch.zeros(4, 3)], -1)
    assert pose_spread(pose, (60, 60, 60)).angle_deg == pytest.approx(20, rel=1e-4)


def upright(count: int) -> torch.Tensor:
    return torch.tensor([[0.0, 1.0, 0.0, 0.0]]).repeat(count, 1)


def test_affine_maps_in_closed_form():
    """Of own = A p + b, in complex numbers: turned = (tr A + i (A_xy - A_yx)) / |A|^2, -turned b.

    Many of these digits are out of view, in part or wholly.
    """
    generator = torch.Generator().manual_seed(0)
    theta = 0.4 * torch.randn(500, 6, generator=generator).double()
    pose = upright(500).double()
    pose[:, 2:] = 2 * torch.randn(500, 2, generator=generator)
    matrix = stn.Affine().matrix(theta).numpy()
    linear, shift = matrix[..., :2], matrix[..., 2] - pose[:, 2:].numpy()
    turned = np.trace(linear, axis1=1, axis2=2) + 1j * (linear[:, 0, 1] - linear[:, 1, 0])
    turned = turned / np.square(linear).sum((1, 2))
    centre = -turned * (shift @ [1, 1j])
    unit = turned / abs(turned)
    spread = pose_spread(pose, (42, 42), stn.Affine(), theta)
    residual = np.rad2deg(np.angle(unit / unit.mean()))
    assert spread.angle_deg == pytest.approx(math.sqrt(np.square(residual).mean()))
    assert spread.scale == pytest.approx(np.log(abs(turned)).std(ddof=1))
    assert spread.centre_px == pytest.approx(21 * centre.std(ddof=1) / math.sqrt(2))


@pytest.mark.parametrize("transform", [stn.Projective(), stn.ThinPlateSpline((3, 3))])
def test_families_with_affine_maps_measure_as_affine(transform):
    theta = 0.2 * torch.randn(200, 6, generator=torch.Generator().manual_seed(1)).double()
    points = stn.coords.lattice_points((3, 3))
    same = transform.fit(points, stn.Affine().map_points(theta, points))
    pose = rows(drawn("rts", 200)[0])
    expected = pose_spread(pose, (42, 42), stn.Affine(), theta)
    assert pose_spread(pose, (42, 42), transform, same) == pytest.approx(expected)
    twice = torch.cat([torch.zeros_like(same), same], -1)
    composed = stn.Compose(transform, transform)
    assert pose_spread(pose, (42, 42), composed, twice) == pytest.approx(expected)


def test_a_horizon_at_the_edge_does_not_carry_the_weight():
    """p / (1 - h x) with h up to 1: a twentieth of the images, and all the rest are one."""
    theta = torch.zeros(1000, 8)
    for horizon in (0.5, 0.99, 0.9999, 1.0, 1.5):
        theta[:50, 6] = -horizon
        angle, scale, centre = pose_spread(upright(1000), (28, 28), stn.Projective(), theta)
        assert angle < 1e-6
        assert scale < 0.1
        assert 0.1 < centre < 0.4


def test_only_what_shows_the_digit_counts():
    """A field that pulls in what lies around the 28 x 28 box of a 60 x 60 image, here and there."""
    field = stn.Displacement((12, 12))
    pulled = torch.rand(100, 144, 1, generator=torch.Generator().manual_seed(2))
    theta = 3 * pulled * field.control_points
    theta[:, (field.control_points.abs() < 0.6).all(-1)] = 0
    assert max(pose_spread(upright(100), (60, 60), field, theta.flatten(1))) < 1e-3


@pytest.mark.parametrize("log_scale", [-12.0, -3.0, 3.0, 5.0, 60.0])
def test_windows_of_any_size(log_scale):
    theta = torch.tensor([[log_scale, 0.0, 0.0], [log_scale + 0.5, 0.3, -0.2]])
    spread = pose_spread(upright(2), (28, 28), stn.Attention(), theta)
    assert spread.scale == pytest.approx(0.5 / math.sqrt(2), rel=1e-6)
    assert spread.angle_deg < 1e-6


def test_images_that_show_nothing_are_left_out():
    """The second map moves all to x > 1, which the first has behind its horizon."""
    transform = stn.Compose(stn.Projective(), stn.Projective())
    theta = torch.zeros(6, 16)
    theta[:3, 10] = torch.tensor([0.1, 0.2, 0.3])
    theta[3:, 6], theta[3:, 10] = -1, 3
    expected = pose_spread(upright(3), (28, 28), transform, theta[:3])
    assert expected.centre_px == pytest.approx(14 * 0.1 / math.sqrt(2), rel=1e-4)
    assert pose_spread(upright(6), (28, 28), transform, theta) == pytest.approx(expected)
    with pytest.raises(ValueError, match="show no digit"):
        pose_spread(upright(3), (28, 28), transform, theta[3:])


def test_places_are_in_px_of_the_size_that_is_given():
    theta = torch.tensor([[0.5, 0.0], [-0.5, 0.0]])
    for side in (28, 60):
        centre = pose_spread(upright(2), (side, side), stn.Translation(), theta).centre_px
        assert centre == pytest.approx(0.5 * side / 2)
