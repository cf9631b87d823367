"""Studies of a store, one row each, and the record of one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from .. import files
from ..errors import BadDataError, MissingError, TlxError
from ..lab.sealed import STUDY
from ..lab.store import Store
from .frames import SUMMARY

EVERY = "all"  # in place of a study's key


def only_match(store: Store, requested: str, matches: Sequence[str], what: str) -> str:
    """Return the one key among `matches`.

    requested, what   the letters that were given, and of what they are, for the error
    raises            MissingError if there is none, BadDataError if several begin so
    """
    if not matches:
        raise MissingError(
            f"{what} '{requested}'",
            store.root,
            made_by="--store FOLDER, the results of another store",
        )
    if len(matches) > 1:
        raise BadDataError(
            "ambiguous-key",
            f"{len(matches)} keys begin with '{requested}'",
            where=store.root,
            expected=f"more letters of one: {', '.join(key[:12] for key in matches[:10])}",
        )
    return matches[0]


def find(store: Store, requested: str) -> list[str]:
    """Return the keys of the requested studies.

    "all", a study's folder, its key or the key's first letters; errors as `only_match`.
    """
    keys = store.studies()
    if requested == EVERY and keys:
        return keys
    matches = [key for key in keys if requested in (key, str(store.study_folder(key)))]
    matches = matches or [key for key in keys if requested and key.startswith(requested)]
    return [only_match(store, requested, matches, "study")]


class StudyRow(TypedDict):
    """Study of a store, in a few words."""

    key: str
    study: str
    title: str
    dataset: str
    trials: int
    finished: int
    when: str
    verdict: str


def study_rows(store: Store) -> list[StudyRow]:
    """Return one row a study, the newest first; a damaged study is a row with its error."""
    rows = []
    for key in store.studies():
        folder = store.study_folder(key)
        when = (folder / STUDY).stat().st_mtime
        try:
            rows.append((when, _row(store, key)))
        except TlxError as error:
            damaged = StudyRow(
                key=key,
                study="",
                title=str(error),
                dataset="",
                trials=0,
                finished=0,
                when=_time(when),
                verdict="damaged",
            )
            rows.append((when, damaged))
    return [row for _, row in sorted(rows, key=lambda pair: (-pair[0], pair[1]["key"]))]


def _row(store: Store, key: str) -> StudyRow:
    record = store.read_study(key) or {}
    trials = record.get("trials", [])
    folder = store.study_folder(key)
    finished = sum(store.folder(trial["key"]).is_dir() for trial in trials)
    return StudyRow(
        key=key,
        study=str(record.get("experiment", "")),
        title=str(record.get("title", "")),
        dataset=str(record.get("tags", {}).get("tlx.dataset", "")),
        trials=len(trials),
        finished=finished,
        when=_time((folder / STUDY).stat().st_mtime),
        verdict=verdict_of(folder),
    )


def verdict_of(folder: Path) -> str:
    """Return the first line of a study's summary; "" while there is none."""
    summary = summary_of(folder)
    note = str(summary.get("note", ""))
    return next((line.strip("*# ") for line in note.splitlines() if line.strip()), "")


def summary_of(folder: Path) -> dict[str, object]:
    """Return summary.json of a study; {} while there is none."""
    path = folder / SUMMARY
    if not path.is_file():
        return {}
    summary = files.read_json(path, limit=1 << 30)
    return summary if isinstance(summary, dict) else {}


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
