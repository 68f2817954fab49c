"""Results as one JSON file: a head that says where, and a row per contender."""

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from ..training import write_json

SAME = ("device", "name", "torch", "quick")


class Key(NamedTuple):
    """What is measured together."""

    case: str
    direction: str
    threads: int


class Results:
    """A results file that is written after every group of rows, and gone on with later.

    Raises:
        ValueError: the file is damaged, or holds results of another machine, torch or effort.
    """

    def __init__(self, path: Path, machine: dict):
        self.path, self.machine = path, machine
        self.rows: list[dict] = []
        if not path.exists():
            return
        data = read_results(path)
        differing = [name for name in SAME if data["machine"].get(name) != machine.get(name)]
        if differing:
            name = differing[0]
            raise ValueError(
                f"{path} was measured with {name} {data['machine'].get(name)!r}, this is "
                f"{machine.get(name)!r}: choose another --output, or delete the file"
            )
        self.rows = data["rows"]

    def has(self, key: Key, names: Iterable[str]) -> bool:
        """Whether all these contenders have a row."""
        return set(names) <= {row["contender"] for row in self.rows if key_of(row) == key}

    def put(self, key: Key, rows: list[dict]) -> None:
        """Replace the rows of a key, and write the file."""
        self.rows = [row for row in self.rows if key_of(row) != key] + rows
        self._write()

    def drop(self, keys: Collection[Key]) -> None:
        """Forget what was measured."""
        self.rows = [row for row in self.rows if key_of(row) not in keys]

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, {"machine": self.machine, "rows": self.rows})


def key_of(row: dict) -> Key:
    return Key(row["case"], row["direction"], row["threads"])


def read_results(path: Path) -> dict:
    """{"machine": …, "rows": […]}.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        data = json.loads(path.read_text())
        missing = {"machine", "rows"} - set(data)
        if missing:
            raise ValueError(f"it has no {' and '.join(sorted(missing))}")
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and measure again") from None
    return data
