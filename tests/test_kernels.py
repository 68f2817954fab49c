"""Kernels beyond torch's: closed forms, a kernel of one's own, and learning one from data."""

import itertools
import math

import pytest
import torch
from torch import nn

import stn
from stn.sampling import kernels

from .tables import MODES, PADDINGS, Sampler, grid_of, images, pixels_off_kinks, samplers
from .test_sampler import SIZES, extend

CLOSE = {"rtol": 0, "atol": 1e-10}
NAMED = ("lanczos3", "gaussian")
ROWS = [Sampler(*row) for row in itertools.product((1, 2, 3), ("own",), PADDINGS, (False, True))]


class Skew(stn.Kernel):
    """Not symmetric, its support not a whole number, and with parameters."""

    def __init__(self, support=1.7):
        super().__init__(support)
        self.bend = nn.Parameter(torch.tensor([0.4, 0.9], dtype=torch.float64))

    def forward(self, offset_px):
        near = (1 - (offset_px / self.support) ** 2) ** 2
        return near * torch.exp(self.bend[0] * offset_px) + self.bend[1] * near


class Reader(nn.Module):
    """A sampler whose kernel's parameters can be given from outside."""

    def __init__(self, kernel):
        super().__init__()
        self.kernel = kernel

    def forward(self, image, grid, antialias=False):
        return stn.grid_sample(image, grid, self.kernel, "mirror", antialias=antialias)


def skew(d, support=1.7):
    near = (1 - (d / support) ** 2) ** 2
    return near * (math.exp(0.4 * d) + 0.9) if abs(d) <= support else 0.0


def taps_at(mode, fraction):
    """Weights of the taps of a sample at `fraction` in [0, 1), read off unit impulses."""
    n = 12
    impulses = torch.eye(n, dtype=torch.float64).unsqueeze(1)
    px = torch.full((1, 1, 1), 5 + fraction, dtype=torch.float64)
    return stn.grid_sample(impulses, grid_of(px, (n,), False), mode, "zeros").flatten()


@pytest.mark.parametrize("mode", [*MODES[1:], Skew(), Skew(2.0), stn.TableKernel(3)], ids=str)
def test_a_constant_stays_and_weights_sum_to_one(mode):
    for dim in (1, 2, 3):
        size = SIZES[dim]
        px = pixels_off_kinks(size, 20, reach=4).view(1, *[1] * (dim - 1), 20, dim)
        for padding in PADDINGS[1:5]:
            image = torch.full((1, 1, *size), 0.7, dtype=torch.float64)
            out = stn.grid_sample(image, grid_of(px, size, False), mode, padding)
            torch.testing.assert_close(out, torch.full_like(out, 0.7), rtol=0, atol=1e-12)
    for fraction in (0.0, 0.1, 0.5, 0.999):
        assert abs(taps_at(mode, fraction).sum().item() - 1) < 1e-12


@pytest.mark.parametrize("mode", MODES[1:])
def test_weights_are_symmetric(mode):
    for fraction in (0.1, 0.3, 0.5):
        forth, back = taps_at(mode, fraction), taps_at(mode, 1 - fraction)
        torch.testing.assert_close(forth[5 - 3 : 5 + 5], back[5 - 3 : 5 + 5].flip(0), **CLOSE)


def test_closed_forms():
    """At t = 1/2: lanczos3 sinc(d) sinc(d / 3), gaussian exp(-d^2 / (2 * 0.5^2))."""
    d = torch.tensor([2.5, 1.5, 0.5, -0.5, -1.5, -2.5], dtype=torch.float64)
    wave = torch.sinc(d) * torch.sinc(d / 3)
    torch.testing.assert_close(taps_at("lanczos3", 0.5)[3:9], wave / wave.sum(), **CLOSE)
    bell = torch.exp(-2 * d**2)
    torch.testing.assert_close(taps_at("gaussian", 0.5)[3:9], bell / bell.sum(), rtol=0, atol=1e-7)
    unit = torch.eye(12, dtype=torch.float64)[5]
    torch.testing.assert_close(taps_at("lanczos3", 0.0), unit, **CLOSE)
    torch.testing.assert_close(taps_at(stn.TableKernel(2), 0.25), taps_at("bilinear", 0.25))


@samplers(ROWS)
def test_a_kernel_of_ones_own_against_scalar_loops(sampler):
    """Everywhere, far outside too: where the image is mirrored the kernel must not be."""
    size = SIZES[sampler.dim]
    image, fill = images(1, 1, *size), 0.75
    px = pixels_off_kinks(size, 8, reach=3 * max(size))
    grid = grid_of(px, size, sampler.align_corners).view(1, *[1] * (sampler.dim - 1), 8, -1)
    options = {**sampler.options, "mode": Skew(), "fill": fill}
    out = stn.grid_sample(image, grid, **options).flatten()
    outside = fill if sampler.padding_mode == "fill" else 0.0
    for point, got in zip(px.tolist(), out.tolist(), strict=True):
        axes = []
        for x, n in zip(reversed(point), size, strict=True):
            taps = [(i, skew(x - i)) for i in range(math.floor(x) - 2, math.floor(x) + 4)]
            total = sum(w for _, w in taps)
            place = sampler.padding_mode, sampler.align_corners
            axes.append([(extend(i, n, *place), w / total) for i, w in taps])
        expected = 0.0
        for corner in itertools.product(*axes):
            where = tuple(i for i, _ in corner)
            value = outside if None in where else image[0, 0][where].item()
            expected += value * math.prod(w for _, w in corner)
        assert abs(got - expected) < 1e-10


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("kernel", [Skew(), stn.TableKernel(2, 3).double()], ids=str)
def test_gradients_reach_image_grid_and_kernel(kernel, dim):
    size = (4, 3, 3)[:dim]
    image = images(1, 1, *size).requires_grad_()
    px = pixels_off_kinks(size, 3, reach=1).view(1, *[1] * (dim - 1), 3, dim)
    px = px + 0.013  # off the table's nodes too
    grid = grid_of(px, size, False).requires_grad_()
    reader = Reader(kernel)
    ((name, parameter),) = reader.named_parameters()
    parameter = parameter.detach().clone().requires_grad_()

    def run(image, grid, parameter):
        return torch.func.functional_call(reader, {name: parameter}, (image, grid))

    torch.autograd.gradcheck(run, (image, grid, parameter), check_forward_ad=True)
    if dim < 3:
        torch.autograd.gradgradcheck(run, (image, grid, parameter))


