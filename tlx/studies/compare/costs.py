"""What a side costs: one trial with its share of common work, its source, and what is unknown.

A number that is not known is None with the reason, never 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ...lab.cost import INHERITED, J_PER_KWH
from ...result import Result
from .evidence import SIDES, Side
from .use import UseCost

S_PER_H = 3600.0
NOT_RECORDED = "a trial has no record of it"
NO_GPU = "no GPU was used"
NOT_SHARED = "its trials share nothing"
NOT_KEPT = "features of an older version: what they took was not kept"
NO_PRICE = "no price was given"
NO_CLASSIFIER = "the network has its own head"
NOT_DECLARED = "not declared"


@dataclass(frozen=True)
class CostName:
    """Row of COSTS: title on the page, unit, and codecarbon's field with its size in our unit."""

    title: str
    unit: str
    codecarbon: str = ""
    codecarbon_unit: float = 1.0


COSTS: dict[str, CostName] = {
    "wall_s": CostName("wall time", "s", "duration"),
    "cpu_s": CostName("CPU time", "s"),
    "gpu_s": CostName("GPU time", "s"),
    "energy_j": CostName("energy", "J", "energy_consumed", J_PER_KWH),
    "co2_g": CostName("CO2", "g", "emissions", 1000.0),
    "memory_peak_bytes": CostName("peak memory", "bytes"),
    "gpu_memory_peak_bytes": CostName("peak GPU memory", "bytes"),
    "disk_bytes": CostName("disk", "bytes"),
    "money": CostName("money", ""),
    "human_h": CostName("hours of work", "h"),
}
PEAKS = ("memory_peak_bytes", "gpu_memory_peak_bytes")  # of a trial alone: they do not add up
ABSENT = {"gpu_s": NO_GPU, "gpu_memory_peak_bytes": NO_GPU}  # cost → why a trial has no row of it


@dataclass(frozen=True)
class CostRow:
    """One cost: its value with the ends of its interval, unit, where it is from, what to know."""

    value: float | None
    unit: str
    source: str = ""
    note: str = ""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Prices:
    """What is declared of money and work.

    cpu_hour, gpu_hour  price of an hour of CPU time, and of holding a GPU for an hour
    human_hours         side → hours of work
    """

    cpu_hour: float | None = None
    gpu_hour: float | None = None
    human_hours: Mapping[str, float] = field(default_factory=dict)
    currency: str = ""


@dataclass(frozen=True)
class SideCost:
    """What one training of a side costs, mean over its trials at the headline.

    seconds     wall time of one training, validation included and test not: its own and its share
                of the features that trials have in common; None if none ended well
    inherited_s  of `seconds`, that share
    test_s      wall time of the test of one trial
    total_s     wall time of all trials of the side in this comparison
    trials, arms   how many
    own, inherited, whole  name in COSTS → of one trial with its test: what it took itself, its
                share of what trials have in common, and both
    use         cost of using its network; None if it was not measured
    """

    seconds: float | None
    inherited_s: float
    test_s: float
    total_s: float
    trials: int
    arms: int
    own: Mapping[str, CostRow]
    inherited: Mapping[str, CostRow]
    whole: Mapping[str, CostRow]
    use: UseCost | None = None


def cost_of(
    side: Side, results: Sequence[Result], prices: Prices, use: UseCost | None = None
) -> SideCost:
    """Return what a trial of a side costs: mean over `results`, its trials at the headline."""
    every = [r for trials in side.arms.values() for r in trials.values()]
    own, inherited, whole = rows_of(side.name, results, prices)
    return SideCost(
        seconds=mean_seconds(results) if results else None,
        inherited_s=_mean(map(_inherited_s, results)),
        test_s=_mean(map(_test_s, results)),
        total_s=float(sum(_whole_s(result, "own_s") for result in every)),
        trials=len(every),
        arms=len(side.arms),
        own=own,
        inherited=inherited,
        whole=whole,
        use=use,
    )


