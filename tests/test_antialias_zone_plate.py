"""antialias=True on all frequencies at once: a zone plate, shrunk and turned."""

import math
import runpy
from pathlib import Path

import pytest
import torch

import stn

N, SHRINK, ANGLE = 512, 8, math.pi / 6
# RMS error against the ideal low-pass filter over all targets inside, as measured: (disc, square).
# The two ideals differ from each other by 0.021.
ZONE_PLATE = {
    "bilinear": (0.0182, 0.0235),
    "bicubic": (0.0157, 0.0203),
    "lanczos3": (0.0158, 0.0207),
    "gaussian": (0.0203, 0.0266),
}


def zone_plate():
    """1/2 + 1/2 cos: the local frequency grows from 0 at the centre to Nyquist's at the edges."""
    c = torch.arange(N, dtype=torch.float64) - (N - 1) / 2
    return (0.5 + 0.5 * torch.cos(math.pi / N * (c[:, None] ** 2 + c**2)))[None, None]


def ideal(image, px, shape):
    """The image without the frequencies that the target lattice cannot hold, at places px.

    "square": the band that a lattice turned by ANGLE holds; "disc": the part held at every angle;
    "upright": the square along the image's own axes, which is what the footprint F = SHRINK I is.
    """
    f = 2 * math.pi * torch.fft.fftfreq(N, dtype=torch.float64)
    wy, wx = torch.meshgrid(f, f, indexing="ij")
    along = math.cos(ANGLE) * wx + math.sin(ANGLE) * wy
    across = -math.sin(ANGLE) * wx + math.cos(ANGLE) * wy
    cut = math.pi / SHRINK
    if shape == "upright":
        kept = (wx.abs() < cut) & (wy.abs() < cut)
    elif shape == "square":
        kept = (along.abs() < cut) & (across.abs() < cut)
    else:
        kept = along**2 + across**2 < cut**2
    waves = torch.fft.fft2(image[0, 0])[kept] / N**2
    phase = px[:, :1] * wx[kept] + px[:, 1:] * wy[kept]
    return (torch.cos(phase) * waves.real - torch.sin(phase) * waves.imag).sum(-1)


def rms(difference):
    return difference.square().mean().sqrt().item()


@pytest.fixture(scope="module")
def plate():
    rigid, theta = stn.Rigid(), torch.tensor([[ANGLE, 0.0, 0.0]], dtype=torch.float64)
    image, size = zone_plate(), (N // SHRINK, N // SHRINK)
    px = rigid.places(theta, size).pixels((N, N))[0].flatten(0, 1)
    inside = ((px >= 0) & (px <= N - 1)).all(-1)
    references = [ideal(image, px[inside], shape) for shape in ("disc", "square", "upright")]

    def errors(read):
        out = read(image, rigid, theta, size).flatten()[inside]
        return [rms(out - reference) for reference in references]

    return errors, rms(references[0] - references[1])


@pytest.mark.parametrize("mode", ZONE_PLATE)
def test_a_zone_plate_against_an_ideal_filter(mode, plate):
    errors, between_ideals = plate
    assert abs(between_ideals - 0.0212) < 5e-4

    def read(antialias):
        options = {"mode": mode, "padding_mode": "mirror", "antialias": antialias}
        return errors(lambda *call: stn.warp(*call, **options))

    for error, measured in zip(read(True)[:2], ZONE_PLATE[mode], strict=True):
        assert abs(error - measured) < 5e-4
    assert min(read(False)) > 0.2


def test_the_isotropic_filter_of_the_docs_does_worse(plate):
    script = Path(__file__).parent.parent / "docs" / "draw_sampling.py"
    disc, square, _ = plate[0](runpy.run_path(str(script))["mip_map"])
    assert abs(disc - 0.0271) < 5e-4
    assert abs(square - 0.0318) < 5e-4


class LongSinc(stn.Kernel):
    """Lanczos with 12 lobes: nearly a brick wall."""

    def __init__(self):
        super().__init__(support=12)

    def forward(self, offset_px):
        return torch.sinc(offset_px) * torch.sinc(offset_px / self.support)


@pytest.mark.slow
def test_a_sharp_kernel_comes_within_a_hundredth_of_the_ideal_filter(plate):
    """A short kernel has a wide transition band; a kernel of one's own need not."""
    options = {"mode": LongSinc(), "padding_mode": "mirror", "antialias": True}
    _, _, upright = plate[0](lambda *call: stn.warp(*call, **options))
    assert upright < 0.01
    assert abs(upright - 0.0085) < 5e-4