@pytest.mark.parametrize("mode", NAMED)
def test_second_derivatives_at_pixel_centres_too(mode):
    image = images(1, 1, 6, 5).requires_grad_()
    for px in (pixels_off_kinks((6, 5), 3, reach=0), torch.tensor([[2.0, 3.0]]).double()):
        grid = grid_of(px, (6, 5), False).view(1, 1, -1, 2).requires_grad_()

        def slope_sum(grid):
            out = stn.grid_sample(image, grid, mode, "mirror")
            return torch.autograd.grad(out.sum(), grid, create_graph=True)[0].sum()

        here = slope_sum(grid)
        (curve,) = torch.autograd.grad(here, grid)
        step = 1e-6  # ahead only: to the left of a centre other pixels are read
        expected = (slope_sum((grid.detach() + step).requires_grad_()) - here) / step
        torch.testing.assert_close(curve.sum(), expected.detach(), rtol=1e-4, atol=1e-3)


class TestLayers:
    def layer(self, kernel):
        localization = stn.nn.DenseLocalization((1, 8, 8), width=4)
        return stn.SpatialTransformer(localization, stn.Affine(), mode=kernel)

    def test_the_kernel_is_trained_and_saved(self):
        layer = self.layer(stn.TableKernel(2))
        assert "mode.weights" in layer.state_dict()
        layer(torch.rand(2, 1, 8, 8)).square().sum().backward()
        assert layer.mode.weights.grad.abs().max() > 0
        rest, slow = stn.param_groups(layer, 1.0, 0.1)
        assert rest["params"] == [layer.mode.weights]
        assert all(p is not layer.mode.weights for p in slow["params"])

    def test_a_half_model_keeps_the_kernel_wide(self):
        layer = self.layer(stn.TableKernel(2)).bfloat16()
        assert layer.mode.weights.dtype == torch.float32
        half = torch.rand(2, 1, 8, 8).bfloat16()
        assert torch.equal(layer(half), half)

    @pytest.mark.parametrize("mode", [*NAMED, "own"])
    def test_compile_export_and_vmap(self, mode):
        layer = self.layer(stn.TableKernel(2) if mode == "own" else mode).eval()
        with torch.no_grad():
            layer.head.weight.normal_(std=0.02)
        x = torch.rand(3, 1, 8, 8)
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), layer(x))
        torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), layer(x))
        each = torch.func.vmap(lambda image: layer(image[None])[0])(x)
        torch.testing.assert_close(each, layer(x))


def test_torch_says_that_it_has_no_such_kernel():
    image, grid = torch.rand(1, 1, 4, 4), torch.zeros(1, 2, 2, 2)
    for mode, name in (("lanczos3", "'lanczos3'"), (stn.TableKernel(2), "TableKernel")):
        with pytest.raises(ValueError, match=f"'torch' cannot run this call: .*no mode {name}"):
            stn.grid_sample(image, grid, mode, backend="torch")


def test_errors():
    image, grid = torch.rand(1, 1, 4, 4), torch.zeros(1, 2, 2, 2)
    with pytest.raises(ValueError, match=r"'gaussian' or a stn.Kernel, got 'lanczos'"):
        stn.grid_sample(image, grid, "lanczos")
    with pytest.raises(ValueError, match=r"support must be at least 0\.5 px and finite, got 0\.2"):
        Skew(0.2)
    with pytest.raises(ValueError, match="nodes_per_px must be a positive integer, got 0"):
        stn.TableKernel(2, 0)
    with pytest.raises(NotImplementedError, match=r"Kernel must implement forward\(offset_px\)"):
        stn.grid_sample(image, grid, stn.Kernel(1))
    wrong = stn.TableKernel(2)
    wrong.forward = lambda offset_px: offset_px.sum()
    with pytest.raises(ValueError, match=r"one weight for each of the .* offsets, got \(\)"):
        stn.grid_sample(image, grid, wrong)


@pytest.mark.parametrize("truth", ["bicubic", "skew"])
def test_a_learned_kernel_recovers_the_one_that_made_the_data(truth):
    """From bilinear, by Adam: weights of all taps within 0.01 of the true ones, at 21 fractions."""
    true = "bicubic" if truth == "bicubic" else Skew(2.0)
    images_, px = images(1, 8, 24, 24), torch.rand(1, 24, 24, 2, dtype=torch.float64) * 17 + 3
    grid = grid_of(px, (24, 24), False)
    with torch.no_grad():
        data = stn.grid_sample(images_, grid, true)
    learned = stn.TableKernel(support=2, nodes_per_px=8).double()
    fractions = torch.linspace(0, 0.999, 21).tolist()

    def error():
        return max((taps_at(learned, t) - taps_at(true, t)).abs().max().item() for t in fractions)

    assert error() > 0.1
    optimizer = torch.optim.Adam(learned.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    for _ in range(300):
        optimizer.zero_grad()
        (stn.grid_sample(images_, grid, learned) - data).square().mean().backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        assert error() < 0.01


def test_modes_are_listed_once():
    assert kernels.MODES == MODES
