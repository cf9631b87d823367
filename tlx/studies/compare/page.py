"""Page of a decision: one HTML file without scripts, requests or fonts of its own."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any, TypedDict

from ...metrics.scores import SCORES
from ...metrics.scores_audit import Agreement
from ...plots import tables
from .. import summaries
from ..scores.ranking import TITLES
from ..scores.report import number
from . import figures, sentences
from .decision import ComparisonOutcome, SideCost
from .evidence import FEATURES, TUNING
from .examples import confusions
from .sources import SourceAudit, sides_with_audit
from .use import UseCost

NOTHING = tables.NOTHING


def render(
    outcome: ComparisonOutcome, key: str, environment: Mapping[str, Any], date: str = ""
) -> str:
    """Return the page. Everything that comes from data is escaped."""
    import jinja2

    source = (resources.files(__package__) / "page.html").read_text(encoding="utf-8")
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        source
    )
    versions = environment.get("versions", {})
    return template.render(
        title=outcome.title,
        key=key[:12],
        recommended=outcome.recommended,
        date=date,
        classes=len(outcome.data.classes),
        pool=outcome.data.pool,
        test_images=outcome.headline.images if outcome.headline else 0,
        sentences=sentences.section(outcome),
        warnings=sentences.warnings(outcome),
        images=_images(outcome),
        tables={
            "shots": shots_table(outcome),
            "cost": cost_table(outcome),
            "scores": scores_table(outcome.sources),
            "correlations": correlations_table(outcome.sources),
        },
        panels=panels(outcome),
        examples=_example_rows(outcome),
        scores=sentences.scores(outcome),
        break_even=sentences.break_even(outcome),
        racing=_racing(outcome),
        at=outcome.at,
        alpha=f"{outcome.alpha:g}",
        margin=f"{100 * outcome.margin:g}",
        variance=", ".join(f"{name} {100 * share:.0f} %" for name, share in _shares(outcome)),
        command=summaries.command_line(),
        version=versions.get("tlx", ""),
        commit=str((environment.get("git") or {}).get("commit") or "")[:12],
    )


def _images(outcome: ComparisonOutcome) -> dict[str, str]:
    """Return the figures as base64 of SVG."""
    drawn = {}
    if outcome.verdicts:
        drawn["curve"] = figures.curve(outcome, "svg")
    if outcome.tables is not None:
        drawn["classes"] = figures.classes(outcome, "svg")
    if figures.variance_parts(outcome):
        drawn["variance"] = figures.variance(outcome, "svg")
    return {name: base64.b64encode(data).decode() for name, data in drawn.items()}


def _shares(outcome: ComparisonOutcome) -> list[tuple[str, float]]:
    parts = figures.variance_parts(outcome)
    total = sum(value for _, value in parts)
    return [(name, value / total if total else 0.0) for name, value in parts]


class Table(TypedDict):
    """Headings and rows of text."""

    headings: list[str]
    rows: list[list[str]]


class PagePanel(TypedDict):
    """What the page shows at one number of shots."""

    shots: int
    classes: Table
    confusions: Table
    arms: Table


def panels(outcome: ComparisonOutcome) -> list[PagePanel]:
    """Return what is shown at each number of shots."""
    return [
        {
            "shots": pair.shots,
            "classes": _classes_table(outcome, pair.shots),
            "confusions": _confusions_table(outcome, pair.shots),
            "arms": arms_table(outcome, pair.shots),
        }
        for pair in outcome.data.pairs
    ]


def shots_table(outcome: ComparisonOutcome) -> Table:
    """Return a row for each number of shots: both sides, difference, chance of being wrong."""
    means = {side: {row["shots"]: row for row in rows} for side, rows in outcome.curves.items()}
    rows = []
    for verdict in outcome.verdicts:
        is_marked = verdict.holm is not None and verdict.holm <= outcome.alpha
        rows.append(
            [
                str(verdict.shots),
                *(_percent(means[side][verdict.shots]["mean"]) for side in (FEATURES, TUNING)),
                f"{100 * verdict.mean:+.1f}".replace("-", "−"),
                _interval(verdict.low, verdict.high),
                sentences.chance(verdict),
                verdict.verdict + ("*" if is_marked else ""),
                str(verdict.splits),
            ]
        )
    headings = [
        "images per class",
        FEATURES,
        TUNING,
        "difference",
        "95 % interval",
        "P(wrong)",
        "verdict",
        "draws",
    ]
    return {"headings": headings, "rows": rows}


def _interval(low: float, high: float) -> str:
    if math.isnan(low) or math.isnan(high):
        return NOTHING
    return f"{100 * low:.1f} to {100 * high:.1f}".replace("-", "−")


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def cost_table(outcome: ComparisonOutcome) -> Table:
    """Return a row for each kind of cost, a column for each side."""

    def cells(show: Callable[[SideCost], str]) -> list[str]:
        return [show(outcome.costs[side]) for side in (FEATURES, TUNING)]

    def number(value: float | None, text: str) -> str:
        return NOTHING if value is None else text.format(value)

    def energy(cost: SideCost) -> str:
        shown = number(cost.energy_j, "{:.3g} J")
        return f"{shown} ({cost.energy_source})" if cost.energy_source else shown

    rows = [
        ["one training, wall time", *cells(lambda c: tables.short_seconds(c.seconds))],
        [
            "of it, features that trials share",
            *cells(lambda c: tables.short_seconds(c.inherited_s or None)),
        ],
        ["its test, wall time", *cells(lambda c: tables.short_seconds(c.test_s))],
        [
            "one trial without shared features, CPU time",
            *cells(lambda c: tables.short_seconds(c.cpu_s)),
        ],
        ["one trial without shared features, energy", *cells(energy)],
        ["all trials of this comparison, wall time", *cells(lambda c: tables.seconds(c.total_s))],
        ["trials", *cells(lambda c: str(c.trials))],
        *_use_rows([outcome.costs[side].use for side in (FEATURES, TUNING)]),
    ]

    def money(cost: SideCost) -> str:
        return f"{number(cost.money, '{:.3g}')} {outcome.currency}".strip()

    if any(cost.money is not None for cost in outcome.costs.values()):
        rows.append(["one trial without shared features, money", *cells(money)])
    if any(cost.human_h is not None for cost in outcome.costs.values()):
        rows.append(["hours of work, declared", *cells(lambda c: number(c.human_h, "{:g} h"))])
    return {"headings": ["", FEATURES, TUNING], "rows": rows}


def _use_rows(costs: Sequence[UseCost | None]) -> list[list[str]]:
    """Return the rows of what labelling one image takes."""
    known = [cost for cost in costs if cost is not None]
    if not known:
        return []
    crops = "/".join(dict.fromkeys(str(cost.crops) for cost in known))

    def row(name: str, show: Callable[[UseCost], str]) -> list[str]:
        return [name, *(NOTHING if cost is None else show(cost) for cost in costs)]

    return [
        row(f"labelling one image ({crops} crops)", lambda c: tables.short_seconds(c.image_s)),
        row(
            "its multiplications (MACs)",
            lambda c: NOTHING if c.macs is None else f"{c.macs / 1e6:.3g} million",
        ),
        row(
            "bytes of its weights",
            lambda c: NOTHING if c.weights_bytes is None else f"{c.weights_bytes / 1e6:.3g} MB",
        ),
    ]


def _classes_table(outcome: ComparisonOutcome, shots: int) -> Table:
    rows = [
        [
            row.name,
            _percent(row.features),
            _percent(row.tuning),
            f"{100 * row.difference:+.1f}".replace("-", "−"),
            NOTHING if row.low is None or row.high is None else _interval(row.low, row.high),
            str(row.images),
        ]
        for row in figures.class_rows(outcome, shots)
    ]
    headings = ["class", FEATURES, TUNING, "difference", "95 % interval", "test images"]
    return {"headings": headings, "rows": rows}


def _confusions_table(outcome: ComparisonOutcome, shots: int) -> Table:
    names = outcome.data.classes
    rows = [
        [row.side, names[row.true], names[row.guess], f"{100 * row.share:.1f} %"]
        for row in confusions(outcome.tables_at.get(shots))
    ]
    return {"headings": ["", "true class", "taken for", "of its images"], "rows": rows}


def _example_rows(outcome: ComparisonOutcome) -> list[dict[str, str | list[str]]]:
    """Return the pictures of each confusion, as base64 of JPEG; [] where there are none."""
    names, shown = outcome.data.classes, outcome.thumbnails
    rows: list[dict[str, str | list[str]]] = [
        {
            "words": f"{row.side}: {names[row.true]} taken for {names[row.guess]}",
            "pictures": [shown[str(i)] for i in row.images if str(i) in shown],
        }
        for row in confusions(outcome.tables)
    ]
    return [row for row in rows if row["pictures"]]


def arms_table(outcome: ComparisonOutcome, shots: int) -> Table:
    """Return a row for each arm: its validation and test accuracy at these shots."""
    rows = []
    for side in (outcome.data.features, outcome.data.tuning):
        tried = [arm for arm, trials in side.arms.items() if any(k == shots for k, _ in trials)]
        ordered = sorted(tried, key=lambda arm: side.validation(arm, shots), reverse=True)
        for name in ordered:
            at = [r for (k, _), r in side.arms[name].items() if k == shots]
            tested = [r.scores["test_accuracy"] for r in at if "test_accuracy" in r.scores]
            validated = [
                r.scores["best_val_accuracy"] for r in at if "best_val_accuracy" in r.scores
            ]
            rows.append(
                [
                    f"{side.name}: {name}" + (" (chosen)" if name == ordered[0] else ""),
                    _percent(sum(validated) / len(validated)) if validated else NOTHING,
                    _percent(sum(tested) / len(tested)) if tested else NOTHING,
                    str(len(at)),
                ]
            )
    rows += [
        [f"{TUNING}: {row.arm} (left out)", _percent(row.validation), NOTHING, str(row.draws)]
        for row in outcome.left_out
        if shots == (row.shots or outcome.at)
    ]
    headings = [f"arm, at {sentences.images(shots)}", "validation", "test", "draws"]
    return {"headings": headings, "rows": rows}


def scores_table(sources: SourceAudit | None) -> Table:
    """Return what was reached, then every score and null: a column a source, then the losses."""
    if sources is None:
        return {"headings": [], "rows": []}
    sides = sides_with_audit(sources)
    rows = []
    for side in sides:
        reached = sources.reached[side]
        splits = {row.splits for row in reached.values()}
        cells = [
            _percent(reached[name].accuracy) if name in reached else NOTHING
            for name in sources.sources
        ]
        rows.append([f"{side}, test accuracy ({splits.pop()} draws)", *cells, *[""] * len(sides)])
    for name, values in sources.values.items():
        is_elsewhere = name in SCORES and sources.shots_of(name) != sources.shots
        known = any(value is not None for value in values.values())
        where = " (all images)" if is_elsewhere and known else ""
        regrets = [sources.audits[side].rows[name].regret for side in sides]
        rows.append(
            [
                TITLES[name] + where,
                *(number(name, values[source]).replace("-", "−") for source in sources.sources),
                *(NOTHING if regret is None else f"{100 * regret:.1f}" for regret in regrets),
            ]
        )
    losses = [f"{100 * sources.audits[side].random_regret:.1f}" for side in sides]
    rows.append(["a source at random", *[""] * len(sources.sources), *losses])
    headings = ["", *sources.sources, *(f"loss, {side}" for side in sides)]
    return {"headings": headings, "rows": rows}


def correlations_table(sources: SourceAudit | None) -> Table:
    """Return the correlations of scores with what was reached; no rows of too few sources."""
    rows = []
    for side in sides_with_audit(sources) if sources is not None else []:
        assert sources is not None
        for name, row in sources.audits[side].rows.items():
            agreements = (row.weighted, row.kendall, row.pearson)
            if any(agreement.value is not None for agreement in agreements):
                rows.append([f"{TITLES[name]}, {side}", *map(_agreement, agreements)])
    return {"headings": ["", "weighted Kendall", "Kendall", "Pearson"], "rows": rows}


def _agreement(agreement: Agreement) -> str:
    if agreement.value is None:
        return NOTHING
    text = f"{agreement.value:.2f}"
    if agreement.low is not None and agreement.high is not None:
        text += f" ({agreement.low:.2f} to {agreement.high:.2f})"
    return text.replace("-", "−")


def _racing(outcome: ComparisonOutcome) -> str:
    """Return how much of the grid of fine-tunings was run, and why no more."""
    if outcome.share is None:
        return "Finished studies were compared; nothing was run."
    if outcome.share >= 1.0 and not outcome.stopped:
        return "Every draw was fine-tuned."
    words = {
        "small regret": "the expected loss of choosing by the sign is small",
        "all splits": "every draw was run",
        "no gain": "more draws cannot change it",
    }
    reasons: dict[str, list[str]] = {}
    for shots, reason in sorted(outcome.stopped.items()):
        reasons.setdefault(words.get(reason, reason), []).append(str(shots))
    reason_text = "; ".join(
        reason if shots == ["0"] else f"at {', '.join(shots)} images per class {reason}"
        for reason, shots in reasons.items()
    )
    return (
        f"{100 * outcome.share:.0f} % of the fine-tunings of the full grid were run: {reason_text}."
    )
