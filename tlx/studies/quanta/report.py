"""Table, figures and closing text of a QUANTA study's results, from run folders alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ... import files
from ...lab.records import MetricPoint, StoredStudy
from ...lab.store import Store
from ...plots import statistics, tables
from ...plots.block_names import block_label
from ...plots.statistics import MeanEstimate
from ...result import FINISHED, Result
from .. import drawings, reporting, result_warnings, summaries
from ..base import StudyReport
from ..drawings import Drawings
from . import figures as quanta_figures
from .spec import CO, WITNESS

TABLE = "quanta"
ENDS = (
    "",
    "_low",
    "_high",
    "_half_width",
    "_lowest",
    "_highest",
)  # of a column that is a mean over the repeats
BOUNDS = {
    "lambda_source": (0.0, 1.0),
    "test_accuracy": statistics.ACCURACY,
    "over_witness": (-1.0, 1.0),
}
COLUMNS = (
    "gate",
    "position",
    "block",
    "block_name",
    "module",
    "repeats",
    "missing",
    "lambda_start",
    *(f"lambda_source{end}" for end in ENDS),
    "lambda_change",
    "rms_source",
    "rms_target",
    *(f"test_accuracy{end}" for end in ENDS),
    *(f"over_witness{end}" for end in ENDS),
)


def write_trial_figures(folder: Path, result: Result, form: str | None = "png") -> None:
    """Write a trial's figures to its folder.

    Learning curves, and the course of λ where it has a gate.
    """
    reporting.write_trial_figures(folder, result, form)
    drawings.write(folder, _trial_courses(result), form)


def trial_drawings(folder: Path, result: Result) -> Drawings:
    """Return the figures of a trial whose files are in `folder`."""
    return {**reporting.trial_drawings(folder, result), **_trial_courses(result)}


def _trial_courses(result: Result) -> Drawings:
    gates = result.details.get("gates", [])
    if not result.details.get("positions") or len(gates) < 2:
        return {}
    curves = {
        position: [[row["lambda"][number][0] for row in gates]]
        for number, position in enumerate(result.details["positions"])
    }
    return {
        "lambda_source": lambda form: quanta_figures.courses(
            curves, _title(result), form, names=names_of([result])
        )
    }


def _title(result: Result) -> str:
    return (
        f"{result.details['source_name']} to {result.details['target_name']}, "
        f"{result.spec['architecture']}"
    )


# ---------------------------------------------------------------- rows


def rows_of(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return the table: a row for each position alone, for each with all others, and the witness.

    "gate" is "alone" or "co"; means over the repeats with 95 % CI, None where there is none.

    over_witness is the test accuracy less that of the witness of the same repeat, where both ended
    well.
    """
    witness = {r.spec["repeat"]: r for r in _of(results, WITNESS) if r.status == FINISHED}
    rows = []
    for gate, name in [(p, "alone") for p in _positions(results)] + [(CO, CO), (WITNESS, WITNESS)]:
        members = _of(results, gate)
        whole = [r for r in members if r.status == FINISHED]
        gained = [
            r.scores[_score(r)] - witness[r.spec["repeat"]].scores[_score(r)]
            for r in whole
            if r.spec["repeat"] in witness
        ]
        shared = {
            "gate": name,
            "repeats": len(whole),
            "missing": len(members) - len(whole),
            **_estimated("test_accuracy", [r.scores[_score(r)] for r in whole]),
            **_estimated("over_witness", gained if gate != WITNESS else []),
        }
        if gate == WITNESS and members:
            rows.append(shared)
        for number, position in enumerate(members[0].details["positions"] if members else []):
            first, last = ([r.details["gates"][at] for r in whole] for at in (0, -1))
            rows.append(
                shared
                | {
                    "position": position,
                    "block": position + 1,
                    "module": members[0].details["modules"][number],
                    "block_name": _names(members[0])[number],
                    "lambda_start": _mean(row["lambda"][number][0] for row in first),
                    **_estimated("lambda_source", [row["lambda"][number][0] for row in last]),
                    "lambda_change": _mean(
                        b["lambda"][number][0] - a["lambda"][number][0]
                        for a, b in zip(first, last, strict=True)
                    ),
                    "rms_source": _mean(row["rms"][number][0] for row in last),
                    "rms_target": _mean(row["rms"][number][1] for row in last),
                }
            )
    return [{name: row.get(name) for name in COLUMNS} for row in rows]


