"""Archives that are brought along: unpacked where they are read, counted, or refused."""

import hashlib
import io
import json
import os
import tarfile

import numpy as np
import pytest
import torch

from stn.cli import main
from stn.data import (
    read_cub,
    read_cub_parts,
    read_svhn,
    write_creatures,
    write_street_numbers,
)

SVHN = {"train": 3, "test": 2, "extra": 2}
GREY = [np.full((100, 150, 3), 90, np.uint8)]


def pack(path, folder, name=None):
    """A tar.gz of one folder, under its name."""
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, name or folder.name)
    return path


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def usual(folder):
    """Whether whoever may read new folders may read this one."""
    mask = os.umask(0)
    os.umask(mask)
    return folder.stat().st_mode & 0o777 == 0o777 & ~mask


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    return write_street_numbers(tmp_path_factory.mktemp("made") / "svhn", SVHN, textures=GREY)


@pytest.fixture(scope="module")
def creatures(tmp_path_factory):
    images = torch.zeros(4, 28, 28, dtype=torch.uint8)
    images[:, 5:20, 8:18] = 255
    parts = images, torch.tensor([0, 0, 1, 1])
    folder = tmp_path_factory.mktemp("made") / "CUB_200_2011"
    return write_creatures(folder, parts, parts, 16, side_px=48, textures=GREY)


@pytest.fixture
def archives(monkeypatch, tmp_path):
    """A folder for archives, and the data folder; official counts are those of what is made."""
    monkeypatch.setenv("STN_DATA", str(tmp_path / "data"))
    official = {"svhn": SVHN, "cub": {"CUB_200_2011": 16}}
    monkeypatch.setattr("stn.recipes.sets.ARCHIVES", official)
    (tmp_path / "from").mkdir()
    return tmp_path / "from"


@pytest.fixture
def data(archives):
    return archives.with_name("data")


