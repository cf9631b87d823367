"""Tables, figure and closing lines of a study of evaluations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.ticker import PercentFormatter

from ... import files
from ...errors import counted
from ...lab.records import MetricPoint, StoredStudy
from ...lab.store import Store
from ...metrics import crossed
from ...plots import figures, statistics, tables
from ...result import FINISHED, Result
from .. import drawings, predictions, reporting, summaries
from ..base import StudyReport
from ..drawings import Drawings
from .spec import Evaluation

TABLE, CLASSES, FIGURE = "evaluations", "per_class", "evaluations"
FEW_IMAGES = 10  # of a class, below which its accuracy is hardly known


@dataclass(frozen=True)
class EvaluationRow:
    """One model: its mean per-class accuracy with the 95 % interval over images, and more.

    difference  to the first model on the same images, with its interval; None for the first, and
                where the classes are others
    """

    label: str
    images: int
    accuracy: float
    low: float | None
    high: float | None
    top1: float
    loss: float
    calibration_error: float
    difference: tuple[float, float, float] | None = None


def rows_of(store: Store, results: list[Result]) -> list[EvaluationRow]:
    """Return a row for each model, in the order given."""
    rows: list[EvaluationRow] = []
    first: tuple[np.ndarray, np.ndarray, list[str]] | None = None
    for result in results:
        labels, predicted = predictions.read_truth(store, result), predictions.read(store, result)
        low = high = difference = None
        if labels is not None and predicted is not None:
            right = (predicted == labels).astype(np.float64)
            low, high = _ends(right, labels)
            classes = list(result.details["classes"])
            if first is None:
                first = (right, labels, classes)
            elif classes == first[2] and np.array_equal(labels, first[1]):
                table = right - first[0]
                estimate = crossed.estimate(crossed.components(table[None], labels))
                if estimate is not None:
                    difference = (estimate.mean, estimate.low, estimate.high)
        scores = result.scores
        rows.append(
            EvaluationRow(
                Evaluation.from_json(result.spec).label,
                int(result.details["test_images"]),
                scores["test_accuracy"],
                low,
                high,
                scores["test_top1"],
                scores["test_loss"],
                scores["test_calibration_error"],
                difference,
            )
        )
    return rows


def _ends(right: np.ndarray, labels: np.ndarray) -> tuple[float | None, float | None]:
    """Return the ends of the interval of the mean per-class accuracy over images."""
    estimate = crossed.estimate(crossed.components(right[None], labels))
    if estimate is None:
        return None, None
    return max(0.0, estimate.low), min(1.0, estimate.high)


def class_rows(result: Result) -> list[list[object]]:
    """Return a row for each class with images or predictions, of one model."""
    counts = np.array(result.details["confusion"])
    rows: list[list[object]] = []
    for code, name in enumerate(result.details["classes"]):
        of_class, as_class, right = counts[code].sum(), counts[:, code].sum(), counts[code, code]
        if not of_class and not as_class:
            continue
        recall = right / of_class if of_class else None
        low = high = None
        if of_class:
            low, high = statistics.binomial_interval(float(right / of_class), int(of_class))
        precision = right / as_class if as_class else None
        wrong = counts[code].copy()
        wrong[code] = 0
        taken = result.details["classes"][int(wrong.argmax())] if wrong.any() else ""
        f1 = 2 * right / (of_class + as_class)
        rows.append([name, int(of_class), recall, low, high, precision, f1, taken])
    return rows


CLASS_HEADINGS = ["class", "images", "accuracy", "ci95_low", "ci95_high", "precision", "f1"]
CLASS_HEADINGS += ["most_confused_with"]
CSV = ["model", "images", "accuracy", "ci95_low", "ci95_high", "top1", "loss", "calibration_error"]
CSV += ["difference_to_first", "difference_low", "difference_high"]


def write_trial_figures(folder: Path, result: Result, form: str | None = "png") -> None:
    """Write the confusion matrix and the table of classes of one model."""
    reporting.write_trial_figures(folder, result, form)
    files.write_text(folder / f"{CLASSES}.csv", tables.as_csv(CLASS_HEADINGS, class_rows(result)))


def warnings_of(results: list[Result]) -> list[str]:
    """Return what a reader must bear in mind: classes with few images, or with none."""
    lines = []
    counts = np.array(results[0].details["confusion"]).sum(axis=1) if results else np.zeros(0)
    few = int(((counts > 0) & (counts < FEW_IMAGES)).sum())
    if few:
        lines.append(f"{few} classes have fewer than {FEW_IMAGES} images: theirs is hardly known")
    if any(result.spec.get("part", "test") != "test" for result in results):
        lines.append("a model may have learned from these images: they are not the test part alone")
    if refit := [r for r in results if r.details.get("is_refit")]:
        names = ", ".join(Evaluation.from_json(result.spec).label for result in refit)
        lines.append(
            f"{names} learned from all training images of its data set: images drawn from these "
            "are not new to it"
        )
    if absent := int((counts == 0).sum()):
        lines.append(
            f"{counted(absent, 'class', 'classes')} of the model have "
            "no image here: accuracy is of the others"
        )
    return lines


def table_of(rows: list[EvaluationRow]) -> tuple[list[str], list[list[str]]]:
    """Return headings and a row of text for each model."""
    headings = ["model", "images", "accuracy % (95 % CI)", "top-1 %", "loss", "calibration error"]
    has_others = any(row.difference for row in rows)
    if has_others:
        headings.append("points over the first")
    body = []
    for row in rows:
        cells = [
            row.label,
            str(row.images),
            _interval(row.accuracy, row.low, row.high),
            f"{100 * row.top1:.1f}",
            f"{row.loss:.3f}",
            f"{row.calibration_error:.3f}",
        ]
        if has_others:
            cells.append(_interval(*row.difference) if row.difference else tables.NOTHING)
        body.append(cells)
    return headings, body


def _interval(value: float, low: float | None, high: float | None) -> str:
    text = f"{100 * value:.1f}"
    if low is not None and high is not None:
        text += f" ({100 * low:.1f} to {100 * high:.1f})"
    return text.replace("-", "−")


def study_drawings(store: Store, study: StoredStudy) -> Drawings:
    """Return the figure of several models; none of one."""
    rows = rows_of(store, _finished(reporting.results_of(store, study)))
    if len(rows) < 2:
        return {}
    return {FIGURE: lambda form: draw(rows, study["title"], form)}


def draw(rows: list[EvaluationRow], title: str, form: str = "png") -> bytes:
    """Draw the accuracy of each model with its interval, the first on top."""
    with figures.figure_style():
        figure, axes = figures.new_subplots(6.4, 1.0 + 0.32 * len(rows))
        heights = np.arange(len(rows))[::-1]
        for height, row in zip(heights, rows, strict=True):
            if row.low is not None and row.high is not None:
                axes.plot([row.low, row.high], [height, height], color="#999999", zorder=1)
            axes.plot([row.accuracy], [height], "o", color=figures.COLOURS[0], zorder=2)
        axes.set_yticks(heights, [figures.legend_label(row.label)[:40] for row in rows])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlabel("Mean per-class accuracy, 95 % CI over images")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_title(title, loc="left", fontsize=10)
        return figures.render(figure, form)


def _finished(results: list[Result]) -> list[Result]:
    return [result for result in results if result.status == FINISHED]


def write_summary(store: Store, key: str, form: str | None = "png") -> None:
    """Write the table of models, that of their classes, the figure and the summary."""
    study = store.read_study(key)
    if study is None:
        return
    folder, results = store.study_folder(key), _finished(reporting.results_of(store, study))
    rows = rows_of(store, results)
    headings, body = table_of(rows)
    long = [
        [
            *(row.label, row.images, row.accuracy, row.low, row.high, row.top1, row.loss),
            *(row.calibration_error, *(row.difference or ("",) * 3)),
        ]
        for row in rows
    ]
    files.write_text(folder / f"{TABLE}.csv", tables.as_csv(CSV, long))
    classes = [
        [row.label, *cells]
        for row, result in zip(rows, results, strict=True)
        for cells in class_rows(result)
    ]
    files.write_text(folder / f"{CLASSES}.csv", tables.as_csv(["model", *CLASS_HEADINGS], classes))
    drawings.write(folder, study_drawings(store, study), form)
    metrics: list[MetricPoint] = []
    for number, row in enumerate(rows):
        metrics.append({"name": "accuracy", "value": row.accuracy, "step": number})
        if row.low is not None and row.high is not None:
            metrics.append({"name": "accuracy_low", "value": row.low, "step": number})
            metrics.append({"name": "accuracy_high", "value": row.high, "step": number})
    summaries.write(
        folder,
        study,
        metrics,
        finished=len(results),
        warnings=warnings_of(results),
        verdict=study["title"],
        table=tables.as_markdown(headings, body),
        intervals=False,
    )


def format_summary(report: StudyReport) -> str:
    """Return the closing lines: a row for each model, and where the rest is."""
    store, results = Store(report.folder), _finished(report.results)
    headings, body = table_of(rows_of(store, results))
    lines = [
        tables.as_text(headings, body).rstrip(),
        "accuracy: mean over the classes, 95 % interval over images of the same kind",
        *(f"warning: {line}" for line in warnings_of(results)),
        f"classes: {report.study_folder / CLASSES}.csv",
    ]
    return "\n".join([*lines, *reporting.footer(report)])
