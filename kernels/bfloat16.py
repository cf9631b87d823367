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
from numba import njit

from . import parallel, tile
from .panels import PANEL

DEPTH = 64  # steps, of two features each, of a partial sum
CHUNK = 256  # rows that are rounded before they are packed
SMALLEST = 2.0**-100  # less than this becomes 0, so that no product is too small for float32


class BFloat16Rows:
    """Round and pack rows in pairs of features, sum tiles of their T, and tell what T proves.

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
        """Write T of rows i… of `beside` with rows j… of these; as `tile.differences`.

        beside  other rows; these unless given
        """
        from .llvm import bfloat16_tile  # here: it is built where dispatch.has_bfloat16() alone

        left = beside or self
        bfloat16_tile.tile(
            left.pairs,
            left.half,
            i,
            -(-rows // tile.ROWS) * tile.ROWS,
            self.pairs,
            self.half,
            j,
            tile.padded(columns),
            upper,
            out,
        )

    def least(self, sums: np.ndarray) -> np.ndarray:
        """Return the squared distances that (2) proves: (n, kept) float64.

        sums  (n, kept) float32 — T of every row with others
        """
        norms, d = self.norms[:, None], self.depth
        g = 1.01 * (3 * DEPTH + 2 * -(-d // (2 * DEPTH)) + 6) * 2.0**-24
        square = np.maximum(
            0, 2 * sums.astype(np.float64) - 3 * g * norms**2 - 4 * d * 2.0**-126
        ) / (1 + 2 * g)
        far = np.sqrt(square) * (1 - self.share) - self.lost[:, None] - self.share * norms
        return (np.maximum(0, far) / self.scale) ** 2 * (1 - 2.0**-50)


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})  # to sum in vectors
def _round(x, first, centre, scale, smallest, pairs, squares, lost):
    """Round rows first… to pairs of bfloat16 (m, ⌈d/2⌉) int32; write |b|² and |y − b| of each."""
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
