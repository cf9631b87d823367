"""Summary, figures and closing table of a study's finished trials, from its run folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import files
from ..errors import counted
from ..lab.records import MetricLabel, MetricPoint, StoredStudy
from ..lab.store import JOURNAL, Store
from ..plots import figures, fonts, statistics, tables
from ..plots.statistics import MeanInterval
from ..result import FINISHED, Result
from . import drawings, intervals, predictions, result_warnings, summaries
from .base import StudyReport
from .drawings import Drawings
from .intervals import Mean, MeanIntervals

Row = dict[str, Any]
Lines = dict[str, list[Row]]  # classifier → rows of its means

RECORD_BYTES = 256 << 20  # the largest JSON file of a study that is read
CURVE, TABLE, TRIALS = "few_shot_curve", "few_shot", "few_shot_trials"


def write_trial_figures(folder: Path, result: Result, form: str | None = "png") -> None:
    """Write a trial's figures to its folder.

    Learning curves, and the confusion matrix if it was tested.
    """
    drawings.write(folder, trial_drawings(folder, result), form)
    if "confusion" in result.details:
        classes, counts = result.details["classes"], result.details["confusion"]
        rows = [[label, *row] for label, row in zip(classes, counts, strict=True)]
        files.write_text(
            folder / "confusion_matrix.csv", tables.as_csv(["true \\ predicted", *classes], rows)
        )


def trial_drawings(folder: Path, result: Result) -> Drawings:
    """Return the figures of a trial whose files are in `folder`."""
    drawings: dict[str, Callable[[str], bytes]] = {}
    steps = [row for row in files.Journal.read(folder / JOURNAL) if row["t"] == "metrics"]
    if steps:
        title = " ".join(
            str(word) for word in (result.spec.get("architecture"), _place(result)) if word
        )
        drawings["learning_curves"] = lambda form: figures.learning_curves(
            steps, title, form, best_epoch=result.details.get("best_epoch")
        )
    if "confusion" in result.details:
        classes, counts = result.details["classes"], result.details["confusion"]
        drawings["confusion_matrix"] = lambda form: figures.confusion_matrix(
            counts, classes, form=form
        )
    return drawings


def study_drawings(store: Store, study: StoredStudy) -> Drawings:
    """Return the figures of a few-shot study: accuracy over shots.

    None where nothing was tested.
    """
    results = results_of(store, study)
    means = intervals.of_results(store, results)
    return _drawings(study["title"], by_line(results, means=means), warnings_of(results, means))


def _drawings(title: str, lines: Lines, warnings: list[str] | None) -> Drawings:
    rows = [row for line in lines.values() for row in line]
    if not any(row["mean"] is not None for row in rows) or not all(row["shots"] for row in rows):
        return {}
    drawn = lines if len(lines) > 1 else next(iter(lines.values()))
    return {CURVE: lambda form: figures.few_shot_curve(drawn, title, form, caption=warnings or ())}


def results_of(store: Store, study: StoredStudy) -> list[Result]:
    """Return the results of a study's complete trials.

    One whose predictions are damaged counts: `intervals` checks them and says so.
    """
    results = (
        store.find_or_none(row["key"], unchecked=predictions.FILES) for row in study["trials"]
    )
    return [result for result in results if result is not None]


def write_summary(store: Store, key: str, form: str | None = "png") -> None:
    """Write a study's table, curve and summary over all of its complete trials."""
    study = store.read_study(key)
    if study is None:
        return
    folder = store.root / "studies" / key
    results = results_of(store, study)
    means = intervals.of_results(store, results)
    lines, warnings = by_line(results, means=means), warnings_of(results, means)
    is_few_shot = all(row["shots"] for rows in lines.values() for row in rows)
    columns = METRICS | (METRICS_OF_DRAWS if is_few_shot else {})
    metrics: list[MetricPoint] = [
        {"name": prefix + name, "value": row[column], "step": row["shots"]}
        for prefix, row in _prefixed(lines)
        for name, column in columns.items()
        if row[column] is not None
    ]
    labels: list[MetricLabel] = [
        {"name": prefix + OVER, "value": row["over"], "step": row["shots"]}
        for prefix, row in _prefixed(lines)
        if row["over"] and is_few_shot
    ]
    over = ", ".join(statistics.distinct(label["value"] for label in labels))
    if metrics and is_few_shot:
        drawings.write(folder, _drawings(study["title"], lines, warnings), form)
        for kind, ending in (("csv", "csv"), ("markdown", "md")):
            files.write_text(folder / f"{TABLE}.{ending}", table(lines, kind))
        files.write_text(folder / f"{TRIALS}.csv", trial_table(results))
    summaries.write(
        folder,
        study,
        metrics,
        finished=sum(result.status == FINISHED for result in results),
        warnings=warnings,
        verdict=verdict(study["title"], lines),
        table=table(lines, "markdown") if metrics else "",
        over=_over(lines),
        labels=labels,
        tags={f"tlx.{OVER}": over} if over else None,
    )


