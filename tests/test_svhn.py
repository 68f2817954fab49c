"""House numbers: the official format, the stand-in written in it, and the paper's networks."""

import sys

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from stn import SpatialTransformer
from stn.data import DataError, street_numbers
from stn.data.street_numbers import write_digit_struct, write_street_numbers
from stn.data.svhn import StreetNumber, crop_box, read_digit_struct, read_svhn
from stn.models import count_parameters
from stn.models.svhn import NAMES, SvhnSpec

BY_HAND = [
    StreetNumber("1.png", (7,), ((10.0, 5.0, 20.0, 25.0),)),
    StreetNumber("2.png", (2, 0), ((4.0, 3.0, 9.0, 13.0), (11.0, 4.0, 17.0, 15.0))),
]
DAMAGE = ["no HDF5", "cut off", "no digits", "label", "no struct", "no label"]
DAMAGE += ["large", "one reference", "null", "short"]


def write_by_hand(path, numbers):
    """As MATLAB lays it out, by h5py's plain calls; the witness of `write_digit_struct`."""
    with h5py.File(path, "w") as file:
        refs = file.create_group("#refs#")

        def scalar(value):
            return refs.create_dataset(f"x{len(refs)}", data=np.array([[float(value)]])).ref

        columns = {"name": [], "bbox": []}
        for name, digits, boxes in numbers:
            letters = np.array([[ord(letter)] for letter in name], np.uint16)
            columns["name"].append(refs.create_dataset(f"x{len(refs)}", data=letters).ref)
            group = refs.create_group(f"x{len(refs)}")
            columns["bbox"].append(group.ref)
            rows = [
                {"height": y1 - y0, "label": d or 10, "left": x0, "top": y0, "width": x1 - x0}
                for d, (x0, y0, x1, y1) in zip(digits, boxes, strict=True)
            ]
            for key in ("height", "label", "left", "top", "width"):
                if len(rows) == 1:
                    group[key] = np.array([[float(rows[0][key])]])
                else:
                    found = [[scalar(row[key])] for row in rows]
                    group.create_dataset(key, data=found, dtype=h5py.ref_dtype)
        for key, found in columns.items():
            data = np.array(found, h5py.ref_dtype)[:, None]
            file.create_dataset(f"digitStruct/{key}", data=data)


def layout_of(path):
    """Every dataset that digitStruct refers to, as (shape, kind of value) by entry and key."""
    with h5py.File(path) as file:
        struct, found = file["digitStruct"], []
        assert struct["name"].shape == struct["bbox"].shape == (len(struct["name"]), 1)
        for name, group in zip(struct["name"][:, 0], struct["bbox"][:, 0], strict=True):
            found.append(("name", file[name].shape, file[name].dtype))
            for key, values in file[group].items():
                found.append((key, values.shape, values.dtype))
                if values.dtype == h5py.ref_dtype:
                    found += [(file[r].shape, file[r].dtype) for r in values[:, 0]]
    return found


def grey(level):
    return np.full((100, 150, 3), level, np.uint8)


def light_of(pixels, boxes):
    """The background, lit from the side, (1, W, 1): a line through what no box covers."""
    free = pixels.mean(-1)
    for x0, y0, x1, y1 in np.array(boxes, int):
        free[max(0, y0 - 4) : y1 + 4, x0:x1] = np.nan
    columns = np.arange(free.shape[1])
    kept = ~np.isnan(free).all(0)
    line = np.polyfit(columns[kept], np.nanmedian(free[:, kept], 0), 1)
    return np.polyval(line, columns)[None, :, None]


