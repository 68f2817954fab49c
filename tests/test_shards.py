"""Shards: what is written is what is read, once each, and what is broken is named."""

import importlib
import io
import itertools
import json
import os
import re
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from stn.data import shard_writer
from stn.data import shards as shards_module
from stn.data.image_set import Example, ImageSet
from stn.data.mnist import DataError
from stn.data.shard_writer import write_shards
from stn.data.shards import open_shards

SIZE = (12, 16)
COUNT, PER_SHARD = 20, 5
SPOILT = "train-000001.tar"


def _noise(seed, size=(14, 15)):
    return np.random.default_rng(seed).integers(256, size=(*size, 3), dtype=np.uint8)


def _image_set(folder, count=COUNT, label=lambda row: row, box=None):
    """PNG, JPEG and GIF noise, whose labels are all different."""
    folder.mkdir(parents=True, exist_ok=True)
    examples = []
    for row in range(count):
        path = folder / f"{row}.{('png', 'JPG', 'jpeg', 'gif')[row % 4]}"
        Image.fromarray(_noise(row)).save(path)
        examples.append(Example(path, label(row), box))
    return ImageSet(examples, [f"class {k}" for k in range(count)], SIZE)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return _image_set(tmp_path_factory.mktemp("images"))


@pytest.fixture
def index(images, tmp_path):
    sets = {"train": images, "held-out": images.subset(range(7))}
    return write_shards(sets, tmp_path / "shards", PER_SHARD)


def _labels(batches):
    return [label for _, labels in batches for label in labels.tolist()]


def _take(stream, steps):
    return list(itertools.islice(stream, steps))


def _check_equal(got, expected):
    for batch, other in zip(got, expected, strict=True):
        for value, wanted in zip(batch, other, strict=True):
            assert value.dtype == wanted.dtype
            assert torch.equal(value, wanted)


class TestRoundTrip:
    def test_index(self, index, images):
        content = json.loads(index.read_text())
        assert content["names"] == list(images.names)
        assert content["size_hint"] == list(SIZE)
        assert content["left_out"] == []
        held_out = ["held-out-000000.tar", "held-out-000001.tar"]
        assert content["parts"]["held-out"] == {"shards": held_out, "counts": [5, 2]}
        names = {f"train-00000{k}.tar" for k in range(4)} | {*held_out, "shards.json"}
        assert {path.name for path in index.parent.iterdir()} == names
        opened = open_shards(index, SIZE, channels=1)
        assert (opened.shape, opened.names) == ((1, *SIZE), images.names)
        assert (opened.count("train"), opened.count("held-out")) == (20, 7)

    def test_files_are_stored_as_they_are(self, index, images):
        stored = {}
        for path in index.parent.glob("train-*.tar"):
            with tarfile.open(path) as tar:
                for key, label in itertools.groupby(tar, lambda m: m.name.split(".")[0]):
                    files = {m.name.split(".")[1]: tar.extractfile(m).read() for m in label}
                    stored[json.loads(files.pop("json"))["label"]] = (key, files)
        assert len({key for key, _ in stored.values()}) == COUNT
        for row, (path, *_) in enumerate(images.examples):
            assert stored[row][1] == {path.suffix[1:].lower(): path.read_bytes()}

    def test_all_samples_once(self, index, images):
        opened = open_shards(index, SIZE)
        chunks = list(opened.chunks("train", count=6))
        assert [len(labels) for _, labels in chunks] == [6, 6, 6, 2]
        rows = _labels(chunks)
        assert sorted(rows) == list(range(COUNT))
        assert rows != list(range(COUNT))
        expected = torch.stack([images[row] for row in rows]).float() / 255
        assert torch.equal(torch.cat([pictures for pictures, _ in chunks]), expected)
        pictures, labels = next(opened.stream("train", 8, seed=0))
        assert (pictures.dtype, labels.dtype) == (torch.uint8, torch.int64)
        assert torch.equal(pictures, torch.stack([images[row] for row in labels]))
        assert opened.faults == ()

    def test_written_the_same_each_time(self, index, images, tmp_path):
        again = write_shards({"train": images}, tmp_path / "100 % again: #2", PER_SHARD)
        for path in index.parent.glob("train-*.tar"):
            assert path.read_bytes() == (again.parent / path.name).read_bytes()
        _check_equal(open_shards(again, SIZE).chunks("train"),
                     open_shards(index, SIZE).chunks("train"))  # fmt: skip

    def test_boxes_and_labels_of_many_parts(self, tmp_path):
        made = _image_set(tmp_path / "images", 4, lambda row: (row, 3 - row), (2, 1, 12, 9))
        index = write_shards({"test": made}, tmp_path / "shards")
        ((pictures, labels),) = open_shards(index, (8, 10)).chunks("test")
        assert sorted(labels.tolist()) == [[row, 3 - row] for row in range(4)]
        for picture, row in zip(pictures * 255, labels[:, 0].tolist(), strict=True):
            whole = np.asarray(Image.open(made.examples[row].path).convert("RGB"))
            assert np.array_equal(picture.movedim(0, -1), whole[1:9, 2:12])
        with tarfile.open(index.parent / "test-000000.tar") as tar:
            assert {name.split(".")[1] for name in tar.getnames()} == {"png", "json"}


