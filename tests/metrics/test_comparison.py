"""Comparisons of RDMs: by their definitions on squares, and the numbers rsatoolbox gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import config

from tlx.errors import BadDataError, ResourceError, UnknownNameError
from tlx.metrics import comparison
from tlx.metrics.comparison import COMPARISONS, compare_all, compare_rdms

SLOW = config.DISABLE_JIT
METHODS = list(COMPARISONS)


# ---------------------------------------------------------------- definitions


def mean_ranks(x):
    return np.array([(x < v).sum() + ((x == v).sum() + 1) / 2 for v in x])


def cosine(a, b):
    return a @ b / np.sqrt((a @ a) * (b @ b))


def pearson(a, b):
    return cosine(a - a.mean(), b - b.mean())


def rho_a(a, b):
    p = len(a)
    return 12 * (mean_ranks(a) @ mean_ranks(b)) / (p**3 - p) - 3 * (p + 1) / (p - 1)


def kendall(a, b):
    return np.mean(
        [np.sign(a[i] - a[j]) * np.sign(b[i] - b[j]) for i in range(len(a)) for j in range(i)]
    )


def whitened_cosine(a, b):
    """d₁ᵀ·V⁻¹·d₂ with the matrix V of pairs × pairs."""
    n = round((1 + np.sqrt(1 + 8 * len(a))) / 2)
    contrasts = np.array([np.eye(n)[i] - np.eye(n)[j] for i in range(n) for j in range(i + 1, n)])
    v = (contrasts @ contrasts.T) ** 2
    return (
        a
        @ np.linalg.solve(v, b)
        / np.sqrt((a @ np.linalg.solve(v, a)) * (b @ np.linalg.solve(v, b)))
    )


ORACLES = {
    "spearman": lambda a, b: pearson(mean_ranks(a), mean_ranks(b)),
    "rho-a": rho_a,
    "pearson": pearson,
    "cosine": cosine,
    "kendall": kendall,
    "whitened-cosine": whitened_cosine,
    "whitened-pearson": lambda a, b: whitened_cosine(a - a.mean(), b - b.mean()),
}


def square(pairs):
    n = round((1 + np.sqrt(1 + 8 * len(pairs))) / 2)
    out = np.zeros((n, n))
    out[np.triu_indices(n, 1)] = pairs
    return out + out.T


def rdm(n, seed, ties=False):
    x = np.random.default_rng(seed).random(n * (n - 1) // 2)
    return np.round(x, 1) if ties else x


# ---------------------------------------------------------------- tests


def test_every_row_has_its_oracle():
    assert ORACLES.keys() == COMPARISONS.keys()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [3, 4, 9, 17])
@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_definition(n, ties, dtype, method):
    a, b = rdm(n, 1, ties).astype(dtype), rdm(n, 2, ties).astype(dtype)
    want = ORACLES[method](a.astype(np.float64), b.astype(np.float64))
    for first, second in ((a, b), (square(a).astype(dtype), b), (a, square(b).astype(dtype))):
        found = compare_rdms(first, second, method)
        assert type(found) is float
        np.testing.assert_allclose(found, want, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(compare_rdms(b, a, method), want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("method", "value"),
    [
        ("cosine", 0.7178652401),
        ("pearson", 0.1027611752),
        ("spearman", 0.1151515152),
        ("rho-a", 0.1151515152),
        ("kendall", 0.1111111111),
        ("whitened-cosine", 0.4645961019),
        ("whitened-pearson", 0.1803571856),
    ],
)
def test_numbers_of_rsatoolbox(method, value):
    """0.3.2: compare(default_rng(2).random((1, 10)), default_rng(3).random((1, 10)), …)."""
    a, b = (np.random.default_rng(seed).random((1, 10)) for seed in (2, 3))
    np.testing.assert_allclose(compare_rdms(a, b, method), [[value]], atol=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_stacks(method):
    a, b = [rdm(6, seed, ties=True) for seed in range(4)], [rdm(6, seed) for seed in range(4, 7)]
    want = [[compare_rdms(x, y, method) for y in b] for x in a]
    for first in (a, np.stack(a), np.stack([square(x) for x in a])):
        np.testing.assert_allclose(compare_rdms(first, b, method), want, rtol=1e-14, atol=1e-15)
    assert np.shape(compare_rdms(a[:1], b[0], method)) == (1, 1)
    stack = np.stack(a)
    own = compare_rdms(stack, stack, method)
    np.testing.assert_allclose(own, compare_rdms(stack, stack.copy(), method), atol=1e-15)
    np.testing.assert_array_equal(own, own.T)
    named = compare_all({f"layer {i}": square(x) if i % 2 else x for i, x in enumerate(a)}, method)
    assert named.names == ("layer 0", "layer 1", "layer 2", "layer 3")
    np.testing.assert_array_equal(named.values, own)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_and_the_opposite(method):
    a = rdm(8, 0) + 0.1
    assert compare_rdms(a, a, method) == pytest.approx(1, abs=1e-15)
    assert compare_rdms(a, 3 * a, method) == pytest.approx(1, abs=1e-15)
    assert compare_rdms(a, -a, method) == pytest.approx(-1, abs=1e-15)
    if "cosine" not in method:
        assert compare_rdms(a, 3 * a + 7, method) == pytest.approx(1, abs=1e-15)
    if method in ("spearman", "rho-a", "kendall"):
        assert compare_rdms(a, a**3, method) == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize("method", ["pearson", "whitened-pearson", "cosine", "whitened-cosine"])
def test_hard_numbers(method):
    a, b = rdm(10, 0), rdm(10, 1)
    for scale in (1e-200, 1e200):
        assert compare_rdms(scale * a, b, method) == pytest.approx(
            compare_rdms(a, b, method), rel=1e-12
        )
    if "pearson" in method:
        fine = 1e4 + 1e-2 * a
        want = compare_rdms(fine - 1e4, b, method)  # exact differences
        assert compare_rdms(fine, b, method) == pytest.approx(want, rel=1e-9)


def test_models_that_predict_ties():
    """τ_a of a model with one value for most pairs is far from 1 even with itself, as every tie
    counts as neither.
    """
    labels = np.repeat(np.arange(4), 5)
    model = (labels[:, None] != labels)[np.triu_indices(20, 1)].astype(float)
    data = rdm(20, 0)
    for method in METHODS:
        assert compare_rdms(model, data, method) == pytest.approx(
            ORACLES[method](model, data), rel=1e-10
        )
        assert compare_rdms(model, model, method) == pytest.approx(
            ORACLES[method](model, model), rel=1e-10
        )
    assert compare_rdms(model, model, "kendall") < 0.4


@pytest.mark.parametrize("method", METHODS)
def test_same_bits_at_any_number_of_threads(method, monkeypatch):
    from tlx.kernels import ranks

    monkeypatch.setattr(ranks, "PART", 30)
    a, b = rdm(12 if SLOW else 60, 0, ties=True), rdm(12 if SLOW else 60, 1)
    assert (
        compare_rdms(a, b, method, threads=1)
        == compare_rdms(a, b, method, threads=2)
        == compare_rdms(a, b, method, threads=3)
    )


def test_maps_and_halves(tmp_path):
    a, b = rdm(9, 0).astype(np.float16), rdm(9, 1)
    np.save(tmp_path / "a.npy", a)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    for method in METHODS:
        want = compare_rdms(a.astype(np.float64), b, method)
        for given_ in (mapped, tmp_path / "a.npy", a):
            assert compare_rdms(given_, b, method) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_constant_rdms_are_like_nothing(method):
    b = rdm(5, 0)
    with pytest.raises(BadDataError, match=r"constant-rdm\] b: all 10 dissimilarities are 0,"):
        compare_rdms(b, np.zeros(10), method)
    if "cosine" in method:
        assert compare_rdms(b, np.ones(10), method) == pytest.approx(
            ORACLES[method](b, np.ones(10))
        )
    else:
        with pytest.raises(
            BadDataError, match=r"constant-rdm\] a, RDM 1: all 10 dissimilarities are 0.3"
        ):
            compare_rdms([b, np.full(10, 0.3)], b, method)
        with pytest.raises(BadDataError, match="constant-rdm"):
            compare_rdms([0.5], [0.7], method)


def test_what_cannot_be_compared():
    a = rdm(5, 0)
    for first, second, code in (
        (a, rdm(6, 0), "rdm-sizes"),
        (a[:9], a, "rdm-shape"),
        (a, np.zeros((2, 3, 4)), "shape"),
        (np.r_[a[:9], np.nan], a, "not-finite"),
        (np.zeros((0, 10)), a, "rdm-shape"),
        (square(a) + np.eye(5)[::-1] * [0, 0, 0, 1, 1], a, "rdm-not-symmetric"),
    ):
        with pytest.raises(BadDataError, match=code):
            compare_rdms(first, second)
    with pytest.raises(
        UnknownNameError, match=r"unknown comparison 'spearmann'.*nearest: spearman"
    ):
        compare_rdms(a, a, "spearmann")
    with pytest.raises(UnknownNameError):
        compare_all({"a": a}, "tau")
    with pytest.raises(BadDataError, match="no-rdms"):
        compare_all({})
    with pytest.raises(BadDataError, match="conv1 5, fc 6"):
        compare_all({"conv1": a, "fc": rdm(6, 0)})


def test_more_pairs_than_places(monkeypatch):
    monkeypatch.setattr(comparison, "MOST", 10)
    with pytest.raises(ResourceError, match="too-many-pairs"):
        compare_rdms(rdm(5, 0), rdm(5, 1))


@settings(max_examples=15 if SLOW else 100, deadline=None)
@given(st.data())
def test_any_rdms(data):
    n = data.draw(st.integers(3, 8))
    p = n * (n - 1) // 2
    a, b = (
        np.array(data.draw(st.lists(st.integers(0, 6), min_size=p, max_size=p)), float)
        for _ in "ab"
    )
    for method in METHODS:
        if min(np.ptp(a), np.ptp(b)) == 0:
            continue
        want = ORACLES[method](a, b)
        np.testing.assert_allclose(compare_rdms(a, b, method), want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("n", [3, 6, 10, 15, 45])
@pytest.mark.parametrize("diagonal", [0.0, 1e-16, -1e-16, 1e-8])
def test_a_square_with_a_diagonal_of_rounding_is_one_rdm(n, diagonal):
    """n(n − 1)/2 pairs for another n: such a square could be taken for a stack of n condensed
    RDMs.
    """
    x = np.random.default_rng(n).random((2, n, 7))
    squares = [1 - np.corrcoef(rows) for rows in x]
    pairs = [square[np.triu_indices(n, 1)] for square in squares]
    for square in squares:
        np.fill_diagonal(square, diagonal)
    want = compare_rdms(*pairs)
    assert compare_rdms(*squares) == pytest.approx(want, abs=1e-12)
    assert compare_rdms(squares[0], pairs[1]) == pytest.approx(want, abs=1e-12)


def test_a_stack_of_as_many_rdms_as_each_has_pairs_is_a_stack():
    stack = np.random.default_rng(0).random((10, 10))
    assert compare_rdms(stack, stack).shape == (10, 10)
