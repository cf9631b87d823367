"""Statistics of RDMs that are computed pair of blocks by pair of blocks, and never stored."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ...errors import BadDataError, UnknownNameError
from ...kernels import pairs
from ...kernels.dissimilarity import StandardisedRows, fill
from ...kernels.parallel import parallel_for
from .. import arrays, rsa
from ..class_contrast import ClassContrast, contrast_of, pair_counts
from .pieces import NEIGHBOUR_RATE, PieceRunner, joined
from .rows import BlockRows, check_same_rows
from .tree import JoinTree

SIDE = 4096  # rows of a block at most: its pairs take 64 MiB in float32
PART = 1 << 16  # pairs whose moments are made at once


@dataclass(frozen=True)
class RowDissimilarities:
    """Dissimilarities of rows, made for a pair of blocks at a time.

    rows    the rows;  metric  a row of rsa.DISSIMILARITIES
    centre  (d,) float64 — what float64 rows are centred by; None for float32
    """

    rows: BlockRows
    metric: str
    centre: np.ndarray | None
    threads: int | None = None

    @classmethod
    def of(cls, rows: BlockRows, metric: str, threads: int | None = None) -> RowDissimilarities:
        """Return them, centred as `metrics.rdm` does.

        Raises UnknownNameError.
        """
        if metric not in rsa.DISSIMILARITIES:
            raise UnknownNameError("dissimilarity", metric, rsa.DISSIMILARITIES)
        centre = None
        if not rsa.DISSIMILARITIES[metric].unit and rows.kind == np.float64:
            n = len(rows)
            sample = np.arange(n)[rsa.sample_rows(n)]
            centre = rows.select(sample).read(range(len(sample))).mean(axis=0)
        return cls(rows, metric, centre, threads)

    def block(self, of: range, against: range) -> np.ndarray:
        """Return the dissimilarities of two blocks of rows, in the type of the rows.

        (m, n) where they differ; (m(m − 1)/2,), those above the diagonal, where they are the same.
        """
        same = of == against
        prepared = [self._prepared(part) for part in ([of] if same else [of, against])]
        rows = prepared[0] if same else _stacked(*prepared)
        m, n = len(of), len(against)
        i = np.arange(len(rows.x), dtype=np.int64)
        starts = i * (2 * m - i - 1) // 2 - i - 1 if same else i * n - m
        out = np.empty(m * (m - 1) // 2 if same else m * n, self.rows.kind)
        columns = range(m) if same else range(m, m + n)
        formula = rsa.DISSIMILARITIES[self.metric].formula
        odd = fill(rows, formula, range(m), columns, out, starts, threads=self.threads)
        rsa.check_in_range(odd, rows.x, out.dtype)
        return out if same else out.reshape(m, n)

    def _prepared(self, part: range) -> StandardisedRows:
        return rsa.standardised_rows(
            self.rows.read(part),
            rsa.DISSIMILARITIES[self.metric],
            self.threads,
            first=part.start,
            centre=self.centre,
        )


def _stacked(a: StandardisedRows, b: StandardisedRows) -> StandardisedRows:
    return StandardisedRows(
        np.concatenate([a.x, b.x]),
        np.concatenate([a.shift, b.shift]),
        np.concatenate([a.scale, b.scale]),
        a.centre,
    )


def block_pairs(rows: BlockRows, block_rows: int) -> list[tuple[range, range]]:
    """Return all pairs of blocks I ≤ J, of which the dissimilarities fit in memory."""
    ranges = rows.ranges(min(block_rows, SIDE))
    return list(itertools.combinations_with_replacement(ranges, 2))


# ---------------------------------------------------------------- contrast of classes


def pair_contrast(
    dissimilarities: RowDissimilarities, pair: tuple[range, range], codes: np.ndarray
) -> np.ndarray:
    """Return (2,) float64: the sums of dissimilarities of two blocks within and between classes.

    codes  (n,) int64 — the class of every row
    """
    of, against = pair
    block = dissimilarities.block(of, against)
    own, others = codes[of.start : of.stop], codes[against.start : against.stop]
    same = of == against
    parts = arrays.row_parts(len(of)) if same else list(_even_parts(len(of)))
    sums = np.empty((len(parts), 2))

    def work(task: int, thread: int) -> None:
        if same:
            pairs.contrast(block, own, *parts[task], sums[task])
        else:
            pairs.block_contrast(block, own, others, *parts[task], sums[task])

    parallel_for(len(parts), work, dissimilarities.threads)
    result: np.ndarray = sums.sum(axis=0)
    return result


def _even_parts(n: int) -> Iterator[tuple[int, int]]:
    cuts = sorted({n * part // 16 for part in range(17)})
    return itertools.pairwise(cuts)


def _contrast(
    dissimilarities: RowDissimilarities, codes: np.ndarray, pair: tuple[range, range]
) -> np.ndarray:
    return pair_contrast(dissimilarities, pair, codes)


def _pair_seconds(rows: BlockRows, pairs: list[tuple[range, range]]) -> float:
    side = len(pairs[0][0])
    return 2 * side * side * rows.width / NEIGHBOUR_RATE


def streamed_contrast(
    dissimilarities: RowDissimilarities,
    codes: np.ndarray,
    block_rows: int,
    run: PieceRunner | None = None,
) -> ClassContrast:
    """Compute what `metrics.class_contrast` does of an RDM that is not stored.

    Raises BadDataError: as `metrics.rdm` and `metrics.class_contrast`.
    """
    inside, outside = pair_counts(codes)
    parts = block_pairs(dissimilarities.rows, block_rows)
    part_s = _pair_seconds(dissimilarities.rows, parts)
    shared = (dissimilarities, codes)
    sums = joined("class contrast", _contrast, shared, parts, operator.add, run=run, part_s=part_s)
    return contrast_of(sums, inside, outside)


# ---------------------------------------------------------------- Pearson's r of two RDMs


@dataclass(frozen=True)
class PairMoments:
    """Means of two RDMs over some pairs, and sums of squares and products about them."""

    count: int
    mean_a: float
    mean_b: float
    squares_a: float
    squares_b: float
    across: float

    def join(self, other: PairMoments) -> PairMoments:
        """Return the moments of the pairs of both."""
        count = self.count + other.count
        share = other.count / count
        a, b = other.mean_a - self.mean_a, other.mean_b - self.mean_b
        weight = self.count * share
        return PairMoments(
            count,
            self.mean_a + share * a,
            self.mean_b + share * b,
            self.squares_a + other.squares_a + weight * a * a,
            self.squares_b + other.squares_b + weight * b * b,
            self.across + other.across + weight * a * b,
        )


def pair_moments(
    first: RowDissimilarities, second: RowDissimilarities, pair: tuple[range, range]
) -> PairMoments | None:
    """Return the moments of two RDMs over a pair of blocks; None where it has no pair of rows."""
    a, b = (of.block(*pair).reshape(-1) for of in (first, second))
    if not len(a):
        return None
    starts = range(0, len(a), PART)
    sums = np.empty((len(starts), 5))

    def work(task: int, thread: int) -> None:
        pairs.moments(a, b, starts[task], min(len(a), starts[task] + PART), sums[task])

    parallel_for(len(starts), work, first.threads)
    tree = JoinTree(len(starts), PairMoments.join)
    for task, row in enumerate(sums.tolist()):
        tree.add(task, PairMoments(min(len(a) - starts[task], PART), *row))
    return tree.result


def _moments(
    first: RowDissimilarities, second: RowDissimilarities, pair: tuple[range, range]
) -> PairMoments:
    state = pair_moments(first, second, pair)
    assert state is not None
    return state


def streamed_pearson(
    first: RowDissimilarities,
    second: RowDissimilarities,
    block_rows: int,
    run: PieceRunner | None = None,
) -> float:
    """Compute Pearson's r of the RDMs of two layers of the same images, neither of them stored.

    Raises BadDataError: other numbers of rows, fewer than 3 rows, an RDM that is constant.
    """
    check_same_rows(first.rows, second.rows)
    present = [
        (of, against)
        for of, against in block_pairs(first.rows, block_rows)
        if of != against or len(of) > 1  # else it has no pair of rows
    ]
    part_s = _pair_seconds(first.rows, present) + _pair_seconds(second.rows, present)
    moments = joined(
        "correlation of two RDMs",
        _moments,
        (first, second),
        present,
        PairMoments.join,
        run=run,
        part_s=part_s,
    )
    for rows, squares in ((first.rows, moments.squares_a), (second.rows, moments.squares_b)):
        if not squares > 0:
            raise BadDataError(
                "constant-rdm",
                "all dissimilarities are the same",
                where=rows.where,
                expected="an RDM that varies",
            )
    r = moments.across / math.sqrt(moments.squares_a) / math.sqrt(moments.squares_b)
    return min(1.0, max(-1.0, r))
