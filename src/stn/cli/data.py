"""`stn data`: data sets, fetched, brought along or made."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from .console import SKIP, told_by_options


@dataclass(frozen=True)
class Data:
    """Put a data set into the data folder ($STN_DATA or ~/.cache/stn), or write shards.

    mnist is fetched and verified byte by byte. svhn and cub are unpacked from the archives that
    you bring, as their publishers ask. street-numbers and creatures are made: stand-ins for those
    two in their layout. shards writes your own images for streaming.
    """

    name: tyro.conf.Positional[
        Literal["mnist", "svhn", "cub", "street-numbers", "creatures", "shards"]
    ]
    """Which one."""
    source: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """mnist: a folder to take it from, instead of the internet. svhn, cub: the folder with the
    archives. shards: your images, as `stn train --data` takes them."""
    to: Path | None = None
    """Where to; by default a folder of the data folder, for shards FROM-shards."""
    count: int | None = None
    """street-numbers, creatures: training images to make; by default 20,000 and 9,000."""
    damaged: Literal["refuse", "skip"] = "refuse"
    """shards: what to do with images that cannot be read."""

    def __call__(self) -> None:
        from ..data import data_folder, fetch_mnist
        from ..recipes import sets

        for option, given, names in (
            ("--from", self.source is not None, ("mnist", "svhn", "cub", "shards")),
            ("--count", self.count is not None, ("street-numbers", "creatures")),
            ("--damaged", self.damaged != "refuse", ("shards",)),
        ):
            if given and self.name not in names:
                raise ValueError(
                    f"{option} is of {', '.join(names)}, not of {self.name}: leave it out"
                )
        if self.name == "mnist":
            print(f"MNIST is in {fetch_mnist(self.to, self.source)}")
            return
        if self.name in ("svhn", "cub", "shards") and self.source is None:
            raise ValueError(f"say where from: stn data {self.name} --from DIR")
        target = self.to or data_folder() / self.name
        if self.name == "shards":
            assert self.source is not None
            target = self.to or self.source.with_name(f"{self.source.stem}-shards")
            with told_by_options(SKIP):
                print(f"wrote {sets.shards(self.source, target, self.damaged)}")
        elif self.source is not None:
            print(f"{self.name} is in {sets.brought(self.name, self.source, target)}")
        else:
            print(f"{self.name} is in {sets.made(self.name, target, self.count)}")
