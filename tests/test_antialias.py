"""antialias=True: against torch, scalar loops and an ideal filter; derivatives and limits."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

import stn
from stn.linalg import bounded_root
from stn.sampling import antialias as implementation

from .tables import FILL, INTERPOLATING, PADDINGS, TRANSFORMS, images
from .test_kernels import Reader
from .test_sampler import extend, kernel

MODES = (*INTERPOLATING[1:], "gaussian")
REACH = {"bilinear": 1, "bicubic": 2, "lanczos3": 3, "gaussian": 3}
CLOSE = {"rtol": 0, "atol": 1e-10}


def shrinking(dim, batch=1):
    """Matrices that shrink along some direction and magnify along others, with a shear and turn."""
    linear = torch.diag(torch.tensor([2.7, 0.6, 1.4], dtype=torch.float64)[:dim])
    linear = linear + 0.5 * torch.randn(batch, dim, dim, dtype=torch.float64)
    shift = 0.3 * torch.randn(batch, dim, 1, dtype=torch.float64)
    return torch.cat([linear, shift], -1)


# Closed forms ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(8, 6), (16, 48), (64, 6), (7, 11), (20, 30)])
def test_upright_shrinking_is_that_of_interpolate(size):
    image = images(2, 3, 64, 48)
    out = stn.warp(image, stn.Affine(), torch.zeros(2, 6).double(), size, antialias=True)
    expected = F.interpolate(image, size, mode="bilinear", antialias=True, align_corners=False)
    # torch leaves out what lies outside the image; ours is a matter of padding_mode.
    torch.testing.assert_close(out[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], **CLOSE)
    assert (out - F.interpolate(image, size, mode="bilinear")).abs().max() > 0.01


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_values_are_those_of_scalar_loops(dim, mode, padding):
    size = (7, 6, 5)[:dim]
    image = images(1, 1, *size)
    shape = (2, 3, 2)[3 - dim :]
    step = (
        torch.randn(dim, dim, dtype=torch.float64)
        + torch.diag(torch.tensor([2.5, 0.4, 1.0]))[:dim, :dim]
    )
    index = torch.cartesian_prod(*[torch.arange(n).double() for n in shape]).view(-1, dim).flip(-1)
    px = index @ step.T + torch.tensor([1.3, 0.2, -0.4][:dim], dtype=torch.float64)
    n = torch.tensor(size[::-1], dtype=torch.float64)
    grid = ((2 * px + 1) / n - 1).view(1, *shape, dim)
    options = {"mode": mode, "padding_mode": padding, "fill": FILL}
    out = stn.grid_sample(image, grid, antialias=True, **options).flatten()
    u, s, _ = np.linalg.svd(step.numpy())
    inverse = np.linalg.inv(u @ np.diag(np.minimum(np.maximum(s, 1), max(size))) @ u.T)
    far = math.ceil(REACH[mode] * max(*s, 1)) + 1
    for point, got in zip(px.numpy(), out.tolist(), strict=True):
        total = weights = 0.0
        places = [range(math.floor(x) - far, math.floor(x) + far + 2) for x in point]
        for m in itertools.product(*places):
            weight = math.prod(kernel(d, mode) for d in inverse @ (point - np.array(m)))
            weights += weight
            if weight:
                own = [extend(i, k, padding, False) for i, k in zip(m[::-1], size, strict=True)]
                outside = FILL if padding == "fill" else 0.0
                total += weight * (outside if None in own else image[0, 0][tuple(own)].item())
        assert abs(got - total / weights) < 1e-9


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dim", [2, 3])
def test_magnifying_is_plain_sampling(dim, mode, padding):
    """Rotations too, and mirrored axes."""
    size = (9, 9, 9)[:dim]
    image = images(2, 2, *size)
    for magnify in (1.0, 0.4):
        theta = torch.randn(2, stn.Rigid(dim).num_params, dtype=torch.float64)
        matrix = magnify * stn.Rigid(dim).matrix(theta)
        matrix[:, 0] *= -1
        options = {"mode": mode, "padding_mode": padding, "fill": FILL}
        plain = stn.warp_matrix(image, matrix, **options)
        out = stn.warp_matrix(image, matrix, antialias=True, **options)
        torch.testing.assert_close(out, plain, rtol=0, atol=1e-9)


@pytest.mark.parametrize("mode", MODES)
def test_each_direction_is_filtered_by_its_own_shrinking(mode):
    y, x = torch.meshgrid(*[torch.arange(256).double()] * 2, indexing="ij")
    fast, slow = torch.sin(2.7 * x), torch.sin(0.2 * y)
    run = {"size": (256, 32), "mode": mode, "padding_mode": "mirror"}
    zero = torch.zeros(1, 6, dtype=torch.float64)
    image = torch.stack([fast, slow, fast + slow])[:, None]
    out = stn.warp(image, stn.Affine(), zero, **run, antialias=True)[:, 0]
    assert (out[0] - out[0].mean()).abs().max() <= 0.03
    assert (out[1].amax() - out[1].amin()) / 2 >= 0.9
    # Both at once, from the column means: nothing but the slow wave is left.
    assert (out[2] - out[2].mean(-1, keepdim=True)).abs().max() <= 0.03
    plain = stn.warp(image, stn.Affine(), zero, **run)[:, 0]
    assert (plain[0] - plain[0].mean()).abs().max() > 0.1


# Derivatives -------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [2.5, 50.0])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_root_has_two_derivatives_even_at_equal_singular_values(n, bound):
    def root(j):
        return bounded_root(j @ j.mT, bound)

    turn = torch.linalg.qr(torch.randn(4, n, n, dtype=torch.float64))[0]
    equal = torch.tensor([[2, 2, 2], [2, 2, 0.5], [0.3, 0.3, 4], [9, 3, 3]], dtype=torch.float64)
    j = torch.cat([3 * torch.randn(3, n, n).double(), turn * equal[:, None, :n]])
    u, s, _ = torch.linalg.svd(j)
    expected = u @ torch.diag_embed(s.clamp(1, bound)) @ u.mT
    torch.testing.assert_close(root(j), expected, **CLOSE)
    j.requires_grad_()
    gradcheck(root, j, check_forward_ad=True)
    gradgradcheck(root, j, check_fwd_over_rev=True)
    together = torch.func.vmap(root)(j)
    torch.testing.assert_close(together, root(j))
    j = turn[:1].clone().requires_grad_()
    slope = root(2 * j)
    for _ in range(2):
        (slope,) = torch.autograd.grad(slope.square().sum(), j, create_graph=True)
    with pytest.raises(NotImplementedError, match="third derivative"):
        torch.autograd.grad(slope.square().sum(), j)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["affine-2d", "projective-2d", "tps-2d", "affine-3d"])
def test_derivatives_of_warp(name, mode):
    family = TRANSFORMS[name]
    transform = family.make()
    if transform.dim == 3 and mode == "lanczos3":
        mode = stn.TableKernel(1).double()
    size = (4, 3, 3)[: transform.dim]
    image = images(1, 1, *size).requires_grad_()
    target = (2, 2, 1)[: transform.dim]
    theta = family.theta(batch=1).requires_grad_()

    def run(image, theta):
        options = {"mode": mode, "padding_mode": "mirror", "antialias": True}
        return stn.warp(image, transform, theta, target, **options)

    assert (run(image, theta) - stn.warp(image, transform, theta, target)).abs().max() > 1e-3
    gradcheck(run, (image, theta))
    if transform.dim == 2:
        gradgradcheck(run, (image, theta), fast_mode=True)
    primals, along = (image.detach(), theta.detach()), (image.detach() - 0.5, theta.detach() + 0.1)
    out, forward = torch.func.jvp(run, primals, along)
    _, pull = torch.func.vjp(run, *primals)
    back = sum((g * d).sum() for g, d in zip(pull(torch.ones_like(out)), along, strict=True))
    torch.testing.assert_close(forward.sum(), back)


def test_gradients_reach_grid_flow_fill_and_kernel():
    image = images(1, 2, 5, 6)
    kernel = stn.TableKernel(2, 3).double()
    fill = torch.rand(2, dtype=torch.float64, requires_grad=True)
    grid = (1.7 * torch.rand(1, 3, 2, 2, dtype=torch.float64) - 0.8).requires_grad_()
    flow = (2 * torch.randn(1, 3, 2, 2, dtype=torch.float64)).requires_grad_()
    options = {"padding_mode": "fill", "antialias": True}
    gradcheck(lambda g, f: stn.grid_sample(image, g, fill=f, **options), (grid, fill))
    gradcheck(lambda w, f: stn.warp_flow(image, w, fill=f, **options), (flow, fill))

    reader = Reader(kernel)

    def by_kernel(weights):
        given = {"kernel.weights": weights}
        return torch.func.functional_call(reader, given, (image, grid.detach(), True))

    gradcheck(by_kernel, kernel.weights.detach().clone().requires_grad_())


@pytest.mark.parametrize("mode", MODES)
def test_at_the_identity_all_derivatives_are_those_of_plain_sampling(mode):
    image = images(1, 1, 6, 7)
    weight = torch.randn(6, 7, dtype=torch.float64)
    slopes = []
    for antialias in (False, True):
        theta = torch.zeros(1, 6, dtype=torch.float64, requires_grad=True)
        out = stn.warp(image, stn.Affine(), theta, mode=mode, antialias=antialias)
        torch.testing.assert_close(out, stn.warp(image, stn.Affine(), theta.detach(), mode=mode))
        slopes.append(torch.autograd.grad((out * weight).sum(), theta)[0])
    assert slopes[0].abs().max() > 0.1
    torch.testing.assert_close(slopes[1], slopes[0], **CLOSE)


# Use ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("dim", [2, 3])
def test_all_ways_to_say_a_map_agree(dim, align):
    image, size = images(2, 2, *(9, 8, 7)[:dim]), (4, 3, 4)[:dim]
    matrix = shrinking(dim, 2)
    affine = stn.Affine(dim)
    theta = affine.from_matrix(matrix)
    options = {"align_corners": align, "antialias": True, "padding_mode": "mirror"}
    out = stn.warp(image, affine, theta, size, **options)
    last = torch.zeros(2, 1, dim + 1, dtype=torch.float64)
    last[..., -1] = 1
    full = torch.cat([matrix, last], -2)
    projective = stn.Projective(dim)
    grid = affine.grid(theta, size, align)
    others = [
        stn.warp_matrix(image, matrix, size, **options),
        stn.warp_matrix(image, 3 * full, size, **options),
        stn.warp(image, projective, projective.from_matrix(full), size, **options),
        stn.warp(image, stn.Compose(affine), theta, size, **options),
        stn.grid_sample(image, grid, **options),
        stn.warp_flow(
            image, grid - affine.grid(0 * theta, size, align), unit="normalized", **options
        ),
    ]
    for other in others:
        torch.testing.assert_close(other, out, rtol=0, atol=1e-9)
    assert (out - stn.warp(image, affine, theta, size, align_corners=align)).abs().max() > 0.01


def test_the_closed_form_of_projective_matrices():
    image = images(2, 1, 12, 12)
    matrix = torch.eye(3, dtype=torch.float64) + 0.3 * torch.randn(2, 3, 3, dtype=torch.float64)
    matrix[:, 2, 2] = 1
    projective = stn.Projective()
    out = stn.warp_matrix(image, matrix, (5, 5), antialias=True)
    theta = projective.from_matrix(matrix)
    torch.testing.assert_close(out, stn.warp(image, projective, theta, (5, 5), antialias=True))


def test_one_image_many_warps_batches_and_vmap():
    image, theta = images(2, 3, 12, 10), 0.8 * torch.rand(2, 4, 6, dtype=torch.float64)
    run = {"size": (4, 3), "antialias": True, "padding_mode": "wrap"}
    affine = stn.Affine()
    out = stn.warp(image, affine, theta, **run)
    assert out.shape == (2, 4, 3, 4, 3)
    for b, k in itertools.product(range(2), range(4)):
        one = stn.warp(image[b : b + 1], affine, theta[b : b + 1, k], **run)
        torch.testing.assert_close(out[b, k], one[0])
    shared = stn.warp(image[:1], affine, theta[:, 0], **run)
    torch.testing.assert_close(shared[0], out[0, 0])
    together = torch.func.vmap(lambda t: stn.warp(image, affine, t, **run))(theta.movedim(1, 0))
    torch.testing.assert_close(together.movedim(0, 1), out)

    def slope(row):
        return torch.func.grad(lambda t: stn.warp(image[:1], affine, t[None], **run).sum())(row)

    rows = theta[0]
    torch.testing.assert_close(torch.func.vmap(slope)(rows), torch.stack([*map(slope, rows)]))


def test_chunks_change_nothing(monkeypatch):
    image = images(2, 2, 16, 16).requires_grad_()
    theta = (0.7 * torch.rand(2, 8, dtype=torch.float64)).requires_grad_()
    results = []
    for budget in (implementation.BUDGET, 100):
        monkeypatch.setattr(implementation, "BUDGET", budget)
        out = stn.warp(image, stn.Projective(), theta, (6, 5), antialias=True)
        results.append([out, *torch.autograd.grad(out.square().sum(), (image, theta))])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30, -1e30, 3e38])
def test_wild_thetas_disturb_no_other_sample(value, padding):
    image = images(2, 1, 5, 6, dtype=torch.float32).requires_grad_()
    for name in ("affine-2d", "projective-2d", "tps-2d"):
        family = TRANSFORMS[name]
        transform, tame = family.make(), family.theta(dtype=torch.float32)
        run = {"size": (3, 3), "padding_mode": padding, "fill": FILL, "antialias": True}
        for column in (0, transform.num_params - 1):
            theta = tame.clone()
            theta[0, column] = value
            theta.requires_grad_()
            out = stn.warp(image, transform, theta, **run)
            assert out.isfinite().all()
            torch.testing.assert_close(out[1:], stn.warp(image[1:], transform, tame[1:], **run))
            to_image, to_theta = torch.autograd.grad(out.sum(), (image, theta))
            assert to_image.isfinite().all()
            assert to_theta[1].isfinite().all()
            if not math.isfinite(value):
                assert (out[0] == FILL).all()
                assert (to_theta[0] == 0).all()


def test_a_horizon_in_view_is_bounded_by_the_size_of_the_image():
    image = images(1, 1, 64, 64)
    theta = torch.zeros(1, 8, dtype=torch.float64)
    theta[0, 6] = 2  # w = 1 + 2 x
    run = {"padding_mode": "border", "fill": FILL, "antialias": True}
    out = stn.warp(image, stn.Projective(), theta.requires_grad_(), **run)
    assert out.isfinite().all()
    assert (out[..., :16] == FILL).all()
    assert torch.autograd.grad(out.sum(), theta)[0].isfinite().all()


@pytest.mark.parametrize("shape", [(0, 3, 5, 7), (2, 0, 5, 7), (1, 2, 1, 1), (2, 2, 3, 5, 7)])
def test_shapes_types_and_layout(shape):
    dim = len(shape) - 2
    for dtype in (torch.float32, torch.bfloat16):
        image = images(*shape, dtype=dtype)
        matrix = shrinking(dim).expand(shape[0], -1, -1)
        out = stn.warp_matrix(image, matrix, (3,) * dim, antialias=True)
        assert out.shape == (*shape[:2], *(3,) * dim)
        assert out.dtype == dtype
    last = torch.rand(2, 3, 6, 5).to(memory_format=torch.channels_last)
    out = stn.warp(last, stn.Affine(), torch.zeros(2, 6), (2, 2), antialias=True)
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_layers_pass_it_on():
    x = torch.rand(2, 1, 32, 32)
    zero = torch.zeros(2, 6)
    net = stn.nn.DenseLocalization((1, 32, 32), width=4)
    expected = stn.warp(x, stn.Affine(), zero, (8, 8), antialias=True)
    options = {"antialias": True}
    torch.testing.assert_close(
        stn.SpatialTransformer(net, stn.Affine(), (8, 8), **options)(x), expected
    )
    torch.testing.assert_close(
        stn.Cascade(net, stn.Affine(), 2, (8, 8), **options)(x), expected, rtol=0, atol=1e-5
    )
    several = stn.ParallelTransformers(net, stn.Affine(), 2, (8, 8), **options)(x)
    torch.testing.assert_close(several, torch.stack([expected] * 2, 1))


def test_what_it_refuses():
    x, zero = torch.rand(1, 1, 8, 8), torch.zeros(1, 6)
    with pytest.raises(
        ValueError, match=r'"nearest" never does: use "bilinear", or stn.warp_labels'
    ):
        stn.warp(x, stn.Affine(), zero, mode="nearest", antialias=True)
    with pytest.raises(ValueError, match=r"'torch' cannot run this call: .*antialiased"):
        stn.warp(x, stn.Affine(), zero, antialias=True, backend="torch")

    kernel = stn.TableKernel(1)

    def run(x):
        return stn.warp(x, stn.Affine(), zero, mode=kernel, antialias=True)

    with pytest.raises(Exception, match="antialias=True without a native kernel needs eager"):
        torch.compile(run, fullgraph=True, backend="eager")(x)
