"""Summary, figures, tables and closing text of a search's trials."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import files
from ...errors import counted
from ...lab.records import MetricPoint, StoredStudy
from ...lab.store import Store
from ...lab.tuning.records import COMPLETE, FAILED, PRUNED, TrialRecord
from ...plots import statistics, tables
from ...result import Result
from .. import drawings, reporting, result_warnings, summaries
from ..drawings import Drawings
from . import figures as tuning_figures
from . import final_tests

if TYPE_CHECKING:
    from .run import SearchReport

COSTS = {"time": "Seconds of fitting and predicting, all splits", "energy": "Joules, all splits"}
SEARCH = "search.json"
SHOWN = 5  # trials in the closing table


def test(results: list[Result], store: Store | None) -> dict[str, float]:
    """Return the scores of the final test: mean accuracy over splits (a fraction) and its CI.

    95 %, over draws and images where the store has the predictions, and over draws alone. None:
    there is no store.
    """
    row, _ = final_tests.mean_row(store, results)
    if row["mean"] is None:
        return {"splits": 0.0}
    scores = {"mean_test_accuracy": row["mean"], "splits": float(row["splits"])}
    named = reporting.METRICS | reporting.METRICS_OF_DRAWS
    ends = {name: row[column] for name, column in named.items() if name.startswith("ci95_")}
    return scores | {name: end for name, end in ends.items() if end is not None}


def study_drawings(store: Store, study: StoredStudy) -> Drawings:
    """Return the figures of a search from its search.json.

    None where no trial has an accuracy.
    """
    path = store.study_folder(study["key"]) / SEARCH
    if not path.is_file():
        return {}
    kept, title = files.read_json(path, limit=reporting.RECORD_BYTES), study["title"]
    rows, caption = [row(trial) for trial in kept["trials"]], kept.get("warnings", ())
    drawings: dict[str, Callable[[str], bytes]] = {}
    if any(r["accuracy"] is not None for r in rows):
        for draw in (
            tuning_figures.history,
            tuning_figures.parallel_coordinates,
            tuning_figures.slices,
        ):
            drawings[draw.__name__] = functools.partial(draw, rows, title, caption=caption)
    if kept["importances"]:
        drawings["importances"] = functools.partial(
            tuning_figures.importances, kept["importances"], title
        )
    if len(kept["objectives"]) > 1 and kept["front"]:
        drawings["pareto"] = functools.partial(
            tuning_figures.pareto,
            rows,
            kept["front"],
            COSTS[kept["objectives"][1]],
            title,
            caption=caption,
        )
    return drawings


def write_summary(report: SearchReport, form: str | None = "png") -> dict[str, object]:
    """Write a search's figures, tables and summary.json to its folder."""
    store, key = Store(report.folder), report.ready.search.key
    folder, title = store.study_folder(key), report.ready.title
    _export(folder, report)
    drawings.write(folder, study_drawings(store, {"key": key, "title": title}), form)
    failed = sum(t.state == FAILED for t in report.tried)
    rows_shown = [
        [str(t.number), t.title, tables.percent(t.objectives[0])]
        for t in _best_first(report)[:SHOWN]
    ]
    return summaries.write(
        folder,
        {"title": title},
        metrics(report),
        finished=len(report.tried) - failed,
        trials=len(report.tried),
        status="failed" if report.tried and failed == len(report.tried) else "finished",
        warnings=warnings_of(report) if report.final else None,
        verdict=_verdict(report),
        tags=_tags(report),
        table=tables.as_markdown(["trial", "configuration", "val accuracy"], rows_shown)
        if rows_shown
        else "",
        intervals=bool(report.final),
        over=_over(report),
    )


def warnings_of(report: SearchReport) -> list[str]:
    """Return the warnings about the final test."""
    if not report.final:
        return []
    _, means = final_tests.mean_row(Store(report.folder), report.final)
    return reporting.warnings_of(list(report.final), means) or []