class TestBrought:
    def bring(self, archives, name="svhn"):
        return main(["data", name, "--from", str(archives)])

    def test_house_numbers_are_unpacked_where_they_are_read(self, archives, data, numbers, capsys):
        packed = [pack(archives / f"{part}.tar.gz", numbers / part) for part in ("train", "test")]
        assert self.bring(archives) == 0
        assert f"svhn is in {data / 'svhn'}" in capsys.readouterr().out
        train, test = read_svhn(data / "svhn", 32), read_svhn(data / "svhn", 32, "test")
        assert (len(train), len(test)) == (3, 2)
        assert torch.equal(train[0], read_svhn(numbers, 32)[0])
        told = json.loads((data / "svhn" / "archives.json").read_text())
        assert told == {
            path.name: {"sha256": digest(path), "pictures": count}
            for path, count in zip(packed, (3, 2), strict=True)
        }
        assert usual(data / "svhn")
        assert usual(data / "svhn" / "train")
        assert [path.name for path in data.iterdir()] == ["svhn"]

    def test_again_adds_what_has_come_and_leaves_the_rest(self, archives, data, numbers):
        for part in ("train", "test"):
            pack(archives / f"{part}.tar.gz", numbers / part)
        assert self.bring(archives) == 0
        before = json.loads((data / "svhn" / "archives.json").read_text())
        mine = data / "svhn" / "train" / "mine.txt"
        mine.touch()
        (archives / "train.tar.gz").unlink()
        (archives / "test.tar.gz").write_bytes(b"damaged")
        extra = pack(archives / "extra.tgz", numbers / "extra")
        assert self.bring(archives) == 0
        assert mine.exists()
        assert len(read_svhn(data / "svhn", 32)) == 5
        after = json.loads((data / "svhn" / "archives.json").read_text())
        assert after == before | {"extra.tgz": {"sha256": digest(extra), "pictures": 2}}
        extra.unlink()
        assert self.bring(archives) == 0
        assert json.loads((data / "svhn" / "archives.json").read_text()) == after

    def test_birds_are_unpacked_where_they_are_read(self, archives, data, creatures):
        packed = pack(archives / "CUB_200_2011.tgz", creatures)
        (data / "cub").mkdir(parents=True)  # which is empty, and in nobody's way
        assert self.bring(archives, "cub") == 0
        assert len(read_cub(data / "cub", 48, "train")) == 8
        assert read_cub_parts(data / "cub").names == ("head", "wing")
        told = json.loads((data / "cub" / "archives.json").read_text())
        assert told == {packed.name: {"sha256": digest(packed), "pictures": 16}}
        assert usual(data / "cub")
        assert self.bring(archives.with_name("nowhere"), "cub") == 0  # it is there

    def test_what_a_mac_adds_is_no_picture(self, archives, data, numbers, tmp_path):
        for part in ("train", "test"):
            pack(archives / f"{part}.tar.gz", numbers / part)
        with tarfile.open(archives / "train.tar.gz", "w:gz") as tar:
            tar.add(numbers / "train", "train")
            (tmp_path / "mac").write_bytes(b"Mac OS X")
            tar.add(tmp_path / "mac", "train/._1.png")
        assert self.bring(archives) == 0

    @pytest.mark.parametrize("name", ["svhn", "cub"])
    def test_a_wrong_count_is_refused(self, archives, data, numbers, creatures, capsys, name):
        folder = {"svhn": numbers / "test", "cub": creatures / "images"}[name]
        part = {"svhn": "train", "cub": "CUB_200_2011"}[name]
        if name == "cub":
            folder = next(path for path in folder.iterdir())
        pack(archives / f"{part}.tar.gz", folder, part)
        pack(archives / "test.tar.gz", numbers / "test")
        assert self.bring(archives, name) == 2
        error = capsys.readouterr().err
        official = {"svhn": "holds 2 pictures in train/, the official one 3", "cub": "4 pictures"}
        assert official[name] in error
        assert "publishes" in error
        assert not list(data.iterdir())

    def test_without_the_folder_it_should_hold(self, archives, data, numbers, capsys):
        pack(archives / "train.tar.gz", numbers / "train", "training")
        pack(archives / "test.tar.gz", numbers / "test")
        assert self.bring(archives) == 2
        assert "holds 0 pictures in train/" in capsys.readouterr().err
        assert not list(data.iterdir())

    def test_nothing_is_unpacked_before_all_archives_are_there(
        self, archives, data, numbers, capsys
    ):
        pack(archives / "train.tar.gz", numbers / "train")
        assert self.bring(archives) == 2
        assert f"{archives} holds no test.tar.gz; SVHN's page" in capsys.readouterr().err
        assert not data.exists()

    def test_what_was_unpacked_before_a_bad_archive_is_told(self, archives, data, numbers):
        good = pack(archives / "train.tar.gz", numbers / "train")
        pack(archives / "test.tar.gz", numbers / "train", "test")
        assert self.bring(archives) == 2
        assert sorted(p.name for p in (data / "svhn").iterdir()) == ["archives.json", "train"]
        told = json.loads((data / "svhn" / "archives.json").read_text())
        assert told == {good.name: {"sha256": digest(good), "pictures": 3}}

    @pytest.mark.parametrize("kind", ["outside", "link"])
    def test_a_malicious_archive_is_refused(self, archives, data, numbers, capsys, kind):
        pack(archives / "test.tar.gz", numbers / "test")
        with tarfile.open(archives / "train.tar.gz", "w:gz") as tar:
            tar.add(numbers / "train", "train")
            evil = tarfile.TarInfo("../evil" if kind == "outside" else "train/evil")
            if kind == "link":
                evil.type, evil.linkname = tarfile.SYMTYPE, "/etc"
            else:
                evil.size = 4
            tar.addfile(evil, io.BytesIO(b"evil"))
        assert self.bring(archives) == 2
        words = {"outside": "has a path that may lead out of the folder", "link": "is a link or a"}
        assert words[kind] in capsys.readouterr().err
        assert not list(data.iterdir())
        assert not list(data.parent.rglob("evil"))

    def test_something_else_is_in_the_way(self, archives, data, creatures, capsys):
        pack(archives / "CUB_200_2011.tgz", creatures)
        (data / "cub").mkdir(parents=True)
        (data / "cub" / "mine.txt").touch()
        assert self.bring(archives, "cub") == 2
        assert "cub is there and holds no images.txt" in capsys.readouterr().err
        assert [path.name for path in (data / "cub").iterdir()] == ["mine.txt"]

    def test_made_folders_may_be_read_by_others(self, numbers, creatures):
        for made in (numbers, creatures):
            folders = [made, *(path for path in made.rglob("*") if path.is_dir())]
            assert len(folders) > 3
            assert all(usual(folder) for folder in folders)