class TestStreams:
    def test_epochs(self, index):
        stream = open_shards(index, SIZE).stream("train", 8, seed=0)
        rows = _labels(_take(stream, 15))
        epochs = [rows[k : k + COUNT] for k in range(0, 120, COUNT)]
        assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) == 6
        assert len({tuple(sorted(epoch[:PER_SHARD])) for epoch in epochs}) == 6  # beyond a shard
        other = _labels(_take(open_shards(index, SIZE).stream("train", 8, seed=1), 15))
        assert other != rows

    def test_ranks_share_an_epoch(self, index):
        opened = open_shards(index, SIZE)
        halves = [_labels(_take(opened.stream("train", 2, 0, rank=k, world=2), 60)) for k in (0, 1)]
        dealt = set()
        for begin in range(0, 60, COUNT // 2):
            first, second = (half[begin : begin + COUNT // 2] for half in halves)
            assert sorted(first + second) == list(range(COUNT))
            dealt.add(tuple(sorted(first)))
        assert len(dealt) > 1

    def test_uneven_ranks_never_end(self, index):
        for rank in (0, 1):  # 5 samples and 2, or 2 and 5
            stream = open_shards(index, SIZE).stream("held-out", 6, 0, rank=rank, world=2)
            batches = _take(stream, 40)
            assert all(pictures.shape == (3, 3, *SIZE) for pictures, _ in batches)
            assert set(_labels(batches)) == set(range(7))

    def test_ranks_share_the_chunks(self, index):
        opened = open_shards(index, SIZE)
        for world in (2, 3, 5):
            found = [_labels(opened.chunks("train", rank, world)) for rank in range(world)]
            assert sorted(itertools.chain(*found)) == list(range(COUNT))
            assert max(len(rows) for rows in found) <= 2 * PER_SHARD

    @pytest.mark.parametrize("damaged", ["refuse", "skip"])
    @pytest.mark.parametrize("world", [1, 2])
    def test_resume(self, index, damaged, world):
        for rank in range(world):
            opened = open_shards(index, SIZE, damaged=damaged)
            whole = _take(opened.stream("train", 6, 3, rank=rank, world=world), 12)
            for start in (1, 3, 7, 11):
                fresh = open_shards(index, SIZE, damaged=damaged)
                resumed = fresh.stream("train", 6, 3, start, rank, world)
                _check_equal(_take(resumed, 12 - start), whole[start:])

    def test_resume_reads_and_decodes_little(self, index, monkeypatch):
        decoded, opened = [], []
        opener = importlib.import_module("webdataset.gopen")
        read, gopen = shards_module.read_picture, opener.gopen

        def read_and_count(source, *args, **named):
            decoded.append(source)
            return read(source, *args, **named)

        def open_and_count(url, *args, **named):
            opened.append(url)
            return gopen(url, *args, **named)

        monkeypatch.setattr(shards_module, "read_picture", read_and_count)
        shards = open_shards(index, SIZE)
        monkeypatch.setattr(opener, "gopen", open_and_count)
        assert len(next(shards.stream("train", 4, 0, start=5003))[1]) == 4
        assert (len(decoded), len(opened)) == (4, 4)
        skipping = open_shards(index, SIZE, damaged="skip")
        opened.clear()
        next(skipping.stream("train", 4, 0, start=53))
        assert (len(decoded), len(opened)) == (8, 4 * 11)

    def test_wrong_arguments(self, index):
        opened = open_shards(index, SIZE)
        with pytest.raises(ValueError, match=r"multiple of .* 3, got 8"):
            opened.stream("train", 8, 0, world=3)
        with pytest.raises(DataError, match=r"4 shards, too few for 5 processes.*per_shard"):
            opened.stream("train", 10, 0, world=5)
        with pytest.raises(ValueError, match="'train', 'held-out', got 'test'"):
            opened.chunks("test")
        with pytest.raises(ValueError, match="0 to world - 1, 1, got 2"):
            opened.chunks("train", 2, 2)
        with pytest.raises(ValueError, match="start must not be negative, got -1"):
            opened.stream("train", 8, 0, start=-1)


def _offsets(path):
    """Where the files of a shard begin: of each sample json, then image, or the reverse."""
    with tarfile.open(path) as tar:
        return [member.offset for member in tar]


def _replaced(place, amount=None):
    """Noise from the third sample's first header on; for nothing, an end there."""

    def spoil(path):
        raw = path.read_bytes()
        begin = _offsets(path)[6] + place
        noise = np.random.default_rng(0).bytes(amount) if amount else b""
        path.write_bytes(raw[:begin] + noise + (raw[begin + amount :] if amount else b""))

    return spoil


# How a shard is spoilt, how many samples of five are left, and what is said.
SPOILT_SHARDS = {
    "cut between samples": (_replaced(0), 3, ""),
    "cut in a header": (_replaced(100), 3, ""),
    "cut in a file": (_replaced(520), 2, ": unexpected end of data"),
    "garbled header": (_replaced(0, 512), 3, ""),
    "garbage": (lambda path: path.write_bytes(bytes(range(256)) * 40), 0, ": "),
    "empty": (lambda path: path.write_bytes(b""), 0, ": "),
    "missing": (lambda path: path.unlink(), 0, ": No such file or directory"),
}
# What becomes of a sample's files, by suffix, and what is said.
SPOILT_SAMPLES = {
    "cut image": (lambda f: {k: v if k == "json" else v[:-30] for k, v in f.items()}, "damaged"),
    "no such image": (lambda f: {"json": f["json"], "png": b"text"}, "the image is no image"),
    "image missing": (lambda f: {"json": f["json"]}, "there is no image"),
    "label missing": (lambda f: {k: v for k, v in f.items() if k != "json"}, "there is no label"),
    "json damaged": (lambda f: {**f, "json": b'{"label": '}, "there is no label"),
    "json of another kind": (lambda f: {**f, "json": b"[3]"}, "there is no label"),
    "label too large": (lambda f: {**f, "json": b'{"label": 20}'}, "label 20 is no number"),
    "label a word": (lambda f: {**f, "json": b'{"label": ["cat"]}'}, r"label \['cat'\] is no"),
}


def _spoil_sample(path, number, change):
    """The key of the sample."""
    with tarfile.open(path) as tar:
        found = [(member.name.split("."), tar.extractfile(member).read()) for member in tar]
    key = sorted({name[0] for name, _ in found})[number]
    samples = itertools.groupby(found, lambda file: file[0][0])
    with tarfile.open(path, "w") as tar:
        for name, files in samples:
            kept = {suffix: raw for (_, suffix), raw in files}
            for suffix, raw in (change(kept) if name == key else kept).items():
                info = tarfile.TarInfo(f"{name}.{suffix}")
                info.size = len(raw)
                tar.addfile(info, io.BytesIO(raw))
    return key


def _check_refused(index, match):
    for find in ("chunks", "stream"):
        opened = open_shards(index, SIZE)
        iterator = opened.chunks("train") if find == "chunks" else opened.stream("train", 5, 0)
        with pytest.raises(DataError, match=f"{match}.*; mend it, or skip what is damaged$"):
            _take(iterator, 5)


def _check_skipped(index, left, match):
    opened = open_shards(index, SIZE, damaged="skip")
    rows = _labels(opened.chunks("train", count=4))
    assert len(rows) == len(set(rows)) == left
    (fault,) = opened.faults
    assert re.match(match, fault)
    streaming = open_shards(index, SIZE, damaged="skip")
    whole = _take(streaming.stream("train", 3, 5), 30)
    assert set(_labels(whole)) == set(rows)
    assert streaming.faults == opened.faults
    for start in (1, 6, 14, 29):
        resumed = open_shards(index, SIZE, damaged="skip").stream("train", 3, 5, start)
        _check_equal(_take(resumed, 30 - start), whole[start:])


class TestDamage:
    @pytest.mark.parametrize("kind", SPOILT_SHARDS)
    def test_shard(self, index, kind):
        spoil, left, said = SPOILT_SHARDS[kind]
        spoil(index.parent / SPOILT)
        match = f"{SPOILT}: gives {left} samples, not the index's {PER_SHARD}{said}"
        _check_refused(index, match)
        _check_skipped(index, COUNT - PER_SHARD + left, match)

    def test_more_than_the_index_says(self, index):
        content = json.loads(index.read_text())
        content["parts"]["train"]["counts"][1] = 4
        index.write_text(json.dumps(content))
        _check_refused(index, f"{SPOILT}: gives 5 samples, not the index's 4")

    @pytest.mark.parametrize("kind", SPOILT_SAMPLES)
    @pytest.mark.parametrize("number", [0, 4])
    def test_sample(self, index, kind, number):
        change, said = SPOILT_SAMPLES[kind]
        key = _spoil_sample(index.parent / SPOILT, number, change)
        match = f"{SPOILT}: {key}: .*{said}"
        _check_refused(index, match)
        _check_skipped(index, COUNT - 1, match)

    def test_nothing_left(self, index):
        for path in index.parent.glob("held-out-*.tar"):
            path.write_bytes(b"garbage")
        opened = open_shards(index, SIZE, damaged="skip")
        assert list(opened.chunks("held-out")) == []
        assert len(opened.faults) == 2
        with pytest.raises(DataError, match="not one sample of any shard can be read: held-out"):
            next(opened.stream("held-out", 2, 0))
        for path, number in itertools.product(index.parent.glob("train-*.tar"), range(PER_SHARD)):
            _spoil_sample(path, number, SPOILT_SAMPLES["cut image"][0])
        with pytest.raises(DataError, match=r"not 1 of 1001 images can be read: train"):
            next(open_shards(index, SIZE, damaged="skip").stream("train", 1, 0))

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"parts": {"a": {}}, "names": ["b"]}',
        '{"parts": {"a": {"shards": [], "counts": []}}, "names": ["b"]}',
        '{"parts": {"a": {"shards": ["c"], "counts": [1, 2]}}, "names": ["b"]}',
        '{"parts": {"a": {"shards": ["c"], "counts": [0]}}, "names": ["b"]}'])  # fmt: skip
    def test_index(self, tmp_path, text):
        (tmp_path / "shards.json").write_text(text)
        with pytest.raises(DataError, match=r"shards\.json is no index of shards .* write_shards"):
            open_shards(tmp_path / "shards.json", SIZE)
        with pytest.raises(DataError, match=r"none\.json cannot be read: No such file"):
            open_shards(tmp_path / "none.json", SIZE)


