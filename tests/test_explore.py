"""What the explorer computes: the table of families, distortions, words, limits, time."""

import inspect
import json
import math
import statistics
import time

import pytest
import torch
from PIL import Image

import stn
from stn.cli import main
from stn.explore import build, drawing, playground
from stn.explore.controls import handles_value, points_of
from stn.explore.families import FAMILIES, named_points, theta_of_points
from stn.explore.network import (
    DIGIT_PX,
    PAD_PX,
    Distortion,
    Source,
    Viewer,
    distort,
    in_words,
    read_drawing,
    typed_digit,
)
from stn.explore.network_tab import START, Shown, read_source
from stn.explore.playground import Sampler
from stn.models import NetSpec, PartsSpec, SvhnSpec
from stn.recipes.predict import predict
from stn.training import write_json, write_tensors
from stn.transforms import Transform
from stn.viz.pictures import image_address

# Five times what is promised on two quiet cores, as tests share theirs.
DIGIT_S, PHOTO_S = 0.5, 1.5


def write_run(folder, spec, recipe="mnist-rts", **more):
    """A run whose network is untrained, but for a transformer that does not look straight on."""
    torch.manual_seed(0)
    model = spec.build()
    for name, parameter in model.named_parameters():
        if name.startswith("transformer.head") and name.endswith("bias"):
            parameter.data += torch.linspace(-0.2, 0.3, len(parameter))
    write_tensors(folder / "model.safetensors", model.state_dict())
    net = {name: getattr(spec, name) for name in spec.__dataclass_fields__}
    write_json(folder / "config.json", {"recipe": recipe, "model": "net", "net": net, **more})
    return folder


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    spec = NetSpec("st-cnn-similarity", (1, 42, 42), size=(28, 28), antialias=True)
    return Viewer(write_run(tmp_path_factory.mktemp("digits"), spec))


def test_the_table_holds_every_family():
    public = {
        name
        for name in stn.__all__
        if inspect.isclass(getattr(stn, name)) and issubclass(getattr(stn, name), Transform)
    }
    assert set(FAMILIES) == public


@pytest.mark.parametrize("name", FAMILIES)
def test_sliders_or_handles_reach_every_number(name):
    family, transform = FAMILIES[name], FAMILIES[name].make((40, 60))
    assert type(transform).__name__ == name
    assert len(family.numbers) == (0 if family.handles == "nodes" else transform.num_params)
    theta = torch.linspace(-0.1, 0.15, transform.num_params)
    points, names = named_points(family, transform, theta)
    assert len(points) == len(names)
    if family.handles:
        torch.testing.assert_close(
            theta_of_points(family, transform, points), theta, atol=1e-4, rtol=0
        )
    with pytest.raises(ValueError, match="points, got 7; choose it again"):
        theta_of_points(family, transform, torch.zeros(7, 2))


def test_a_corner_that_is_dragged_far_stays_within_the_sliders():
    family, transform = FAMILIES["Affine"], FAMILIES["Affine"].make((40, 60))
    theta = theta_of_points(family, transform, torch.tensor([[-9.0, -9], [9, -9], [9, 9], [-9, 9]]))
    assert theta.abs().max() <= 1.5


def blob(at_px, size=(42, 42), width=1.5):
    y, x = torch.meshgrid(*[torch.arange(n) + 0.5 for n in size], indexing="ij")
    return (-((x - at_px[0]) ** 2 + (y - at_px[1]) ** 2) / (2 * width**2)).exp()[None]


def centre(image):
    mass = image[0] / image[0].sum()
    height, width = image.shape[-2:]
    x = (mass.sum(0) * (torch.arange(width) + 0.5)).sum()
    return float(x), float((mass.sum(1) * (torch.arange(height) + 0.5)).sum())


NODES = stn.ThinPlateSpline((3, 3)).control_points.float()


@pytest.mark.parametrize(
    ("distortion", "place"),
    [
        (Distortion(), (31, 21)),
        (Distortion(angle_deg=90), (21, 31)),  # clockwise as displayed
        (Distortion(scale=0.5), (26, 21)),
        (Distortion(shift_x=-0.25), (20.5, 21)),
        (Distortion(shift_y=0.25), (31, 31.5)),
        (Distortion(tilt_x=0.5), (21 + 10 / (1 + 0.5 * 10 / 21), 21)),
        (Distortion(points=NODES + torch.tensor([0.0, 0.5])), (31, 31.5)),
    ],
    ids=["none", "angle", "scale", "right", "down", "tilt", "bend"],
)
def test_a_distortion_moves_what_is_seen(distortion, place):
    source = Source(blob((31, 21)), (21.0, 21.0), (1.0, 1.0))
    assert centre(distort(source, distortion, (42, 42))) == pytest.approx(place, abs=0.15)


