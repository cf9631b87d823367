"""What input is made of: float16 made float32, NaN and infinity found, the triangle of a square
taken.
"""

from __future__ import annotations

import numpy as np
from numba import njit

NEAR = 1 << 14  # numbers that stay in the nearest cache from one loop to the next
# of the squares in which a triangle is compared with its mirror image: both stay in the cache
SIDE = 64


@njit(cache=True, nogil=True)
def widen(halves, bits, numbers):
    """Turn float16 into float32 by moving bits, many at once; numpy goes one by one.

    halves   (m,) int16 — float16 numbers seen as whole ones
    bits     (m,) int32, written: the float32 numbers seen as whole ones;  numbers  (m,) float32 —
             the same memory
    """
    scale = np.float32(2.0**112)
    for begin in range(0, halves.size, NEAR):
        half, wide, number = (
            halves[begin : begin + NEAR],
            bits[begin : begin + NEAR],
            numbers[begin : begin + NEAR],
        )
        for i in range(
            half.size
        ):  # sign, exponent and fraction in their places, the exponent 112 too small
            sign, magnitude = (
                np.int32(half[i]) & np.int32(-(2**31)),
                np.int32(half[i]) & np.int32(0x7FFF),
            )
            wide[i] = sign | magnitude << np.int32(13)
        for i in range(half.size):
            number[i] *= scale
        for i in range(half.size):  # infinity and NaN have the whole exponent
            wide[i] |= np.int32(0x7F800000) if (half[i] & 0x7C00) == 0x7C00 else np.int32(0)


@njit(cache=True, nogil=True)
def finite_bits(bits, exponent):
    """Return whether no number has all bits of its exponent set, as NaN and infinity have.

    bits      (m,) int32 or int64 — float32 or float64 numbers seen as whole ones: integers compare
              in vectors
    exponent  the mask of the exponent, of the same type
    """
    bad = False
    for i in range(bits.size):
        bad |= (bits[i] & exponent) == exponent
    return not bad


@njit(cache=True, nogil=True)
def upper(square, pairs, begin, end, differ, largest):
    """Copy rows begin…end of the upper triangle, and measure how far the lower one is from it.

    square   (n, n) float32 or float64
    pairs    (n(n − 1)/2,) — of the same type, written: row by row, without the diagonal
    differ   (n,) float64, written — largest |square[i, j] − square[j, i]| for j > i, or |square[i,
             i]| if larger
    largest  (n,) float64, written — largest |square[i, j]| for j > i
    """
    n = square.shape[0]
    for i in range(begin, end):
        differ[i], largest[i] = abs(square[i, i]), 0.0
    for left in range(begin, n, SIDE):
        for i in range(begin, end):
            start = i * n - i * (i + 1) // 2 - i - 1  # of pair (i, j): start + j
            for j in range(max(i + 1, left), min(n, left + SIDE)):
                pairs[start + j] = square[i, j]
                differ[i] = max(differ[i], abs(square[i, j] - square[j, i]))
                largest[i] = max(largest[i], abs(square[i, j]))
