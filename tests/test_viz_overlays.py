"""Example images: which are chosen, and where their outlines are."""

import pytest
import torch
from PIL import Image
from torch import nn

import stn
from stn import coords
from stn.recipes.predict import _Place
from stn.viz import Examples, collect_examples, draw_examples, region_outline, survey
from stn.viz.overlays import inspect, outlines_of
from stn.viz.pictures import displayable, polylines


class Net(nn.Module):
    """A classifier behind a transformer; it answers with the logits that it is given."""

    def __init__(self, logits, transformer=None):
        super().__init__()
        self.transformer = transformer
        self.logits = nn.Parameter(logits)

    def forward(self, x):
        # Images carry their own index in the first pixel.
        assert not self.training
        return self.logits[x[:, 0, 0, 0].round().long()]


def test_what_stands_before_the_transformer_comes_first():
    net = Net(torch.zeros(1, 3), layer(stn.Affine()))
    nn.init.normal_(net.transformer.head.weight)
    images = torch.rand(4, 1, 6, 8)
    plain = inspect(net, images)
    net.stem = Halved()
    assert torch.equal(inspect(net, images).theta, net.transformer.theta(images / 2))
    assert not torch.equal(inspect(net, images).theta, plain.theta)


class Halved(nn.Module):
    def forward(self, x):
        return x / 2


def numbered(n, size=(6, 8)):
    images = torch.rand(n, 1, *size)
    images[:, 0, 0, 0] = torch.arange(n).float()
    return images


def layer(transform, size=None, align_corners=False, initial_theta=None):
    localization = stn.nn.DenseLocalization((1, 6, 8))
    return stn.SpatialTransformer(
        localization, transform, size, align_corners=align_corners, initial_theta=initial_theta
    )


def test_a_third_at_random_a_third_the_worst_a_third_the_best():
    logits = torch.zeros(10, 2)
    logits[:, 0] = 5.0
    logits[[1, 6, 8], 1] = torch.tensor([40.0, 20.0, 30.0])  # mistakes
    logits[[4, 9], 0] = torch.tensor([8.0, 9.0])
    net = Net(logits).train()
    found = collect_examples(net, numbered(10), torch.zeros(10, dtype=torch.long), 7)
    chosen = found.inputs[:, 0, 0, 0].int().tolist()
    assert found.kinds == ("random",) * 3 + ("worst",) * 2 + ("best",) * 2
    assert chosen[3:] == [1, 8, 9, 4]
    assert len(set(chosen)) == 7
    assert found.predictions[3:].tolist() == [1, 1, 0, 0]
    again = collect_examples(net, numbered(10), torch.zeros(10, dtype=torch.long), 7)
    assert again.inputs[:, 0, 0, 0].int().tolist() == chosen
    assert found.grids is None
    assert found.outputs.shape[:2] == (7, 0)
    expected = torch.tensor([9.0, 0.0]).softmax(0)[0]
    torch.testing.assert_close(found.confidence[5], expected)
    assert net.training


def test_an_answer_that_is_no_number_is_among_the_worst():
    logits = torch.tensor([[5.0, 0.0]]).repeat(6, 1)
    logits[2] = torch.nan
    found = collect_examples(Net(logits), numbered(6), torch.zeros(6, dtype=torch.long), 3)
    assert found.kinds == ("random", "worst", "best")
    assert found.inputs[1, 0, 0, 0] == 2


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (2, 2), (9, 9), (10, 10), (50, 10)])
def test_no_image_is_taken_twice(count, expected):
    logits = torch.tensor([[5.0, 0.0]]).repeat(10, 1)
    found = collect_examples(Net(logits), numbered(10), torch.zeros(10, dtype=torch.long), count)
    assert len(found.inputs[:, 0, 0, 0].unique()) == len(found.kinds) == expected


