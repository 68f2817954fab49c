"""gradient_blur_px: the value of the image, the slopes of a smoother one."""

import numpy as np
import pytest
import scipy.ndimage
import torch

import stn
from stn.sampling.blur import blurred

from .tables import FILL, MODES, PADDINGS, images

SCIPY = {
    "zeros": "constant",
    "fill": "constant",
    "border": "nearest",
    "reflection": "reflect",
    "mirror": "mirror",
    "wrap": "wrap",
}


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("size", [(9,), (8, 11), (5, 6, 7)])
def test_the_blur_is_that_of_scipy(size, padding):
    image = images(2, 1, *size)
    fill = torch.tensor([FILL], dtype=torch.float64)
    smooth, shift = blurred(image, 1.3, padding, False, fill)
    constant = 0.0 if padding == "zeros" else FILL
    for got, plane in zip(smooth[:, 0], image[:, 0], strict=True):
        # Continued first, so that what lies outside is blurred too.
        wide = plane.numpy()
        if shift:
            mode = {"border": {"mode": "edge"}}.get(padding, {"constant_values": constant})
            wide = np.pad(wide, shift, **mode)
        expected = scipy.ndimage.gaussian_filter(wide, 1.3, mode=SCIPY[padding], cval=constant)
        torch.testing.assert_close(got, torch.from_numpy(expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dim", [2, 3])
def test_the_value_is_kept_and_the_slope_is_that_of_the_blurred_image(dim, mode, padding):
    size = (9, 8, 7)[:dim]
    image = images(2, 2, *size).requires_grad_()
    flow = torch.randn(2, *size, dim, dtype=torch.float64).requires_grad_()
    run = {"mode": mode, "padding_mode": padding, "fill": FILL}
    out = stn.warp_flow(image, flow, gradient_blur_px=1.5, **run)
    plain = stn.warp_flow(image, flow, **run)
    assert torch.equal(out, plain)
    weight = torch.randn_like(out)
    to_image, to_flow = torch.autograd.grad((out * weight).sum(), (image, flow))
    (expected,) = torch.autograd.grad((plain * weight).sum(), image, retain_graph=True)
    torch.testing.assert_close(to_image, expected)
    fill = torch.full((1,), FILL, dtype=torch.float64)
    smooth, shift = blurred(image.detach(), 1.5, padding, False, fill)
    base = torch.cartesian_prod(*[torch.arange(n) for n in size]).view(*size, dim).flip(-1)
    n = torch.tensor(smooth.shape[:1:-1], dtype=torch.float64)
    grid = (2 * (base + flow + shift) + 1) / n - 1
    padded = "border" if padding in ("zeros", "fill") else padding  # constant that far outside
    smooth_out = stn.grid_sample(smooth, grid, "bilinear", padded)
    (expected,) = torch.autograd.grad((smooth_out * weight).sum(), flow)
    torch.testing.assert_close(to_flow, expected)


def test_other_derivatives():
    """With antialias, a Kernel and fill: the last two get their own gradients, once."""
    image = images(1, 1, 8, 8)
    kernel = stn.TableKernel(1, 2).double()
    fill = torch.rand(1, dtype=torch.float64, requires_grad=True)
    theta = (0.5 * torch.rand(1, 6, dtype=torch.float64)).requires_grad_()
    wanted = fill, kernel.weights
    run = {"size": (5, 5), "mode": kernel, "padding_mode": "fill", "fill": fill, "antialias": True}
    results = []
    for blur in (0.0, 2.0):
        out = stn.warp(image, stn.Affine(), theta, gradient_blur_px=blur, **run)
        results.append([out, *torch.autograd.grad(out.square().sum(), wanted)])
    torch.testing.assert_close(results[0], results[1])


def test_a_gradient_that_lives_outside_the_image():
    """Three pixels away from a bright image plain sampling knows nothing; blurred, it is pulled."""
    image = torch.ones(1, 1, 8, 8)
    for blur, pulled in ((0.0, False), (2.0, True)):
        theta = torch.tensor([[2.75, 0.0]], requires_grad=True)  # 11 px to the right
        out = stn.warp(image, stn.Translation(), theta, gradient_blur_px=blur)
        assert (out == 0).all()
        slope = torch.autograd.grad(out.sum(), theta)[0][0, 0]
        assert (slope < 0) == pulled


def test_compile_vmap_and_layers():
    layer = stn.SpatialTransformer(
        stn.nn.DenseLocalization((1, 8, 8), width=4), stn.Affine(), gradient_blur_px=2.0
    )
    x = torch.rand(3, 1, 8, 8)
    layer(x).square().sum().backward()
    assert layer.head.bias.grad.abs().max() > 0
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))
    torch.testing.assert_close(torch.func.vmap(lambda i: layer(i[None])[0])(x), layer(x))
    image = x[:1]

    def slope(row, blur=2.0):
        def loss(t):
            return stn.warp(image, stn.Affine(), t[None], gradient_blur_px=blur).square().sum()

        return torch.func.grad(loss)(row)

    rows = 0.2 * torch.rand(4, 6)
    torch.testing.assert_close(torch.func.vmap(slope)(rows), torch.stack([*map(slope, rows)]))
    assert (slope(rows[0]) - slope(rows[0], 0.0)).abs().max() > 1e-3


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_widths_that_mean_nothing(value):
    with pytest.raises(ValueError, match="gradient_blur_px must be 0 or a positive width in px"):
        stn.warp_flow(torch.rand(1, 1, 4, 4), torch.zeros(1, 4, 4, 2), gradient_blur_px=value)


def test_the_basin_of_convergence_widens():
    """A shifted texture, registered from 12 px away: of 16 starts none converges, blurred 12."""
    noise = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(3))
    image = torch.from_numpy(scipy.ndimage.gaussian_filter(noise[0, 0].numpy(), 1.5))[None, None]
    image = (image - image.mean()) / image.std()
    angle = torch.arange(16) * (2 * torch.pi / 16)
    shares = {}
    for blur in (0.0, 3.0):
        theta = torch.stack([angle.cos(), angle.sin()], -1) * 12 * 2 / 64
        theta.requires_grad_()
        optimizer = torch.optim.Adam([theta], lr=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 120)
        for _ in range(120):
            optimizer.zero_grad()
            run = {"padding_mode": "border", "gradient_blur_px": blur}
            out = stn.warp(image, stn.Translation(), theta, **run)
            (out - image).square().mean((1, 2, 3)).sum().backward()
            optimizer.step()
            schedule.step()
        shares[blur] = ((theta * 32).norm(dim=-1) < 0.5).float().mean().item()
    assert shares[0.0] <= 0.15
    assert shares[3.0] >= 0.6
