"""Where windows land on parts, and what their moving is worth, in closed form."""

import copy
import json
import math

import pytest
import torch
from PIL import Image
from torch import nn

from stn import SpatialTransformer, Translation
from stn.data import CubParts, ImageSet
from stn.data.image_set import Example
from stn.evaluation import error_percent, in_chunks
from stn.models import PartsSpec
from stn.recipes.windows import moving_and_still_error, part_hits

TWO = PartsSpec((3, 40, 40), 2, transform="attention", num=2, scale=0.5, size=(16, 16))
# Centres of two windows of 20 x 20 px on four pictures, px of the canvas.
CENTRES = torch.tensor(
    [
        [[10.0, 20.0], [30.0, 20.0]],
        [[21.9, 20.0], [10.0, 28.1]],
        [[22.1, 20.0], [10.0, 20.0]],
        [[30.0, 20.0], [20.5, 27.9]],
    ]
)


class Reader(nn.Module):
    """Names the middle pixel of what its transformer reads, bright or not."""

    def __init__(self):
        super().__init__()
        corner = nn.Sequential(nn.Flatten(), nn.Linear(25, 2, bias=False))
        nn.init.eye_(corner[1].weight)  # the first two pixels are theta
        self.transformer = SpatialTransformer(corner, Translation(), num_features=2)
        nn.init.eye_(self.transformer.head.weight)

    def forward(self, x):
        middle = self.transformer(x)[:, 0, 2, 2]
        return torch.stack([0.5 - middle, middle - 0.5], -1)


class TestStillError:
    @pytest.fixture
    def images(self):
        """5 x 5 px, the bright pixel 0, 1, 1 and 2 px right of the middle: 0.4 of theta each."""
        images = torch.zeros(4, 1, 5, 5)
        for image, shift in zip(images, (0, 1, 1, 2), strict=True):
            image[0, 2, 2 + shift] = 1
            image[0, 0, 0] = 0.4 * shift
        return images

    @pytest.mark.parametrize("count", [1, 3, 4])
    @pytest.mark.parametrize("total", [None, lambda sums: 2 * sums])
    def test_only_images_near_the_mean_are_read(self, images, count, total):
        model = Reader().train()
        before = copy.deepcopy(model.state_dict())
        chunks = in_chunks(images, torch.ones(4, dtype=torch.long), count)
        assert moving_and_still_error(model, chunks, total) == (0, 50)
        assert model.training
        assert error_percent(model, chunks()) == 0
        torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)

    def test_of_a_compiled_network(self, images):
        model = Reader()
        chunks = in_chunks(images, torch.ones(4, dtype=torch.long))
        model.compile(backend="eager")
        assert moving_and_still_error(model, chunks) == (0, 50)

    def test_without_a_transformer(self, images):
        flat = nn.Flatten()
        chunks = in_chunks(images, torch.tensor([12, 13, 13, 0]))
        assert moving_and_still_error(flat, chunks) == (25, None)