def _prefixed(lines: Lines) -> Iterator[tuple[str, Row]]:
    """Yield each row that has a mean, with every prefix of its metrics."""
    for line, rows in lines.items():
        for prefix in _prefixes(line, lines):
            yield from ((prefix, row) for row in rows if row["mean"] is not None)


def _over(lines: Lines) -> list[str]:
    """Return what the intervals that these lines are shown with are over, each once."""
    return statistics.over_of(row for rows in lines.values() for row in rows)


def warnings_of(results: list[Result], means: MeanIntervals | None = None) -> list[str] | None:
    """Return the warnings about the test accuracies of few-shot results.

    None where none was tested.

    means  their intervals over draws and images
    """
    means = means or MeanIntervals()
    groups = result_warnings.grouped(results, _mean_of)
    if not result_warnings.tested(groups):
        return None
    sampled = any(result.spec.get("shots") for result in results)
    words = result_warnings.Warned("splits" if sampled else "seeds")
    known = {_name(mean): interval for mean, interval in means.by_mean.items()}
    return result_warnings.result_warnings(
        groups, words, known
    ) + result_warnings.interval_warnings(
        {_name(mean): reason for mean, reason in means.reasons.items()},
        {_name(mean): overlap for mean, overlap in means.overlaps.items()},
        known,
    )


def _mean_of(result: Result) -> str:
    """Return the name of the mean that a result belongs to."""
    return _name(intervals.mean_of(result))


def _name(mean: Mean) -> str:
    classifier, number = mean
    plural = "s" if number > 1 else ""
    shots = f"{number} shot{plural}" if number else ""
    return ", ".join(word for word in (shots, classifier) if word)


def verdict(title: str, lines: dict[str, list[dict[str, Any]]]) -> str:
    """Return the best line at its largest shots in one sentence."""
    line, rows = next(iter(lines.items()), ("", []))
    row = next((row for row in reversed(rows) if row["mean"] is not None), None)
    if row is None:
        return ""
    shots = f" at {row['shots']} shots" if row["shots"] else ""
    return f"{title}: {tables.accuracy(row)} % mean test accuracy{shots}" + (
        f" with {line}" if line else ""
    )


def _prefixes(line: str, lines: Mapping[str, object]) -> list[str]:
    """Return the prefix of each line's metrics.

    Several classifiers have names; the best on validation has none too, so that mean_test_accuracy
    exists for every few-shot study.
    """
    if len(lines) == 1:
        return [""]
    return ["", f"{line}/"] if line == next(iter(lines)) else [f"{line}/"]


TRIAL_COLUMNS = ("best_val_accuracy", "test_accuracy", "test_top1", "train_s", "total_s")


def trial_table(results: list[Result]) -> str:
    """Return the CSV of one row a trial, with the same columns for every few-shot study."""
    headings = [
        "classifier",
        "shots",
        "split",
        "status",
        *TRIAL_COLUMNS,
        "epochs",
        "best_epoch",
        "key",
    ]
    rows = [
        [
            r.spec.get("classifier", ""),
            r.spec.get("shots"),
            r.spec.get("split"),
            r.status,
            *(_scores(r).get(name) for name in TRIAL_COLUMNS),
            r.details.get("epochs"),
            r.details.get("best_epoch"),
            r.key,
        ]
        for r in results
    ]
    return tables.as_csv(headings, rows)


def _scores(result: Result) -> dict[str, float]:
    """Return a trial's scores under the names that both few-shot studies share."""
    scores = dict(result.scores)
    if statistics.VALIDATION not in scores and "val_accuracy" in scores:
        scores[statistics.VALIDATION] = scores["val_accuracy"]
    if "train_s" not in scores and "classifier_s" in scores:
        scores["train_s"] = sum(scores.get(name, 0.0) for name in FITTING_TIMES)
    return scores


FITTING_TIMES = (
    "train_extraction_s",
    "postprocessing_s",
    "classifier_s",
)  # what training is in feature extraction
METRICS = {
    "mean_val_accuracy": "val",
    "mean_test_accuracy": "mean",
    "ci95_low": "low",
    "ci95_high": "high",
    "mean_train_s": "train_s",
    "splits": "splits",
}
METRICS_OF_DRAWS = {"ci95_draws_low": "draws_low", "ci95_draws_high": "draws_high"}
OVER = "ci95_over"  # what an interval is over: no number, so a label of the mean and a tag


def by_line(
    results: list[Result], score: str = "test_accuracy", *, means: MeanIntervals | None = None
) -> Lines:
    """Return the rows of `by_shots` for each classifier, the best on validation first.

    The name is "" where there is no classifier.

    The test has no say in the order: the first line is the classifier that one would choose.

    means  intervals over draws and images; without them a row has Student's over draws
    """
    known = means or MeanIntervals()
    lines: dict[str, list[Result]] = {}
    for result in results:
        lines.setdefault(result.spec.get("classifier", ""), []).append(result)
    rows = {
        line: by_shots(line_results, score, known.of_line(line))
        for line, line_results in lines.items()
    }
    return dict(sorted(rows.items(), key=lambda item: _last_validation(item[1]), reverse=True))


