"""Check of splits before any compute: no leaks, every class everywhere, as many images as shots.

With the images present their bytes decide: the same file name is no leak if the bytes differ,
another name is one if they agree. Without them the same path on two sides is a leak, and the same
label and file name a suspected one; both refuse the splits.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BadDataError, MissingError, TlxError, counted
from .csvs import SHOWN, Row
from .draws import Digests, sha256_of, train_name

if TYPE_CHECKING:
    from .splits import SplitFolder

Tables = Mapping[str, Sequence[Row]]
Images = Callable[[Row], Path]
HELD = ("val.csv", "test.csv")


@dataclass
class LeakReport:
    """Result of the check.

    problems  what refuses the splits
    notes     worth a look, in words
    counts    files, rows, images and classes; for val.csv and test.csv how many rows are on another
              side too
    """

    problems: list[TlxError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


def check(
    splits: SplitFolder,
    *,
    images: Images | None = None,
    shots: Iterable[int] | None = None,
    draws: int | None = None,
    digests: Digests = sha256_of,
) -> list[TlxError]:
    """Return everything that refuses these splits; [] if they are sound.

    Arguments as for `summary`.
    """
    return summary(splits, images=images, shots=shots, draws=draws, digests=digests).problems


def summary(
    splits: SplitFolder,
    *,
    images: Images | None = None,
    shots: Iterable[int] | None = None,
    draws: int | None = None,
    digests: Digests = sha256_of,
) -> LeakReport:
    """Run the check in full.

    images   gives the file of a row or raises why not; None: judge by the CSVs alone
    shots    the training sizes that will be used; None: all there are
    draws    how many draws of each will be used (of the largest, those that are there); None: all
             there are
    digests  gives a content digest for each of many files
    """
    report = LeakReport()
    tables = _selected(splits, shots, draws, report)
    report.problems += _absent_classes(splits, tables) + _too_few(splits, tables)
    content = _content(splits, tables, images, digests, report) if images else None
    _find_leaks(splits, tables, content, report)
    if content is not None:
        _find_doubles(splits, tables, content, report)
    report.counts |= {
        "files": len(tables),
        "rows": sum(map(len, tables.values())),
        "classes": len(splits.classes),
        "images": len({row.path for rows in tables.values() for row in rows}),
    }
    return report


def _selected(
    splits: SplitFolder, shots: Iterable[int] | None, draws: int | None, report: LeakReport
) -> Tables:
    """Return val, test and the training files that will be used.

    Absent ones become problems.
    """
    tables: dict[str, Sequence[Row]] = {name: splits.tables[name] for name in HELD}
    requested = sorted(set(shots)) if shots is not None else list(splits.shots)
    for k in requested:
        numbers = splits.draws(k)
        few_are_enough = numbers and (draws is None or k == splits.shots[-1])
        for split in numbers[:draws] if few_are_enough else range(draws or 1):
            name = train_name(k, split)
            if split in numbers:
                tables[name] = splits.tables[name]
            else:
                report.problems.append(
                    MissingError("split", splits.folder / name, made_by="tlx splits draw")
                )
    return tables


# ---------------------------------------------------------------- classes and counts


def _absent_classes(splits: SplitFolder, tables: Tables) -> list[TlxError]:
    problems: list[TlxError] = []
    for name, rows in tables.items():
        present = {row.label for row in rows}
        absent = [label for label in splits.classes if label not in present]
        if absent:
            shown = ", ".join(f"'{label}'" for label in absent[:10]) + (
                " …" if len(absent) > 10 else ""
            )
            what = f"{len(absent)} of {len(splits.classes)} classes have no row: {shown}"
            problems.append(
                BadDataError(
                    "class-missing",
                    what,
                    where=splits.folder / name,
                    remedy=_unicode_form(absent, present),
                    expected="every class in train, val and test",
                )
            )
    return problems


def _unicode_form(absent: Sequence[str], present: Iterable[str]) -> str:
    """Report if absent labels exist in another Unicode form.

    They look the same in every listing.
    """
    forms = {unicodedata.normalize("NFC", label) for label in present}
    twins = sum(unicodedata.normalize("NFC", label) in forms for label in absent)
    return (
        f"{twins} of them are in another Unicode form (NFC, NFD); write all in one form"
        if twins
        else ""
    )


def _too_few(splits: SplitFolder, tables: Tables) -> list[TlxError]:
    """Return training files with fewer rows of a class than their name states.

    One problem a file, naming the classes.
    """
    problems: list[TlxError] = []
    for name, rows in tables.items():
        if name in HELD:
            continue
        want = int(name.split("_")[2])
        have = Counter(row.label for row in rows)
        few = [f"'{label}' {have[label]}" for label in splits.classes if have[label] < want]
        if few:
            problems.append(
                BadDataError(
                    "too-few-images",
                    f"{len(few)} classes have fewer than {want} rows: "
                    + ", ".join(few[:10])
                    + (" …" if len(few) > 10 else ""),
                    where=splits.folder / name,
                    expected=f"{want} of each class",
                )
            )
    return problems


# ---------------------------------------------------------------- images


def _content(
    splits: SplitFolder, tables: Tables, images: Images, digests: Digests, report: LeakReport
) -> dict[str, str]:
    """Return CSV path → digest of its image, for existing images; the others become problems."""
    paths: dict[str, Path] = {}
    failed: Counter[str] = Counter()
    for name, rows in tables.items():
        for number, row in enumerate(rows, 1):
            if row.path in paths:
                continue
            try:
                paths[row.path] = images(row)
            except TlxError as error:
                failed[error.code] += 1
                if failed[error.code] <= SHOWN:
                    error.where = f"{splits.folder / name}:{number}"  # say it of the row
                    report.problems.append(error)
    for code, count in failed.items():
        if count > SHOWN:
            what = f"{counted(count, 'row')} in all, the first {SHOWN} are named"
            report.problems.append(BadDataError(code, what, where=splits.folder))
    return dict(zip(paths, digests(list(paths.values())), strict=True))


# ---------------------------------------------------------------- leaks


@dataclass
class _Side:
    """Index of a held-out file: path → row number, and label with file name, or content → row."""

    name: str
    paths: dict[str, int]
    keys: dict[object, int]


def _find_leaks(
    splits: SplitFolder, tables: Tables, content: dict[str, str] | None, report: LeakReport
) -> None:
    """Compare every training file and val with val and test."""
    keys = {name: [_key(row, content) for row in rows] for name, rows in tables.items()}
    for held in HELD:
        side = _Side(
            held,
            {row.path: n for n, row in enumerate(tables[held], 1)},
            {key: n for n, key in enumerate(keys[held], 1) if key is not None},
        )
        touched: set[int] = set()
        for name, rows in tables.items():
            if name != held and not (name == "test.csv" and held == "val.csv"):
                touched |= _compare(
                    splits,
                    name,
                    rows,
                    keys[name],
                    side=side,
                    by_content=content is not None,
                    report=report,
                )
        report.counts[f"{held} rows shared"] = len(touched)


def _key(row: Row, content: dict[str, str] | None) -> object:
    return (row.label, row.filename) if content is None else content.get(row.path)


def _compare(
    splits: SplitFolder,
    name: str,
    rows: Sequence[Row],
    keys: Sequence[object],
    *,
    side: _Side,
    by_content: bool,
    report: LeakReport,
) -> set[int]:
    """Return the rows of the held-out side that `name` holds too.

    A proven and a suspected problem state how many.
    """
    proven: list[tuple[int, int]] = []
    suspected: list[tuple[int, int]] = []
    for number, (row, key) in enumerate(zip(rows, keys, strict=True), 1):
        if row.path in side.paths:
            proven.append((number, side.paths[row.path]))
        elif key is not None and key in side.keys:
            (proven if by_content else suspected).append((number, side.keys[key]))
    for pairs, code, what in (
        (proven, "leak", "the same image"),
        (suspected, "leak-suspected", "the same label and file name"),
    ):
        if pairs:
            own, theirs = pairs[0]
            text = (
                f"{len(pairs)} of {len(rows)} rows are in {side.name} too; "
                f"first '{rows[own - 1].path}', {what} as {side.name}:{theirs}"
            )
            report.problems.append(
                BadDataError(
                    code,
                    text,
                    where=f"{splits.folder / name}:{own}",
                    expected=f"no image in both {name} and {side.name}",
                    remedy=REMEDIES[code],
                )
            )
    return {theirs for _, theirs in proven + suspected}


REMEDIES = {
    "leak": "draw the splits again with: tlx splits draw",
    "leak-suspected": "give the image folder, so that the images' bytes decide, or draw the splits "
    "again",
}


def _find_doubles(
    splits: SplitFolder, tables: Tables, content: dict[str, str], report: LeakReport
) -> None:
    """Report the same bytes twice on one side.

    Under two labels it is a problem (in test a note), under one label a note.
    """
    for name, rows in tables.items():
        first: dict[str, int] = {}
        twice: list[tuple[int, int]] = []
        torn: list[tuple[int, int]] = []
        for number, row in enumerate(rows, 1):
            before = first.setdefault(content.get(row.path, row.path), number)
            if before != number:
                (twice if rows[before - 1].label == row.label else torn).append((before, number))
        if twice:
            a, b = twice[0]
            report.notes.append(
                f"{name}: {counted(len(twice), 'row')} repeat an "
                f"image's bytes, first rows {a} and {b}"
            )
        if torn:
            (a, b), where = torn[0], splits.folder / name
            text = (
                f"{len(torn)} rows hold an image's bytes under two labels, "
                f"first '{rows[a - 1].label}' in row {a} and '{rows[b - 1].label}' in row {b}"
            )
            if name == "test.csv":
                report.notes.append(f"{name}: {text}")
            else:
                report.problems.append(
                    BadDataError(
                        "image-two-labels",
                        text,
                        where=f"{where}:{b}",
                        expected="one label an image",
                    )
                )
