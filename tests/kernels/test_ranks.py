"""Orders, ranks, ties and concordance of vectors: against counting by hand; ties exactly; same bits
at any threads.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import config

from tlx.kernels import concordance as kendall
from tlx.kernels import ranks as ranking

concordance, inversions, order, ranks, ties = (
    kendall.concordance,
    kendall.inversions,
    ranking.order,
    ranking.ranks,
    ranking.ties,
)
SLOW = config.DISABLE_JIT
LONG = 300 if SLOW else 5000


def mean_ranks(x):
    """From 1, the mean of those it could have: (1 + less) … (less + equal)."""
    return np.array([(x < v).sum() + ((x == v).sum() + 1) / 2 for v in x])


def signs(a, b):
    """Σ of the products of the signs of differences, over pairs."""

    def sign(x, i):
        return (x[i] > x[:i]).astype(int) - (x[i] < x[:i])

    return sum(int((sign(a, i) * sign(b, i)).sum()) for i in range(1, len(a)))


def check(a, b):
    for x in (a, b):
        found = order(x)
        places = (found.words & np.uint64(0xFFFFFFFF)).astype(np.int64)
        np.testing.assert_array_equal(places, np.argsort(x, kind="stable"))
        np.testing.assert_array_equal(ranks(found), 2 * mean_ranks(x) - (len(x) + 1))
        counts = np.unique(x, return_counts=True)[1]
        assert ties(found) == sum(c * (c - 1) // 2 for c in counts.tolist())
        ends = np.searchsorted(np.sort(x), np.sort(x), side="right")
        np.testing.assert_array_equal(found.ends, ends)
    want = signs(a.astype(np.float64), b.astype(np.float64))
    assert concordance(order(a), b) == want
    assert concordance(order(b), a) == want


def vectors(kind, n, dtype, seed):
    rng = np.random.default_rng(seed)
    big = np.finfo(dtype).max
    return {
        "normal": lambda: 1 + 0.1 * rng.standard_normal(n),
        "few": lambda: rng.integers(-3, 4, n),
        "two": lambda: rng.integers(0, 2, n),
        "one": lambda: np.full(n, 0.3),
        "zeros": lambda: rng.choice([0.0, -0.0, 1e-40, -1e-40, 1.0, -1.0], n),
        "close": lambda: 1 + rng.integers(0, 60, n) * np.finfo(dtype).eps,
        "close beside far": lambda: np.r_[
            big, 1 + rng.integers(0, 60, n - 1) * np.finfo(dtype).eps
        ],
        "wide": lambda: np.sign(rng.random(n) - 0.5) * 10.0 ** rng.uniform(-30, 30, n),
        "both ends": lambda: rng.choice([-big, big, 0, 1], n),
        "wider than a float": lambda: np.r_[
            [-big, big, big * 0.3][:n], rng.standard_normal(max(0, n - 3))
        ],
        "nearer than a step": lambda: rng.integers(0, 9, n) * np.finfo(dtype).smallest_subnormal,
        "heavy tails": lambda: rng.standard_cauchy(n) ** 3,
        "ascending": lambda: np.arange(n),
        "descending": lambda: -np.arange(n),
    }[kind]().astype(dtype)


KINDS = [
    "normal",
    "few",
    "two",
    "one",
    "zeros",
    "close",
    "close beside far",
    "wide",
    "both ends",
    "wider than a float",
    "nearer than a step",
    "heavy tails",
    "ascending",
    "descending",
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 2, 3, 40, 300])
@pytest.mark.parametrize("kind", KINDS)
def test_against_counting(kind, n, dtype):
    for other in ("normal", "few", kind):
        check(vectors(kind, n, dtype, 0), vectors(other, n, dtype, 1))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("part", [1, 7, 64])
@pytest.mark.parametrize("kind", KINDS)
def test_where_tasks_meet(kind, part, dtype, monkeypatch):
    """Runs of equal numbers reach over the borders of tasks, and over whole tasks."""
    monkeypatch.setattr(ranking, "PART", part)
    n = 60 if SLOW else 400
    for threads in (1, 3):
        found = order(vectors(kind, n, dtype, 0), threads)
        assert (
            ranks(found, threads).tolist()
            == (2 * mean_ranks(vectors(kind, n, dtype, 0)) - n - 1).tolist()
        )
    check(vectors(kind, n, dtype, 0), vectors("few", n, dtype, 1))
    check(vectors(kind, n, dtype, 0), vectors("normal", n, dtype, 1))


def test_the_kind_of_key_that_tells_more_numbers_apart_is_taken():
    def pace(x):
        return ranking._pace(
            x,
            x.min(),
            x.max(),
            lambda bits, begin, end, words: ranking._make(
                bits, np.int64((1 << 63) - 1), begin, end, np.uint64(0), np.uint64(32), words
            ),
        )

    rng = np.random.default_rng(0)
    assert pace(ranking.as_read_only(1 + 0.1 * rng.random(LONG))) > 0
    assert pace(ranking.as_read_only(10.0 ** rng.uniform(-300, 300, LONG))) == 0


def test_long_runs_of_equal_keys_that_are_not_equal():
    """Float64 that differ beyond the 32 bits of their keys, more than an insertion sort should
    see.
    """
    rng = np.random.default_rng(0)
    x = np.r_[
        np.finfo(float).max,
        1 + rng.permutation(LONG) * 2.0**-50,
        2 + rng.integers(0, 9, LONG) * 2.0**-49,
    ]
    places = (order(x).words & np.uint64(0xFFFFFFFF)).astype(np.int64)
    np.testing.assert_array_equal(places, np.argsort(x, kind="stable"))


@pytest.mark.parametrize("n", [0, 1, 2, 31, 32, 33, 255, 256, 257, 1000, LONG])
def test_inversions(n):
    rng = np.random.default_rng(n)
    for sequence in (
        rng.permutation(n),
        np.arange(n),
        np.arange(n)[::-1],
        np.roll(np.arange(n), n // 3),
    ):
        want = sum(int((sequence[:i] > sequence[i]).sum()) for i in range(n))
        assert inversions(sequence.astype(np.uint32), np.empty(n, np.uint32)) == want


@pytest.mark.skipif(SLOW, reason="long")
def test_more_levels_than_one():
    """Above 2¹⁶ numbers nodes of nodes are split; two ways of counting must agree."""
    n = 200_003
    sequence = np.random.default_rng(0).permutation(n).astype(np.uint32)
    want = 0
    for bit in range(
        18
    ):  # descending pairs that first differ in this bit: a one before a zero under one prefix
        under = np.argsort(sequence >> (bit + 1), kind="stable")
        bits, prefix = (sequence[under] >> bit) & 1, sequence[under] >> (bit + 1)
        ones = np.cumsum(bits)
        start = np.r_[True, prefix[1:] != prefix[:-1]]
        before = np.maximum.accumulate(np.where(start, ones - bits, 0))
        want += int((ones - before)[bits == 0].sum())
    for threads in (1, 2, 5):
        assert inversions(sequence.copy(), np.empty_like(sequence), threads) == want


def test_same_bits_at_any_number_of_threads(monkeypatch):
    monkeypatch.setattr(ranking, "PART", 50)
    x = np.random.default_rng(0).standard_normal(LONG // 5)
    one = order(x, 1)
    for threads in (2, 3):
        other = order(x, threads)
        assert one.words.tolist() == other.words.tolist()
        assert one.ends.tolist() == other.ends.tolist()
        assert ranks(one, 1).tolist() == ranks(other, threads).tolist()
    assert kendall.parts_of(120) == [(0, 50), (50, 100), (100, 120)]


def test_read_only_numbers():
    x = np.random.default_rng(0).standard_normal(50)
    x.flags.writeable = False
    check(x, x)


@settings(max_examples=20 if SLOW else 200, deadline=None)
@given(st.data())
def test_any_numbers(data):
    n = data.draw(st.integers(1, 40))
    width = data.draw(st.sampled_from([32, 64]))
    some = st.floats(
        width=width,
        allow_nan=False,
        allow_infinity=False,
        min_value=-(2.0**100),
        max_value=2.0**100,
    )
    few = data.draw(st.lists(some, min_size=1, max_size=5))
    numbers = st.one_of(some, st.sampled_from(few))
    a, b = (
        np.array(data.draw(st.lists(numbers, min_size=n, max_size=n)), f"f{width // 8}")
        for _ in "ab"
    )
    check(a, b)
