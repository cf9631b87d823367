"""Areas, correlations and what chance makes: the thesis's numbers, and all orders gone through by
hand.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from tlx.errors import BadDataError, UsageError
from tlx.metrics.transfer_performance import (
    fisher_band,
    metric_correlations,
    permutation_band,
    transfer_performance,
)


def spearman(x, y):
    def ranked(v):
        return np.array([(v < one).sum() + ((v == one).sum() + 1) / 2 for one in v])

    a, b = ranked(np.asarray(x)), ranked(np.asarray(y))
    a, b = a - a.mean(), b - b.mean()
    return a @ b / math.sqrt((a @ a) * (b @ b))


def test_the_area():
    """12 checkpoints at 100 percent make 1100; halves at both ends."""
    assert transfer_performance([100] * 12) == 1100
    assert transfer_performance([0, 1]) == 0.5
    rng = np.random.default_rng(0)
    accuracy = rng.random((2, 3, 12)).astype(np.float32)
    found = transfer_performance(accuracy)
    want = [
        [sum((row[i] + row[i + 1]) / 2 for i in range(11)) for row in block]
        for block in accuracy.astype(float)
    ]
    np.testing.assert_allclose(found, want, rtol=1e-14)
    assert found.dtype == np.float64
    for wrong in ([1], 5, np.zeros((0, 3))):
        with pytest.raises(BadDataError, match="too-few-checkpoints"):
            transfer_performance(wrong)
    with pytest.raises(BadDataError, match="not-finite"):
        transfer_performance([1, np.nan])


@pytest.mark.parametrize(("n", "band"), [(72, 0.232), (12, 0.574), (7, 0.753), (3, 1), (2, 1)])
def test_the_band_of_fisher(n, band):
    assert fisher_band(n) == pytest.approx(band, abs=5e-4)
    assert fisher_band(72) == pytest.approx(math.tanh(1.96 / math.sqrt(69)), rel=1e-4)


@pytest.mark.parametrize(("n", "band"), [(6, 0.886), (7, 0.857)])
def test_the_band_of_all_orders(n, band):
    low, high = permutation_band(n)
    assert (low, high) == (pytest.approx(-band, abs=5e-4), pytest.approx(band, abs=5e-4))


def test_the_band_of_drawn_orders():
    low, high = permutation_band(30, 0.95, seed=1)
    assert high == pytest.approx(
        1.96 / math.sqrt(29), abs=0.02
    )  # normal with variance 1/(n − 1) for many items
    assert -low == pytest.approx(high, abs=0.03)
    assert permutation_band(30, 0.95, seed=1) == (low, high)
    assert permutation_band(30, 0.95, seed=2) != (low, high)


def models(ties=False):
    """6 sources × 4 checkpoints."""
    rng = np.random.default_rng(0)
    sources, checkpoints = np.repeat(list("fedcba"), 4), np.tile([0, 1, 10, 100], 6)
    metric = rng.random(24)
    performance = metric + 0.3 * rng.random(24)
    return np.round(metric, 1) if ties else metric, performance, sources, checkpoints


@pytest.mark.parametrize("ties", [True, False])
def test_over_all_by_source_and_by_checkpoint(ties):
    metric, performance, sources, checkpoints = models(ties)
    found = metric_correlations(metric, performance, sources, checkpoints, permutations=999)
    assert [(row.scope, row.name, row.n) for row in found] == [("all", "", 24)] + [
        ("source", name, 4) for name in "abcdef"
    ] + [("checkpoint", str(c), 6) for c in (0, 1, 10, 100)]
    for row in found:
        index = {
            "all": np.ones(len(sources), bool),
            "source": sources == row.name,
            "checkpoint": checkpoints.astype(str) == row.name,
        }[row.scope]
        x, y = metric[index], performance[index]
        assert row.rho == pytest.approx(spearman(x, y), abs=1e-12)
        assert row.fisher == fisher_band(row.n)
        assert row.exact == (row.n <= 8)
        if row.exact and row.n == 4:
            null = np.array([spearman(x, np.array(order)) for order in itertools.permutations(y)])
            assert (row.low, row.high) == pytest.approx(
                tuple(np.quantile(null, [0.01, 0.99])), abs=1e-12
            )
            assert row.p == pytest.approx((np.abs(null) >= abs(row.rho) - 1e-9).mean())
    assert found[0].p == 1 / 1000  # no drawn order comes near
    assert found[0].rho > found[0].high
    assert len(metric_correlations(metric, performance)) == 1
    assert metric_correlations(
        metric, performance, sources, permutations=50, seed=4
    ) == metric_correlations(metric, performance, sources, permutations=50, seed=4)


def test_sources_change_places_as_a_whole():
    """Beside an oracle that goes through all orders of the sources, each with its checkpoints."""
    metric, performance, sources, checkpoints = models()
    shuffle = np.random.default_rng(1).permutation(24)
    found = metric_correlations(
        metric[shuffle],
        performance[shuffle],
        sources[shuffle],
        checkpoints[shuffle],
        permutations=50,
    )[0]
    grid = performance.reshape(6, 4)  # source × checkpoint
    null = np.array(
        [spearman(metric, grid[list(order)].ravel()) for order in itertools.permutations(range(6))]
    )
    assert found.sources == 6
    assert found.source_p == pytest.approx((np.abs(null) >= abs(found.rho) - 1e-9).mean())
    assert (found.source_low, found.source_high) == pytest.approx(
        tuple(np.quantile(null, [0.01, 0.99])), abs=1e-12
    )
    assert all(
        row.sources == 0 and math.isnan(row.source_p)
        for row in metric_correlations(metric, performance, sources, checkpoints, permutations=50)[
            1:
        ]
    )


@pytest.mark.slow
def test_models_that_are_alike_within_a_source_do_not_make_a_finding():
    """Metric and performance have nothing to do with each other, and each is alike within a source:
    p ≤ .05 must come in about 5 % of the cases. Orders of single models say so in more than a
    third.
    """
    rng = np.random.default_rng(0)
    sources, checkpoints = np.repeat(np.arange(6), 12), np.tile(np.arange(12), 6)
    alike, naive = [], []
    for _ in range(200):
        metric, performance = (
            rng.standard_normal(6)[sources] + 0.3 * rng.standard_normal(72) for _ in range(2)
        )
        found = metric_correlations(metric, performance, sources, checkpoints, permutations=200)[0]
        alike.append(found.source_p <= 0.05)
        naive.append(found.p <= 0.05)
    assert np.mean(alike) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)
    assert np.mean(naive) > 1 / 3


def test_sources_with_other_checkpoints_do_not_change_places():
    metric, performance, sources, checkpoints = models()
    keep = np.ones(24, bool)
    keep[[0, 5, 10]] = False  # f lacks 0, e lacks 1, d lacks 10
    found = metric_correlations(metric[keep], performance[keep], sources[keep], checkpoints[keep])[
        0
    ]
    assert found.sources == 3, "c, b and a"
    alone = metric_correlations(
        metric[:8][keep[:8]],
        performance[:8][keep[:8]],
        sources[:8][keep[:8]],
        checkpoints[:8][keep[:8]],
    )[0]
    assert (alone.sources, math.isnan(alone.source_p)) == (0, True)


def test_a_metric_that_never_changes_says_nothing():
    _, performance, _, checkpoints = models()
    metric = np.where(checkpoints == 0, 0.0, np.arange(24))
    at_start = metric_correlations(metric, performance, None, checkpoints)[1]
    assert (at_start.scope, at_start.name) == ("checkpoint", "0")
    assert all(
        math.isnan(value) for value in (at_start.rho, at_start.low, at_start.high, at_start.p)
    )
    alone = metric_correlations([1, 2.0], [3, 4.0], ["a", "b"])
    assert [row.n for row in alone] == [2, 1, 1]
    assert alone[0].rho == 1
    assert alone[0].p == 1


def test_what_cannot_be_correlated():
    x = np.arange(5.0)
    for first, second, more, error, code in (
        (x, x[:4], {}, BadDataError, "lengths"),
        (x[:1], x[:1], {}, BadDataError, "too-few-rows"),
        (x, np.r_[x[:4], np.nan], {}, BadDataError, "not-finite"),
        (x, x, {"sources": [1]}, BadDataError, "labels-shape"),
        (x, x, {"confidence": 1}, UsageError, "out-of-range"),
        (x, x, {"permutations": 0}, UsageError, "out-of-range"),
        (x, x, {"permutation_confidence": 0}, UsageError, "out-of-range"),
    ):
        with pytest.raises(error, match=code):
            metric_correlations(first, second, **more)
