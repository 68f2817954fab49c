"""warp, warp_matrix, warp_flow: against torch, broadcasting, shapes, layouts, types and errors."""

import itertools

import pytest
import torch
import torch.nn.functional as F

import stn

from .tables import BACKENDS, FILL, SHAPES, TRANSFORMS, families, images

CLOSE = {"rtol": 0, "atol": 1e-10}
IMAGES = [s for s in SHAPES if len(s) > 3]


def affine_theta(batch, dim, spread=0.3):
    return spread * (torch.rand(batch, dim * (dim + 1), dtype=torch.float64) * 2 - 1)


def generic_matrix(batch, dim, rows):
    offset = 0.25 * (torch.rand(batch, rows, dim + 1, dtype=torch.float64) * 2 - 1)
    offset[:, dim:, dim:] = 0
    return torch.eye(rows, dim + 1, dtype=torch.float64) + offset


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("size", [None, (5, 9), (13, 4), (1, 1)])
@pytest.mark.parametrize("shape", [(2, 3, 7, 11), (2, 2, 5, 4, 6)], ids=str)
def test_warp_matrix_is_affine_grid_and_grid_sample(shape, size, padding, mode, align):
    dim = len(shape) - 2
    if dim == 3:
        size = size and (*size, 3)
        mode = "bilinear" if mode == "bicubic" else mode  # torch has no tricubic
    image, matrix = images(*shape), generic_matrix(2, dim, dim)
    target = size or shape[2:]
    grid = F.affine_grid(matrix, [2, 1, *target], align_corners=align)
    expected = F.grid_sample(image, grid, mode, padding, align)
    options = {"mode": mode, "padding_mode": padding, "align_corners": align}
    for backend in BACKENDS if (dim, mode) != (3, "bicubic") else ("reference",):
        out = stn.warp_matrix(image, matrix, size, **options, backend=backend)
        torch.testing.assert_close(out, expected, **CLOSE)
    affine = stn.Affine(dim)
    out = stn.warp(image, affine, affine.from_matrix(matrix), size, **options)
    torch.testing.assert_close(out, expected, **CLOSE)
    torch.testing.assert_close(affine.grid(affine.from_matrix(matrix), target, align), grid)


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("dim", [2, 3])
def test_warp_matrix_divides_by_w(dim, align):
    image, matrix = images(2, 2, *(6, 5, 7)[:dim]), generic_matrix(2, dim, dim + 1)
    size = (4, 5, 3)[:dim]
    plain = torch.eye(dim, dim + 1, dtype=torch.float64).expand(2, -1, -1)
    grid = F.affine_grid(plain, [2, 1, *size], align_corners=align).flatten(1, -2)
    hom = torch.cat([grid, torch.ones_like(grid[..., :1])], -1) @ matrix.mT
    grid = (hom[..., :-1] / hom[..., -1:]).view(2, *size, dim)
    assert (hom[..., -1] > 0.1).all()
    expected = F.grid_sample(image, grid, align_corners=align)
    out = stn.warp_matrix(image, matrix, size, align_corners=align)
    torch.testing.assert_close(out, expected, **CLOSE)
    projective = stn.Projective(dim)
    theta = projective.from_matrix(matrix)
    out = stn.warp(image, projective, theta, size, align_corners=align)
    torch.testing.assert_close(out, expected, **CLOSE)


@families()
def test_warp_is_grid_then_grid_sample(name):
    family = TRANSFORMS[name]
    transform, theta = family.make(), family.theta()
    image = images(2, 2, *(6, 5, 7)[: transform.dim])
    for size, align in itertools.product([(4, 7, 3), (9, 11, 8)], [False, True]):
        size = size[: transform.dim]
        grid = transform.grid(theta, size, align)
        expected = F.grid_sample(image, grid, align_corners=align)
        out = stn.warp(image, transform, theta, size, align_corners=align)
        torch.testing.assert_close(out, expected, **CLOSE)


@pytest.mark.parametrize("size", [(4, 6), (8, 5), (3, 4, 5)])
@pytest.mark.parametrize("align", [False, True])
def test_warp_flow_in_pixels_and_normalized(size, align):
    dim = len(size)
    image = images(2, 2, *size)
    flow = 4 * torch.rand(2, *size, dim, dtype=torch.float64) - 2
    per_unit = (torch.tensor(size[::-1]).double() - int(align)) / 2
    identity = stn.Translation(dim).grid(torch.zeros(2, dim).double(), size, align)
    expected = F.grid_sample(image, identity + flow / per_unit, align_corners=align)
    for backend in (None, *BACKENDS):
        options = {"align_corners": align, "backend": backend}
        torch.testing.assert_close(stn.warp_flow(image, flow, **options), expected, **CLOSE)
        out = stn.warp_flow(image, flow / per_unit, unit="normalized", **options)
        torch.testing.assert_close(out, expected, **CLOSE)
    torch.testing.assert_close(stn.warp_flow(image, torch.zeros_like(flow)), image, **CLOSE)
    resized = stn.warp_flow(image, torch.zeros(2, *[2] * dim, dim).double(), align_corners=align)
    theta = torch.zeros(2, dim).double()
    resize = stn.warp(image, stn.Translation(dim), theta, [2] * dim, align_corners=align)
    torch.testing.assert_close(resized, resize, **CLOSE)


