"""Tables and figures of a pruning study."""

from __future__ import annotations

from collections.abc import Iterable

from ...errors import counted
from ...lab.records import MetricPoint, StoredStudy
from ...lab.store import Store
from ...plots import statistics, tables
from ...result import FINISHED, Result
from .. import drawings, reporting, result_warnings
from ..base import StudyReport
from ..drawings import Drawings
from . import figures as chop_figures
from .report import PRUNING, Row, _count, _percent, _results, _summary, _write, results, warnings_of


def pruning_drawings(store: Store, study: StoredStudy) -> Drawings:
    """Return the figure of pruned networks; none where none was tested."""
    finished = results(store, study)
    rows = pruned_rows(finished)
    if not any(row["mean"] is not None for row in rows):
        return {}
    return {
        PRUNING: lambda form: chop_figures.pruning(
            rows, study["title"], form, caption=warnings_of(finished)
        )
    }


def pruned_rows(results: Iterable[Result]) -> list[Row]:
    """Return one row for every round: how much is left and its accuracy, over repeats."""
    groups: dict[int, list[Result]] = {}
    for result in results:
        groups.setdefault(result.spec["round"], []).append(result)
    rows = []
    for number in sorted(groups):
        whole = [r for r in groups[number] if r.status == FINISHED]
        val = statistics.estimate(r.scores["best_val_accuracy"] for r in whole)
        spec = groups[number][0].spec
        left = statistics.estimate(r.scores["kept"] for r in whole)
        rows.append(
            {
                "line": f"{spec['scope']} threshold"
                + (", rewound" if spec["rewind"] == "start" else ""),
                "round": number,
                "kept": left.mean if left else spec["keep"] ** number,
                "networks": len(whole),
                "missing": len(groups[number]) - len(whole),
                "val": val and val.mean,
                **statistics.accuracy_columns(r.scores["test_accuracy"] for r in whole),
                "nonzero": int(whole[0].scores["nonzero"]) if whole else None,
                "parameters": int(whole[0].scores["parameters"]) if whole else None,
            }
        )
    return rows


def write_pruning_summary(store: Store, key: str, form: str | None = "png") -> None:
    """Write the table, figure and summary of pruned networks to the study's folder."""
    study = store.read_study(key)
    if study is None:
        return
    folder, finished = store.root / "studies" / key, results(store, study)
    rows = pruned_rows(finished)
    if any(row["mean"] is not None for row in rows):
        _write(folder, PRUNING, rows, pruned_table(rows, "markdown"))
        drawings.write(folder, pruning_drawings(store, study), form)
    metrics: list[MetricPoint] = [
        {"name": name, "value": row[of], "step": row["round"]}
        for row in rows
        for name, of in PRUNING_METRICS.items()
        if row[of] is not None
    ]
    _summary(folder, study, finished, metrics, pruned_table(rows, "markdown"))


PRUNING_METRICS = {
    "mean_test_accuracy": "mean",
    "ci95_low": "low",
    "ci95_high": "high",
    "kept": "kept",
}


def pruned_table(rows: list[Row], form: str = "text") -> str:
    """Format rounds down: share of weights left, non-zero parameters, accuracies in per cent."""
    body = [
        [
            str(row["round"]),
            f"{100 * row['kept']:.2f} %",
            _count(row["nonzero"]),
            _percent(row["val"]),
            tables.accuracy(row),
        ]
        for row in rows
    ]
    return tables.FORMS[form](
        ["round", "weights left", "parameters not zero", "validation", "test accuracy"], body
    )


def format_pruning_summary(report: StudyReport) -> str:
    """Return the closing text of a study of pruned networks."""
    store = Store(report.folder)
    study = store.read_study(report.key)
    assert study is not None
    folder = store.root / "studies" / report.key
    lines = [
        pruned_table(pruned_rows(results(store, study))).rstrip(),
        "accuracies are mean per-class, in per cent, ± 95 % CI over the repeats",
        *result_warnings.lines(warnings_of(_results(report))),
        f"{drawings.kinds(folder)}: {folder / PRUNING}{drawings.endings(folder, PRUNING)}",
    ]
    return "\n".join([*lines, *reporting.footer(report)])


def format_round(report: StudyReport) -> str:
    """Return the closing text of one round."""
    number = report.stage.trials[0].spec.round
    return (
        f"round {number}: {counted(len(report.results), 'network')} "
        f"in {tables.seconds(report.wall_s)}"
    )
