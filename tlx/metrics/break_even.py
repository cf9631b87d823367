"""Number of shots from which on one of two methods is better: a bracket, and a fitted crossing.

A crossing of two interpolated curves with a bootstrap interval is what one would like to print and
what few splits cannot give: its interval covers too rarely and is biased upwards. The bracket makes
fewer promises and keeps them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from .paired import ALPHA, Verdict

LARGEST_MISFIT = 3.0  # weighted χ² per degree of freedom up to which the line is believed
FACTOR = 3.0  # how far outside the measured shots the fitted crossing may lie


@dataclass(frozen=True)
class BreakEven:
    """Where the better method changes.

    better    1 if the first method is better at the largest shots, −1 if the second is, 0 if
              neither is sure
    low       largest shots at which the other method is surely better; None if there are none
    high      smallest shots from which on `better` is surely better throughout; None if none
    estimate  crossing of a line in log(shots), if it fits; else None
    fieller   its 95 % interval; None where there is no estimate
    smallest, largest  measured shots
    """

    better: int
    low: int | None
    high: int | None
    estimate: float | None
    fieller: tuple[float, float] | None
    smallest: int
    largest: int

    @property
    def is_known(self) -> bool:
        """Return whether something can be told."""
        return self.low is not None or self.high is not None or self.estimate is not None

    @property
    def is_sure(self) -> bool:
        """Return whether the better method surely changes.

        It does where each is surely better somewhere, or the fitted line crosses zero. One end of
        the bracket alone says only where a change would be.
        """
        return (self.low is not None and self.high is not None) or self.estimate is not None

    @property
    def words(self) -> str:
        """Return the bracket in words, as "between 3 and 7", "below 1", "beyond 10"."""
        if self.low is not None and self.high is not None:
            return f"between {self.low} and {self.high}"
        if self.high is not None:
            is_throughout = self.high == self.smallest
            return f"below {self.smallest}" if is_throughout else f"at or below {self.high}"
        if self.low is not None:
            return f"beyond {self.low}"
        if self.fieller is not None:
            return f"at about {self.estimate:.0f}"
        return "no break-even can be told from these trials"


def break_even(verdicts: Sequence[Verdict], *, alpha: float = ALPHA) -> BreakEven:
    """Return where the better method changes over the shots of one comparison.

    A method is surely better where the probability of being wrong is at most alpha divided by the
    number of shots.

    verdicts  of `paired.analyse`, in increasing order of shots; those of one split tell nothing
    """
    known = [verdict for verdict in verdicts if verdict.p_wrong is not None]
    if not known:
        shots = [verdict.shots for verdict in verdicts] or [0]
        return BreakEven(0, None, None, None, None, min(shots), max(shots))
    sure = [_sure_sign(verdict, alpha / len(known)) for verdict in known]
    low, high = _bracket([verdict.shots for verdict in known], sure)
    estimate, interval = _crossing(known)
    return BreakEven(sure[-1], low, high, estimate, interval, known[0].shots, known[-1].shots)


def _sure_sign(verdict: Verdict, alpha: float) -> int:
    if verdict.p_wrong is None or verdict.p_wrong > alpha:
        return 0
    return 1 if verdict.mean > 0 else -1


def _bracket(shots: Sequence[int], sure: Sequence[int]) -> tuple[int | None, int | None]:
    """Return (low, high) of the bracket, from who is sure at each number of shots."""
    if sure[-1] == 0:
        last = next((number for number in reversed(range(len(sure))) if sure[number]), None)
        return (None if last is None else shots[last]), None
    first = len(sure) - 1
    while first > 0 and sure[first - 1] == sure[-1]:
        first -= 1
    others = [k for k, sign in zip(shots[:first], sure[:first], strict=True) if sign == -sure[-1]]
    return (others[-1] if others else None), shots[first]


def _crossing(verdicts: Sequence[Verdict]) -> tuple[float | None, tuple[float, float] | None]:
    """Return the zero of a weighted line in log(shots) with Fieller's 95 % set.

    (None, None) where the line does not fit, its slope may be 0, or the set is not within a third
    of the smallest and three times the largest shots.
    """
    if len(verdicts) < 3 or any(not verdict.se > 0.0 for verdict in verdicts):
        return None, None
    x = np.log([verdict.shots for verdict in verdicts])
    y = np.array([verdict.mean for verdict in verdicts])
    weights = np.array([verdict.se**-2 for verdict in verdicts])
    design = np.column_stack([np.ones(len(x)), x])
    covariance = np.linalg.inv(design.T @ (design * weights[:, None]))
    intercept, slope = covariance @ (design.T @ (weights * y))
    misfit = float(weights @ (y - intercept - slope * x) ** 2) / (len(x) - 2)
    quantile2 = float(stats.norm.ppf(0.975)) ** 2
    curvature = slope**2 - quantile2 * covariance[1, 1]
    if misfit >= LARGEST_MISFIT or curvature <= 0.0:
        return None, None
    half_linear = intercept * slope - quantile2 * covariance[0, 1]
    constant = intercept**2 - quantile2 * covariance[0, 0]
    root = math.sqrt(half_linear**2 - curvature * constant)
    low, high = (
        math.exp((-half_linear - root) / curvature),
        math.exp((-half_linear + root) / curvature),
    )
    smallest, largest = verdicts[0].shots, verdicts[-1].shots
    if low < smallest / FACTOR or high > largest * FACTOR:
        return None, None
    return math.exp(-intercept / slope), (low, high)
