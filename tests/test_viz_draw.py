"""Pictures from Python: lines stand where the warp reads, colours say what they mean."""

import doctest
import importlib
import re
import runpy
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

import stn
from stn.viz.flow import one_row

matplotlib.use("Agg")
MODULES = ("animate", "board", "draw", "flow", "overlays", "survey")
AFFINE = torch.tensor([-0.4, 0.1, 0.2, -0.15, -0.3, 0.1])


@pytest.fixture(autouse=True)
def close_figures():
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(f"stn.viz.{name}")
    found = doctest.testmod(module, extraglobs={"stn": stn, "torch": torch})
    assert found.attempted
    assert not found.failed


def test_every_public_function_has_a_docstring():
    for name in stn.viz.__all__:
        assert getattr(stn.viz, name).__doc__, name


def test_viz_is_there_after_import_stn_and_loads_nothing_heavy():
    code = (
        "import sys, stn; assert 'stn.viz' not in sys.modules; stn.viz.draw_grid; "
        "assert not {'matplotlib', 'PIL', 'accelerate'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    with pytest.raises(AttributeError, match="no attribute 'vis'"):
        stn.vis  # noqa: B018


@pytest.mark.parametrize("align_corners", [False, True])
def test_the_grid_is_drawn_where_the_warp_reads(align_corners):
    image = torch.rand(1, 20, 30)
    options = {"cells": 4, "align_corners": align_corners}
    ax = stn.viz.draw_grid(image, stn.Affine(), AFFINE, **options)
    rows, dot = ax.lines[:5], ax.lines[-1]
    # By hand: the corners and the middle of the output, and where Affine takes them.
    matrix = AFFINE.view(2, 3) + torch.eye(2, 3)
    less = 1 if align_corners else 0
    size = torch.tensor([30.0, 20.0])
    for row, y in ((0, -1.0), (2, 0.0), (4, 1.0)):
        for end, x in ((0, -1.0), (-1, 1.0)):
            source = matrix @ torch.tensor([x, y, 1.0])
            px = (source + 1) / 2 * (size - less) - (0.5 - less / 2)
            found = [axis[end] for axis in rows[row].get_data()]
            assert found == pytest.approx(px.tolist(), abs=1e-4)
    assert [float(v[0]) for v in dot.get_data()] == pytest.approx(
        [float(v[0]) for v in rows[0].get_data()]
    )
    assert ax.images[0].get_array().shape == (20, 30)


def test_axes_that_are_given_are_used():
    from matplotlib.figure import Figure

    axes = Figure().subplots(2, 2)
    tps = stn.ThinPlateSpline((3, 3))
    theta = 0.1 * torch.randn(1, tps.num_params)
    image = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    assert stn.viz.draw_grid(image, tps, theta, axes[0, 0]) is axes[0, 0]
    assert stn.viz.draw_control_points(image, tps, theta, axes[0, 1]) is axes[0, 1]
    pair = stn.viz.draw_warp(image, tps, theta, tuple(axes[1]), size=(6, 7))
    assert pair == tuple(axes[1])
    assert np.array_equal(axes[0, 0].images[0].get_array(), image)
    assert axes[1, 1].images[0].get_array().shape == (6, 7, 3)
    expected = stn.warp(torch.tensor(image).movedim(-1, 0)[None] / 255, tps, theta, (6, 7))
    shown = torch.tensor(axes[1, 1].images[0].get_array()).movedim(-1, 0) / 255
    assert (shown - expected[0]).abs().max() <= 0.5 / 255 + 1e-5


def test_control_points_stand_at_nodes_and_point_to_where_they_read():
    tps = stn.ThinPlateSpline((2, 3))
    theta = torch.zeros(12)
    theta[0] = 0.5  # node 0, x: a quarter of the width
    ax = stn.viz.draw_control_points(torch.rand(10, 20), tps, theta)
    here, there = (np.array(line.get_data()).T for line in ax.lines)
    assert here[0] == pytest.approx([-0.5, -0.5])
    assert here[-1] == pytest.approx([19.5, 9.5])
    moved = np.zeros((6, 2))
    moved[0, 0] = 5.0
    np.testing.assert_allclose(there - here, moved, atol=1e-4)


def test_behind_the_horizon_nothing_is_drawn():
    theta = torch.zeros(8)
    theta[6] = 1.5  # w <= 0 on the left
    whole = stn.viz.draw_grid(torch.rand(20, 20), stn.Projective(), torch.zeros(8))
    cut = stn.viz.draw_grid(torch.rand(20, 20), stn.Projective(), theta)
    assert 0 < len(cut.lines) < len(whole.lines)
    for line in cut.lines:
        assert np.isfinite(np.array(line.get_data(), dtype=float)).all()


@pytest.mark.parametrize("align_corners", [False, True])
def test_flow_is_that_of_warp_flow(align_corners):
    image = torch.rand(1, 2, 11, 17, dtype=torch.float64)
    for transform, theta in ((stn.Affine(), AFFINE), (stn.Projective(), torch.full((8,), 0.05))):
        flow = stn.viz.flow_of(transform, theta, (11, 17), align_corners)
        torch.testing.assert_close(
            stn.warp_flow(image, flow[None]),
            stn.warp(image, transform, theta[None].double(), align_corners=align_corners),
            atol=1e-5, rtol=0,
        )  # fmt: skip
    assert stn.viz.flow_of(stn.Affine(3), torch.zeros(12), (2, 3, 4)).shape == (2, 3, 4, 3)


def test_what_a_basis_draws_is_computed_where_the_basis_is():
    basis = stn.LearnedBasis(2, (4, 4)).to("meta")
    for transform, device in ((basis, "meta"), (stn.Affine(), "cpu")):
        assert one_row(transform, torch.zeros(transform.num_params)).device.type == device


def test_colours_turn_round_the_wheel_and_fade_to_white():
    flow = torch.tensor([[4.0, 0], [0, 4.0], [-4.0, 0], [0, -4.0], [2.0, 0], [0, 0]])
    right, down, left, up, half, still = stn.viz.flow_colors(flow)
    assert right.tolist() == [1, 0, 0]
    assert down[0] > 0.9
    assert down[1] > 0.85
    assert down[2] == 0  # yellow
    assert left[0] == 0
    assert left[1:].min() > 0.5  # cyan
    assert up[2] == 1
    assert up[:2].max() < 0.5  # blue
    assert half.tolist() == [1, 0.5, 0.5]
    assert still.tolist() == [1, 1, 1]
    beyond, lost = stn.viz.flow_colors(np.array([[8.0, 0], [np.nan, 0]]), largest_px=4)
    assert beyond.tolist() == [0.75, 0, 0]
    assert lost.tolist() == [0, 0, 0]
    wheel = stn.viz.flow_wheel(51)
    assert wheel[25, 25].min() > 0.95
    assert wheel[0, 0].tolist() == [1, 1, 1]
    assert wheel[25, 50].tolist() == pytest.approx([1, 0.02, 0.02], abs=0.03)


def test_arrows_of_a_flow():
    flow = torch.zeros(40, 60, 2)
    flow[..., 0] = 3
    ax = stn.viz.draw_flow(flow, image=torch.rand(40, 60), every_px=10)
    arrows = ax.collections[0]
    assert len(arrows.get_offsets()) == 4 * 6
    assert arrows.U.tolist() == [3] * 24
    assert arrows.V.tolist() == [0] * 24


def test_side_by_side_keeps_pixels():
    a, b = np.zeros((4, 3, 3), np.uint8), torch.ones(1, 8, 2)
    b[:] = 0.5
    page = stn.viz.side_by_side([a, b])
    assert page.shape == (8, 3 + 8 + 2, 3)
    assert (page[2:6, :3] == 0).all()
    assert (page[:, 11:] == 128).all()
    page[2:6, :3] = page[:, 11:] = 255
    assert (page == 255).all()


def test_an_animation_moves(tmp_path):
    thetas = torch.tensor([[0.0, 0.0], [0.5, 0.0], [1.0, 0.0]])
    image = torch.zeros(16, 16)
    image[:, 8:] = 1
    path = stn.viz.animate_warp(
        image, stn.Translation(), thetas, tmp_path / "move.gif", frame_s=0.1
    )
    assert [file.name for file in tmp_path.iterdir()] == ["move.gif"]
    light = []
    with Image.open(path) as film:
        assert film.n_frames == 3
        assert film.info["duration"] == 100
        for number in range(3):
            film.seek(number)
            right = np.asarray(film.convert("L"))[150, -240:]
            light.append(np.flatnonzero(right > 200).mean())
    assert light == pytest.approx([180, 120, 60], abs=2)  # the white half moves to the left


def test_the_pictures_of_the_page_can_be_drawn_again(tmp_path):
    docs = Path(__file__).parent.parent / "docs"
    runpy.run_path(str(docs / "draw_viz.py"))["main"](tmp_path)
    drawn = {path.name for path in tmp_path.iterdir()}
    shown = set(re.findall(r"images/([\w.-]+)\)", (docs / "looking.md").read_text()))
    assert shown - drawn == {"viz-report.png"}  # of a trained run
    assert drawn < shown
    for name in shown:
        assert (docs / "images" / name).exists()


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda v: v.draw_grid(torch.rand(2, 1, 8, 8), stn.Affine(), AFFINE), "one image"),
        (lambda v: v.draw_grid(torch.rand(8, 8), stn.Affine(), AFFINE.repeat(2, 1)), r"theta\[0\]"),
        (lambda v: v.draw_grid(torch.rand(8, 8), stn.Affine(3), torch.zeros(12)), "two dimensions"),
        (lambda v: v.draw_control_points(torch.rand(8, 8), stn.Affine(), AFFINE), "draw_grid"),
        (lambda v: v.flow_colors(torch.rand(1, 2, 8, 8)), "movedim"),
        (lambda v: v.flow_colors(torch.rand(8, 8, 2), 0.0), "largest_px"),
        (lambda v: v.draw_flow(torch.rand(8, 8)), r"\(H, W, 2\)"),
        (lambda v: v.side_by_side([]), "at least one image"),
        (lambda v: v.animate_warp(torch.rand(8, 8), stn.Affine(), AFFINE, "x.gif"), r"\(T, P\)"),
        (
            lambda v: v.log_transformer(None, torch.nn.Identity(), torch.rand(1, 1, 4, 4), 0),
            "has no",
        ),
    ],
)
def test_what_the_user_can_mend(call, told):
    with pytest.raises(ValueError, match=told) as error:
        call(stn.viz)
    assert "\n" not in str(error.value)
