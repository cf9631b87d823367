"""Nearest rows, exactly: a fast sum says which pairs may matter, a slow one in float64 says how far
they are.

The distance of two rows is what `measure` gives: direct differences in float64, summed in an order
that no tile, task or thread moves. Whatever comes first only leaves pairs out, and a pair is left
out when a bound on its rounding error proves that it cannot be among the k nearest. So every way
gives the same bits, and rows that are equal are at 0.

`exact` is the way for every CPU: each row with all others, sums of the type of x in lanes as the
compiler likes, every pair that survives them measured at once. `candidates` does half the pairs, in
packed tiles; rows of which it cannot prove that no neighbour is missing go to `exact`. (Compiled
functions here call none of another file: a cached one would not notice that the other has changed.)

`nearest` compares the rows of one array with each other. `nearest_between` and `nearest_both`
compare two arrays, such as two blocks of rows of a larger one; lists of several blocks are joined
by `merge`. A pair of rows has the same distance, to the bit, in all of them.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from . import candidates, parallel

SIDE = 64  # rows and columns of a tile
RUN = 512  # features of a run of `_sums`: six rows of them stay in the level 1 cache
MEASURED = 4096  # features of a run of `measure`
LANES = 16  # sums that a run of `measure` is spread over

Neighbours = tuple[np.ndarray, np.ndarray]  # squared distances (n, k) float64, indices (n, k) int64


def nearest(x: np.ndarray, k: int, *, ties: bool = False, threads: int | None = None) -> Neighbours:
    """Return the k nearest other rows of every row.

    These are (n, k) squared distances float64, ascending, and (n, k) indices int64.

    x      (n, d) float32 or float64, C order, finite, largest magnitude 0 or between 2^-40 and 2^40
    (float32), 2^-400
           and 2^400 (float64)
    k      1…n − 1
    ties   of equally near rows those of the lowest index; else any of them
    """
    x = _read_only(x)
    n = len(x)
    unknown = np.full(n, np.inf)
    if not candidates.worthwhile(n, k):
        return exact(x, k, np.arange(n), unknown, threads)
    return _settle(x, None, k, *candidates.find(x, k, threads), unknown, ties, threads)


def nearest_between(
    x: np.ndarray,
    y: np.ndarray,
    k: int,
    *,
    bounds: np.ndarray | None = None,
    ties: bool = False,
    threads: int | None = None,
) -> Neighbours:
    """Return the k nearest rows of y of every row of x.

    These are (m, k) squared distances float64, ascending, and (m, k) indices into y, int64; inf and
    −1 fill a list where y has fewer than k rows.

    x, y    (m, d), (n, d) of one type, as for `nearest`; no row of x is taken to be a row of y
    k       1…
    bounds  (m,) float64 — what the k-th squared distance of a row is known not to exceed, from
            other blocks: what is farther may be left out of its list
    ties    of equally near rows those of the lowest index; else any of them
    """
    x, y = _read_only(x), _read_only(y)
    known = np.full(len(x), np.inf) if bounds is None else bounds
    if not candidates.worthwhile(len(y), k):
        return exact(x, k, np.arange(len(x)), known, threads, among=y)
    ((chosen, least),) = candidates.find_between(x, y, k, both=False, threads=threads)
    return _settle(x, y, k, chosen, least, known, ties, threads)


def nearest_both(
    x: np.ndarray,
    y: np.ndarray,
    k: int,
    *,
    bounds: tuple[np.ndarray, np.ndarray] | None = None,
    ties: bool = False,
    threads: int | None = None,
) -> tuple[Neighbours, Neighbours]:
    """Return `nearest_between` of x in y and of y in x, for the sums of one.

    bounds  (m,) and (n,) float64, as for `nearest_between`
    """
    x, y = _read_only(x), _read_only(y)
    left, right = bounds or (np.full(len(x), np.inf), np.full(len(y), np.inf))
    if not candidates.worthwhile(min(len(x), len(y)), k):
        return (
            nearest_between(x, y, k, bounds=left, ties=ties, threads=threads),
            nearest_between(y, x, k, bounds=right, ties=ties, threads=threads),
        )
    of_x, of_y = candidates.find_between(x, y, k, both=True, threads=threads)
    return (
        _settle(x, y, k, *of_x, left, ties, threads),
        _settle(y, x, k, *of_y, right, ties, threads),
    )


def merge(first: Neighbours, second: Neighbours) -> Neighbours:
    """Return the k nearest of two lists of every row, by distance, then by index.

    first, second  squared distances (m, k) and indices (m, k) of different rows; inf and −1 where
                   there is no further row
    """
    k = first[0].shape[1]
    values, indices = (np.concatenate(pair, axis=1) for pair in zip(first, second, strict=True))
    order = np.lexsort((indices, values), axis=1)[:, :k]
    return np.take_along_axis(values, order, 1), np.take_along_axis(indices, order, 1)


def _read_only(x: np.ndarray) -> np.ndarray:
    """Return a read-only view, so that one version is compiled for arrays and read-only maps."""
    x = np.asarray(x).view()
    x.flags.writeable = False
    return x


def _settle(
    x: np.ndarray,
    y: np.ndarray | None,
    k: int,
    chosen: np.ndarray,
    least: np.ndarray,
    bounds: np.ndarray,
    ties: bool,
    threads: int | None,
) -> Neighbours:
    """Measure candidates of the rows of x in y (None: in x); rows that stay open go to `exact`.

    chosen, least  what `candidates.find` returns
    """
    n, others = len(x), x if y is None else y
    least = least * (1 - rounding(x.shape[1]))
    values, indices = np.full((n, k), np.inf), np.full((n, k), -1, np.int64)
    settled = np.zeros(n, np.bool_)

    def work(task: int, thread: int) -> None:
        begin, end = task * SIDE, min(n, (task + 1) * SIDE)
        _measured(x, others, chosen, least, bounds, ties, begin, end, values, indices, settled)

    parallel.parallel_for(-(-n // SIDE), work, threads)
    rows = np.flatnonzero(~settled)
    if len(rows):
        known = np.minimum(values[rows, -1], bounds[rows])
        values[rows], indices[rows] = exact(x, k, rows, known, threads, among=y)
    return values, indices


def exact(
    x: np.ndarray,
    k: int,
    rows: np.ndarray,
    bounds: np.ndarray,
    threads: int | None = None,
    *,
    among: np.ndarray | None = None,
) -> Neighbours:
    """Return the k nearest other rows of given rows, the lowest index first among equals.

    These are (m, k) squared distances float64 and (m, k) indices int64.

    x       as for `nearest`
    rows    (m,) int64
    bounds  (m,) float64 — what the k-th squared distance is known not to exceed; inf where nothing
            is known
    among   (n, d) of the type of x — the rows to search; None: the other rows of x

    A pair is measured unless its sum S > limit: the k-th nearest so far (or the bound), raised by
    what rounding can do. S sums the d terms (a − b)² ≥ 0 in runs of RUN that are then added, each
    in any order: a term carries two roundings of its difference and one of its square, and takes
    part in at most RUN + d / RUN sums. So S ≤ D²·(1 + γ) with γ = 1.01·(RUN + d / RUN + 4)·u, u the
    unit roundoff of the type; `measure` has a bound of its own. Squares too small for the type lose
    less than its smallest normal number each.
    """
    kind, d = np.finfo(x.dtype), x.shape[1]
    raised = (1 + 1.01 * (RUN + d / RUN + 4) * float(kind.eps) / 2) * (1 + 2 * rounding(d))
    lost = 2 * d * float(kind.tiny)
    values, indices = np.full((len(rows), k), np.inf), np.full((len(rows), k), -1, np.int64)

    def work(task: int, thread: int) -> None:
        _nearest(
            x,
            x if among is None else among,
            among is None,
            rows,
            bounds,
            raised,
            lost,
            task * SIDE,
            min(len(rows), (task + 1) * SIDE),
            values,
            indices,
        )

    parallel.parallel_for(-(-len(rows) // SIDE), work, threads)
    return values, indices


@njit(cache=True, nogil=True)
def largest_magnitude(bits, magnitude):
    """Return the largest magnitude of floats seen as whole numbers: (m,) int32 or int64."""
    largest = bits[0] & magnitude
    for i in range(1, bits.size):
        largest = max(largest, bits[i] & magnitude)
    return largest


def rounding(d: int) -> float:
    """Return the largest relative error of `measure`.

    It has 3 roundings of a difference squared, MEASURED / LANES + 4 + LANES of a run and one for
    each run; of u = 2^-53 each, and 1 % for their products. 6e-14 at a million features.
    """
    return 1.01 * (3 + MEASURED / LANES + 4 + LANES + d / MEASURED + 1) * 2.0**-53


@njit(cache=True, nogil=True)
def measure(x, i, y, j):
    """Return Σ_k (x_ik − y_jk)² in float64: the same bits wherever it is called, 0 for equal rows.

    The order is fixed: in each run of MEASURED features LANES sums of every LANES-th feature, then
    added by halves, then the features that are left over.
    """
    total, d = 0.0, x.shape[1]
    lanes = np.empty(LANES)
    for begin in range(0, d, MEASURED):
        end = min(d, begin + MEASURED)
        whole = begin + (end - begin) // LANES * LANES
        lanes[:] = 0.0
        for k in range(begin, whole, LANES):
            a, b = x[i, k : k + LANES], y[j, k : k + LANES]
            for lane in range(LANES):
                difference = np.float64(a[lane]) - np.float64(b[lane])
                lanes[lane] += difference * difference
        count = LANES // 2
        while count:
            for lane in range(count):
                lanes[lane] += lanes[lane + count]
            count //= 2
        part = lanes[0]
        for k in range(whole, end):
            part += (np.float64(x[i, k]) - np.float64(y[j, k])) ** 2
        total += part
    return total


@njit(cache=True, nogil=True)
def nearest_alive(distances, indices, rows, alive, out, short):
    """Write the nearest of those neighbours that are alive: the first of a list of all neighbours.

    distances, indices  (n, kept) float64, int64 — the nearest of each row, ascending
    rows                (m,) int64;  alive (n,) bool
    out                 (m, k) float64, written
    short               (m,) bool, written — fewer than k of its list are alive: the row of `out` is
                        not the answer
    """
    k = out.shape[1]
    for at in range(rows.size):
        count, place = 0, 0
        while count < k and place < distances.shape[1]:
            if alive[indices[rows[at], place]]:
                out[at, count] = distances[rows[at], place]
                count += 1
            place += 1
        short[at] = count < k


@njit(cache=True, nogil=True)
def _insert(values, indices, at, value, index):
    """Insert a value into list `at` and drop its last: ascending by value, then by index."""
    place = values.shape[1] - 1
    while place > 0 and (
        values[at, place - 1] > value
        or (values[at, place - 1] == value and indices[at, place - 1] > index)
    ):
        values[at, place], indices[at, place] = values[at, place - 1], indices[at, place - 1]
        place -= 1
    values[at, place], indices[at, place] = value, index


@njit(cache=True, nogil=True)
def _measured(x, y, chosen, least, bounds, ties, begin, stop, values, indices, settled):
    """Measure candidates of rows begin…stop until no further row can be among the nearest.

    chosen   (n, kept) int64, rows of y, each once;  least (n, kept) float64 — what
             `candidates.find` says
    bounds   (n,) float64 — what the k-th distance is known not to exceed
    settled  (n,) bool, written — nothing that was not measured is nearer (`ties`: or as near) than
             the k-th, or the bound
    """
    last = values.shape[1] - 1
    for row in range(begin, stop):
        for c in range(chosen.shape[1]):
            far = min(values[row, last], bounds[row])
            if least[row, c] > far or (least[row, c] == far and not ties):
                settled[row] = True
                break
            index, value = chosen[row, c], measure(x, row, y, chosen[row, c])
            if value < values[row, last] or (
                value == values[row, last] and index < indices[row, last]
            ):
                _insert(values, indices, row, value, index)
        far, beyond = min(values[row, last], bounds[row]), least[row, chosen.shape[1] - 1]
        settled[row] |= beyond > far or (beyond == far and not ties)


@njit(cache=True, nogil=True)
def _nearest(x, y, same, rows, bounds, raised, lost, first, stop, values, indices):
    """Fill lists first…stop of `exact` from one tile of sums after another.

    same  y is x: a row is not its own neighbour
    """
    n, k = y.shape[0], values.shape[1]
    sums = np.empty((SIDE, SIDE), x.dtype)
    for begin in range(0, n, SIDE):
        columns = min(SIDE, n - begin)
        _sums(x, rows, first, stop, y, begin, columns, sums)
        for at in range(first, stop):
            row, last = rows[at], values[at, k - 1]
            limit = min(last, bounds[at]) * raised + lost
            for c in range(columns):
                if last > 0 and not sums[at - first, c] > limit and not (same and begin + c == row):
                    value = measure(x, row, y, begin + c)
                    if value < last:  # an equal one has a higher index than those that are there
                        _insert(values, indices, at, value, begin + c)
                        last = values[at, k - 1]
                        limit = min(last, bounds[at]) * raised + lost


@njit(
    cache=True, nogil=True, fastmath={"contract", "reassoc"}
)  # NaN and infinity stay what they are
def _sums(x, rows, first, stop, y, begin, columns, out):
    """Write Σ_k (x[rows[first + q], k] − y[begin + c, k])² to out[q, c], in the type of x.

    Where no such rows are, out holds garbage.
    """
    d, final = x.shape[1], begin + columns - 1
    for start in range(0, d, RUN):
        end = min(d, start + RUN)
        for c in range(0, columns, 4):
            b0, b1 = y[begin + c, start:end], y[min(begin + c + 1, final), start:end]
            b2, b3 = (
                y[min(begin + c + 2, final), start:end],
                y[min(begin + c + 3, final), start:end],
            )
            for at in range(first, stop, 2):
                a0, a1 = x[rows[at], start:end], x[rows[min(at + 1, stop - 1)], start:end]
                s00 = s01 = s02 = s03 = s10 = s11 = s12 = s13 = x.dtype.type(0)
                for k in range(a0.size):
                    s00 += (a0[k] - b0[k]) * (a0[k] - b0[k])
                    s01 += (a0[k] - b1[k]) * (a0[k] - b1[k])
                    s02 += (a0[k] - b2[k]) * (a0[k] - b2[k])
                    s03 += (a0[k] - b3[k]) * (a0[k] - b3[k])
                    s10 += (a1[k] - b0[k]) * (a1[k] - b0[k])
                    s11 += (a1[k] - b1[k]) * (a1[k] - b1[k])
                    s12 += (a1[k] - b2[k]) * (a1[k] - b2[k])
                    s13 += (a1[k] - b3[k]) * (a1[k] - b3[k])
                for q, sums in enumerate(((s00, s01, s02, s03), (s10, s11, s12, s13))):
                    for r in range(4):
                        if start:
                            out[at - first + q, c + r] += sums[r]
                        else:
                            out[at - first + q, c + r] = sums[r]
