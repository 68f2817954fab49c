"""What is measured of a trained network: poses."""

import math

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
