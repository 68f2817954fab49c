"""Networks as folders: save_pretrained, from_pretrained and the model card."""

import json
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from torch import nn

from .classifiers import count_parameters

if TYPE_CHECKING:
    from .folder import Spec

TENSORS, CARD = "model.safetensors", "README.md"
FILES = ("config.json", TENSORS, CARD)
USAGE = """\
```python
import stn, torch

model = stn.load_model("{folder}")
images = torch.rand(2, {shape})
logits = model(images)
{seen}```
"""
SEEN = "seen = model.transformer(images)  # what the {who} looks at\n"
TEMPLATE = """\
---
library_name: torch-stn
---

# {name}

A network of stn (`pip install torch-stn`). Say here what it was trained on, what it is for,
how well it does and where it fails.

| | |
|---|---|
| parameters | {parameters:,} |
| input | float images (B, {shape}) in [0, 1] |
| output | logits, {classes} |

{usage}"""

Self = TypeVar("Self", bound="Pretrained")


class Pretrained(nn.Module):
    """What a network needs to be written to a folder and read again.

    Attributes:
        spec: all that is needed to build it again.
        about: what else its config.json holds for those who use it: "names" of the classes, and how
            pictures "fit" its canvas. Read with the network, and written with it.
    """

    spec: "Spec"

    def __init__(self):
        super().__init__()
        self.about: dict = {}

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write config.json, model.safetensors and a model card, README.md, to be filled in.

        Args:
            folder: is made, or replaced whole if it holds nothing but these files.

        Returns:
            The folder; `stn.load_model` reads it.

        Raises:
            ValueError: the folder holds other files, such as those of a run.

        Example:
            >>> from stn.models import NetSpec
            >>> model = NetSpec("st-fcn-affine", (1, 28, 28)).build().eval()
            >>> again = type(model).from_pretrained(model.save_pretrained(
            ...     getfixture("tmp_path") / "mine"))
            >>> images = torch.rand(2, 1, 28, 28)
            >>> torch.testing.assert_close(again(images), model(images))
        """
        from safetensors.torch import save_file

        folder = Path(folder)
        with replacing(folder, FILES) as new:
            config = {**self.about, "net": asdict(self.spec)}
            (new / "config.json").write_text(json.dumps(config, indent=2) + "\n")
            state = {name: value.cpu().contiguous() for name, value in self.state_dict().items()}
            save_file(state, new / TENSORS)
            (new / CARD).write_text(self._card(folder))
        return folder

    @classmethod
    def from_pretrained(cls: type[Self], folder: str | Path, *, trust_code: bool = False) -> Self:
        """`stn.load_model` of a local folder, for a network of this class.

        Raises:
            ValueError: as load_model, or a network of another class.
        """
        from .folder import load_model

        model = load_model(folder, trust_code=trust_code)
        if not isinstance(model, cls):
            raise ValueError(
                f"{folder} holds a {type(model).__name__}, not a {cls.__name__}: "
                "stn.load_model takes any"
            )
        return model

    def _card(self, folder: Path) -> str:
        names = self.about.get("names")
        classes = getattr(self.spec, "classes", None)
        looks = getattr(self, "transformer", None) is not None
        shape = ", ".join(map(str, self.spec.shape))
        return TEMPLATE.format(
            name=folder.name,
            parameters=count_parameters(self),
            shape=shape,
            classes=", ".join(names) if names else f"(B, {classes})" if classes else "(B, 5, 11)",
            usage=usage(folder.as_posix(), shape, looks, getattr(self.spec, "members", 1)),
        )


@contextmanager
def replacing(folder: Path, names: Collection[str]) -> Iterator[Path]:
    """A new folder beside `folder`, which takes its place when it is filled: whole or not at all.

    Killed at its worst moment, it leaves the old one aside, and the next call puts that back.

    Raises:
        ValueError: `folder` holds files of other names, which would be lost.
    """
    new, old = (folder.with_name(f".{folder.name}.{word}") for word in ("tmp", "old"))
    if old.exists() and not folder.exists():
        old.rename(folder)
    others = {path.name for path in folder.iterdir()} - {*names} if folder.exists() else None
    if others:
        raise ValueError(
            f"{folder} holds other files ({', '.join(sorted(others)[:3])}), which would be lost: "
            "choose another folder"
        )
    shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        yield new
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def usage(folder: str, shape: str, looks: bool, members: int) -> str:
    """The code of a model card; `looks` for networks with a transformer."""
    who = "classifier" if members == 1 else f"first of {members} classifiers"
    return USAGE.format(folder=folder, shape=shape, seen=SEEN.format(who=who) * looks)
