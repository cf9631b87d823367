"""Tables of a study of checkpoints, and train stats in the format of the thesis.

Transfer performances, correlations and accuracies at moments. Our own tables hold fractions; the
accuracies of 'Transferability in DNN' are per cent.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ... import files
from ...errors import BadDataError, MissingError, nearest
from ...plots import tables

PERFORMANCE, CORRELATIONS, TUNING, SOURCES = (
    "transfer_performance",
    "correlations",
    "fine_tuning",
    "pre_training",
)
STATS = "_train_stats.json"
MODEL = ("target", "source", "checkpoint", "checkpoint_index", "seed")
SCORES = tuple(
    f"{part}_{score}" for part in ("train", "val", "test") for score in ("accuracy", "top1", "loss")
)
COLUMNS: dict[str, tuple[str, ...]] = {
    PERFORMANCE: (
        *MODEL,
        "transfer_performance",
        "transfer_performance_val",
        "test_accuracy",
        "val_accuracy",
    ),
    CORRELATIONS: (
        "target",
        "metric",
        "layer",
        "layer_index",
        "scope",
        "name",
        "n",
        "rho",
        "fisher",
        "low",
        "high",
        "p",
        "exact",
        "sources",
        "source_low",
        "source_high",
        "source_p",
    ),
    TUNING: (*MODEL, "fine_tune_checkpoint", "fine_tune_index", *SCORES),
    SOURCES: ("source", "seed", "checkpoint", *SCORES),
}
WHOLE = (
    "checkpoint_index",
    "layer_index",
    "n",
    "sources",
    "fine_tune_index",
)  # columns of whole numbers
NUMBERS = (
    "transfer_performance",
    "transfer_performance_val",
    "test_accuracy",
    "val_accuracy",
    "rho",
    "fisher",
    "low",
    "high",
    "p",
    "source_low",
    "source_high",
    "source_p",
    *SCORES,
)
LARGEST = 1 << 28  # bytes of a table that is read

Row = Mapping[str, Any]


def rows_of(results: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of every table, from what `correlations.gather` wrote."""
    tuning = [
        {**row, "fine_tune_checkpoint": row["tag"], "fine_tune_index": row["index"]}
        for row in results["tuning"]
    ]
    sources = [{**row, "checkpoint": row["tag"]} for row in results["pretraining"]]
    result = {
        PERFORMANCE: results["performance"],
        CORRELATIONS: results["correlations"],
        TUNING: tuning,
        SOURCES: sources,
    }
    return {
        name: [{column: row.get(column) for column in COLUMNS[name]} for row in rows]
        for name, rows in result.items()
    }


def write(rows: Mapping[str, Sequence[Row]], folder: Path) -> list[Path]:
    """Write every table that has rows, as <name>.csv."""
    paths = []
    for name, members in rows.items():
        if members:
            path = folder / f"{name}.csv"
            files.write_text(
                path,
                tables.as_csv(
                    COLUMNS[name], [[row.get(c) for c in COLUMNS[name]] for row in members]
                ),
            )
            paths.append(path)
    return paths


def read(path: Path, name: str = PERFORMANCE) -> list[dict[str, Any]]:
    """Read the rows of a table of `write`, numbers as numbers, an empty cell None.

    Raises BadDataError with row and column.

    Columns may be in any order; of one's own table of performances only MODEL's first three and
    the first number are needed.
    """
    path = Path(path)
    if not path.is_file():
        near = (
            nearest(path.name, [p.name for p in path.parent.glob("*")])
            if path.parent.is_dir()
            else []
        )
        error = MissingError(f"table {name}.csv", path, made_by="tlx checkpoints --out FOLDER")
        error.expected = f"nearest name: {near[0]}" if near else "a CSV file"
        raise error
    if path.stat().st_size > LARGEST:
        raise BadDataError(
            "table-size",
            f"{path.stat().st_size:,} bytes",
            where=path,
            expected=f"at most {LARGEST:,}",
        )
    try:
        reader = csv.DictReader(
            io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""), strict=True
        )
        lines = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadDataError(
            "table-syntax", "not a table of comma-separated UTF-8 text", where=path
        ) from error
    needed = (*MODEL[:3], PERFORMANCE) if name == PERFORMANCE else COLUMNS[name]
    lacking = [column for column in needed if column not in (reader.fieldnames or ())]
    if lacking:
        raise BadDataError(
            "table-columns",
            f"no column {', '.join(lacking)}",
            where=path,
            expected=", ".join(COLUMNS[name]),
        )
    if not lines:
        raise BadDataError("table-empty", "no row", where=path)
    return [
        {
            column: _cell(column, line.get(column), f"{path}:{number}", column in needed)
            for column in COLUMNS[name]
        }
        for number, line in enumerate(lines, 2)
    ]


