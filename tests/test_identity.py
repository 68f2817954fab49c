"""theta = 0 gives the image back: every family, size, dtype, padding and interpolating kernel."""

import copy

import pytest
import torch

import stn

from .tables import BACKENDS, INTERPOLATING, PADDINGS, TRANSFORMS, families, images

SIZES = {
    2: [(20, 20), (7, 11), (1, 13), (6, 1), (1, 1), (2, 97), (301, 150)],
    3: [(5, 7, 6), (1, 5, 1), (4, 1, 9), (1, 1, 1), (8, 8, 8), (23, 20, 17)],
}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def assert_same(out, image):
    torch.testing.assert_close(out, image, rtol=0, atol=TOLERANCE.get(image.dtype, 0))


def warp_at_zero(name, image, theta_dtype=None, **options):
    transform = TRANSFORMS[name].make()
    dtype = theta_dtype or torch.promote_types(image.dtype, torch.float32)
    theta = torch.zeros(len(image), transform.num_params, dtype=dtype)
    return stn.warp(image, transform, theta, **options)


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCE)
@families(identity_at_zero=True)
def test_every_size(name, dtype, align, backend):
    for size in SIZES[TRANSFORMS[name].make().dim]:
        image = images(2, 1, *size, dtype=dtype)
        assert_same(warp_at_zero(name, image, align_corners=align, backend=backend), image)


@pytest.mark.parametrize("align", [False, True])
@families(identity_at_zero=True)
def test_every_mode_and_padding(name, align):
    image = images(1, 2, *(6, 7, 5)[: TRANSFORMS[name].make().dim], dtype=torch.float32)
    for mode in INTERPOLATING:
        for padding in PADDINGS:
            options = {"mode": mode, "padding_mode": padding, "align_corners": align}
            assert_same(warp_at_zero(name, image, **options), image)


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("theta_dtype", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@families(identity_at_zero=True)
def test_half_images_come_back_bit_for_bit(name, dtype, theta_dtype, align):
    size = (67, 131) if TRANSFORMS[name].make().dim == 2 else (9, 11, 17)
    image = images(2, 1, *size, dtype=dtype)
    for mode in INTERPOLATING:
        out = warp_at_zero(name, image, theta_dtype, mode=mode, align_corners=align)
        assert_same(out, image)


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@families(identity_at_zero=True)
def test_under_autocast(name, dtype, align):
    size = (300, 40) if TRANSFORMS[name].make().dim == 2 else (9, 40, 17)
    image = images(1, 1, *size, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for theta_dtype in (torch.float32, torch.bfloat16):
            assert_same(warp_at_zero(name, image, theta_dtype, align_corners=align), image)


@families()
def test_autocast_changes_no_coordinate(name):
    """By position or by keyword: half precision would move pixels."""
    family = TRANSFORMS[name]
    transform, theta = family.make(), family.theta(dtype=torch.float32)
    points = torch.rand(5, transform.dim) * 2 - 1
    size = (4,) * transform.dim
    image = torch.rand(2, 1, *size)
    calls = [
        lambda: transform.map_points(theta, points),
        lambda: transform.map_points(theta=theta, points=points),
        lambda: transform.jacobian(theta=theta, points=points),
        lambda: transform.inverse_points(theta=theta, points=points / 4),
        lambda: transform.grid(theta=theta, size=size),
        lambda: stn.warp(input=image, transform=transform, theta=theta),
        lambda: stn.grid_sample(input=image, grid=transform.grid(theta, size)),
    ]
    for call in calls:
        expected = call()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(call(), expected, rtol=0, atol=0)


@families(identity_at_zero=True)
def test_points_and_jacobian(name):
    transform = TRANSFORMS[name].make()
    points = torch.rand(9, transform.dim, dtype=torch.float64) * 4 - 2
    theta = torch.zeros(2, transform.num_params, dtype=torch.float64)
    expected = points.expand(2, -1, -1)
    torch.testing.assert_close(transform.map_points(theta, points), expected, rtol=0, atol=0)
    torch.testing.assert_close(transform.inverse_points(theta, points), expected)
    eye = torch.eye(transform.dim, dtype=torch.float64).expand(2, 9, -1, -1)
    torch.testing.assert_close(transform.jacobian(theta, points), eye)


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("dim", [2, 3])
def test_a_fixed_scale_starts_at_the_centred_window(dim, align):
    image = images(1, 1, *(9, 8, 7)[:dim])
    transform, affine = stn.Attention(dim, scale=0.6), stn.Affine(dim)
    window = torch.eye(dim, dim + 1, dtype=torch.float64)[None] * 0.6
    out = stn.warp(image, transform, torch.zeros(1, dim).double(), align_corners=align)
    expected = stn.warp(image, affine, affine.from_matrix(window), align_corners=align)
    torch.testing.assert_close(out, expected)
    assert (out - image).abs().max() > 0.01


@pytest.mark.parametrize("convert", ["half", "bfloat16", "double", "float"])
@families()
def test_converting_a_model_leaves_the_constants_alone(name, convert):
    family = TRANSFORMS[name]
    transform, theta = family.make(), family.theta()
    points = torch.rand(5, transform.dim, dtype=torch.float64)
    expected = transform.map_points(theta, points)
    converted = getattr(copy.deepcopy(transform), convert)()
    torch.testing.assert_close(converted.map_points(theta, points), expected, rtol=0, atol=0)
    assert bool(converted.state_dict()) == family.learns
    assert bool(list(converted.parameters())) == family.learns


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("name", ["affine-2d", "rigid-2d", "tps-2d"])
def test_300_pixels_in_every_backend(name, align):
    image = images(1, 1, 300, 300, dtype=torch.float32)
    for backend in BACKENDS:
        assert_same(warp_at_zero(name, image, align_corners=align, backend=backend), image)


@pytest.mark.parametrize(("name", "align"), [("affine-2d", False), ("projective-2d", True)])
def test_4096_pixels(name, align):
    image = images(1, 1, 4096, 4096, dtype=torch.float32)
    assert_same(warp_at_zero(name, image, align_corners=align), image)
