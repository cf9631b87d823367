"""The inner loop of bfloat16.py: 4 × 64 sums of bfloat16 products, 32 products an instruction.

There is no plain twin, as Numba has no bfloat16: without it direct differences (register_tile.py)
take some twice as long (AVX512-BF16, Zen 5; tests/benchmarks/kernels_neighbours.py).
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from ..bfloat16 import DEPTH
from ..panels import BLOCK, PANEL, UNROLL, aligned
from ..tile import ROWS
from .vectors import FLOATS, LANES, WORD, accumulate, further, place, spread, store_either

VECTORS = BLOCK // LANES  # of sums for each row


class _BFloat(ir.types.Type):
    """LLVM's type `bfloat`, which llvmlite does not name."""

    def _to_string(self) -> str:
        return "bfloat"

    __str__ = _to_string


_PAIRS = ir.VectorType(_BFloat(), 2 * LANES)


def check() -> None:
    """Compile `tile` and compare small sums with the exact ones; raise where they differ."""
    numbers = (np.arange(2 * UNROLL * PANEL, dtype=np.float32) % 7).reshape(2, UNROLL, PANEL)
    pairs, out = aligned(numbers.shape), aligned((1, BLOCK, BLOCK))
    # a float32 of few digits is a bfloat16, with 0 as the other number of the pair
    pairs[:] = numbers
    rows = np.concatenate([panel.T for panel in numbers])
    half = (rows**2).sum(axis=1) / 2
    tile(pairs, half, 0, BLOCK, pairs, half, 0, BLOCK, False, out)
    if not np.array_equal(out[0], half[:, None] + half - rows @ rows.T):
        raise ArithmeticError("the bfloat16 tile gives wrong sums")


def _load_columns(builder, panels, step):
    """Return the pairs of 64 columns, `step` floats on in two panels."""
    pointers = (
        further(builder, panels[v // 2], step + v % 2 * LANES, FLOATS) for v in range(VECTORS)
    )
    return [builder.bitcast(builder.load(pointer, align=64), _PAIRS) for pointer in pointers]


@intrinsic
def _block(typing, a, at_a, b, at_b, half_a, at_i, half_b, at_j, out, at_out, stride, depth, fresh):
    """Take the products of `depth` steps off 4 × 64 T, which begin as N_i/2 + N_j/2 where `fresh`.

    at_…, stride   in elements
    """

    def codegen(context, builder, signature, args):
        stride, depth, is_fresh = args[10:]
        left, right, half_i, half_j, answer = (
            place(context, builder, signature, args, at, args[at + 1]) for at in range(0, 10, 2)
        )
        multiply = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(FLOATS, [FLOATS, _PAIRS, _PAIRS]),
            "llvm.x86.avx512bf16.dpbf16ps.512",
        )

        def steps(k, sums):
            start = builder.mul(k, WORD(PANEL))
            row, panels = further(builder, left, start), [further(builder, right, start)]
            panels.append(further(builder, panels[0], stride))
            sums = list(sums)
            for step in range(0, UNROLL * PANEL, PANEL):
                columns = _load_columns(builder, panels, step)
                for r in range(ROWS):
                    number = builder.load(further(builder, row, step + r))
                    own = builder.bitcast(spread(builder, number), _PAIRS)
                    for v in range(VECTORS):
                        at = r * VECTORS + v
                        sums[at] = builder.call(multiply, [sums[at], columns[v], own])
            return sums

        def halves(n):
            number = builder.load(further(builder, half_i, n // VECTORS))
            columns = further(builder, half_j, n % VECTORS * LANES, FLOATS)
            return builder.fadd(spread(builder, number), builder.load(columns, align=4))

        sums = accumulate(builder, depth, UNROLL, ROWS * VECTORS, steps)
        targets = [
            further(builder, answer, n // VECTORS * BLOCK + n % VECTORS * LANES, FLOATS)
            for n in range(len(sums))
        ]
        store_either(
            builder,
            is_fresh,
            targets,
            lambda n: builder.fsub(halves(n), sums[n]),
            lambda n: builder.fsub(builder.load(targets[n], align=64), sums[n]),
        )
        return context.get_dummy_value()

    word = types.int64
    arrays = (a, word, b, word, half_a, word, half_b, word, out, word)
    return types.void(*arrays, word, word, types.boolean), codegen


@njit(cache=True, nogil=True)
def tile(a, half_a, first_a, rows, b, half_b, first_b, columns, upper, out):
    depth = a.shape[1]
    stride = depth * PANEL
    for k in range(0, depth, DEPTH):
        for j in range(0, columns, BLOCK):
            at_b = (first_b + j) // PANEL * stride + k * PANEL
            for i in range(0, min(rows, j + BLOCK) if upper else rows, ROWS):
                at_a = (first_a + i) // PANEL * stride + k * PANEL + (first_a + i) % PANEL
                _block(
                    a,
                    at_a,
                    b,
                    at_b,
                    half_a,
                    first_a + i,
                    half_b,
                    first_b + j,
                    out,
                    (j // BLOCK * out.shape[1] + i) * BLOCK,
                    stride,
                    min(DEPTH, depth - k),
                    k == 0,
                )
