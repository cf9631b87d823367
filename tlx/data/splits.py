"""Few-shot splits on disk: draw them, read any folder of them, find the shipped ones.

A folder holds train_samples_{k:02d}_split_{s}.csv for k training images per class, val.csv,
test.csv and all_images.csv. Folders that tlx drew also hold splits.json: how they were drawn, and
the SHA-256 of each file.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import files, locks
from ..errors import (
    BadDataError,
    IntegrityError,
    MissingError,
    TlxError,
    escape_control,
    raise_all,
    refusal,
)
from . import csvs, draws, labels
from .csvs import CsvLimits, Row
from .draws import Digests, DrawPlan, sha256_of, train_name
from .folders import ImageFolder, sorted_labels
from .leaks import check, summary
from .path_resolution import find

__all__ = [
    "CsvLimits",
    "DrawPlan",
    "Row",
    "SplitFolder",
    "check",
    "draw",
    "find",
    "read",
    "shipped",
    "summary",
    "train_name",
]

RECORD = "splits.json"
TRAIN_NAME = re.compile(r"train_samples_(\d{2,})_split_(\d+)\.csv")
VAL, TEST, ALL = "val.csv", "test.csv", "all_images.csv"


@dataclass(frozen=True)
class SplitFolder:
    """Folder of split CSVs, read.

    tables   file name → its rows, in file order
    classes  the labels of all the files, sorted by their bytes: the one class order
    notes    what is worth a look and no error, in words
    """

    folder: Path
    tables: Mapping[str, tuple[Row, ...]]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    record: Mapping[str, object] = field(default_factory=dict)

    @property
    def shots(self) -> tuple[int, ...]:
        """Return the training sizes, ascending."""
        return tuple(sorted({shots for shots, _ in _draws_in(self.tables)}))

    def draws(self, shots: int) -> tuple[int, ...]:
        """Return the numbers of the draws of `shots` per class, ascending."""
        return tuple(sorted(split for k, split in _draws_in(self.tables) if k == shots))

    def train(self, shots: int, split: int) -> tuple[Row, ...]:
        """Return the training rows of a draw.

        Raises MissingError if there is no such file.
        """
        return self._table(train_name(shots, split))

    @property
    def val(self) -> tuple[Row, ...]:
        """Return the validation rows."""
        return self._table(VAL)

    @property
    def test(self) -> tuple[Row, ...]:
        """Return the test rows."""
        return self._table(TEST)

    @property
    def all_images(self) -> tuple[Row, ...]:
        """Return the rows of every image; () where the folder has no such file."""
        return self.tables.get(ALL, ())

    def digest(self, shots: int, split: int) -> str:
        """Compute the SHA-256 (hex) of what a trial uses.

        Classes, and each row's label and path without the data set's name.
        """
        used = {"train": self.train(shots, split), "val": self.val, "test": self.test}
        rows = {
            role: [(row.path.partition("/")[2] or row.path, row.label) for row in table]
            for role, table in used.items()
        }
        return files.digest({"format": 1, "classes": self.classes, **rows})

    def _table(self, name: str) -> tuple[Row, ...]:
        if name not in self.tables:
            shots = ", ".join(map(str, self.shots))
            error = MissingError("split", self.folder / name, made_by="tlx splits draw")
            error.expected = f"one of the shots {shots}, with the draws that have a file"
            raise error
        return self.tables[name]


def read(folder: Path, *, limits: CsvLimits | None = None) -> SplitFolder:
    """Read the split CSVs of `folder`.

    All errors of any of them are raised at once, naming file and row.
    """
    folder = Path(folder)
    names = _csv_names(folder)
    tables: dict[str, tuple[Row, ...]] = {}
    problems: list[TlxError] = []
    for name in names:
        tables[name], errors = csvs.read(folder / name, limits)
        problems += errors
    record, damage = _verified_record(folder, names)
    problems += damage + _numbering_problems(folder, names)
    if not problems:
        problems += labels.conflicts(folder, tables)
    raise_all(problems)
    classes = sorted_labels(row.label for rows in tables.values() for row in rows)
    if len(classes) < 2:
        raise BadDataError(
            "one-class", f"only one class, '{classes[0]}'", where=folder, expected="at least 2"
        )
    return SplitFolder(
        folder, tables, classes, (*_drawn_notes(record), *labels.notes(classes, tables)), record
    )


def draw(
    folder: ImageFolder, out: Path, *, digests: Digests = sha256_of, **settings: Any
) -> SplitFolder:
    """Draw few-shot splits from an image folder into `out`, all files or none.

    Already drawn ones are read.

    settings  the fields of Plan: shots, draws, largest_draws, val_per_class, test_per_class, seed
    digests   gives a content digest for each of many paths

    BadDataError if a class has too few images (all of them named), or if `out` holds other splits.
    """
    out, plan = Path(out).absolute(), DrawPlan(**settings)
    with locks.lock(out.with_name(f".{out.name}.lock"), wait=True):
        drawn = draws.choose(folder, plan, digests)
        part = out.with_name(f"{files.TEMPORARY}{out.name}")
        if part.exists():  # an interrupted attempt
            shutil.rmtree(part)
        _write(part, folder, plan, drawn)
        if out.exists() and any(out.iterdir()):
            same = _bytes_of(out, drawn.csvs) == _bytes_of(part, drawn.csvs)
            shutil.rmtree(part)
            if not same:
                raise BadDataError(
                    "splits-exist",
                    "other splits are here",
                    where=out,
                    remedy="choose another folder, or delete this one to draw again",
                )
        else:
            os.replace(part, out)
            files.sync_folder(out.parent)
    return read(out)


def shipped(name: str) -> Path | None:
    """Return the folder of split CSVs that comes with tlx for a data set; None if there is none."""
    package = Path(__file__).resolve().parents[1]
    for home in (
        package / "_data" / "splits",
        package.parent / "splits",
    ):  # in a wheel; in a checkout
        if (home / name / VAL).is_file():
            return home / name
    return None


def _write(part: Path, folder: ImageFolder, plan: DrawPlan, drawn: draws.Drawn) -> None:
    for name, images in drawn.csvs.items():
        csvs.write(part / name, [draws.row_of(folder.name, image) for image in images])
    counts = {name: len(images) for name, images in sorted(drawn.csvs.items())}
    files.write_json(
        part / RECORD,
        {
            "format": 1,
            "dataset": folder.name,
            "classes": len(folder.classes),
            "seed": plan.seed,
            "shots": plan.shots,
            "draws": plan.draws,
            "largest_draws": plan.draws_of(plan.shots[-1]),
            "val_per_class": plan.val_per_class,
            "test_per_class": plan.test_per_class,
            "notes": drawn.notes,
            "rows": counts,
            "files": {name: files.sha256(part / name) for name in sorted(drawn.csvs)},
        },
    )


def _bytes_of(folder: Path, names: Iterable[str]) -> dict[str, str | None]:
    """Return the SHA-256 of each CSV in a folder, and of each one named."""
    names_present = {path.name for path in folder.glob("*.csv")} | set(names)
    return {
        name: files.sha256(folder / name) if (folder / name).is_file() else None
        for name in names_present
    }


def _csv_names(folder: Path) -> list[str]:
    try:
        present = [
            name
            for name in os.listdir(folder)
            if name.endswith(".csv") and not name.startswith(".")
        ]
    except FileNotFoundError as error:
        raise MissingError(
            "folder of split CSVs", folder.absolute(), made_by="tlx splits draw"
        ) from error
    except OSError as error:
        raise refusal(error, folder) or error from error
    names = sorted(present)
    wanted = [
        name for name in names if name.startswith("train_samples_") or name in (VAL, TEST, ALL)
    ]
    if not any(TRAIN_NAME.fullmatch(name) for name in wanted):
        raise BadDataError(
            "no-splits",
            f"no {train_name(1, 0)} or the like among {len(names)} CSVs",
            where=folder.absolute(),
            remedy="draw them with: tlx splits draw",
        )
    return wanted + [
        name for name in (VAL, TEST) if name not in wanted
    ]  # reading says that they are missing


def _draws_in(names: Iterable[str]) -> list[tuple[int, int]]:
    matches = (TRAIN_NAME.fullmatch(name) for name in names)
    return [(int(match[1]), int(match[2])) for match in matches if match]


def _numbering_problems(folder: Path, names: list[str]) -> list[TlxError]:
    """Report names that only look like a training file's, and gaps in draw numbers."""
    numbers: dict[int, list[int]] = {}
    problems: list[TlxError] = []
    for name in names:
        match = TRAIN_NAME.fullmatch(name)
        if match and name == train_name(int(match[1]), int(match[2])):
            numbers.setdefault(int(match[1]), []).append(int(match[2]))
        elif name.startswith("train_samples_"):
            problems.append(
                BadDataError(
                    "split-name",
                    "not the name of a training file",
                    where=folder / name,
                    expected=f"a name like {train_name(5, 0)} or {train_name(100, 0)}",
                )
            )
    for shots, splits in sorted(numbers.items()):
        gaps = [str(n) for n in range(min(max(splits), 10_000)) if n not in splits]
        if gaps:
            what = (
                f"of {shots} shots there is split {max(splits)} and no split {', '.join(gaps[:10])}"
            )
            problems.append(
                BadDataError(
                    "split-gap", what, where=folder, expected="numbers from 0 without a gap"
                )
            )
    return problems