def test_integer_flow_moves_whole_pixels():
    image = images(1, 1, 5, 6, dtype=torch.float32)
    flow = torch.tensor([2.0, -1.0]).expand(1, 5, 6, 2)
    out = stn.warp_flow(image, flow)
    torch.testing.assert_close(out[0, 0, 1:, :-2], image[0, 0, :-1, 2:], rtol=0, atol=0)
    assert out[0, 0, 0].abs().max() < 1e-12


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("shape", IMAGES, ids=str)
def test_every_shape(shape, backend):
    dim = len(shape) - 2
    image, theta = images(*shape), affine_theta(shape[0], dim)
    for size in (None, (3, 5, 2)[:dim], (11, 13, 6)[:dim], (1, 1, 1)[:dim]):
        out = stn.warp(image, stn.Affine(dim), theta, size, backend=backend)
        assert out.shape == (*shape[:2], *(size or shape[2:]))
        assert out.dtype == image.dtype
        for i in range(shape[0] if shape[1] else 0):
            grid = stn.Affine(dim).grid(theta[i : i + 1], size or shape[2:])
            expected = F.grid_sample(image[i : i + 1], grid, align_corners=False)
            torch.testing.assert_close(out[i : i + 1], expected, **CLOSE)


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("shape", [(0, 3, 5, 7), (2, 0, 5, 7), (0, 1, 3, 3, 3)], ids=str)
def test_empty_inputs_have_gradients(shape, backend):
    dim = len(shape) - 2
    image = images(*shape).requires_grad_()
    theta = affine_theta(shape[0], dim).requires_grad_()
    out = stn.warp(image, stn.Affine(dim), theta, backend=backend)
    to_image, to_theta = torch.autograd.grad(out.sum(), (image, theta))
    torch.testing.assert_close(to_image, torch.zeros_like(image))
    torch.testing.assert_close(to_theta, torch.zeros_like(theta))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dim", [2, 3])
def test_strided_and_expanded_inputs(dim, backend):
    size = (6, 4, 8)[:dim]
    image, theta = images(2, 3, *size), affine_theta(2, dim)

    def run(image, theta):
        return stn.warp(image, stn.Affine(dim), theta, backend=backend)

    expected = run(image, theta)
    strided = images(2, 6, *size, 2)[:, ::2, ..., 0]
    strided.copy_(image)
    assert not strided.is_contiguous()
    wide = torch.zeros(theta.shape[1], 2).double().T
    wide.copy_(theta)
    torch.testing.assert_close(run(strided, wide), expected, **CLOSE)
    flipped = image.transpose(2, 3).contiguous().transpose(2, 3)
    torch.testing.assert_close(run(flipped, theta), expected, **CLOSE)
    one = image[:1, :1].expand(2, 3, *size)
    torch.testing.assert_close(run(one, theta), run(one.contiguous(), theta), **CLOSE)
    same = theta[:1].expand(2, -1)
    torch.testing.assert_close(run(image, same), run(image, same.contiguous()), **CLOSE)
    torch.testing.assert_close(run(image, theta[:1]), run(image, same), **CLOSE)


@pytest.mark.parametrize("backend", [None, *BACKENDS])
@pytest.mark.parametrize("dim", [2, 3])
def test_channels_last_stays_channels_last(dim, backend):
    layout = torch.channels_last if dim == 2 else torch.channels_last_3d
    image, theta = images(2, 3, *(6, 4, 8)[:dim]), affine_theta(2, dim)
    last = image.to(memory_format=layout)
    transform = stn.Affine(dim)
    size = (5, 7, 3)[:dim]
    calls = [
        lambda x: stn.warp(x, transform, theta, size, backend=backend),
        lambda x: stn.warp_matrix(x, transform.matrix(theta), size, backend=backend),
        lambda x: stn.grid_sample(x, transform.grid(theta, size), backend=backend),
        lambda x: stn.warp(x[:1], transform, theta, size, backend=backend),
    ]
    for call in calls:
        out = call(last)
        assert out.is_contiguous(memory_format=layout)
        plain = call(image)
        assert plain.is_contiguous()
        torch.testing.assert_close(out, plain, **CLOSE)


def both_gradients(out, wanted):
    weight = torch.linspace(0.5, 2, out.numel(), dtype=out.dtype).view(out.shape)
    return torch.autograd.grad((out * weight).sum(), wanted)


