"""Report of an atlas: results of many studies → one table and one figure over blocks 1…N.

From run folders alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ... import files
from ...lab.records import MetricPoint, StoredStudy
from ...lab.store import Store
from ...plots import tables
from ...result import Result
from .. import drawings, reporting, result_warnings, summaries
from ..base import StudyReport
from ..drawings import Drawings
from ..layer_transfer import report as layer_transfer_report
from ..quanta import report as quanta_report
from . import figure as atlas_figure
from .panels import ACCURACY, PANELS, Panel, Row, Taken
from .sources import AtlasSources

__all__ = [
    "PANELS",
    "Panel",
    "Row",
    "Taken",
    "copy",
    "format_summary",
    "rows_of",
    "table",
    "write_summary",
    "write_trial_figures",
]

STEM = "atlas"
COLUMNS = (
    "panel",
    "line",
    "block",
    "block_name",
    "mean",
    "low",
    "high",
    "lowest",
    "highest",
    "n",
    "unit",
    "sources",
)


def rows_of(
    store: Store, study: StoredStudy, about: AtlasSources, panels: Sequence[str]
) -> list[Row]:
    """Build the table: COLUMNS of every panel with data."""
    own = [
        result
        for trial in study["trials"]
        if (result := store.find_or_none(trial["key"])) is not None
    ]
    table_rows = []
    units = _units(study, panels)
    for name in panels:
        panel = PANELS[name]
        source = about["taken"].get(panel.source)
        keys = {"blocks", "tuned"} & {panel.source}
        record = store.read_study(source["study"]) if source and not keys else None
        trials = _trials_of(about, panel.source)
        taken_rows = [r for key in trials if (r := store.find_or_none(key)) is not None]
        panel_rows = _of_atlas(own, about) if keys else taken_rows
        taken = Taken(panel_rows, record or {"trials": []}, len(about["classes"]))
        for row in panel.read(taken) if panel_rows else ():
            block = row["block"]
            table_rows.append(
                {
                    "panel": name,
                    "line": row["line"],
                    "block": block,
                    "block_name": about["blocks"][block - 1] if block else "",
                    "mean": row["mean"],
                    "low": row["low"],
                    "high": row["high"],
                    "lowest": row.get("lowest"),
                    "highest": row.get("highest"),
                    "n": row["n"],
                    "unit": units[name],
                    "sources": " ".join(row["keys"]),
                }
            )
    return table_rows


def _units(study: StoredStudy, panels: Sequence[str]) -> dict[str, str]:
    """Return panel → unit of its numbers; dissimilarities are in that of the study's RDMs."""
    rdm = study["trials"][0]["spec"]["rdm"]
    return {name: PANELS[name].unit_for(rdm) for name in panels}


def _of_atlas(results: Sequence[Result], about: AtlasSources) -> list[Result]:
    """Return the measures of the network, and those against the selected fine-tuned network."""
    return [r for r in results if r.spec["against"] in ("", about.get("against") or "")]


# ---------------------------------------------------------------- a study's files


def write_trial_figures(folder: Path, result: Result, form: str | None = "png") -> None:
    """Do nothing: a trial of an atlas has its numbers in the atlas's figure."""


def lacking(
    about: AtlasSources, rows: Iterable[Row], panels: Sequence[str]
) -> list[tuple[str, list[str]]]:
    """Return the command, or the reason why there is none → the panels that lack for it."""
    present = {row["panel"] for row in rows}
    result: dict[str, list[str]] = {}
    for name in panels:
        if name not in present:
            message = about["lacking"].get(
                PANELS[name].source, "it could not be measured: see the notes"
            )
            result.setdefault(message, []).append(name)
    return list(result.items())


