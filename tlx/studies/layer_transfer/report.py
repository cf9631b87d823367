"""Tables, figure and closing text of a layer-transfer study, from its run folders alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ... import files
from ...lab.records import MetricPoint, StoredStudy
from ...lab.store import Store
from ...plots import statistics, tables
from ...result import FINISHED, Result
from .. import drawings, reporting, result_warnings, summaries
from ..base import StudyReport
from ..drawings import Drawings
from . import figures as layer_transfer_figures

STEM, TRIALS, ORIGINALS = "layer_transfer", "layer_transfer_trials", "all_experiments"
BASES = ("baseA", "baseB", "baseB+")
ORDER = (*BASES, "BnB", "BnB+", "AnB", "AnB+")
HELD = {("A", True): "AnB", ("A", False): "AnB+", ("B", True): "BnB", ("B", False): "BnB+"}

Row = dict[str, Any]


def treatments(spec: Mapping[str, Any]) -> list[tuple[str, int | None]]:
    """Return (treatment, n) of everything that a trial is: baseB+ is AnB+ with every block."""
    n = spec["copied"]
    if not n:
        return [(f"base{spec['task']}", None)]
    pairs: list[tuple[str, int | None]] = [(HELD[spec["of"], bool(spec["freeze"])], n)]
    return pairs + ([("baseB+", None)] if pairs[0][0] == "AnB+" and n == spec["depth"] else [])


def label(row: Mapping[str, Any]) -> str:
    """Return the name of a line: the treatment, and its batch norm where not the usual one."""
    result: str = row["treatment"] + (f" {row['bn']}" if row["bn"] != "frozen" else "")
    return result


def trial_rows(study: StoredStudy, results: Mapping[str, Result]) -> list[Row]:
    """Return one row for every trial and each treatment that it is."""
    rows = []
    for trial in study["trials"]:
        spec, result = trial["spec"], results.get(trial["key"])
        for treatment, n in treatments(spec):
            rows.append(
                {
                    "treatment": treatment,
                    "n": n,
                    "bn": spec["bn"],
                    "repeat": spec["split"],
                    "status": result.status if result else "missing",
                    **{
                        name: (result.scores.get(name) if result else None)
                        for name in ("test_accuracy", "test_top1", "best_val_accuracy", "train_s")
                    },
                    "epochs": result.details.get("epochs") if result else None,
                    "best_epoch": result.details.get("best_epoch") if result else None,
                    "key": trial["key"],
                }
            )
    return sorted(
        rows, key=lambda r: (ORDER.index(r["treatment"]), r["bn"], r["n"] or 0, r["repeat"])
    )


def table_rows(trials: Iterable[Row]) -> list[Row]:
    """Compute mean test accuracy with 95 % CI over repeats.

    For every treatment, way of batch norm and n.

    against_baseB  mean of the differences to baseB of the same repeat, with its own interval
    """
    groups: dict[tuple[str, str, int | None], list[Row]] = {}
    for row in trials:
        groups.setdefault((row["treatment"], row["bn"], row["n"]), []).append(row)
    base = {
        row["repeat"]: row["test_accuracy"]
        for row in groups.get(("baseB", "frozen", None), [])
        if row["status"] == FINISHED
    }
    return [_row(treatment, bn, n, rows, base) for (treatment, bn, n), rows in groups.items()]


def _row(treatment: str, bn: str, n: int | None, rows: list[Row], base: Mapping[int, float]) -> Row:
    whole = [row for row in rows if row["status"] == FINISHED]
    paired = treatment not in ("baseA", "baseB")
    differences = [
        row["test_accuracy"] - base[row["repeat"]]
        for row in whole
        if paired and row["repeat"] in base
    ]
    beside = statistics.estimate(differences, bounds=(-1.0, 1.0))
    spent = statistics.estimate(row["train_s"] for row in whole)
    return {
        "treatment": treatment,
        "bn": bn,
        "n": n,
        "networks": len(whole),
        "missing": len(rows) - len(whole),
        **statistics.accuracy_columns(row["test_accuracy"] for row in whole),
        "against_baseB": beside and beside.mean,
        "against_baseB_ci": beside and beside.half_width,
        "train_s": spent and spent.mean,
    }


CSV_NAMES = {
    "mean": "mean_test_accuracy",
    "ci": "ci95_half_width",
    "low": "ci95_low",
    "high": "ci95_high",
    "lowest": "lowest_test_accuracy",
    "highest": "highest_test_accuracy",
    "against_baseB_ci": "against_baseB_ci95_half_width",
    "train_s": "mean_train_s",
}


def study_drawings(store: Store, study: StoredStudy) -> Drawings:
    """Return the figure of a study: accuracy over n.

    None where no treatment of B has a mean.
    """
    results = {result.key: result for result in reporting.results_of(store, study)}
    rows, warnings = table_rows(trial_rows(study, results)), warnings_of(results.values())
    if not any(row["mean"] is not None and row["treatment"] != "baseA" for row in rows):
        return {}
    return {
        STEM: lambda form: layer_transfer_figures.layer_transfer(
            rows, study["title"], form, caption=warnings
        )
    }


def write_summary(store: Store, key: str, form: str | None = "png") -> None:
    """Write a study's tables, figure and summary over all of its complete trials."""
    study = store.read_study(key)
    if study is None:
        return
    folder = store.root / "studies" / key
    results = {result.key: result for result in reporting.results_of(store, study)}
    trials = trial_rows(study, results)
    rows, warnings = table_rows(trials), warnings_of(results.values())
    if any(row["mean"] is not None for row in rows):
        _write(folder, trials, rows)
        drawings.write(folder, study_drawings(store, study), form)
    metrics: list[MetricPoint] = [
        {
            "name": f"{label(row).replace('+', 'plus').replace(' ', '_')}/{name}",
            "value": row[of],
            "step": row["n"] or 0,
        }
        for row in rows
        for name, of in METRICS.items()
        if row[of] is not None
    ]
    summaries.write(
        folder,
        study,
        metrics,
        finished=sum(r.status == FINISHED for r in results.values()),
        warnings=warnings,
        table=table(rows, "markdown") if metrics else "",
    )


