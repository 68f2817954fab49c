"""Random warps of training images: what they do, and that cutting a batch changes nothing."""

import math

import pytest
import torch

import stn
from stn.data.augment import Augmentation

STILL = {"rotation_deg": 0.0, "scale": (1.0, 1.0), "shift": 0.0}
HEIGHT, WIDTH = 36, 60


def _seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def _dots(count, *places):
    """Images (count, len(places), H, W), a soft dot a channel, (x, y) px from the middle."""
    x, y = torch.arange(WIDTH) - (WIDTH - 1) / 2, torch.arange(HEIGHT) - (HEIGHT - 1) / 2
    dots = [torch.exp(-((x - u) ** 2 + (y[:, None] - v) ** 2) / 4.5) for u, v in places]
    return torch.stack(dots).expand(count, -1, -1, -1)


def _places(images):
    """Complex (B, C): x + iy of the mass of every channel, px from the middle."""
    x, y = torch.arange(WIDTH) - (WIDTH - 1) / 2, torch.arange(HEIGHT) - (HEIGHT - 1) / 2
    mass = images.sum((2, 3))
    return torch.complex((images * x).sum((2, 3)) / mass, (images * y[:, None]).sum((2, 3)) / mass)


def _spread(values, low, high):
    """All within [low, high], and near both ends and the middle as U[low, high] would be."""
    values, room = values.double(), high - low
    assert low - 0.02 * room <= float(values.min()) <= low + 0.05 * room
    assert high - 0.05 * room <= float(values.max()) <= high + 0.02 * room
    assert abs(float(values.mean()) - (low + high) / 2) < 0.06 * room
    assert abs(float(values.std()) - room / math.sqrt(12)) < 0.04 * room


@pytest.mark.parametrize("size", [(1, 1), (7, 13), (32, 32), (64, 24)])
@pytest.mark.parametrize("padding_mode", ["border", "zeros", "mirror"])
def test_all_zero_is_the_identity(size, padding_mode):
    images = torch.rand(4, 3, *size)
    got = Augmentation(**STILL, padding_mode=padding_mode)(images, _seeded())
    torch.testing.assert_close(got, images, atol=1e-5, rtol=0)


CUT = {
    "default": Augmentation(),
    "all": Augmentation(170, (0.5, 2.0), 0.4, flip=True, padding_mode="zeros"),
    "flip alone": Augmentation(**STILL, flip=True),
}


class TestCutting:
    @pytest.mark.parametrize("name", CUT)
    @pytest.mark.parametrize("parts", [2, 4, 12])
    def test_a_cut_batch_is_the_uncut_one(self, name, parts):
        augment, images = CUT[name], torch.rand(12, 3, 17, 23)
        whole = augment(images, _seeded())
        assert not torch.equal(whole, images)
        pieces = [
            augment(piece, _seeded(), part, parts) for part, piece in enumerate(images.chunk(parts))
        ]
        assert torch.equal(torch.cat(pieces), whole)
        alike = [augment(piece, _seeded(), 0, parts) for piece in images.chunk(parts)]
        assert not torch.equal(torch.cat(alike), whole)

    @pytest.mark.parametrize("augment", CUT.values())
    def test_generators_end_alike(self, augment):
        """Whatever the part and the settings, so that processes stay in step."""
        one, two, still = _seeded(), _seeded(), _seeded()
        augment(torch.rand(8, 1, 5, 5), one)
        augment(torch.rand(4, 1, 5, 5), two, 1, 2)
        Augmentation(**STILL)(torch.rand(8, 1, 5, 5), still)
        assert torch.equal(one.get_state(), two.get_state())
        assert torch.equal(one.get_state(), still.get_state())
        assert not torch.equal(one.get_state(), _seeded().get_state())