def study_drawings(store: Store, study: StoredStudy) -> Drawings:
    """Return the figure of an atlas from what its last command wrote.

    None where nothing was measured.
    """
    path = store.study_folder(study["key"]) / f"{STEM}.json"
    if not path.is_file():
        return {}
    kept = files.read_json(path, limit=reporting.RECORD_BYTES)
    if not kept["rows"]:
        return {}
    units = _units(study, tuple(PANELS))
    titles = {name: (panel.heading(units[name]), panel.axes) for name, panel in PANELS.items()}
    missing = [(", ".join(row["panels"]), row["type"]) for row in kept["missing"]]
    return {
        STEM: lambda form: atlas_figure.atlas(
            kept["rows"],
            kept["about"]["blocks"],
            titles,
            title=study["title"],
            missing=missing,
            form=form,
            caption=kept.get("warnings", ()),
        )
    }


def write_summary(
    store: Store,
    key: str,
    about: AtlasSources,
    panels: Sequence[str],
    form: str | None = "png",
) -> None:
    """Write the table, the figure and their sources to the study's folder."""
    study = store.read_study(key)
    if study is None:
        return
    folder = store.root / "studies" / key
    rows = rows_of(store, study, about, panels)
    units = _units(study, panels)
    missing, warnings = lacking(about, rows, panels), warnings_of(store, about, panels)
    whole = [r for trial in study["trials"] if (r := store.find_or_none(trial["key"])) is not None]
    if rows:
        files.write_text(
            folder / f"{STEM}.csv",
            tables.as_csv(COLUMNS, [[row[c] for c in COLUMNS] for row in rows]),
        )
    files.write_json(
        folder / f"{STEM}.json",
        {
            "about": dict(about),
            "panels": {
                name: {
                    "title": PANELS[name].heading(units[name]).replace("\n", " "),
                    "unit": units[name],
                    "source": PANELS[name].source,
                }
                for name in panels
            },
            "missing": [{"panels": names, "type": message} for message, names in missing],
            "columns": MEANINGS,
            "notes": _notes(store, whole, about, panels),
            "rows": rows,
            "warnings": warnings or [],
        },
    )
    drawings.write(folder, study_drawings(store, study), form)
    metrics: list[MetricPoint] = [
        {
            "name": f"{row['panel']}/{row['line'].replace('+', 'plus')}{end}".replace(",", ""),
            "value": row[of],
            "step": row["block"] or 0,
        }
        for row in rows
        for of, end in (("mean", ""), ("low", "_low"), ("high", "_high"))
        if row[of] is not None
    ]
    summaries.write(folder, study, metrics, finished=len(whole), warnings=warnings, intervals=False)


def warnings_of(store: Store, about: AtlasSources, panels: Sequence[str]) -> list[str] | None:
    """Return the warnings about test accuracies of the selected studies.

    None where none has any.
    """
    warnings: list[str] | None = None
    for name, of in (
        ("quanta", quanta_report.warnings_of),
        ("transfer", layer_transfer_report.warnings_of),
    ):
        keys = _trials_of(about, name)
        results = [result for key in keys if (result := store.find_or_none(key)) is not None]
        if results and any(PANELS[panel].source == name for panel in panels):
            warnings = [
                *(warnings or []),
                *(f"{SOURCES[name]}: {sentence}" for sentence in of(results)),
            ]
    return warnings


def _trials_of(about: AtlasSources, source: str) -> list[str]:
    """Return the keys of the trials that panels of `source` are taken from."""
    study = about["taken"].get(source)
    return study["trials"] if study else []


SOURCES = {"quanta": "QUANTA", "transfer": "layer transfer"}


def _notes(
    store: Store, measured: Sequence[Result], about: AtlasSources, panels: Sequence[str]
) -> list[str]:
    """Return the caveats of the measures, and where T is confounded."""
    notes = list(dict.fromkeys(note for result in measured for note in result.details["notes"]))
    keys = _trials_of(about, "distance") if "distance" in panels else []
    still = dict.fromkeys(
        layer
        for key in keys
        if (result := store.find_or_none(key)) is not None
        for layer in result.details["confounded"]
    )
    return notes + (
        [f"distance: fine-tuning hardly moved {', '.join(still)}, where T says only that"]
        if still
        else []
    )


