"""The appendix's tasks on synthetic digits: addition, co-localisation, volumes."""

import math

import pytest
import torch
from scipy.spatial.transform import Rotation

import stn
from stn.data import (
    DISTORTIONS,
    TASKS,
    Addition,
    DigitStream,
    Pose,
    Volumes,
    colocalization_set,
    digit_boxes,
    frozen_chunks,
    frozen_set,
    iou,
    task_named,
    window_boxes,
)
from stn.data.distort import Clutter

NEW = ["addition", "colocalization", "colocalization-cluttered", "volumes"]
SHAPES = {
    "p-42": (1, 28, 28),
    "addition": (2, 42, 42),
    "colocalization": (1, 84, 84),
    "colocalization-cluttered": (1, 84, 84),
    "volumes": (1, 60, 60, 60),
}
DOT_PX = (6.0, -4.5)


def _seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def _digits(count, seed=0):
    return torch.randint(256, (count, 28, 28), generator=_seeded(seed), dtype=torch.uint8)


def _dot(x=DOT_PX[0], y=DOT_PX[1], width=1.5):
    """A soft dot (28, 28) at (x, y) px from the centre."""
    place = torch.arange(28) - 13.5
    return torch.exp(-((place - x).square() + (place[:, None] - y).square()) / (2 * width**2))


def _centroid_px(images):
    """(x, y[, z]) of the mass of images (B, *size), px from the canvas's centre."""
    mass = images.flatten(1).sum(-1)
    found = []
    for axis in range(images.dim() - 1, 0, -1):
        n = images.shape[axis]
        others = [k for k in range(1, images.dim()) if k != axis]
        found.append((images.sum(others) * (torch.arange(n) - (n - 1) / 2)).sum(-1) / mass)
    return torch.stack(found, -1)


def _check_uniform(values, low, high):
    """Kolmogorov and Smirnov's statistic, whose 99.9 % point is 1.95 / sqrt(n)."""
    place = ((values - low) / (high - low)).sort().values
    assert float(place[0]) >= -1e-5
    assert float(place[-1]) <= 1 + 1e-5
    ideal = (torch.arange(len(values)) + 0.5) / len(values)
    assert float((place - ideal).abs().max()) < 1.95 / math.sqrt(len(values))


@pytest.mark.parametrize("name", NEW)
class TestEveryTask:
    def test_shape_range_and_pose(self, name):
        task, shape = TASKS[name], SHAPES[name]
        digits = _digits(6 * task.digits).unflatten(0, (6, -1)) / 255
        for images in (digits, digits.double(), digits[:0]):
            drawn, pose = task(images, _seeded(), _digits(7))
            assert (task.digits, *task.canvas) == shape
            assert drawn.shape == (len(images), *shape)
            assert drawn.dtype == torch.float32
            assert bool(((drawn >= 0) & (drawn <= 1)).all())
            assert all(len(field) == len(images) for field in pose)
            assert pose.centre.shape[-1] == len(task.canvas)

    def test_the_generator_decides(self, name):
        task = TASKS[name]
        images = _digits(2 * task.digits).unflatten(0, (2, -1)) / 255
        generator = _seeded(4)
        first, second = (task(images, generator, _digits(7)).images for _ in range(2))
        assert torch.equal(task(images, _seeded(4), _digits(7)).images, first)
        assert not torch.equal(second, first)

    def test_stream_is_a_function_of_seed_and_step(self, name):
        images, labels = _digits(11), torch.arange(11) % 10
        stream = DigitStream(images, labels, name, 3, seed=3)
        batches = [stream.batch(step) for step in range(5)]
        for step in (4, 1, 3):
            resumed = DigitStream(images, labels, name, 3, seed=3).batch(step)
            for value, other, again in zip(batches[step], resumed, stream.batch(step), strict=True):
                assert torch.equal(value, other)
                assert torch.equal(value, again)
        other = DigitStream(images, labels, name, 3, seed=4).batch(0)
        assert not torch.equal(other[0], batches[0][0])
        assert not torch.equal(batches[0][0], batches[1][0])
        assert batches[0][1].dtype == torch.int64

    def test_frozen_set_and_its_chunks(self, name):
        count = 25 if name == "volumes" else 1100
        images, labels, pool = _digits(count), torch.arange(count) % 10, _digits(5, 1)
        whole = frozen_set(images, labels, name, 1, clutter_pool=pool)
        chunks = list(frozen_chunks(images, labels, name, 1, clutter_pool=pool))
        lengths = [len(chunk.images) for chunk in chunks]
        assert sum(lengths) == count
        assert len(lengths) > 1
        first = lengths[0]
        assert first * math.prod(SHAPES[name]) <= 4_000_000
        start = frozen_set(images[:first], labels[:first], name, 1, clutter_pool=pool)
        assert torch.equal(whole.images[:first], start.images)
        assert torch.equal(whole.images[first:], torch.cat([c.images for c in chunks[1:]]))
        assert torch.equal(whole.labels, torch.cat([chunk.labels for chunk in chunks]))
        assert torch.equal(whole.labels[:first], start.labels)
        for field, begin in zip(whole.pose, start.pose, strict=True):
            assert len(field) == count
            assert torch.equal(field[:first], begin)
        for seed, repeat in ((1, 1), (2, 0)):
            other = frozen_set(images[:9], labels[:9], name, seed, repeat, pool)
            assert not torch.equal(other.images, whole.images[:9])


