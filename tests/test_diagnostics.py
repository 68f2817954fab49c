"""Diagnostics of every family, of windows, and of maps that are not fit to be seen."""

import math

import pytest
import torch

import stn
from stn import coords
from stn.nn import diagnose

from .tables import TRANSFORMS, families


@families()
def test_windows_are_rows(name):
    transform = TRANSFORMS[name].make()
    theta = TRANSFORMS[name].theta(6)
    size = (4, 5, 3)[: transform.dim]
    rows = diagnose(transform, theta, size)
    windows = diagnose(transform, theta.view(2, 3, -1), size)
    for row, window in zip(rows, windows, strict=True):
        assert window.shape == (2, 3)
        assert torch.equal(row, window.flatten())
    points = coords.target_points(size, dtype=torch.float64)
    det = torch.linalg.det(transform.jacobian(theta, points))
    torch.testing.assert_close(rows.min_det, det.amin(-1))
    assert bool((rows.scale > 0).all())


def test_what_lies_behind_a_horizon_has_no_scale():
    """w = 1 + 2 x: the left quarter of the samples lies behind."""
    theta = torch.tensor([[0.0, 0, 0, 0, 0, 0, 2, 0]])
    found = diagnose(stn.Projective(), theta, (3, 8))
    assert found.folded.item() == 0.25
    assert found.min_det.item() == 0
    # det J = w^-3 at the six columns in front.
    w = 1 + 2 * (torch.arange(2, 8) * 0.25 - 0.875)
    assert found.scale.item() == pytest.approx((w.log().mean() * -1.5).exp().item(), rel=1e-5)


def test_a_lost_theta_is_outside_and_folded():
    found = diagnose(stn.Affine(), torch.full((1, 6), math.nan), 4)
    assert found.outside.item() == found.folded.item() == 1
    assert found.scale.isnan().item()
