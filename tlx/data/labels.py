"""Labels as text: which are suspiciously similar, and which contradict each other."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..errors import BadDataError, TlxError, counted, escape_control
from .csvs import SHOWN, Row

Tables = Mapping[str, tuple[Row, ...]]


def notes(classes: Iterable[str], tables: Tables) -> list[str]:
    """Return notes on similar classes, and on file names unlike their path.

    Classes that differ only by space, case, Unicode form or leading zeros.
    """
    return _alike(classes) + _odd_file_names(tables)


def conflicts(folder: Path, tables: Tables) -> list[TlxError]:
    """Return errors for one path under two labels in two files.

    The first of them one by one, the others as a count.
    """
    first: dict[str, tuple[str, str, int]] = {}
    problems: list[TlxError] = []
    count = 0
    for name, rows in tables.items():
        for number, (path, _, _, label) in enumerate(rows, 1):
            seen = first.setdefault(path, (label, name, number))
            if seen[0] == label:
                continue
            count += 1
            if count <= SHOWN:
                problems.append(
                    BadDataError(
                        "path-two-labels",
                        f"'{path}' is '{label}' here and '{seen[0]}' in {seen[1]}:{seen[2]}",
                        where=f"{folder / name}:{number}",
                        expected="one label an image",
                    )
                )
    if count > SHOWN:
        problems.append(
            BadDataError(
                "path-two-labels", f"and {count - SHOWN} more rows like these", where=folder
            )
        )
    return problems


def _alike(classes: Iterable[str]) -> list[str]:
    groups: dict[str, list[str]] = {}
    for label in classes:
        groups.setdefault(_folded(label), []).append(label)
    return [
        f"{counted(len(group), 'class', 'classes')} "
        "that look alike: " + ", ".join(_shown(label) for label in group)
        for group in groups.values()
        if len(group) > 1
    ]


def _folded(label: str) -> str:
    """Return a label without space around it, case, Unicode form and leading zeros."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", label).strip().casefold())
    return str(int(text)) if text.isascii() and text.isdigit() and len(text) < 100 else text


def _shown(label: str) -> str:
    return f"'{escape_control(label)}'" + (
        f" ({label.encode().hex()})" if not label.isascii() else ""
    )


def _odd_file_names(tables: Tables) -> list[str]:
    notes = []
    for name, rows in tables.items():
        odd = [
            number
            for number, row in enumerate(rows, 1)
            if os.path.basename(row.path) != row.filename
        ]
        if odd:
            notes.append(
                f"{name}: in {counted(len(odd), 'row')} the path does "
                "not end in the file name, first in row "
                f"{odd[0]}"
            )
    return notes
