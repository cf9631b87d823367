"""Page of a decision: one HTML file without scripts, requests or fonts of its own."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any, TypedDict

import numpy as np

from ...errors import counted
from ...metrics.scores import SCORES
from ...metrics.scores_audit import Agreement
from ...plots import tables
from .. import summaries
from ..scores.ranking import TITLES
from ..scores.report import number
from . import figures, pareto, sentences
from .costs import COSTS, NOT_SHARED, CostRow, SideCost
from .decision import ComparisonOutcome
from .evidence import FEATURES, TUNING
from .examples import confusions
from .sources import SourceAudit, sides_with_audit
from .use import UseCost

NOTHING, NONE = tables.NOTHING, "none"  # not known; known to be nothing


def render(
    outcome: ComparisonOutcome, key: str, environment: Mapping[str, Any], date: str = ""
) -> str:
    """Return the page. Everything that comes from data is escaped."""
    import jinja2

    source = (resources.files(__package__) / "page.html").read_text(encoding="utf-8")
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        source
    )
    versions, axes = environment.get("versions", {}), pareto.axes_of(outcome)
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
            "pareto": _pareto_table(axes),
            "scores": scores_table(outcome.sources),
            "correlations": correlations_table(outcome.sources),
        },
        panels=panels(outcome),
        cost_notes=cost_notes(outcome),
        left_out=pareto.left_out(axes),
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
    axes = pareto.axes_of(outcome)
    if not all(axis.reason for axis in axes):
        drawn["pareto"] = pareto.draw(outcome, axes, "svg")
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
    sides = [outcome.costs[side] for side in (FEATURES, TUNING)]

    def cells(show: Callable[[SideCost], str]) -> list[str]:
        return [show(cost) for cost in sides]

    rows = [
        ["one training, wall time", *cells(lambda c: tables.short_seconds(c.seconds))],
        [
            "of it, what trials share",
            *cells(lambda c: tables.short_seconds(c.inherited_s) if c.inherited_s else NONE),
        ],
        ["its test, wall time", *cells(lambda c: tables.short_seconds(c.test_s))],
    ]
    for name in ("cpu_s", "gpu_s", "energy_j", "co2_g", "money", "memory_peak_bytes", "disk_bytes"):
        if name in ALWAYS or any(cost.whole[name].value is not None for cost in sides):
            rows += _cost_rows(name, sides)
    if any(cost.whole["human_h"].value is not None for cost in sides):
        rows.append(["hours of work", *(_shown_cost("human_h", c.whole["human_h"]) for c in sides)])
    rows += [
        ["all trials, wall time", *cells(lambda c: tables.seconds(c.total_s))],
        ["trials", *cells(lambda c: str(c.trials))],
        *_use_rows([cost.use for cost in sides]),
    ]
    return {"headings": ["", FEATURES, TUNING], "rows": rows}


ALWAYS = ("cpu_s", "energy_j")  # costs that have a row where they are unknown, too


def _cost_rows(name: str, sides: Sequence[SideCost]) -> list[list[str]]:
    """Return the row of a trial with its test, and that of its share of common work."""
    title = COSTS[name].title
    rows = [[f"trial and test, {title}", *(_shown_cost(name, c.whole[name]) for c in sides)]]
    shared = [cost.inherited.get(name) for cost in sides]
    if any(row is not None and row.value is not None for row in shared):
        shown = [NOTHING if row is None else _shown_cost(name, row) for row in shared]
        rows.append(["of it, what trials share", *shown])
    return rows


def _shown_cost(name: str, row: CostRow) -> str:
    """Return a cost with its unit; where it is not measured, its source and interval too."""
    if row.value is None:
        return NONE if row.note == NOT_SHARED else NOTHING
    if row.unit == "s":
        return tables.short_seconds(row.value)
    factor, unit = _scale(row.value, row.unit)
    text = f"{_digits(row.value / factor)} {unit}".strip()
    if row.low is not None and row.high is not None:
        text += f" ({_digits(row.low / factor)} to {_digits(row.high / factor)})"
    return text if row.source in ("measured", "") else f"{text}, {row.source}"


def _scale(value: float, unit: str) -> tuple[float, str]:
    """Return the size of the unit that a value is shown in, and its name."""
    if unit == "bytes":
        return 1e6, "MB"
    if unit == "g" and 0.0 < value < 0.1:
        return (1e-3, "mg") if value >= 1e-4 else (1e-6, "µg")
    return 1.0, unit


def _digits(value: float) -> str:
    """Return three digits of a number, without an exponent."""
    return np.format_float_positional(value, precision=3, fractional=False, trim="-")


def cost_notes(outcome: ComparisonOutcome) -> list[str]:
    """Return where numbers come from, and why those that are unknown are."""
    notes: dict[str, None] = {}
    for side in (FEATURES, TUNING):
        cost = outcome.costs[side]
        for name in ("cpu_s", "energy_j", "co2_g", "money"):
            row = cost.whole[name]
            is_told = row.value is not None or name in ALWAYS or _is_wanted(name, outcome)
            if row.note and is_told:
                state = "" if row.value is not None else " unknown:"
                notes[f"{side}, {COSTS[name].title}:{state} {row.note}"] = None
        if cost.use is not None and cost.use.reason:
            notes[f"{side}, labelling one image: {cost.use.reason}"] = None
    return list(notes)


def _is_wanted(name: str, outcome: ComparisonOutcome) -> bool:
    """Return whether something was declared that this cost follows from."""
    prices = outcome.prices
    return name == "money" and (prices.cpu_hour is not None or prices.gpu_hour is not None)


def _pareto_table(axes: list[pareto.Axis]) -> Table:
    headings, rows = pareto.table(axes)
    return {"headings": headings, "rows": rows}


def _use_rows(costs: Sequence[UseCost | None]) -> list[list[str]]:
    """Return the rows of what labelling one image takes."""
    known = [cost for cost in costs if cost is not None]
    if not known:
        return []
    crops = "/".join(dict.fromkeys(str(cost.crops) for cost in known))

    def row(name: str, show: Callable[[UseCost], str]) -> list[str]:
        return [name, *(NOTHING if cost is None else show(cost) for cost in costs)]

    return [
        row(
            f"labelling one image ({crops} crops)",
            lambda c: tables.short_seconds(c.image_s),
        ),
        row(
            "its multiplications (MACs)",
            lambda c: NOTHING if c.macs is None else f"{c.macs / 1e6:.3g} million",
        ),
        row("bytes of its weights", lambda c: _megabytes(c.weights_bytes)),
        *(
            [row("bytes of the classifier on top", _classifier_bytes)]
            if any(cost.classifier_bytes is not None for cost in known)
            else []
        ),
    ]


def _classifier_bytes(cost: UseCost) -> str:
    if cost.classifier_bytes is None and not cost.reason:
        return NONE  # the network has a head of its own
    return _megabytes(cost.classifier_bytes)


def _megabytes(size: int | None) -> str:
    return NOTHING if size is None else f"{size / 1e6:.3g} MB"


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
    rows += [
        [f"{row.side}: {row.arm} (failed)", NOTHING, NOTHING, "0"] for row in outcome.failed_arms
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
        rows.append(
            [f"{side}, test accuracy ({counted(splits.pop(), 'draw')})", *cells, *[""] * len(sides)]
        )
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