class TestOfficialFormat:
    @pytest.fixture
    def folder(self, tmp_path):
        for part, numbers in {"train": BY_HAND, "extra": [BY_HAND[0]], "test": BY_HAND}.items():
            (tmp_path / part).mkdir()
            write_by_hand(tmp_path / part / "digitStruct.mat", numbers)
            for name, *_ in numbers:
                Image.new("RGB", (30, 30), (9, 8, 7)).save(tmp_path / part / name)
        return tmp_path

    def test_one_digit_and_several_are_read(self, folder):
        assert read_digit_struct(folder / "train" / "digitStruct.mat") == BY_HAND

    def test_the_writer_lays_out_what_the_official_file_does(self, tmp_path):
        write_by_hand(tmp_path / "hand.mat", BY_HAND)
        write_digit_struct(tmp_path / "ours.mat", BY_HAND)
        assert layout_of(tmp_path / "ours.mat") == layout_of(tmp_path / "hand.mat")
        assert read_digit_struct(tmp_path / "ours.mat") == BY_HAND

    def test_crops_are_a_third_wider_and_loose_ones_twice_that(self):
        number = StreetNumber("1.png", (1, 2), ((10, 20, 20, 40), (20, 22, 30, 45)))
        assert crop_box(number) == pytest.approx((7, 16.25, 33, 48.75))
        assert crop_box(number, loose=True) == pytest.approx((-6, 0, 46, 65))

    def test_labels_are_padded_and_parts_joined(self, folder):
        train = read_svhn(folder, (8, 8))
        seven, twenty = [7, 10, 10, 10, 10], [2, 0, 10, 10, 10]
        assert train.labels.tolist() == [seven, twenty, seven]
        assert train.names == (*"0123456789", "")
        assert train.examples[2].path == folder / "extra" / "1.png"
        assert train.examples[1].box == crop_box(BY_HAND[1])
        assert read_svhn(folder, 8, loose=True).examples[1].box == crop_box(BY_HAND[1], True)
        test = read_svhn(folder, 8, "test")
        assert {example.path.parent.name for example in test.examples} == {"test"}

    def test_crops_are_stretched_over_the_canvas(self, folder):
        pixels = np.zeros((30, 30, 3), np.uint8)
        pixels[2:28, 9:22] = 200  # the crop, (8.5, 2, 21.5, 28), but for half a column
        Image.fromarray(pixels).save(folder / "test" / "1.png")
        seen = read_svhn(folder, 13, "test")[0]
        assert seen.shape == (3, 13, 13)
        assert seen[:, :, 1:-1].min() > 150

    def test_a_box_may_reach_beyond_the_image_and_an_empty_one_spoils_only_its_own(self, folder):
        beyond = StreetNumber("1.png", (3,), ((-2.0, -1.0, 9.0, 40.0),))
        empty = StreetNumber("2.png", (4,), ((5.0, 5.0, 5.0, 9.0),))
        write_by_hand(folder / "test" / "digitStruct.mat", [beyond, empty])
        found = read_svhn(folder, 8, "test").in_memory(damaged="skip")
        assert found.labels[:, 0].tolist() == [3]
        assert "2.png" in found.faults[0]

    def test_longer_numbers_are_left_out(self, folder):
        box = (1.0, 1.0, 5.0, 9.0)
        five = StreetNumber("2.png", (1, 2, 3, 4, 5), (box,) * 5)
        six = StreetNumber("1.png", (1, 2, 3, 4, 5, 6), (box,) * 6)
        write_by_hand(folder / "test" / "digitStruct.mat", [six, five])
        assert read_svhn(folder, 8, "test").labels.tolist() == [[1, 2, 3, 4, 5]]

    def test_missing_pieces_are_explained(self, folder):
        with pytest.raises(DataError, match=r"train\.tar\.gz, test\.tar\.gz.*stn data svhn --from"):
            read_svhn(folder / "nowhere", 8)
        (folder / "extra" / "1.png").unlink()
        with pytest.raises(DataError, match=r"extra lacks 1 of the 1 images .* 1\.png first"):
            read_svhn(folder, 8)
        (folder / "extra" / "digitStruct.mat").unlink()
        with pytest.raises(DataError, match=r"extra holds no digitStruct\.mat"):
            read_svhn(folder, 8)
        with pytest.raises(ValueError, match="part must be one of 'train', 'test', got 'extra'"):
            read_svhn(folder, 8, "extra")
        with pytest.raises(DataError, match=r"nowhere\.mat does not exist"):
            read_digit_struct(folder / "nowhere.mat")

    def damage(self, path, how):
        if how == "no HDF5":
            path.write_bytes(b"MATLAB 5.0" * 100)
        elif how == "cut off":
            path.write_bytes(path.read_bytes()[:-2000])
        elif how == "no digits":
            write_by_hand(path, [StreetNumber("1.png", (), ())])
        elif how == "label":
            write_by_hand(path, [StreetNumber("1.png", (11,), BY_HAND[0].boxes)])
        else:
            with h5py.File(path, "a") as file:
                one, two = (file[place] for place in file["digitStruct/bbox"][:, 0])
                if how == "short":
                    del file["digitStruct/name"]
                    file["digitStruct/name"] = file["digitStruct/bbox"][:1]
                elif how == "null":
                    data = np.array([[h5py.Reference()]] * 2, h5py.ref_dtype)
                    file["digitStruct/bbox"][...] = data
                elif how == "large":  # what is referred to must not run over the reader's memory
                    file["large"] = np.ones((500, 500))
                    two["left"][0, 0] = file["large"].ref
                elif how == "no struct":
                    del file["digitStruct"]
                else:
                    del one["label"]
                    if how == "one reference":
                        one.create_dataset("label", data=[[one.ref]], dtype=h5py.ref_dtype)

    @pytest.mark.parametrize("how", DAMAGE)
    def test_damage_is_an_error_that_names_the_file(self, folder, how):
        path = folder / "train" / "digitStruct.mat"
        self.damage(path, how)
        with pytest.raises(DataError, match=r"digitStruct\.mat is damaged: .*; unpack it again"):
            read_digit_struct(path)

    def test_without_h5py_the_way_out_is_said(self, folder, monkeypatch):
        monkeypatch.setitem(sys.modules, "h5py", None)
        with pytest.raises(ImportError, match=r"pip install 'torch-stn\[images\]'"):
            read_digit_struct(folder / "train" / "digitStruct.mat")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("svhn") / "made"
    return write_street_numbers(folder, {"train": 40, "extra": 3, "test": 5}, seed=3)


