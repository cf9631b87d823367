"""Decision: verdicts at every number of shots, the recommended side, cost, break-even."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from ...lab.store import Store
from ...metrics.break_even import BreakEven, break_even
from ...metrics.paired import DECIDED, Verdict, analyse
from . import evidence
from . import sources as compared_sources
from .costs import Prices, SideCost, cost_of
from .evidence import FEATURES, TUNING, CurveRow, Evidence, FailedArm, Pairs, Tables
from .sources import SourceAudit
from .use import UseCost

MOST_DIVERGED = 0.2  # share of the splits above which nothing is decided
NO_DECISION = "no decision"
MUCH_OVERLAP = 0.5


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
    prices: Prices
    failed_arms: tuple[FailedArm, ...] = ()
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
    price_hour: float | None = None  # of the CPU; its name in the records
    currency: str = ""
    price_gpu_hour: float | None = None

    @property
    def prices(self) -> Prices:
        """Return what was declared of money and work."""
        return Prices(self.price_hour, self.price_gpu_hour, self.human_hours, self.currency)


@dataclass(frozen=True)
class Ending:
    """How fine-tuning ended.

    stopped   shots → why no more splits were run; 0: the budget
    share     trials that were run, of all splits of the arms left; None where finished studies are
              compared
    left_out  arms that were not gone on with
    failed    arms without a result, of both sides
    """

    stopped: Mapping[int, str] = field(default_factory=dict)
    share: float | None = None
    left_out: tuple[LeftOut, ...] = ()
    failed: tuple[FailedArm, ...] = ()


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
        side.name: cost_of(side, results, rules.prices, (use or {}).get(side.name))
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
        prices=rules.prices,
        failed_arms=ending.failed,
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
    failed_arms         side, arm, trials of each arm without a result; absent if there is none
    """
    optional: dict[str, object] = {}
    if outcome.failed_arms:
        optional["failed_arms"] = [row.identity() for row in outcome.failed_arms]
    if outcome.sources is not None:
        optional["scores"] = _plain(compared_sources.to_json(outcome.sources))
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
        **optional,
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
