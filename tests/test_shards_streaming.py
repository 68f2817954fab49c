"""Shards over HTTP, and in a memory that would not hold the images."""

import functools
import http.server
import itertools
import os
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from stn.data import made_ahead
from stn.data import shards as shards_module
from stn.data.ahead import ahead
from stn.data.image_set import Example, ImageSet
from stn.data.mnist import DataError
from stn.data.shard_writer import write_shards
from stn.data.shards import open_shards

SIZE = (96, 96)
COUNT = 30

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA is of Linux")


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """Three shards of ten images of noise, 28 kB each."""
    folder = tmp_path_factory.mktemp("images")
    examples = []
    for row in range(COUNT):
        noise = np.random.default_rng(row).integers(256, size=(*SIZE, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{row}.png")
        examples.append(Example(folder / f"{row}.png", row))
    images = ImageSet(examples, [str(row) for row in range(COUNT)], SIZE)
    return write_shards({"train": images}, tmp_path_factory.mktemp("shards"), 10)


class Server(http.server.SimpleHTTPRequestHandler):
    """Sends the first half of a shard, then what comes after `wait`, which may end it."""

    def __init__(self, *args, wait=None, **named):
        self.wait = wait
        super().__init__(*args, **named)

    def copyfile(self, source, outputfile):
        raw = source.read()
        half = len(raw) // 2 if self.wait and self.path.endswith(".tar") else len(raw)
        outputfile.write(raw[:half])
        outputfile.flush()
        if half == len(raw) or (self.wait and self.wait(self.path)):
            outputfile.write(raw[half:])
        else:
            self.close_connection = True

    def log_message(self, format, *args):
        pass


@pytest.fixture
def serve(index, monkeypatch):
    """Serves the shards; `wait` tells of a path, once half is sent, whether to send the rest."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()

        def start(wait=None):
            server.RequestHandlerClass = functools.partial(
                Server, directory=str(index.parent), wait=wait
            )
            return f"http://127.0.0.1:{server.server_port}/shards.json"

        yield start
        server.shutdown()
        thread.join()


@needs_curl
class TestRemote:
    def test_the_same_as_local(self, index, serve):
        local, remote = open_shards(index, SIZE), open_shards(serve(), SIZE)
        assert remote.count("train") == COUNT
        chunks = zip(remote.chunks("train", 1, 2, 4), local.chunks("train", 1, 2, 4), strict=True)
        batches = zip(remote.stream("train", 8, 0, 3), local.stream("train", 8, 0, 3), strict=True)
        for (images, labels), (others, same) in (*chunks, *itertools.islice(batches, 6)):
            assert torch.equal(images, others)
            assert torch.equal(labels, same)

    def test_read_while_it_comes(self, serve):
        """The second half is held back until images of the first have been seen."""
        seen = threading.Event()
        chunks = open_shards(serve(lambda path: seen.wait(20)), SIZE).chunks("train", count=1)
        begun = time.monotonic()
        first = next(chunks)
        assert time.monotonic() - begun < 10
        seen.set()
        assert len([first, *chunks]) == COUNT

    def test_a_transfer_that_breaks_off(self, serve):
        url = serve(lambda path: not path.endswith("-000001.tar"))
        with pytest.raises(
            DataError, match=r"train-000001\.tar: gives [0-5] samples, not the .* 10"
        ):
            list(open_shards(url, SIZE).chunks("train"))
        skipping = open_shards(url, SIZE, damaged="skip")
        labels = torch.cat([labels for _, labels in skipping.chunks("train")])
        assert len(labels.unique()) == len(labels)
        assert 20 <= len(labels) <= 25  # what is in the pipe when curl gives up is lost
        assert len(skipping.faults) == 1

    def test_nothing_there(self, serve, monkeypatch):
        url = serve()
        with pytest.raises(DataError, match=r"none/shards\.json cannot be read: curl ended with"):
            open_shards(url.replace("shards.json", "none/shards.json"), SIZE)
        opened = open_shards(url, SIZE)
        opened.folder += "/none"
        with pytest.raises(DataError, match=r"train-000000\.tar: gives 0 samples, not the .* 10: "):
            next(opened.chunks("train"))
        monkeypatch.setenv("PATH", "")
        with pytest.raises(DataError, match="curl, which is not installed: install curl"):
            open_shards(url, SIZE)


def _same(got, expected):
    for (images, labels), (others, same) in zip(got, expected, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(labels, same)


def _spoilt(index, folder):
    """A copy of the shards, in which a part of an image is blank."""
    shutil.copytree(index.parent, folder)
    path = folder / "train-000001.tar"
    raw = bytearray(path.read_bytes())
    place = raw.index(b"\x89PNG")
    raw[place + 9000 : place + 20000] = bytes(11000)
    path.write_bytes(raw)
    return folder / "shards.json"


class TestAhead:
    """Threads that decode before they are asked change nothing but the time."""

    @pytest.mark.parametrize("workers", [1, 3])
    @pytest.mark.parametrize("start", [0, 4, 11])
    def test_batches_are_those_without_threads(self, index, workers, start):
        plain, threaded = open_shards(index, SIZE), open_shards(index, SIZE, workers=workers)
        for rank in (0, 1):
            expected = list(itertools.islice(plain.stream("train", 8, 3, 0, rank, 2), 16))[start:]
            stream = made_ahead(threaded.stream("train", 8, 3, start, rank, 2), 2)
            _same(itertools.islice(stream, 16 - start), expected)
            stream.close()
        _same(threaded.chunks("train", count=7), plain.chunks("train", count=7))

    def test_what_is_damaged_is_passed_over_alike(self, index, tmp_path):
        spoilt = _spoilt(index, tmp_path / "spoilt")
        plain = open_shards(spoilt, SIZE, damaged="skip")
        expected = list(itertools.islice(plain.stream("train", 4, 0), 20))
        assert len(plain.faults) == 1
        for start in (0, 9):
            threaded = open_shards(spoilt, SIZE, damaged="skip", workers=2)
            _same(itertools.islice(threaded.stream("train", 4, 0, start), 20 - start),
                  expected[start:])  # fmt: skip
            assert threaded.faults == plain.faults

    def test_what_is_refused_is_told_at_its_batch(self, index, tmp_path):
        spoilt = _spoilt(index, tmp_path / "spoilt")
        told = []
        for workers in (0, 2):
            stream = open_shards(spoilt, SIZE, workers=workers).stream("train", 3, 1)
            stream = made_ahead(stream, 2) if workers else stream
            batches = []
            with pytest.raises(DataError, match=r"train-000001\.tar: .*damaged") as found:
                batches.extend(labels for _, labels in stream)
            told.append((str(found.value), torch.stack(batches)))
        assert told[0][0] == told[1][0]
        assert torch.equal(told[0][1], told[1][1])

    def test_an_error_in_a_thread_comes_out(self, index, monkeypatch):
        def broken(*args, **named):
            raise RuntimeError("out of luck")

        monkeypatch.setattr(shards_module, "read_picture", broken)
        stream = made_ahead(open_shards(index, SIZE, workers=2).stream("train", 4, 0), 2)
        with pytest.raises(RuntimeError, match="out of luck"):
            next(stream)

    def test_results_stay_in_order_and_errors_in_place(self):
        def values():
            yield from range(5)
            raise OSError("no more")

        def slow(value):
            time.sleep(0.01 * (value == 1))
            return value * value

        for threads in (0, 3):
            seen = []
            with pytest.raises(OSError, match="no more"):
                seen.extend(ahead(slow, values(), threads, 10))
            assert seen == [0, 1, 4, 9, 16]
        assert list(ahead(slow, [], 2, 1)) == []

    def test_threads_end_with_their_reader(self, index):
        before = threading.active_count()
        stream = made_ahead(open_shards(index, SIZE, workers=3).stream("train", 4, 0), 2)
        next(stream)
        assert threading.active_count() > before
        stream.close()
        del stream
        assert threading.active_count() == before

    def test_a_number_of_threads_that_there_is_not(self, index):
        with pytest.raises(ValueError, match="workers must not be negative, got -1"):
            open_shards(index, SIZE, workers=-1)


# Streams an index that lists the same shards many times, under a limit on this process's memory.
LIMITED = """
import json, resource, sys
from itertools import islice
from pathlib import Path
import torch, PIL.Image, webdataset
from stn.data.shards import open_shards
from stn.data.image_set import Example, ImageSet

index, kind, picture = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
SIDE, TIMES, ROOM = 96, 290, 75 * 2**20
content = json.loads(index.read_text())
train = content["parts"]["train"]
for key in train:
    train[key] *= TIMES
index.with_name(f"{kind}.json").write_text(json.dumps(content))
shards = open_shards(index.with_name(f"{kind}.json"), SIDE)
encoded = TIMES * sum(path.stat().st_size for path in index.parent.glob("*.tar"))
count = shards.count("train")
decoded = count * 3 * SIDE * SIDE
assert min(encoded, decoded) > 3 * ROOM, (encoded, decoded, ROOM)
next(shards.chunks("train", count=100))
used = 1024 * int(Path("/proc/self/status").read_text().split("VmData:")[1].split()[0])
resource.setrlimit(resource.RLIMIT_DATA, (used + ROOM, used + ROOM))
if kind == "all":
    ImageSet([Example(picture, 0)] * count, ["noise"], SIDE).in_memory(threads=1)
elif kind == "stream":
    batches = islice(shards.stream("train", 100, 0), count // 100)
    assert sum(len(labels) for _, labels in batches) == count
else:
    assert sum(len(labels) for _, labels in shards.chunks("train", count=100)) == count
print("done")
"""


@linux_only
@pytest.mark.parametrize("kind", ["stream", "chunks", "all"])
def test_constant_memory(index, tmp_path, kind):
    shutil.copytree(index.parent, tmp_path / "shards")
    noise = np.random.default_rng(0).integers(256, size=(*SIZE, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    given = [str(tmp_path / "shards" / "shards.json"), kind, str(tmp_path / "noise.png")]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *given],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    if kind == "all":
        assert done.returncode == 1
        assert "MemoryError" in done.stderr or "can't allocate memory" in done.stderr
    else:
        assert done.stdout == "done\n", done.stderr