class TestAddition:
    def test_each_channel_is_its_own_digit_in_its_own_pose(self):
        dots = torch.stack([_dot(), _dot(-5.0, 3.0)])
        drawn, pose = TASKS["addition"](dots.expand(200, -1, -1, -1), _seeded())
        assert pose.angle_rad.shape == pose.scale.shape == (200, 2)
        for channel, place in enumerate((complex(*DOT_PX), complex(-5, 3))):
            turned = torch.polar(pose.scale[:, channel], pose.angle_rad[:, channel]) * place
            expected = torch.stack([turned.real, turned.imag], -1) + pose.centre[:, channel] * 21
            off = _centroid_px(drawn[:, channel]) - expected
            assert float(off.norm(dim=-1).max()) < 0.25
        apart = torch.corrcoef(pose.angle_rad.T)[0, 1].abs()
        assert float(apart) < 0.25
        for channel in (0, 1):
            _check_uniform(pose.angle_rad[:, channel].rad2deg(), -45, 45)
            _check_uniform(pose.scale[:, channel], 0.7, 1.2)

    def test_labels_are_sums_of_what_is_shown(self):
        """Grey digits without a pattern: the centre of each channel tells which digit it is."""
        images = (20 * torch.arange(10, dtype=torch.uint8))[:, None, None].expand(10, 28, 28)
        labels = torch.arange(10)
        stream = DigitStream(images, labels, "addition", 10, seed=0)
        still = Addition(distortion=DISTORTIONS["r"])
        for step in range(4):
            rows = stream._orders(step)
            assert all(torch.equal(column.sort().values, labels) for column in rows.T)
            assert not torch.equal(rows[:, 0], rows[:, 1])
            drawn, summed = stream.batch(step)
            assert torch.equal(summed, labels[rows].sum(-1))
            shown = drawn.amax((2, 3)) * 255 / 20
            assert torch.equal(shown.round().long().sum(-1), summed)
        drawn = still(images[:4].unflatten(0, (2, 2)) / 255, _seeded()).images
        assert (drawn[..., 14, 14] * 255 / 20).round().tolist() == [[0, 1], [2, 3]]

    def test_frozen_pairs(self):
        """The first 1,000 digits are 0 to 4, the rest 5 to 9: partners are of the same chunk."""
        labels = torch.arange(1500) % 5 + 5 * (torch.arange(1500) >= 1000)
        images = (20 * labels).to(torch.uint8)[:, None, None].expand(-1, 28, 28)
        found = frozen_set(images, labels, "addition", 0)
        shown = (found.images.amax((2, 3)) * 255 / 20).round().long()
        assert torch.equal(shown[:, 0], labels)
        assert torch.equal(shown.sum(-1), found.labels)
        assert shown[:1000, 1].bincount().tolist() == [200] * 5
        assert shown[1000:, 1].bincount().tolist() == [0] * 5 + [100] * 5
        assert found.labels[:1000].unique().tolist() == list(range(9))


