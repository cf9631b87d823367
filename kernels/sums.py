"""One pass over rows: sums of squares about the means of classes.

A class is not centred on its mean, which nobody knows before the end, but on a provisional one: its
first row at first, then the mean so far, each time that its rows have become GROWTH times as many.
With centre c, residual r = Σ(x − c), squares s = Σ(x − c)² and n rows, Σ(x − x̄)² = s − r²/n (Chan,
Golub & LeVeque 1983, "Algorithms for computing the sample variance", The American Statistician
37:242–247). The mean of n/GROWTH rows being c, these rows alone bring (x̄ − c)²·n/GROWTH to the
sum, so s is at most GROWTH + 1 times as large as what is left of it: no more digits than that are
lost, wherever the means lie. Moving a centre is exact, as what is rounded stays in r.

What makes it as fast as memory (llvm/class_sums.py): rows of one class are met together, ROWS at a
time, so that centre, residual and squares are loaded and stored once for all of them; the next ROWS
are fetched meanwhile, which no hardware foresees because they may lie anywhere.
"""

from __future__ import annotations

from collections.abc import Callable

from numba import njit

from . import dispatch

ROWS = 4  # of one class, added at once
RUN = 4096  # rows at most in one sum: rounding grows with the length of the chain
GROWTH = 64
STRIP = 512  # columns whose sums stay in the nearest cache while rows of their class pass by


def gather_kernel() -> Callable[..., None]:
    """Return the compiled `gather` of this process: on LLVM vectors, or plain.

    Both have this signature; see `_gather`.
    """
    if dispatch.has_class_sums():
        from .llvm.class_sums import gather

        return gather
    return gather_plain


@njit(cache=True, nogil=True)
def add(x, rows, following, left, centre, residual, squares):
    """Add rows of one class to its sums, from column `left` on.

    x          (m, d) float32 or float64, C order
    rows       their indices, a tuple
    following  as many indices of the rows that come next, to be fetched
    centre     (w,) float64
    residual, squares   (w,) float64 — Σ(x − centre) and Σ(x − centre)² are added, by column
    """
    for row in rows:
        numbers = x[row, left : left + centre.size]  # one row a loop: few enough arrays for vectors
        for j in range(centre.size):
            difference = numbers[j] - centre[j]
            residual[j] += difference
            squares[j] += difference * difference


@njit(cache=True, nogil=True, fastmath={"reassoc"})
def _sum(values):
    """Return Σ values; any order will do, so that vectors can be used."""
    total = 0.0
    for i in range(values.size):
        total += values[i]
    return total


@njit(cache=True, nogil=True)
def _move(centre, residual, squares, n):
    """Move centre (w,) to the mean of the n rows behind residual (w,).

    squares  (w,) float64, written — what the move adds to Σ(x − c)²
    """
    for j in range(centre.size):
        moved = centre[j] + residual[j] / n
        step = moved - centre[j]
        squares[j] = step * (n * step - 2 * residual[j])
        residual[j] -= n * step
        centre[j] = moved


# Long, as a kernel that is called for each class and strip would count references of its arrays.
def _gather(x, order, starts, left, width, centre, residual, squares, seen, since, scratch):
    """Add rows to the sums of k classes over `width` columns, from column `left` on.

    x        (m, d) float32 or float64, C order
    order    (m,) int64 — its rows, class by class;  starts  (k + 1,) int64 — where in it each class
             begins
    centre, residual   (k, w) float64, w ≥ width
    squares  (k,) float64 — Σ(x − centre)² over these columns
    seen, since    (k,) int64 — rows added, and how many there were when the centre was set
    scratch  (STRIP,) float64
    """
    last = order.size - 1
    for c in range(starts.size - 1):
        at, end = starts[c], starts[c + 1]
        while at < end:
            if seen[c] == 0:
                since[c] = 1
                for j in range(width):
                    centre[c, j] = x[order[at], left + j]
            stop = min(end, at + min(RUN, since[c] * GROWTH - seen[c]))
            seen[c] += stop - at
            grown = seen[c] == since[c] * GROWTH
            for begin in range(0, width, STRIP):
                finish = min(width, begin + STRIP)
                about, residuals, totals = (
                    centre[c, begin:finish],
                    residual[c, begin:finish],
                    scratch[: finish - begin],
                )
                totals[:] = 0.0
                i = at
                while i + ROWS <= stop:
                    n = min(i + ROWS, last - ROWS + 1)
                    add(
                        x,
                        (order[i], order[i + 1], order[i + 2], order[i + 3]),
                        (order[n], order[n + 1], order[n + 2], order[n + 3]),
                        left + begin,
                        about,
                        residuals,
                        totals,
                    )
                    i += ROWS
                while i < stop:
                    add(
                        x,
                        (order[i],),
                        (order[min(i + ROWS, last)],),
                        left + begin,
                        about,
                        residuals,
                        totals,
                    )
                    i += 1
                squares[c] += _sum(totals)
                if grown:
                    _move(about, residuals, totals, seen[c])
                    squares[c] += _sum(totals)
            if grown:
                since[c] = seen[c]
            at = stop


