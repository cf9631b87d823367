"""Dissimilarities of pairs of rows: squared distances in tiles, a formula on top, too close pairs
again in float64.

    correlation        1 − r = ½ |u − v|²     u, v = rows less their means, of unit length
    cosine             1 − cos = ½ |u − v|²   u, v = rows of unit length
    squared euclidean  |x − y|²
    euclidean          √|x − y|²

Differences do not cancel, products do: at r = 1 − 10⁻⁴ the ½|u − v|² of float32 rows is good to
10⁻⁶ of itself, 1 − u·v to 10⁻³. What is left of the rounding of u and v (by 2⁻²⁴ of each number) is
at most 4·2⁻²⁴ / |u − v| of |u − v|², and √d times less where no feature rules; pairs nearer than
NEAR_… times the lengths of both are therefore measured again, from the rows, in float64. So it is
with float64 rows, which are centred and rounded. float32 rows are not rounded at all: there only
what float32 squares cannot hold is measured again. Equal rows come out as exactly 0.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from . import parallel, tile

NEAR_UNIT, NEAR_CENTRED = (
    0.0316,
    0.08,
)  # of the lengths of two rows: what is nearer is measured in float64
SMALL, LARGE = (
    1e-30,
    np.float32(1e37),
)  # squares that float32 sums well: above SMALL for each feature, below LARGE
DEEP = 8192  # columns summed in one float32
ROOM = 176 << 20  # bytes of packed rows
TASK = 256  # rows of a task that reads them


class StandardisedRows(NamedTuple):
    """Rows to compare: (x[i] − centre − shift[i]) · scale[i].

    shift, scale (n,) and centre (d,) float64, each empty where left out
    """

    x: np.ndarray
    shift: np.ndarray = tile.NOTHING
    scale: np.ndarray = tile.NOTHING
    centre: np.ndarray = tile.NOTHING


class Formula(NamedTuple):
    """The dissimilarity of two rows, factor · d² or the root of it, d being their distance."""

    factor: float
    root: bool


def unit(x: np.ndarray, centred: bool, threads: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of each row (0 unless centred) and the length of the row less it.

    Both are (n,) float64.

    x  (n, d) float32 or float64 — a constant row has length exactly 0 when centred
    """
    mean, length = np.empty(len(x)), np.empty(len(x))
    x = np.asarray(x).view()
    x.flags.writeable = False

    def work(task: int, thread: int) -> None:
        _moments(x, task * TASK, min(len(x), (task + 1) * TASK), centred, mean, length)

    parallel.parallel_for(-(-len(x) // TASK), work, threads)
    return mean, length


def fill(
    rows: StandardisedRows,
    formula: Formula,
    of: range,
    against: range,
    out: np.ndarray,
    starts: np.ndarray,
    *,
    step: int = 0,
    room: int = ROOM,
    threads: int | None = None,
) -> int:
    """Write the dissimilarity of rows i and j to out[starts[i] + j].

    For i in `of`, j in `against`, i < j.

    of, against   the same, or one wholly before the other
    out           (m,) float32 or float64;  starts  (n,) int64
    step          > 0: also out[starts[j] + i], where starts[j + 1] = starts[j] + step
    room          bytes for packed rows; more columns than fit are summed part by part, in `out`
    →             how many answers are not finite numbers
    """
    same, d = of == against, rows.x.shape[1]
    parts = column_parts(tile.padded(len(of)) + (0 if same else tile.padded(len(against))), d, room)
    side = tile.side(len(of) if same else max(len(of), len(against)))
    tiles = (
        tile.upper_tiles(len(of), side)
        if same
        else [(i, j) for i in range(0, len(of), side) for j in range(0, len(against), side)]
    )
    squares = np.zeros(len(rows.x) if rows.centre.size else 0)
    sheet = _TileWriter(rows, formula, of, against, out, starts, step, tiles, side)
    both, odd = [of] if same else [of, against], 0
    rooms = [tile.empty(len(part), parts[0][1]) for part in both]
    for begin, end in parts:
        packs = [
            tile.empty(len(part), end - begin, room) for part, room in zip(both, rooms, strict=True)
        ]
        for part, packed in zip(both, packs, strict=True):
            tile.pack(
                packed,
                rows.x,
                part.start,
                len(part),
                begin,
                end - begin,
                shift=rows.shift,
                scale=rows.scale,
                centre=rows.centre,
                squares=squares,
                threads=threads,
            )
        if squares.size:
            sheet.reach[:] = NEAR_CENTRED * np.sqrt(squares)
        odd += sheet.take(packs[0], packs[-1], part=begin > 0, final=end == d, threads=threads)
    return odd


def column_parts(rows: int, d: int, room: int) -> list[tuple[int, int]]:
    """Return even runs of columns that fit `room` bytes packed, each summed in one float32."""
    most = max(1, min(DEEP, room // (4 * rows)) // tile.UNROLL) * tile.UNROLL
    depth = -(-d // -(-d // most))
    depth += -depth % tile.UNROLL
    return [(begin, min(begin + depth, d)) for begin in range(0, d, depth)]


class _TileWriter:
    """Write the dissimilarities of one call of `fill`, tile by tile."""

    def __init__(self, rows, formula, of, against, out, starts, step, tiles, side):
        self.rows, self.formula, self.of, self.against = rows, formula, of, against
        self.out, self.starts, self.step, self.tiles, self.side = (
            out.reshape(-1),
            starts,
            step,
            tiles,
            side,
        )
        self.reach = np.full(len(rows.x), NEAR_UNIT if rows.scale.size else 0, np.float32)
        self.x = np.asarray(rows.x).view()
        self.x.flags.writeable = False

    def take(
        self, a: np.ndarray, b: np.ndarray, *, part: bool, final: bool, threads: int | None
    ) -> int:
        """Sum over the columns of packed a and b; return how many results are not finite.

        part   add the sums to earlier ones
        final  all columns are in: write the dissimilarities
        """
        scratch: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        odd = np.zeros(len(self.tiles), np.int64)
        floor, factor = np.float32(SMALL * self.x.shape[1]), np.float32(self.formula.factor)

        def work(task: int, thread: int) -> None:
            if thread not in scratch:
                scratch[thread] = (
                    tile.scratch(self.side),
                    np.empty((self.side, self.side // tile.BLOCK), np.bool_),
                )
            d2, close = scratch[thread]
            i, j = self.tiles[task]
            height, width = min(self.side, len(self.of) - i), min(self.side, len(self.against) - j)
            diagonal = self.of == self.against and i == j
            tile.differences(a, i, height, b, j, width, diagonal, d2)
            i, j = self.of.start + i, self.against.start + j
            place = (i, i + height, j, j + width, self.out, self.starts)
            if _settle(
                d2, *place, part, final, factor, self.formula.root, floor, self.reach, close
            ):
                odd[task] = _remeasure(
                    d2,
                    *place,
                    factor,
                    self.formula.root,
                    floor,
                    self.reach,
                    close,
                    self.x,
                    self.rows.shift,
                    self.rows.scale,
                )
            if self.step and final and self.out.dtype == np.float32:
                tile.mirror(
                    d2, height, width, diagonal, self.out, int(self.starts[j]) + i, self.step
                )
            elif self.step and final:
                _reflect(*place, self.step)

        parallel.parallel_for(len(self.tiles), work, threads)
        return int(odd.sum())


# ---------------------------------------------------------------- compiled


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})  # to sum in vectors; NaN stays
def _moments(x, start, stop, centred, mean, length):
    d = x.shape[1]
    for i in range(start, stop):
        first, total, square = np.float64(x[i, 0]) if centred else 0.0, 0.0, 0.0
        if centred:
            for k in range(d):
                total += x[i, k] - first  # so that a constant row leaves nothing at all
        mean[i] = first + total / d
        for k in range(d):
            square += (x[i, k] - mean[i]) * (x[i, k] - mean[i])
        length[i] = np.sqrt(square)


@njit(cache=True, nogil=True)
def _settle(d2, i0, i1, j0, j1, out, starts, part, final, factor, root, floor, reach, close):
    """Turn a tile of d² into results, here and in out[starts[i] + j].

    They are those of i0 ≤ i < i1, max(j0, i + 1) ≤ j < j1.

    part    out holds what earlier columns gave: add it
    final   all columns are in; else the sums so far are put into out
    close   (rows, blocks) bool: 64 pairs of which one is too close, or too far, for float32 keep d²
            and are marked
    →       how many are marked
    """
    marked = 0
    for i in range(
        i0, i1
    ):  # no call in here: Numba would count references for every 64 pairs, half of the time
        own, skip = reach[i], max(0, i + 1 - j0)
        for block in range(skip // 64, (j1 - j0 + 63) // 64):
            begin, end = max(skip, block * 64), min(block * 64 + 64, j1 - j0)
            run = d2[block, i - i0, begin - block * 64 : end - block * 64]
            answer, other = (
                out[starts[i] + j0 + begin : starts[i] + j0 + end],
                reach[j0 + begin : j0 + end],
            )
            if part:
                for j in range(run.size):
                    run[j] += np.float32(answer[j])
            if not final:
                for j in range(run.size):
                    answer[j] = run[j]
                continue
            unsafe = 0
            for j in range(run.size):
                both = own + other[j]
                unsafe += not (run[j] >= floor + both * both and run[j] <= LARGE)
            close[i - i0, block] = unsafe > 0
            if unsafe:
                marked += 1
            elif root:
                for j in range(run.size):
                    value = np.sqrt(factor * run[j])
                    run[j] = value
                    answer[j] = value
            else:
                for j in range(run.size):
                    value = factor * run[j]
                    run[j] = value
                    answer[j] = value
    return marked


@njit(cache=True, nogil=True)
def _remeasure(d2, i0, i1, j0, j1, out, starts, factor, root, floor, reach, close, x, shift, scale):
    """Measure the pairs that `_settle` left, in float64 from the rows.

    →   how many are not finite
    """
    odd = 0
    for i in range(i0, i1):
        skip = max(0, i + 1 - j0)
        for block in range(skip // 64, (j1 - j0 + 63) // 64):
            if close[i - i0, block]:
                for j in range(j0 + max(skip, block * 64), min(j0 + block * 64 + 64, j1)):
                    value, both = d2[block, i - i0, j - j0 - block * 64], reach[i] + reach[j]
                    if value >= floor + both * both and value <= LARGE:
                        near = factor * value  # as in `_settle`, whatever the pairs beside it
                        out[starts[i] + j] = np.sqrt(near) if root else near
                    else:
                        precise = factor * _exact(x, shift, scale, i, j)
                        out[starts[i] + j] = np.sqrt(precise) if root else precise
                    d2[block, i - i0, j - j0 - block * 64] = out[starts[i] + j]
                    odd += not np.isfinite(out[starts[i] + j])
    return odd


# "reassoc" to sum in vectors. Not "contract": it fuses one of the two products into their
# difference, unrounded, and
# equal rows would differ.
@njit(cache=True, nogil=True, fastmath={"reassoc"})
def _exact(x, shift, scale, i, j):
    total = 0.0
    if scale.size:
        for k in range(x.shape[1]):
            difference = (x[i, k] - shift[i]) * scale[i] - (x[j, k] - shift[j]) * scale[j]
            total += difference * difference
    else:
        for k in range(x.shape[1]):
            difference = np.float64(x[i, k]) - x[j, k]
            total += difference * difference
    return total


@njit(cache=True, nogil=True)
def _reflect(i0, i1, j0, j1, out, starts, step):
    """Copy out[starts[i] + j] to out[starts[j] + i], in squares that the level 1 cache holds."""
    for j in range(j0, j1, 16):
        for i in range(i0, i1, 16):
            for column in range(j, min(j + 16, j1)):
                for row in range(i, min(i + 16, i1, column)):
                    out[starts[j0] + (column - j0) * step + row] = out[starts[row] + column]
