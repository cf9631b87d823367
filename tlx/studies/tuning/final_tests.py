"""Final tests of a search: the winner against the defaults, which shows whether it helped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...lab.store import Store
from ...lab.tuning.records import COMPLETE
from ...plots import statistics, tables
from ...result import Result
from .. import intervals, reporting
from ..intervals import MeanIntervals
from ..reporting import Row

if TYPE_CHECKING:
    from .run import SearchReport


def mean_row(store: Store | None, results: Sequence[Result]) -> tuple[Row, MeanIntervals]:
    """Return the row of a final test (`statistics.by_shots`), and its interval.

    store  of the predictions; None: the interval is over draws alone
    """
    means = MeanIntervals() if store is None else intervals.of_results(store, results)
    (rows,) = reporting.by_line(list(results), means=means).values()
    return rows[0], means


def difference_row(report: SearchReport) -> Row | None:
    """Return the mean of the winner minus the defaults on the splits that both have.

    None where there is none.
    """
    default = {r.spec["split"]: r for r in report.reference if "test_accuracy" in r.scores}
    pairs = [
        (r, default[r.spec["split"]])
        for r in report.final
        if "test_accuracy" in r.scores and r.spec["split"] in default
    ]
    differences = [a.scores["test_accuracy"] - b.scores["test_accuracy"] for a, b in pairs]
    columns = statistics.mean_columns(differences, statistics.DIFFERENCE)
    if columns["mean"] is None:
        return None
    interval = intervals.of_difference(Store(report.folder), pairs)
    row = statistics.with_interval(columns, len(pairs), interval)
    return {"splits": len(pairs), **row}


def metrics(report: SearchReport) -> dict[str, float]:
    """Return the parent run's metrics about the defaults.

    Validation and test accuracy, and the winner's gain on test.
    """
    result: dict[str, float] = {}
    if report.defaults is not None and report.defaults.state == COMPLETE:
        result["defaults_val_accuracy"] = report.defaults.objectives[0]
    if report.reference:
        row, _ = mean_row(Store(report.folder), report.reference)
        result |= _named("defaults_test_accuracy", row)
    return result | _named("tuned_minus_defaults_test_accuracy", difference_row(report))


def _named(name: str, row: Row | None) -> dict[str, float]:
    if row is None or row["mean"] is None:
        return {}
    columns = {"": "mean", "_ci95_low": "low", "_ci95_high": "high"}
    return {name + end: row[key] for end, key in columns.items() if row[key] is not None}


def record(report: SearchReport) -> dict[str, Any] | None:
    """Return the defaults for best_configuration.json; None where the search leaves them out."""
    if report.defaults is None:
        return None
    return {"trial": report.defaults.number, "values": report.defaults.values, **metrics(report)}


def lines(report: SearchReport) -> list[str]:
    """Format the test accuracy of the winner, of the defaults, and their difference."""
    if not report.final or report.best is None:
        return []
    store = Store(report.folder)
    result = [_line(f"on test, trial {report.best.number}", store, report.final)]
    if report.defaults is None:
        return [*result, "the defaults are outside the searched space, and were not tested"]
    if report.defaults.number == report.best.number:
        return [*result, "trial 0, the defaults, is the winner"]
    if not report.reference:
        error = f": {report.defaults.error}" if report.defaults.error else ""
        return [*result, f"trial 0, the defaults, {report.defaults.state}{error}"]
    result.append(_line("on test, trial 0 (the defaults)", store, report.reference))
    gain = difference_row(report)
    if gain is not None:
        points = f"{100 * gain['mean']:+.1f} points {tables.spread(gain)}".rstrip()
        verdict = "" if gain["mean"] > 0 else ": tuning did not help on test"
        result.append(f"tuned minus defaults, on the same splits: {points}{verdict}")
    return result


def _line(title: str, store: Store, results: Sequence[Result]) -> str:
    row, _ = mean_row(store, results)
    return f"{title}: {tested(row)}"


def tested(row: Row) -> str:
    """Return the mean test accuracy of a final test, its interval and what that is over."""
    over = statistics.over_of([row])
    kind = f"95 % CI over {over[0]}" if over else "range"
    words = ["mean per class", *([kind] if row["splits"] > 1 or over else [])]
    spread = f"{tables.percent(row['mean'])} {tables.spread(row)}".rstrip()
    return f"{spread} ({', '.join(words)}, {row['splits']} splits)"
