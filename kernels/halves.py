"""Sums for candidates at twice the speed: bfloat16 products, on processors that have them, and what
they still prove.

A row less the centre, y, is rounded to eight binary digits, b. A tile holds T, about |b_i − b_j|² /
2 of two rows: it begins as |b_i|²/2 + |b_j|²/2, and b_i·b_j is taken off it, 32 products an
instruction, exact and added in float32.

Let u = 2^-24, N = |b|² and B² = |b_i − b_j|². The instruction rounds at most three times, DEPTH of
them make a partial sum, and `runs` of these are taken off T. No number on the way is larger than
(N_i + N_j)/2 + Σ|b_ik·b_jk| ≤ N_i + N_j, so that with what underflows, below 2^-126 each time,

    |2T − B²| ≤ g·(N_i + N_j) + 4d·2^-126,   g = 1.01·(3·DEPTH + 2·runs + 6)·u,    (1)

and B² ≥ B*² = (2T − 3g·N_i − 4d·2^-126) / (1 + 2g), as N_j ≤ (|b_i| + B)² ≤ 2N_i + 2B². What
rounding took from a row, ρ = |y − b|, is summed while it is done; σ is the largest ρ/|b| of all
rows. So of any row j, by row i alone,

    |y_i − y_j| ≥ B − ρ_i − σ·|b_j| ≥ B − ρ_i − σ·(|b_i| + B) ≥ B*·(1 − σ) − ρ_i − σ·|b_i|   (2)

which is some 0.3 % of |y| below the truth: less than the nearest rows differ by, unless a few
features dwarf the rest or rows sit in tight clusters.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from . import parallel, tile
from .panels import FEATURES, PANEL
from .vectors import FLOATS, LANES, WORD, further, place, spread

FAST = tile.FAST and "+avx512bf16" in FEATURES
DEPTH = 64  # steps, of two features each, of a partial sum
ROWS, UNROLL = 4, 4  # as in tile.py
CHUNK = 256  # rows that are rounded before they are packed
SMALLEST = 2.0**-100  # less than this becomes 0, so that no product is too small for float32


class BFloat16Rows:
    """Rounded rows, packed in pairs of features, the tiles of their T, and what these prove.

    x       (n, d) float32 or float64; centre (d,) float64; scale — y = (x − centre)·scale
    """

    def __init__(self, x: np.ndarray, centre: np.ndarray, scale: float, threads: int | None = None):
        n, self.depth = x.shape
        self.scale, squares, lost = scale, np.zeros(n), np.zeros(n)
        self.pairs, self.half = (
            tile.empty(n, -(-self.depth // 2)),
            np.zeros(tile.padded(n), np.float32),
        )

        def work(task: int, thread: int) -> None:
            first, rows = task * CHUNK, min(CHUNK, n - task * CHUNK)
            pairs = np.empty((rows, -(-self.depth // 2)), np.int32)
            _round(x, first, centre, scale, np.float32(SMALLEST), pairs, squares, lost)
            tile.pack(
                self.pairs[first // PANEL :],
                pairs.view(np.float32),
                0,
                rows,
                0,
                pairs.shape[1],
                threads=1,
            )

        parallel.parallel_for(-(-n // CHUNK), work, threads)
        self.half[:n] = squares / 2
        self.norms = np.sqrt(squares)
        self.lost = lost * (1 + 2.0**-20) + self.norms * 2.0**-50
        share = np.divide(self.lost, self.norms, out=np.ones(n), where=self.norms > 0)[
            self.lost > 0
        ]
        self.share = min(1.0, float(share.max(initial=0)))  # σ; at 1 nothing is proved

    def tile(
        self,
        i: int,
        rows: int,
        j: int,
        columns: int,
        upper: bool,
        out: np.ndarray,
        beside: BFloat16Rows | None = None,
    ) -> None:
        """T of rows i… of `beside` (these, unless given) with rows j… of these; as
        `tile.differences`.
        """
        left = beside or self
        _tile(
            left.pairs,
            left.half,
            i,
            -(-rows // ROWS) * ROWS,
            self.pairs,
            self.half,
            j,
            tile.padded(columns),
            upper,
            out,
        )

    def least(self, sums: np.ndarray) -> np.ndarray:
        """The squared distance that (2) proves: (n, kept) float32 T of every row with others → (n,
        kept) float64.
        """
        norms, d = self.norms[:, None], self.depth
        g = 1.01 * (3 * DEPTH + 2 * -(-d // (2 * DEPTH)) + 6) * 2.0**-24
        square = np.maximum(
            0, 2 * sums.astype(np.float64) - 3 * g * norms**2 - 4 * d * 2.0**-126
        ) / (1 + 2 * g)
        far = np.sqrt(square) * (1 - self.share) - self.lost[:, None] - self.share * norms
        return (np.maximum(0, far) / self.scale) ** 2 * (1 - 2.0**-50)


class _BFloat(ir.types.Type):
    """LLVM's bfloat, which llvmlite has no name for."""

    def _to_string(self) -> str:
        return "bfloat"

    __str__ = _to_string


