"""Record, tables, page and figures of a comparison, and its closing lines."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ... import files
from ...errors import IntegrityError
from ...lab.records import MetricPoint, StoredStudy
from ...lab.store import Store
from ...plots import tables
from ...result import FINISHED, Result
from .. import drawings, reporting, summaries
from ..base import StudyReport, TrialContext
from ..drawings import Drawings
from . import across, costs, evidence, examples, figures, page, pareto, sentences, sources, use
from .decision import (
    NO_DECISION,
    ComparisonOutcome,
    Ending,
    LeftOut,
    Rules,
    decide,
    to_json,
)
from .evidence import FEATURES, TUNING, FailedArm, Side
from .spec import ChoiceRules, Decision

RECORD, PAGE, TABLE, COST = "decision.json", "page.html", "comparison", "cost"
SCORES, AUDIT = "scores", "scores_audit"


def run(spec: Decision, inputs: Mapping[str, Any], context: TrialContext) -> Result:
    """Record what a decision is made from, and measure its networks; the decision follows from it.

    inputs  details of the result: keys of the trials, rules, title, how the race ended
    """
    details = dict(inputs)
    frozen = details.pop("frozen", {})
    details["use"] = use.measure(inputs["networks"], context.stopping, frozen)
    if files_shown := details.pop("example_files", None):
        details["thumbnails"] = examples.thumbnails(files_shown)
    context.tell(1, 1)
    return Result.of(spec, status=FINISHED, scores={}, details=details)


def outcome_of(store: Store, result: Result) -> ComparisonOutcome:
    """Return the decision from the trials that its record names.

    Raises IntegrityError if one of them is gone.
    """
    details = result.details
    sides = {side: Side(side) for side in (FEATURES, TUNING)}
    for trial in _trials_of(store, details["trials"]):
        for side in sides.values():
            side.add([trial])
    for name, places in details.get("failed", {}).items():
        sides[name].failed |= {(int(shots), int(split)) for shots, split in places}
    data = evidence.gather(sides[FEATURES], sides[TUNING])
    scored = _trials_of(store, details.get("scores", []))
    left_out = _trials_of(store, details.get("left_trials", []))
    return decide(
        store,
        data,
        Rules(**details["rules"]),
        details["title"],
        Ending(
            {int(shots): reason for shots, reason in details["stopped"].items()},
            details["share"],
            tuple(LeftOut(**row) for row in details["left_out"]),
            tuple(FailedArm(**row) for row in details.get("failed_arms", [])),
        ),
        sources=sources.audit_sources(scored, data, left_out, int(details["rules"]["at"])),
        thumbnails=details.get("thumbnails"),
        use={side: use.UseCost(**row) for side, row in details.get("use", {}).items()},
    )


def _trials_of(store: Store, keys: Iterable[str]) -> list[Result]:
    """Return the trials of these keys. Raises IntegrityError if one is gone."""
    trials = []
    for key in keys:
        trial = store.find(key)
        if trial is None:
            raise IntegrityError(
                "trial-gone",
                f"trial {key[:12]} of this decision",
                where=store.root,
                remedy="run the comparison again",
            )
        trials.append(trial)
    return trials


def study_drawings(store: Store, study: StoredStudy) -> Drawings:
    """Return the figures of a comparison."""
    result = store.find(study["trials"][-1]["key"])
    if result is None:
        return {}
    if result.kind == ChoiceRules.kind:
        return across.study_drawings(across.outcome_of(store, result, outcome_of))
    return _drawings(outcome_of(store, result))


def _drawings(outcome: ComparisonOutcome) -> Drawings:
    drawn: dict[str, Callable[[str], bytes]] = {}
    if outcome.verdicts:
        drawn["comparison_curve"] = lambda form: figures.curve(outcome, form)
    axes = pareto.axes_of(outcome)
    if not all(axis.reason for axis in axes):
        drawn["comparison_pareto"] = lambda form: pareto.draw(outcome, axes, form)
    if outcome.tables is not None:
        drawn["comparison_classes"] = lambda form: figures.classes(outcome, form)
    if figures.variance_parts(outcome):
        drawn["comparison_variance"] = lambda form: figures.variance(outcome, form)
    return drawn


def write_summary(store: Store, key: str, form: str | None = "png") -> None:
    """Write the record, the tables, the page and the figures of a comparison."""
    study = store.read_study(key)
    if study is None or (result := store.find(study["trials"][-1]["key"])) is None:
        return
    if result.kind == ChoiceRules.kind:
        across.write_summary(store, study, across.outcome_of(store, result, outcome_of), form)
        return
    outcome = outcome_of(store, result)
    folder = store.study_folder(key)
    files.write_json(folder / RECORD, to_json(outcome))
    shots = page.shots_table(outcome)
    files.write_text(folder / f"{TABLE}.csv", _csv(outcome))
    files.write_text(
        folder / f"{COST}.csv", tables.as_csv(costs.CSV, costs.csv_rows(outcome.costs))
    )
    if outcome.sources is not None:
        values, audits = sources.value_rows(outcome.sources), sources.audit_rows(outcome.sources)
        files.write_text(folder / f"{SCORES}.csv", tables.as_csv(sources.VALUES_CSV, values))
        files.write_text(folder / f"{AUDIT}.csv", tables.as_csv(sources.AUDIT_CSV, audits))
    files.write_text(folder / PAGE, page.render(outcome, key, result.environment, _today()))
    drawings.write(folder, _drawings(outcome), form)
    summaries.write(
        folder,
        study,
        _metrics(outcome),
        finished=1,
        verdict=sentences.answer(outcome),
        table=tables.as_markdown(shots["headings"], shots["rows"]),
        warnings=sentences.warnings(outcome),
        intervals=False,
        tags={"tlx.verdict": outcome.verdict, "tlx.recommended": outcome.recommended or "none"},
    )


def _today() -> str:
    """Return the date, which is all that differs between two pages of one decision."""
    return datetime.datetime.now().astimezone().date().isoformat()


def _csv(outcome: ComparisonOutcome) -> str:
    """Return a row for each number of shots, with every number of its verdict."""
    names = ["shots", "splits", "images", "mean", "se", "df", "low", "high", "p_wrong", "regret"]
    names += ["tost_p", "holm", "verdict", "pool_share", "dropped"]
    means = {
        side: {row["shots"]: row["mean"] for row in rows} for side, rows in outcome.curves.items()
    }
    rows = [
        [means[FEATURES][v.shots], means[TUNING][v.shots], *(getattr(v, name) for name in names)]
        for v in outcome.verdicts
    ]
    return tables.as_csv(["features_mean", "tuning_mean", *names], rows)


def _metrics(outcome: ComparisonOutcome) -> list[MetricPoint]:
    """Return the metrics of the parent run, shots as step."""
    metrics: list[MetricPoint] = []
    for verdict in outcome.verdicts:
        values = {
            "delta": verdict.mean,
            "delta_low": verdict.low,
            "delta_high": verdict.high,
            "p_wrong": verdict.p_wrong,
            "regret": verdict.regret,
        }
        metrics += [
            {"name": name, "value": value, "step": verdict.shots}
            for name, value in values.items()
            if value is not None and abs(value) < float("inf")
        ]
    for side, name in ((FEATURES, "fe_mean"), (TUNING, "ft_mean")):
        metrics += [
            {"name": name, "value": row["mean"], "step": row["shots"]}
            for row in outcome.curves[side]
        ]
    return metrics


def format_summary(report: StudyReport) -> str:
    """Return the closing lines: the four sentences, the table, where the page is."""
    store, result = Store(report.folder), report.results[-1]
    if result.kind == ChoiceRules.kind:
        return across.format_summary(report, across.outcome_of(store, result, outcome_of))
    outcome = outcome_of(store, result)
    shots = page.shots_table(outcome)
    lines = [
        *sentences.section(outcome),
        "",
        tables.as_text(shots["headings"], shots["rows"]).rstrip(),
        "difference: fine-tuning minus feature extraction, in points; 95 % interval over new draws "
        "and new test images",
        "decided: P(wrong), of one side, is at most "
        f"{outcome.alpha:g}; * also after Holm's adjustment for the rows",
        *(sentences.scores(outcome) if outcome.sources is not None else []),
        *(f"warning: {line}" for line in sentences.warnings(outcome)),
        f"page: {report.study_folder / PAGE}",
        *([f"take its model: tlx export {report.key[:12]}"] if outcome.recommended else []),
    ]
    return "\n".join([*lines, *reporting.footer(report)])


def has_no_decision(outcome: ComparisonOutcome) -> bool:
    """Return whether trials failed so that nothing is decided."""
    return outcome.verdict == NO_DECISION
