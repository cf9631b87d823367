"""Allocation of trials in a comparison: the next split goes where it shrinks regret most a second.

The criterion is expected regret and not significance: looking again and again at a p-value either
leaks errors or, corrected, saves nothing on the small differences that are common.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from . import crossed
from .best_arm import ArmChances
from .paired import Contrast, Verdict, expected_regret

REGRET = 0.002  # expected loss of accuracy at which a number of shots is closed
FIRST_SPLITS = 3  # before any regret is looked at
HEADLINE, OTHER = 1.0, 0.5  # weights of shots


@dataclass(frozen=True)
class Choice:
    """Next shots to run one more split of, or why there are none.

    shots   None if nothing is left to run
    closed  shots → why no more of them are run: "small regret", "all splits", "no gain"
    """

    shots: int | None
    closed: Mapping[int, str]


def next_split(
    contrasts: Sequence[Contrast],
    verdicts: Sequence[Verdict],
    seconds: Mapping[int, float],
    *,
    headline: int,
    limit: int,
    regret: float = REGRET,
    under_way: Mapping[int, int] | None = None,
    arms: Mapping[int, ArmChances] | None = None,
) -> Choice:
    """Return the shots whose next split shrinks the expected regret most per second.

    contrasts, verdicts  of `paired.analyse`, of the same shots
    seconds   shots → what a split costs
    headline  shots that count twice as much as the others
    limit     largest number of splits
    regret    expected loss of accuracy that is small enough
    under_way  shots → splits that were begun and have no result yet: they count as if they left
               mean and variances as they are
    arms      shots → chances of several arms of the first method. Where it leads, what choosing
              among them is expected to lose is added to the regret
    """
    begun = under_way or {}
    by_shots = {verdict.shots: verdict for verdict in verdicts}
    closed: dict[int, str] = {}
    gains: dict[int, float] = {}
    for contrast in contrasts:
        shots, verdict = contrast.shots, by_shots[contrast.shots]
        splits = contrast.parts.splits + begun.get(shots, 0)
        expected = verdict.regret
        if begun.get(shots) and expected is not None:
            expected = _regret_with(verdict, contrast, splits)
        chances = (arms or {}).get(shots) if verdict.mean > 0.0 else None
        if chances is not None and expected is not None:
            expected += chances.regret
        if splits >= limit:
            closed[shots] = "all splits"
        elif splits < FIRST_SPLITS or expected is None:
            gains[shots] = float("inf")
        elif expected <= regret:
            closed[shots] = "small regret"
        else:
            weight = HEADLINE if shots == headline else OTHER
            gain = expected - _regret_with(verdict, contrast, splits + 1)
            if chances is not None:
                gain -= chances.next_regret
            if gain <= 0.0:
                closed[shots] = "no gain"
            else:
                gains[shots] = weight * gain / max(seconds[shots], 1e-9)
    if not gains:
        return Choice(None, closed)
    order = sorted(gains, key=lambda shots: (-gains[shots], shots != headline, shots))
    return Choice(order[0], closed)


def _regret_with(verdict: Verdict, contrast: Contrast, splits: int) -> float:
    """Return the regret that another number of splits would leave, all else as it is."""
    split_var = float(verdict.split_var or 0.0)
    parts = contrast.parts
    se, df = crossed.standard_error(
        split_var,
        verdict.df_of_splits + splits - contrast.parts.splits,
        parts.image_var,
        parts.image_df,
        splits,
        parts.overlap,
    )
    return expected_regret(parts.mean, se, df)