def test_outputs_and_grids_are_those_of_the_transformer():
    net = Net(torch.zeros(4, 2), layer(stn.Affine(), (3, 5), align_corners=True))
    assert net.transformer is not None
    with torch.no_grad():
        net.transformer.head.bias.copy_(torch.tensor([0.1, 0.2, 0.3, -0.2, 0.1, 0.0]))
    images = numbered(4)
    found = collect_examples(net, images, torch.zeros(4, dtype=torch.long), 4)
    assert found.grids is not None
    assert found.align_corners
    assert found.grids.shape == (4, 1, 3, 5, 2)
    again = stn.grid_sample(found.inputs, found.grids[:, 0], align_corners=True)
    torch.testing.assert_close(found.outputs[:, 0], again)
    seen = survey(net, images, batch_size=3)
    assert seen is not None
    torch.testing.assert_close(seen.before, images.mean((0, 1)))
    torch.testing.assert_close(seen.after, found.outputs.mean((0, 2)))
    assert survey(Net(torch.zeros(4, 2)), images) is None


def test_outputs_of_parallel_transformers_stand_side_by_side():
    localization = stn.nn.DenseLocalization((1, 6, 8))
    many = stn.ParallelTransformers(localization, stn.Attention(), 3, (4, 4), initial_theta="tile")
    net, images = Net(torch.zeros(4, 2), many), numbered(4)
    found = collect_examples(net, images, torch.zeros(4, dtype=torch.long), 2)
    outlines = outlines_of(found)
    assert found.grids is not None
    assert outlines is not None
    assert found.outputs.shape == (2, 3, 1, 4, 4)
    assert outlines.shape[:2] == (2, 3)
    for k in range(3):
        again = stn.grid_sample(found.inputs, found.grids[:, k])
        torch.testing.assert_close(found.outputs[:, k], again)
    seen = survey(net, images)
    assert seen is not None
    assert seen.after.shape == (3, 4, 4)


def test_volumes_are_shown_by_the_mean_over_their_depth():
    localization = nn.Sequential(nn.Flatten(), nn.Linear(5 * 6 * 8, 4))
    layer = stn.SpatialTransformer(localization, stn.Affine(3), (3, 4, 4), num_features=4)

    class Reader(Net):
        def forward(self, x):
            return self.logits[: len(x)]

    volumes = torch.rand(4, 1, 5, 6, 8)
    net = Reader(torch.zeros(4, 2), layer)
    found = collect_examples(net, volumes, torch.zeros(4, dtype=torch.long), 4)
    assert found.grids is None
    order = found.inputs[:, 0, 0, 0].argsort()
    theirs = volumes.mean(2)[:, 0, 0, 0].argsort()
    torch.testing.assert_close(found.inputs[order], volumes.mean(2)[theirs])
    outputs = layer.eval()(volumes).mean(2)
    torch.testing.assert_close(found.outputs[order, 0], outputs[theirs])
    seen = survey(net, volumes)
    assert seen is not None
    assert seen.centres is None
    torch.testing.assert_close(seen.before, volumes.mean((0, 1, 2)))
    torch.testing.assert_close(seen.after[0], outputs.mean((0, 1)))


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        collect_examples(Net(torch.zeros(4, 2)), numbered(4), torch.zeros(4, dtype=torch.long), 0)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(28, 28), (5, 9), (60, 42)])
def test_outline_at_identity_is_the_border(size, align_corners):
    grid = stn.Affine().grid(torch.zeros(1, 6), size, align_corners)[0]
    outline = region_outline(grid, size, align_corners)
    height, width = size
    assert torch.equal(outline[0], outline[-1])
    assert len(outline) == 2 * (height + width) - 3
    edges = torch.tensor([[-0.5, -0.5], [width - 0.5, height - 0.5]])
    assert (outline.amin(0) - edges[0]).abs().max() <= 0.5 + 1e-4
    assert (outline.amax(0) - edges[1]).abs().max() <= 0.5 + 1e-4
    on_border = (outline - edges[0]).abs().amin(-1).minimum((outline - edges[1]).abs().amin(-1))
    assert on_border.max() <= 0.5 + 1e-4


