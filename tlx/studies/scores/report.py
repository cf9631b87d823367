"""Table, figure and closing lines of a study of scores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ... import files
from ...lab.records import MetricPoint, StoredStudy
from ...lab.store import Store
from ...metrics.scores import SCORES
from ...metrics.source_nulls import NULLS
from ...plots import tables
from ...result import Result
from .. import drawings, reporting, summaries
from ..base import StudyReport
from ..drawings import Drawings
from . import figures
from .ranking import TITLES, Ranking, Standing, ranking_of
from .spec import ALL_IMAGES, ScoresGrid

TABLE, COST, PLACES = "scores", "scores_cost", "score_places"
NOTHING = tables.NOTHING
CANNOT_TELL = (
    "a score ranks sources by their frozen features: it is no accuracy, and does not tell whether "
    "to fine-tune",
    "no score is right everywhere: on eight published data sets a fixed list that never sees the "
    "target ranks ten networks as LogME does (weighted Kendall 0.67 both; LEEP 0.42)",
    "tlx compare --sources A,B trains the first few, and says how far the scores were right",
)


def no_figures(folder: Path, result: Result, form: str | None = "png") -> None:
    """Draw nothing: the trial of a source has numbers alone."""


def settings_of(study: StoredStudy) -> tuple[str, int | None]:
    """Return the score that the table is sorted by, and the shots that it is for."""
    spec, defaults = study.get("spec", {}), ScoresGrid.defaults()
    return str(spec.get("sort_by", defaults["sort_by"])), spec.get("at")


def shots_words(shots: int) -> str:
    """Return a number of images per class in words."""
    if shots == ALL_IMAGES:
        return "all images"
    return "1 image per class" if shots == 1 else f"{shots} images per class"


def number(score: str, value: float | None) -> str:
    """Format the value of a score or a null for a table."""
    if value is None:
        return NOTHING
    if score == "parameters":
        return f"{value / 1e6:.1f} M" if value >= 1e5 else f"{value / 1e3:.0f} k"
    if score == "top1":
        return f"{100 * value:.1f} %"
    return f"{value:.3g}"


def table_of(ranking: Ranking, sort_by: str, at: int | None) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows: a row a source, the best first; scores, then nulls."""
    shots = ranking.headline(at)
    order, _ = ranking.order(sort_by, shots)
    first, everything = ranking.standings(sort_by, shots), ranking.standings(sort_by, ALL_IMAGES)
    others = [name for name in (*SCORES, *NULLS) if name != sort_by]
    columns = {name: ranking.standings(name, shots) for name in others}
    headings = ["place", "source", sort_by, "sd", "places"]
    if shots != ALL_IMAGES:
        headings.append("all images")
    headings += others
    rows = []
    for place, i in enumerate(order, 1):
        own = first[i]
        row = [str(place), own.source, number(sort_by, own.mean), number("", own.sd), _range(own)]
        if shots != ALL_IMAGES:
            row.append(number(sort_by, everything[i].mean))
        rows.append([*row, *(number(name, columns[name][i].mean) for name in others)])
    return headings, rows


def _range(row: Standing) -> str:
    """Return the least and greatest place over the draws."""
    if row.best is None:
        return NOTHING
    return str(row.best) if row.best == row.worst else f"{row.best}–{row.worst}"


def notes_of(ranking: Ranking, sort_by: str, at: int | None) -> list[str]:
    """Return what a reader must know: units, what is not defined and why, what cannot be told."""
    shots = ranking.headline(at)
    _, used = ranking.order(sort_by, shots)
    lines = [
        f"at {shots_words(shots)}: means over the draws, sd their standard deviation, places the "
        "least and greatest over the draws; larger is better in every column"
        if shots != ALL_IMAGES
        else "of all training images: larger is better in every column"
    ]
    if used != shots:
        lines.append(
            f"{sort_by} is not defined at {shots_words(shots)}: sorted by that of all images"
        )
    elif all(row.place is None for row in ranking.standings(sort_by, shots)):
        lines.append(f"{sort_by} is not defined: the sources are in the order of the question")
    reasons: dict[str, list[str]] = {}
    for name in (*SCORES, *NULLS):
        of_sources: dict[str, list[str]] = {}
        for row in ranking.standings(name, shots):
            if row.mean is None and row.reason:
                of_sources.setdefault(row.reason, []).append(row.source)
        for reason, sources in of_sources.items():
            which = "" if len(sources) == len(ranking.sources) else f" of {', '.join(sources)}"
            reasons.setdefault(reason, []).append(f"{name}{which}")
    lines += [f"{NOTHING} {', '.join(names)}: {reason}" for reason, names in reasons.items()]
    if any("saturates" in row.reason for row in ranking.standings("logme", shots)):
        lines.append("LogME saturates: no more images than features")
    return [*lines, *(f"note: {line}" for line in CANNOT_TELL)]


