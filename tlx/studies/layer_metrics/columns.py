"""Columns of the table of layer metrics: their kinds, units, meanings and valid values."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import BadDataError, nearest
from ..layer_measures import DISSIMILARITY, DISSIMILARITY_UNITS, LAYER_METRICS

LARGEST = 2**63 - 1
TEXT_LENGTH = 4096


@dataclass(frozen=True)
class Column:
    """Column of the table.

    kind: str, int (0…2⁶³ − 1) or float. needed: it must exist, every cell filled. more: what no
    axis shows.
    """

    kind: type
    meaning: str
    unit: str = ""
    needed: bool = False
    more: str = ""

    @property
    def title(self) -> str:
        """Return meaning and unit, for an axis."""
        return self.titled(self.unit)

    def titled(self, unit: str) -> str:
        """Return meaning and another unit."""
        return self.meaning[:1].upper() + self.meaning[1:] + (f" ({unit})" if unit else "")


UNITS = {"": "1 − r"} | DISSIMILARITY_UNITS  # rdm (empty: correlation) → unit

COLUMNS: dict[str, Column] = {
    "model": Column(str, "name of the network with its weights", needed=True),
    "trained_on": Column(str, "data set that the network was trained on"),
    "checkpoint": Column(
        str, "0: untrained, 0_k: after k batches of the first epoch, k: after k epochs"
    ),
    "checkpoint_index": Column(int, "place of the checkpoint among those of its training, from 0"),
    "seed": Column(int, "seed of the training"),
    "dataset": Column(str, "data set whose images passed through the network", needed=True),
    "layer": Column(str, "name of the layer", needed=True),
    "layer_index": Column(int, "place of the layer, from 0 at the input", needed=True),
    "block": Column(int, "block that the layer belongs to, from 1 at the input"),
    "rows": Column(int, "activations that were measured", "rows", needed=True),
    "width": Column(int, "values of one activation", "values", needed=True),
    **{
        name: Column(float, metric.meaning, metric.unit, more=metric.more)
        for name, metric in LAYER_METRICS.items()
    },
    "seconds": Column(float, "time that measuring the layer took", "s"),
    "rdm": Column(
        str, "dissimilarity that the rsa columns are of: correlation (empty too), euclidean, …"
    ),
    "rsa_label_low": Column(
        float, "lower end of rsa_label", "Spearman's ρ", more="95 % CI over the stimuli"
    ),
    "rsa_label_high": Column(
        float, "upper end of rsa_label", "Spearman's ρ", more="95 % CI over the stimuli"
    ),
}
IDENTITY = ("model", "dataset", "layer", "checkpoint", "seed")  # no two rows share all of these
SPREADS = (
    *(name for name, metric in LAYER_METRICS.items() if metric.spread_of),
    "rsa_label_low",
    "rsa_label_high",
)  # of other columns
METRICS = tuple(
    name for name, c in COLUMNS.items() if c.kind is float and name not in SPREADS
)  # can be drawn

Row = dict[str, Any]


def axis_title(metric: str, rows: Iterable[Mapping[str, Any]]) -> str:
    """Return meaning and unit of a metric, for the axis of these rows.

    Dissimilarities are in the unit of their RDMs.
    """
    column = COLUMNS[metric]
    kinds = {row.get("rdm") or "" for row in rows if row.get(metric) not in (None, "")}
    units = {UNITS.get(kind, kind) for kind in kinds}
    return (
        column.titled(units.pop())
        if column.unit == DISSIMILARITY and len(units) == 1
        else column.title
    )


class TableFaults:
    """First error of a table, and how many more."""

    def __init__(self, where: object):
        self.where, self.count = where, 0
        self.first: BadDataError | None = None

    def add(self, code: str, row: int, what: str, expected: str) -> None:
        """Add an error."""
        self.count += 1
        if self.first is None:
            self.first = BadDataError(code, what, where=f"{self.where}:{row}", expected=expected)

    def raise_first(self) -> None:
        """Raise the first error, if there is any."""
        if self.first is not None:
            self.first.remedy = (
                f"{self.count - 1} more faults after this one" if self.count > 1 else ""
            )
            raise self.first


# ---------------------------------------------------------------- rows and cells


def whole_row(row: Mapping[str, object], number: int, faults: TableFaults) -> Row:
    """Return the row with every column, each cell of its column's kind.

    Errors are added to `faults`.
    """
    for name in sorted(row.keys() - COLUMNS.keys()):
        faults.add(
            "table-columns", number, f"unknown column '{name}'", f"one of {', '.join(COLUMNS)}"
        )
    return {name: _cell(name, row.get(name), number, faults) for name in COLUMNS}


def _cell(name: str, value: object, row: int, faults: TableFaults) -> Any:
    """Return the value as its column's kind.

    None ("" for text) where the cell is empty or wrong.
    """
    column = COLUMNS[name]
    empty = "" if column.kind is str else None
    if value is None or value == "":
        if column.needed:
            faults.add("table-cell", row, f"column '{name}' is empty", column.meaning)
        return empty
    try:
        return KINDS[column.kind][0](value)
    except (ValueError, TypeError, OverflowError):
        shown = f"'{value[:80]}'" if isinstance(value, str) else repr(value)[:80]
        faults.add("table-cell", row, f"column '{name}' holds {shown}", KINDS[column.kind][1])
        return empty


NUMBER, WHOLE = (
    re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII),
    re.compile(r"\d{1,19}", re.ASCII),
)


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > TEXT_LENGTH:
        raise ValueError
    value.encode()  # of a lone surrogate a UnicodeEncodeError, which is a ValueError
    return str(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or (isinstance(value, str) and not NUMBER.fullmatch(value)):
        raise ValueError
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def _whole(value: object) -> int:
    if isinstance(value, str) and WHOLE.fullmatch(value):
        number = int(value)
    elif isinstance(value, str) or not hasattr(value, "__index__"):
        number = int(
            _number(value)
        )  # 3.0: what other programs make of whole numbers beside an empty cell
        if number != _number(value):
            raise ValueError
    else:
        number = operator.index(value)
    if isinstance(value, bool) or not 0 <= number <= LARGEST:
        raise ValueError
    return number


KINDS: dict[type, tuple[Callable[[Any], Any], str]] = {
    str: (_text, f"text (UTF-8), at most {TEXT_LENGTH:,} characters"),
    int: (_whole, f"a whole number, 0 to {LARGEST}"),
    float: (_number, "a finite number with a decimal point, or an empty cell"),
}


def check_twice(rows: Sequence[Row], first: int, faults: TableFaults) -> None:
    """Check that no two rows have one identity; `first` is the number of the first row."""
    seen: dict[tuple[Any, ...], int] = {}
    for number, row in enumerate(rows, first):
        key = tuple(row[name] for name in IDENTITY)
        before = seen.setdefault(key, number)
        if before != number:
            identity = ", ".join(
                f"{name} '{value}'" for name, value in zip(IDENTITY, key, strict=True)
            )
            faults.add(
                "table-twice",
                number,
                f"{identity} stands in row {before} too",
                "one row for each of these",
            )


def check_columns(names: Sequence[str], where: object) -> None:
    """Raise BadDataError for a column that is unknown, twice there, or needed and not there."""
    for name in names:
        if name not in COLUMNS:
            near = nearest(name, COLUMNS)
            raise BadDataError(
                "table-columns",
                f"unknown column '{name[:80]}'",
                where=where,
                expected=f"one of {', '.join(COLUMNS)}" + (f"; nearest: {near[0]}" if near else ""),
            )
        if list(names).count(name) > 1:
            raise BadDataError(
                "table-columns", f"column '{name}' stands twice", where=where, expected="each once"
            )
    lacking = [name for name, column in COLUMNS.items() if column.needed and name not in names]
    if lacking:
        raise BadDataError(
            "table-columns",
            f"no column {', '.join(lacking)}",
            where=where,
            expected=f"at least "
            f"{', '.join(name for name, column in COLUMNS.items() if column.needed)}",
        )