def _over(report: SearchReport) -> list[str]:
    """Return what the interval of the final test is over."""
    if not report.final:
        return []
    return statistics.over_of([final_tests.mean_row(Store(report.folder), report.final)[0]])


def _verdict(report: SearchReport) -> str:
    """Return the best trial and its final test in one sentence."""
    if report.best is None:
        return ""
    sentence = f"{report.ready.title}: best is trial {report.best.number}, {report.best.title}"
    return sentence + (f"; on test {_tested(report)}" if report.final else "")


def _tested(report: SearchReport) -> str:
    """Return the mean test accuracy of the final test, its spread, and the number of splits."""
    return final_tests.tested(final_tests.mean_row(Store(report.folder), report.final)[0])


def _best_first(report: SearchReport) -> list[TrialRecord]:
    """Return each complete configuration once, the best on validation first."""
    whole = [t for t in report.tried if t.state == COMPLETE]
    ordered = sorted(whole, key=lambda t: (-t.objectives[0], *t.objectives[1:], t.number))
    return list({t.configuration: t for t in reversed(ordered)}.values())[::-1]


def row(trial: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trial of search.json for the figures.

    accuracy is the mean over the splits it was run on, None where none.
    """
    scores, objectives = trial["by_split"], trial["objectives"]
    return {
        "number": trial["number"],
        "state": trial["state"],
        "values": trial["values"],
        "accuracy": sum(scores) / len(scores) if scores else None,
        "cost": objectives[1] if len(objectives) > 1 else None,
    }


def metrics(report: SearchReport) -> list[MetricPoint]:
    """Return the parent run's metrics.

    The best so far at every trial, how many there were of each kind, the final test.
    """
    result: list[MetricPoint] = []
    best = -1.0
    for tried in report.tried:
        if tried.state == COMPLETE:
            best = max(best, tried.objectives[0])
            result.append({"name": "best_val_accuracy", "value": best, "step": tried.number})
    done, most = report.fits
    states = [t.state for t in report.tried]
    counts: dict[str, Any] = {
        "trials": len(states),
        **{f"trials_{state}": states.count(state) for state in dict.fromkeys(states)},
        "trials_found_done": sum(t.same_as is not None for t in report.tried),
        "fits": done,
        "fits_saved": most - done,
        "seconds_of_fitting": sum(t.spent_s for t in report.tried),
    }
    counts |= {f"importance/{name}": value for name, value in report.importances.items()}
    if report.final:
        counts |= {name: value for name, value in _final_scores(report).items() if name != "splits"}
        counts |= final_tests.metrics(report)
    return result + [{"name": name, "value": value} for name, value in counts.items()]


def _final_scores(report: SearchReport) -> dict[str, float]:
    return test(list(report.final), Store(report.folder))


def _tags(report: SearchReport) -> dict[str, str]:
    if report.best is None:
        return {}
    return {
        "tlx.best_trial": str(report.best.number),
        "tlx.best": report.best.title,
        **{f"best.{name}": str(value) for name, value in report.best.values.items()},
    }


def _plain(trial: TrialRecord) -> dict[str, object]:
    """Return a trial as plain JSON."""
    return {
        "number": trial.number,
        "state": trial.state,
        "configuration": trial.configuration,
        "title": trial.title,
        "values": trial.values,
        "objectives": trial.objectives,
        "by_split": trial.by_split,
        "reports": trial.reports,
        "seconds": trial.seconds,
        "energy_j": trial.energy_j,
        "same_as": trial.same_as,
        "error": trial.error,
    }


def _trials_csv(trials: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of all trials, a column for each setting that one of them has."""
    names = list(dict.fromkeys(name for trial in trials for name in trial["values"]))
    heads = ["number", "state", "mean_val_accuracy", "splits", "seconds", "energy_j", *names]
    cells = [
        [
            trial["number"],
            trial["state"],
            row(trial)["accuracy"],
            len(trial["by_split"]),
            trial["seconds"],
            trial["energy_j"],
            *(trial["values"].get(name) for name in names),
        ]
        for trial in trials
    ]
    return tables.as_csv(heads, cells)


def _export(folder: Path, report: SearchReport) -> None:
    """Write the study as JSON and CSV, and the best configuration alone."""
    search = report.ready.search
    plain = [_plain(trial) for trial in report.tried]
    files.write_json(
        folder / SEARCH,
        {
            "key": search.key,
            "objectives": list(search.objectives),
            "sampler": search.sampler,
            "pruner": search.pruner,
            "space": search.space.to_json(),
            "front": list(report.front),
            "importances": report.importances,
            "best": None if report.best is None else report.best.number,
            "trials": plain,
            "warnings": warnings_of(report) if report.final else [],
        },
    )
    files.write_text(folder / "trials.csv", _trials_csv(plain))
    if report.best is not None:
        files.write_json(
            folder / "best_configuration.json",
            {
                "trial": report.best.number,
                "values": report.best.values,
                "objectives": report.best.objectives,
                "test": _final_scores(report) if report.final else None,
                "defaults": final_tests.record(report),
            },
        )


# ---------------------------------------------------------------- words


def format_summary(report: SearchReport) -> str:
    """Return the closing text of a search.

    The best configurations, the test of the first, what was saved, where to look.
    """
    lines: list[str] = []
    search, whole = report.ready.search, [t for t in report.tried if t.state == COMPLETE]
    several = len(search.objectives) > 1
    shown = _best_first(report)
    shown = [t for t in shown if t.number in report.front] if several else shown[:SHOWN]
    if shown:
        heads = ["trial", "configuration", "val accuracy"]
        if several:
            heads.append("seconds" if search.objectives[1:] == ("time",) else "joules")
        lines.append(
            tables.as_text(
                heads,
                [
                    [
                        str(t.number),
                        t.title,
                        tables.percent(t.objectives[0]),
                        *(f"{c:.3g}" for c in t.objectives[1:]),
                    ]
                    for t in shown
                ],
            ).rstrip()
        )
    if several and shown:
        lines.append(
            f"the Pareto front of accuracy and {search.objectives[1]}: {len(report.front)} of "
            f"{len(whole)} "
            "whole trials"
        )
    lines += final_tests.lines(report)
    if report.final:
        lines += result_warnings.lines(warnings_of(report), over=_over(report))
    lines += _counts(report)
    if report.sent is not None and (report.sent.unsent or report.sent.problem):
        lines.append(f"note: {report.sent}")
    if report.address:
        lines.append(
            f"see them at {report.address}"
            if report.address.startswith("http")
            else f"see them with: {report.address}"
        )
    return "\n".join(lines)


def _counts(report: SearchReport) -> list[str]:
    tried, (done, most) = report.tried, report.fits
    states = {
        state: sum(t.state == state for t in tried)
        for state in dict.fromkeys(t.state for t in tried)
    }
    text = ", ".join(
        f"{count} {'given up early' if state == PRUNED else state}"
        for state, count in states.items()
    )
    lines = [
        f"{counted(len(tried), 'trial')} ({text or 'none'}), "
        f"{report.before} of them from before, in "
        f"{tables.seconds(report.wall_s)}; results in {report.folder}"
    ]
    if most > done:
        spared = sum(
            t.spent_s / len(t.by_split) * (most / max(1, _ran(tried)) - len(t.by_split))
            for t in tried
            if t.by_split and t.same_as is None and t.state == PRUNED
        )
        lines.append(
            f"giving up early saved {most - done} of {most} fits, about {tables.seconds(spared)}"
        )
    reused = sum(t.same_as is not None for t in tried)
    if reused:
        lines.append(f"{reused} configurations were found done and cost nothing")
    if len(tried) < report.ready.search.wanted:
        lines.append(
            f"note: the budget ended it after {len(tried)} of "
            f"{counted(report.ready.search.wanted, 'trial')}"
        )
    return lines


def _ran(tried: Any) -> int:
    return sum(t.state != FAILED and t.same_as is None for t in tried)