def _last_validation(rows: list[dict[str, Any]]) -> float:
    """Return the mean validation accuracy at the largest shots; −1 where there is none."""
    return next((row["val"] for row in reversed(rows) if row["val"] is not None), -1.0)


def table(lines: dict[str, list[dict[str, Any]]], form: str = "text") -> str:
    """Format one line in full, or several side by side.

    Classifiers down, shots across, mean ± 95 % CI in per cent; `_caption` says over what.

    CSV has the same columns for every few-shot study; `classifier` is empty where networks are
    fine-tuned.
    """
    if form == "csv":
        rows = [
            {"classifier": line, **row} for line, line_rows in lines.items() for row in line_rows
        ]
        headings = [tables.CSV_HEADINGS.get(name, name) for name in rows[0]]
        return tables.as_csv(headings, [list(row.values()) for row in rows])
    if len(lines) == 1:
        return tables.few_shot(next(iter(lines.values())), form)
    shots = sorted({row["shots"] for rows in lines.values() for row in rows})
    cells = {(line, row["shots"]): row for line, rows in lines.items() for row in rows}
    last = shots[-1]
    body = [
        [
            line,
            tables.percent(cells.get((line, last), {}).get("val")),
            *(_cell(cells.get((line, k))) for k in shots),
        ]
        for line in lines
    ]
    counts = [f"{k} shot{'s' if k > 1 else ''}" for k in shots]
    return tables.FORMS[form](["classifier", f"validation, {counts[-1]}", *counts], body)


def _cell(row: Mapping[str, object] | None) -> str:
    if row is None or row["mean"] is None:
        return tables.NOTHING
    return tables.accuracy(row)


def _place(result: Result) -> str:
    """Return shots and split of a trial of a few-shot study."""
    return (
        f"{result.spec['shots']}-shot split {result.spec['split']}"
        if result.spec.get("shots")
        else ""
    )


def by_shots(
    results: list[Result],
    score: str = "test_accuracy",
    of_shots: Mapping[int, MeanInterval] | None = None,
) -> list[dict[str, Any]]:
    """Return `statistics.by_shots` of results.

    Those without the score (diverged) are counted as missing.

    of_shots  shots → interval over draws and images
    """
    return statistics.by_shots(
        [
            {"shots": r.spec.get("shots", 0), **(_scores(r) if r.status == FINISHED else {})}
            for r in results
        ],
        score,
        intervals=of_shots,
    )


def format_summary(report: StudyReport) -> str:
    """Return the closing text of a study: table, time, tracking status, where to look."""
    results, lines = report.results, []
    means, over = intervals.of_results(Store(report.folder), results), []
    if any("test_accuracy" in r.scores for r in results) and results[0].spec.get("shots"):
        rows = by_line(results, means=means)
        over = _over(rows)
        lines += [table(rows).rstrip(), _caption(rows, over)]
    else:
        for r in results:
            is_best = (
                "classifier" not in r.spec and "best_val_accuracy" in r.scores
            )  # else one number, two names
            validation = "best_val_accuracy" if is_best else "val_accuracy"
            names = (validation, "test_accuracy")
            named = {n: r.scores[n] for n in names if n in r.scores}
            before = f"{r.spec['classifier']}: " if "classifier" in r.spec else ""
            shares = ", ".join(f"{n.replace('_', ' ')} {100 * v:.1f} %" for n, v in named.items())
            lines.append(before + (shares or r.status))
    warnings = warnings_of(results, means)
    if warnings is not None:
        lines += result_warnings.lines(warnings, over=over)
    if report.diverged:
        titles = ", ".join(_place(r) or r.key[:12] for r in report.diverged)
        lines.append(
            f"diverged (a loss or weight was no number any more): {titles}. Try a smaller "
            f"--learning-rate"
        )
    return "\n".join([*lines, *footer(report)])


def _caption(lines: Lines, over: Sequence[str]) -> str:
    """Return what the numbers of a closing table are."""
    words = ["mean per-class test accuracy in per cent"]
    if over:
        words[0] += f", ± 95 % CI over {statistics.over_words(over)}"
    if len(lines) > 1:
        words.append("the best on validation is first")
    elif over and list(over) != [statistics.DRAWS]:
        words.append("draws alone: Student's t over the splits, on these test images")
    return "; ".join(words)


def footer(report: StudyReport) -> list[str]:
    """Return the last lines of every study: time, tracking status, where to look."""
    reused = f", {report.reused} of them found done" if report.reused else ""
    lines = [
        f"{counted(len(report.results), 'trial')} in "
        f"{tables.seconds(report.wall_s)}{reused}; results in "
        f"{report.folder}"
    ]
    names = {
        name
        for result in report.results
        for name in result.details.get("classes") or ()
        if not name.isascii()
    }
    if names and (boxes := fonts.note(sorted(names))):
        lines.append(f"note: {boxes}")
    if report.sent is not None and (report.sent.unsent or report.sent.problem):
        lines.append(f"note: {report.sent}")
    if report.address:
        see = report.address
        lines.append(f"see them at {see}" if see.startswith("http") else f"see them with: {see}")
    return lines
