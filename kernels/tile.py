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
products 262 / 255, plain Numba 188 / 195; OpenBLAS's sgemm 238.

These loops are in llvm/register_tile.py. `_sums_plain` is Numba alone, 2 × 4 sums over k on rows
as they are: `dispatch.has_tile` says when it is taken. It is looked up at each call and never
compiled into a caller. Constants compiled in depend on the processor's features alone, which key
Numba's cache files. Compiled code in one file should not call compiled code in another: its
cache file would not notice a change there.

Goto & van de Geijn 2008, doi:10.1145/1356052.1356053, for products of matrices from packed panels.
"""

from __future__ import annotations

import numpy as np
from numba import config, njit

from . import dispatch
from .panels import BLOCK, NOTHING, UNROLL, aligned, empty, mirror, pack, padded

__all__ = [
    "BLOCK",
    "DEPTH",
    "NOTHING",
    "SIDE",
    "UNROLL",
    "differences",
    "empty",
    "mirror",
    "pack",
    "padded",
    "products",
    "scratch",
    "side",
    "upper_tiles",
]

ROWS = 4  # rows of a block of 64 columns
DEPTH = 64  # steps of k summed in registers
PLAIN_DEPTH = DEPTH if config.DISABLE_JIT else 512  # compiled, a sum is eight sums or more
SIDE = 512  # rows and columns of the largest tile


def side(rows: int) -> int:
    """Return the rows of a tile, by the shape alone.

    They are the most that leave some 36 tiles of a triangle to share, up to SIDE.
    """
    return min(SIDE, padded(-(-rows // 8)))


def upper_tiles(rows: int, side: int) -> list[tuple[int, int]]:
    """Return (first row, first column) of the tiles on and above the diagonal.

    Those on it, half the work, come last.
    """
    starts = range(0, rows, side)
    return [(i, j) for i in starts for j in starts if i < j] + [(i, i) for i in starts]


def scratch(side: int) -> np.ndarray:
    """Return room for one tile, of one thread: (side / 64, side, 64) float32.

    [j // 64, i, j % 64] becomes row i with column j.
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
    """Write out[j // 64, i, j % 64] = Σ_k (a[first_a + i, k] − b[first_b + j, k])².

    For i < rows, j < columns.

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
    """Write out[j // 64, i, j % 64] = Σ_k a[first_a + i, k] · b[first_b + j, k].

    Else as `differences`.
    """
    _tile(False, a, first_a, rows, b, first_b, columns, upper, out)


def _tile(is_difference, a, first_a, rows, b, first_b, columns, upper, out):
    if dispatch.has_tile():
        from .llvm.register_tile import sums
    else:
        sums = _sums_plain
    rows = -(-rows // ROWS) * ROWS
    sums(is_difference, a, first_a, rows, b, first_b, padded(columns), upper, out)


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