class TestStandIn:
    def numbers(self, folder):
        return read_digit_struct(folder / "train" / "digitStruct.mat")

    def test_all_that_reads_svhn_reads_it(self, made):
        train, test = read_svhn(made, (64, 64)), read_svhn(made, (64, 64), "test")
        assert (len(train), len(test)) == (43, 5)
        loaded = train.in_memory()
        assert loaded.images.shape == (43, 3, 64, 64)
        assert loaded.labels.shape == (43, 5)
        assert [n.name for n in self.numbers(made)] == [f"{k}.png" for k in range(1, 41)]
        assert {p.name for p in made.parent.iterdir()} == {"made"}  # nothing is left over

    def test_numbers_lie_wholly_inside_images_of_many_sizes(self, made):
        sizes = set()
        for name, digits, boxes in self.numbers(made):
            width, height = Image.open(made / "train" / name).size
            sizes.add((width, height))
            assert 80 <= width <= 300
            assert 50 <= height <= 200
            assert 1 <= len(digits) == len(boxes) <= 5
            assert len(digits) == 1 or digits[0] != 0
            assert all(0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height for x0, y0, x1, y1 in boxes)
            assert list(boxes) == sorted(boxes)
        assert len(sizes) > 30

    def test_boxes_hold_the_ink_and_little_else(self, tmp_path, monkeypatch):
        def plain(rng, textures, corners, width, height):
            return np.full((height, width, 3), 128, np.float32)

        monkeypatch.setattr(street_numbers, "_background", plain)
        made = write_street_numbers(tmp_path / "made", {"train": 25}, textures=[grey(128)])
        for name, _, boxes in self.numbers(made):
            pixels = np.asarray(Image.open(made / "train" / name), float)
            ink = np.abs(pixels - light_of(pixels, boxes)).max(-1) > 25
            for x0, y0, x1, y1 in np.array(boxes, int):
                rows, columns = ink[y0:y1, x0:x1].any(1), ink[y0:y1, x0:x1].any(0)
                assert rows.sum() >= 0.7 * (y1 - y0)
                assert columns.sum() >= 0.3 * (x1 - x0)  # a slanted 1 in an upright box
            for x0, y0, x1, y1 in np.array(boxes, int):
                ink[max(0, y0 - 4) : y1 + 4, max(0, x0 - 4) : x1 + 4] = False  # blur
            assert not ink.any(), f"{name} has ink outside its boxes"

    def test_an_image_depends_on_seed_part_and_number_alone(self, made, tmp_path):
        again = write_street_numbers(tmp_path / "again", {"train": 4}, seed=3)
        other = write_street_numbers(tmp_path / "other", {"train": 4}, seed=4)
        for name in ("1.png", "3.png"):
            assert (again / "train" / name).read_bytes() == (made / "train" / name).read_bytes()
            assert (other / "train" / name).read_bytes() != (made / "train" / name).read_bytes()
            assert (made / "extra" / name).read_bytes() != (made / "train" / name).read_bytes()
        assert self.numbers(again) == self.numbers(made)[:4]
        assert self.numbers(other) != self.numbers(again)

    def test_training_never_sees_what_test_stands_on(self, tmp_path, monkeypatch):
        real, seen = street_numbers._background, []

        def spy(rng, textures, *rest):
            seen.append({int(n) for texture in textures for n in np.unique(texture)})
            return real(rng, textures, *rest)

        monkeypatch.setattr(street_numbers, "_background", spy)
        texture = np.concatenate([grey(40)[:70], grey(215)[70:]])
        parts = ("train", "extra", "test")
        write_street_numbers(tmp_path / "made", dict.fromkeys(parts, 1), textures=[texture])
        assert seen == [{40}, {40}, {215}]

    def test_noise_stands_in_for_photos(self, tmp_path, monkeypatch):
        monkeypatch.setattr("stn.data.textures.find_spec", lambda name: None)
        made = write_street_numbers(tmp_path / "made", {"test": 2})
        assert np.asarray(Image.open(made / "test" / "1.png")).std((0, 1)).min() > 5

    def test_whole_or_not_at_all(self, made, tmp_path, monkeypatch):
        with pytest.raises(DataError, match="exists: name another folder, or delete it"):
            write_street_numbers(made, {"test": 1})
        monkeypatch.setattr(street_numbers, "write_digit_struct", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_street_numbers(tmp_path / "made", {"test": 1})
        assert not list(tmp_path.iterdir())

    def test_wrong_arguments(self, tmp_path):
        for counts in ({"validation": 3}, {"train": -1}, {}):
            with pytest.raises(ValueError, match="counts must map parts of"):
                write_street_numbers(tmp_path / "made", counts)
        for textures in ([], [grey(9).astype(float)], [grey(9)[..., 0]]):
            with pytest.raises(ValueError, match=r"textures must be uint8 arrays \(H, W, 3\)"):
                write_street_numbers(tmp_path / "made", {"train": 1}, textures=textures)


class TestNets:
    @pytest.mark.parametrize(
        ("name", "side", "parameters"),
        [
            ("cnn", 64, 32_820_951),
            ("st-cnn-single", 64, 33_898_877),
            ("st-cnn-multi", 64, 37_937_903),
            ("cnn", 128, 61_132_503),
            ("st-cnn-single", 128, 65_356_157),
            ("st-cnn-multi", 128, 81_584_879),
        ],
    )
    def test_the_papers_rows(self, name, side, parameters):
        with torch.device("meta"):
            network = SvhnSpec(name, (3, side, side)).build()
            assert network(torch.zeros(2, 3, side, side)).shape == (2, 5, 11)
        assert count_parameters(network) == parameters

    def test_layer_for_layer(self):
        with torch.device("meta"):
            layers = SvhnSpec("st-cnn-multi").build().layers
        kinds = {
            nn.Conv2d: lambda m: f"conv{m.out_channels}",
            nn.MaxPool2d: lambda m: "max",
            nn.Linear: lambda m: f"fc{m.out_features}",
            SpatialTransformer: lambda m: f"st{m.localization[1].in_features}",
            nn.Dropout: lambda m: "drop",
        }
        found = [kinds[type(m)](m) for m in layers if type(m) in kinds]
        assert " ".join(found) == (
            f"conv48 max st{48 * 32**2} conv64 st{64 * 32**2} drop conv128 max st{128 * 16**2} "
            "drop conv160 drop conv192 max drop conv192 drop conv192 max drop conv192 "
            "drop fc3072 drop fc3072 drop fc3072 drop"
        )

    @pytest.mark.parametrize("name", NAMES[1:])
    def test_transformers_start_at_the_identity(self, name):
        torch.manual_seed(0)
        plain = SvhnSpec("cnn", width=0.1).build().eval()
        warping = SvhnSpec(name, width=0.1).build().eval()
        assert plain.transformer is None
        missing, unexpected = warping.load_state_dict(plain.state_dict(), strict=False)
        assert not unexpected
        assert all("transformer" in key for key in missing)
        x = torch.rand(2, 3, 64, 64)
        torch.testing.assert_close(warping(x), plain(x), atol=1e-3, rtol=0)
        assert plain(x).std() > 0.01
        torch.nn.init.constant_(warping.transformer.head.bias, 0.3)
        assert (warping(x) - plain(x)).abs().max() > 1e-2

    @pytest.mark.parametrize("norm", [False, True], ids=["plain", "localization norm"])
    @pytest.mark.parametrize("name", NAMES)
    def test_all_layers_learn(self, name, norm):
        torch.manual_seed(0)
        network = SvhnSpec(name, (3, 32, 32), 0.1, 0.1, localization_batch_norm=norm).build()
        norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
        assert len(norms) == norm * {"cnn": 0, "st-cnn-single": 4, "st-cnn-multi": 8}[name]
        before = {key: value.clone() for key, value in network.state_dict().items()}
        x, labels = torch.rand(16, 3, 32, 32), torch.randint(11, (16, 5))
        optimizer = torch.optim.Adam(network.parameters(), 1e-3)
        losses = []
        for _ in range(12):
            loss = F.cross_entropy(network(x).flatten(0, 1), labels.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert sum(losses[-3:]) < 0.97 * sum(losses[:3])
        now = network.state_dict()
        assert not [key for key in now if torch.equal(now[key], before[key])]

    def test_signals_pass_all_layers_at_the_start(self):
        torch.manual_seed(0)
        network = SvhnSpec("cnn", width=0.25).build().eval()
        x = torch.rand(8, 3, 64, 64)
        ratio = network.layers(x - x.mean((1, 2, 3), keepdim=True)).std() / x.std()
        assert 0.2 < ratio < 5  # torch's own initialisation: below 0.05

    def test_localizations_have_no_dropout_and_see_no_width(self):
        for name in NAMES[1:]:
            network = SvhnSpec(name, (3, 32, 32), width=0.1, batch_norm=True).build()
            found = [m for m in network.modules() if isinstance(m, SpatialTransformer)]
            assert len(found) == (1 if name == "st-cnn-single" else 4)
            for transformer in found:
                kinds = {type(m) for m in transformer.modules()}
                assert not kinds & {nn.Dropout, nn.BatchNorm2d, nn.BatchNorm1d}
                assert transformer.localization.num_features == 32
            drops = [m for m in network.layers if isinstance(m, nn.Dropout)]
            assert len(drops) == 10
            assert {m.p for m in drops} == {0.5}
            norms = (nn.BatchNorm2d, nn.BatchNorm1d)
            assert sum(isinstance(m, norms) for m in network.layers) == 11

    def test_brightness_alone_changes_nothing(self):
        network = SvhnSpec("cnn", (3, 32, 32), width=0.1).build().eval()
        x = torch.rand(2, 3, 32, 32)
        torch.testing.assert_close(network(x), network(x + 0.5), atol=1e-3, rtol=0)

    def test_wrong_specifications(self):
        with pytest.raises(ValueError, match="name must be one of 'cnn', 'st-cnn-single'"):
            SvhnSpec("st-cnn")
        for shape in ((3, 60, 64), (3, 64), (3, 0, 64)):
            with pytest.raises(ValueError, match=r"shape must be \(C, H, W\) with H and W mul"):
                SvhnSpec("cnn", shape)
        for wrong in ({"width": 0.0}, {"dropout": 1.0}):
            with pytest.raises(ValueError, match="width must be positive and dropout from 0"):
                SvhnSpec("cnn", **wrong)