@pytest.mark.parametrize("backend", [None, *BACKENDS])
@pytest.mark.parametrize("images_in_batch", [1, 2])
@pytest.mark.parametrize("name", ["affine-2d", "tps-2d", "projective-3d"])
def test_many_thetas_a_picture_are_a_loop(name, images_in_batch, backend):
    family = TRANSFORMS[name]
    transform = family.make()
    image = images(images_in_batch, 3, *(5, 6, 4)[: transform.dim]).requires_grad_()
    theta = family.theta(batch=8).view(2, 4, -1).requires_grad_()
    size = (3, 2, 4)[: transform.dim]
    together = stn.warp(image, transform, theta, size, backend=backend)
    assert together.shape == (2, 4, 3, *size)
    loop = torch.stack(
        [
            torch.stack(
                [
                    stn.warp(image[b % images_in_batch][None], transform, row[None], size)[0]
                    for row in theta[b]
                ]
            )
            for b in range(2)
        ]
    )
    torch.testing.assert_close(together, loop, **CLOSE)
    ours, theirs = (both_gradients(out, (image, theta)) for out in (together, loop))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)
    # The same through an explicit grid (B, K, *T, dim), and one theta row for many images.
    grid = transform.grid(theta.flatten(0, 1), size).unflatten(0, (2, 4))
    torch.testing.assert_close(stn.grid_sample(image, grid, backend=backend), together, **CLOSE)
    shared = stn.warp(image, transform, theta[:1], size, backend=backend)
    torch.testing.assert_close(shared[0], together[0], **CLOSE)


@pytest.mark.parametrize("backend", [None, *BACKENDS])
@pytest.mark.parametrize("dim", [2, 3])
def test_one_image_with_many_grids_is_expansion(dim, backend):
    image = images(1, 2, *(5, 6, 4)[:dim]).requires_grad_()
    grid = (torch.rand(3, *(3, 2, 4)[:dim], dim).double() * 2.4 - 1.2).requires_grad_()
    fill = torch.tensor([0.1, 0.9], dtype=torch.float64, requires_grad=True)
    wanted = image, grid, fill
    options = {"padding_mode": "fill", "fill": fill, "backend": backend}
    out = stn.grid_sample(image, grid, **options)
    expanded = stn.grid_sample(image.expand(3, *image.shape[1:]), grid, **options)
    torch.testing.assert_close(out, expanded, **CLOSE)
    ours, theirs = (both_gradients(result, wanted) for result in (out, expanded))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


@pytest.mark.parametrize("backend", [None, *BACKENDS])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_images_are_float32_results_rounded(dtype, backend):
    image = images(1, 1, 300, 300, dtype=dtype)  # torch's own breaks beyond 2^15 pixels
    theta = torch.tensor([[0.31, 0.02, -0.03]])
    for mode in ("nearest", "bilinear", "bicubic"):
        wide = stn.warp(image.float(), stn.Rigid(), theta, mode=mode, backend=backend)
        out = stn.warp(image, stn.Rigid(), theta, mode=mode, backend=backend)
        assert out.dtype == dtype
        spacing = torch.finfo(dtype).eps
        torch.testing.assert_close(out.float(), wide.to(dtype).float(), rtol=spacing, atol=1e-6)
        grid = stn.Rigid().grid(theta, (300, 300))
        out = stn.grid_sample(image, grid, mode, backend=backend)
        wide = stn.grid_sample(image.float(), grid, mode, backend=backend)
        torch.testing.assert_close(out.float(), wide.to(dtype).float(), rtol=spacing, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("backend", [None, *BACKENDS])
def test_gradients_have_the_types_of_their_inputs(dtype, backend):
    image = images(2, 2, 5, 6, dtype=dtype).requires_grad_()
    theta = affine_theta(2, 2).float().requires_grad_()
    out = stn.warp(image, stn.Affine(), theta, backend=backend)
    assert out.dtype == dtype
    to_image, to_theta = torch.autograd.grad(out.sum(), (image, theta))
    assert to_image.dtype == dtype
    assert to_theta.dtype == torch.float32
    wide = [t.detach().double().requires_grad_() for t in (image, theta)]
    out = stn.warp(wide[0], stn.Affine(), wide[1], backend=backend)
    expected = torch.autograd.grad(out.sum(), wide)
    close = {"rtol": 4 * torch.finfo(dtype).eps, "atol": 1e-3}
    torch.testing.assert_close(to_image.double(), expected[0], **close)
    torch.testing.assert_close(to_theta.double(), expected[1], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("backend", [None, *BACKENDS])
def test_fill_is_read_outside_per_channel(backend):
    image = images(1, 2, 4, 4)
    theta = torch.tensor([[10.0, 0.0]], dtype=torch.float64)
    options = {"padding_mode": "fill", "backend": backend}
    out = stn.warp(image, stn.Translation(), theta, fill=FILL, **options)
    torch.testing.assert_close(out, torch.full_like(image, FILL), **CLOSE)
    fill = torch.tensor([0.25, -1.0])
    out = stn.warp(image, stn.Translation(), theta, fill=fill, **options)
    expected = fill.double()[None, :, None, None].expand_as(image)
    torch.testing.assert_close(out, expected, **CLOSE)


@pytest.mark.parametrize("backend", [None, *BACKENDS])
def test_runs_under_deterministic_algorithms(backend):
    image = images(2, 2, 9, 8, dtype=torch.float32).requires_grad_()
    theta = affine_theta(2, 2).float().requires_grad_()
    results = []
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(2):
            out = stn.warp(image, stn.Affine(), theta, backend=backend)
            results.append([out, *torch.autograd.grad(out.square().sum(), (image, theta))])
    finally:
        torch.use_deterministic_algorithms(False)
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)
