"""Dumps of one folder: list, check, remove, keep within a budget."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import files
from ..errors import BusyError, MissingError, TlxError, UsageError, counted
from . import image_names
from .shelf import HEADER, DumpDirectory, check_size


@dataclass(frozen=True)
class Entry:
    """Dump in the list.

    bytes, unfinished  on disk in all, and of that in layers that are still being made or were cut
                       off
    used               seconds since 1970, when it was last opened
    layers             layer → bytes, of those that are whole
    shards             files of a layer at most; 1 where none is in shards
    images, crops      how many images, and crops of each; 0 where the header cannot be read
    about, how         what its maker called it; how it was taken
    damage             what is wrong with it, in words; "" if none is noticed without reading every
                       byte
    """

    key: str
    bytes: int
    unfinished: int
    used: float
    layers: Mapping[str, int]
    images: int
    crops: int
    about: Mapping[str, str]
    how: Mapping[str, Any]
    damage: str
    shards: int = 1


class Dumps:
    """Dumps under `root`."""

    def __init__(self, root: Path):
        self.root = Path(root).absolute()

    def keys(self) -> list[str]:
        """Return the keys of all dumps, complete or not."""
        names = (p.name for p in self.root.glob("*") if p.is_dir() and p.name != "locks")
        return sorted(
            {name.split(".")[0] for name in names if not name.startswith(files.TEMPORARY)}
        )

    def find(self, prefix: str) -> str:
        """Return the only key with this prefix.

        Raises MissingError if there is none, UsageError if there are several.
        """
        keys = [key for key in self.keys() if prefix and key.startswith(prefix)]
        if not keys:
            raise MissingError(f"dump '{prefix}'", self.root)
        if len(keys) > 1:
            raise UsageError(
                "ambiguous",
                f"'{prefix}' begins {counted(len(keys), 'key')}",
                expected="more of its letters",
            )
        return keys[0]

    def entries(self) -> list[Entry]:
        """Return all dumps, the last used first."""
        return sorted(
            (self.entry(key) for key in self.keys()), key=lambda entry: (-entry.used, entry.key)
        )

    def entry(self, key: str) -> Entry:
        """Return one dump, without reading every byte of it."""
        shelf = DumpDirectory(self.root, key)
        header: dict[str, Any] = {}
        rows: Mapping[str, Any] = {}
        damage = ""
        try:
            rows = shelf.files()
            for name, row in rows.items():
                check_size(shelf.folder / name, row)
            if (shelf.folder / HEADER).exists():
                header = files.read_json(shelf.header())
                described = image_names.read_json(shelf.description())
                header["about"] = described["about"] or header.get("about", {})
        except TlxError as error:
            damage = f"{error.where}: {error.what}"
        layers, shards = Counter[str](), Counter[str]()
        for row in rows.values():
            if "layer" in row:
                layers[row["layer"]] += row["bytes"]
                shards[row["layer"]] += 1
        folder, unfinished = _bytes(shelf.folder), sum(map(_bytes, shelf.parts()))
        return Entry(
            key,
            folder + unfinished,
            unfinished,
            shelf.used,
            layers,
            header.get("images", 0),
            header.get("crops", 0),
            header.get("about", {}),
            header.get("identity", {}).get("how", {}),
            damage,
            max(shards.values(), default=1),
        )

    def verify(self, key: str) -> None:
        """Raise IntegrityError, naming the file, unless every byte of a dump is as written."""
        shelf = DumpDirectory(self.root, key)
        if key not in self.keys():
            raise MissingError(f"dump '{key}'", self.root)
        with shelf.using(), shelf.remedied():
            if (
                shelf.files() or not shelf.parts()
            ):  # one that is only begun has nothing yet to be damaged
                files.verify(shelf.folder)

    def remove(self, key: str) -> int:
        """Remove a dump with all its parts; return the freed bytes.

        Raises BusyError if it is in use.
        """
        shelf = DumpDirectory(self.root, key)
        if key not in self.keys():
            raise MissingError(f"dump '{key}'", self.root)
        with shelf.removing():
            shelf.sweep()
            doomed = [folder for folder in [shelf.folder, *shelf.parts()] if folder.is_dir()]
            freed = sum(map(_bytes, doomed))
            for folder in doomed:
                shelf.discard(folder)
        return freed

    def trim(self, budget_bytes: int) -> list[str]:
        """Remove the least recently used dumps until the others fit the budget.

        Never what is in use.
        """
        entries = self.entries()
        total, gone = sum(entry.bytes for entry in entries), []
        for entry in reversed(entries):
            if total <= budget_bytes:
                break
            with contextlib.suppress(BusyError, MissingError):
                total -= self.remove(entry.key)
                gone.append(entry.key)
        return gone


def _bytes(path: Path) -> int:
    """Return the size of a file, or of all files in a folder; 0 if absent or being removed."""
    total = 0
    for file in (path, *path.rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            if not file.is_dir():
                total += file.stat().st_size
    return total
