"""Panels of an atlas, one row each: title, source and reader. PANELS."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...lab.records import StoredStudy
from ...plots import statistics
from ...result import FINISHED, Result
from ..layer_measures import DISSIMILARITY, DISSIMILARITY_UNITS, LAYER_METRICS
from ..layer_transfer import report as layer_transfer_report
from ..quanta import report as quanta_report
from ..quanta.spec import CO, WITNESS

ACCURACY = "accuracy"  # unit: a fraction of the images, shown in per cent
NORM = "mean_abs"  # of parameter distance, where a study has several

Row = dict[str, Any]


@dataclass(frozen=True)
class Taken:
    """Data that a panel is read from: finished results, trials of the study, number of classes."""

    results: Sequence[Result]
    study: StoredStudy
    classes: int


@dataclass(frozen=True)
class Panel:
    """Panel of the atlas.

    title   of its vertical axis, "{unit}" in it standing for the unit
    unit    of its numbers, ACCURACY being shown in per cent
    source  where it comes from: "blocks" (measured by the atlas), or a row of
            tlx.studies.atlas.lookup.SOURCES, which
            defines how its studies are found and the command for it
    read    its rows: line, block (None: a level across all), mean, low, high, n, keys of the trials
    axes    the panel on whose axes it is drawn; "": its own
    """

    title: str
    unit: str
    source: str
    read: Callable[[Taken], Iterable[Row]]
    axes: str = ""

    def unit_for(self, rdm: str) -> str:
        """Return its unit where RDMs are of this kind."""
        return DISSIMILARITY_UNITS[rdm] if self.unit == DISSIMILARITY else self.unit

    def heading(self, unit: str) -> str:
        """Return the title of its axis, with this unit."""
        return self.title.format(unit=unit)


# ---------------------------------------------------------------- reading


def _measured(name: str, line: str, beside: bool = False) -> Callable[[Taken], Iterable[Row]]:
    """Return a reader of a measure of the atlas's own trials.

    Of the network, or compared with that trained on the target.
    """

    def read(taken: Taken) -> Iterable[Row]:
        for result in taken.results:
            if bool(result.spec["against"]) == beside:
                for row in result.details["rows"]:
                    if name in row["values"]:
                        yield {
                            "line": line,
                            "block": row["block"],
                            **row["values"][name],
                            "keys": [result.key],
                        }

    return read


def _knn(taken: Taken) -> Iterable[Row]:
    rows = list(_measured("knn", "")(taken))
    if not rows:
        return []
    line = f"{taken.results[0].spec['k']} nearest"
    return [_level("chance", 1 / taken.classes), *(row | {"line": line} for row in rows)]


def _lambda(taken: Taken) -> Iterable[Row]:
    for row in quanta_report.rows_of(taken.results):
        if row["position"] is not None and row["lambda_source"] is not None:
            yield _of_quanta(row, "lambda_source", taken)
    starts = sorted(
        {
            round(row["lambda_start"], 12)
            for row in quanta_report.rows_of(taken.results)
            if row["lambda_start"]
        }
    )
    yield from (_level("start", start) for start in starts)


def _gated(taken: Taken) -> Iterable[Row]:
    for row in quanta_report.rows_of(taken.results):
        if row["test_accuracy"] is not None and row["gate"] != CO:
            yield _of_quanta(row, "test_accuracy", taken)


GATES = {"alone": "gated alone", CO: "all at once", WITNESS: "witness"}


def _of_quanta(row: Mapping[str, Any], name: str, taken: Taken) -> Row:
    """Read a row of a QUANTA table; position p is block p + 1."""
    position = str(row["position"]) if row["gate"] == "alone" else row["gate"]
    return {
        "line": GATES[row["gate"]],
        "block": row["block"],
        "mean": row[name],
        "low": row[f"{name}_low"],
        "high": row[f"{name}_high"],
        "lowest": row[f"{name}_lowest"],
        "highest": row[f"{name}_highest"],
        "n": row["repeats"],
        "keys": [r.key for r in taken.results if r.spec["position"] == position],
    }


def _transferability(taken: Taken) -> Iterable[Row]:
    norms = [result.spec["norm"] for result in taken.results]
    norm = NORM if NORM in norms else norms[0]
    values: dict[int, list[tuple[float, str]]] = {}
    for result in taken.results:
        for row in result.details["profile"] if result.spec["norm"] == norm else ():
            if row["block"] is not None and not row["head"] and row["transferability"] is not None:
                values.setdefault(row["block"], []).append((row["transferability"], result.key))
    for block, members in sorted(values.items()):
        yield _estimated(f"T, {norm.replace('_', ' ')}", block, members)
    if values:
        yield _level("no nearer than random", 1.0)


def _transfer(taken: Taken) -> Iterable[Row]:
    whole = {result.key: result for result in taken.results}
    trials = layer_transfer_report.trial_rows(taken.study, whole)
    rows = [row for row in layer_transfer_report.table_rows(trials) if row["mean"] is not None]
    usual = [row for row in rows if row["bn"] == "frozen"]
    for row in usual or rows:
        if row["treatment"] in ("AnB", "AnB+", "baseB", "baseB+"):
            yield {
                "line": row["treatment"],
                "block": row["n"],
                "mean": row["mean"],
                "low": row["low"],
                "high": row["high"],
                "lowest": row["lowest"],
                "highest": row["highest"],
                "n": row["networks"],
                "keys": [
                    t["key"]
                    for t in trials
                    if t["status"] == FINISHED
                    and all(t[name] == row[name] for name in ("treatment", "bn", "n"))
                ],
            }
    if rows:
        yield _level("chance", 1 / taken.classes)


def _estimated(line: str, block: int | None, values: Sequence[tuple[float, str]]) -> Row:
    mean = statistics.estimate((value for value, _ in values), bounds=statistics.NOT_NEGATIVE)
    assert mean is not None
    return {
        "line": line,
        "block": block,
        "mean": mean.mean,
        "low": mean.low,
        "high": mean.high,
        "n": mean.n,
        "lowest": mean.lowest,
        "highest": mean.highest,
        "keys": [key for _, key in values],
    }


def _level(line: str, value: float) -> Row:
    """Read a value that holds for all blocks and was not measured."""
    return {
        "line": line,
        "block": None,
        "mean": value,
        "low": None,
        "high": None,
        "n": None,
        "keys": [],
    }


def _layer_metric_panels() -> dict[str, Panel]:
    """Return the panels of LAYER_METRICS."""
    panels = {}
    for metric in LAYER_METRICS.values():
        panel = metric.in_atlas
        if panel is not None:
            read = _measured(panel.name, panel.line)
            panels[panel.name] = Panel(panel.title, metric.unit, "blocks", read)
    return panels


PANELS: dict[str, Panel] = {  # in the order in which they are drawn
    **_layer_metric_panels(),
    "cka_source": Panel(
        "CKA\n(linear)",
        "CKA",
        "tuned",
        _measured("cka_source", "fine-tuned to source", beside=True),
        axes="cka_label",
    ),
    "knn": Panel("kNN accuracy\n(%)", ACCURACY, "blocks", _knn),
    "quanta": Panel("QUANTA λ_S\n(share)", "share", "quanta", _lambda),
    "quanta_accuracy": Panel("Acc. with gate\n(test, %)", ACCURACY, "quanta", _gated),
    "distance": Panel("Param. dist. T\n(ratio)", "ratio", "distance", _transferability),
    "transfer": Panel("AnB accuracy\n(test, %)", ACCURACY, "transfer", _transfer),
}
