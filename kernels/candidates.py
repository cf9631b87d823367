"""Candidates for the nearest rows, from the upper triangle of tiles, and what is proved of all
other rows.

Half of all pairs are summed, each for both of its rows. Sums below what a row has found so far are
picked out 64 at a time by a mask. A row keeps a few more than k; whatever is not in its list has a
sum no smaller than its last. What that says of the distance is proved by the way in which sums are
made: differences.py, exact enough for whatever rows, and bfloat16.py, twice as fast and good enough
for most.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack

import numpy as np

from . import dispatch, parallel, tile
from .bfloat16 import BFloat16Rows
from .differences import Differences

CENTRE_ROWS = 64  # whose mean is the centre
SPARE = 2  # candidates beyond k, with differences
MOST_SPARE = 14  # with bfloat16
SAMPLE = 64  # rows that tell whether bfloat16 is good enough, and with how many candidates
OPEN = 0.05  # of the sample may stay open: some more would cost what bfloat16 saves


def worthwhile(n: int, k: int) -> bool:
    """Return whether there are rows enough for lists of candidates, on a CPU with the fast tile."""
    return dispatch.has_tile() and n >= 8 * (k + 4)


def find(x: np.ndarray, k: int, threads: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return candidates for the k nearest of each row, and bounds on the distances.

    x   as for `neighbours.nearest`
    →   (n, kept) int64, the candidates; (n, kept) float64, ascending: neither this candidate, nor a
        later one, nor any row that is not among them, has a smaller squared distance

    bfloat16 is taken if the processor has them, and a sample of the rows is settled by it.
    """
    n = len(x)
    centre, scale = _centre(x)
    way: Differences | BFloat16Rows | None = None
    spare: int | None = None
    if dispatch.has_bfloat16() and n > 8 * (k + MOST_SPARE):
        way = BFloat16Rows(x, centre, scale, threads)
        spare = _spare(way, x, k, centre, scale)
    if way is None or spare is None:
        way = None  # gives its memory back first
        way, spare = Differences(x, centre, scale, threads), SPARE
    sums = np.full((tile.padded(n), k + spare), np.inf, np.float32)
    indices = np.full(sums.shape, -1, np.int64)
    _collect(way, n, sums, indices, threads)
    return indices[:n], way.least(sums[:n])


