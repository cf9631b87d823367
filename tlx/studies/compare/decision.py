"""Decision: verdicts at every number of shots, the recommended side, cost, break-even."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from ...lab.store import Store
from ...metrics.break_even import BreakEven, break_even
from ...metrics.paired import DECIDED, Verdict, analyse
from ...result import Result
from . import evidence
from . import sources as compared_sources
from .evidence import FEATURES, TUNING, CurveRow, Evidence, Pairs, Tables
from .sources import SourceAudit
from .use import UseCost

MOST_DIVERGED = 0.2  # share of the splits above which nothing is decided
NO_DECISION = "no decision"
MUCH_OVERLAP = 0.5


@dataclass(frozen=True)
class SideCost:
    """What one training of a side costs, mean over its trials at the headline.

    seconds     wall time of one training, validation included and test not: its own and its share
                of the features that trials have in common; None if none ended well
    inherited_s  of `seconds`, that share
    test_s      wall time of the test of one trial
    cpu_s       CPU time of a trial without the shared features; None if it was not measured
    energy_j    energy; None where no counter and no declared wattage is
    energy_source  measured, modelled or declared
    money       price of the CPU time; None without a price
    human_h     hours of work, as declared; None without
    total_s     wall time of all trials of the side in this comparison
    trials, arms   how many
    use         cost of using its network; None if it was not measured
    """

    seconds: float | None
    inherited_s: float
    test_s: float
    cpu_s: float | None
    energy_j: float | None
    energy_source: str
    money: float | None
    human_h: float | None
    total_s: float
    trials: int
    arms: int
    use: UseCost | None = None


@dataclass(frozen=True)
class ComparisonOutcome:
    """Everything that the page, the record and the closing lines are made from."""

    title: str
    at: int
    alpha: float
    margin: float
    verdicts: tuple[Verdict, ...]
    headline: Verdict | None
    verdict: str
    recommended: str
    champions: Mapping[str, str]
    curves: Mapping[str, list[CurveRow]]
    costs: Mapping[str, SideCost]
    break_even: BreakEven
    data: Evidence
    tables_at: Mapping[int, Tables]  # shots → paired test images, where predictions were kept
    stopped: Mapping[int, str]
    share: float | None
    left_out: tuple[LeftOut, ...]
    currency: str
    sources: SourceAudit | None = None
    thumbnails: Mapping[str, str] = field(default_factory=dict)  # test image → JPEG as base64

    @property
    def pairs(self) -> Pairs:
        """Return the pairs of the headline."""
        return next(pair for pair in self.data.pairs if pair.shots == self.at)

    @property
    def tables(self) -> Tables | None:
        """Return the paired test images of the headline; None without predictions."""
        return self.tables_at.get(self.at)


@dataclass(frozen=True)
class LeftOut:
    """Arm of fine-tuning that was not gone on with.

    validation  its mean validation accuracy
    draws       that it was tried on
    shots       number of shots that it was left out at; None in records of tlx before: the headline
    """

    arm: str
    validation: float
    draws: int
    shots: int | None = None


@dataclass(frozen=True)
class Rules:
    """What counts as decided, and what costs."""

    at: int | None
    alpha: float
    margin: float
    human_hours: Mapping[str, float]
    price_hour: float | None
    currency: str = ""


@dataclass(frozen=True)
class Ending:
    """How fine-tuning ended.

    stopped   shots → why no more splits were run; 0: the budget
    share     trials that were run, of all splits of the arms left; None where finished studies are
              compared
    left_out  arms that were not gone on with
    """

    stopped: Mapping[int, str] = field(default_factory=dict)
    share: float | None = None
    left_out: tuple[LeftOut, ...] = ()


def decide(
    store: Store,
    data: Evidence,
    rules: Rules,
    title: str,
    ending: Ending,
    *,
    sources: SourceAudit | None = None,
    use: Mapping[str, UseCost] | None = None,
    thumbnails: Mapping[str, str] | None = None,
) -> ComparisonOutcome:
    """Return the decision from the evidence.

    sources  scores of several sources
    use      side → cost of using its network
    thumbnails  number of a test image → its picture for the page
    """
    tables = {pair.shots: evidence.tables_of(store, pair) for pair in data.pairs}
    scored = [pair for pair in data.pairs if pair.features]
    contrasts = [evidence.contrast_of(p, tables[p.shots], data.pool) for p in scored]
    verdicts = tuple(analyse(contrasts, alpha=rules.alpha, margin=rules.margin))
    at = rules.at or max(pair.shots for pair in data.pairs)
    headline = next((verdict for verdict in verdicts if verdict.shots == at), None)
    pairs = next(pair for pair in data.pairs if pair.shots == at)
    costs = {
        side.name: replace(_cost_of(side, results, rules), use=(use or {}).get(side.name))
        for side, results in ((data.features, pairs.features), (data.tuning, pairs.tuning))
    }
    verdict = headline.verdict if headline is not None else NO_DECISION
    if pairs.tried and pairs.diverged / pairs.tried > MOST_DIVERGED:
        verdict = NO_DECISION
    curves = {
        side: evidence.curve_of_side(scored, tables, side, data.pool) for side in (FEATURES, TUNING)
    }
    return ComparisonOutcome(
        title=title,
        at=at,
        alpha=rules.alpha,
        margin=rules.margin,
        verdicts=verdicts,
        headline=headline,
        verdict=verdict,
        recommended=_recommended(headline, verdict, costs),
        champions={FEATURES: data.features.champion(at), TUNING: data.tuning.champion(at)},
        curves=curves,
        costs=costs,
        break_even=break_even(verdicts, alpha=rules.alpha),
        data=data,
        tables_at={shots: table for shots, table in tables.items() if table is not None},
        stopped=ending.stopped,
        share=ending.share,
        left_out=ending.left_out,
        currency=rules.currency,
        sources=sources,
        thumbnails=thumbnails or {},
    )


def _recommended(headline: Verdict | None, verdict: str, costs: Mapping[str, SideCost]) -> str:
    """Return the better side if it is sure, else the cheaper one; "" without a decision."""
    if verdict == NO_DECISION or headline is None:
        return ""
    if verdict == DECIDED:
        return TUNING if headline.mean > 0 else FEATURES

    def seconds(side: str) -> float:
        known = costs[side].seconds
        return math.inf if known is None else known

    return min(costs, key=seconds)


def _cost_of(side: evidence.Side, results: Sequence[Result], rules: Rules) -> SideCost:
    every = [r for trials in side.arms.values() for r in trials.values()]
    cpu_s, _ = _measured(results, "cpu_s")
    energy_j, source = _measured(results, "energy_j")
    money = None
    if rules.price_hour is not None and cpu_s is not None:
        money = rules.price_hour * cpu_s / 3600.0
    return SideCost(
        seconds=mean_seconds(results) if results else None,
        inherited_s=_mean(map(_inherited_s, results)),
        test_s=_mean(map(_test_s, results)),
        cpu_s=cpu_s,
        energy_j=energy_j,
        energy_source=source,
        money=money,
        human_h=rules.human_hours.get(side.name),
        total_s=float(sum(_whole_s(result, "own_s") for result in every)),
        trials=len(every),
        arms=len(side.arms),
    )


def mean_seconds(results: Sequence[Result]) -> float:
    """Return the mean wall time of one training with its share of features, without its test."""
    return _mean(_whole_s(result, "total_s") - _test_s(result) for result in results)


def _whole_s(result: Result, name: str) -> float:
    """Return the wall time of a trial: "total_s", or "own_s" without what trials share."""
    scores = result.scores
    return float(scores.get(name, scores.get("total_s", scores.get("train_s", 0.0))))


def _test_s(result: Result) -> float:
    """Return the wall time of the test: features of test images, predictions."""
    names = ("test_s", "test_extraction_s", "predict_s")
    return float(sum(result.scores.get(name, 0.0) for name in names))


def _inherited_s(result: Result) -> float:
    """Return the trial's share of the wall time of training features."""
    scores = result.scores
    return float(scores.get("inherited_s", 0.0) - scores.get("test_extraction_s", 0.0))


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return float(np.mean(known)) if known else 0.0