def test_a_drawing_becomes_as_large_as_mnists_and_centred(digits):
    drawn = torch.zeros(1, 112, 112)
    drawn[0, 10:90, 20:30] = 1  # a stroke at the left, 80 px high
    canvas = distort(digits.source_of_drawing(drawn), Distortion(), digits.size)
    rows = (canvas[0] > 0.5).any(1).nonzero()
    assert int(rows[-1] - rows[0]) + 1 == DIGIT_PX
    assert centre(canvas) == pytest.approx((21, 21), abs=0.1)
    blank = digits.source_of_drawing(torch.zeros(1, 112, 112))
    assert distort(blank, Distortion(), digits.size).abs().max() == 0


def test_ink_on_paper_is_turned_to_white_on_black(digits, tmp_path):
    paper = 1 - typed_digit(7)
    Image.fromarray((paper[0] * 255).byte().numpy()).save(tmp_path / "paper.png")
    seen = distort(read_source(digits, str(tmp_path / "paper.png")), Distortion(), digits.size)
    wanted = distort(digits.source_of_drawing(typed_digit(7)), Distortion(), digits.size)
    assert (seen - wanted).abs().mean() < 0.02


def test_what_is_seen_is_what_the_network_gets(digits):
    source = digits.source_of_drawing(typed_digit(3))
    seen = digits.look(source, Distortion(angle_deg=20), drawing.lattice())
    canvas = seen.canvas[None]
    with torch.no_grad():
        torch.testing.assert_close(seen.chances, digits.model(canvas)[0].softmax(-1))
        layer = digits.model.transformer
        torch.testing.assert_close(seen.outputs, layer(canvas))
        torch.testing.assert_close(seen.theta, layer.theta(canvas))
    corner = layer.transform.map_points(seen.theta, -torch.ones(1, 2))
    torch.testing.assert_close(seen.grids[0, 0, 0], corner[0, 0])


@pytest.mark.parametrize(
    ("theta", "words"),
    [
        (
            (0.0, 0.0, 0.0, 0.0),
            "100 % of the image's size, upright, 0.0 px left of and 0.0 px above",
        ),
        (
            (math.log(0.5), math.pi / 6, 0.0, 0.0),
            "50 % of the image's size, turned by 30° clockwise",
        ),
        ((0.0, -math.pi / 6, 0.5, -0.25), "30° anticlockwise, 15.0 px right of and 2.5 px above"),
    ],
)
def test_theta_in_words(theta, words):
    transform = stn.Similarity(aspect=(60, 20))
    theta, middle = torch.tensor([theta]), torch.zeros(1, 2)
    slope, place = (
        transform.jacobian(theta, middle)[0, 0],
        transform.map_points(theta, middle)[0, 0],
    )
    assert words in in_words(slope, place, (20, 60))


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        (NetSpec("st-fcn-affine", (3, 32, 32)), 1),
        (PartsSpec((3, 48, 48), 3), 1),
        (SvhnSpec("st-cnn-single", (3, 32, 32), width=0.05), 5),
    ],
    ids=["digits", "no transformer", "house numbers"],
)
def test_a_folder_of_save_pretrained_is_shown_and_predicts(tmp_path, spec, parts):
    folder = spec.build().save_pretrained(tmp_path / "mine")
    viewer = Viewer(folder)
    assert viewer.title == "mine"
    show = Shown(viewer)
    _, _, result = show(viewer.source_of_picture(torch.rand(3, 40, 50)), *START, show.straight)
    assert result.count('class="scores"') == parts
    assert ("<span>t_x</span>" in result) == (viewer.model.transformer is not None)
    Image.new("RGB", (50, 40)).save(tmp_path / "black.png")
    (found,) = predict(folder, [tmp_path / "black.png"])
    assert set(found.told["label"]) <= {*"0123456789"}


def test_a_title_is_escaped(tmp_path):
    pytest.importorskip("gradio", reason="gradio is not installed: pip install -e '.[dev]'")
    spec = NetSpec("st-fcn-affine", (1, 28, 28))
    page = build(Viewer(write_run(tmp_path, spec, "<img src=x onerror=alert(1)>")))
    shown = [str(one["props"].get("value")) for one in page.config["components"]]
    assert not [value for value in shown if "<img src=x" in value]
    assert "<h1>stn explorer: &lt;img src=x onerror=alert(1)&gt;, net</h1>" in shown


def test_pictures_and_their_windows(tmp_path):
    spec = PartsSpec((3, 48, 48), 12, transform="attention", num=2, scale=0.5, size=(24, 24))
    names = [f"<{k}>" for k in range(12)]
    viewer = Viewer(write_run(tmp_path, spec, "images", names=names, fit="pad"))
    show = Shown(viewer)
    photo = torch.rand(3, 100, 200)
    canvas, lines, result = show(viewer.source_of_picture(photo), *START, show.straight)
    assert 'width="48"' in canvas
    assert 'class="region of-1"' in lines
    assert result.count("<figure>") == 2
    assert result.count("<li") == 10 + 2 * 2  # of 12 classes the ten most likely; theta
    assert "&lt;" in result
    assert "<3>" not in result
    seen = distort(viewer.source_of_picture(photo), Distortion(), viewer.size)
    assert seen[:, :11].abs().max() == 0  # padded above and below, as in training
    assert seen[:, 13:35].min() > 0


