"""Which of several arms is best, from their scores on the same splits.

Arms are configurations of one method, such as recipes of fine-tuning. The scores of one number of
shots are a table of arms × splits: an arm's mean, an effect of the split that all arms share, and a
residual. Given the residual variance, the true means have independent normal posteriors up to what
all share; P(best) and the expected loss of the leader are means over draws from them.

Scores are of validation images, which are taken as given: that these images favour an arm, no
number of splits tells.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..errors import BadDataError
from . import arrays, crossed

P_BEST = 0.02  # probability of being the best below which an arm is left out
DRAWS = 20_000  # from the posterior: P(best) near 0.02 has a standard error of 0.001


@dataclass(frozen=True, eq=False)
class ArmChances:
    """How likely each arm is the best at one number of shots.

    p_best       (arms,) probability of the largest true mean
    leader       index of the arm with the largest mean so far
    regret       expected loss of going on with the leader, in the unit of the scores
    next_regret  the same with one more split of every arm, if means and variance stay
    """

    p_best: np.ndarray
    leader: int
    regret: float
    next_regret: float


def chances(
    tables: Mapping[int, ArrayLike], *, pool: int | None = None, seed: int = 0
) -> dict[int, ArmChances]:
    """Return the chances of the arms at each number of shots.

    Residual variances are drawn towards what the other numbers of shots predict, as those of
    `crossed.moderated`.

    tables  shots → (arms, splits) scores, every arm on the same splits; two arms and two splits or
            more. Arms may differ between shots.
    pool    training images per class that splits are drawn from; None: splits count as independent
    raises  BadDataError: a table of another shape, or a score that is no finite number
    """
    scores = {shots: _checked(table, shots) for shots, table in tables.items()}
    residuals = {shots: _residual(table) for shots, table in scores.items()}
    known = {
        shots: crossed.predicted_variance(
            shots,
            [(k, var, df + 1) for k, (var, df) in residuals.items() if k != shots],
        )
        for shots in scores
    }
    return {
        shots: _chances(
            table,
            *crossed.moderated(residuals[shots][0], residuals[shots][1] + 1, known[shots]),
            crossed.overlap_of(shots, pool),
            np.random.default_rng(seed),
        )
        for shots, table in scores.items()
    }


def _checked(table: ArrayLike, shots: int) -> np.ndarray:
    scores = np.asarray(table, dtype=np.float64)
    if scores.ndim != 2 or min(scores.shape) < 2:
        raise BadDataError(
            "not-arms",
            f"an array of shape {scores.shape} at {shots} shots",
            where="tables",
            expected="scores of two or more arms on two or more splits",
        )
    arrays.check_finite(scores, where="tables")
    return scores


def _residual(scores: np.ndarray) -> tuple[float, int]:
    """Return the residual variance of a table of arms × splits, and its degrees of freedom."""
    arms, splits = scores.shape
    residual = scores - scores.mean(axis=0) - scores.mean(axis=1, keepdims=True) + scores.mean()
    df = (arms - 1) * (splits - 1)
    return float((residual**2).sum() / df), df


def _chances(
    scores: np.ndarray, variance: float, df: float, overlap: float, rng: np.random.Generator
) -> ArmChances:
    arms, splits = scores.shape
    means = scores.mean(axis=1)
    leader = int(means.argmax())
    spread = np.sqrt(variance * df / rng.chisquare(df, (DRAWS, 1)))
    noise = spread * rng.standard_normal((DRAWS, arms))

    of_pool = overlap / (1.0 - overlap)
    drawn = means + noise * math.sqrt(1.0 / splits + of_pool)
    later = means + noise * math.sqrt(1.0 / (splits + 1) + of_pool)
    return ArmChances(
        np.bincount(drawn.argmax(axis=1), minlength=arms) / DRAWS,
        leader,
        _loss(drawn, leader),
        _loss(later, leader),
    )


def _loss(true_means: np.ndarray, leader: int) -> float:
    return float((true_means.max(axis=1) - true_means[:, leader]).mean())