def warnings_of(results: Iterable[Result]) -> list[str]:
    """Return the warnings about the test accuracies of every network that is trained."""
    groups = result_warnings.grouped(results, lambda result: _network(result.spec))
    return result_warnings.result_warnings(groups, result_warnings.Warned("repeats"))


def _network(spec: Mapping[str, object]) -> str:
    treatment, n = treatments(spec)[0]
    return label({"treatment": treatment, "bn": spec["bn"]}) + (
        f" n = {n}" if n is not None else ""
    )


METRICS = {
    "mean_test_accuracy": "mean",
    "ci95_low": "low",
    "ci95_high": "high",
    "against_baseB": "against_baseB",
}


def _write(folder: Path, trials: list[Row], rows: list[Row]) -> None:
    headings = [CSV_NAMES.get(name, name) for name in rows[0]]
    files.write_text(
        folder / f"{STEM}.csv", tables.as_csv(headings, [list(row.values()) for row in rows])
    )
    files.write_text(folder / f"{STEM}.md", table(rows, "markdown"))
    files.write_text(
        folder / f"{TRIALS}.csv",
        tables.as_csv(list(trials[0]), [list(row.values()) for row in trials]),
    )
    files.write_text(
        folder / f"{ORIGINALS}.csv",
        tables.as_csv(["network", "block", "test_accuracy"], original_rows(rows)),
    )


def original_rows(rows: Iterable[Row]) -> list[list[object]]:
    """Return network, block and test accuracy as the original's all_experiments.csv has them.

    A row for each n of AnB, BnB, AnB+ and BnB+, and one without a block for each base network; of
    several ways of batch norm the usual one.
    """
    return [
        [row["treatment"], "" if row["n"] is None else row["n"], row["mean"]]
        for row in rows
        if row["bn"] == "frozen" and row["mean"] is not None
    ]


def table(rows: list[Row], form: str = "text") -> str:
    """Format n down, treatments across, mean ± 95 % CI in per cent.

    The base networks are in the rows above.
    """
    lines = list(dict.fromkeys(label(row) for row in rows if row["n"] is not None))
    cells = {(label(row), row["n"]): row for row in rows}
    depths = sorted({row["n"] for row in rows if row["n"] is not None})
    bases = [row for row in rows if row["n"] is None]
    if not lines:
        return tables.FORMS[form](
            ["network", "test accuracy"], [[label(row), _cell(row)] for row in bases]
        )
    body = [[str(n), *(_cell(cells.get((line, n))) for line in lines)] for n in depths]
    text = tables.FORMS[form](["n", *lines], body)
    gap = "\n" if form == "markdown" else ""
    return "".join(f"{label(row)}: {_cell(row)}\n{gap}" for row in bases) + text


def _cell(row: Row | None) -> str:
    if row is None or row["mean"] is None:
        return tables.NOTHING
    return tables.accuracy(row)


def format_summary(report: StudyReport) -> str:
    """Return the closing text of a study: the table, what diverged, where the files are."""
    store = Store(report.folder)
    study = store.read_study(report.key)
    assert study is not None
    results = {
        row["key"]: result
        for row in study["trials"]
        if (result := store.find_or_none(row["key"])) is not None
    }
    rows = table_rows(trial_rows(study, results))
    lines = [
        table(rows).rstrip(),
        "mean per-class test accuracy in per cent, ± 95 % CI over the repeats",
        *result_warnings.lines(warnings_of(results.values())),
    ]
    if any(row["treatment"] == "baseA" for row in rows):
        lines.append("baseA is scored on the test images of its own classes")
    lost = [f"{label(row)} {row['n'] or ''}".rstrip() for row in rows if row["missing"]]
    if lost:
        lines.append(f"diverged or missing in some repeat: {', '.join(lost)}")
    folder = report.folder / "studies" / report.key
    lines.append(
        f"{drawings.kinds(folder, 'tables')}: {folder / STEM}{drawings.endings(folder, STEM)}"
    )
    return "\n".join([*lines, *reporting.footer(report)])


def format_bases(report: StudyReport) -> str:
    """Return the closing text of the stage of the base networks."""
    return (
        f"base networks: {len(report.results)} trained, {report.reused} of them found done"
        if report.reused
        else (f"base networks: {len(report.results)} trained in {tables.seconds(report.wall_s)}")
    )