class TestColocalization:
    def test_the_digit_lies_in_its_box(self):
        images = _digits(40).clamp(min=1)
        drawn, pose = TASKS["colocalization"](images.unsqueeze(1) / 255, _seeded())
        boxes = digit_boxes(pose, (84, 84)).round().long().tolist()
        for image, digit, (x0, y0, x1, y1) in zip(drawn, images, boxes, strict=True):
            assert torch.equal(image[0, y0:y1, x0:x1], digit / 255)
            assert int((image != 0).sum()) == 28 * 28
        _, pose = TASKS["colocalization"](torch.zeros(6000, 1, 28, 28), _seeded())
        for corner in ((pose.centre + 1) * 42 - 14).round().long().T:
            counts = corner.bincount()
            assert len(counts) == 57
            assert int(counts.min()) > 60

    def test_clutter_is_sixteen_crops_of_six_pixels(self):
        grey = torch.full((2, 28, 28), 10, dtype=torch.uint8)
        blank = torch.zeros(200, 1, 28, 28)
        drawn = TASKS["colocalization-cluttered"](blank, _seeded(), grey).images
        expected = torch.full((200,), 16 * 36 * 10 / 255)
        torch.testing.assert_close(drawn.sum((1, 2, 3)), expected, rtol=1e-5, atol=0)
        with pytest.raises(ValueError, match="clutter_pool, got None"):
            TASKS["colocalization-cluttered"](blank, _seeded())
        assert TASKS["colocalization"] == Clutter(crops=0, canvas=(84, 84))

    def test_the_set_of_a_class(self):
        images, labels = _digits(300), torch.arange(300) % 3
        found = colocalization_set(images, labels, 2, seed=0)
        assert found.images.shape == (100, 1, 84, 84)
        assert found.labels.tolist() == [2] * 100
        boxes = digit_boxes(found.pose, (84, 84)).round().long().tolist()
        shown = [i[0, y:w, x:v] for i, (x, y, v, w) in zip(found.images, boxes, strict=True)]
        originals = (images[labels == 2] / 255).flatten(1)
        distance = torch.cdist(torch.stack(shown).flatten(1), originals)
        assert float(distance.amin(-1).max()) < 0.1  # by cdist's rounding; others are 11 away
        assert distance.argmin(-1).sort().values.tolist() == list(range(100))
        again = colocalization_set(images, labels, 2, seed=0)
        assert torch.equal(again.images, found.images)
        for other in (
            colocalization_set(images, labels, 2, seed=1),
            colocalization_set(images, labels, 2, seed=0, cluttered=True),
            colocalization_set(images, labels, 1, seed=0),
        ):
            assert not torch.equal(other.pose.centre, found.pose.centre)
        few = colocalization_set(images, labels, 0, 0, True, 7, torch.zeros_like(images))
        assert few.images.shape == (7, 1, 84, 84)
        with pytest.raises(ValueError, match="number of images of digit 2, 100, got 101"):
            colocalization_set(images, labels, 2, 0, count=101)

    def test_boxes_of_turned_digits(self):
        half = torch.tensor(math.pi / 6)
        pose = Pose(torch.stack([half, -half]), torch.tensor([1.0, 0.5]), torch.zeros(2, 2))
        reach = 14 * (math.cos(math.pi / 6) + 0.5)
        expected = [[30 - reach, 20 - reach, 30 + reach, 20 + reach],
                    [30 - reach / 2, 20 - reach / 2, 30 + reach / 2, 20 + reach / 2]]  # fmt: skip
        got = digit_boxes(pose, (40, 60))
        torch.testing.assert_close(got, torch.tensor(expected).double(), atol=1e-5, rtol=0)
        drawn, pose = TASKS["rts"](torch.ones(50, 1, 28, 28), _seeded())
        for image, (x0, y0, x1, y1) in zip(drawn, digit_boxes(pose, (42, 42)), strict=True):
            rows, columns = (image[0] > 0.02).nonzero().unbind(-1)
            # The box may leave the canvas, the pixels may not.
            assert abs(int(columns.min()) - max(0, float(x0))) < 2
            assert abs(int(columns.max()) + 1 - min(42, float(x1))) < 2
            assert abs(int(rows.min()) - max(0, float(y0))) < 2
            assert abs(int(rows.max()) + 1 - min(42, float(y1))) < 2
        with pytest.raises(ValueError, match="got one in volumes"):
            digit_boxes(Pose(torch.zeros(1, 3), torch.ones(1), torch.zeros(1, 3)), (60, 60))

    def test_windows(self):
        """Attention at (1/4, -1/2) of a 40 x 60 canvas, half its width: by hand."""
        theta = torch.tensor([[math.log(0.5), 0.25, -0.5]])
        got = window_boxes(stn.Attention(), theta, (40, 60))
        expected = torch.tensor([[22.5, 0.0, 52.5, 20.0]]).double()
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
        cube = window_boxes(stn.Translation(3), torch.zeros(1, 3), (4, 6, 8))
        assert cube.tolist() == [[0, 0, 0, 8, 6, 4]]
        turned = window_boxes(stn.Rigid(), torch.tensor([[math.pi / 2, 0.0, 0.0]]), (8, 8))
        torch.testing.assert_close(
            turned, torch.tensor([[0.0, 0, 8, 8]]).double(), atol=1e-5, rtol=0
        )

    def test_the_true_window_is_the_true_box(self):
        found = colocalization_set(_digits(20), torch.zeros(20), 0, 0, count=20)
        log_scale = torch.full((20, 1), math.log(1 / 3))
        theta = torch.cat([log_scale, found.pose.centre], -1)
        true = digit_boxes(found.pose, (84, 84))
        seen = window_boxes(stn.Attention(), theta, (84, 84))
        torch.testing.assert_close(seen, true, atol=1e-4, rtol=0)
        theta[:, 1] += 7 / 42  # seven pixels to the right: 21 of 35 in common
        overlap = iou(window_boxes(stn.Attention(), theta, (84, 84)), true)
        torch.testing.assert_close(overlap, torch.full_like(overlap, 21 / 35), atol=1e-5, rtol=0)

    def test_iou(self):
        box = torch.tensor([0.0, 0.0, 4.0, 2.0])
        others = torch.tensor([
            [0.0, 0, 4, 2], [2, 1, 6, 3], [1, 0, 2, 2], [4, 0, 8, 2], [9, 9, 9, 9], [3, 1, 2, 0],
        ])  # fmt: skip
        expected = torch.tensor([1, 2 / 14, 2 / 8, 0, 0, 0])
        torch.testing.assert_close(iou(box, others), expected)
        torch.testing.assert_close(iou(others, box), expected)
        assert iou(box * 0, box * 0) == 0
        cubes = torch.tensor([[0.0, 0, 0, 2, 2, 2], [1, 1, 1, 3, 3, 3]])
        torch.testing.assert_close(iou(*cubes), torch.tensor(1 / 15))
        assert iou(box * math.nan, box).isnan()