def rows_of(side: str, results: Sequence[Result], prices: Prices) -> tuple[dict[str, CostRow], ...]:
    """Return own, inherited and whole cost of a trial, mean over these."""
    is_frozen = SIDES[side] == "feature-extraction"
    shares = is_frozen or any(
        name.startswith(INHERITED) for result in results for name in result.cost
    )
    sharing = results if is_frozen else [_inheriting(result) for result in results]
    own, inherited, whole = dict[str, CostRow](), dict[str, CostRow](), dict[str, CostRow]()
    for name, row in COSTS.items():
        if name in ("money", "human_h"):
            continue
        own[name] = mean_row(results, name)
        if name in PEAKS:
            whole[name] = own[name]
        elif not shares:
            inherited[name] = CostRow(None, row.unit, note=NOT_SHARED)
            whole[name] = own[name]
        else:
            inherited[name] = mean_row(sharing, name, INHERITED, NOT_KEPT)
            whole[name] = added(own[name], inherited[name])
    for part in (own, whole):
        part["money"] = money(part, prices)
    no_money = CostRow(None, prices.currency, note=NOT_SHARED)
    inherited["money"] = money(inherited, prices) if shares else no_money
    whole["human_h"] = CostRow(None, "h", note=NOT_DECLARED)
    if (hours := prices.human_hours.get(side)) is not None:
        whole["human_h"] = CostRow(hours, "h", "declared")
    return own, inherited, whole


def _inheriting(result: Result) -> Result:
    """Return a fine-tuning whose rows tell what it inherits: nothing, where it has no such row.

    Of trainings that share rows after frozen blocks the one that computed them inherits nothing.
    """
    if any(name.startswith(INHERITED) for name in result.cost):
        return result
    nothing = {
        INHERITED + name: {**row, "value": 0.0, "low": 0.0, "high": 0.0}
        for name, row in result.cost.items()
        if row.get("value") is not None
    }
    return replace(result, cost={**result.cost, **nothing})


def mean_row(
    results: Sequence[Result], name: str, prefix: str = "", absent: str = NOT_RECORDED
) -> CostRow:
    """Return the mean of a cost over trials; None, with the reason, where one does not know it.

    prefix  before the names of the trials' rows
    absent  why a trial has no row
    """
    unit, rows = COSTS[name].unit, [result.cost.get(prefix + name) for result in results]
    if not rows or all(row is None for row in rows):
        is_recorded = bool(rows) and all(prefix + "cpu_s" in result.cost for result in results)
        return CostRow(None, unit, note=ABSENT.get(name, absent) if is_recorded else absent)
    unknown = [row for row in rows if row is None or row.get("value") is None]
    if unknown:
        reason = next((str(row["note"]) for row in unknown if row and row.get("note")), absent)
        return CostRow(None, unit, note=reason)
    known = [row for row in rows if row is not None]
    sources = dict.fromkeys(str(row.get("source")) for row in known)
    notes = dict.fromkeys(str(row["note"]) for row in known if row.get("note"))
    has_ends = any("low" in row for row in known)
    return CostRow(
        _mean(float(row["value"]) for row in known),
        unit,
        "; ".join(sources),
        next(iter(notes)) if len(notes) == 1 else "",
        _mean(float(row.get("low", row["value"])) for row in known) if has_ends else None,
        _mean(float(row.get("high", row["value"])) for row in known) if has_ends else None,
    )


def added(own: CostRow, inherited: CostRow) -> CostRow:
    """Return the sum of two costs; None where one is unknown, unless no GPU was used for it."""
    parts = [row for row in (own, inherited) if row.note != NO_GPU or row.value is not None]
    if not parts:
        return own
    for row in parts:
        if row.value is None:
            return row
    ends: list[float | None] = [None, None]
    if any(row.low is not None for row in parts):
        ends = [
            sum(_end(row, row.low) for row in parts),
            sum(_end(row, row.high) for row in parts),
        ]
    notes = dict.fromkeys(row.note for row in parts if row.note)
    return CostRow(
        sum(float(row.value or 0.0) for row in parts),
        own.unit,
        "; ".join(dict.fromkeys(row.source for row in parts)),
        "; ".join(notes),
        *ends,
    )


