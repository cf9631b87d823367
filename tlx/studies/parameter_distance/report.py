"""Tables, figures and summary of a study of parameter distances, from its run folders alone."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ... import files
from ...lab.records import MetricPoint, StoredStudy
from ...lab.store import Store
from ...metrics.parameter_distance.rules import PUBLISHED_PROFILE
from ...plots import statistics, tables
from ...result import FINISHED, Result
from .. import drawings, result_warnings, summaries
from ..base import StudyReport
from ..drawings import Drawings
from . import figures as parameter_distance_figures
from . import regression_report
from .spec import ParameterDistance

STEM, MEANS, REGRESSION = "parameter_distance", "parameter_distance_means", "regression.json"
KIND = ParameterDistance.own_kind()
DISTANCES = ("random_pretrained", "pretrained_finetuned", "random_finetuned")
NUMBERS = (*DISTANCES, "transferability", "movement")
OVERALL = "overall"

Row = dict[str, Any]
Pairs = Sequence[tuple[Mapping[str, Any], Result]]


def write_trial_figures(folder: Path, result: Result, form: str | None = "png") -> None:
    """Write a triple's table, of tensors and layers, and its figure to its folder."""
    if result.kind == KIND:
        files.write_text(folder / f"{STEM}.csv", _csv(trial_rows([(result.spec, result)])))
        drawings.write(folder, trial_drawings(folder, result), form)


def trial_drawings(folder: Path, result: Result) -> Drawings:
    """Return the figure of a triple: T and the distances over its layers."""
    means = mean_rows(trial_rows([(result.spec, result)]))
    title = (
        f"{result.spec['architecture']}: {result.spec['target']}, repeat {result.spec['repeat']}"
    )
    is_its_norm = result.spec["norm"] == parameter_distance_figures.PUBLISHED_NORM
    published = _published([(result.spec, result)]) if is_its_norm else ()
    return {
        STEM: lambda form: parameter_distance_figures.profile(
            means, title, form, published=published
        )
    }


def _published(pairs: Pairs) -> Sequence[float]:
    """Return the published T of the layers, where these are of its network and by its rule."""
    details = [(spec, result.details) for spec, result in pairs if result.kind == KIND]
    is_same = all(
        spec["architecture"].lower() == "resnet50" and of_trial["rule"] == "original"
        for spec, of_trial in details
    )
    return PUBLISHED_PROFILE if details and is_same else ()


def study_drawings(store: Store, study: StoredStudy) -> Drawings:
    """Return the figures of a study: of every target and norm, and of the regressions of T."""
    pairs = read(store, study)
    lines = lines_of(mean_rows(trial_rows(pairs)))
    figures = parameter_distance_figures.all_of(
        lines,
        study["title"],
        warnings_of(pairs) or (),
        published=_published(pairs),
    )
    drawings = {f"{STEM}_{name}": draw for name, draw in figures.items()}
    fits = [way["fit"] for way in regressions_of(store.study_folder(study["key"])) if way["fit"]]
    for number, fit in enumerate(fits):
        name = f"regression_{number}" if number else "regression"
        drawings[name] = functools.partial(parameter_distance_figures.observed_and_fitted, fit)
    return drawings


def read(store: Store, study: StoredStudy) -> Pairs:
    """Read (latest spec, result) of every complete trial of the study.

    By target, norm and repeat.
    """
    pairs = [
        (row["spec"], result)
        for row in study["trials"]
        if (result := store.find_or_none(row["key"])) is not None
    ]
    norms = list(parameter_distance_figures.UNITS)
    return sorted(
        pairs,
        key=lambda pair: (
            pair[0]["target"],
            norms.index(pair[0].get("norm", norms[0])),
            pair[0].get("repeat", 0),
        ),
    )


# ---------------------------------------------------------------- tables


