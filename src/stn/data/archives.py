"""Archives from elsewhere, unpacked safely: whole or not at all, and nothing beside the folder."""

import hashlib
import importlib
import os
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PureWindowsPath
from typing import IO, NamedTuple

from .mnist import DataError

LIMIT_BYTES = 50 * 2**30
MOST_MEMBERS = 5_000_000
# Deflate reaches 1,032 to 1, on zeros; images that are worth unpacking stay far below.
MOST_RATIO = 1000
SMALL_BYTES = 2**20
CHUNK_BYTES = 2**20
TARS = {
    ".tar": "io",
    ".tar.gz": "gzip",
    ".tgz": "gzip",
    ".tar.bz2": "bz2",
    ".tar.xz": "lzma",
}


class Member(NamedTuple):
    """A file or folder in an archive, before it is trusted.

    Fields:
        name: as the archive has it.
        size: of the file when unpacked, bytes, as the archive says.
        packed: the bytes that it, or the archive, takes.
        is_folder: else it is a file.
        fault: why it is refused whatever its name and size are, or None.
        open: reads the file.
    """

    name: str
    size: int
    packed: int
    is_folder: bool
    fault: str | None
    open: Callable[[], IO[bytes] | None]


def unpack(archive: str | Path, folder: str | Path, limit_bytes: int = LIMIT_BYTES) -> Path:
    """Unpack a .zip, .tar, .tar.gz, .tgz, .tar.bz2 or .tar.xz that is not to be trusted.

    The folder appears under its name only when all is written and verified. Files get the mode
    0644; owners, times and all other modes are left out.

    Args:
        archive: the file.
        folder: where to; it must not be there yet, or be empty.
        limit_bytes: that all files together may take.

    Returns:
        The folder.

    Raises:
        DataError: the archive is missing, of another kind or damaged; or a member would lie
            outside the folder, overwrite another, is a link or a device, is encrypted, or is far
            larger than its packed bytes or the limit allow. It names the archive and the member.
    """
    archive, target = Path(archive).expanduser(), Path(folder).expanduser()
    if not archive.is_file():
        raise DataError(f"there is no archive {archive}")
    read = _reader(archive)
    if target.exists() and not (target.is_dir() and next(target.iterdir(), None) is None):
        raise DataError(f"{target} is there already: delete it or name another folder")
    parent = Path(os.path.abspath(target)).parent
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix=".unpack-", suffix=".part") as part:
        whole = Path(part, "whole")
        whole.mkdir()
        try:
            if read is _zip_members:  # it says beforehand what it holds
                for _ in _checked(archive, read(archive), limit_bytes):
                    pass
            for member in _checked(archive, read(archive), limit_bytes):
                _write(archive, member, whole)
        except DataError:
            raise
        except Exception as error:  # decoders raise whatever they please on damaged bytes
            said = str(error) or type(error).__name__
            raise DataError(f"{archive} cannot be unpacked: {said}; fetch it anew") from error
        if target.exists():
            target.rmdir()
        whole.rename(target)
    return target


def sha256_of(path: str | Path) -> str:
    """The sha256 of a file in hexadecimal, read piece by piece."""
    digest = hashlib.sha256()
    with Path(path).expanduser().open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _reader(archive: Path) -> Callable[[Path], Iterator[Member]]:
    name = archive.name.lower()
    if name.endswith(".zip"):
        return _zip_members
    if name.endswith(tuple(TARS)):
        return _tar_members
    raise DataError(f"{archive} must be a .zip, {', '.join(TARS)}: repack it as one of these")


def _checked(archive: Path, members: Iterator[Member], limit_bytes: int) -> Iterator[Member]:
    """The members, as long as all of them can be trusted."""
    total, archive_bytes = 0, archive.stat().st_size
    for count, member in enumerate(members, 1):
        total += member.size
        if count > MOST_MEMBERS:
            raise DataError(f"{archive} has more than {MOST_MEMBERS:,} members")
        if fault := member.fault or _fault_of_name(member.name) or _fault_of_size(member):
            raise _refusal(archive, member, fault)
        if total > limit_bytes:
            raise _refusal(archive, member, f"brings it to more than {limit_bytes:,} bytes")
        if total > max(SMALL_BYTES, MOST_RATIO * archive_bytes):
            raise _refusal(archive, member, f"brings it to {MOST_RATIO} times its packed size")
        yield member


def _refusal(archive: Path, member: Member, fault: str) -> DataError:
    return DataError(f"{archive} is not unpacked: its member {member.name!r} {fault}")


def _fault_of_name(name: str) -> str | None:
    # Read as Windows would, names hold no surprise on any system.
    place = PureWindowsPath(name)
    if place.drive or place.root:
        return "has an absolute path"
    if ".." in place.parts or any(part[1:2] == ":" for part in place.parts) or "\0" in name:
        return "has a path that may lead out of the folder"
    return None


def _fault_of_size(member: Member) -> str | None:
    if member.size < 0:
        return f"says that it has {member.size} bytes"
    if member.size > max(SMALL_BYTES, MOST_RATIO * member.packed):
        return f"is {member.size:,} bytes out of {member.packed:,}, as bombs are"
    return None


def _write(archive: Path, member: Member, folder: Path) -> None:
    path = folder.joinpath(*PureWindowsPath(member.name).parts)
    try:
        if member.is_folder:
            path.mkdir(parents=True, exist_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("xb")
    except (FileExistsError, NotADirectoryError):
        raise _refusal(archive, member, "would overwrite another member") from None
    written = 0
    with file:
        source = member.open()
        assert source is not None
        with source:
            while chunk := source.read(CHUNK_BYTES):
                written += len(chunk)
                if written > member.size:
                    break
                file.write(chunk)
    if written != member.size:
        raise _refusal(archive, member, f"does not have the {member.size:,} bytes that it says")
    path.chmod(0o644)


def _zip_members(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            fault = None
            if info.flag_bits & 1:
                fault = "is encrypted"
            elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                fault = "is a link or a device"
            name, is_folder = info.orig_filename, info.is_dir()
            size, packed = info.file_size, info.compress_size
            yield Member(name, size, packed, is_folder, fault, lambda info=info: opened.open(info))


def _tar_members(archive: Path) -> Iterator[Member]:
    packed = archive.stat().st_size
    module = next(TARS[suffix] for suffix in TARS if archive.name.lower().endswith(suffix))
    with importlib.import_module(module).open(archive, "rb") as stream:
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header, bufsize=CHUNK_BYTES) as tar:
            while (info := tar.next()) is not None:
                # There may be millions, and tarfile remembers them all.
                tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]
                fault = None if info.isreg() or info.isdir() else "is a link or a device"
                yield Member(
                    info.name,
                    info.size,
                    packed,
                    info.isdir(),
                    fault,
                    lambda info=info: tar.extractfile(info),
                )
        # What follows is padding, but only at its end is the checksum of the whole compared.
        rest = 0
        while chunk := stream.read(CHUNK_BYTES):
            rest += len(chunk)
            if rest > 16 * CHUNK_BYTES:
                raise DataError(f"{archive} goes on after the end of its last member")


class _Header(tarfile.TarInfo):
    """A header that must be right: tarfile takes a damaged one for the end of the archive."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf == bytes(tarfile.BLOCKSIZE):  # the end, as it should be
                raise
            raise tarfile.ReadError(f"damaged or cut off ({error})") from None
        if header.size < 0 or (header.size > SMALL_BYTES and not header.isreg()):
            # tarfile would read a long header into memory.
            raise tarfile.ReadError(f"a header says that it has {header.size:,} bytes")
        return header
