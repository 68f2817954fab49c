"""What a report adds up: where windows land, what theta is called, how the grid came to bend."""

import json
import re

import pytest
import torch
from torch import nn

import stn
from stn.training import Frames
from stn.viz import RunView, diagnosed, log_transformer, make_film, survey, write_report
from stn.viz.film import MOMENTS, OUTPUT_PX
from stn.viz.pictures import grid_lines, path_of
from stn.viz.survey import theta_names

from . import tables


def net_of(layer):
    net = nn.Module()
    net.transformer = layer
    return net


def still(transform, size=None, theta=None, shape=(1, 32, 32)):
    """A transformer that gives every image the same theta."""
    localization = stn.nn.DenseLocalization(shape)
    return stn.SpatialTransformer(localization, transform, size, initial_theta=theta)


def test_coverage_and_centres_are_where_the_windows_are():
    # Half as large, moved to the right quarter: x from 0 to 1, y from -0.5 to 0.5.
    layer = still(stn.Attention(scale=0.5), theta=(0.5, 0.0))
    found = survey(net_of(layer), torch.rand(7, 1, 32, 32), batch_size=3)
    assert found is not None
    assert found.coverage is not None
    assert found.centres is not None
    expected = torch.zeros(32, 32)
    expected[8:24, 16:] = 1
    assert torch.equal(found.coverage[0], expected)
    torch.testing.assert_close(
        found.centres, torch.tensor([23.5, 15.5]).double().expand(7, 1, 2), atol=1e-5, rtol=0
    )
    assert found.scale == pytest.approx(torch.full((7, 1), 0.5))
    assert not found.outside.any()
    assert not found.folded.any()


def test_coverage_ends_where_the_image_does():
    """Between the centres of 2 x 2 pixels lies the middle half of the image."""
    localization = stn.nn.DenseLocalization((1, 2, 2))
    layer = stn.SpatialTransformer(localization, stn.Affine(), align_corners=True)
    found = survey(net_of(layer), torch.rand(1, 1, 2, 2))
    assert found is not None
    assert found.coverage is not None
    assert found.coverage[0, 8:24, 8:24].all()
    assert not found.coverage[0, :8].any()


@pytest.mark.parametrize("align_corners", [False, True])
def test_diagnostics_know_what_one_means(align_corners):
    theta = torch.tensor([0.05, 0, 0, 0, 0.05, 0])  # what it reads beyond the image hangs on that
    localization = stn.nn.DenseLocalization((1, 32, 32))
    layer = stn.SpatialTransformer(
        localization, stn.Affine(), align_corners=align_corners, initial_theta=theta
    )
    images = torch.rand(1, 1, 32, 32)
    outside = 1 - (0.875 if align_corners else 1) ** 2  # of 16 x 16 pixels
    found = survey(net_of(layer), images)
    assert found is not None
    assert found.outside.item() == pytest.approx(outside)
    (line,) = diagnosed(layer, frames_of(theta[None, None], images), 1)
    assert line["outside_percent"] == pytest.approx(100 * outside)


def test_coverage_is_the_share_of_the_images():
    class Reader(nn.Module):
        num_features = 1

        def forward(self, x):
            return x[:, :, 0, 0]

    layer = stn.SpatialTransformer(Reader(), stn.Translation())
    with torch.no_grad():
        layer.head.weight.copy_(torch.tensor([[2.0], [0.0]]))  # a whole width: out of the image
    images = torch.zeros(4, 1, 16, 16)
    images[0] = 1
    found = survey(net_of(layer), images)
    assert found is not None
    assert found.coverage is not None
    assert torch.equal(found.coverage[0], torch.full((32, 32), 0.75))
    assert found.outside[:, 0].tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("family", tables.TRANSFORMS)
def test_every_number_of_theta_has_a_name_of_its_own(family):
    transform = tables.TRANSFORMS[family].make()
    names = theta_names(transform)
    assert len(set(names)) == len(names) == transform.num_params


def test_names_say_what_numbers_do():
    assert theta_names(stn.Affine()) == ("xx", "xy", "t_x", "yx", "yy", "t_y")
    assert theta_names(stn.Projective())[6:] == ("wx", "wy")
    assert theta_names(stn.Attention(scale=0.5)) == ("t_x", "t_y")
    assert theta_names(stn.Similarity(3))[1:4] == ("turn_x", "turn_y", "turn_z")
    tps = stn.ThinPlateSpline((2, 3))
    assert theta_names(tps)[3] == "node 1 y"
    both = stn.Compose(stn.Rigid(), stn.Translation())
    assert theta_names(both)[-1] == "step 2: t_y"


def frames_of(theta, images):
    return Frames(torch.arange(len(theta)) * 5, theta, images)


