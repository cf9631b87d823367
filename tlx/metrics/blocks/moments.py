"""Means, sums of squares and products of blocks, and how those of two blocks are joined.

Of a block B with n_B rows and mean m_B, and of another with n_A and m_A, let m be the mean of
both and δ = m − m_B. Then Σ_B |x − m|² = Σ_B |x − m_B|² + n_B·|δ|² (Chan, Golub & LeVeque 1983,
The American Statistician 37:242–247), and so on for products. All terms are about means, so that
no digit goes to an offset of the rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from ...errors import BadDataError, ResourceError
from ..sum_of_squares import SumOfSquares, sum_of_squares
from .pieces import READ_RATE, PieceRunner, joined
from .rows import BlockRows, naming_rows
from .tree import JoinTree

RUN_BYTES = 32 << 20  # of float64 rows whose products are made at once
MEANS_BYTES = 2 << 30  # of the means of classes that are held at once
HELD = 4  # states of blocks while they are joined


@dataclass(frozen=True, eq=False)
class ClassMoments:
    """Number, mean and squared deviations of the rows of each class, and of all rows.

    counts  (k,) int64;  means  (k, d) float64, 0 where a class has no row
    within  (k,) float64 — Σ‖x − μ_c‖²
    mean    (d,) float64;  total — Σ‖x − μ‖², by no mean of a class
    """

    counts: np.ndarray
    means: np.ndarray
    within: np.ndarray
    mean: np.ndarray
    total: float

    def join(self, other: ClassMoments) -> ClassMoments:
        """Return the moments of the rows of both."""
        counts = self.counts + other.counts
        share = other.counts / np.maximum(counts, 1)
        apart = other.means - self.means
        apart[(self.counts == 0) | (other.counts == 0)] = 0
        means = np.where((self.counts == 0)[:, None], other.means, self.means)
        gained = self.counts * share * np.einsum("kd,kd->k", apart, apart)
        of_all = other.mean - self.mean
        n, m = int(self.counts.sum()), int(other.counts.sum())
        return ClassMoments(
            counts,
            means + share[:, None] * apart,
            self.within + other.within + gained,
            self.mean + of_all * (m / (n + m)),
            self.total + other.total + n * (m / (n + m)) * float(of_all @ of_all),
        )

    def sums(self, names: np.ndarray, *, means: bool = False) -> SumOfSquares:
        """Return them as `metrics.sum_of_squares` does."""
        apart = self.means - self.mean
        between = float(self.counts @ np.einsum("kd,kd->k", apart, apart))
        within = float(self.within.sum())
        if not math.isfinite(within + between + self.total):
            raise BadDataError(
                "overflow", "squares beyond the largest float64", expected="smaller numbers"
            )
        ratio = min(1.0, within / self.total) if self.total > 0 else math.nan
        kept = self.means if means else None
        return SumOfSquares(
            within, between, self.total, ratio, names, self.counts, self.within, kept
        )


def check_classes(classes: int, width: int) -> None:
    """Raise ResourceError where the means of so many classes would take too much memory."""
    need = HELD * 8 * classes * width
    if need > MEANS_BYTES:
        raise ResourceError(
            "memory",
            f"the means of {classes:,} classes of {width:,} features need {need:,} bytes",
            expected=f"at most {MEANS_BYTES:,}",
            remedy="take metrics.sum_of_squares, which reads a map in one pass",
        )


def class_moments(
    rows: BlockRows, part: range, codes: np.ndarray, classes: int, threads: int | None = None
) -> ClassMoments:
    """Return the moments of a block.

    codes  (n,) int64, 0…classes − 1 — the class of every row, of all blocks
    """
    x = rows.read(part, finite=False)
    with naming_rows(rows, part):
        sums = sum_of_squares(
            x, codes[part.start : part.stop], means=True, threads=threads, where=rows.where
        )
    assert sums.means is not None
    counts, within = np.zeros(classes, np.int64), np.zeros(classes)
    means = np.zeros((classes, rows.width))
    present = sums.names.astype(np.int64)
    counts[present], within[present], means[present] = sums.counts, sums.per_class, sums.means
    mean = sums.means[0] + (sums.counts / len(part)) @ (sums.means - sums.means[0])
    return ClassMoments(counts, means, within, mean, sums.total)


def blocked_moments(
    rows: BlockRows,
    codes: np.ndarray,
    classes: int,
    ranges: list[range],
    threads: int | None = None,
    run: PieceRunner | None = None,
) -> ClassMoments:
    """Return the moments of all rows, from blocks that are joined in a tree.

    Raises ResourceError: means of too many classes.
    """
    check_classes(classes, rows.width)
    part_s = len(ranges[0]) * rows.width * rows.dtype.itemsize / READ_RATE
    shared = (rows, codes, classes, threads)
    return joined(
        "sums of squares", _moments, shared, ranges, ClassMoments.join, run=run, part_s=part_s
    )


def _moments(
    rows: BlockRows, codes: np.ndarray, classes: int, threads: int | None, part: range
) -> ClassMoments:
    return class_moments(rows, part, codes, classes, threads)


@dataclass(frozen=True, eq=False)
class CrossMoments:
    """Products of the features of two layers of the same images, about their means.

    With u = x − mean_x, v = y − mean_y, a = |u|² and b = |v|² of every row,

    count           rows
    mean_x, mean_y  (d,), (e,) float64
    product         (d, e) float64 — Σ u·vᵀ
    pull_x, pull_y  (d,), (e,) float64 — Σ b·u and Σ a·v
    total_x, total_y, overlap  Σ a, Σ b, Σ a·b
    """

    count: int
    mean_x: np.ndarray
    mean_y: np.ndarray
    product: np.ndarray
    pull_x: np.ndarray
    pull_y: np.ndarray
    total_x: float
    total_y: float
    overlap: float

    def join(self, other: CrossMoments) -> CrossMoments:
        """Return the moments of the rows of both."""
        share = other.count / (self.count + other.count)
        mean_x = self.mean_x + share * (other.mean_x - self.mean_x)
        mean_y = self.mean_y + share * (other.mean_y - self.mean_y)
        a, b = self._about(mean_x, mean_y), other._about(mean_x, mean_y)
        return replace(
            a,
            count=a.count + b.count,
            product=a.product + b.product,
            pull_x=a.pull_x + b.pull_x,
            pull_y=a.pull_y + b.pull_y,
            total_x=a.total_x + b.total_x,
            total_y=a.total_y + b.total_y,
            overlap=a.overlap + b.overlap,
        )

    def _about(self, mean_x: np.ndarray, mean_y: np.ndarray) -> CrossMoments:
        """Return the sums of u − δ and v − ε, of u and v that sum to 0."""
        n, delta, epsilon = self.count, mean_x - self.mean_x, mean_y - self.mean_y
        left, right = float(delta @ delta), float(epsilon @ epsilon)
        across, back = self.product @ epsilon, delta @ self.product
        overlap = self.overlap - 2 * float(epsilon @ self.pull_y) - 2 * float(delta @ self.pull_x)
        overlap += 4 * float(delta @ across) + right * self.total_x + left * self.total_y
        return CrossMoments(
            n,
            mean_x,
            mean_y,
            self.product + n * np.outer(delta, epsilon),
            self.pull_x - delta * self.total_y - 2 * across - n * right * delta,
            self.pull_y - epsilon * self.total_x - 2 * back - n * left * epsilon,
            self.total_x + n * left,
            self.total_y + n * right,
            overlap + n * left * right,
        )


def cross_moments(x: np.ndarray, y: np.ndarray) -> CrossMoments:
    """Return the products of two blocks of the same rows, (n, d) and (n, e), in float64.

    Made of runs of rows, joined in a tree. Products are made by numpy's BLAS, whose bits may differ
    between machines and numbers of its threads.
    """
    height = max(1, RUN_BYTES // (8 * (x.shape[1] + y.shape[1])))
    starts = range(0, len(x), height)
    tree = JoinTree(len(starts), CrossMoments.join)
    for run, start in enumerate(starts):
        left = x[start : start + height]
        right = left if x is y else y[start : start + height]
        tree.add(run, _products(left, right))
    return tree.result


def _products(x: np.ndarray, y: np.ndarray) -> CrossMoments:
    mean_x, u, a = _centred(x)
    mean_y, v, b = (mean_x, u, a) if x is y else _centred(y)
    totals = float(a.sum()), float(b.sum()), float(a @ b)
    return CrossMoments(len(x), mean_x, mean_y, u.T @ v, b @ u, a @ v, *totals)


def _centred(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean, the rows less it, and their squared lengths."""
    u = x.astype(np.float64)
    mean = u[0] + (u - u[0]).mean(axis=0)
    u -= mean
    return mean, u, np.einsum("nd,nd->n", u, u)
