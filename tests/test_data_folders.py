"""Your own images: folders of classes, split folders, and CSV files."""

import pytest
import torch
from PIL import Image

from stn.data.folders import read_folder
from stn.data.mnist import DataError


def _fill(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith((".png", ".JPG", ".gif")):
            Image.new("L", (2, 2), 7).save(path)
        else:
            path.write_text("")
    return root


def _table(root, text, name="list.csv", encoding="utf-8"):
    root.mkdir(exist_ok=True)
    (root / name).write_bytes(text.encode(encoding))
    return root / name


def _shown(images, root):
    """(class, path under the root) of every example."""
    return [
        (images.names[example.label], example.path.relative_to(root).as_posix())
        for example in images.examples
    ]


class TestClassFolders:
    def test_nested_hidden_and_other_files(self, tmp_path):
        seen = ["ant/1.png", "ant/deep.png/er/2.JPG", "bee/3.gif"]
        _fill(tmp_path, *seen, "ant/.hidden.png", "ant/.thumbs/4.png", "ant/notes.txt", "stray.png")
        _fill(
            tmp_path, ".git/5.png", "__MACOSX/ant/6.png", "README.md", "a.csv", "bee/__MACOSX/7.png"
        )
        found = read_folder(tmp_path, (8, 9), channels=1, fit="crop")
        assert found.held_out is None
        assert found.test is None
        assert found.train.names == ("ant", "bee")
        assert _shown(found.train, tmp_path) == [
            ("ant", seen[0]),
            ("ant", seen[1]),
            ("bee", seen[2]),
        ]
        assert found.train.shape == (1, 8, 9)
        assert found.train.fit == "crop"
        assert torch.equal(found.train[1], torch.full((1, 8, 9), 7, dtype=torch.uint8))
        assert read_folder(str(tmp_path), 4).train.shape == (3, 4, 4)

    def test_it_may_lie_anywhere(self, tmp_path, monkeypatch):
        _fill(tmp_path, ".hidden/pets/ant/1.png", ".hidden/pets/bee/2.png", ".hidden/here/3.png")
        monkeypatch.chdir(tmp_path / ".hidden" / "here")
        table = _table(
            tmp_path / ".hidden" / "csv",
            "path,label\n../pets/ant/1.png,ant\n../pets/bee/2.png,bee\n",
        )
        for place in ("../pets", tmp_path / ".hidden" / "pets"):
            assert read_folder(place, 4).train.names == ("ant", "bee")
        assert read_folder(table.parent, 4).train.names == ("ant", "bee")

    def test_parts_of_other_names_are_no_classes(self, tmp_path):
        _fill(tmp_path, "one/ant/1.png", "one/bee/2.png", "two/ant/3.png", "two/bee/4.png")
        with pytest.raises(DataError, match=r"one, two of .* all hold the folders ant, bee"):
            read_folder(tmp_path, 4)
        (tmp_path / "one").rename(tmp_path / "Training")
        (tmp_path / "two").rename(tmp_path / "testing")
        found = read_folder(tmp_path, 4)
        assert found.train.names == ("ant", "bee")
        assert _shown(found.test, tmp_path) == [
            ("ant", "testing/ant/3.png"),
            ("bee", "testing/bee/4.png"),
        ]

    @pytest.mark.parametrize(
        ("classes", "expected"),
        [
            (["10", "9", "1"], ["1", "9", "10"]),
            (["010", "9", "-1"], ["-1", "9", "010"]),
            (["10", "9", "one"], ["10", "9", "one"]),
            (["train", "car"], ["car", "train"]),
            (["test", "car"], ["car", "test"]),
        ],
    )
    def test_order_of_classes(self, tmp_path, classes, expected):
        _fill(tmp_path, *(f"{name}/x.png" for name in classes))
        train = read_folder(tmp_path, 4).train
        assert list(train.names) == expected
        assert _shown(train, tmp_path) == [(n, f"{n}/x.png") for n in sorted(classes)]

    @pytest.mark.parametrize(
        ("files", "message"),
        [
            ([], "has no folders of classes: put the images .* or list them in a CSV file"),
            (["1.png"], "has no folders of classes"),
            (["ant/1.png"], "has only the class 'ant' to train on: at least two classes"),
            (["ant/1.png", "bee/notes.txt"], r"class folder .*bee has no images \(\.bmp, "),
            (["ant/1.png", "bee/.1.png"], r"class folder .*bee has no images"),
            (["test/a/1.png", "val/b/1.png"], "has test, val but no folder named train"),
            (["train/1.png", "test/1.png"], "train has no folders of classes|test has no folders"),
            (["a.csv", "b.csv"], "has no folders of classes"),
        ],
    )
    def test_errors(self, tmp_path, files, message):
        with pytest.raises(DataError, match=message):
            read_folder(_fill(tmp_path, *files), 4)

    @pytest.mark.parametrize("name", ["none", "none.csv"])
    def test_no_such_folder(self, tmp_path, name):
        with pytest.raises(DataError, match=f"no folder .*{name}, nor a CSV file"):
            read_folder(tmp_path / name, 4)

    def test_bad_arguments(self, tmp_path):
        _fill(tmp_path, "ant/1.png", "bee/2.png")
        with pytest.raises(ValueError, match="fit must be one of"):
            read_folder(tmp_path, 4, fit="fill")


class TestSplitFolders:
    @pytest.mark.parametrize("held_out", ["val", "validation", "held-out", "Val"])
    def test_parts(self, tmp_path, held_out):
        _fill(tmp_path, "train/bee/1.png", "train/ant/2.png", "docs/x/y.png")
        _fill(tmp_path, "test/bee/3.png", f"{held_out}/ant/4.png", f"{held_out}/bee/5.png")
        found = read_folder(tmp_path, 4)
        assert found.held_out is not None
        assert found.test is not None
        assert all(part.names == ("ant", "bee") for part in found)
        assert _shown(found.train, tmp_path) == [
            ("ant", "train/ant/2.png"),
            ("bee", "train/bee/1.png"),
        ]
        assert _shown(found.held_out, tmp_path) == [
            ("ant", f"{held_out}/ant/4.png"), ("bee", f"{held_out}/bee/5.png"),
        ]  # fmt: skip
        assert _shown(found.test, tmp_path) == [("bee", "test/bee/3.png")]

    def test_train_alone(self, tmp_path):
        _fill(tmp_path, "train/ant/1.png", "train/bee/2.png", "notes.csv")
        found = read_folder(tmp_path, 4)
        assert len(found.train) == 2
        assert found[1:] == (None, None)

    @pytest.mark.parametrize(
        ("files", "message"),
        [
            (["test/cat/3.png"], r"cat.3\.png is of the class 'cat', .* classes .* ant, bee"),
            (["test/3.png"], "test has no folders of classes"),
            (["val/bee/notes.txt"], r"class folder .*val.bee has no images"),
        ],
    )
    def test_errors(self, tmp_path, files, message):
        with pytest.raises(DataError, match=message):
            read_folder(_fill(tmp_path, "train/ant/1.png", "train/bee/2.png", *files), 4)


class TestTables:
    ROWS = "path,label\na.png,ant\nb.png,bee\n"

    @pytest.fixture
    def images(self, tmp_path):
        return _fill(tmp_path / "set", "a.png", "b.png", "in/c, d.png")

    @pytest.mark.parametrize(
        ("text", "encoding"),
        [
            ('path,label\na.png,ant\nb.png,bee\n"in/c, d.png",ant\n', "utf-8"),
            ('path,label\na.png,ant\nb.png,bee\n"in/c, d.png",ant\n', "utf-8-sig"),
            ('label,id,Path\r\nant,1,a.png\r\nbee,2,b.png\r\n\r\nant,3,"in/c, d.png"', "utf-8"),
            (' path , label \n a.png, ant \nb.png,bee,\n"in/c, d.png",ant\n', "utf-8"),
        ],
        ids=["plain", "BOM", "columns", "spaces"],
    )
    def test_rows(self, images, text, encoding):
        table = _table(images, text, encoding=encoding)
        expected = [("ant", "a.png"), ("bee", "b.png"), ("ant", "in/c, d.png")]
        for place in (table, images):
            found = read_folder(place, 4)
            assert found.train.names == ("ant", "bee")
            assert _shown(found.train, images) == expected
            assert found[1:] == (None, None)

    def test_parts_and_numbers(self, images):
        rows = ["path,label,split", "a.png,10,train", "b.png,9,", "a.png,9,Val", "b.png,10,test"]
        rows += ["in/c, d.png".join('""') + ",9,held-out"]
        found = read_folder(_table(images, "\n".join(rows), name="LIST.CSV"), 4)
        assert found.held_out is not None
        assert found.test is not None
        assert found.train.names == found.test.names == ("9", "10")
        assert found.train.labels.tolist() == [1, 0]
        assert found.held_out.labels.tolist() == [0, 0]
        assert _shown(found.test, images) == [("10", "b.png")]

    def test_paths_elsewhere(self, images):
        elsewhere = images.parent / "elsewhere"
        text = f"path,label\n{images / 'a.png'},ant\n../set/b.png,bee\n"
        found = read_folder(_table(elsewhere, text), 4).train
        assert found.in_memory().images.unique().tolist() == [7]

    def test_class_folders_win(self, images):
        _fill(images, "ant/1.png", "bee/2.png")
        for path in images.glob("in/*"):
            path.unlink()
        (images / "in").rmdir()
        table = _table(images, "path,label\na.png,x\nb.png,y\n")
        assert read_folder(images, 4).train.names == ("ant", "bee")
        assert read_folder(table, 4).train.names == ("x", "y")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "no column path and no column label in its first line; found: nothing"),
            ("file,label\na.png,1\n", "no column path in its first line; found: file, label"),
            ("path;label\na.png;1\n", "found: path;label"),
            ("path,label\n", "has no images to train on"),
            ("path,label\na.png,ant\n", "only the class 'ant' to train on"),
            (ROWS + "a.png\n", r"list\.csv, line 4: the label is missing"),
            (ROWS + "a.png, \n", r"list\.csv, line 4: the label is missing"),
            (ROWS + ",ant\n", "line 4: the path is missing"),
            (ROWS + "\nno.png,ant\n", r"line 5: there is no file .*no\.png"),
            (ROWS + "in,ant\n", "line 4: there is no file .*in"),
            (ROWS + "a.png,ant,big\n", "line 4: more fields than columns; put quotes"),
            ("path,label,split\na.png,ant,dev\n", "line 2: split must be .* val, .* got 'dev'"),
            (
                "path,label,split\na.png,ant,\nb.png,bee,\na.png,cat,test\n",
                "of the class 'cat', for which there is nothing to train on",
            ),
            ("path,label,split\na.png,ant,test\nb.png,bee,test\n", "no images to train on"),
        ],
    )
    def test_errors(self, images, text, message):
        with pytest.raises(DataError, match=message):
            read_folder(_table(images, text), 4)

    @pytest.mark.parametrize(
        "text", ["path,label\ncaf\xe9.png,x\n", 'path,label\n"' + "a" * 200_000]
    )
    def test_no_csv(self, images, text):
        (images / "list.csv").write_bytes(text.encode("latin-1"))
        with pytest.raises(DataError, match=r"list\.csv is no CSV file in UTF-8: "):
            read_folder(images, 4)