def _end(row: CostRow, end: float | None) -> float:
    return float(row.value or 0.0) if end is None else end


def money(rows: Mapping[str, CostRow], prices: Prices) -> CostRow:
    """Return the price of the CPU and GPU hours of a trial.

    What was used and has no price makes the sum unknown, but for the CPU beside a GPU: rented by
    the hour, a GPU comes with its processor.
    """
    if prices.cpu_hour is None and prices.gpu_hour is None:
        return CostRow(None, prices.currency, note=NO_PRICE)
    cpu_s, gpu_s = rows["cpu_s"], rows["gpu_s"]
    used_gpu = gpu_s.value is not None
    if used_gpu and prices.gpu_hour is None:
        return CostRow(None, prices.currency, note="a GPU was used: --price-gpu-hour was not given")
    if not used_gpu and prices.cpu_hour is None:
        return CostRow(None, prices.currency, note="--price-cpu-hour was not given")
    if cpu_s.value is None and prices.cpu_hour is not None:
        return CostRow(None, prices.currency, note=cpu_s.note)
    value = (cpu_s.value or 0.0) * (prices.cpu_hour or 0.0)
    value += (gpu_s.value or 0.0) * (prices.gpu_hour or 0.0)
    words = []
    if prices.cpu_hour is not None:
        words.append(f"{prices.cpu_hour:g} {prices.currency} an hour of CPU time".strip())
    if used_gpu:
        words.append(f"{prices.gpu_hour:g} {prices.currency} an hour of a GPU")
    return CostRow(value / S_PER_H, prices.currency, "declared", ", ".join(words))


# ---------------------------------------------------------------- wall time


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


# ---------------------------------------------------------------- table

CSV = (
    *("side", "cost", "part", "value", "unit", "low", "high", "source", "note"),
    *("codecarbon", "codecarbon_value"),
)


def csv_rows(costs: Mapping[str, SideCost]) -> list[list[object]]:
    """Return a row for each side, cost and part (whole, own, inherited), then of its use.

    codecarbon, codecarbon_value  name of the field that codecarbon has for it, and the value in
    the unit of that: seconds, kWh, kg
    """
    rows: list[list[object]] = []
    for side, cost in costs.items():
        named = [("training_wall_s", "s", cost.seconds), ("test_wall_s", "s", cost.test_s)]
        named.append(("all_trials_wall_s", "s", cost.total_s))
        for name, unit, value in named:
            source = "" if value is None else "measured"
            rows.append([side, name, "whole", value, unit, None, None, source, "", "", None])
        parts = {"whole": cost.whole, "own": cost.own, "inherited": cost.inherited}
        for name, about in COSTS.items():
            rows += [
                [side, name, part, *_cells(table[name], about)]
                for part, table in parts.items()
                if name in table
            ]
        rows += _use_rows(side, cost.use)
    return rows


def _cells(row: CostRow, about: CostName) -> list[object]:
    has_field = about.codecarbon and row.value is not None
    return [
        *(row.value, row.unit, row.low, row.high, row.source, row.note),
        about.codecarbon if has_field else "",
        float(row.value or 0.0) / about.codecarbon_unit if has_field else None,
    ]


def _use_rows(side: str, use: UseCost | None) -> list[list[object]]:
    if use is None:
        return []
    named: list[tuple[str, str, float | None]] = [
        ("use_image_s", "s", use.image_s),
        ("use_macs", "", use.macs),
        ("use_weights_bytes", "bytes", use.weights_bytes),
        ("use_classifier_bytes", "bytes", use.classifier_bytes),
    ]
    rows: list[list[object]] = []
    for name, unit, value in named:
        note, source = use.reason, "measured" if value is not None else ""
        if name == "use_classifier_bytes" and value is None:
            note = note or NO_CLASSIFIER
        rows.append([side, name, "whole", value, unit, None, None, source, note, "", None])
    return rows
