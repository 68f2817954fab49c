"""Co-localisation: the run folder, going on, and what its parts promise."""

import itertools
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from stn.data import Split, Splits, digit_boxes, iou
from stn.models import ColocalizerSpec, NetSpec, load_model
from stn.recipes import make_experiment, publish_models, read_experiment, run_experiment
from stn.recipes.colocalization import CANVAS, Encoder, part_name, random_patches
from stn.recipes.search import Search
from stn.training import TrainingConfig
from stn.training.checkpoint import write_tensors

RECIPE = "mnist-colocalization-cluttered"


@pytest.fixture(scope="module")
def splits():
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(256, (1000, 28, 28), generator=draw, dtype=torch.uint8)
    split = Split(images, torch.arange(1000) % 10)
    return Splits(split, Split(images[:100], split.labels[:100]), split)


def short():
    experiment = make_experiment(RECIPE, "st-attention")
    training = TrainingConfig(steps=2, evaluate_every=1, batch_size=8)
    net = ColocalizerSpec(reader=NetSpec("cnn", (1, 28, 28), budget=20_000))
    return replace(experiment, steps=2, net=net, encoder_training=training)


def test_a_run_and_its_parts(tmp_path, splits):
    results = run_experiment(short(), tmp_path, splits, cpu=True)
    assert len(results["correct_percent"]) == len(results["mean_iou"]) == 10
    mean = sum(results["correct_percent"]) / 10
    assert results["test_error_percent"] == pytest.approx(100 - mean)
    assert results["recipe"] == RECIPE
    assert results["seed"] == 0
    # What is there is not computed again.
    (tmp_path / "results.json").unlink()
    part(tmp_path, 3, 0, loss=2.5, correct=77)
    assert run_experiment(short(), tmp_path, splits, cpu=True)["correct_percent"][3] == 77


def part(folder, digit, start, loss, correct):
    found = {"loss": loss, "correct_percent": correct, "mean_iou": 0.7}
    path = folder / f"{part_name(digit, start)}.json"
    path.write_text(json.dumps(found))
    state = ColocalizerSpec().window().state_dict()
    state["head.bias"].fill_(10 * digit + start)
    tensors = {f"window.{name}": value for name, value in state.items()}
    write_tensors(path.with_suffix(".safetensors"), tensors)


def test_the_lowest_loss_is_chosen_not_the_best_windows(tmp_path, splits):
    for digit in range(10):
        part(tmp_path, digit, 0, loss=2.9, correct=90)
        part(tmp_path, digit, 1, loss=2.8, correct=60)
    results = run_experiment(replace(short(), starts=2), tmp_path, splits, cpu=True)
    assert results["chosen_start"] == [1] * 10
    assert results["correct_percent"] == [60] * 10
    assert results["tried"][4][0]["correct_percent"] == 90
    layer = load_model(tmp_path).transformer
    theta = layer.theta(torch.zeros(1, 1, *CANVAS))
    torch.testing.assert_close(theta[0, :, 0], 10 * torch.arange(10.0) + 1)


def test_the_windows_together_are_a_network(tmp_path, splits):
    """What `stn.load_model`, `stn eval`, `stn report` and the card take."""
    experiment = short()
    results = run_experiment(experiment, tmp_path / experiment.folder_name, splits, cpu=True)
    config = json.loads((tmp_path / experiment.folder_name / "config.json").read_text())
    (folder,) = publish_models([results | {"config": config}], tmp_path, tmp_path / "models")
    model = load_model(folder)
    error, count = read_experiment(folder / "config.json").evaluate(model, splits, "test", 0)
    unseen = results["unseen_correct_percent"]
    assert (error, count) == (pytest.approx(100 - sum(unseen) / 10), 1000)
    shown = experiment.shown(splits)
    assert shown.labels.tolist() == [k for k in range(10) for _ in range(10)]

    chances, crops = model(shown.images), model.transformer(shown.images)
    assert crops.shape == (100, 10, 1, 28, 28)
    for k in range(10):  # window k is the one of class k, read as a k
        window = experiment.read_window(tmp_path / experiment.folder_name / part_name(k, 0)).eval()
        torch.testing.assert_close(crops[:, k], window(shown.images))
        said = model.reader(crops[:, k]).log_softmax(-1)
        torch.testing.assert_close(chances[:, k], said[:, k])
    card = (folder / "README.md").read_text()
    assert f"{100 - sum(unseen) / 10:.2f} % of as many others" in card
    assert "logits = model(images)" in card


def test_unseen_images_of_which_each_window_finds_those_in_the_middle(splits):
    model = ColocalizerSpec(reader=short().net.reader).build().eval()
    for k, head in enumerate(model.transformer.head):
        wide = 1 if k == 4 else 1 / 3  # too wide for a digit
        head.bias.data.copy_(torch.tensor([wide, 1, 1]).log())
    shares = short().unseen(model, splits, "test", 0)
    for k, share in enumerate(shares):
        boxes = digit_boxes(short().others(splits, "test", k, 0).pose, CANVAS)
        middle = torch.tensor([28.0, 28.0, 56.0, 56.0])
        expected = 100 * (iou(middle.expand_as(boxes), boxes) > 0.5).double().mean().item()
        assert share == pytest.approx(0 if k == 4 else expected)
    assert max(shares) > 0


