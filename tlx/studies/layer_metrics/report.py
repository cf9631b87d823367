"""Table, figures and closing text of an analysis, from run folders alone."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ... import files
from ...errors import counted
from ...lab.records import MetricPoint, StoredStudy
from ...lab.store import Store
from ...plots import tables
from ...result import FINISHED, Result
from .. import drawings, reporting, summaries
from ..base import StudyReport
from ..drawings import Drawings
from ..layer_measures import LAYER_METRICS
from . import figures as layer_metrics_figures
from . import table as layer_metrics_table
from .columns import UNITS

SHOWN = tuple(name for name, metric in LAYER_METRICS.items() if metric.shown)
MODELS_UP_TO = 24  # lines of metrics on the study's run
LINES_UP_TO = 40  # of the closing table
COMPARED = "rdm_comparison.json"


def rows_of(spec: Mapping[str, object], result: Result) -> list[dict[str, Any]]:
    """Return a trial's rows of the table; `spec` names the network and the images."""
    named = {
        "model": spec["model"],
        "trained_on": spec["trained_on"],
        "checkpoint": spec["checkpoint"],
        "checkpoint_index": spec["split"] if spec["checkpoint"] else "",
        "seed": "",
        "dataset": spec["dataset"],
        "rdm": spec["rdm"],
    }
    return [{**named, **row} for row in result.details["rows"]]


def write_trial_figures(folder: Path, result: Result, form: str | None = "png") -> None:
    """Write a trial's table and figures to its folder."""
    layer_metrics_table.write(rows_of(result.spec, result), folder)
    drawings.write(folder, trial_drawings(folder, result), form)


def trial_drawings(folder: Path, result: Result) -> Drawings:
    """Return the figures of a trial: metrics over its layers, and its RDMs where kept."""
    rows = rows_of(result.spec, result)
    drawings: dict[str, Callable[[str], bytes]] = {
        metric: functools.partial(layer_metrics_figures.metric_over_layers, rows, metric, "")
        for metric in _held(rows)
    }
    codes = np.array(result.details["codes"], np.int64)
    kept = [(row["layer"], folder / "rdms" / f"{row['layer_index']:02d}.npy") for row in rows]
    rdms = [(layer, np.load(path, allow_pickle=False)) for layer, path in kept if path.is_file()]
    if rdms and len(codes):
        classes = result.details["classes"]
        unit = f"Dissimilarity ({UNITS[result.spec['rdm']]})"
        layer, rdm = rdms[-1]
        drawings["rdms"] = lambda form: layer_metrics_figures.rdm_grid(
            rdms, codes, classes, unit=unit, form=form
        )
        drawings["within_between"] = lambda form: layer_metrics_figures.within_between(
            rdm, codes, title=layer, unit=unit, form=form
        )
    return drawings


