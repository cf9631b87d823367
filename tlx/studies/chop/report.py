"""Tables, figures and smallest good network of studies of chopped networks."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ... import files
from ...errors import MissingError
from ...lab.records import MetricPoint, StoredStudy
from ...lab.store import Store
from ...plots import statistics, tables
from ...result import FINISHED, Result
from .. import drawings, reporting, result_warnings, summaries
from ..base import StudyReport
from ..drawings import Drawings
from . import figures as chop_figures
from .spec import LATENCY, NETWORK

CHOP, PRUNING = "chop", "pruning"
SIZES = ("parameters", "numbers", "macs", "weights_bytes", "training_bytes")

Row = dict[str, Any]


results = reporting.results_of


# ---------------------------------------------------------------- chopped


def table_rows(results: Iterable[Result], times: Mapping[str, object]) -> list[Row]:
    """Return one row for every n, the whole network (n None) last.

    times  of latency.json
    mean, low, high: of the test accuracy over repeats; val: mean of the best validation accuracy
    """
    groups: dict[int | None, list[Result]] = {}
    for result in results:
        groups.setdefault(result.spec["cut"], []).append(result)
    return [_row(n, groups[n], times) for n in sorted(groups, key=lambda n: (n is None, n or 0))]


def _row(n: int | None, results: list[Result], times: Mapping[str, Any]) -> Row:
    whole = [r for r in results if r.status == FINISHED]
    val = statistics.estimate(
        (r.scores["best_val_accuracy"] for r in whole), bounds=statistics.ACCURACY
    )
    seconds = times.get("seconds", {}).get(str(n or "whole"), {})
    return {
        "n": n,
        "networks": len(whole),
        "missing": len(results) - len(whole),
        "val": val and val.mean,
        **statistics.accuracy_columns(r.scores["test_accuracy"] for r in whole),
        **{name: int(whole[0].scores[name]) if whole else None for name in SIZES},
        "latency_batch1_s": seconds.get("1"),
        "latency_batch64_s": seconds.get("64"),
    }


def smallest(rows: Iterable[Row], within: float) -> Row | None:
    """Return the row of fewest parameters whose validation accuracy is within `within` of the best.

    The test accuracy is not used.
    """
    scored = [row for row in rows if row["val"] is not None]
    best = max((row["val"] for row in scored), default=0.0)
    near = [row for row in scored if row["val"] >= best - within - 1e-12]
    return min(near, key=lambda row: (row["parameters"], row["macs"]), default=None)


COLUMNS = {
    "n": "n",
    "val": "validation",
    "mean": "test accuracy",
    "numbers": "parameters",
    "macs": "MACs",
    "weights_bytes": "weights",
    "training_bytes": "with optimizer",
    "latency_batch1_s": "an image alone",
    "latency_batch64_s": "an image of 64",
}
CSV_NAMES = {
    "val": "mean_val_accuracy",
    "mean": "mean_test_accuracy",
    "ci": "ci95_half_width",
    "low": "ci95_low",
    "high": "ci95_high",
    "lowest": "lowest_test_accuracy",
    "highest": "highest_test_accuracy",
    "numbers": "parameters_with_statistics",
}


def table(rows: list[Row], form: str = "text") -> str:
    """Format n down; accuracies in per cent, sizes of files, milliseconds an image."""
    body = [
        [
            "whole" if row["n"] is None else str(row["n"]),
            _percent(row["val"]),
            tables.accuracy(row),
            *(_count(row[name]) for name in ("numbers", "macs")),
            *(_bytes(row[name]) for name in SIZES[3:]),
            *(_milliseconds(row[name]) for name in ("latency_batch1_s", "latency_batch64_s")),
        ]
        for row in rows
    ]
    return tables.FORMS[form](list(COLUMNS.values()), body)


def _percent(value: float | None) -> str:
    return tables.percent(value).removesuffix(" %")


def _count(value: int | None) -> str:
    return tables.NOTHING if value is None else f"{value:,}"


def _bytes(value: int | None) -> str:
    return tables.NOTHING if value is None else f"{value / 1e6:.3g} MB"


def _milliseconds(value: float | None) -> str:
    return tables.NOTHING if value is None else f"{1e3 * value:.3g} ms"


def chop_drawings(store: Store, study: StoredStudy) -> Drawings:
    """Return the figure of chopped networks; none where none was tested."""
    finished = results(store, study)
    rows = table_rows(finished, _times(store.study_folder(study["key"])))
    if not any(row["mean"] is not None for row in rows):
        return {}
    return {
        CHOP: lambda form: chop_figures.chop(
            rows, study["title"], form, caption=warnings_of(finished)
        )
    }


def write_summary(store: Store, key: str, form: str | None = "png") -> None:
    """Write the table, figure and summary of chopped networks to the study's folder."""
    study = store.read_study(key)
    if study is None:
        return
    folder, finished = store.root / "studies" / key, results(store, study)
    rows = table_rows(finished, _times(folder))
    if any(row["mean"] is not None for row in rows):
        _write(folder, CHOP, rows, table(rows, "markdown"))
        drawings.write(folder, chop_drawings(store, study), form)
    metrics: list[MetricPoint] = [
        {
            "name": f"{name}{'_whole' if row['n'] is None else ''}",
            "value": row[of],
            "step": row["n"] or 0,
        }
        for row in rows
        for name, of in CHOP_METRICS.items()
        if row[of] is not None
    ]
    _summary(folder, study, finished, metrics, table(rows, "markdown"))