def find_between(
    x: np.ndarray, y: np.ndarray, k: int, *, both: bool, threads: int | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return what `find` does for the rows of x in y, and if `both` for those of y in x.

    x, y   as for `neighbours.nearest_between`
    →      (m, kept) indices into y and (m, kept) bounds; if `both`, then (n, kept) of the other way

    Lists of x come first, then those of y, each padded as packed rows are: `base` is where y's
    begin.
    """
    left, right, spare = _two_ways(x, y, k, both, threads)
    base = tile.padded(len(x))
    lists = base + tile.padded(len(y)) if both else base
    sums = np.full((lists, k + spare), np.inf, np.float32)
    indices = np.full(sums.shape, -1, np.int64)
    _collect_between(left, right, (len(x), len(y)), both, sums, indices, threads)
    results = [(indices[: len(x)] - base, left.least(sums[: len(x)]))]
    if both:
        end = base + len(y)
        results.append((indices[base:end], right.least(sums[base:end])))
    return results


def _two_ways(
    x: np.ndarray, y: np.ndarray, k: int, both: bool, threads: int | None
) -> tuple[Differences, Differences, int] | tuple[BFloat16Rows, BFloat16Rows, int]:
    """Return x and y as packed rows of one kind, and how many candidates beyond k are kept."""
    centre, scale = _centre(x, y)
    if dispatch.has_bfloat16() and min(len(x), len(y)) > 8 * (k + MOST_SPARE):
        left, right = (BFloat16Rows(rows, centre, scale, threads) for rows in (x, y))
        left.share = right.share = max(left.share, right.share)
        spares = [_spare(right, x, k, centre, scale, among=y)]
        if both:
            spares.append(_spare(left, y, k, centre, scale, among=x))
        settled = [spare for spare in spares if spare is not None]
        if len(settled) == len(spares):
            return left, right, max(settled)
        del left, right  # gives their memory back first
    return (
        Differences(x, centre, scale, threads),
        Differences(y, centre, scale, threads),
        SPARE,
    )


def _centre(*arrays: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the mean of a sample of rows (d,) float64, and a power of two.

    It makes what is left of float64 rows at most 1; it is 1 for float32.
    """
    sample = np.concatenate([x[:: -(-len(x) // CENTRE_ROWS)] for x in arrays])
    centre = sample.mean(axis=0, dtype=np.float64)
    if sample.dtype == np.float32:
        return centre, 1.0
    low, high = min(float(x.min()) for x in arrays), max(float(x.max()) for x in arrays)
    reach = max(high - float(centre.min()), float(centre.max()) - low)
    return centre, 2.0 ** -int(np.frexp(reach)[1])


def _spare(
    way: BFloat16Rows,
    x: np.ndarray,
    k: int,
    centre: np.ndarray,
    scale: float,
    among: np.ndarray | None = None,
) -> int | None:
    """Return how many candidates beyond k settle a sample of rows, and two to be safe.

    None where too many rows would stay open.

    way    packed rows of `among`, which are searched; of x itself where that is None

    The sample is drawn, as rows may lie in any pattern. Where x itself is searched, its rows are
    candidates of themselves here, the first ones.
    """
    from .llvm.masks import pick

    others, before = (x, k) if among is None else (among, k - 1)  # nearer than the k-th
    kept = before + MOST_SPARE + 1
    rows = np.unique(np.random.default_rng(0).integers(0, len(x), SAMPLE))
    sample = BFloat16Rows(x[rows], centre, scale, 1)
    sample.share = way.share
    sums, indices = (
        np.full((SAMPLE, kept), np.inf, np.float32),
        np.full((SAMPLE, kept), -1, np.int64),
    )
    limits, out = sums[:, -1].copy(), tile.scratch(tile.SIDE)
    for j in range(0, len(others), tile.SIDE):
        columns = min(tile.SIDE, len(others) - j)
        way.tile(0, len(rows), j, columns, False, out, beside=sample)
        pick(out, 0, len(rows), j, columns, False, False, sums, indices, limits)
    least = sample.least(sums[: len(rows)])
    nearest = [
        np.sort(((others[indices[at]] - x[row].astype(np.float64)) ** 2).sum(axis=1))[before]
        for at, row in enumerate(rows)
    ]
    needed = (least < np.array(nearest)[:, None]).sum(axis=1) - before
    inside = needed <= MOST_SPARE
    return min(MOST_SPARE, int(needed[inside].max()) + 2) if inside.mean() >= 1 - OPEN else None


def _collect(
    way: Differences | BFloat16Rows,
    n: int,
    sums: np.ndarray,
    indices: np.ndarray,
    threads: int | None,
) -> None:
    """Fill the lists.

    Tiles follow the diagonals, so that threads meet in few rows; each block of rows has a lock.
    """
    from .llvm.masks import pick

    limits = np.full(len(sums), np.inf, np.float32)  # the last of each list, side by side
    side = tile.side(n)
    tiles = sorted(tile.upper_tiles(n, side), key=lambda at: (at[1] - at[0], at[0]))
    locks = [threading.Lock() for _ in range(0, n, side)]
    scratch: dict[int, np.ndarray] = {}

    def work(task: int, thread: int) -> None:
        (i, j), out = tiles[task], scratch.get(thread)
        if out is None:
            out = scratch[thread] = tile.scratch(side)
        rows, columns = min(side, n - i), min(side, n - j)
        way.tile(i, rows, j, columns, i == j, out)
        with ExitStack() as held:
            for block in sorted({i // side, j // side}):
                held.enter_context(locks[block])
            pick(out, i, rows, j, columns, i == j, True, sums, indices, limits)

    parallel.parallel_for(len(tiles), work, threads)


def _collect_between(
    left: Differences | BFloat16Rows,
    right: Differences | BFloat16Rows,
    lengths: tuple[int, int],
    both: bool,
    sums: np.ndarray,
    indices: np.ndarray,
    threads: int | None,
) -> None:
    """Fill the lists of `find_between`, as `_collect` does; indices of y count from `base` on."""
    from .llvm.masks import pick

    limits = np.full(len(sums), np.inf, np.float32)
    (m, n), base = lengths, tile.padded(lengths[0])
    side = tile.side(max(m, n))
    tiles = [(i, j) for i in range(0, m, side) for j in range(0, n, side)]
    tiles.sort(key=lambda at: (at[1] - at[0], at[0]))
    locks = [threading.Lock() for _ in range(-(-m // side) - (-n // side))]
    scratch: dict[int, np.ndarray] = {}

    def work(task: int, thread: int) -> None:
        (i, j), out = tiles[task], scratch.get(thread)
        if out is None:
            out = scratch[thread] = tile.scratch(side)
        rows, columns = min(side, m - i), min(side, n - j)
        right.tile(i, rows, j, columns, False, out, beside=left)  # type: ignore[arg-type]
        with ExitStack() as held:
            held.enter_context(locks[i // side])
            if both:
                held.enter_context(locks[-(-m // side) + j // side])
            pick(out, i, rows, base + j, columns, False, both, sums, indices, limits)

    parallel.parallel_for(len(tiles), work, threads)
