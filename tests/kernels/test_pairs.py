"""Passes over condensed dissimilarities, against the square they stand for."""

from __future__ import annotations

import numpy as np
import pytest
from numba import config

from tlx.kernels import pairs

SIZES = [2, 3, 17, 60]


def condensed(n, dtype=np.float64, seed=0):
    x = np.random.default_rng(seed).random((n, n)).astype(dtype)
    square = np.triu(x, 1) + np.triu(x, 1).T
    return square[np.triu_indices(n, 1)], square


@pytest.mark.parametrize("n", SIZES)
def test_where_a_pair_is(n):
    places = [pairs.row(i, n) + j for i in range(n) for j in range(i + 1, n)]
    assert places == list(range(n * (n - 1) // 2))


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_row_sums_and_whitening(n, dtype):
    flat, square = condensed(n, dtype)
    parts = np.empty((3, n))
    for part, (begin, end) in enumerate([(0, 1), (1, n // 2 + 1), (n // 2 + 1, n)]):
        pairs.row_sums(flat, n, begin, end, parts[part])
    np.testing.assert_allclose(parts.sum(axis=0), square.sum(axis=1, dtype=np.float64), rtol=1e-14)
    sums = np.random.default_rng(1).random(n)
    want = (square - sums - sums[:, None] + 0.3) * 2
    flat = flat.astype(np.float64)
    pairs.whiten(flat, sums, 0, n, 0.3, 2.0)
    np.testing.assert_allclose(flat, want[np.triu_indices(n, 1)], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("n", SIZES)
def test_sums_of_like_and_unlike(n):
    flat, square = condensed(n, np.float32)
    codes = np.random.default_rng(2).integers(0, 3, n)
    found = np.empty((n, 2))
    for i in range(n):
        pairs.contrast(flat, codes, i, i + 1, found[i])
        others = slice(i + 1, n)
        same = codes[others] == codes[i]
        want = [
            square[i, others][same].sum(dtype=np.float64),
            square[i, others][~same].sum(dtype=np.float64),
        ]
        np.testing.assert_allclose(found[i], want, rtol=1e-14)


@pytest.mark.parametrize("n", SIZES)
def test_stimuli_drawn_again(n):
    flat, square = condensed(n)
    chosen = np.random.default_rng(3).integers(0, n, n + 2)
    out = np.full((n + 2) * (n + 1) // 2, np.nan)
    count = pairs.resample(flat, n, chosen, out)
    want = [
        square[chosen[i], chosen[j]]
        for i in range(n + 2)
        for j in range(i + 1, n + 2)
        if chosen[i] != chosen[j]
    ]
    assert out[:count].tolist() == want


@pytest.mark.parametrize("p", [1, 100, 4096, 200 if config.DISABLE_JIT else 9001])
def test_products(p):
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((5, p)), rng.standard_normal((3, p))
    out = np.full((5, 3), np.nan)
    pairs.products(x, y, 1, 4, out)
    np.testing.assert_allclose(out[1:4], x[1:4] @ y.T, rtol=1e-11, atol=1e-12)
    assert np.isnan(out[[0, 4]]).all()
