"""Strict reader and writer of split CSVs: no header, four columns path,split,filename,label.

Every value is text ('NA' and '007' are labels). A byte-order mark and any line ends are accepted;
every other deviation is reported with file and row, all in one pass. Rows count from 1.
"""

from __future__ import annotations

import csv
import io
import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from .. import files
from ..errors import BadDataError, MissingError, TlxError, UnsafeError, counted, nearest, refusal

COLUMNS = ("path", "split", "filename", "label")
PATH_BYTES, NAME_BYTES, LABEL_BYTES = 4096, 255, 255
SHOWN = 20  # rows of one kind of error that are reported one by one


class Row(NamedTuple):
    """Line of a split CSV.

    path is <dataset>/<split>/<label>/<filename> or <dataset>/<label>/<filename>.
    """

    path: str
    split: str
    filename: str
    label: str


@dataclass(frozen=True)
class CsvLimits:
    """Limits of one CSV."""

    file_bytes: int = 1 << 30
    rows: int = 5_000_000


@dataclass
class CsvFaults:
    """Errors of one file: the first of each kind one by one, the others as a count."""

    file: Path
    errors: list[TlxError] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)

    def add(
        self,
        code: str,
        row: int,
        what: str,
        *,
        kind: type[TlxError] = BadDataError,
        expected: str = "",
        remedy: str = "",
    ) -> None:
        """Add one error at a row; 0 is the file itself."""
        self.seen[code] += 1
        if self.seen[code] <= SHOWN:
            where = f"{self.file}:{row}" if row else self.file
            self.errors.append(kind(code, what, where=where, expected=expected, remedy=remedy))

    def all(self) -> list[TlxError]:
        """Return all errors."""
        more = [
            BadDataError(code, f"and {count - SHOWN} more rows like these", where=self.file)
            for code, count in self.seen.items()
            if count > SHOWN
        ]
        return self.errors + more


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write rows durably as a split CSV."""
    files.write_text(path, "".join(",".join(map(_quoted, row)) + "\n" for row in rows))


def _quoted(value: str) -> str:
    """Return a value in quotes where it needs them.

    Not csv.writer: older ones leave a lone carriage return bare, newer ones do not.
    """
    return '"' + value.replace('"', '""') + '"' if any(c in value for c in ',"\r\n') else value


def read(path: Path, limits: CsvLimits | None = None) -> tuple[tuple[Row, ...], list[TlxError]]:
    """Read the rows of one CSV and all its errors.

    A row that could not be read is an empty one.
    """
    path = Path(path)
    faults = CsvFaults(path)
    try:
        text = _text(path, faults, limits or CsvLimits())
    except OSError as error:
        refused = refusal(error, path)
        if refused is None:
            raise
        return (), [refused]
    if text is None:
        return (), faults.all()
    rows = _parsed(text, faults, limits or CsvLimits())
    _check_fields(rows, faults)
    _check_twice(rows, faults)
    return tuple(rows), faults.all()


# ---------------------------------------------------------------- bytes to text


def _text(path: Path, faults: CsvFaults, limits: CsvLimits) -> str | None:
    """Return the file's text, or None with the reason among the faults."""
    if not path.exists():
        near = nearest(path.name, os.listdir(path.parent)) if path.parent.is_dir() else []
        faults.errors.append(_missing(path, near))
    elif path.is_dir():
        faults.add("csv-directory", 0, "is a directory", expected="a CSV file")
    elif not path.is_file():
        faults.add("not-regular", 0, "not a regular file", kind=UnsafeError, expected="a CSV file")
    elif path.stat().st_size > limits.file_bytes:
        faults.add(
            "csv-size",
            0,
            f"{path.stat().st_size:,} bytes",
            expected=f"at most {limits.file_bytes:,}",
            remedy="no split needs so many rows; is it the right file?",
        )
    else:
        return _decoded(path.read_bytes(), faults)
    return None


def _missing(path: Path, near: list[str]) -> MissingError:
    error = MissingError("CSV file", path, made_by="tlx splits draw")
    error.expected = f"a file there (the working directory is {os.getcwd()})"
    if near:
        error.expected += f"; nearest name: {near[0]}"
    return error


def _decoded(data: bytes, faults: CsvFaults) -> str | None:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        faults.add(
            "csv-encoding", 0, "the text is UTF-16", expected="UTF-8", remedy="save it as UTF-8"
        )
        return None
    data = data.removeprefix(b"\xef\xbb\xbf")
    nul = data.find(b"\0")
    if not data.strip():
        faults.add("csv-empty", 0, "empty file", expected=f"rows of {','.join(COLUMNS)}")
    elif nul >= 0:
        faults.add(
            "csv-nul",
            _row_at(data, nul),
            f"a NUL byte at offset {nul}",
            expected="text",
            remedy="is it UTF-16 or a binary file? save it as UTF-8 text",
        )
    else:
        return _utf8(data, faults)
    return None


def _utf8(data: bytes, faults: CsvFaults) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        faults.add(
            "csv-encoding",
            _row_at(data, error.start),
            f"byte {data[error.start]:#04x} at offset {error.start} is not UTF-8",
            expected="UTF-8",
            remedy="convert it, for example: iconv -f latin1 -t utf-8",
        )
        return None