CHOP_METRICS = {
    "mean_test_accuracy": "mean",
    "ci95_low": "low",
    "ci95_high": "high",
    "mean_val_accuracy": "val",
    "parameters": "parameters",
    "macs": "macs",
    "weights_bytes": "weights_bytes",
    "latency_batch1_s": "latency_batch1_s",
    "latency_batch64_s": "latency_batch64_s",
}


def _times(folder: Path) -> dict[str, object]:
    path = folder / LATENCY
    return files.read_json(path) if path.is_file() else {}


def _write(folder: Path, stem: str, rows: list[Row], markdown: str) -> None:
    headings = [CSV_NAMES.get(name, name) for name in rows[0]]
    files.write_text(
        folder / f"{stem}.csv", tables.as_csv(headings, [list(row.values()) for row in rows])
    )
    files.write_text(folder / f"{stem}.md", markdown)


def _summary(
    folder: Path,
    study: StoredStudy,
    finished: list[Result],
    metrics: Sequence[MetricPoint],
    shown: str,
) -> None:
    summaries.write(
        folder,
        study,
        metrics,
        finished=sum(result.status == FINISHED for result in finished),
        warnings=warnings_of(finished),
        table=shown if metrics else "",
    )


def warnings_of(results: Iterable[Result]) -> list[str]:
    """Return the warnings about the test accuracies of chopped or pruned networks."""
    return result_warnings.result_warnings(
        result_warnings.grouped(results, _network), result_warnings.Warned("repeats")
    )


def _network(result: Result) -> str:
    if "round" in result.spec:
        return f"round {result.spec['round']}"
    cut = result.spec["cut"]
    return "whole network" if cut is None else f"cut behind block {cut}"


def format_summary(report: StudyReport, within: float) -> str:
    """Return the closing text: the table, the smallest good network, where the files are."""
    folder, rows, times = _read(report)
    lines = [
        table(rows).rstrip(),
        "accuracies are mean per-class, in per cent, ± 95 % CI over the repeats; parameters "
        "with the statistics of batch norm",
        *result_warnings.lines(warnings_of(_results(report))),
    ]
    if about := times.get("about"):
        lines.append(
            f"latency: median, warm, in turns; {about['device']}, {about['threads']} "
            f"thread{'s' if about['threads'] > 1 else ''}, torch {about['torch']}"
        )
    chosen = smallest(rows, within)
    if chosen is not None:
        which = "the whole network" if chosen["n"] is None else f"cut behind block {chosen['n']}"
        lines.append(
            f"smallest within {100 * within:g} points of the best validation accuracy: {which}, "
            f"{chosen['numbers']:,} parameters, test accuracy {tables.percent(chosen['mean'])}"
        )
    lines.append(f"{drawings.kinds(folder)}: {folder / CHOP}{drawings.endings(folder, CHOP)}")
    return "\n".join([*lines, *reporting.footer(report)])


def _results(report: StudyReport) -> list[Result]:
    """Return the results of the whole study, those of earlier commands included."""
    store = Store(report.folder)
    return results(store, store.read_study(report.key) or {"trials": []})


def _read(report: StudyReport) -> tuple[Path, list[Row], dict[str, Any]]:
    store = Store(report.folder)
    study = store.read_study(report.key)
    assert study is not None
    folder = store.root / "studies" / report.key
    times = _times(folder)
    return folder, table_rows(results(store, study), times), times


def publish(report: StudyReport, within: float, out: Path) -> Path:
    """Copy the smallest good network to <out>.safetensors and .json.

    Of its repeats the best on validation.
    """
    chosen = smallest(_read(report)[1], within)
    if chosen is None:
        raise MissingError("finished network to copy")
    repeats = [r for r in report.results if r.status == FINISHED and r.spec["cut"] == chosen["n"]]
    if not repeats:
        raise MissingError(
            f"network cut behind block {chosen['n']}, which is of an earlier command",
            made_by="tlx chop with the same options and its --depths",
        )
    best = max(repeats, key=lambda r: r.scores["best_val_accuracy"])
    store, target = Store(report.folder), out.expanduser().absolute().with_suffix(".json")
    files.make_folder(target.parent)
    with (
        files.atomic_write(target.with_suffix(".safetensors")) as file,
        open(store.file(best.key, f"{NETWORK}.safetensors"), "rb") as whole,
    ):
        shutil.copyfileobj(whole, file)
    record = files.read_json(store.file(best.key, f"{NETWORK}.json"))
    files.write_json(
        target,
        {
            **record,
            "file": f"{target.stem}.safetensors",
            "key": best.key,
            "test_accuracy": best.scores["test_accuracy"],
        },
    )
    return target


# ---------------------------------------------------------------- pruned
