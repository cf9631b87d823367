"""Closing text of a study of parameter distances: table, provenance of T, caveats, data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import counted
from ...lab.store import Store
from ...plots import statistics, tables
from .. import drawings, reporting, result_warnings
from ..base import StudyReport
from . import regression_report
from .report import (
    KIND,
    OVERALL,
    STEM,
    Pairs,
    Row,
    lines_of,
    mean_rows,
    moved,
    read,
    regressions_of,
    t_of,
    table,
    trial_rows,
)


def format_summary(report: StudyReport) -> str:
    """Return the closing text: the table, what T is of, caveats, data, where the files are."""
    store = Store(report.folder)
    study = store.read_study(report.key)
    assert study is not None
    pairs = read(store, study)
    means = mean_rows(trial_rows(pairs))
    folder = store.root / "studies" / report.key
    lines = []
    if means:
        lines += [
            table(means).rstrip(),
            f"T = D(random, finetuned) / D(pretrained, finetuned){_over(pairs, means)}; "
            "moved: D(pretrained, finetuned) / D(random, pretrained)",
        ]
        lines += [
            _overall(row, len(lines_of(means)) > 1) for row in means if row["level"] == OVERALL
        ]
    lines += _trained(pairs)
    notes = dict.fromkeys(
        note
        for _, r in pairs
        for note in r.details.get("notes", ())
        if r.kind == KIND and not note.startswith(("T is undefined", "warning: in "))
    )
    lines += [f"note: {note}" for note in notes] + _wary(means)
    lines += regression_report.of_study(regressions_of(folder))
    held = drawings.kinds(folder, "tables", "figures")
    lines.append(f"{held}: {folder / STEM}*{drawings.endings(folder, STEM)}")
    return "\n".join([*lines, *reporting.footer(report)])


def _over(pairs: Pairs, means: Sequence[Row]) -> str:
    if max(row["repeats"] for row in means) < 2:
        return ""
    measured = [(spec, r) for spec, r in pairs if r.kind == KIND]
    drawn = len({spec["draw"] for spec, _ in measured}) > 1
    tuned = any(
        len({spec["states"][2] for spec, _ in measured if spec["target"] == target}) > 1
        for target in {spec["target"] for spec, _ in measured}
    )
    of = " and ".join((["random states"] if drawn else []) + (["fine-tunings"] if tuned else []))
    few = 1 < max(row["defined"] for row in means) < statistics.FEWEST_SPLITS
    return f", mean {'(range)' if few else '± 95 % CI'} over {of}"


def _overall(row: Row, several: bool) -> str:
    what = f"{row['target']}, {row['norm']}" if several else "overall"
    if row["transferability"] is None:
        return f"{what}: T is undefined, nothing moved from pretrained to finetuned"
    over = f" over {row['repeats']} repeats" if row["repeats"] > 1 else ""
    return (
        f"{what}: mean T of the layers {t_of(row)}{over}, the head left out; the median layer "
        f"moved {moved(row)}"
    )


def _trained(pairs: Pairs) -> list[str]:
    """Describe how the networks were fine-tuned, where known: T grows where little was done."""
    trainings: dict[str, list[Mapping[str, Any]]] = {}
    for spec, result in pairs:
        if result.kind == KIND and result.details["training"]:
            trainings.setdefault(spec["target"], []).append(result.details["training"])
    lines = []
    for target, members in trainings.items():
        test = statistics.accuracy_columns(
            {t["key"]: t["test_accuracy"] for t in members if "test_accuracy" in t}.values()
        )
        of_test = {**test, "repeats": sum("test_accuracy" in t for t in members)}
        steps = sorted({t["steps"] for t in members if "steps" in t})
        words = []
        if steps:
            span = f" to {steps[-1]}" if len(steps) > 1 else ""
            words.append(f"{steps[0]}{span} steps")
        rates = sorted({t["learning_rate"] for t in members if "learning_rate" in t})
        words += [f"learning rate {rate:g}" for rate in rates]
        words += [
            f"{counted(n, 'training image')}"
            for n in sorted({t["train_images"] for t in members if "train_images" in t})
        ]
        if test["mean"] is not None:
            words.append(
                f"test accuracy {tables.percent(test['mean'])} {tables.spread(of_test)}".rstrip()
            )
        lines.append(f"{target} was fine-tuned: {', '.join(words)}")
    return lines


def _wary(means: Sequence[Row]) -> list[str]:
    lines = []
    for (target, norm), measured in lines_of(means).items():
        for mark, words in (
            ("confounded", "! fine-tuning moved so little that T says no more than that"),
            ("undefined", "nothing moved in fine-tuning, so that there is no T"),
        ):
            if layers := [
                row["layer"] for row in measured if row["level"] == "layer" and row[mark]
            ]:
                of = sum(row["level"] == "layer" for row in measured)
                lines.append(
                    f"warning: {target}, {norm}: {words}, in "
                    f"{len(layers)} of {counted(of, 'layer')}: "
                    f"{', '.join(layers)}"
                )
    return lines


def format_tuning_summary(report: StudyReport) -> str:
    """Return the closing text of the stage of fine-tuning."""
    tested = [r.scores["test_accuracy"] for r in report.results if "test_accuracy" in r.scores]
    scores = {**statistics.accuracy_columns(tested), "repeats": len(tested)}
    line = (
        f"fine-tuned: {counted(len(report.results), 'network')} in {tables.seconds(report.wall_s)}"
    )
    if report.reused:
        line += f", {report.reused} of them found done"
    if scores["mean"] is None:
        return line
    accuracy = f"{tables.percent(scores['mean'])} {tables.spread(scores)}".rstrip()
    line += f"; mean per-class test accuracy {accuracy}"
    groups = result_warnings.grouped(report.results, lambda r: str(r.spec.get("dataset", "")))
    warnings = result_warnings.result_warnings(groups, result_warnings.Warned("repeats"))
    return "\n".join([line, *result_warnings.lines(warnings)])


def format_images_summary(report: StudyReport) -> str:
    """Return the closing text of the stage of the target's images."""
    return "\n".join(regression_report.domain(r.details) for r in report.results)