def _names(result: Result) -> list[str]:
    """Return the names of the gated blocks.

    A result of an earlier version has those of the gated modules alone.
    """
    return list(result.details.get("block_names") or result.details["modules"])


def names_of(results: Iterable[Result]) -> dict[int, str]:
    """Return position → name of its block."""
    return {
        position: block_label(position + 1, name)
        for result in results
        for position, name in zip(result.details["positions"], _names(result), strict=True)
    }


def _score(result: Result) -> str:
    return "test_accuracy" if "test_accuracy" in result.scores else "val_accuracy"


def _of(results: Iterable[Result], position: str) -> list[Result]:
    members = [r for r in results if r.spec["position"] == position]
    return sorted(members, key=lambda r: r.spec["repeat"])


def _positions(results: Iterable[Result]) -> list[str]:
    return sorted({r.spec["position"] for r in results} - {CO, WITNESS}, key=int)


def _mean(values: Iterable[float]) -> float | None:
    mean = statistics.estimate(values)
    return mean.mean if mean is not None else None


def _estimated(name: str, values: Sequence[float]) -> dict[str, float | None]:
    mean = statistics.estimate(values, bounds=BOUNDS[name])
    if mean is None:
        return dict.fromkeys(f"{name}{end}" for end in ENDS)
    numbers = (mean.mean, mean.low, mean.high, mean.half_width, mean.lowest, mean.highest)
    return {f"{name}{end}": number for end, number in zip(ENDS, numbers, strict=True)}


def courses_of(results: Sequence[Result], gate: str) -> dict[int, list[list[float]]]:
    """Return position → λ of the source before the first epoch and after each.

    Repeat by repeat; gate: "alone" or "co".
    """
    courses: dict[int, list[list[float]]] = {}
    for result in results:
        if (result.spec["position"] == CO) != (gate == CO) or result.status != FINISHED:
            continue
        for number, position in enumerate(result.details["positions"]):
            courses.setdefault(position, []).append(
                [row["lambda"][number][0] for row in result.details["gates"]]
            )
    return dict(sorted(courses.items()))


# ---------------------------------------------------------------- a study's files


def study_drawings(store: Store, study: StoredStudy) -> Drawings:
    """Return the figures of a study.

    The courses of λ, λ at the end and test accuracies over the positions.
    """
    results = reporting.results_of(store, study)
    rows, title = rows_of(results), study["title"]
    names = names_of(results)
    drawings: dict[str, Callable[[str], bytes]] = {}
    for gate, name, heading in (
        ("alone", "lambda_source", title),
        (CO, "lambda_source_co", f"{title}, all blocks at once"),
    ):
        if courses := courses_of(results, gate):
            drawings[name] = functools.partial(
                quanta_figures.courses, courses, heading, names=names
            )
    if any(row["position"] is not None for row in rows):
        warnings = warnings_of(results)
        drawings["lambda_source_final"] = lambda form: quanta_figures.finals(rows, title, form)
        drawings["test_accuracy"] = lambda form: quanta_figures.accuracies(
            rows, title, form, caption=warnings
        )
    return drawings


def write_summary(store: Store, key: str, form: str | None = "png") -> None:
    """Write a study's table, figures and summary over all of its complete trials."""
    study = store.read_study(key)
    if study is None:
        return
    folder = store.root / "studies" / key
    results = reporting.results_of(store, study)
    rows, warnings = rows_of(results), warnings_of(results)
    if rows:
        files.write_text(
            folder / f"{TABLE}.csv", tables.as_csv(COLUMNS, [list(row.values()) for row in rows])
        )
        files.write_text(folder / f"{TABLE}.md", table(rows, "markdown"))
        drawings.write(folder, study_drawings(store, study), form)
    summaries.write(
        folder,
        study,
        [*_points(rows), *_course_points(results)],
        finished=sum(r.status == FINISHED for r in results),
        warnings=warnings,
        table=table(rows, "markdown") if rows else "",
    )


def warnings_of(results: Iterable[Result]) -> list[str]:
    """Return the warnings about the test accuracies of gated networks and of the witness."""
    groups = result_warnings.grouped(
        results,
        lambda r: (
            r.spec["position"]
            if r.spec["position"] in (CO, WITNESS)
            else f"gate at block {int(r.spec['position']) + 1}"
        ),
    )
    return result_warnings.result_warnings(groups, result_warnings.Warned("repeats"))