class TestWriting:
    def test_damaged_images(self, tmp_path):
        made = _image_set(tmp_path / "images", 8)
        made.examples[4].path.write_bytes(made.examples[4].path.read_bytes()[:-60])
        made.examples[6].path.unlink()
        target = tmp_path / "shards"
        with pytest.raises(DataError, match=r"images/[46]\..*; mend it, or skip what is damaged"):
            write_shards({"train": made}, target, 2)
        assert list(target.iterdir()) == []
        index = write_shards({"train": made}, target, 2, damaged="skip")
        left_out = sorted(json.loads(index.read_text())["left_out"])
        assert len(left_out) == 2
        for fault, row in zip(left_out, (4, 6), strict=True):
            assert fault.startswith(str(made.examples[row].path))
        opened = open_shards(index, SIZE)
        assert opened.count("train") == 6
        assert sorted(_labels(opened.chunks("train"))) == [0, 1, 2, 3, 5, 7]
        with pytest.raises(DataError, match=r"not one image of 'test' can be read: .*6\.jpeg"):
            write_shards({"test": made.subset([6])}, tmp_path / "none", damaged="skip")
        assert list((tmp_path / "none").iterdir()) == []

    def test_wrong_arguments(self, index, images):
        with pytest.raises(ValueError, match="holds shards already: delete them"):
            write_shards({"train": images}, index.parent)
        with pytest.raises(ValueError, match="per_shard must be at least 1, got 0"):
            write_shards({"train": images}, index.parent, 0)
        with pytest.raises(ValueError, match="the same class names"):
            write_shards({}, index.parent)
        with pytest.raises(ValueError, match=r"letters, digits, - and _, got '\.\./train'"):
            write_shards({"../train": images}, index.parent)

    @pytest.mark.parametrize("moved", range(5))
    def test_killed_while_moving(self, images, tmp_path, moved):
        """In a child, which dies without cleaning up: after some shards, or all but the index."""
        pid = os.fork()
        if not pid:
            left, replace = iter(range(moved)), os.replace
            shard_writer.os.replace = lambda *paths: (
                replace(*paths) if next(left, None) is not None else os._exit(9)
            )
            try:
                write_shards({"train": images}, tmp_path, PER_SHARD)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
        assert len(list(tmp_path.glob("*.tar"))) == min(moved, 4)
        with pytest.raises(DataError, match=r"shards\.json cannot be read"):
            open_shards(tmp_path / "shards.json", SIZE)
        index = write_shards({"train": images}, tmp_path, PER_SHARD)
        assert len(_labels(open_shards(index, SIZE).chunks("train"))) == COUNT
