"""What torch does around a warp: forward mode, vmap, fake and meta tensors, default types."""

import pytest
import torch
import torch.autograd.forward_ad as fwAD
from torch._subclasses import FakeTensorMode

import stn

X, THETA = torch.rand(2, 1, 9, 8), 0.1 * torch.randn(2, 6)
LATTICES = (
    stn.ThinPlateSpline((3, 3)), stn.FreeForm((4, 4)),
    stn.PiecewiseAffine((3, 3)), stn.Displacement((4, 4)),
)  # fmt: skip
antialiased = pytest.mark.parametrize("antialias", [False, True])


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()


def warp(theta, **options):
    return stn.warp(X, stn.Affine(), theta, (5, 4), **options)


class TestForwardMode:
    """A derivative that is silently zero is a defect."""

    @pytest.mark.parametrize("of", [torch.func.jacfwd, torch.func.jacrev], ids=lambda f: f.__name__)
    def test_compiled_as_eager(self, of):
        wanted = of(warp)(THETA)
        assert wanted.abs().max() > 0.1
        compiled = torch.compile(of(warp), backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(THETA), wanted)

    def test_compiled_antialiased(self):
        def slope(theta):
            return torch.func.jvp(
                lambda t: warp(t, antialias=True), (theta,), (torch.ones_like(theta),)
            )[1]

        wanted = slope(THETA)
        assert wanted.abs().max() > 0.1
        torch.testing.assert_close(torch.compile(slope, backend="aot_eager")(THETA), wanted)

    @antialiased
    def test_a_graph_compiled_without_it_refuses(self, antialias):
        compiled = torch.compile(
            lambda theta: warp(theta, antialias=antialias), backend="aot_eager"
        )
        compiled(THETA)
        with fwAD.dual_level(), pytest.raises(NotImplementedError, match="no forward-mode"):
            compiled(fwAD.make_dual(THETA, torch.ones_like(THETA)))


class TestBatches:
    @antialiased
    def test_batched_gradients(self, antialias):
        def flat(theta):
            return warp(theta, antialias=antialias).flatten()

        theta = THETA.clone().requires_grad_()
        out = flat(theta)
        eye = torch.eye(len(out))
        (got,) = torch.autograd.grad(out, theta, eye, is_grads_batched=True)
        torch.testing.assert_close(got, torch.autograd.functional.jacobian(flat, THETA))

    @antialiased
    def test_batched_second_derivatives(self, antialias):
        def loss(theta):
            return warp(theta, antialias=antialias).square().sum()

        hessian = torch.autograd.functional.hessian
        wanted = hessian(loss, THETA)
        torch.testing.assert_close(hessian(loss, THETA, vectorize=True), wanted, atol=1e-4, rtol=0)

    def test_vmap_of_images_in_any_layout(self):
        localization = stn.nn.DenseLocalization((3, 9, 8))
        layer = stn.SpatialTransformer(localization, stn.Affine(), check_finite=False)
        torch.nn.init.normal_(layer.head.weight, std=0.1)
        x = torch.rand(4, 3, 9, 8)
        wanted = layer(x)
        last = x.contiguous(memory_format=torch.channels_last)
        one = lambda image: layer(image[None])[0]  # noqa: E731
        torch.testing.assert_close(torch.func.vmap(one)(last), wanted)
        torch.testing.assert_close(torch.func.vmap(one, in_dims=1)(x.transpose(0, 1)), wanted)


class TestCaches:
    def test_meta_tensors_are_not_kept(self):
        with torch.device("meta"):
            stn.ThinPlateSpline((5, 6))
        made = stn.ThinPlateSpline((5, 6))
        assert made.control_points.device.type == "cpu"
        assert stn.warp(X, made, torch.zeros(2, 60)).device.type == "cpu"

    def test_fake_tensors_are_not_kept(self):
        transform = stn.FreeForm((4, 6))
        with FakeTensorMode(allow_non_fake_inputs=True):
            stn.warp(torch.empty(2, 1, 9, 8), transform, torch.zeros(2, 48))
        out = stn.warp(X, transform, torch.zeros(2, 48))
        assert type(out) is torch.Tensor
        torch.testing.assert_close(out, X)

    def test_nobody_changes_another_ones_nodes(self):
        stn.ThinPlateSpline((3, 4)).control_points.mul_(0.5)
        assert stn.ThinPlateSpline((3, 4)).control_points[0].tolist() == [-1, -1]

    @pytest.mark.parametrize(
        "transform",
        [LATTICES[0], *(pytest.param(other, marks=pytest.mark.slow) for other in LATTICES[1:])],
        ids=str,
    )
    def test_lattices_compile_once_for_all_sizes(self, transform):
        see = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten())
        layer = stn.SpatialTransformer(see, transform, num_features=16)
        options = {"fullgraph": True, "dynamic": True, "backend": "aot_eager"}
        compiled = torch.compile(layer, **options)
        for n in range(8, 19):  # more than recompile_limit
            compiled(torch.rand(2, 1, n, n + 3))


def test_theta_is_float32_under_a_half_default():
    torch.set_default_dtype(torch.bfloat16)
    try:
        localization = stn.nn.DenseLocalization((1, 9, 8))
        start = [0.3001, 0.0]
        layer = stn.SpatialTransformer(localization, stn.Translation(), initial_theta=start)
        theta = layer.theta(X.bfloat16())
        basis = stn.LearnedBasis(2, (4, 4)).basis
    finally:
        torch.set_default_dtype(torch.float32)
    assert (theta.dtype, basis.dtype) == (torch.float32, torch.float32)
    assert theta[0].tolist() == torch.tensor(start).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "mirror", "fill"])
@antialiased
def test_a_large_fill_leaves_the_identity_alone(padding_mode, dtype, antialias):
    x, options = X.to(dtype), {"padding_mode": padding_mode, "fill": 1e6, "antialias": antialias}
    torch.testing.assert_close(
        stn.warp(x, stn.Affine(), torch.zeros(2, 6), **options), x, atol=1e-5, rtol=0
    )


def test_blurred_gradients_have_their_mixed_derivative():
    x = X[:1].double().requires_grad_()
    theta = THETA[:1].double().requires_grad_()

    def slope(x):
        out = stn.warp(x, stn.Affine(), theta, gradient_blur_px=1.5)
        return torch.autograd.grad(out.square().sum(), theta, create_graph=True)[0].sum()

    (mixed,) = torch.autograd.grad(slope(x), x)
    step = torch.randn_like(x)
    with torch.enable_grad():
        ahead, behind = slope(x + 1e-4 * step), slope(x - 1e-4 * step)
    torch.testing.assert_close((mixed * step).sum(), (ahead - behind).detach() / 2e-4)


def test_align_corners_may_be_none_as_torchs_default():
    grid = torch.rand(2, 3, 3, 2)
    wanted = stn.grid_sample(X, grid)
    torch.testing.assert_close(stn.grid_sample(X, grid, align_corners=None), wanted)  # type: ignore