def _points(rows: Sequence[Mapping[str, Any]]) -> list[MetricPoint]:
    """Return over the positions λ and the test accuracy with their CI, gate by gate."""
    names = ("lambda_source", "test_accuracy", "over_witness")
    return [
        {
            "name": f"{row['gate']}/{name}{end}",
            "value": row[name + end],
            "step": row["position"] or 0,
        }
        for row in rows
        for name in names
        for end in ("", "_low", "_high")
        if row[name + end] is not None
    ]


def _course_points(results: Sequence[Result]) -> list[MetricPoint]:
    """Return over the epochs (0: before the first) the mean λ of every position, with CI."""
    points: list[MetricPoint] = []
    for gate in ("alone", CO):
        for position, courses in courses_of(results, gate).items():
            for step, values in enumerate(zip(*courses, strict=False)):
                mean = statistics.estimate(values, bounds=BOUNDS["lambda_source"])
                assert mean is not None
                points += [
                    {
                        "name": f"{gate}/layer_{position}/lambda_source{end}",
                        "value": value,
                        "step": step,
                    }
                    for end, value in _ends(mean).items()
                    if value is not None
                ]
    return points


def _ends(mean: MeanEstimate) -> dict[str, float | None]:
    return {"": mean.mean, "_low": mean.low, "_high": mean.high}


# ---------------------------------------------------------------- text


def table(rows: Sequence[Mapping[str, Any]], form: str = "text") -> str:
    """Format the table: λ with its CI, norms of the gate's inputs, accuracy and the witness's."""
    body = [
        [
            _place(row),
            _number(row, "lambda_start"),
            _number(row, "lambda_source"),
            _number(row, "lambda_change"),
            _number(row, "rms_source", 3),
            _number(row, "rms_target", 3),
            tables.percent(row["test_accuracy"]).removesuffix(" %")
            + _half(row, "test_accuracy", 100, 1),
            _gain(row),
        ]
        for row in rows
    ]
    return tables.FORMS[form](
        [
            "gate at",
            "λ at start",
            "λ of source",
            "change",
            "RMS Z_S",
            "RMS Z_T",
            "accuracy %",
            "over witness",
        ],
        body,
    )


def _place(row: Mapping[str, Any]) -> str:
    if row["gate"] == WITNESS:
        return "none (witness)"
    return f"block {block_label(row['block'], row['block_name'])}" + (
        " of all" if row["gate"] == CO else ""
    )


def _number(row: Mapping[str, object], name: str, digits: int = 4) -> str:
    if row[name] is None:
        return tables.NOTHING
    sign = "+" if name == "lambda_change" else ""
    return f"{row[name]:{sign}.{digits}f}" + _half(row, name, 1, digits)


def _half(row: Mapping[str, Any], name: str, factor: float, digits: int) -> str:
    half_width = row.get(f"{name}_half_width")
    if half_width is None:
        return ""
    if row["repeats"] < statistics.FEWEST_SPLITS:
        return (
            f" ({factor * row[f'{name}_lowest']:.{digits}f} to "
            f"{factor * row[f'{name}_highest']:.{digits}f})"
        )
    return f" ± {factor * half_width:.{digits}f}"


def _gain(row: Mapping[str, Any]) -> str:
    value = row["over_witness"]
    return (
        tables.NOTHING
        if value is None
        else f"{100 * value:+.1f}" + _half(row, "over_witness", 100, 1)
    )


def format_summary(report: StudyReport) -> str:
    """Return the closing text of a study: table, caveats, time, where to look."""
    rows = rows_of(report.results)
    lines = (
        [
            table(rows).rstrip(),
            "means over the repeats, ± 95 % CI; over witness: points above the target alone, "
            "repeat by repeat",
            *result_warnings.lines(warnings_of(report.results)),
        ]
        if rows
        else []
    )
    if any(_apart(row) for row in rows):
        lines.append("note: where the RMS of Z_S and Z_T differ much, equal λ are not equal shares")
    if report.diverged:
        titles = ", ".join(
            r.spec["position"]
            if r.spec["position"] in (CO, WITNESS)
            else f"block {int(r.spec['position']) + 1} repeat {r.spec['repeat']}"
            for r in report.diverged
        )
        lines.append(
            f"diverged (a loss or weight was no number any more): {titles}. Try a smaller "
            f"--learning-rate"
        )
    return "\n".join([*lines, *reporting.footer(report)])


def _apart(row: Mapping[str, Any]) -> bool:
    source, target = row["rms_source"], row["rms_target"]
    return bool(source and target) and not 0.5 < source / target < 2
