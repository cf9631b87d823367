"""Record of what a tracking store has acknowledged: <root>/tracking/<store>/<key>.json.

A cursor is only a shortcut: it counts for the run it names, and a lost one means that everything is
sent again, to the same end.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from ... import files
from ...errors import BadDataError


@dataclass
class Cursor:
    """Acknowledged state of one run: number of journal records, its parent, its end.

    experiment   of a study only: the id of an experiment chosen for it, which a later `tlx sync`
                 must find again
    summary      of a study only: digest of the summary's points that were acknowledged
    """

    run_id: str = ""
    records: int = 0
    parent: str = ""
    ended: str = ""
    experiment: str = ""
    summary: str = ""


class Cursors:
    """Cursors of one store, read on first use."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._known: dict[str, Cursor] = {}

    def of(self, key: str) -> Cursor:
        """Return the cursor of a key, empty if nothing was acknowledged yet."""
        if key not in self._known:
            try:
                self._known[key] = Cursor(**files.read_json(self._folder / f"{key}.json"))
            except (OSError, BadDataError, TypeError):
                # absent, torn or of another version: everything is sent again
                self._known[key] = Cursor()
        return self._known[key]

    def put(self, key: str, cursor: Cursor) -> Cursor:
        """Set the cursor of a key; `save` makes it durable."""
        self._known[key] = cursor
        return cursor

    def save(self, key: str) -> None:
        """Make the cursor of a key durable."""
        files.write_json(self._folder / f"{key}.json", dataclasses.asdict(self._known[key]))

    def ended(self) -> int:
        """Return how many runs have their end."""
        return sum(bool(cursor.ended) for cursor in self._known.values())