def _drawn_notes(record: Mapping[str, object]) -> list[str]:
    notes = record.get("notes")
    return [escape_control(note) for note in notes] if isinstance(notes, list) else []


def _verified_record(folder: Path, names: list[str]) -> tuple[dict[str, object], list[TlxError]]:
    """Return splits.json, and each CSV that is no longer what was drawn."""
    path = folder / RECORD
    if not path.exists():
        return {}, []
    record = files.read_json(path)
    listed = record.get("files") if isinstance(record, dict) else None
    if not isinstance(listed, dict):
        return {}, [
            IntegrityError(
                "record-damaged",
                "no list of files in it",
                where=path,
                remedy="delete it, or draw again",
            )
        ]
    problems: list[TlxError] = []
    remedy = f"draw again with tlx splits draw, or delete {RECORD} to use the files as they are"
    for name in sorted({*listed, *names}):
        where = folder / name
        if name not in listed:
            problems.append(
                IntegrityError("split-added", f"not a file of {RECORD}", where=where, remedy=remedy)
            )
        elif not where.is_file():
            problems.append(
                IntegrityError(
                    "split-missing", f"in {RECORD} and not there", where=where, remedy=remedy
                )
            )
        elif not os.access(where, os.R_OK):
            continue  # the reader reports it
        elif files.sha256(where) != listed[name]:
            problems.append(
                IntegrityError(
                    "split-edited", f"not the bytes of {RECORD}", where=where, remedy=remedy
                )
            )
    return record, problems
