"""Squares of 16 × 16 numbers transposed in registers: for panels (panels.py) and mirrored tiles.

With plain Numba, `mirror` takes 3 to 5 times as long and the same packing of panels 1.3 to 1.4
times (AVX2, one core; tests/benchmarks/kernels_llvm.py).
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from ..panels import BLOCK, PANEL, RUN, mirror_plain, read, square
from .vectors import FLOATS, INT, LANES, WORD, further, place


def check() -> None:
    """Compile `mirror` and compare a tile with its transpose; raise where they differ."""
    tile = np.arange(BLOCK * BLOCK, dtype=np.float32).reshape(1, BLOCK, BLOCK)
    out = np.empty(BLOCK * BLOCK, np.float32)
    mirror(tile, 0, BLOCK, 0, BLOCK, False, out, 0, BLOCK)
    if not np.array_equal(out.reshape(BLOCK, BLOCK), tile[0].T):
        raise ArithmeticError("a transposed tile differs from the tile")


@intrinsic
def _transpose(typing, source, at_source, source_step, target, at_target, target_step):
    """Write a 16 × 16 square of source, float32, transposed into target.

    at_…     element at which the square begins
    …_step   elements from one of its rows to the next
    """

    def codegen(context, builder, signature, args):
        def lines(array):
            begin = place(context, builder, signature, args, array, args[array + 1])
            steps = [builder.mul(args[array + 2], WORD(r)) for r in range(LANES)]
            return [further(builder, begin, step, FLOATS) for step in steps]

        rows = [builder.load(line, align=4) for line in lines(0)]
        # of every square of 2·width, exchange the quarters that are not on its diagonal
        for width in (1, 2, 4, 8):
            low = [lane + LANES - width if lane & width else lane for lane in range(LANES)]
            high = [lane + LANES if lane & width else lane + width for lane in range(LANES)]
            rows = [
                builder.shuffle_vector(
                    rows[r & ~width],
                    rows[r | width],
                    ir.VectorType(INT, LANES)(high if r & width else low),
                )
                for r in range(LANES)
            ]
        for row, line in zip(rows, lines(3), strict=True):
            builder.store(row, line, align=4)
        return context.get_dummy_value()

    word = types.int64
    return types.void(source, word, word, target, word, word), codegen


@njit(cache=True, nogil=True)
def pack(x, first, rows, begin, depth, shift, scale, centre, squares, packed, start, stop):
    run = np.zeros((PANEL, min(RUN, -(-depth // LANES) * LANES)), np.float32)
    deep = packed.shape[1]
    for panel in range(start // PANEL, stop // PANEL):
        filled = min(PANEL, max(0, rows - panel * PANEL))
        run[filled:] = 0
        for k in range(0, deep, RUN):
            count = min(RUN, depth - k)
            for r in range(filled):
                row = first + panel * PANEL + r
                read(x, row, begin + k, count, shift, scale, centre, run, r)
                if squares.size:
                    squares[row] += square(run, r, count)
                run[r, count:] = 0
            whole = min(RUN, deep - k) // LANES * LANES
            for part in range(0, whole, LANES):
                at = (panel * deep + k + part) * PANEL
                _transpose(run, part, run.shape[1], packed, at, PANEL)
                _transpose(
                    run, LANES * run.shape[1] + part, run.shape[1], packed, at + LANES, PANEL
                )
            for column in range(whole, min(RUN, deep - k)):
                for r in range(PANEL):
                    packed[panel, k + column, r] = run[r, column]


@njit(cache=True, nogil=True)
def mirror(tile, i0, i1, j0, j1, upper, out, at, step):
    for j in range(j0, j1, LANES):
        for i in range(i0, min(i1, j + LANES) if upper else i1, LANES):
            if i + LANES <= i1 and j + LANES <= j1 and (i < j or not upper):
                _transpose(
                    tile,
                    (j // BLOCK * tile.shape[1] + i) * BLOCK + j % BLOCK,
                    BLOCK,
                    out,
                    at + j * step + i,
                    step,
                )
            else:
                mirror_plain(
                    tile, i, min(i1, i + LANES), j, min(j1, j + LANES), upper, out, at, step
                )
