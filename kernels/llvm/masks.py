"""Pick the few of 64 sums that are below a limit: a comparison gives a mask of 64 bits, one a lane.

Plain Numba compares one number after another: `pick` takes 2.5 to 3.0 times as long, tile and pick
together 1.6 times at d = 64, 1.0 to 1.2 times at d = 512 (AVX2, one core;
tests/benchmarks/kernels_llvm.py).
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from ..panels import BLOCK, aligned
from .vectors import WORD, further, place, spread

_SIXTY_FOUR = ir.VectorType(ir.FloatType(), 64)


def check() -> None:
    """Compile `pick` and compare short lists with a sort; raise where they differ."""
    out = aligned((1, BLOCK, BLOCK))
    out[:] = np.arange(BLOCK * BLOCK, dtype=np.float32).reshape(out.shape) * 7 % BLOCK
    sums, indices = np.full((BLOCK, 3), np.inf, np.float32), np.full((BLOCK, 3), -1)
    pick(out, 0, BLOCK, 0, BLOCK, False, False, sums, indices, sums[:, -1].copy())
    if not np.array_equal(sums, np.sort(out[0], axis=1)[:, :3]) or not np.array_equal(
        np.take_along_axis(out[0], indices, axis=1), sums
    ):
        raise ArithmeticError("the smallest sums of a tile are wrong")


def _lanes(context, builder, signature, args, array):
    """Return the 64 numbers of array number `array` that begin at the argument after it."""
    begin = place(context, builder, signature, args, array, args[array + 1])
    return builder.load(further(builder, begin, 0, _SIXTY_FOUR), align=4)


@intrinsic
def lanes_below(typing, values, at, limit):
    """Return an int64 mask: bit l in 0…63 is set where not values[at + l] >= limit, as for NaN.

    values, limit  float32
    """

    def codegen(context, builder, signature, args):
        below = builder.fcmp_unordered(
            "<", _lanes(context, builder, signature, args, 0), spread(builder, args[2], _SIXTY_FOUR)
        )
        return builder.bitcast(below, WORD)

    return types.int64(values, types.int64, types.float32), codegen


@intrinsic
def lanes_below_each(typing, values, at, limits, at_limits):
    """Return an int64 mask: bit l in 0…63 is set where not values[at + l] >= limits[at_limits + l].

    values, limits  float32
    """

    def codegen(context, builder, signature, args):
        below = builder.fcmp_unordered(
            "<", *(_lanes(context, builder, signature, args, array) for array in (0, 2))
        )
        return builder.bitcast(below, WORD)

    return types.int64(values, types.int64, limits, types.int64), codegen


@intrinsic
def lowest_bit(typing, mask):
    """Return the position of the lowest set bit of an int64; 64 for 0."""

    def codegen(context, builder, signature, args):
        return builder.cttz(args[0], ir.IntType(1)(0))

    return types.int64(types.int64), codegen


@njit(cache=True, nogil=True)
def pick(out, first, rows, begin, columns, upper, both, sums, indices, limits):
    """Insert sums of a tile into the lists of their rows, where they are below the row's limit.

    both    insert them into the lists of their columns, too
    upper   the tile lies on the diagonal: only pairs with row < column count
    """
    for block in range((columns + BLOCK - 1) // BLOCK):
        left, inside = begin + block * BLOCK, np.int64(-1)
        if columns - block * BLOCK < BLOCK:
            inside = (np.int64(1) << (columns - block * BLOCK)) - 1
        for i in range(min(rows, left + BLOCK - 1 - first) if upper else rows):
            row, at, wanted = first + i, (block * out.shape[1] + i) * BLOCK, inside
            if upper and left <= row:
                wanted &= np.int64(-1) << (row + 1 - left)
            mask = lanes_below(out, at, limits[row]) & wanted
            while mask:
                lane = lowest_bit(mask)
                mask &= mask - 1
                _keep(sums, indices, limits, row, out[block, i, lane], left + lane)
            if both:
                mask = lanes_below_each(out, at, limits, left) & wanted
                while mask:
                    lane = lowest_bit(mask)
                    mask &= mask - 1
                    _keep(sums, indices, limits, left + lane, out[block, i, lane], row)


@njit(cache=True, nogil=True)
def _keep(sums, indices, limits, row, value, index):
    """Insert a value into a row's ascending list, in place of the last, if it is smaller."""
    if value < limits[row]:
        place = sums.shape[1] - 1
        while place > 0 and sums[row, place - 1] > value:
            sums[row, place], indices[row, place] = sums[row, place - 1], indices[row, place - 1]
            place -= 1
        sums[row, place], indices[row, place] = value, index
        limits[row] = sums[row, sums.shape[1] - 1]