def trial_rows(pairs: Pairs) -> list[Row]:
    """Return the tidy table of every triple: rows of tensors, of layers, and one overall.

    The head is the last layer.

    level  tensor, layer or overall; mark: "" or why T is not to be relied on: undefined (nothing
           moved from
    pretrained to finetuned), confounded (it moved too little for T to say more than that)
    """
    rows = []
    for spec, result in pairs:
        if result.kind != KIND:
            continue
        about = {"target": spec["target"], "norm": spec["norm"], "repeat": spec["repeat"]}
        details = result.details
        heads = {row["layer"] for row in details["profile"] if row["head"]}
        for level, members in (("tensor", details["distances"]), ("layer", details["profile"])):
            for row in members:
                layer = row["layer"]
                rows.append(
                    about
                    | {
                        "level": level,
                        "name": row.get("name", layer),
                        "layer": layer,
                        "block": row["block"],
                        "head": layer in heads,
                        "tensors": row.get("tensors", 1),
                        "shape": "x".join(map(str, row.get("shape", ()))),
                        **{name: row[name] for name in NUMBERS},
                        "mark": _mark(row, details) if level == "layer" else "",
                        "key": result.key,
                    }
                )
        rows.append(
            about
            | {
                "level": OVERALL,
                "name": OVERALL,
                "layer": "",
                "block": None,
                "head": False,
                "tensors": sum(row["tensors"] for row in details["profile"] if not row["head"]),
                "shape": "",
                **dict.fromkeys(DISTANCES),
                "transferability": details["overall"],
                "movement": details["movement"],
                "mark": "",
                "key": result.key,
            }
        )
    return rows


def _mark(row: Mapping[str, Any], details: Mapping[str, Any]) -> str:
    if row["layer"] in details["undefined"]:
        return "undefined"
    return "confounded" if row["layer"] in details["confounded"] else ""


def mean_rows(rows: Iterable[Row]) -> list[Row]:
    """Compute means over repeats for every target, norm and layer, and overall.

    With 95 % CI (columns …_low, …_high).

    defined, undefined, confounded   repeats whose T there is, is not, is not to be relied on
    """
    groups: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in rows:
        if row["level"] != "tensor":
            groups.setdefault((row["target"], row["norm"], row["level"], row["name"]), []).append(
                row
            )
    return [_means(members) for members in groups.values()]


def _means(members: Sequence[Row]) -> Row:
    row = {
        name: members[0][name]
        for name in ("target", "norm", "level", "layer", "block", "head", "tensors")
    }
    row |= {
        "repeats": len(members),
        "defined": sum(r["transferability"] is not None for r in members),
        **{mark: sum(r["mark"] == mark for r in members) for mark in ("undefined", "confounded")},
    }
    for name in NUMBERS:
        mean = statistics.estimate(
            (r[name] for r in members if r[name] is not None), bounds=statistics.NOT_NEGATIVE
        )
        row |= {
            name: mean and mean.mean,
            f"{name}_sd": mean and mean.sd,
            f"{name}_low": mean and mean.low,
            f"{name}_high": mean and mean.high,
            f"{name}_lowest": mean and mean.lowest,
            f"{name}_highest": mean and mean.highest,
        }
    return row


def table(means: Sequence[Row], form: str = "text") -> str:
    """Format layers down, with T, distances and movement, or the T of several targets.

    Of one target and norm: T, the three distances, movement; of several: the T of each across.

    "!" marks a T that is confounded (in some repeat), "–" one that there is not.
    """
    lines = lines_of(means)
    if len(lines) == 1:
        (_, norm), line = next(iter(lines.items()))
        headings = [
            "layer",
            "block",
            "T",
            f"D(random, pretrained), {norm}",
            "D(pretrained, finetuned)",
            "D(random, finetuned)",
            "moved",
        ]
        body = [
            [
                _layer(row),
                _block(row),
                t_of(row),
                *(_number(row[name]) for name in DISTANCES),
                moved(row),
            ]
            for row in line
            if row["level"] == "layer"
        ]
        return tables.FORMS[form](headings, body)
    several = len({norm for _, norm in lines}) > 1
    cells = {
        key: {row["layer"]: row for row in line if row["level"] == "layer"}
        for key, line in lines.items()
    }
    first = {row["layer"]: row for line in cells.values() for row in line.values()}
    return tables.FORMS[form](
        ["layer", "block", *(f"{target}, {norm}" if several else target for target, norm in lines)],
        [
            [_layer(row), _block(row), *(t_of(line.get(name)) for line in cells.values())]
            for name, row in first.items()
        ],
    )