MEANINGS = {
    "panel": "what is measured: see panels",
    "line": "of which network or condition",
    "block": "1…N from the image; empty: a level for all blocks",
    "block_name": "the module that begins it",
    "mean": "the number, or its mean over repeats",
    "low": "lower end of its 95 % CI",
    "high": "upper end",
    "lowest": "the smallest value of a mean over repeats, drawn where they are fewer than 4",
    "highest": "the largest",
    "n": "rows or repeats that it is from",
    "unit": "of mean, low and high",
    "sources": "keys of the trials that it is from",
}


# ---------------------------------------------------------------- said and copied


def table(rows: Sequence[Row], blocks: Sequence[str], form: str = "text") -> str:
    """Format the table: blocks down, lines across."""
    lines = list(
        dict.fromkeys((row["panel"], row["line"]) for row in rows if row["block"] is not None)
    )
    cells = {(row["panel"], row["line"], row["block"]): row for row in rows}
    several = {panel for panel, _ in lines if sum(p == panel for p, _ in lines) > 1}
    heads = [f"{panel} {line}" if panel in several else panel for panel, line in lines]
    body = [
        [str(number), name, *(_cell(cells.get((*line, number))) for line in lines)]
        for number, name in enumerate(blocks, 1)
    ]
    return tables.FORMS[form](["block", "name", *heads], body)


def _cell(row: Row | None) -> str:
    if row is None:
        return tables.NOTHING
    value = f"{100 * row['mean']:.1f} %" if row["unit"] == ACCURACY else f"{row['mean']:.3g}"
    return value


def format_summary(about: AtlasSources, panels: Sequence[str]) -> Callable[[StudyReport], str]:
    """Return the closing text: table, sources, commands for what lacks, where the files are."""

    def closing(report: StudyReport) -> str:
        store = Store(report.folder)
        study = store.read_study(report.key)
        assert study is not None
        rows = rows_of(store, study, about, panels)
        lines = [table(rows, about["blocks"]).rstrip()] if rows else []
        lines += [f"note: {note}" for note in _notes(store, report.results, about, panels)[:10]]
        lines += result_warnings.lines(warnings_of(store, about, panels) or (), intervals=False)
        of = {
            name: ", ".join(p for p in panels if PANELS[p].source == name)
            for name in about["taken"]
        }
        lines += [
            f"{of[name]} from: {source['words']}"
            for name, source in about["taken"].items()
            if of[name]
        ]
        lines += [
            f"{of[name]} not from: {other['words']} (--study {other['study'][:12]} takes it)"
            for name, matches in about["others"].items()
            for other in matches
            if of[name]
        ]
        missing = lacking(about, rows, panels)
        lines += [f"missing: {', '.join(names)}: {message}" for message, names in missing]
        if any(message.startswith("tlx ") for message, _ in missing):
            lines.append("the same command with --run runs what is missing")
        folder = report.folder / "studies" / report.key
        lines.append(f"{drawings.kinds(folder)}: {folder / STEM}{drawings.endings(folder, STEM)}")
        return "\n".join([*lines, *reporting.footer(report)])

    return closing


def copy(report: StudyReport, out: Path) -> list[Path]:
    """Copy the figure, the table and their sources to another folder."""
    source = report.folder / "studies" / report.key
    files.make_folder(out)
    paths = []
    tables_of = [
        path for ending in (".csv", ".json") if (path := source / f"{STEM}{ending}").is_file()
    ]
    for path in [*drawings.figures_in(source), *tables_of]:
        with files.atomic_write(out / path.name) as file, open(path, "rb") as whole:
            shutil.copyfileobj(whole, file)
        paths.append(out / path.name)
    return paths
