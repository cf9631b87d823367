"""Confidence of a comparison: draws against doing it on squares, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tlx.errors import BadDataError, ResourceError, UnknownNameError, UsageError
from tlx.metrics.comparison import COMPARISONS, compare_rdms
from tlx.metrics.resampling import STREAM, bootstrap, bootstrap_all

PARTIAL = [name for name, row in COMPARISONS.items() if row.partial]


def rdms(n, noise=0.3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 6))
    y = x + noise * rng.standard_normal((n, 6))
    upper = np.triu_indices(n, 1)
    return [np.sqrt(((v[:, None] - v) ** 2).sum(axis=2)) for v in (x, y)], upper


def similarity(a, b, method):
    """Of any number of dissimilarities, not only n(n − 1)/2."""

    def ranked(x):
        return np.array([(x < v).sum() + ((x == v).sum() + 1) / 2 for v in x])

    if method == "kendall":
        return np.mean(
            [np.sign(a[i] - a[j]) * np.sign(b[i] - b[j]) for i in range(len(a)) for j in range(i)]
        )
    if method == "rho-a":
        p = len(a)
        return 12 * ((ranked(a) - (p + 1) / 2) @ (ranked(b) - (p + 1) / 2)) / (p**3 - p)
    if method == "spearman":
        a, b = ranked(a), ranked(b)
    if method != "cosine":
        a, b = a - a.mean(), b - b.mean()
    return a @ b / np.sqrt((a @ a) * (b @ b))


@pytest.mark.parametrize("method", PARTIAL)
def test_every_draw(method):
    n = 7
    (a, b), upper = rdms(n)
    found = bootstrap(a[upper], b, method, 12, seed=3)
    assert found.value == compare_rdms(a, b, method)
    words = np.random.PCG64(np.random.SeedSequence([3, STREAM])).random_raw(12 * n)
    chosen = np.array([int(word) >> 32 for word in words]) * n // 2**32
    for index, draw in zip(chosen.reshape(12, n), found.draws, strict=True):
        places = [
            (index[i], index[j]) for i in range(n) for j in range(i + 1, n) if index[i] != index[j]
        ]
        rows, columns = np.array(places).T
        assert draw == pytest.approx(
            similarity(a[rows, columns], b[rows, columns], method), rel=1e-12
        )


def test_the_interval():
    (a, b), upper = rdms(20)
    found = bootstrap(a[upper], b[upper], "pearson", 300, confidence=0.9)
    draws = np.sort(found.draws)
    assert found.low == pytest.approx(np.interp(0.05 * 299, np.arange(300), draws))
    assert found.high == pytest.approx(np.interp(0.95 * 299, np.arange(300), draws))
    assert found.error == pytest.approx(np.sqrt(((draws - draws.mean()) ** 2).sum() / 299))
    assert found.low < found.value < found.high
    noisy = bootstrap(a, rdms(20, noise=2.0)[0][1], "pearson", 300, confidence=0.9)
    assert noisy.high - noisy.low > 2 * (found.high - found.low)


def test_seeds_and_threads():
    (a, b), _ = rdms(9)
    one = bootstrap(a, b, "spearman", 20, threads=1)
    assert one.draws.tolist() == bootstrap(a, b, "spearman", 20, threads=3).draws.tolist()
    assert one.draws.tolist() != bootstrap(a, b, "spearman", 20, seed=1, threads=3).draws.tolist()
    np.testing.assert_array_equal(one.draws[:10], bootstrap(a, b, "spearman", 10).draws)


def test_draws_that_tell_nothing():
    """Of three stimuli one draw in nine is one stimulus thrice, and leaves no pair."""
    a, b = np.array([1, 2, 3.0]), np.array([2, 1, 4.0])
    found = bootstrap(a, b, "spearman", 200)
    lost = np.isnan(found.draws)
    assert 0 < lost.sum() < 190
    assert np.isfinite([found.low, found.high, found.error]).all()
    single = bootstrap(
        a,
        b,
        "spearman",
        1,
        seed=next(
            s for s in range(99) if not np.isnan(bootstrap(a, b, "spearman", 5, seed=s).draws[0])
        ),
    )
    assert single.low == single.high
    assert np.isnan(single.error)


def test_what_cannot_be_drawn():
    (a, b), _ = rdms(5)
    with pytest.raises(UsageError, match=r"no-bootstrap.*whitened-cosine"):
        bootstrap(a, b, "whitened-cosine")
    with pytest.raises(UnknownNameError):
        bootstrap(a, b, "rho")
    for wrong in ({"resamplings": 0}, {"confidence": 0}, {"confidence": 1}):
        with pytest.raises(UsageError, match="out-of-range"):
            bootstrap(a, b, **wrong)
    with pytest.raises(BadDataError, match="rdm-sizes"):
        bootstrap(a, rdms(6)[0][0])
    with pytest.raises(BadDataError, match="constant-rdm"):
        bootstrap(a, 1 - np.eye(5))
    with pytest.raises(BadDataError, match="no-draws"):
        bootstrap([1.0], [2.0], "cosine", 5)


@pytest.mark.parametrize(
    "method", [name for name in PARTIAL if COMPARISONS[name].vector is not None]
)
def test_all_at_once_is_each_by_itself(method):
    """And by hand, for one pair: quantiles of what its draws give."""
    (a, b), upper = rdms(8)
    c = rdms(8, seed=5)[0][0]
    some = [a[upper], b, c[upper].astype(np.float32)]
    found = bootstrap_all(some, method, 25, seed=4, confidence=0.8)
    for i in range(3):
        for j in range(3):
            one = bootstrap(some[i], some[j], method, 25, seed=4, confidence=0.8)
            assert (found.low[i, j], found.high[i, j]) == pytest.approx(
                (one.low, one.high), rel=1e-12
            )
    words = np.random.PCG64(np.random.SeedSequence([4, STREAM])).random_raw(25 * 8)
    draws = []
    for index in (np.array([int(word) >> 32 for word in words]) * 8 // 2**32).reshape(25, 8):
        rows, columns = np.array(
            [
                (index[i], index[j])
                for i in range(8)
                for j in range(i + 1, 8)
                if index[i] != index[j]
            ]
        ).T
        draws.append(similarity(a[rows, columns], b[rows, columns], method))
    draws = np.sort(draws)
    assert found.low[0, 1] == pytest.approx(np.interp(0.1 * 24, np.arange(25), draws), rel=1e-12)
    assert found.high[0, 1] == pytest.approx(np.interp(0.9 * 24, np.arange(25), draws), rel=1e-12)


def test_all_at_once_at_any_threads_and_where_draws_tell_nothing():
    (a, b), _ = rdms(9)
    one, two = (bootstrap_all([a, b], "spearman", 20, threads=threads) for threads in (1, 3))
    assert one.low.tolist() == two.low.tolist()
    few = [np.array([1, 2, 3.0]), np.array([2, 1, 4.0])]
    lost = bootstrap_all(few, "spearman", 200)
    assert lost.low[0, 1] == bootstrap(*few, "spearman", 200).low
    nothing = bootstrap_all(
        [*few, np.array([1, 1, 2.0])],
        "spearman",
        1,
        seed=next(
            s for s in range(99) if np.isnan(bootstrap(*few, "spearman", 30, seed=s).draws[0])
        ),
    )
    assert np.isnan(nothing.low).all()
    told = []
    bootstrap_all([a, b], "pearson", 3, progress=lambda done, of: told.append((done, of)))
    assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("rdms_", "options", "error", "says"),
    [
        ([np.ones(3), np.arange(6.0)], {}, BadDataError, "stimuli"),
        ([], {}, BadDataError, "stimuli"),
        ([np.arange(3.0)], {"method": "kendall"}, UsageError, "pair by pair"),
        ([np.arange(3.0)], {"method": "whitened-cosine"}, UsageError, "needs all pairs"),
        ([np.arange(3.0)], {"resamplings": 0}, UsageError, "0 resamplings"),
        ([np.arange(3.0)] * 2, {"resamplings": 1 << 30}, ResourceError, "draws"),
    ],
)
def test_what_cannot_be_drawn_all_at_once_is_refused(rdms_, options, error, says):
    with pytest.raises(error, match=says):
        bootstrap_all(rdms_, **options)