def test_diagnostics_over_time():
    layer = still(stn.Affine())
    theta = torch.zeros(3, 2, 6)
    theta[1] = torch.tensor([1.0, 0, 0, 0, 1.0, 0])  # twice as large
    theta[2] = torch.tensor([-2.0, 0, 0, 0, 0, 0])  # mirrored
    lines = diagnosed(layer, frames_of(theta, torch.rand(2, 1, 32, 32)), 32)
    assert [line["samples_seen"] for line in lines] == [0, 160, 320]
    assert [line["outside_percent"] for line in lines] == pytest.approx([0, 75, 0])
    assert [line["folded_percent"] for line in lines] == pytest.approx([0, 0, 100])
    assert [line["scale"] for line in lines] == pytest.approx([1, 2, 1])


def film_page(tmp_path, film):
    write_report([RunView("run", {}, None, film=film)], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    found = re.search(r'<script type="application/json">(.*?)</script>', page)
    assert found is not None
    return page, json.loads(found[1])


def test_a_film_shows_grids_and_outputs_of_every_moment(tmp_path):
    layer = still(stn.Rigid(), (12, 10))
    images = torch.rand(3, 1, 32, 32)
    theta = torch.linspace(0, 1, 4)[:, None, None] * torch.tensor([0.5, 0.1, -0.2]).expand(3, 3)
    film = make_film(layer, frames_of(theta, images))
    assert film is not None
    assert film.steps == [0, 5, 10, 15]
    assert film.outputs.shape == (3, 1, 1, 4 * 12, 10)
    for moment in range(4):
        strip = film.outputs[:, 0, :, 12 * moment : 12 * moment + 12]
        torch.testing.assert_close(strip, layer.warp(images, theta[moment]))
    page, data = film_page(tmp_path, film)
    assert data["told"] == ["before training", "after 5 images", "after 10 images",
                            "after 15 images"]  # fmt: skip
    assert len(data["paths"]) == 3
    assert all(len(own) == 4 for own in data["paths"])
    # The first moment is the identity: a square over the whole image, in tenths of a pixel.
    assert data["paths"][0][0].startswith("M-5 -5l32 0 32 0")
    assert f'd="{data["paths"][2][3]}"' in page


def test_a_path_is_read_back_as_the_lines():
    theta = torch.tensor([[0.3, 0.1, -0.1]])
    lines = [line[0] for line in grid_lines(stn.Rigid(), theta, (20, 30))]
    pieces = path_of(lines, (20, 30)).split("M")[1:]
    assert len(pieces) == len(lines) == 22
    for piece, line in zip(pieces, lines, strict=True):
        start, rest = piece.split("l")
        numbers = torch.tensor([float(v) for v in f"{start} {rest}".split()]).view(-1, 2)
        torch.testing.assert_close(numbers.cumsum(0) / 10, line.float(), atol=0.051, rtol=0)


def test_long_trainings_large_outputs_and_many_windows_stay_small():
    shape = (3, 160, 200)
    many = stn.ParallelTransformers(
        stn.nn.DenseLocalization(shape), stn.Attention(), 3, initial_theta="tile"
    )
    theta = 0.1 * torch.randn(200, 4, 3, 3)
    film = make_film(many, frames_of(theta, torch.rand(4, *shape)))
    assert film is not None
    assert len(film.steps) == MOMENTS
    assert film.steps[0] == 0
    assert film.steps[-1] == 995
    assert film.outputs.shape == (2, 3, 3, MOMENTS * 51, OUTPUT_PX)
    assert make_film(still(stn.Affine(3), shape=(1, 4, 4, 4)), frames_of(
        torch.zeros(2, 1, 12), torch.rand(1, 1, 4, 4, 4))) is None  # fmt: skip


def test_tensorboard_gets_pictures_and_numbers(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    many = stn.ParallelTransformers(
        stn.nn.DenseLocalization((1, 28, 28)), stn.Attention(), 2, (9, 9), initial_theta="tile"
    )
    with SummaryWriter(str(tmp_path)) as writer:
        log_transformer(writer, net_of(many), torch.rand(8, 1, 28, 28), 3, tag="look")
    found = EventAccumulator(str(tmp_path)).Reload()
    (picture,) = found.Images("look/regions")
    assert (picture.step, picture.width, picture.height) == (3, 312 + 2 * (8 + 243), 6 * 312)
    (scale,) = found.Scalars("look/scale")
    windows = many.theta(torch.rand(1, 1, 28, 28))[0, :, 0].exp()
    assert scale.value == pytest.approx(windows.mean().item(), rel=1e-4)
    assert set(found.Tags()["histograms"]) == {f"look/theta {n}" for n in ("log s", "t_x", "t_y")}
