"""Networks as folders: what is saved is what is read."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

import stn
from stn.cli import main
from stn.models import NetSpec, Network, PartsNetwork, PartsSpec, SvhnNet, SvhnSpec

SPECS = {
    Network: NetSpec("st-fcn-affine", (1, 28, 28), budget=40_000, steps=2),
    PartsNetwork: PartsSpec((3, 32, 32), 4, transform="attention", num=2, size=(16, 16)),
    SvhnNet: SvhnSpec("st-cnn-single", (3, 32, 32), width=0.05),
}


@pytest.mark.parametrize("kind", SPECS)
def test_round_trip(kind, tmp_path):
    spec = SPECS[kind]
    model = spec.build().eval()
    assert type(model) is kind
    folder = model.save_pretrained(tmp_path / "deep" / "mine")
    again = kind.from_pretrained(folder)
    assert again.spec == spec
    assert not again.training
    x = torch.rand(2, *spec.shape)
    assert torch.equal(again(x), model(x))
    assert torch.equal(stn.load_model(folder)(x), model(x))
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "model.safetensors", "README.md"}
    card = (folder / "README.md").read_text()
    assert f"{sum(p.numel() for p in model.parameters()):,}" in card
    assert f'stn.load_model("{folder.as_posix()}")' in card
    assert "{" not in card


def test_the_cards_code_runs(tmp_path):
    folder = SPECS[Network].build().save_pretrained(tmp_path / "mine")
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    found = {}
    exec(code, found)
    assert found["logits"].shape == (2, 10)
    assert found["seen"].shape == (2, 1, 28, 28)


def test_a_saved_folder_is_saved_again(tmp_path):
    model = SPECS[Network].build()
    folder = model.save_pretrained(tmp_path / "mine")
    with torch.no_grad():
        model.classifier[-1].bias.fill_(7)
    model.save_pretrained(folder)
    assert torch.equal(Network.from_pretrained(folder).classifier[-1].bias, torch.full((10,), 7.0))


def test_the_list_says_that_it_is_no_run(tmp_path, capsys):
    SPECS[Network].build().save_pretrained(tmp_path / "mine")
    assert main(["list", "--runs", str(tmp_path)]) == 0
    assert "no run" in capsys.readouterr().out


def test_names_of_classes_go_along(tmp_path, capsys):
    from PIL import Image

    model = SPECS[PartsNetwork].build()
    model.about = {"names": ["ant", "bee", "cat", "dog"], "fit": "crop"}
    folder = model.save_pretrained(tmp_path / "mine")
    again = PartsNetwork.from_pretrained(folder)
    assert again.about == model.about
    again.save_pretrained(tmp_path / "other")
    assert "ant, bee, cat, dog" in (tmp_path / "other" / "README.md").read_text()
    Image.new("RGB", (40, 30)).save(tmp_path / "black.png")
    assert main(["predict", str(folder), str(tmp_path / "black.png"), "--json",
                 "--output", str(tmp_path / "seen")]) == 0  # fmt: skip
    (told,) = json.loads(capsys.readouterr().out)
    assert told["label"] in model.about["names"]


def test_another_class_is_refused(tmp_path):
    folder = SPECS[Network].build().save_pretrained(tmp_path / "mine")
    with pytest.raises(ValueError, match="holds a Network, not a SvhnNet"):
        SvhnNet.from_pretrained(folder)


def test_a_run_is_not_replaced(tmp_path):
    folder = SPECS[Network].build().save_pretrained(tmp_path / "mine")
    (folder / "metrics.jsonl").write_text("precious")
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match=r"holds other files \(metrics.jsonl\)"):
        SPECS[Network].build().save_pretrained(folder)
    assert (folder / "model.safetensors").read_bytes() == before


def test_whole_or_not_at_all(tmp_path, monkeypatch):
    folder = SPECS[Network].build().save_pretrained(tmp_path / "mine")
    before = (folder / "model.safetensors").read_bytes()

    def full(state, path):
        Path(path).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    for target in (folder, tmp_path / "new"):
        with pytest.raises(OSError, match="no space left"):
            SPECS[Network].build().save_pretrained(target)
    assert (folder / "model.safetensors").read_bytes() == before
    assert list(tmp_path.iterdir()) == [folder]
    folder.rename(tmp_path / ".mine.old")  # as a kill between two renamings leaves it
    with pytest.raises(OSError, match="no space left"):
        SPECS[Network].build().save_pretrained(folder)
    assert list(tmp_path.iterdir()) == [folder]


def test_the_old_one_comes_back_where_the_new_one_cannot(tmp_path, monkeypatch):
    folder = SPECS[Network].build().save_pretrained(tmp_path / "mine")
    before, rename = (folder / "model.safetensors").read_bytes(), Path.rename

    def busy(path, target):
        if path.name == ".mine.tmp":
            raise OSError("in use")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", busy)
    with pytest.raises(OSError, match="in use"):
        SPECS[Network].build().save_pretrained(folder)
    assert (folder / "model.safetensors").read_bytes() == before
    assert list(tmp_path.iterdir()) == [folder]


def test_code_in_a_folder_is_not_run_unasked(tmp_path):
    folder = SPECS[PartsNetwork].build().save_pretrained(tmp_path / "mine")
    config = json.loads((folder / "config.json").read_text())
    config["net"]["backbone"] = "torch.nn:Identity"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="trust_code=True"):
        PartsNetwork.from_pretrained(folder)