class TestVolumes:
    def test_dot_lands_where_the_pose_says(self):
        """By SciPy's rotation of the dot's place; the slab's middle has z = 0."""
        drawn, pose = Volumes()(_dot().expand(60, 1, -1, -1), _seeded())
        assert pose.angle_rad.shape == pose.centre.shape == (60, 3)
        turned = Rotation.from_rotvec(pose.angle_rad.numpy()).apply([*DOT_PX, 0.0])
        expected = torch.from_numpy(turned).float() + pose.centre * 30
        off = _centroid_px(drawn[:, 0]) - expected
        assert float(off.norm(dim=-1).max()) < 0.3
        # A rotation the other way would be far off.
        wrong = torch.from_numpy(Rotation.from_rotvec(-pose.angle_rad).apply([*DOT_PX, 0])).float()
        assert float((wrong + pose.centre * 30 - expected).norm(dim=-1).median()) > 3

    def test_the_pose_undoes_it(self):
        """Upright, in the middle, flat along z: what the paper's 3-D transformer should find."""
        shape = _dot(-6.0, 2.0, 2.5) + _dot(5.0, 6.0, 3.0) + 0.7 * _dot(3.0, -6.0, 2.5)
        shape = shape.clamp(max=1)
        drawn, pose = Volumes()(shape.expand(20, 1, -1, -1), _seeded())
        theta = torch.cat([pose.angle_rad, pose.centre], -1)
        back = stn.warp(drawn, stn.Rigid(3), theta)[:, 0]
        inner = back[:, 25:35, 16:44, 16:44]  # without the slab's soft ends
        assert float((inner - shape).abs().max()) < 0.1
        assert float((inner - shape).abs().mean()) < 0.01
        flat = back.sum(1)[:, 16:44, 16:44] / 14
        assert float((flat - shape).abs().max()) < 0.1
        wrong = stn.warp(drawn, stn.Rigid(3), torch.cat([-pose.angle_rad, pose.centre], -1))
        assert float((wrong[:, 0, 25:35, 16:44, 16:44] - shape).abs().mean()) > 0.05

    def test_slab_is_inside_and_keeps_its_volume(self):
        drawn, _ = Volumes()(torch.ones(40, 1, 28, 28), _seeded())
        volume = drawn.flatten(1).sum(-1) / (28 * 28 * 14)
        assert float((volume - 1).abs().max()) < 0.02
        thin = Volumes(thickness_px=8)(torch.ones(3, 1, 28, 28), _seeded()).images
        assert float((thin.flatten(1).sum(-1) / (28 * 28 * 8) - 1).abs().max()) < 0.02

    def test_ranges(self):
        _, pose = _without_rendering(Volumes(), 4000)
        radius = pose.angle_rad.norm(dim=-1).rad2deg()
        _check_uniform((radius / 60) ** 3, 0, 1)
        for axis in range(3):
            _check_uniform(pose.angle_rad[:, axis] / radius.deg2rad(), -1, 1)
        turn = torch.from_numpy(Rotation.from_rotvec(pose.angle_rad).as_matrix()).float()
        corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3) * torch.tensor([14, 14, 7])
        reach = ((turn @ corners.T).amax(-1) + pose.centre.abs() * 30).T
        for axis in range(3):
            assert 29.8 < float(reach[axis].max()) <= 30 + 1e-3
            _check_uniform(pose.centre[:, axis] * 30 / (30 - (turn @ corners.T).amax(-1)[:, axis]),
                           -1, 1)  # fmt: skip
        assert bool((pose.scale == 1).all())

    def test_canvas_must_hold_the_slab(self):
        with pytest.raises(ValueError, match="equal sides of at least 42 voxels"):
            Volumes(canvas=(41, 41, 41))
        with pytest.raises(ValueError, match="equal sides"):
            Volumes(canvas=(60, 60, 50))
        assert Volumes(canvas=(42, 42, 42))(torch.ones(1, 1, 28, 28), _seeded()).images.numel()


def _without_rendering(task, count):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stn.data.volumes.warp", lambda slab, *_: torch.zeros(len(slab), 1, 1, 1, 1))
        return task(torch.zeros(count, 1, 28, 28), _seeded())


def test_task_named():
    assert task_named("addition") is TASKS["addition"]
    assert {name: TASKS[name] for name in DISTORTIONS} == dict(DISTORTIONS)
    with pytest.raises(ValueError, match=r"'addition', 'colocalization', .* got 'sum'"):
        task_named("sum")
    with pytest.raises(ValueError, match=r"\(B, 2, 28, 28\), got \(4, 1, 28, 28\)"):
        TASKS["addition"](torch.zeros(4, 1, 28, 28), _seeded())
