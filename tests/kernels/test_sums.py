"""What sums of squares and input checks are made of; the sums themselves:
tests/metrics/test_sum_of_squares.py.
"""

from __future__ import annotations

import numpy as np
import pytest
from numba import config

from tlx.kernels import inputs, sums


@pytest.mark.parametrize(("n", "k"), [(0, 3), (1, 1), (50, 1), (50, 7), (9, 40)])
def test_rows_by_class(n, k):
    codes = np.random.default_rng(n).integers(0, k, n)
    starts, order = np.full(k + 1, -1), np.full(n, -1)
    sums.by_class(codes, starts, order)
    np.testing.assert_array_equal(order, np.argsort(codes, kind="stable"))
    np.testing.assert_array_equal(starts, [(codes < c).sum() for c in range(k + 1)])


def test_every_float16_there_is():
    halves = np.arange(-(1 << 15), 1 << 15, 37 if config.DISABLE_JIT else 1).astype(np.int16)
    numbers = np.empty(len(halves), np.float32)
    inputs.widen(halves, numbers.view(np.int32), numbers)
    np.testing.assert_array_equal(
        numbers, halves.view(np.float16).astype(np.float32)
    )  # NaN equals NaN here
    assert (np.signbit(numbers) == (halves < 0)).all()


@pytest.mark.parametrize(("dtype", "whole"), [(np.float32, np.int32), (np.float64, np.int64)])
def test_finite_numbers(dtype, whole):
    info = np.finfo(dtype)
    exponent = whole(np.array(np.inf, dtype).view(whole))
    good = np.array([0, -0.0, info.max, info.min, info.tiny, info.smallest_subnormal], dtype)
    assert inputs.finite_bits(good.view(whole), exponent)
    for bad in (np.inf, -np.inf, np.nan, -np.nan):
        for place in range(7):
            assert not inputs.finite_bits(np.insert(good, place, bad).view(whole), exponent)


@pytest.mark.parametrize("n", [1, 2, 65, 130])
def test_upper_triangle(n):
    square = np.random.default_rng(0).random((n, n))
    pairs, differ, largest = np.full(n * (n - 1) // 2, np.nan), np.empty(n), np.empty(n)
    for begin in range(0, n, 40):
        inputs.upper(square, pairs, begin, min(n, begin + 40), differ, largest)
    np.testing.assert_array_equal(pairs, square[np.triu_indices(n, 1)])
    for i in range(n):
        assert differ[i] == max([abs(square[i, i]), *abs(square[i, i + 1 :] - square[i + 1 :, i])])
        assert largest[i] == max([0, *abs(square[i, i + 1 :])])