def test_the_same_seed_gives_the_same_numbers(tmp_path, splits):
    one, two = (
        run_experiment(short(), tmp_path / name, splits, cpu=True)["mean_iou"] for name in "ab"
    )
    assert one == two


def test_every_seed_has_its_own_images_and_all_share_the_others(splits):
    one, two = short(), replace(short(), seed=1)
    mine, other = one.images(splits, 3), two.images(splits, 3)
    assert mine.images.shape == other.images.shape
    assert not torch.equal(mine.images, other.images)
    assert torch.equal(mine.images, one.images(splits, 3).images)
    held = (made.others(splits, "test", 3, 0).images for made in (one, two))
    assert torch.equal(*held)


def test_windows_start_in_the_middle_at_their_scale():
    layer = ColocalizerSpec().window(0.5).eval()
    theta = layer.theta(torch.rand(3, 1, *CANVAS))
    expected = torch.tensor([0.5]).log().item()
    torch.testing.assert_close(theta, torch.tensor([[expected, 0.0, 0.0]]).expand(3, 3))


def test_the_scale_stays_then_narrows_then_is_learned(tmp_path, splits):
    narrow = replace(short(), steps=12, still=0.5, still_scale=1 / 3)
    for digit in range(1, 10):
        part(tmp_path, digit, 0, loss=2.5, correct=77)
    run_experiment(narrow, tmp_path, splits, cpu=True)
    log_scale = load_file(tmp_path / f"{part_name(0, 0)}.safetensors")["path"][..., 0]
    expected = torch.tensor([0.5] * 3 + [1 / 3] * 4).log()  # where learning begins, too
    torch.testing.assert_close(log_scale[:7], expected.unsqueeze(1).expand(7, 100))
    assert (log_scale[-1] != log_scale[6]).all()


def test_random_patches_are_pieces_of_the_image():
    image = torch.arange(84.0).expand(200, 1, 84, 84)  # every column its number
    patches = random_patches(image, torch.Generator().manual_seed(0))
    torch.testing.assert_close(patches.diff(dim=-1), torch.ones(200, 1, 28, 27), atol=1e-3, rtol=0)
    starts = patches[:, 0, 0, 0]
    assert starts.min() < 5
    assert starts.max() > 51


def test_the_encoder_gives_activations_in_a_row_one_apart():
    torch.manual_seed(0)
    network = NetSpec(name="cnn", shape=(1, 28, 28), budget=20_000).build().eval()
    digits = torch.rand(50, 1, 28, 28)
    e = Encoder(network, digits)(digits)
    assert (e - e.roll(1, 0)).norm(dim=-1).mean().item() == pytest.approx(1, rel=1e-4)
    logits = network(digits)
    torch.testing.assert_close(e[:, -10:] / logits, (e[0, -1] / logits[0, -1]).expand(50, 10))


def test_search_finds_the_pattern_that_all_images_share():
    """A cross in every image, and a blot somewhere; told the window of the first cross."""
    draw = torch.Generator().manual_seed(0)
    images, scale = torch.zeros(20, 1, 80, 80), 0.5
    steps = torch.randint(9, (20, 2), generator=draw)
    for image, (kx, ky) in zip(images, (steps * 5).tolist(), strict=True):  # a window every 5 px
        image[0, ky + 10 : ky + 30, kx + 18 : kx + 22] = 1
        image[0, ky + 18 : ky + 22, kx + 10 : kx + 30] = 1
        blot = torch.randint(60, (2,), generator=draw)
        image[0, blot[0] : blot[0] + 8, blot[1] : blot[1] + 8] = 0.5
    search = Search(torch.nn.Flatten(), images, scale, 28)
    first = search.features[0, 9 * steps[0, 1] + steps[0, 0]]
    torch.testing.assert_close(search.common(first.unsqueeze(0)), (steps / 4 - 1) * (1 - scale))


@pytest.mark.parametrize("column", ["faithful", "best"])
def test_columns(column, tmp_path, splits):
    made = make_experiment(RECIPE, "st-attention", column)
    assert (made.search_every > 0) == (column == "best")
    tiny = replace(made, steps=2, starts=2, net=short().net)
    tiny = replace(tiny, encoder_training=short().encoder_training)
    for digit, start in itertools.product(range(1, 10), range(2)):  # one digit is left to train
        part(tmp_path, digit, start, loss=2.5, correct=77)
    results = run_experiment(tiny, tmp_path, splits, cpu=True)
    assert len(results["tried"][0]) == 2
    assert results["correct_percent"][1:] == [77] * 9


def test_errors():
    with pytest.raises(ValueError, match="has one model, st-attention, got 'fcn'"):
        make_experiment(RECIPE, "fcn")
    with pytest.raises(ValueError, match="has its own epochs and lr"):
        make_experiment(RECIPE, "st-attention", epochs=3)
