"""Exact nearest rows over pairs of row blocks, and of a sample of rows among all.

Blocks I ≤ J: the k nearest of each row of I in J and of J in I, merged by (distance, index). The
distances are the bits of the search over all rows at once (kernels/neighbours.py says why).
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from ...errors import BadDataError, counted
from ...kernels import neighbours
from ...kernels.neighbours import Neighbours
from .. import arrays
from ..neighbours import largest_magnitude, scale_for, scaled
from .pieces import NEIGHBOUR_RATE, READ_RATE, PieceRunner, PieceTask, is_worth, joined, task_count
from .rows import BlockRows

PAIRS_A_TASK = 3  # pairs of blocks at least, so that tasks can be given equal work
LEAST_BLOCK = 512  # rows: smaller blocks cost more than they even out


@dataclass(frozen=True)
class NeighbourQuery:
    """What is searched for: k neighbours in rows times a scale.

    ties  of equally near rows those of the lowest index; else any of them
    """

    k: int
    scale: float
    ties: bool = True
    threads: int | None = None


def block_magnitude(rows: BlockRows, part: range, threads: int | None = None) -> float:
    """Return the largest magnitude of a block.

    Raises BadDataError, naming row and column, for NaN and infinity.
    """
    x = rows.read(part, finite=False)
    largest = largest_magnitude(x, threads)
    if not np.isfinite(largest):
        arrays.check_finite(x, where=rows.where, first=part.start)
    return largest


def block_neighbours(rows: BlockRows, part: range, search: NeighbourQuery) -> Neighbours:
    """Return the nearest other rows within a block, with indices of all rows."""
    x = scaled(rows.read(part, finite=False), search.scale)
    lists = neighbours.nearest(x, search.k, ties=search.ties, threads=search.threads)
    return _numbered(lists, part.start)


def pair_neighbours(
    rows: BlockRows,
    pair: tuple[range, range],
    search: NeighbourQuery,
    bounds: tuple[np.ndarray, np.ndarray],
) -> tuple[Neighbours, Neighbours]:
    """Return the nearest rows of each block in the other, with indices of all rows.

    bounds  (m,) and (n,) float64 — squared distances that the k-th ones are known not to exceed
    """
    of, against = pair
    x, y = (scaled(rows.read(part, finite=False), search.scale) for part in pair)
    left, right = neighbours.nearest_both(
        x, y, search.k, bounds=bounds, ties=search.ties, threads=search.threads
    )
    return _numbered(left, against.start), _numbered(right, of.start)


def sample_neighbours(
    rows: BlockRows,
    sample: np.ndarray,
    part: range,
    search: NeighbourQuery,
    bounds: np.ndarray,
) -> Neighbours:
    """Return the nearest rows of a block to the rows of a sample, (m,) int64 of all rows.

    Rows are their own neighbours here.
    """
    x, y = rows.select(sample), rows.read(part, finite=False)
    lists = neighbours.nearest_between(
        scaled(x.read(range(len(sample)), finite=False), search.scale),
        scaled(y, search.scale),
        search.k,
        bounds=bounds,
        ties=search.ties,
        threads=search.threads,
    )
    return _numbered(lists, part.start)


def _numbered(lists: Neighbours, first: int) -> Neighbours:
    values, indices = lists
    return values, np.where(indices < 0, -1, indices + first)


def largest_of(rows: BlockRows, threads: int | None, part: range) -> float:
    """Return what `block_magnitude` does."""
    return block_magnitude(rows, part, threads)


def nearest_in_sample(
    rows: BlockRows, sample: np.ndarray, search: NeighbourQuery, parts: Sequence[range]
) -> Neighbours:
    """Return the nearest rows of some blocks to the rows of a sample, (m,) int64 of all rows."""
    lists = no_neighbours(len(sample), search.k)
    for part in parts:
        near = sample_neighbours(rows, sample, part, search, lists[0][:, -1])
        lists = neighbours.merge(lists, near)
    return lists


def no_neighbours(rows: int, k: int) -> Neighbours:
    """Return lists of k neighbours that are still to be found."""
    return np.full((rows, k), np.inf), np.full((rows, k), -1, np.int64)


class BlockLists:
    """Lists of the nearest rows of blocks, as far as pairs of blocks were searched."""

    def __init__(self, search: NeighbourQuery):
        self.search, self.lists = search, dict[range, Neighbours]()

    def of(self, block: range) -> Neighbours:
        """Return the lists of the rows of a block."""
        return self.lists.get(block) or no_neighbours(len(block), self.search.k)

    def merge(self, block: range, lists: Neighbours) -> None:
        """Take further neighbours of the rows of a block."""
        known = self.lists.get(block)
        self.lists[block] = lists if known is None else neighbours.merge(known, lists)

    def add(self, rows: BlockRows, pair: tuple[range, range]) -> None:
        """Search a pair of blocks, or one block among itself."""
        of, against = pair
        if of == against:
            self.merge(of, block_neighbours(rows, of, self.search))
            return
        bounds = self.of(of)[0][:, -1], self.of(against)[0][:, -1]
        left, right = pair_neighbours(rows, pair, self.search, bounds)
        self.merge(of, left)
        self.merge(against, right)


def search_pairs(
    rows: BlockRows, search: NeighbourQuery, pairs: Sequence[tuple[range, range]]
) -> list[tuple[range, Neighbours]]:
    """Return the lists that some pairs of blocks give, block by block."""
    lists = BlockLists(search)
    for pair in pairs:
        lists.add(rows, pair)
    return list(lists.lists.items())


def evenly_shared(
    pairs: Sequence[tuple[range, range]], tasks: int
) -> list[list[tuple[range, range]]]:
    """Return the pairs of so many tasks of about equal work, the largest pairs first."""
    order = sorted(pairs, key=_pairs_of_rows, reverse=True)
    shares: list[list[tuple[range, range]]] = [[] for _ in range(min(tasks, len(pairs)))]
    work = [0.0] * len(shares)
    for pair in order:
        least = work.index(min(work))
        shares[least].append(pair)
        work[least] += _pairs_of_rows(pair)
    # of a block among itself first: its lists are bounds for the other pairs
    return [sorted(share, key=lambda p: (p[0] != p[1], p[0].start)) for share in shares]


def _pairs_of_rows(pair: tuple[range, range]) -> float:
    of, against = pair
    return len(of) * len(against) * (0.5 if of == against else 1.0)


class BlockedNeighbours:
    """Search of nearest rows, block by block; as `metrics.neighbours.NeighbourRows`.

    ranges  the blocks
    run     has pairs of blocks searched by other processes; None: by this one. Distances are the
            same to the bit, and with `ties` so are indices
    """

    def __init__(
        self,
        rows: BlockRows,
        k: int,
        ranges: list[range],
        threads: int | None = None,
        run: PieceRunner | None = None,
    ) -> None:
        """Read all rows once.

        Raises BadDataError: NaN or infinity, no more than k rows.
        """
        if len(rows) <= k:
            raise BadDataError(
                "too-few-rows",
                f"{counted(len(rows), 'row')}",
                where=rows.where,
                expected=f"more than k = {k}",
            )
        self.rows, self.ranges, self.threads, self._run = rows, ranges, threads, run
        self._lock = threading.Lock()  # memory holds the blocks of one search
        part_s = len(ranges[0]) * rows.width * rows.dtype.itemsize / READ_RATE
        shared = (rows, threads)
        largest = joined("largest numbers", largest_of, shared, ranges, max, run=run, part_s=part_s)
        self.scale = scale_for(largest, rows.kind)

    def __len__(self) -> int:
        return len(self.rows)

    def nearest(self, k: int, *, ties: bool = False) -> Neighbours:
        """Return distances (n, k) and indices (n, k) of all rows, from all pairs of blocks."""
        search = NeighbourQuery(k, self.scale, ties, self.threads)
        lists = BlockLists(search)
        if self._run is None or not is_worth(self._run, self._seconds(len(self)) / 2):
            for pair in _pairs(self.ranges):
                lists.add(self.rows, pair)
        else:
            self._search(self._run, lists)
        in_order = [lists.lists[part] for part in sorted(lists.lists, key=lambda part: part.start)]
        squares, indices = (np.concatenate(part) for part in zip(*in_order, strict=True))
        return np.sqrt(squares) / self.scale, indices

    def _seconds(self, sample: int) -> float:
        """Return the seconds, on one core, of so many rows against all."""
        return 2 * sample * len(self.rows) * self.rows.width / NEIGHBOUR_RATE

    def _search(self, run: PieceRunner, lists: BlockLists) -> None:
        """Have all pairs searched in tasks of equal work, of smaller blocks where they are few."""
        n = len(self.rows)
        total_s = self._seconds(n) / 2 / run.threads
        tasks = task_count(total_s, run.workers)
        blocks = math.ceil(math.sqrt(2 * PAIRS_A_TASK * tasks))
        even = max(LEAST_BLOCK, -(-n // blocks))
        ranges = self.rows.ranges(min(len(self.ranges[0]), even))
        shares = evenly_shared(_pairs(ranges), tasks)
        results = run(
            [
                PieceTask(
                    f"pairs of blocks, {i + 1} of {len(shares)}",
                    search_pairs,
                    (self.rows, lists.search, share),
                )
                for i, share in enumerate(shares)
            ]
        )
        for result in results:
            for block, near in cast("list[tuple[range, Neighbours]]", result):
                lists.merge(block, near)

    def nearest_of(self, sample: np.ndarray, k: int) -> Neighbours:
        """Return the same of some rows (m,) int64 alone, which are compared with all rows."""
        search = NeighbourQuery(k + 1, self.scale, True, self.threads)
        with self._lock:
            if self._run is None or not is_worth(self._run, self._seconds(len(sample))):
                lists = nearest_in_sample(self.rows, sample, search, self.ranges)
            else:
                lists = self._search_sample(self._run, sample, search)
        squares, indices = without_itself(lists, sample)
        return np.sqrt(squares) / self.scale, indices

    def _search_sample(
        self, run: PieceRunner, sample: np.ndarray, search: NeighbourQuery
    ) -> Neighbours:
        total_s = self._seconds(len(sample)) / run.threads
        size = -(-len(self.ranges) // task_count(total_s, run.workers))
        groups = [self.ranges[i : i + size] for i in range(0, len(self.ranges), size)]
        results = run(
            [
                PieceTask(
                    f"sample in blocks, {i + 1} of {len(groups)}",
                    nearest_in_sample,
                    (self.rows, sample, search, group),
                )
                for i, group in enumerate(groups)
            ]
        )
        lists = no_neighbours(len(sample), search.k)
        for result in results:
            lists = neighbours.merge(lists, cast("Neighbours", result))
        return lists


def _pairs(ranges: Sequence[range]) -> list[tuple[range, range]]:
    """Return all pairs of blocks I ≤ J, those of a block with itself first."""
    return [*((part, part) for part in ranges), *itertools.combinations(ranges, 2)]


def without_itself(lists: Neighbours, sample: np.ndarray) -> Neighbours:
    """Return lists (m, k) from lists (m, k + 1) in which a row may be its own neighbour.

    Where it is not, more than k others are as near as itself; the last of these is left out.
    """
    values, indices = lists
    order = np.argsort(indices == sample[:, None], axis=1, kind="stable")[:, :-1]
    return np.take_along_axis(values, order, 1), np.take_along_axis(indices, order, 1)
