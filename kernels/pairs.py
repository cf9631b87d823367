"""Passes over dissimilarities: n(n − 1)/2 numbers, those above the diagonal of a square, row by
row.

Row i begins so that pair (i, j), j > i, is at `row(i, n) + j`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

BLOCK = 1 << 12  # numbers of two vectors that stay in the nearest cache


@njit(cache=True, nogil=True)
def row(i, n):
    """Return where pair (i, 0) would be, if row i had one."""
    return i * n - i * (i + 1) // 2 - i - 1


@njit(cache=True, nogil=True, fastmath={"reassoc"})  # to sum in vectors; NaN stays
def contrast(pairs, codes, begin, end, totals):
    """Sum the pairs of rows begin…end: those of equal codes, and the others.

    totals (2,) float64, written

    pairs  (n(n − 1)/2,) float32 or float64;  codes  (n,) int64
    """
    n = codes.size
    totals[:] = 0.0
    for i in range(begin, end):
        part, others, own = pairs[row(i, n) + i + 1 : row(i, n) + n], codes[i + 1 :], codes[i]
        same, different = 0.0, 0.0
        for j in range(part.size):
            number = np.float64(part[j])
            same += number if others[j] == own else 0.0
            different += 0.0 if others[j] == own else number
        totals[0] += same
        totals[1] += different


@njit(cache=True, nogil=True, fastmath={"reassoc"})  # to sum in vectors; NaN stays
def block_contrast(block, codes, others, begin, end, totals):
    """Sum rows begin…end of a block of pairs: those of equal codes, and the others.

    totals (2,) float64, written

    block  (m, n) float32 or float64;  codes (m,), others (n,) int64 — of its rows and columns
    """
    totals[:] = 0.0
    for i in range(begin, end):
        part, own = block[i], codes[i]
        same, different = 0.0, 0.0
        for j in range(part.size):
            number = np.float64(part[j])
            same += number if others[j] == own else 0.0
            different += 0.0 if others[j] == own else number
        totals[0] += same
        totals[1] += different


@njit(cache=True, nogil=True, fastmath={"reassoc"})  # to sum in vectors; NaN stays
def moments(a, b, begin, end, out):
    """Compute means and products of two vectors of pairs, begin…end, about these means.

    out  (5,) float64, written: mean of a, mean of b, Σ (a − ā)², Σ (b − b̄)², Σ (a − ā)(b − b̄)

    a, b (m,) float32 or float64
    """
    count, of_a, of_b = end - begin, 0.0, 0.0
    first_a, first_b = np.float64(a[begin]), np.float64(b[begin])
    for i in range(begin, end):
        of_a += np.float64(a[i]) - first_a
        of_b += np.float64(b[i]) - first_b
    mean_a, mean_b = first_a + of_a / count, first_b + of_b / count
    squares_a, squares_b, across = 0.0, 0.0, 0.0
    for i in range(begin, end):
        left, right = np.float64(a[i]) - mean_a, np.float64(b[i]) - mean_b
        squares_a += left * left
        squares_b += right * right
        across += left * right
    out[0], out[1], out[2], out[3], out[4] = mean_a, mean_b, squares_a, squares_b, across


@njit(cache=True, nogil=True)
def row_sums(pairs, n, begin, end, sums):
    """Sum what rows begin…end of the triangle give to the rows of the square.

    sums (n,) float64, written
    """
    sums[:] = 0.0
    for i in range(begin, end):
        part, others = pairs[row(i, n) + i + 1 : row(i, n) + n], sums[i + 1 :]
        total = np.float64(0.0)  # not 0.0: uncompiled, NumPy would add float32 to that in float32
        for j in range(part.size):
            others[j] += part[j]
        for j in range(part.size):
            total += part[j]
        sums[i] += total


@njit(cache=True, nogil=True)
def whiten(pairs, sums, begin, end, mean, scale):
    """Replace each pair in rows begin…end by (pair − sums_i − sums_j + mean)·scale.

    pairs float64;  sums (n,)
    """
    n = sums.size
    for i in range(begin, end):
        part, others = pairs[row(i, n) + i + 1 : row(i, n) + n], sums[i + 1 :]
        for j in range(part.size):
            part[j] = (part[j] - sums[i] - others[j] + mean) * scale


@njit(cache=True, nogil=True)
def resample(pairs, n, chosen, out):
    """Copy the pairs of chosen stimuli but those of a stimulus with itself; return their number.

    pairs  (n(n − 1)/2,);  chosen  (m,) int64 — stimuli, some more than once;  out  (m(m − 1)/2,) —
    written
    """
    count = 0
    for i in range(chosen.size):
        for j in range(i + 1, chosen.size):
            low, high = min(chosen[i], chosen[j]), max(chosen[i], chosen[j])
            if low != high:
                out[count] = pairs[row(low, n) + high]
                count += 1
    return count


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})  # to sum in vectors; NaN stays
def products(x, y, begin, end, out):
    """Write inner products of rows begin…end of x with those of y.

    out   (m, l) float64, these rows written

    x, y  (m, p), (l, p) float64 — a block of columns after another, so that both stay in the cache
    """
    out[begin:end] = 0.0
    for left in range(0, x.shape[1], BLOCK):
        for i in range(begin, end):
            a = x[i, left : left + BLOCK]
            for j in range(len(y)):
                b, total = y[j, left : left + BLOCK], 0.0
                for k in range(a.size):
                    total += a[k] * b[k]
                out[i, j] += total