def test_antialias_and_kernels_side_by_side_are_those_of_the_library():
    photo, transform = playground.start_chart(), stn.Rigid()
    theta, size = torch.tensor([0.3, 0.0, 0.1]), (64, 64)
    for compared, names in (("kernel", playground.MODES), ("padding", playground.PADDINGS)):
        shown = playground.side_by_side(photo, transform, theta, Sampler(), size, compared)
        assert [name for name, _ in shown] == list(names)
    (_, plain), (_, smooth) = playground.side_by_side(
        photo, transform, theta, Sampler(), size, "antialias"
    )
    for out, antialias in ((plain, False), (smooth, True)):
        wanted = stn.warp(photo[None], transform, theta[None], size, antialias=antialias)[0]
        torch.testing.assert_close(out, wanted.clamp(0, 1), atol=2e-3, rtol=0)
    assert (plain - smooth).abs().mean() > 0.05
    sharp = playground.play(photo, transform, theta, Sampler("nearest", antialias=True), size)
    assert sharp.isfinite().all()


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_plays(name):
    transform = playground.transform_of(name, (32, 40))
    theta = torch.full((transform.num_params,), 0.05)
    out = playground.play(torch.rand(3, 32, 40), transform, theta, Sampler(), (16, 20))
    assert out.shape == (3, 16, 20)
    assert out.isfinite().all()


@pytest.mark.parametrize("name", ["Velocity", "CPAB"])
def test_flows_are_drawn_to_a_thousandth_of_the_width(name):
    transform, size = playground.transform_of(name, (96, 128)), (96, 128)
    theta = 0.2 * torch.randn(transform.num_params)
    exact = transform.grid(theta[None], size)
    drawn = playground.grid_of(transform, theta, size)
    assert (exact - stn.Affine().grid(torch.zeros(1, 6), size)).abs().max() > 0.1
    assert (drawn - exact).abs().max() / 2 < 1e-3


def test_what_is_sent_is_checked(tmp_path):
    with pytest.raises(ValueError, match="the drawing is no PNG"):
        read_drawing("data:image/png;base64,%%%")
    with pytest.raises(ValueError, match="the drawing is no PNG"):
        read_drawing("file:///etc/passwd")
    for side in (PAD_PX, 9_000):  # the larger one is small as a file
        black = image_address(torch.zeros(side, side))
        assert len(black) < 200_000
        if side == PAD_PX:
            assert read_drawing(black).shape == (1, PAD_PX, PAD_PX)
        else:
            with pytest.raises(ValueError, match="the drawing is no PNG"):
                read_drawing(black)
    for damaged in (None, "{", '{"points": [["a", 1]]}', '{"points": [1, 2, 3]}'):
        with pytest.raises(ValueError, match="reload it"):
            points_of(damaged)
    torch.testing.assert_close(
        points_of(handles_value(torch.tensor([[0.5, 9.0]]), ["a"], (4, 4))),
        torch.tensor([[0.5, 2.0]]),
    )
    (tmp_path / "notes.png").write_text("no image")
    with pytest.raises(ValueError, match=r"notes\.png is no image that can be read"):
        playground.read_photo(tmp_path / "notes.png")
    Image.new("1", (9000, 9000)).save(tmp_path / "huge.png")
    with pytest.raises(ValueError, match="more than 67 million: shrink it"):
        playground.read_photo(tmp_path / "huge.png")


def test_photos_are_shrunk_and_stand_upright(tmp_path):
    image = Image.new("RGB", (1200, 600))
    exif = image.getexif()
    exif[0x0112] = 6  # on its side
    image.save(tmp_path / "phone.jpg", exif=exif)
    assert playground.read_photo(tmp_path / "phone.jpg").shape == (3, 512, 256)


def test_runs_that_cannot_be_shown_are_refused(tmp_path, capsys):
    volumes = NetSpec("st-fcn-affine", (1, 12, 12, 12), budget=60_000)
    assert main(["explore", str(write_run(tmp_path, volumes))]) == 2
    assert "leave the folder out, or name another run" in capsys.readouterr().err
    assert main(["explore", str(tmp_path / "none")]) == 2
    assert "holds no config.json" in capsys.readouterr().err


def median_s(call, count=5):
    call()
    times = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def test_a_slider_is_answered_in_time(digits):
    show = Shown(digits)
    source = digits.source_of_drawing(typed_digit(5))
    assert median_s(lambda: show(source, 17, *START[1:], show.straight)) < DIGIT_S


def test_a_photo_is_answered_in_time():
    from stn.explore.playground_tab import playing, result

    photo = torch.rand(3, 512, 512)

    def answer():
        play = playing(photo, "Projective", None, (0.1,) * 8)
        return play.lines(), play.points(), result(play, "bilinear", "zeros", False, "full")

    assert json.loads(answer()[1])["names"][0] == "top left"
    assert median_s(answer) < PHOTO_S