def _long_rows(ranking: Ranking) -> Iterator[list[object]]:
    """Yield a row for each score, number of shots and source."""
    for name in (*SCORES, *NULLS):
        for shots in ranking.shots if name in SCORES else [ALL_IMAGES]:
            for row in ranking.standings(name, shots):
                yield [
                    row.source,
                    name,
                    "null" if name in NULLS else "score",
                    "all" if shots == ALL_IMAGES else shots,
                    *(row.mean, row.sd, row.draws, row.place, row.best, row.worst, row.reason),
                ]


CSV = ["source", "score", "kind", "images_per_class", "mean", "sd", "draws"]
CSV += ["place", "best_place", "worst_place", "reason"]


def cost_rows(ranking: Ranking) -> tuple[list[str], list[list[object]]]:
    """Return headings and a row a source: seconds of extraction and of each score, all draws."""
    headings = ["source", "features", "images", "extraction_s", "scores_s"]
    headings += [f"{name}_s" for name in SCORES]
    rows = [
        [
            source,
            result.details["features"],
            max(result.details["images"]),
            result.scores["extraction_s"],
            result.scores["scores_s"],
            *(result.details["seconds"][name] for name in SCORES),
        ]
        for source, result in zip(ranking.sources, ranking.results, strict=True)
    ]
    return headings, rows


def study_drawings(store: Store, study: StoredStudy) -> Drawings:
    """Return the figure of the places; none of one source."""
    ranking = ranking_of(reporting.results_of(store, study))
    if len(ranking.results) < 2:
        return {}
    sort_by, at = settings_of(study)
    return {PLACES: lambda form: figures.places(ranking, sort_by, at, study["title"], form)}


def write_summary(store: Store, key: str, form: str | None = "png") -> None:
    """Write the tables, the figure and the summary of a study of scores."""
    study = store.read_study(key)
    if study is None:
        return
    folder, (sort_by, at) = store.study_folder(key), settings_of(study)
    ranking = ranking_of(reporting.results_of(store, study))
    shown, verdict = "", ""
    if ranking.results:
        headings, rows = table_of(ranking, sort_by, at)
        shown = tables.as_markdown(headings, rows)
        verdict = f"{study['title']}: {rows[0][1]} is first by {TITLES[sort_by]}"
        files.write_text(folder / f"{TABLE}.csv", tables.as_csv(CSV, list(_long_rows(ranking))))
        files.write_text(folder / f"{TABLE}.md", shown)
        files.write_text(folder / f"{COST}.csv", tables.as_csv(*cost_rows(ranking)))
        drawings.write(folder, study_drawings(store, study), form)
    summaries.write(
        folder,
        study,
        _metrics(ranking),
        finished=len(ranking.results),
        verdict=verdict,
        table=shown,
        intervals=False,
    )


def _metrics(ranking: Ranking) -> list[MetricPoint]:
    """Return score/source over the numbers of shots; step 0 is all training images."""
    return [
        {"name": f"{name}/{row.source}", "value": row.mean, "step": shots}
        for name in (*SCORES, *NULLS)
        for shots in (ranking.shots if name in SCORES else [ALL_IMAGES])
        for row in ranking.standings(name, shots)
        if row.mean is not None
    ]


def format_summary(report: StudyReport) -> str:
    """Return the closing lines: the table, what it holds, what it took, what it cannot tell."""
    store = Store(report.folder)
    study = store.read_study(report.key)
    assert study is not None
    ranking = ranking_of(reporting.results_of(store, study))
    sort_by, at = settings_of(study)
    if not ranking.results:
        return "\n".join(reporting.footer(report))
    extraction_s = sum(result.scores["extraction_s"] for result in ranking.results)
    scores_s = sum(result.scores["scores_s"] for result in ranking.results)
    lines = [
        tables.as_text(*table_of(ranking, sort_by, at)).rstrip(),
        *notes_of(ranking, sort_by, at),
        f"extraction took {tables.seconds(extraction_s)}, the scores {tables.seconds(scores_s)}; "
        "nothing was trained",
        f"{drawings.kinds(report.study_folder, 'tables')}: {report.study_folder / TABLE}"
        f"{drawings.endings(report.study_folder, TABLE)}",
    ]
    return "\n".join([*lines, *reporting.footer(report)])