def _row_at(data: bytes, offset: int) -> int:
    return len(data[:offset].replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"))


# ---------------------------------------------------------------- text to rows


def _parsed(text: str, faults: CsvFaults, limits: CsvLimits) -> list[Row]:
    """Return the rows of four fields.

    A row of another width is a fault, and so is what ends the parse.
    """
    rows: list[Row] = []
    number = 0
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for number, record in enumerate(reader, 1):
            if len(record) == 4:
                rows.append(Row._make(record))
            else:
                _width_fault(number, record, faults)
                rows.append(PLACEHOLDER)
            if number > limits.rows:
                faults.add(
                    "csv-rows",
                    0,
                    f"more than {limits.rows:,} rows",
                    expected=f"at most {limits.rows:,}",
                    remedy="no split needs so many rows; is it the right file?",
                )
                break
    except csv.Error as error:
        _syntax_fault(number + 1, error, text, faults)
    return rows


PLACEHOLDER = Row("", "", "", "")  # keeps row numbers right where a row could not be read


def _width_fault(number: int, record: list[str], faults: CsvFaults) -> None:
    expected = f"4: {','.join(COLUMNS)}"
    if len(record) == 1:
        for sign, name in ((";", "';'"), ("\t", "tabs")):
            if record[0].count(sign) == 3:
                faults.add(
                    "csv-separator",
                    number,
                    f"1 field; it looks separated by {name}",
                    expected="commas",
                    remedy="save it with commas",
                )
                return
    what = f"{counted(len(record), 'field')}" if record else "an empty line"
    faults.add(
        "csv-fields",
        number,
        what,
        expected=expected,
        remedy="quote a value that contains a comma" if len(record) > 4 else "",
    )


def _syntax_fault(number: int, error: csv.Error, text: str, faults: CsvFaults) -> None:
    reason = str(error)
    if "field limit" in reason:
        longest = max(map(len, text.splitlines()))
        faults.add(
            "csv-field-length",
            number,
            f"a field too long (the longest line has {longest:,} characters)",
            expected=f"at most {csv.field_size_limit():,} characters",
        )
    elif "unexpected end of data" in reason:
        faults.add(
            "csv-quote", number, "a quote opens in this row and never closes", expected='"…"'
        )
    else:
        faults.add("csv-syntax", number, reason, expected='a value in quotes as "a ""b"" c"')


# ---------------------------------------------------------------- rows

REMOTE = re.compile(r"[a-z][a-z0-9+.-]*://|file:", re.IGNORECASE)


def _check_fields(rows: list[Row], faults: CsvFaults) -> None:
    header = tuple(value.strip().lower() for value in rows[0]) if rows else ()
    if header == COLUMNS:
        faults.add(
            "csv-header",
            1,
            "a header",
            expected="no header: data from the first row",
            remedy="delete the first line"
            + ("" if len(rows) > 1 else "; below it there are no rows"),
        )
    for number, row in enumerate(rows, 1):
        path, split, filename, label = row
        if row is PLACEHOLDER:
            continue
        if not path:
            faults.add("path-empty", number, "the path is empty")
        if not label.strip():
            faults.add("label-empty", number, "the label is empty")
        if len(path) + len(filename) + len(label) > 200 or len(path) > 200:
            _check_lengths(number, row, faults)
        if ".." in path or ".." in filename or ".." in split:
            _check_escape(number, row, faults)
        if ":" in path and REMOTE.match(path):
            faults.add(
                "path-remote",
                number,
                f"'{path[:200]}' is an address; remote paths are not read",
                expected="a path below the image root",
                remedy="fetch the images first",
            )


def _check_lengths(number: int, row: Row, faults: CsvFaults) -> None:
    for code, what, value, limit in (
        ("path-length", "path", row.path, PATH_BYTES),
        ("name-length", "name in the path", max(row.path.split("/"), key=len), NAME_BYTES),
        ("name-length", "file name", row.filename, NAME_BYTES),
        ("label-length", "label", row.label, LABEL_BYTES),
    ):
        size = len(value.encode())
        if size > limit:
            faults.add(
                code,
                number,
                f"a {what} of {size:,} bytes ({value[:40]}…)",
                expected=f"at most {limit:,}",
            )


def _check_escape(number: int, row: Row, faults: CsvFaults) -> None:
    """Report `..` that climbs out of the data set's own folder.

    Absolute paths are judged where the root is known.
    """
    climbs = [
        value
        for value in (row.path, f"{row.split}/{row.filename}")
        if posixpath.normpath(value.replace("\\", "/")).split("/")[0] == ".."
    ]
    if climbs:
        faults.add(
            "path-escapes",
            number,
            f"'{climbs[0][:200]}' leaves the image root",
            kind=UnsafeError,
            expected="a path below it",
        )


def _check_twice(rows: list[Row], faults: CsvFaults) -> None:
    first: dict[str, int] = {}
    if len({row.path for row in rows}) == len(rows):
        return
    for number, row in enumerate(rows, 1):
        if row is PLACEHOLDER or not row.path:
            continue
        before = first.setdefault(row.path, number)
        if before == number:
            continue
        label = rows[before - 1].label
        if label != row.label:
            faults.add(
                "path-two-labels",
                number,
                f"'{row.path}' is '{row.label}' here and '{label}' in row {before}",
                expected="one label an image",
            )
        else:
            faults.add(
                "path-twice",
                number,
                f"'{row.path}' stands in row {before} too",
                expected="once a file",
            )
