"""Archives that are not to be trusted: unpacked whole, or refused and nothing left behind."""

import bz2
import gzip
import hashlib
import io
import lzma
import os
import stat
import struct
import tarfile
import zipfile

import pytest

from stn.data import archives
from stn.data.archives import sha256_of, unpack
from stn.data.mnist import DataError

FILES = {
    "a.txt": b"alpha",
    "in/b.bin": bytes(range(256)) * 900,
    "in/deep/c": b"",
    "d\u00e9.txt": b"e",
}
PACKERS = {".gz": gzip.compress, ".tgz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
SUFFIXES = [".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"]


def _zip(files, compression=zipfile.ZIP_DEFLATED):
    """A zip of (name or ZipInfo, bytes)."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as opened:
        for name, body in files:
            opened.writestr(name, body)
    return file.getvalue()


def _tar(files, kind=tarfile.PAX_FORMAT):
    """A tar of (name or TarInfo, bytes)."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind) as opened:
        for name, body in files:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(body)
            opened.addfile(info, io.BytesIO(body))
    return file.getvalue()


def _packed(files, suffix):
    if suffix == ".zip":
        return _zip(files)
    return PACKERS.get("." + suffix.split(".")[-1], bytes)(_tar(files))


def _member(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def _zip_member(name, mode):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def _patched(data, old, new):
    """Every `old` replaced; it must be there."""
    assert old in data
    assert len(old) == len(new)
    return data.replace(old, new)


def _refused(tmp_path, data, suffix, message, **limits):
    """Refused with this message, and nothing is left but the archive."""
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    archive = home / f"set{suffix}"
    archive.write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        unpack(archive, home / "out", **limits)
    assert f"set{suffix}" in str(caught.value)
    assert [path.name for path in tmp_path.rglob("*")] == ["home", archive.name]


def _found(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


class TestWhole:
    @pytest.mark.parametrize("suffix", [*SUFFIXES, ".ZIP", ".TAR.GZ"])
    def test_files_and_modes(self, tmp_path, suffix):
        archive = tmp_path / f"set{suffix}"
        archive.write_bytes(_packed(FILES.items(), suffix.lower()))
        target, mask = tmp_path / "new" / "out", os.umask(0o027)
        try:
            assert unpack(archive, str(target)) == target
        finally:
            os.umask(mask)
        assert _found(target) == FILES
        modes = {stat.S_IMODE(path.stat().st_mode) for path in target.rglob("*") if path.is_file()}
        assert modes == {0o644}
        assert os.access(target, os.R_OK | os.W_OK | os.X_OK)
        assert [path.name for path in target.parent.iterdir()] == ["out"]

    @pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    def test_kinds_of_tar(self, tmp_path, kind):
        long = "/".join(["folder" * 10] * 3) + "/name"
        (tmp_path / "set.tar").write_bytes(_tar([(long, b"x"), ("./y", b"z")], kind))
        assert _found(unpack(tmp_path / "set.tar", tmp_path / "out")) == {long: b"x", "y": b"z"}

    def test_folders_modes_and_separators(self, tmp_path):
        setuid = _zip_member("run.sh", stat.S_IFREG | 0o4777)
        windows = zipfile.ZipInfo("x")
        windows.filename = "win\\y.txt"
        data = _zip(
            [(_zip_member("empty/", stat.S_IFDIR | 0o700), b""), (setuid, b"1"), (windows, b"2")]
        )
        (tmp_path / "set.zip").write_bytes(data)
        out = unpack(tmp_path / "set.zip", tmp_path / "out")
        assert _found(out) == {"run.sh": b"1", "win/y.txt": b"2"}
        assert (out / "empty").is_dir()
        assert stat.S_IMODE((out / "run.sh").stat().st_mode) == 0o644
        members = [_member(".", tarfile.DIRTYPE), _member("e", tarfile.DIRTYPE)]
        (tmp_path / "set.tar").write_bytes(_tar([(m, b"") for m in members] * 2))
        assert [p.name for p in unpack(tmp_path / "set.tar", tmp_path / "o2").iterdir()] == ["e"]

    def test_several_gzip_streams_in_one_file(self, tmp_path):
        whole = _tar(FILES.items())
        (tmp_path / "set.tgz").write_bytes(gzip.compress(whole[:700]) + gzip.compress(whole[700:]))
        assert _found(unpack(tmp_path / "set.tgz", tmp_path / "out")) == FILES

    def test_an_empty_folder_is_filled_and_a_full_one_kept(self, tmp_path, monkeypatch):
        (tmp_path / "set.zip").write_bytes(_zip(FILES.items()))
        (tmp_path / "out").mkdir()
        monkeypatch.chdir(tmp_path / "out")
        assert _found(unpack("../set.zip", "../out")) == FILES
        for taken in ("out", "set.zip"):
            with pytest.raises(DataError, match=f"{taken} is there already: delete it or name"):
                unpack(tmp_path / "set.zip", tmp_path / taken)
        assert _found(tmp_path / "out") == FILES

    def test_no_archive(self, tmp_path):
        with pytest.raises(DataError, match=r"there is no archive .*none\.zip"):
            unpack(tmp_path / "none.zip", tmp_path / "out")
        _refused(tmp_path, b"", ".rar", r"set\.rar must be a \.zip, \.tar, \.tar\.gz")


class TestNames:
    @pytest.mark.parametrize("suffix", SUFFIXES)
    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("/evil", "has an absolute path"),
            ("//host/share/evil", "has an absolute path"),
            ("C:/evil", "has an absolute path"),
            ("c:evil", "has an absolute path"),
            ("\\evil", "has an absolute path"),
            ("\\\\host\\share\\evil", "has an absolute path"),
            ("../evil", "has a path that may lead out"),
            ("in/../../evil", "has a path that may lead out"),
            ("in/..", "has a path that may lead out"),
            ("..\\evil", "has a path that may lead out"),
            ("in\\..\\..\\evil", "has a path that may lead out"),
            ("in/D:/evil", "has a path that may lead out"),
        ],
    )
    def test_escapes(self, tmp_path, name, message, suffix):
        info = _zip_member("x", 0) if suffix == ".zip" else _member("x", tarfile.REGTYPE)
        setattr(info, "filename" if suffix == ".zip" else "name", name)
        message = rf"set{suffix} is not unpacked: its member {name!r} {message}".replace(
            "\\", "\\\\"
        )
        _refused(tmp_path, _packed([("good", b"1"), (info, b"2")], suffix), suffix, message)

    @pytest.mark.parametrize("suffix", [".zip", ".tar"])
    @pytest.mark.parametrize(
        "names",
        [("a", "a"), ("a", "./a"), ("a/b", "a"), ("a", "a/b"), ("b", ".")],
    )
    @pytest.mark.filterwarnings("ignore:Duplicate name")
    def test_overwriting(self, tmp_path, names, suffix):
        data = _packed([(name, b"1") for name in names], suffix)
        _refused(tmp_path, data, suffix, "would overwrite another member")

    @pytest.mark.parametrize(
        "kind",
        [
            tarfile.SYMTYPE,
            tarfile.LNKTYPE,
            tarfile.CHRTYPE,
            tarfile.BLKTYPE,
            tarfile.FIFOTYPE,
            b"Q",
        ],
    )
    @pytest.mark.parametrize("target", ["good", "/etc/passwd", "../../x"])
    def test_links_and_devices_in_tars(self, tmp_path, kind, target):
        data = _tar([("good", b"1"), (_member("bad", kind, target), b"")])
        _refused(tmp_path, data, ".tar", r"set\.tar .*member 'bad' is a link or a device")

    @pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
    def test_links_and_devices_in_zips(self, tmp_path, kind):
        data = _zip([("good", b"1"), (_zip_member("bad", kind | 0o777), b"/etc/passwd")])
        _refused(tmp_path, data, ".zip", r"set\.zip .*member 'bad' is a link or a device")

    def test_nul(self, tmp_path):
        data = _patched(_zip([("evilX.png", b"1")]), b"evilX.png", b"evil\0.png")
        _refused(tmp_path, data, ".zip", "may lead out of the folder")


class TestBombs:
    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_limit(self, tmp_path, suffix):
        data = _packed([("a", os.urandom(600)), ("b", os.urandom(500))], suffix)
        _refused(
            tmp_path, data, suffix, "member 'b' brings it to more than 1,099", limit_bytes=1099
        )
        archive = tmp_path / "home" / f"set{suffix}"
        assert len(_found(unpack(archive, tmp_path / "out", limit_bytes=1100))) == 2

    @pytest.mark.parametrize(
        ("suffix", "message"),
        [
            (".zip", "member 'zeros' is 3,000,000 bytes out of .*, as bombs are"),
            (".tar.bz2", "member 'zeros' is 3,000,000 bytes out of .*, as bombs are"),
            (".tar.xz", "member 'zeros' is 3,000,000 bytes out of .*, as bombs are"),
        ],
    )
    def test_ratio(self, tmp_path, suffix, message, monkeypatch):
        data = _packed([("zeros", bytes(3_000_000))], suffix)
        if suffix == ".zip":  # deflate alone reaches 1,027 to 1 here
            data = _zip([("zeros", bytes(3_000_000))], zipfile.ZIP_BZIP2)
        _refused(tmp_path, data, suffix, message)

    def test_ratio_of_all_together(self, tmp_path):
        """Each is small, or shares its packed bytes with others."""
        data = lzma.compress(_tar([(f"{k}", bytes(900_000)) for k in range(9)]))
        _refused(tmp_path, data, ".tar.xz", "brings it to 1000 times its packed size")

    @pytest.mark.parametrize("suffix", [".zip", ".tar"])
    def test_too_many(self, tmp_path, suffix, monkeypatch):
        monkeypatch.setattr(archives, "MOST_MEMBERS", 3)
        data = _packed([(f"{k}", b"") for k in range(4)], suffix)
        _refused(tmp_path, data, suffix, "has more than 3 members")

    @pytest.mark.parametrize("told", [4, 6, 2**31])
    def test_a_zip_that_lies_about_a_size(self, tmp_path, told):
        body = os.urandom(5)
        data = _zip([("a", body)], zipfile.ZIP_STORED)
        central = data.index(b"PK\x01\x02")
        size = slice(central + 24, central + 28)
        assert struct.unpack("<I", data[size]) == (5,)
        data = data[: size.start] + struct.pack("<I", told) + data[size.stop :]
        _refused(tmp_path, data, ".zip", "CRC|does not have the|as bombs are|set.zip cannot be unp")

    def test_more_bytes_than_a_member_says(self, tmp_path, monkeypatch):
        """A reader that would go on for ever is read no further than over the declared size."""

        class Endless(io.RawIOBase):
            left = 1

            def read(self, size=-1):
                self.left -= 1
                assert self.left >= 0
                return b"x" * size

        endless = archives.Member("a", 10, 10, False, None, Endless)
        monkeypatch.setattr(archives, "_zip_members", lambda _: iter([endless]))
        _refused(tmp_path, b"", ".zip", "member 'a' does not have the 10 bytes that it says")

    def test_zips_are_refused_before_anything_is_written(self, tmp_path, monkeypatch):
        monkeypatch.setattr(archives, "_write", lambda *_: pytest.fail("written"))
        data = _zip([("a", b"1"), ("../b", b"2")])
        _refused(tmp_path, data, ".zip", r"member '\.\./b' has a path that may lead out")

    def test_header_that_would_fill_the_memory(self, tmp_path):
        head = _member("x", tarfile.XHDTYPE)
        head.size = 2**33
        _refused(
            tmp_path,
            head.tobuf(tarfile.GNU_FORMAT),
            ".tar",
            "a header says that it has 8,589,934,592",
        )

    def test_negative_size(self, tmp_path):
        head = bytearray(_tar([("x", b"abc")]))
        head[124:136] = b"\xff" * 11 + b"\xfd"
        head[148:156] = b"%06o\0 " % sum(head[:148] + b" " * 8 + head[156:512])
        _refused(tmp_path, bytes(head), ".tar", "a header says that it has -3 bytes")

    def test_padding_without_end(self, tmp_path):
        data = gzip.compress(_tar([("x", os.urandom(99))]) + bytes(20 * 2**20))
        _refused(tmp_path, data, ".tgz", "goes on after the end of its last member")


class TestDamage:
    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_cut_anywhere(self, tmp_path, suffix):
        files = [(f"{k}.bin", os.urandom(1500)) for k in range(4)]
        data = _packed(files, suffix)
        cuts = [0, 1, 100, 512, 1024, len(data) // 2, len(data) - 1]
        if suffix == ".tar":  # whose end is 10,240 zeros, of which two blocks suffice
            cuts[-1] = 4 * (512 + 1536) + 511
            cuts += [(512 + 1536) * k for k in range(1, 5)]
        for cut in cuts:
            _refused(tmp_path, data[:cut], suffix, rf"set{suffix} cannot be unpacked: .*; fetch it")

    @pytest.mark.parametrize("suffix", [".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"])
    @pytest.mark.parametrize("place", [0.2, 0.5, 0.8])
    def test_an_altered_byte(self, tmp_path, suffix, place):
        data = bytearray(_packed([("x.bin", os.urandom(9000))], suffix))
        data[int(place * len(data))] ^= 0x55
        _refused(tmp_path, bytes(data), suffix, "cannot be unpacked: ")

    def test_damaged_header_is_not_taken_for_the_end(self, tmp_path):
        data = bytearray(_tar([("a", b"1"), ("b", b"2"), ("c", b"3")]))
        data[1024 + 3] ^= 1
        _refused(tmp_path, bytes(data), ".tar", r"damaged or cut off \(bad checksum\)")

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_no_archive_at_all(self, tmp_path, suffix):
        page = b"<html>sign in first</html>" * 99
        _refused(tmp_path, page, suffix, rf"set{suffix} cannot be unpacked: .*; fetch it anew")

    def test_encrypted(self, tmp_path):
        data = bytearray(_zip([("good", b"1"), ("secret", b"2")]))
        data[data.rindex(b"PK\x01\x02") + 8] |= 1
        _refused(tmp_path, bytes(data), ".zip", "member 'secret' is encrypted")

    def test_a_full_disk(self, tmp_path, monkeypatch):
        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(archives, "_write", full)
        _refused(tmp_path, _zip(FILES.items()), ".zip", "cannot be unpacked: .*No space left")

    def test_interrupted(self, tmp_path, monkeypatch):
        def stop(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(archives, "_write", stop)
        (tmp_path / "set.zip").write_bytes(_zip(FILES.items()))
        with pytest.raises(KeyboardInterrupt):
            unpack(tmp_path / "set.zip", tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["set.zip"]


class TestSha256:
    def test_of_a_file(self, tmp_path, monkeypatch):
        monkeypatch.setattr(archives, "CHUNK_BYTES", 7)
        for body in (b"", b"abc", os.urandom(100)):
            (tmp_path / "x").write_bytes(body)
            assert sha256_of(tmp_path / "x") == hashlib.sha256(body).hexdigest()