def _held(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Return the metrics of SHOWN that some row has."""
    return [metric for metric in SHOWN if any(row.get(metric) not in (None, "") for row in rows)]


def dress_table(folder: Path, result: Result, form: str | None = "png") -> None:
    """Write the table alone.

    Of many checkpoints, figures of each would take longer than measuring them.
    """
    layer_metrics_table.write(rows_of(result.spec, result), folder)


def study_rows(store: Store, study: StoredStudy) -> list[dict[str, Any]]:
    """Return the rows of all of a study's complete trials, with their intervals."""
    rows = []
    for trial in study["trials"]:
        result = store.find_or_none(trial["key"])
        if result is not None:
            rows += rows_of(trial["spec"], result)
    if rows:
        _add_intervals(rows, store.study_folder(study["key"]))
    return rows


def write_summary(store: Store, key: str, form: str | None = "png") -> None:
    """Write a study's table, figures and summary over all of its complete trials."""
    study = store.read_study(key)
    if study is None:
        return
    folder, rows = store.study_folder(key), study_rows(store, study)
    whole = sum(result.status == FINISHED for result in reporting.results_of(store, study))
    if rows:
        layer_metrics_table.write(_told_apart(rows), folder)
        drawings.write(folder, study_drawings(store, study), form)
    points: list[MetricPoint] = [
        {
            "name": f"{row['model']}{'@' if row['checkpoint'] else ''}{row['checkpoint']}/{metric}",
            "value": row[metric],
            "step": row["layer_index"],
        }
        for row in rows
        for metric in SHOWN
        if row.get(metric) not in (None, "")
    ]
    networks = len({(row["model"], row["checkpoint"]) for row in rows})
    summaries.write(folder, study, points if networks <= MODELS_UP_TO else [], finished=whole)


def _add_intervals(rows: list[dict[str, Any]], folder: Path) -> None:
    """Add the confidence intervals of the RDMs' similarity to the classes.

    Where stimuli were resampled.
    """
    path = folder / COMPARED
    compared = files.read_json(path, limit=reporting.RECORD_BYTES) if path.is_file() else {}
    intervals = compared.get("bootstrap", {})
    for of, low, high in zip(
        compared.get("names", []),
        intervals.get("label_low", []),
        intervals.get("label_high", []),
        strict=False,
    ):
        for row in rows:
            if low is not None and all(
                row[name] == of[name] for name in ("model", "checkpoint", "layer")
            ):
                row |= {"rsa_label_low": low, "rsa_label_high": high}


def study_drawings(store: Store, study: StoredStudy) -> Drawings:
    """Return the figures of a study: metrics over layers or checkpoints, RDMs, maps."""
    rows = study_rows(store, study)
    several = len({row["checkpoint"] for row in rows}) > 1
    draw = (
        layer_metrics_figures.metric_over_checkpoints
        if several
        else layer_metrics_figures.metric_over_layers
    )
    drawings: dict[str, Callable[[str], bytes]] = {
        metric: functools.partial(draw, rows, metric, "") for metric in _held(rows)
    }
    path = store.study_folder(study["key"]) / COMPARED
    if not path.is_file():
        return drawings
    compared = files.read_json(path, limit=reporting.RECORD_BYTES)
    names = [row["layer"] for row in compared["names"]]
    if len(names) <= layer_metrics_figures.MAP_UP_TO:
        drawings["rdm_comparison"] = lambda form: layer_metrics_figures.comparison_map(
            np.array(compared["spearman"]),
            names,
            "Spearman's ρ of RDMs",
            form=form,
            groups=[_short(row) for row in compared["names"]],
        )
    for layer, points in compared["maps"].items():
        of = [compared["names"][i] for i in points["rows"]]
        drawings[f"mds_{layer.replace('/', '_').replace(':', '-')}"] = functools.partial(
            layer_metrics_figures.mds_map,
            np.array(points["points"]),
            [_short(row) for row in of],
            [row["model"] for row in of],
            f"RDMs of {layer}",
            joined=any(row["checkpoint"] for row in of),
        )
    return drawings


def _short(row: Mapping[str, str]) -> str:
    return f"{row['model']}{' ' if row['checkpoint'] else ''}{row['checkpoint']}"


def _told_apart(rows: list[dict[str, Any]]) -> list[dict[str, object]]:
    """Number networks of one name.

    Two dumps may be of weights of one name.
    """
    seen: dict[tuple[Any, ...], int] = {}
    out = []
    for row in rows:
        key = (row["model"], row["dataset"], row["layer"], row["checkpoint"])
        seen[key] = seen.get(key, 0) + 1
        out.append(row | ({"model": f"{row['model']} ({seen[key]})"} if seen[key] > 1 else {}))
    return out


# ---------------------------------------------------------------- said and copied


def format_summary(report: StudyReport) -> str:
    """Return the closing text: the table in short, notes, where all of it is."""
    rows = [row for result in report.results for row in rows_of(result.spec, result)]
    shown = (
        rows
        if len(rows) <= LINES_UP_TO
        else [
            row
            for row in rows
            if row["layer_index"]
            == max(
                other["layer_index"]
                for other in rows
                if (other["model"], other["checkpoint"]) == (row["model"], row["checkpoint"])
            )
        ][:LINES_UP_TO]
    )
    body = [
        [
            _short(row),
            row["layer"],
            str(row["width"]),
            _number(row, "ss_ratio", 3),
            _number(row, "id", 1) + (f" ± {row['id_std']:.1f}" if "id_std" in row else ""),
            _number(row, "rsa_contrast", 3),
            _number(row, "cka_label", 3),
        ]
        for row in shown
    ]
    lines = (
        [
            tables.FORMS["text"](
                [
                    "network",
                    "layer",
                    "width",
                    "SSW/TSS",
                    "intrinsic dim.",
                    "class contrast",
                    "CKA to classes",
                ],
                body,
            ).rstrip()
        ]
        if body
        else []
    )
    if len(shown) < len(rows):
        lines.append(f"the last layers of {counted(len(rows), 'row')}")
    notes = list(
        dict.fromkeys(note for result in report.results for note in result.details["notes"])
    )
    lines += [f"note: {note}" for note in notes[:10]]
    lines.append(
        f"table: {report.folder / 'studies' / report.key / (layer_metrics_table.STEM + '.csv')}"
    )
    return "\n".join([*lines, *reporting.footer(report)])


def _number(row: Mapping[str, object], name: str, digits: int) -> str:
    return f"{row[name]:.{digits}f}" if row.get(name) not in (None, "") else tables.NOTHING


def copy_table(report: StudyReport, out: Path) -> list[Path]:
    """Copy the study's table, as CSV and Parquet, to another folder."""
    source = report.folder / "studies" / report.key
    files.make_folder(out)
    paths = []
    for ending in (".csv", ".parquet"):
        target = out / f"{layer_metrics_table.STEM}{ending}"
        with files.atomic_write(target) as file, open(source / target.name, "rb") as whole:
            shutil.copyfileobj(whole, file)
        paths.append(target)
    return paths
