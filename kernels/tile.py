"""The register tile: sums over k of a·b or of (a − b)², of many rows with many rows, at the
machine's limit.

    step of k     4 numbers of `a`, each spread over a register          16 registers of sums, 4
    rows × 64 columns,
                  × 64 of `b` (two panels) in 4 registers of 16     →    held for 64 steps: for
                  every 8 loads 16 fused
                                                                         multiply-adds, and as many
                                                                         subtractions
    tile          rows × columns up to 512 × 512, written to a scratch as [j // 64, i, j % 64]:
    blocks of 64 columns

Both sides are packed the same way, once (panels.py). 64 steps of 64 columns are 16 KiB and stay in
the level 1 cache while all rows of the tile pass by (from level 2); what comes next is fetched
meanwhile. Partial sums of 64 steps are added to the scratch, so that the error of a sum grows with
64 + d/64, not with d. The bits of a sum depend on nothing but its two rows. Where registers hold 8
numbers (AVX2) the 64 columns take four rounds of 16, with the same bits.

Squared differences cost no more than products here: (a − b)² is an addition and a fused
multiply-add, and this machine (Zen 5) has units for both; where they share units it is up to half
the rate. They are why nothing cancels: close rows keep their relative precision, whatever their
offset. One core, 512 × 512 tiles, d = 512 / 2048, GF/s (2 flops a term): differences 251 / 252,
products 262 / 255, the plain way 188 / 195; OpenBLAS's sgemm 238.

The plain way is Numba alone, 2 × 4 sums over k on rows as they are: for processors without AVX-512
or AVX2 with FMA, for TLX_KERNELS=plain in the environment, and (slowly) for NUMBA_DISABLE_JIT=1.
Which way is taken is looked up at each call and never compiled into a caller. Constants compiled in
depend on the processor's features alone, which Numba's cache files are keyed by. Compiled code
elsewhere should not call compiled code in here: its cache file would not notice a change of this
one.

Goto & van de Geijn 2008, doi:10.1145/1356052.1356053, for products of matrices from packed panels.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import config, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from .panels import (
    BLOCK,
    FAST,
    FEATURES,
    NOTHING,
    PANEL,
    UNROLL,
    aligned,
    empty,
    mirror,
    pack,
    padded,
)
from .vectors import (
    FLOATS,
    INT,
    LANES,
    WORD,
    further,
    lanes_below,
    lanes_below_each,
    lowest_bit,
    place,
    spread,
)

__all__ = [
    "BLOCK",
    "DEPTH",
    "FAST",
    "NOTHING",
    "SIDE",
    "differences",
    "empty",
    "lanes_below",
    "lanes_below_each",
    "lowest_bit",
    "mirror",
    "pack",
    "padded",
    "products",
    "scratch",
    "side",
    "upper_tiles",
]

VECTORS = (
    4 if "+avx512f" in FEATURES else 1
)  # of 16 sums for each row that fit the registers at once
ROWS = 4  # rows of a block of 64 columns
DEPTH = 64  # steps of k summed in registers
PLAIN_DEPTH = DEPTH if config.DISABLE_JIT else 512  # compiled, a sum is eight sums or more
SIDE = 512  # rows and columns of the largest tile


def side(rows: int) -> int:
    """Rows of a tile, by the shape alone: the most that leave some 36 tiles of a triangle to share,
    up to SIDE.
    """
    return min(SIDE, padded(-(-rows // 8)))


def upper_tiles(rows: int, side: int) -> list[tuple[int, int]]:
    """(first row, first column) of the tiles on and above the diagonal; those on it, half the work,
    come last.
    """
    starts = range(0, rows, side)
    return [(i, j) for i in starts for j in starts if i < j] + [(i, i) for i in starts]


def scratch(side: int) -> np.ndarray:
    """(side / 64, side, 64) float32, for one thread: [j // 64, i, j % 64] becomes row i with column
    j of a tile.
    """
    return aligned((side // BLOCK, side, BLOCK))


def differences(
    a: np.ndarray,
    first_a: int,
    rows: int,
    b: np.ndarray,
    first_b: int,
    columns: int,
    upper: bool,
    out: np.ndarray,
) -> None:
    """out[j // 64, i, j % 64] = Σ_k (a[first_a + i, k] − b[first_b + j, k])² for i < rows, j <
    columns.

    a, b               packed, of the same depth
    first_a, first_b   multiples of 64
    rows, columns      more is written: rows up to a multiple of 4, columns of 64
    upper              only pairs i < j are wanted: blocks wholly below the diagonal keep what they
                       had
    """
    _tile(True, a, first_a, rows, b, first_b, columns, upper, out)


def products(
    a: np.ndarray,
    first_a: int,
    rows: int,
    b: np.ndarray,
    first_b: int,
    columns: int,
    upper: bool,
    out: np.ndarray,
) -> None:
    """out[j // 64, i, j % 64] = Σ_k a[first_a + i, k] · b[first_b + j, k]; else as
    `differences`.
    """
    _tile(False, a, first_a, rows, b, first_b, columns, upper, out)


def _tile(difference, a, first_a, rows, b, first_b, columns, upper, out):
    sums = _sums if FAST else _sums_plain
    sums(difference, a, first_a, -(-rows // ROWS) * ROWS, b, first_b, padded(columns), upper, out)


# ---------------------------------------------------------------- in registers


def _block(difference):
    """Code for 4 × 64 sums over a run of k, VECTORS · 16 columns at a time."""

    def codegen(context, builder, signature, args):
        stride, depth, fresh = args[4], args[5], args[8]
        left, right, answer = (
            place(context, builder, signature, args, i, args[i + 1]) for i in (0, 2, 6)
        )
        fma = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(FLOATS, [FLOATS] * 3), f"llvm.fma.v{LANES}f32"
        )
        for first in range(0, BLOCK // LANES, VECTORS):
            vectors = range(first, first + VECTORS)
            before, loop, after, add, put, done = (
                builder.block,
                *(builder.append_basic_block() for _ in range(5)),
            )
            builder.branch(loop)
            builder.position_at_end(loop)
            k, held = builder.phi(WORD), [builder.phi(FLOATS) for _ in range(ROWS * VECTORS)]
            here = builder.mul(k, WORD(PANEL))
            row, panels = further(builder, left, here), [further(builder, right, here)]
            panels.append(further(builder, panels[0], stride))
            sums = list(held)
            for step in range(0, UNROLL * PANEL, PANEL):
                columns = [
                    builder.load(
                        further(builder, panels[v // 2], step + v % 2 * LANES, FLOATS), align=64
                    )
                    for v in vectors
                ]
                for i in range(len(sums)):
                    one = spread(builder, builder.load(further(builder, row, step + i // VECTORS)))
                    many = columns[i % VECTORS]
                    factors = [builder.fsub(many, one)] * 2 if difference else [many, one]
                    sums[i] = builder.call(fma, [*factors, sums[i]])
            following = builder.add(k, WORD(UNROLL))
            starts = [WORD(0)] + [FLOATS([0.0] * LANES)] * len(held)
            for phi, start, end in zip([k, *held], starts, [following, *sums], strict=True):
                phi.add_incoming(start, before)
                phi.add_incoming(end, loop)
            builder.cbranch(builder.icmp_signed("<", following, depth), loop, after)
            builder.position_at_end(after)
            targets = [
                further(builder, answer, r * BLOCK + v * LANES, FLOATS)
                for r in range(ROWS)
                for v in vectors
            ]
            builder.cbranch(fresh, put, add)
            for branch in (add, put):
                builder.position_at_end(branch)
                for target, value in zip(targets, sums, strict=True):
                    whole = (
                        value
                        if branch is put
                        else builder.fadd(builder.load(target, align=64), value)
                    )
                    builder.store(whole, target, align=64)
                builder.branch(done)
            builder.position_at_end(done)
        return context.get_dummy_value()

    return codegen


@intrinsic
def _product_block(typing, a, at_a, b, at_b, stride, depth, out, at_out, fresh):
    """4 × 64 sums of a·b over `depth` steps into out (`fresh`), or added to it; places and strides
    in elements.
    """
    word = types.int64
    return types.void(a, word, b, word, word, word, out, word, types.boolean), _block(
        difference=False
    )


@intrinsic
def _difference_block(typing, a, at_a, b, at_b, stride, depth, out, at_out, fresh):
    """4 × 64 sums of (a − b)²; else as _product_block."""
    word = types.int64
    return types.void(a, word, b, word, word, word, out, word, types.boolean), _block(
        difference=True
    )


@intrinsic
def _fetch(typing, array, at):
    """Bring the cache line of array[at] near."""

    def codegen(context, builder, signature, args):
        byte = ir.IntType(8).as_pointer()
        prefetch = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [byte, INT, INT, INT]),
            "llvm.prefetch.p0",
        )
        pointer = builder.bitcast(place(context, builder, signature, args, 0, args[1]), byte)
        builder.call(prefetch, [pointer, INT(0), INT(2), INT(1)])  # to read, into level 2, data
        return context.get_dummy_value()

    return types.void(array, types.int64), codegen


@njit(cache=True, nogil=True)
def _sums(difference, a, first_a, rows, b, first_b, columns, upper, out):
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
                if difference:
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


# ---------------------------------------------------------------- plain


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _sums_plain(difference, a, first_a, rows, b, first_b, columns, upper, out):
    for begin in range(0, a.shape[1], PLAIN_DEPTH):
        end = min(begin + PLAIN_DEPTH, a.shape[1])
        for j in range(0, columns, 4):
            block, lane = j // BLOCK, j % BLOCK
            b0, b1 = b[first_b + j, begin:end], b[first_b + j + 1, begin:end]
            b2, b3 = b[first_b + j + 2, begin:end], b[first_b + j + 3, begin:end]
            for i in range(0, min(rows, j + 4) if upper else rows, 2):
                a0, a1 = a[first_a + i, begin:end], a[first_a + i + 1, begin:end]
                s00 = s01 = s02 = s03 = s10 = s11 = s12 = s13 = np.float32(0)
                if difference:
                    for k in range(a0.size):
                        s00 += (a0[k] - b0[k]) * (a0[k] - b0[k])
                        s01 += (a0[k] - b1[k]) * (a0[k] - b1[k])
                        s02 += (a0[k] - b2[k]) * (a0[k] - b2[k])
                        s03 += (a0[k] - b3[k]) * (a0[k] - b3[k])
                        s10 += (a1[k] - b0[k]) * (a1[k] - b0[k])
                        s11 += (a1[k] - b1[k]) * (a1[k] - b1[k])
                        s12 += (a1[k] - b2[k]) * (a1[k] - b2[k])
                        s13 += (a1[k] - b3[k]) * (a1[k] - b3[k])
                else:
                    for k in range(a0.size):
                        s00 += a0[k] * b0[k]
                        s01 += a0[k] * b1[k]
                        s02 += a0[k] * b2[k]
                        s03 += a0[k] * b3[k]
                        s10 += a1[k] * b0[k]
                        s11 += a1[k] * b1[k]
                        s12 += a1[k] * b2[k]
                        s13 += a1[k] * b3[k]
                sums = ((s00, s01, s02, s03), (s10, s11, s12, s13))
                for r in range(2):
                    for c in range(4):
                        before = out[block, i + r, lane + c] if begin else np.float32(0)
                        out[block, i + r, lane + c] = before + sums[r][c]
