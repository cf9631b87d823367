"""Tables of results as aligned text, Markdown and CSV."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import escape_control
from . import statistics

NOTHING = "–"  # unknown: one split has no interval, a diverged trial no score
FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # what makes a spreadsheet compute a cell


def percent(value: float | None) -> str:
    """Format a fraction in per cent."""
    return NOTHING if value is None else f"{100 * value:.1f} %"


def plus_minus(value: float | None) -> str:
    """Format a half width in per cent after ±."""
    return NOTHING if value is None else f"± {100 * value:.1f}"


def spread(row: Mapping[str, Any]) -> str:
    """Return what follows a mean accuracy: ± its interval, or the range of fewer than 4 values.

    Nothing for one whose test images are not known.
    """
    if statistics.is_range(row):
        return f"({100 * row['lowest']:.1f} to {100 * row['highest']:.1f})"
    if row.get("ci") is None:
        return ""
    alone = " (images)" if row.get("over") == statistics.IMAGES else ""
    return plus_minus(row["ci"]) + alone


def accuracy(row: Mapping[str, Any]) -> str:
    """Return a cell of a mean accuracy in per cent and its spread."""
    if row.get("mean") is None:
        return NOTHING
    return f"{100 * row['mean']:.1f} {spread(row)}".rstrip()


def seconds(value: float | None) -> str:
    """Format a duration with about two significant digits."""
    if value is None:
        return NOTHING
    if value < 60:
        return f"{value:.1f} s"
    minutes, remaining = divmod(round(value), 60)
    return (
        f"{minutes} min {remaining:02d} s"
        if minutes < 60
        else f"{minutes // 60} h {minutes % 60:02d} min"
    )


def short_seconds(value: float | None) -> str:
    """Format a duration that may be far below a second."""
    if value is None or value >= 1.0:
        return seconds(value)
    return f"{1000 * value:.3g} ms"


COLUMNS: dict[
    str, tuple[str, Callable[[Any], str]]
] = {  # key of a few-shot row → heading, how it is shown
    "shots": ("shots", str),
    "splits": ("splits", str),
    "val": ("validation", percent),
    "mean": ("test accuracy", percent),
    "ci": ("95 % CI", plus_minus),
    "over": ("over", lambda over: over or NOTHING),
    "draws_ci": ("draws alone", plus_minus),
    "train_s": ("training time", seconds),
    "missing": ("failed", str),
}
CSV_HEADINGS = {
    "val": "mean_val_accuracy",
    "train_s": "mean_train_s",
    "total_s": "mean_total_s",
    "mean": "mean_test_accuracy",
    "ci": "ci95_half_width",
    "low": "ci95_low",
    "high": "ci95_high",
    "over": "ci95_over",
    "draws_ci": "ci95_draws_half_width",
    "draws_low": "ci95_draws_low",
    "draws_high": "ci95_draws_high",
    "lowest": "lowest_test_accuracy",
    "highest": "highest_test_accuracy",
}


def few_shot(rows: Sequence[Mapping[str, object]], form: str = "text") -> str:
    """Format the table of `statistics.by_shots` rows.

    form is "text", "markdown" or "csv" (raw numbers, every key).
    """
    if form == "csv":
        keys = list(rows[0]) if rows else list(COLUMNS)
        return as_csv(
            [CSV_HEADINGS.get(k, k) for k in keys], [[row.get(k) for k in keys] for row in rows]
        )
    over = set(statistics.over_of(rows))
    absent = {name for name in ("missing", "val") if not any(row.get(name) for row in rows)}
    if over <= {statistics.DRAWS}:
        absent.add("draws_ci")
    if len(over) < 2:
        absent.add("over")
    keys = [name for name in COLUMNS if name not in absent]
    headings = [COLUMNS[k][0] for k in keys]
    body = [
        [(spread(row) or NOTHING) if k == "ci" else COLUMNS[k][1](row.get(k)) for k in keys]
        for row in rows
    ]
    return FORMS[form](headings, body)


def as_text(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Align columns by what a terminal shows: numbers to the right, words to the left."""
    cells = [[escape_control(c) for c in row] for row in [headings, *rows]]
    widths = [max(_width(row[i]) for row in cells) for i in range(len(headings))]
    right = [all(_is_number(row[i]) for row in cells[1:]) for i in range(len(headings))]
    lines = [
        "  ".join(_padded(c, w, r) for c, w, r in zip(row, widths, right, strict=True)).rstrip()
        for row in cells
    ]
    return "\n".join([lines[0], "  ".join("─" * w for w in widths), *lines[1:]]) + "\n"


def as_markdown(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Format a Markdown table; a cell cannot end its column, its row or the table."""
    cells = [[_markdown(c) for c in row] for row in [headings, *rows]]
    marks = [
        "---:" if all(_is_number(str(row[i])) for row in rows) else "---"
        for i in range(len(headings))
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in [cells[0], marks, *cells[1:]])


def as_csv(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Format CSV of full-precision numbers.

    Text that a spreadsheet would compute gets a ' before it; controls are escaped.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([_harmless(h) for h in headings])
    writer.writerows([_harmless(cell) for cell in row] for row in rows)
    return out.getvalue()


FORMS = {"text": as_text, "markdown": as_markdown, "csv": as_csv}


def _harmless(cell: object) -> Any:
    if cell is None or isinstance(cell, (int, float)):
        return cell
    text = escape_control(cell)
    return "'" + text if text.lstrip().startswith(FORMULA) else text


def _markdown(cell: object) -> str:
    text = escape_control(cell).replace("\\", "\\\\").replace("|", "\\|")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _width(text: str) -> int:
    wide = sum(
        unicodedata.east_asian_width(c) in "WF" for c in text if not unicodedata.combining(c)
    )
    return wide + sum(not unicodedata.combining(c) for c in text)


def _padded(text: str, width: int, right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space


def _is_number(text: str) -> bool:
    return text[:1].isdigit() or text[:1] in ("±", "-", NOTHING)
