"""Chances of several arms against closed forms, and what must not change them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, stats

from tlx.errors import BadDataError
from tlx.metrics.best_arm import chances
from tlx.metrics.paired import expected_regret

SCORES = np.array([[0.60, 0.70, 0.68, 0.61], [0.64, 0.71, 0.75, 0.66], [0.59, 0.66, 0.69, 0.60]])


def test_two_arms_are_a_paired_t_test():
    first, second = SCORES[:2]
    (known,) = chances({5: SCORES[:2]}).values()
    differences = second - first
    se = differences.std(ddof=1) / math.sqrt(len(differences))
    p = stats.t.cdf(differences.mean() / se, len(differences) - 1)
    assert known.leader == 1
    assert known.p_best == pytest.approx([1 - p, p], abs=0.004)
    exact = expected_regret(float(differences.mean()), float(se), len(differences) - 1)
    assert known.regret == pytest.approx(exact, rel=0.1)
    assert known.next_regret < known.regret


def test_three_arms_are_an_integral_over_mean_and_variance():
    arms, splits = SCORES.shape
    means = SCORES.mean(axis=1)
    residuals = SCORES - SCORES.mean(axis=0) - means[:, None] + SCORES.mean()
    df = (arms - 1) * (splits - 1)
    variance = (residuals**2).sum() / df

    def best_given(spread, arm):
        others = np.delete(means, arm)

        def density(x):
            higher = stats.norm.cdf((x - others) / spread).prod()
            return stats.norm.pdf((x - means[arm]) / spread) / spread * higher

        return integrate.quad(density, means[arm] - 8 * spread, means[arm] + 8 * spread)[0]

    quantiles = (np.arange(200) + 0.5) / 200
    spreads = np.sqrt(variance * df / stats.chi2.ppf(quantiles, df) / splits)
    expected = [np.mean([best_given(spread, arm) for spread in spreads]) for arm in range(arms)]
    (known,) = chances({5: SCORES}).values()
    assert known.p_best == pytest.approx(expected, abs=0.006)
    assert known.p_best.sum() == pytest.approx(1.0)


def test_what_all_arms_share_in_a_split_changes_nothing():
    shifted = SCORES + np.array([0.1, -0.2, 0.05, 0.0])
    (plain,), (moved,) = chances({5: SCORES}).values(), chances({5: shifted}).values()
    assert moved.p_best == pytest.approx(plain.p_best, abs=1e-12)
    assert moved.regret == pytest.approx(plain.regret)


def test_the_order_of_splits_changes_nothing():
    (plain,), (turned,) = (chances({5: table}).values() for table in (SCORES, SCORES[:, ::-1]))
    assert turned.p_best == pytest.approx(plain.p_best, abs=1e-12)


def test_equal_arms_lose_nothing():
    (known,) = chances({1: np.full((3, 4), 0.5)}).values()
    assert known.regret == 0.0
    assert known.leader == 0


def test_draws_from_the_same_images_are_worth_less():
    alone, shared = (chances({5: SCORES}, pool=pool)[5] for pool in (None, 10))
    assert shared.regret > alone.regret
    assert shared.p_best.max() < alone.p_best.max()


def test_other_shots_lend_their_variance():
    quiet = SCORES.mean(axis=1, keepdims=True) + (SCORES - SCORES.mean(axis=1, keepdims=True)) / 50
    lent = chances({1: quiet, 2: quiet * 1.01, 3: quiet * 0.99, 5: SCORES})[5]
    assert lent.p_best[1] > chances({5: SCORES})[5].p_best[1]


@pytest.mark.parametrize("table", [[[0.1, 0.2]], [[0.1], [0.2]], [0.1, 0.2]])
def test_what_is_no_table_of_arms_is_refused(table):
    with pytest.raises(BadDataError, match="two or more arms"):
        chances({1: table})


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(BadDataError):
        chances({1: [[0.1, float("nan")], [0.2, 0.3]]})
