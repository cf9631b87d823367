"""Sums for candidates from direct differences in float32, and what they prove.

No large offset costs a digit of (a − b)². Let q be packed rows, Q² = |q_i − q_j|², S its float32
sum in the tile. All terms are ≥ 0; each has the two roundings of a squared difference, at most
DEPTH of fused steps and ⌈d / DEPTH⌉ of adding up runs. So with u = 2^-24, up to what underflows
(less than 2^-126 in each of fewer than 2d steps),

    S ≤ Q²·(1 + γ) + 2d·2^-126,  γ = 1.01·(DEPTH + d / DEPTH + 4)·u,
    (1)

hence Q ≥ Q* = √((S − 2d·2^-126) / (1 + γ)). float32 rows are packed as they are: the distance D is
Q. float64 rows lose a centre c, are scaled by a power of two and rounded: q = (x − c)·2^e + r with
|r| ≤ ε·|q|, ε = 1.01·u in each feature, and so of the norms (2^-100·√d is added for underflow).
With the triangle inequality, and |q_j| ≤ |q_i| + Q,

    2^e·D ≥ Q − |r_i| − |r_j| ≥ Q − ε·(2|q_i| + Q) ≥ Q*·(1 − ε) − 2ε·|q_i|
    (2)

which knows row i only: an outlier elsewhere costs nothing.
"""

from __future__ import annotations

import numpy as np

from . import tile

LOST = 1.01 * 2.0**-24  # ε


class Differences:
    """Pack rows as float32, sum tiles of their S, and tell what S proves; as BFloat16Rows.

    x       (n, d) float32 or float64; centre (d,) float64; scale — 2^e, both for float64 alone
    """

    def __init__(self, x: np.ndarray, centre: np.ndarray, scale: float, threads: int | None = None):
        n, self.depth = x.shape
        self.packed, self.rounded, self.scale = (
            tile.empty(n, self.depth),
            x.dtype == np.float64,
            1.0,
        )
        if not self.rounded:
            tile.pack(self.packed, x, 0, n, 0, self.depth, threads=threads)
            return
        squares, self.scale = np.zeros(n), scale
        tile.pack(
            self.packed,
            x,
            0,
            n,
            0,
            self.depth,
            centre=centre,
            scale=np.full(n, scale),
            squares=squares,
            threads=threads,
        )
        self.norms = np.sqrt(squares) * (1 + 2.0**-20) + np.sqrt(self.depth) * 2.0**-100

    def tile(
        self,
        i: int,
        rows: int,
        j: int,
        columns: int,
        upper: bool,
        out: np.ndarray,
        beside: Differences | None = None,
    ) -> None:
        """Write S of rows i… of `beside` with rows j… of these; as `tile.differences`.

        beside  other rows, of the same centre and scale; these unless given
        """
        tile.differences((beside or self).packed, i, rows, self.packed, j, columns, upper, out)

    def least(self, sums: np.ndarray) -> np.ndarray:
        """Return the squared distances that (2) proves: (n, kept) float64.

        sums  (n, kept) float32 — S of every row with others
        """
        raised = 1 + 1.01 * (tile.DEPTH + self.depth / tile.DEPTH + 4) * 2.0**-24
        far = np.sqrt(np.maximum(0, sums.astype(np.float64) - 2 * self.depth * 2.0**-126) / raised)
        if self.rounded:
            far = np.maximum(0, far * (1 - LOST) - 2 * LOST * self.norms[:, None])
        return (far / self.scale) ** 2 * (1 - 2.0**-50)
