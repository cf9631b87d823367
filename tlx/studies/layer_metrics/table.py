"""Tidy table of layer metrics: one row a model × data set × layer, as CSV and as Parquet.

Text is text ('007' and 'NA' are names), whole numbers and numbers are finite, an empty cell is
unknown: None, or "" in a column of text. Both files hold the same rows to the bit. In the CSV a
text that a spreadsheet would compute has a ' before it, which `read` takes off again.
"""

from __future__ import annotations

import csv
import io
import os
import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ... import files
from ...errors import BadDataError, MissingError, ResourceError, counted, escape_control, nearest
from ...plots.tables import FORMULA
from .columns import (
    COLUMNS,
    IDENTITY,
    METRICS,
    Column,
    Row,
    TableFaults,
    check_columns,
    check_twice,
    whole_row,
)

__all__ = ["COLUMNS", "IDENTITY", "METRICS", "STEM", "Column", "Row", "read", "write"]

STEM = "layer_metrics"
FILE_BYTES, ROWS = 1 << 28, 500_000  # the largest table that is read


def write(
    rows: Sequence[Mapping[str, object]], folder: Path, stem: str = STEM
) -> tuple[Path, Path]:
    """Write rows durably as folder/stem.csv and folder/stem.parquet.

    Raises BadDataError, and writes neither, if one cannot be read back.

    A column that a row leaves out is unknown there. → the two paths
    """
    whole = _whole(rows, "the rows to be written", 1)
    table, parquet = Path(folder) / f"{stem}.csv", Path(folder) / f"{stem}.parquet"
    files.write_text(table, "".join(",".join(line) + "\n" for line in _lines(whole)))
    files.write_bytes(parquet, _parquet(whole))
    return table, parquet


def read(path: Path) -> list[Row]:
    """Read the rows of a .csv or .parquet table, every column in each.

    Raises BadDataError with file, row, column, found and expected.

    Rows count as an editor shows them: from 1, which in a CSV is the header.
    """
    path = Path(path)
    form = path.suffix.lower()
    if form not in READERS:
        what = "is a folder" if path.is_dir() else f"'{path.suffix}' is no form of table"
        raise BadDataError(
            "table-form", what, where=path, expected=f"a {' or '.join(READERS)} file"
        )
    if not path.is_file():
        near = nearest(path.name, os.listdir(path.parent)) if path.parent.is_dir() else []
        error = MissingError("table of layer metrics", path, made_by="tlx analyze")
        error.expected = "a file there" + (f"; nearest name: {near[0]}" if near else "")
        raise error
    if (size := path.stat().st_size) > FILE_BYTES:
        raise BadDataError(
            "table-size", f"{size:,} bytes", where=path, expected=f"at most {FILE_BYTES:,}"
        )
    if not size:
        raise BadDataError(
            "table-empty", "empty file", where=path, expected=f"columns {', '.join(COLUMNS)}"
        )
    try:
        return _whole(READERS[form](path), path, 2 if form == ".csv" else 1)
    except PermissionError as error:
        raise ResourceError(
            "permission", f"cannot be read: {error.strerror}", where=path
        ) from error


def _whole(rows: Iterable[Mapping[str, object]], where: object, first: int) -> list[Row]:
    """Return the rows, complete and checked; `first` is the number of the first."""
    faults = TableFaults(where)
    whole = [whole_row(row, number, faults) for number, row in enumerate(rows, first)]
    if not whole:
        raise BadDataError(
            "table-empty", "no row", where=where, expected="one row a model, data set and layer"
        )
    check_twice(whole, first, faults)
    faults.raise_first()
    return whole


# ---------------------------------------------------------------- CSV


def _lines(rows: Sequence[Row]) -> Iterator[list[str]]:
    yield list(COLUMNS)
    for row in rows:
        yield [_cell(value) for value in row.values()]


def _cell(value: object) -> str:
    if isinstance(value, str):
        return _quoted(_guarded(value))
    return "" if value is None else repr(value)


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\r\n') else text


def _computed(text: str) -> bool:
    return text.lstrip("'" + string.whitespace).startswith(FORMULA)


def _guarded(text: str) -> str:
    return "'" + text if _computed(text) else text


def _read_csv(path: Path) -> Iterator[Row]:
    data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
        raise BadDataError(
            "table-encoding",
            f"byte {data[error.start]:#04x} at offset {error.start} is not UTF-8",
            where=f"{path}:{row}",
            expected="UTF-8",
            remedy="save it as UTF-8 text",
        ) from error
    reader, number, names = csv.reader(io.StringIO(text, newline=""), strict=True), 1, []
    try:
        for number, record in enumerate(reader, 1):
            if number == 1:
                names = record
                check_columns(names, path)
            elif len(record) != len(names) or number > ROWS:
                raise BadDataError(
                    "table-fields",
                    f"{counted(len(record), 'field')}",
                    where=f"{path}:{number}",
                    expected=f"{len(names)}, as in the header, in at most {ROWS:,} rows",
                )
            else:
                yield {
                    name: value[1:]
                    if value[:1] == "'" and COLUMNS[name].kind is str and _computed(value)
                    else value
                    for name, value in zip(names, record, strict=True)
                }
    except csv.Error as error:
        raise BadDataError(
            "table-syntax",
            escape_control(error),
            where=f"{path}:{number + 1}",
            expected='values with commas between, in quotes as "a ""b"" c"',
        ) from error


# ---------------------------------------------------------------- Parquet


def _parquet(rows: Sequence[Row]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    kinds = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    schema = pa.schema(
        [
            pa.field(name, kinds[c.kind], metadata={"meaning": c.meaning, "unit": c.unit})
            for name, c in COLUMNS.items()
        ]
    )
    out = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(list(rows), schema=schema), out)
    return out.getvalue()


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            check_columns(file.schema_arrow.names, path)
            if file.metadata.num_rows > ROWS:
                raise BadDataError(
                    "table-rows",
                    f"{file.metadata.num_rows:,} rows",
                    where=path,
                    expected=f"at most {ROWS:,}",
                )
            rows = file.read(use_threads=False).to_pylist()
    except PermissionError:
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadDataError(
            "table-parquet",
            f"cannot be read as Parquet ({reason[:200]})",
            where=path,
            expected="a Parquet file",
            remedy="make it again, or read the CSV next to it",
        ) from error
    yield from rows


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {".csv": _read_csv, ".parquet": _read_parquet}