def _measured(results: Sequence[Result], name: str) -> tuple[float | None, str]:
    """Return the mean of a cost and where it comes from; None where a trial has none."""
    rows = [result.cost.get(name, {}) for result in results]
    values = [row.get("value") for row in rows]
    if not values or any(value is None for value in values):
        return None, ""
    return float(np.mean([float(value) for value in values if value is not None])), str(
        rows[0].get("source", "")
    )


def to_json(outcome: ComparisonOutcome) -> dict[str, object]:
    """Return the decision as plain JSON: numbers only, the same for the same trials.

    Times and costs are not in it: they differ from machine to machine.

    at, alpha, margin   the rule
    verdict             decided, equivalent, undecided, one draw or no decision
    recommended         "feature extraction" or "fine-tuning"; "" without a decision
    champions           side → arm
    verdicts            one a number of shots, all fields of `metrics.paired.Verdict`
    break_even          low, high, estimate, fieller, words
    trials              keys of the trials of both sides
    scores              of several sources: `sources.to_json`; else absent
    """
    scores: dict[str, object] = {}
    if outcome.sources is not None:
        scores["scores"] = _plain(compared_sources.to_json(outcome.sources))
    return {
        "format": 1,
        "at": outcome.at,
        "alpha": outcome.alpha,
        "margin": outcome.margin,
        "verdict": outcome.verdict,
        "recommended": outcome.recommended,
        "champions": dict(outcome.champions),
        "verdicts": [_plain(asdict(verdict)) for verdict in outcome.verdicts],
        "break_even": _plain({**asdict(outcome.break_even), "words": outcome.break_even.words}),
        "curves": {side: [_plain(row) for row in rows] for side, rows in outcome.curves.items()},
        "trials": sorted(result.key for result in outcome.data.trials),
        **scores,
    }


def _plain(value: object) -> object:
    """Return JSON without NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