gather_plain = njit(cache=True, nogil=True)(_gather)


@njit(cache=True, nogil=True)
def finish(centre, residual, squares, seen, counts, sums, means, scratch):
    """Compute sums of squares over w columns, from the sums of every class in q parts of the rows.

    centre, residual   (q, k, w) float64;  squares  (q, k) float64;  seen  (q, k) int64
    counts   (k,) int64 — rows of each class in all parts, at least 1
    sums     (3, k) float64, written — by class: Σ‖x − μ_c‖², n_c·‖μ_c − μ‖², Σ‖x − μ‖² (this by no
             mean of a class)
    means    (k, w) float64, written — μ_c
    scratch  (3, w) float64

    The mean of a class is told by how far it lies from one of its centres, and the mean of all by
    how far from one of these, so that no digits go to a large offset of the rows, or of a class.
    """
    parts, classes, width = centre.shape
    origin, mean, values = scratch[0], scratch[1], scratch[2]
    sums[:] = 0.0
    means[:] = 0.0
    mean[:] = 0.0
    origin[:] = centre[_first(seen, 0), 0]
    for c in range(classes):
        about = centre[_first(seen, c), c]
        for p in range(parts):
            for j in range(width if seen[p, c] else 0):
                moved = seen[p, c] * (centre[p, c, j] - about[j]) + residual[p, c, j]
                means[c, j] += moved / counts[c]
        for j in range(width):
            mean[j] += counts[c] / counts.sum() * (about[j] - origin[j] + means[c, j])
    for c in range(classes):
        about = centre[_first(seen, c), c]
        for p in range(parts):
            n = seen[p, c]
            if n == 0:
                continue
            for j in range(width):
                share = residual[p, c, j] / n
                away = centre[p, c, j] - about[j] - means[c, j] + share
                values[j] = n * (away * away - share * share)
            sums[0, c] += squares[p, c] + _sum(values)
            for j in range(width):
                away = centre[p, c, j] - origin[j] - mean[j]
                values[j] = away * (2 * residual[p, c, j] + n * away)
            sums[2, c] += squares[p, c] + _sum(values)
        for j in range(width):
            away = about[j] - origin[j] - mean[j] + means[c, j]
            values[j] = counts[c] * away * away
            means[c, j] += about[j]
        sums[1, c] = _sum(values)


@njit(cache=True, nogil=True)
def _first(seen, c):
    """Return the first part of the rows that has rows of class c."""
    p = 0
    while seen[p, c] == 0:
        p += 1
    return p


@njit(cache=True, nogil=True)
def by_class(codes, starts, order):
    """Sort the indices of rows by class: class c begins at starts[c] of order, its rows ascending.

    codes   (m,) int64, 0…k−1
    starts  (k + 1,) int64, written;  order  (m,) int64, written
    """
    starts[:] = 0
    for i in range(codes.size):
        starts[codes[i] + 1] += 1
    for c in range(starts.size - 1):
        starts[c + 1] += starts[c]
    for i in range(codes.size):
        order[starts[codes[i]]] = i
        starts[codes[i]] += 1
    for c in range(starts.size - 1, 0, -1):
        starts[c] = starts[c - 1]
    starts[0] = 0