class TestWhatIsDrawn:
    COUNT = 400

    def test_rotation_keeps_lengths_on_images_that_are_not_square(self):
        images = _dots(self.COUNT, (12.0, 0.0), (0.0, 9.0))
        found = _places(Augmentation(**{**STILL, "rotation_deg": 30.0})(images, _seeded()))
        torch.testing.assert_close(
            found.abs(), torch.tensor([12.0, 9.0]).expand_as(found.abs()), atol=0.1, rtol=0
        )
        _spread(found[:, 0].angle().rad2deg(), -30, 30)
        apart = (found[:, 1] / found[:, 0]).angle().rad2deg()
        torch.testing.assert_close(apart, torch.full_like(apart, 90.0), atol=0.5, rtol=0)

    def test_scale_is_that_of_what_is_shown(self):
        images = _dots(self.COUNT, (8.0, 0.0), (0.0, -6.0))
        found = _places(Augmentation(**{**STILL, "scale": (0.8, 1.6)})(images, _seeded()))
        _spread(found[:, 0].real / 8, 0.8, 1.6)
        torch.testing.assert_close(found[:, 1].imag / -6, found[:, 0].real / 8, atol=0.03, rtol=0)
        larger = Augmentation(**{**STILL, "scale": (1.5, 1.5)})(images, _seeded())
        torch.testing.assert_close(_places(larger)[:, 0].real, torch.full((400,), 12.0), atol=0.1,
                                   rtol=0)  # fmt: skip

    def test_shift_is_a_share_of_width_and_height(self):
        images = _dots(self.COUNT, (0.0, 0.0))
        found = _places(Augmentation(**{**STILL, "shift": 0.2})(images, _seeded()))[:, 0]
        _spread(found.real, -0.2 * WIDTH, 0.2 * WIDTH)
        _spread(found.imag, -0.2 * HEIGHT, 0.2 * HEIGHT)
        both = torch.corrcoef(torch.stack([found.real, found.imag]))
        assert abs(float(both[0, 1])) < 0.15

    def test_flip_mirrors_about_half(self):
        images = torch.rand(self.COUNT, 2, 6, 9)
        got = Augmentation(**STILL, flip=True)(images, _seeded())
        mirrored = (got - images.flip(-1)).abs().amax((1, 2, 3)) < 1e-5
        kept = (got - images).abs().amax((1, 2, 3)) < 1e-5
        assert bool((mirrored ^ kept).all())
        assert 0.4 < float(mirrored.float().mean()) < 0.6

    def test_flip_leaves_the_other_draws(self):
        images = _dots(30, (5.0, 4.0))
        plain, flipped = (Augmentation(flip=f)(images, _seeded()) for f in (False, True))
        same = (plain == flipped).flatten(1).all(-1)
        assert 5 < int(same.sum()) < 25

    def test_padding(self):
        images = torch.ones(50, 1, 20, 20)
        settings = {**STILL, "scale": (0.5, 0.5)}
        torch.testing.assert_close(Augmentation(**settings)(images, _seeded()), images)
        bare = Augmentation(**settings, padding_mode="zeros")(images, _seeded())
        torch.testing.assert_close(bare.mean(), torch.tensor(0.25), atol=0.02, rtol=0)

    def test_new_each_time_and_the_same_for_the_same_seed(self):
        images, generator = _dots(5, (3.0, 2.0)), _seeded(7)
        first, second = (Augmentation()(images, generator) for _ in range(2))
        assert not torch.equal(first, second)
        assert torch.equal(first, Augmentation()(images, _seeded(7)))
        assert len({float(image.std()) for image in first}) == 5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_types_and_gradients(dtype):
    images = torch.rand(3, 2, 8, 8).to(dtype).requires_grad_()
    got = Augmentation(flip=True)(images, _seeded())
    assert got.dtype == dtype
    assert got.shape == images.shape
    got.float().sum().backward()
    assert images.grad is not None
    assert bool(images.grad.isfinite().all())
    assert Augmentation()(images[:0], _seeded()).shape == (0, 2, 8, 8)


def test_range_is_kept():
    got = Augmentation(90, (0.5, 2), 0.5)(torch.rand(64, 3, 16, 16).round(), _seeded())
    assert float(got.min()) >= 0
    assert float(got.max()) <= 1 + 1e-6


def test_it_is_a_warp_by_similarity():
    """What is drawn, in the order of `_draw`, put into stn's own warp by hand."""
    images, generator = torch.rand(3, 1, 9, 15), _seeded()
    angle, scale, shift = (torch.rand(3, n, generator=generator) for n in (1, 1, 2))
    x, y = (0.4 * (shift - 0.5)).unbind(-1)
    theta = torch.stack([-(0.5 + scale[:, 0]).log(), (2 * angle[:, 0] - 1) * 0.3, x, y], -1)
    expected = stn.warp(images, stn.Similarity(aspect=(15, 9)), theta, padding_mode="wrap")
    got = Augmentation(math.degrees(0.3), (0.5, 1.5), 0.1, padding_mode="wrap")(images, _seeded())
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rotation_deg": -1}, "rotation_deg must be from 0 to 180, got -1"),
        ({"rotation_deg": 181}, "from 0 to 180, got 181"),
        ({"rotation_deg": math.nan}, "from 0 to 180, got nan"),
        ({"scale": (0, 1)}, r"0 < low <= high, got \(0, 1\)"),
        ({"scale": (1.2, 1.1)}, r"0 < low <= high, got \(1.2, 1.1\)"),
        ({"scale": (1, math.inf)}, "0 < low <= high"),
        ({"scale": (1, 2, 3)}, "0 < low <= high"),
        ({"shift": -0.1}, "shift must be from 0 to 1, a share of the image, got -0.1"),
        ({"shift": 1.1}, "shift must be from 0 to 1"),
        ({"padding_mode": "same"}, "padding_mode must be one of 'zeros', .* got 'same'"),
    ],
)
def test_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**settings)


@pytest.mark.parametrize(
    ("error", "message", "shape", "dtype", "cut"),
    [
        (
            TypeError,
            "images must be floating point, got torch.uint8",
            (2, 1, 4, 4),
            "uint8",
            (0, 1),
        ),
        (ValueError, r"\(B, C, H, W\), got \(2, 4, 4\)", (2, 4, 4), "float32", (0, 1)),
        (ValueError, "part must be from 0 to 1, got 2 of 2", (2, 1, 4, 4), "float32", (2, 2)),
        (ValueError, "part must be from 0 to 1, got -1 of 2", (2, 1, 4, 4), "float32", (-1, 2)),
    ],
)
def test_images_and_parts(error, message, shape, dtype, cut):
    with pytest.raises(error, match=message):
        Augmentation()(torch.zeros(shape, dtype=getattr(torch, dtype)), _seeded(), *cut)