class TestPartHits:
    @pytest.fixture
    def pictures(self, tmp_path):
        """Four of 100 x 50 px, told apart by their brightness; on the canvas they are 40 x 20."""
        examples = []
        for row in range(4):
            path = tmp_path / f"{row}.png"
            Image.new("RGB", (100, 50), (60 * row + 60,) * 3).save(path)
            examples.append(Example(path, 0))
        return ImageSet(examples, ["a", "b"], (40, 40))

    @pytest.fixture
    def parts(self):
        """On the canvas a beak at 8 to 12 x 18 to 22 px and a wing at 18.4 to 22.4 x 18 to 22.

        On the first picture the beak is not seen, and the wing is at 8.4 to 12.4 x 18 to 22.
        """
        places = torch.tensor([[25.0, 25.0], [51.0, 25.0], [0.0, 0.0]]).repeat(4, 1, 1)
        places[0, 1, 0] = 26
        visible = torch.tensor([[False, True, False]] + 3 * [[True, True, False]])
        sizes = torch.full((4, 3, 2), 10.0)
        image_sizes = torch.tensor([50, 100]).expand(4, 2)
        names = ("beak", "wing", "tail")
        return CubParts(torch.zeros(4, 4), places, visible, image_sizes, names, sizes)

    @pytest.fixture
    def model(self):
        """Its windows on a picture are those of CENTRES."""
        made = TWO.build()

        def theta(x):
            assert not made.training
            rows = (x[:, 0, 20, 20] * 255 / 60 - 1).round().long()
            return CENTRES[rows] / 20 - 1

        made.transformer.theta = theta
        return made

    @pytest.mark.parametrize("batch_size", [1, 3, 250])
    def test_boxes_in_windows(self, model, pictures, parts, batch_size):
        state = torch.get_rng_state()
        found = part_hits(model, TWO, pictures, parts, batch_size)
        third = 100 / 3
        assert found["by_window"] == {
            "beak": pytest.approx([0, third]),  # at 21.9 and 28.1 px a window cuts it
            "wing": [75, 25],
            "tail": [None, None],
        }
        assert found["contained"] == {"beak": pytest.approx(third), "wing": 100, "tail": None}
        assert found["at_start"] == {"beak": 100, "wing": 25, "tail": None}  # halves of the canvas
        spread = (CENTRES - CENTRES.mean(0)).square().sum(-1).mean(0).sqrt()
        assert found["spread_px"] == pytest.approx(spread.tolist(), abs=1e-4)
        assert json.loads(json.dumps(found)) == found
        assert model.training
        assert torch.equal(torch.get_rng_state(), state)

    def test_without_sizes_a_part_is_its_centre(self, model, pictures, parts):
        found = part_hits(model, TWO, pictures, parts._replace(sizes=None))
        assert found["by_window"]["beak"] == pytest.approx([0, 200 / 3])
        assert found["by_window"]["wing"] == [100, 25]
        assert found["contained"]["wing"] == 100
        assert found["at_start"] == {"beak": 100, "wing": 100, "tail": None}

    def test_a_turned_window_is_not_the_box_around_it(self, pictures, parts):
        """A window of half the canvas turned by 45 degrees: |x| + |y| <= 0.707."""
        spec = PartsSpec((3, 40, 40), 2, transform="affine")
        model, half = spec.build(), math.sqrt(0.5) / 2
        offset = torch.tensor([half - 1, -half, 0.0, half, half - 1, 0.0])
        model.transformer.head.bias.data.copy_(offset)
        places = torch.tensor([[80.0, 25.0], [75.0, 50.0], [50.0, 25.0]])  # (0.6, 0), (0.5, 0.5)
        parts = parts._replace(
            places=places.expand(4, 3, 2), sizes=None, visible=torch.ones(4, 3, dtype=torch.bool)
        )
        found = part_hits(model, spec, pictures, parts)
        assert found["contained"] == {"beak": 100, "wing": 0, "tail": 100}
        assert found["at_start"] == {"beak": 100, "wing": 100, "tail": 100}
        assert found["spread_px"] == [pytest.approx(0, abs=1e-5)]

    def test_a_window_after_steps(self, pictures, parts):
        """Each of two steps halves the window: from 15 to 25 px."""
        spec = PartsSpec((3, 40, 40), 2, transform="attention", steps=2)
        model = spec.build()
        for head in model.transformer.head:
            head.bias.data[0] = math.log(0.5)
        found = part_hits(model, spec, pictures, parts)
        assert found["by_window"] == {"beak": [0], "wing": [75], "tail": [None]}
        assert found["at_start"] == {"beak": 100, "wing": 100, "tail": None}

    def test_windows_of_a_fixed_scale(self, pictures, parts):
        """Of 6, 12 and 28 px about the middle."""
        shares = []
        for scale in (0.15, 0.3, 0.7):
            spec = PartsSpec((3, 40, 40), 2, transform="attention", scale=scale)
            found = part_hits(spec.build(), spec, pictures, parts)
            assert found["contained"] == found["at_start"]
            shares.append(found["contained"]["beak"] + found["contained"]["wing"])
        assert shares == [75, 75, 200]

    def test_what_cannot_be_compared(self, model, pictures, parts):
        plain = PartsSpec((3, 40, 40), 2)
        with pytest.raises(ValueError, match="a network with a transformer, got one without"):
            part_hits(plain.build(), plain, pictures, parts)
        with pytest.raises(ValueError, match="of the same images, got 3 and 4; read both for"):
            part_hits(model, TWO, pictures.subset(range(3)), parts)