def lines_of(means: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    """Return (target, norm) → its rows."""
    lines: dict[tuple[str, str], list[Row]] = {}
    for row in means:
        lines.setdefault((row["target"], row["norm"]), []).append(row)
    return lines


def _layer(row: Row) -> str:
    result: str = row["layer"] + (" (head)" if row["head"] else "")
    return result


def _block(row: Row) -> str:
    return tables.NOTHING if row["block"] is None else str(row["block"])


def t_of(row: Row | None) -> str:
    """Format T with its interval, or the range of fewer than 4 values, and its mark."""
    if row is None or row["transferability"] is None:
        return tables.NOTHING
    mean, ends = row["transferability"], statistics.ends_of(row, "transferability", row["defined"])
    spread = ""
    if ends is not None:  # the lower end of an interval is clipped at 0
        is_range = row["defined"] < statistics.FEWEST_SPLITS
        spread = f" ({ends[0]:.2f} to {ends[1]:.2f})" if is_range else f" ± {ends[1] - mean:.2f}"
    return f"{mean:.2f}{spread}" + (" !" if row["confounded"] else "")


def _number(value: float | None) -> str:
    return tables.NOTHING if value is None else f"{value:.3g}"


def moved(row: Row) -> str:
    """Format the movement in per cent."""
    return tables.percent(row["movement"])


# ---------------------------------------------------------------- files


def write_summary(store: Store, key: str, form: str | None = "png") -> None:
    """Write a study's tables, figures and summary over all of its complete trials."""
    study = store.read_study(key)
    if study is None:
        return
    folder, pairs = store.root / "studies" / key, read(store, study)
    rows = trial_rows(pairs)
    means = mean_rows(rows)
    if means:
        files.write_text(folder / f"{STEM}.csv", _csv(rows))
        files.write_text(folder / f"{MEANS}.csv", _csv(means))
        files.write_text(folder / f"{STEM}.md", table(means, "markdown"))
    regressions = regressions_of(folder)
    for name, text in regression_report.files_of(regressions).items():
        files.write_text(folder / name, text)
    drawings.write(folder, study_drawings(store, study), form)
    warnings = warnings_of(pairs)
    summaries.write(
        folder,
        study,
        _points(means),
        finished=sum(result.status == FINISHED for _, result in pairs),
        warnings=warnings,
        table=table(means, "markdown") if means else "",
        intervals=warnings is not None,
    )


def warnings_of(pairs: Pairs) -> list[str] | None:
    """Return the warnings about the test accuracies of the fine-tuned networks.

    None where there is none.
    """
    tuned = [result for _, result in pairs if "test_accuracy" in result.scores]
    groups = result_warnings.grouped(
        tuned, lambda r: str(r.spec.get("target") or r.spec.get("dataset", ""))
    )
    return (
        result_warnings.result_warnings(groups, result_warnings.Warned("repeats"))
        if tuned
        else None
    )


def _csv(rows: Sequence[Row]) -> str:
    return tables.as_csv(list(rows[0]), [list(row.values()) for row in rows])


def _points(means: Sequence[Row]) -> list[MetricPoint]:
    """Return the metrics of the parent run.

    For every target and norm a step per layer, and the overall T.
    """
    points: list[MetricPoint] = []
    for (target, norm), selected in lines_of(means).items():
        for step, row in enumerate(selected, 1):
            overall = row["level"] == OVERALL
            for name in NUMBERS:
                points += [
                    {
                        "name": f"{target}/{norm}/{'overall_' if overall else ''}{name}{end}",
                        "value": row[name + end],
                        "step": 0 if overall else step,
                    }
                    for end in ("", "_low", "_high")
                    if row[name + end] is not None
                ]
    return points


def regressions_of(folder: Path) -> list[Row]:
    """Return what `regression.regress` wrote to a study's folder."""
    path = folder / REGRESSION
    return files.read_json(path)["ways"] if path.is_file() else []


def publish(report: StudyReport, out: Path) -> list[Path]:
    """Copy a study's tables and figures into a folder."""
    folder, paths = report.folder / "studies" / report.key, []
    files.make_folder(out)
    figures = drawings.figures_in(folder)
    for path in sorted(folder.iterdir()):
        if path.suffix in (".csv", ".md") or path in figures:
            files.write_bytes(out / path.name, path.read_bytes())
            paths.append(out / path.name)
    return paths