def test_outline_follows_the_transform():
    # The left half of the image: x from -1 to 0.
    theta = torch.tensor([[-0.5, 0.0, -0.5, 0.0, 0.0, 0.0]])
    outline = region_outline(stn.Affine().grid(theta, (40, 40))[0], (20, 20))
    assert outline.amax(0).tolist() == pytest.approx([9.5, 19.5], abs=0.5)
    assert outline.amin(0).tolist() == pytest.approx([-0.5, -0.5], abs=0.5)
    # A quarter turn from x to y: the output's top left reads the image's top right.
    turned = stn.Rigid().grid(torch.tensor([[torch.pi / 2, 0.0, 0.0]]), (20, 20))[0]
    start = region_outline(turned, (20, 20))[0]
    assert start.tolist() == pytest.approx([19.0, 0.0], abs=1e-4)


@pytest.mark.parametrize("align_corners", [False, True])
def test_outlines_of_examples_read_their_own_convention(align_corners):
    inputs, number = torch.rand(2, 1, 6, 8), torch.zeros(2, dtype=torch.long)
    grids = stn.Affine().grid(torch.zeros(2, 6), (6, 8), align_corners)[:, None]
    examples = Examples(
        inputs, inputs[:, None], grids, number, number, torch.rand(2), align_corners
    )
    outlines = outlines_of(examples)
    assert outlines is not None
    corners = [[0, 0], [7, 5]]
    assert outlines[1, 0].amin(0).tolist() == pytest.approx(corners[0], abs=1e-4)
    assert outlines[1, 0].amax(0).tolist() == pytest.approx(corners[1], abs=1e-4)


def test_outlines_are_cut_at_the_horizon():
    theta = torch.zeros(1, 8)
    theta[0, 6] = 1.5  # w <= 0 on the left
    grid = stn.Projective().grid(theta, (10, 10))[0]
    assert not bool(grid.isfinite().all())
    pieces = polylines(region_outline(grid, (10, 10)), (10, 10))
    assert pieces
    assert all(abs(v) <= 50 for piece in pieces for point in piece for v in point)


@pytest.mark.parametrize("channels", [None, 3])
def test_drawn_examples_are_a_png(tmp_path, channels):
    shape = (13, 12, 16) if channels is None else (13, channels, 12, 16)
    inputs = torch.rand(shape)
    grids = stn.Similarity().grid(0.2 * torch.randn(13, 4), (12, 16))
    grids[1] = torch.nan
    grids = torch.stack([grids, grids.flip(0)], 1)
    numbers = torch.arange(13)
    outputs = torch.stack([inputs, inputs], 1)
    examples = Examples(inputs, outputs, grids, numbers, (numbers % 7), torch.rand(13))
    for kept, name in ((examples, "a.png"), (examples._replace(grids=None), "b.png")):
        draw_examples(kept, tmp_path / name, "Title")
        with Image.open(tmp_path / name) as image:
            image.load()
            assert image.width > 600
            assert image.convert("L").getextrema()[0] < 60
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_names_are_no_formulas(tmp_path):
    inputs, number = torch.rand(1, 6, 8), torch.zeros(1, dtype=torch.long)
    examples = Examples(inputs, inputs[:, :0], None, number, number, torch.rand(1), names=("$^$",))
    draw_examples(examples, tmp_path / "a.png", "$^$.jpg")
    assert (tmp_path / "a.png").exists()


@pytest.mark.parametrize("align_corners", [False, True])
def test_the_canvas_lies_on_a_picture_of_another_shape(align_corners):
    place = _Place((32, 32), (20, 40), "pad", align_corners)  # 0.8 of its size, 8 rows of black
    corner = coords.to_normalized(torch.tensor([-0.5, 7.5]), (32, 32), align_corners)
    torch.testing.assert_close(
        place(corner), torch.tensor([-0.5, -0.5]).double(), atol=1e-5, rtol=0
    )


def test_displayable_is_bounded():
    image = torch.tensor([[-1.0, 0.5], [2.0, torch.nan]])
    assert displayable(image).tolist() == [[0, 128], [255, 0]]
    assert displayable(torch.rand(3, 4, 5)).shape == (4, 5, 3)
    assert displayable(torch.rand(2, 4, 5)).shape == (4, 5)
    photo = torch.randint(256, (4, 5, 3), dtype=torch.uint8)
    assert torch.equal(torch.tensor(displayable(photo.numpy())), photo)
    assert torch.equal(torch.tensor(displayable(photo.movedim(-1, 0))), photo)