_PAIRS = ir.VectorType(_BFloat(), 2 * LANES)


@intrinsic
def _block(typing, a, at_a, b, at_b, half_a, at_i, half_b, at_j, out, at_out, stride, depth, fresh):
    """4 × 64 T: from their halves of N (`fresh`) or from `out`, less products of `depth` steps;
    places in elements.
    """

    def codegen(context, builder, signature, args):
        stride, depth, fresh = args[10:]
        left, right, half_i, half_j, answer = (
            place(context, builder, signature, args, at, args[at + 1]) for at in range(0, 10, 2)
        )
        multiply = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(FLOATS, [FLOATS, _PAIRS, _PAIRS]),
            "llvm.x86.avx512bf16.dpbf16ps.512",
        )
        vectors, before = range(4), builder.block
        loop, after, begin, go_on, done = (builder.append_basic_block() for _ in range(5))
        builder.branch(loop)
        builder.position_at_end(loop)
        k, held = builder.phi(WORD), [builder.phi(FLOATS) for _ in range(4 * ROWS)]
        here = builder.mul(k, WORD(PANEL))
        row, panels = further(builder, left, here), [further(builder, right, here)]
        panels.append(further(builder, panels[0], stride))
        sums = list(held)
        for step in range(0, UNROLL * PANEL, PANEL):
            columns = [
                builder.bitcast(
                    builder.load(
                        further(builder, panels[v // 2], step + v % 2 * LANES, FLOATS), align=64
                    ),
                    _PAIRS,
                )
                for v in vectors
            ]
            for r in range(ROWS):
                one = builder.bitcast(
                    spread(builder, builder.load(further(builder, row, step + r))), _PAIRS
                )
                for v in vectors:
                    sums[r * 4 + v] = builder.call(multiply, [sums[r * 4 + v], columns[v], one])
        following = builder.add(k, WORD(UNROLL))
        starts = [WORD(0)] + [FLOATS([0.0] * LANES)] * len(held)
        for phi, start, end in zip([k, *held], starts, [following, *sums], strict=True):
            phi.add_incoming(start, before)
            phi.add_incoming(end, loop)
        builder.cbranch(builder.icmp_signed("<", following, depth), loop, after)
        builder.position_at_end(after)
        builder.cbranch(fresh, begin, go_on)
        for branch in (begin, go_on):
            builder.position_at_end(branch)
            for at, value in enumerate(sums):
                target = further(builder, answer, at // 4 * tile.BLOCK + at % 4 * LANES, FLOATS)
                whole = (
                    builder.load(target, align=64)
                    if branch is go_on
                    else builder.fadd(
                        spread(builder, builder.load(further(builder, half_i, at // 4))),
                        builder.load(further(builder, half_j, at % 4 * LANES, FLOATS), align=4),
                    )
                )
                builder.store(builder.fsub(whole, value), target, align=64)
            builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    word = types.int64
    return types.void(
        a, word, b, word, half_a, word, half_b, word, out, word, word, word, types.boolean
    ), codegen


@njit(cache=True, nogil=True)
def _tile(a, half_a, first_a, rows, b, half_b, first_b, columns, upper, out):
    depth = a.shape[1]
    stride = depth * PANEL
    for k in range(0, depth, DEPTH):
        for j in range(0, columns, tile.BLOCK):
            at_b = (first_b + j) // PANEL * stride + k * PANEL
            for i in range(0, min(rows, j + tile.BLOCK) if upper else rows, ROWS):
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
                    (j // tile.BLOCK * out.shape[1] + i) * tile.BLOCK,
                    stride,
                    min(DEPTH, depth - k),
                    k == 0,
                )


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})  # to sum in vectors
def _round(x, first, centre, scale, smallest, pairs, squares, lost):
    """Rows first… as pairs of bfloat16 (m, ⌈d/2⌉) int32, |b|² and |y − b| of each."""
    d = x.shape[1]
    line = np.zeros(2 * pairs.shape[1], np.float32)
    bits = line.view(np.int32)
    least = np.full(1, smallest, np.float32).view(np.int32)[0]
    for r in range(pairs.shape[0]):
        row = first + r
        for k in range(d):
            line[k] = (x[row, k] - centre[k]) * scale
        for k in range(
            bits.size
        ):  # to the nearest, to even from halfway: the upper 16 bits are a bfloat16
            whole = (
                bits[k] + np.int32(0x7FFF) + (bits[k] >> np.int32(16) & np.int32(1))
            ) & np.int32(-65536)
            bits[k] = whole if whole & np.int32(0x7FFFFFFF) >= least else np.int32(0)
        square = gone = 0.0
        for k in range(d):
            square += np.float64(line[k]) ** 2
            gone += ((x[row, k] - centre[k]) * scale - line[k]) ** 2
        squares[row], lost[row] = square, np.sqrt(gone)
        for k in range(pairs.shape[1]):
            pairs[r, k] = bits[2 * k] >> np.int32(16) & np.int32(0xFFFF) | bits[2 * k + 1]