def _cell(column: str, text: str | None, where: str, needed: bool) -> Any:
    if text is None or text == "":
        if needed and column in (PERFORMANCE, *MODEL[:3]):
            raise BadDataError("table-cell", f"column '{column}' is empty", where=where)
        return None
    if column in WHOLE and re.fullmatch(r"\d{1,18}", text, re.ASCII):
        return int(text)
    if column == "exact":
        return text == "True"
    if column not in (*WHOLE, *NUMBERS):
        return text[1:] if text[0] == "'" and text[1:].lstrip().startswith(tables.FORMULA) else text
    try:
        value = float(text) if column in NUMBERS else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadDataError(
            "table-cell",
            f"column '{column}' holds '{text[:40]}'",
            where=where,
            expected="a whole number" if column in WHOLE else "a finite number",
        )
    return value


# ---------------------------------------------------------------- train stats


def epochs_of(tags: Iterable[str]) -> list[float]:
    """Return the thesis's list of epochs: batches · 0.001 + epochs.

    >>> epochs_of(["0", "0_1", "0_300", "1", "100"])
    [0.0, 0.001, 0.3, 1.0, 100.0]
    """
    values = []
    for tag in tags:
        epochs, _, batches = tag.partition("_")
        values.append(round(int(epochs) + 0.001 * int(batches or 0), 6))
    return values


def train_stats(results: Mapping[str, Any]) -> dict[str, dict[str, object]]:
    """Return file name → what the thesis keeps of a run.

    Lists with one entry for each training, accuracies in per cent.

    pre_<source>: the pre-trainings of a source; ft_<source>_<target>: its fine-tunings, seeds and
    checkpoints
    """
    by_file: dict[str, dict[str, Any]] = {}
    groups: dict[tuple[str, str, int, str], list[Row]] = {}
    for row in results["pretraining"]:
        groups.setdefault(
            (f"pre_{row['source']}", f"model_pre_{row['source']}", row["seed"], "pre"), []
        ).append(row)
    for row in results["tuning"]:
        run = f"ft_{row['source']}_{row['target']}"
        groups.setdefault((run, f"model_{run}_{row['checkpoint']}", row["seed"], "ft"), []).append(
            row
        )
    for (run, name, seed, kind), rows in groups.items():
        stats = by_file.setdefault(run + STATS, {column: [] for column in _columns(kind)})
        row = {
            "model_name": name,
            "seed": seed,
            f"{kind}_net": results["architecture"],
            f"{kind}_epochs": epochs_of(row["tag"] for row in rows),
        }
        for part in ("train", "test"):
            row |= {
                f"{kind}_{part}_acc": [_percent(r.get(f"{part}_top1")) for r in rows],
                f"{kind}_{part}_loss": [r.get(f"{part}_loss") for r in rows],
            }
        for column, values in stats.items():
            values.append(row[column])
    return by_file


def _columns(kind: str) -> tuple[str, ...]:
    return (
        "model_name",
        "seed",
        f"{kind}_net",
        f"{kind}_epochs",
        f"{kind}_train_acc",
        f"{kind}_train_loss",
        f"{kind}_test_acc",
        f"{kind}_test_loss",
    )


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def file_name(name: str) -> str:
    """Return a name as that of a file."""
    return re.sub(r"[^\w.+-]", "_", name)


def write_stats(results: Mapping[str, object], folder: Path) -> list[Path]:
    """Write every file of `train_stats`."""
    paths = []
    for name, stats in train_stats(results).items():
        path = folder / file_name(name)
        files.write_json(path, stats)
        paths.append(path)
    return paths
