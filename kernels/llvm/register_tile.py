"""The inner loops of tile.py in registers: 4 × 64 sums over 64 steps of k.

Plain Numba (`tile._sums_plain`) takes 1.6 to 2.0 times as long at d = 512 and 2048, 2.8 times at
d = 64 (AVX2, one core, 512 × 512; tests/benchmarks/kernels_llvm.py).
"""

from __future__ import annotations

import functools

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from ..dispatch import FEATURES
from ..panels import BLOCK, PANEL, UNROLL, aligned
from ..tile import DEPTH, ROWS
from .vectors import (
    FLOATS,
    LANES,
    WORD,
    accumulate,
    fetch,
    further,
    place,
    spread,
    store_either,
)

# vectors of 16 sums, for each of the four rows, that fit the registers at once
VECTORS = 4 if "+avx512f" in FEATURES else 1


def check() -> None:
    """Compile `sums` and compare a small tile with its exact sums; raise where they differ."""
    numbers = (np.arange(2 * UNROLL * PANEL, dtype=np.float32) % 7).reshape(2, UNROLL, PANEL)
    packed, out = aligned(numbers.shape), aligned((1, BLOCK, BLOCK))
    packed[:] = numbers
    rows = np.concatenate([panel.T for panel in numbers])
    squares = ((rows[:, None] - rows) ** 2).sum(axis=2)
    for is_difference, exact in ((True, squares), (False, rows @ rows.T)):
        sums(is_difference, packed, 0, BLOCK, packed, 0, BLOCK, False, out)
        if not np.array_equal(out[0], exact):
            raise ArithmeticError("the register tile gives wrong sums")


def _block(is_difference):
    """Return code for 4 × 64 sums over a run of k, VECTORS · 16 columns at a time."""

    def codegen(context, builder, signature, args):
        stride, depth, is_fresh = args[4], args[5], args[8]
        left, right, answer = (
            place(context, builder, signature, args, i, args[i + 1]) for i in (0, 2, 6)
        )
        fma = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(FLOATS, [FLOATS] * 3), f"llvm.fma.v{LANES}f32"
        )

        def steps(vectors, k, sums):
            start = builder.mul(k, WORD(PANEL))
            row, panels = further(builder, left, start), [further(builder, right, start)]
            panels.append(further(builder, panels[0], stride))
            sums = list(sums)
            for step in range(0, UNROLL * PANEL, PANEL):
                columns = [
                    builder.load(
                        further(builder, panels[v // 2], step + v % 2 * LANES, FLOATS), align=64
                    )
                    for v in vectors
                ]
                for i in range(len(sums)):
                    number = builder.load(further(builder, row, step + i // VECTORS))
                    own, others = spread(builder, number), columns[i % VECTORS]
                    left_factor, right_factor = others, own
                    if is_difference:
                        left_factor = right_factor = builder.fsub(others, own)
                    sums[i] = builder.call(fma, [left_factor, right_factor, sums[i]])
            return sums

        for first in range(0, BLOCK // LANES, VECTORS):
            vectors = range(first, first + VECTORS)
            sums = accumulate(
                builder, depth, UNROLL, ROWS * VECTORS, functools.partial(steps, vectors)
            )
            targets = [
                further(builder, answer, r * BLOCK + v * LANES, FLOATS)
                for r in range(ROWS)
                for v in vectors
            ]
            _store(builder, is_fresh, targets, sums)
        return context.get_dummy_value()

    return codegen


def _store(builder, is_fresh, targets, sums):
    """Store the sums, added to what `targets` hold unless `is_fresh`."""
    store_either(
        builder,
        is_fresh,
        targets,
        lambda n: sums[n],
        lambda n: builder.fadd(builder.load(targets[n], align=64), sums[n]),
    )


@intrinsic
def _product_block(typing, a, at_a, b, at_b, stride, depth, out, at_out, fresh):
    """Sum a·b of 4 × 64 pairs over `depth` steps into out, or add it to out unless `fresh`.

    at_a, at_b, at_out, stride   in elements
    """
    return _block_signature(a, b, out), _block(is_difference=False)


@intrinsic
def _difference_block(typing, a, at_a, b, at_b, stride, depth, out, at_out, fresh):
    """Sum (a − b)² of 4 × 64 pairs; else as `_product_block`."""
    return _block_signature(a, b, out), _block(is_difference=True)


def _block_signature(a, b, out):
    word = types.int64
    return types.void(a, word, b, word, word, word, out, word, types.boolean)


@intrinsic
def _fetch(typing, array, at):
    """Prefetch the cache line of array[at] into level 2."""

    def codegen(context, builder, signature, args):
        fetch(builder, place(context, builder, signature, args, 0, args[1]), 2)
        return context.get_dummy_value()

    return types.void(array, types.int64), codegen


# One kernel: a call for every block would count references of four arrays.
@njit(cache=True, nogil=True)
def sums(is_difference, a, first_a, rows, b, first_b, columns, upper, out):
    depth = a.shape[1]
    stride, slab = (
        depth * PANEL,
        DEPTH * PANEL,
    )  # a panel, and what of it is summed before the next is begun
    from_a, from_b = first_a // PANEL * stride, first_b // PANEL * stride
    share = (
        -(-slab * ROWS // rows // LANES) * LANES
    )  # of the next slab, to fetch beside every block of rows
    for k in range(0, depth, DEPTH):
        for j in range(0, columns, BLOCK):
            last = j + BLOCK >= columns
            at_b = from_b + j // PANEL * stride + k * PANEL
            soon = from_b + k * PANEL + slab if last else at_b + 2 * stride
            for i in range(0, min(rows, j + BLOCK) if upper else rows, ROWS):
                at_a = from_a + i // PANEL * stride + k * PANEL
                at_out = (j // BLOCK * out.shape[1] + i) * BLOCK
                for line in range(i // ROWS * share, i // ROWS * share + share, LANES):
                    _fetch(b, soon + line)
                    _fetch(b, soon + line + stride)
                if last:
                    for line in range(i % PANEL * DEPTH, (i % PANEL + ROWS) * DEPTH, LANES):
                        _fetch(a, at_a + slab + line)
                if is_difference:
                    _difference_block(
                        a,
                        at_a + i % PANEL,
                        b,
                        at_b,
                        stride,
                        min(DEPTH, depth - k),
                        out,
                        at_out,
                        k == 0,
                    )
                else:
                    _product_block(
                        a,
                        at_a + i % PANEL,
                        b,
                        at_b,
                        stride,
                        min(DEPTH, depth - k),
                        out,
                        at_out,
                        k == 0,
                    )
