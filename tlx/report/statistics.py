"""Means over splits with their confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over n splits. sd, half_width, low and high are None for n = 1: one split shows no spread.

    sd           standard deviation of the sample (n − 1)
    half_width   of the confidence interval by Student's t: t(n − 1) · sd / √n
    """

    n: int
    mean: float
    sd: float | None
    half_width: float | None

    @property
    def low(self) -> float | None:
        return None if self.half_width is None else self.mean - self.half_width

    @property
    def high(self) -> float | None:
        return None if self.half_width is None else self.mean + self.half_width


def estimate(values: Iterable[float], confidence: float = CONFIDENCE) -> Estimate | None:
    """Mean and t-interval of finite numbers; None if there is none. ValueError if one is not finite.

    >>> estimate([0.5, 0.7]).mean
    0.6
    >>> estimate([0.5]).half_width is None
    True
    """
    numbers = [float(v) for v in values]
    if not all(math.isfinite(v) for v in numbers):
        raise ValueError("a diverged trial has no score: leave it out and count it")
    n = len(numbers)
    if n == 0:
        return None
    mean = math.fsum(numbers) / n
    if n == 1:
        return Estimate(1, mean, None, None)
    sd = math.sqrt(math.fsum((v - mean) ** 2 for v in numbers) / (n - 1))
    return Estimate(n, mean, sd, student_t(n - 1, confidence) * sd / math.sqrt(n))


def student_t(degrees: int, confidence: float = CONFIDENCE) -> float:
    """The half-width factor: P(|T| ≤ t) = confidence for Student's T of these degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.5 + confidence / 2))


def by_shots(trials: Sequence[Mapping[str, Any]], score: str = "test_accuracy",
             times: Sequence[str] = ("train_s", "total_s")) -> list[dict[str, Any]]:
    """One row for each number of shots, ascending, over the splits that have a score.

    trials   mappings with "shots" and, where the trial ended well, `score` (a fraction) and `times` (seconds)
    →        {"shots", "splits", "missing", "mean", "sd", "ci" (half width), "low", "high", <time>: mean seconds}
             missing counts trials without a score; what cannot be said is None
    """
    rows = []
    for shots in sorted({t["shots"] for t in trials}):
        mine = [t for t in trials if t["shots"] == shots]
        scored = [t for t in mine if t.get(score) is not None and math.isfinite(t[score])]
        found = estimate(t[score] for t in scored)
        row: dict[str, Any] = {"shots": shots, "splits": len(scored), "missing": len(mine) - len(scored)}
        row |= {"mean": found and found.mean, "sd": found and found.sd, "ci": found and found.half_width,
                "low": found and found.low, "high": found and found.high}
        for name in times:
            spent = estimate(t[name] for t in scored if t.get(name) is not None)
            row[name] = spent and spent.mean
        rows.append(row)
    return rows
