"""Damage of a finished dump: which files of rows are not what they were, and their replacement.

A file is made anew beside the dump, and takes the place of the damaged one if it has the bytes that
the manifest lists. So the manifest never changes, and who reads the dump meanwhile sees the damaged
file or the whole one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from .. import files
from ..errors import IntegrityError, Stopped, counted
from .cuts import RowCuts
from .dump import ExtractionConfig
from .shard_parts import ShardDone, ShardOrder
from .shelf import FORMAT, MENDED, SHARD, SHARD_ROWS, DumpDirectory, check_once

READERS = 4  # files that are compared with their SHA-256 at once


@dataclass(frozen=True)
class DamagedFile:
    """File of rows that is missing or has other bytes than the manifest lists.

    shard  its number; None of a layer in one file
    what   the damage, in words
    """

    layer: str
    name: str
    shard: int | None
    what: str


def damaged_files(
    shelf: DumpDirectory, layers: Sequence[str], stopping: Callable[[], bool] = lambda: False
) -> list[DamagedFile]:
    """Return the damaged files of these layers; every byte is read, once a process.

    Raises IntegrityError for a damaged manifest, UnsafeError for a link, Stopped.
    """
    rows = shelf.files()
    listed = [(name, row) for name, row in rows.items() if row.get("layer") in layers]

    def look(name: str) -> DamagedFile | None:
        if stopping():
            raise Stopped(15)
        row = rows[name]
        try:
            check_once(shelf.folder / name, row)
        except IntegrityError as error:
            return DamagedFile(row["layer"], name, row.get(SHARD), error.what)
        return None

    with ThreadPoolExecutor(READERS) as readers:
        looks = list(readers.map(look, [name for name, _ in listed]))
    return [damage for damage in looks if damage is not None]


def in_words(shelf: DumpDirectory, damaged: Sequence[DamagedFile]) -> str:
    """Return which files are damaged: the first, and how many more."""
    first = damaged[0]
    more = f" (and {counted(len(damaged) - 1, 'more file')})" if len(damaged) > 1 else ""
    return f"{shelf.folder / first.name}: {first.what}{more}"


@dataclass
class Replacement:
    """Damaged files of a dump that are made anew, in a folder of their own; its caller writes.

    total  rows of the dump
    """

    shelf: DumpDirectory
    damaged: Sequence[DamagedFile]
    total: int
    how: ExtractionConfig
    _other: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rows = self.shelf.files()
        self.folder = self.shelf.part(MENDED)

    def __enter__(self) -> Replacement:
        self._discard()
        files.make_folder(self.folder)
        return self

    def __exit__(self, *_: object) -> None:
        self._discard()

    def _discard(self) -> None:
        if self.folder.exists():
            self.shelf.discard(self.folder)

    @property
    def bytes(self) -> int:
        """Return what the files take."""
        return sum(int(self._rows[damage.name]["bytes"]) for damage in self.damaged)

    def orders(self, layers: Sequence[str]) -> Iterator[tuple[ShardOrder, list[int]]]:
        """Iterate over (order, numbers of shards): what is damaged of these layers.

        Layers that lack the same shards are made together.
        """
        numbers: dict[tuple[bool, int], list[str]] = {}
        for damage in self.damaged:
            if damage.layer in layers:
                place = (damage.shard is not None, damage.shard or 0)
                numbers.setdefault(place, []).append(damage.layer)
        together: dict[tuple[bool, tuple[str, ...]], list[int]] = {}
        for (is_shard, number), names in sorted(numbers.items()):
            chosen = tuple(layer for layer in layers if layer in names)
            together.setdefault((is_shard, chosen), []).append(number)
        for (is_shard, chosen), wanted in together.items():
            cuts = self._cuts() if is_shard else RowCuts(self.total, self.total)
            yield ShardOrder(self.folder, chosen, cuts, self.how), wanted

    def _cuts(self) -> RowCuts:
        path = self.shelf.header()
        with self.shelf.remedied():
            files.check(path, self._rows[path.name])
        return RowCuts(self.total, files.read_json(path)[SHARD_ROWS])

    def add(self, done: ShardDone) -> None:
        """Put the files of a shard in the place of the damaged ones, if they are what those were.

        Call `check` at the end.
        """
        with files.storage_errors(self.shelf.folder):
            for name, row in done.rows.items():
                if row["sha256"] == self._rows[name]["sha256"]:
                    os.replace(self.folder / name, self.shelf.folder / name)
                else:
                    self._other.append(name)
            files.sync_folder(self.shelf.folder)

    def check(self) -> None:
        """Raise IntegrityError if a file that was made anew has other bytes than it had."""
        if not self._other:
            return
        name = self._other[0]
        origin = self.shelf.made(name)
        remedy = self.shelf.removal
        if "threads" in origin:
            remedy = f"use that machine with --threads {origin['threads']}, or {remedy}"
        raise IntegrityError(
            "dump-differs",
            "it was damaged, and made anew it has other bytes than it had, so it was left",
            where=self.shelf.folder / name,
            expected="the bytes that were made on "
            f"{origin.get('device', 'an unknown device')} by torch {origin.get('torch', '?')}",
            remedy=remedy,
        )


def is_of_newer_format(shelf: DumpDirectory) -> bool:
    """Return whether a newer tlx made a dump: what it lists is not for this one to write."""
    return bool(files.read_json(Path(shelf.header())).get("format", 0) > FORMAT)
