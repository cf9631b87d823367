"""One pass over rows: sums of squares about the means of classes.

A class is not centred on its mean, which nobody knows before the end, but on a provisional one: its
first row at first, then the mean so far, each time that its rows have become GROWTH times as many.
With centre c, rest r = Σ(x − c), squares s = Σ(x − c)² and n rows, Σ(x − x̄)² = s − r²/n (Chan,
Golub & LeVeque 1983, "Algorithms for computing the sample variance", The American Statistician
37:242–247). The mean of n/GROWTH rows being c, these rows alone bring (x̄ − c)²·n/GROWTH to the
sum, so s is at most GROWTH + 1 times as large as what is left of it: no more digits than that are
lost, wherever the means lie. Moving a centre is exact, as what is rounded stays in the rest.

What makes it as fast as memory: rows of one class are met together, ROWS at a time, so that centre,
rest and squares are loaded and stored once for all of them; the next ROWS are fetched meanwhile,
which no hardware foresees because they may lie anywhere.
"""

from __future__ import annotations

from llvmlite import ir
from numba import config, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

ROWS = 4  # of one class, added at once
RUN = 4096  # rows at most in one sum: rounding grows with the length of the chain
GROWTH = 64
STRIP = 512  # columns whose sums stay in the nearest cache while rows of their class pass by
LANES = 8  # float64 of a vector; LLVM splits it where registers are shorter


def _add_plainly(x, rows, later, left, centre, rest, squares):
    """Adds some rows of x, from column `left` on, to the sums of their class.

    x        (m, d) float32 or float64, C order
    rows     their numbers, a tuple;  later — as many that come next
    centre…  (w,) float64 — rest += Σ(x − centre), squares += Σ(x − centre)², column by column
    """
    for row in rows:
        away = x[row, left : left + len(centre)] - centre
        rest += away
        squares += away**2


@intrinsic
def _add(typingctx, x, rows, later, left, centre, rest, squares):
    """`_add_plainly` in vectors: a compiler finds none, as it cannot prove that so many arrays lie
    apart.
    """
    signature = types.void(x, rows, later, left, centre, rest, squares)

    def generate(context, builder, signature, args):
        array, number = signature.args[0], context.get_data_type(signature.args[0].dtype)
        matrix = context.make_array(array)(context, builder, args[0])
        here, next_ = (
            [
                cgutils.get_item_pointer(context, builder, array, matrix, [row, args[3]])
                for row in cgutils.unpack_tuple(builder, args[which])
            ]
            for which in (1, 2)
        )
        sums = [context.make_array(signature.args[i])(context, builder, args[i]) for i in (4, 5, 6)]
        double, int64, int32 = ir.DoubleType(), ir.IntType(64), ir.IntType(32)
        fetch = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, int32, int32, int32]),
            "llvm.prefetch.p0",
        )

        def place(pointer, at, kind, lanes):
            return builder.bitcast(
                builder.gep(pointer, [at]), ir.VectorType(kind, lanes).as_pointer()
            )

        def columns(at, lanes):
            centre, rest, squares = (place(s.data, at, double, lanes) for s in sums)
            about, total = builder.load(centre, align=8), builder.load(squares, align=8)
            away = [builder.load(place(row, at, number, lanes), align=4) for row in here]
            if number != double:
                away = [builder.fpext(value, about.type) for value in away]
            away = [builder.fsub(value, about) for value in away]
            for y in away:  # a product and its sum may be rounded once
                total = builder.fadd(
                    total, builder.fmul(y, y, flags=("contract",)), flags=("contract",)
                )
            builder.store(total, squares, align=8)
            while len(away) > 1:
                away = [builder.fadd(*away[i : i + 2]) for i in range(0, len(away), 2)]
            builder.store(builder.fadd(builder.load(rest, align=8), away[0]), rest, align=8)

        width = cgutils.unpack_tuple(builder, sums[0].shape)[0]
        whole = builder.and_(width, int64(-2 * LANES))
        with cgutils.for_range_slice(builder, int64(0), whole, int64(2 * LANES), intp=int64) as (
            at,
            _,
        ):
            for row in next_:
                line = builder.bitcast(builder.gep(row, [at]), cgutils.voidptr_t)
                builder.call(
                    fetch, [line, int32(0), int32(3), int32(1)]
                )  # to read, and to stay near
            columns(at, LANES)
            columns(builder.add(at, int64(LANES)), LANES)
        with cgutils.for_range_slice(builder, whole, width, int64(1), intp=int64) as (at, _):
            columns(at, 1)
        return context.get_dummy_value()

    return signature, generate


add = _add_plainly if config.DISABLE_JIT else _add


@njit(cache=True, nogil=True, fastmath={"reassoc"})
def _sum(values):
    """Σ values, in vectors: any order will do."""
    total = 0.0
    for i in range(values.size):
        total += values[i]
    return total


@njit(cache=True, nogil=True)
def _move(centre, rest, squares, n):
    """Moves centre (w,) to the mean of the n rows behind rest (w,); squares (w,) is what this adds
    to Σ(x − c)².
    """
    for j in range(centre.size):
        moved = centre[j] + rest[j] / n
        step = moved - centre[j]
        squares[j] = step * (n * step - 2 * rest[j])
        rest[j] -= n * step
        centre[j] = moved


@njit(cache=True, nogil=True)
def gather(x, order, starts, left, width, centre, rest, squares, seen, since, scratch):
    """Adds rows to the sums of k classes over `width` columns, from column `left` on.

    x        (m, d) float32 or float64, C order
    order    (m,) int64 — its rows, class by class;  starts  (k + 1,) int64 — where in it each class
             begins
    centre, rest   (k, w) float64, w ≥ width
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
                about, rests, totals = (
                    centre[c, begin:finish],
                    rest[c, begin:finish],
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
                        rests,
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
                        rests,
                        totals,
                    )
                    i += 1
                squares[c] += _sum(totals)
                if grown:
                    _move(about, rests, totals, seen[c])
                    squares[c] += _sum(totals)
            if grown:
                since[c] = seen[c]
            at = stop


@njit(cache=True, nogil=True)
def finish(centre, rest, squares, seen, counts, found, means, scratch):
    """Sums of squares over w columns, from what `gather` has of every class in q parts of the rows.

    centre, rest   (q, k, w) float64;  squares  (q, k) float64;  seen  (q, k) int64
    counts   (k,) int64 — rows of each class in all parts, at least 1
    found    (3, k) float64, written — by class: Σ‖x − μ_c‖², n_c·‖μ_c − μ‖², Σ‖x − μ‖² (this by no
             mean of a class)
    means    (k, w) float64, written — μ_c
    scratch  (3, w) float64

    The mean of a class is told by how far it lies from one of its centres, and the mean of all by
    how far from one of these, so that no digits go to a large offset of the rows, or of a class.
    """
    parts, classes, width = centre.shape
    origin, mean, values = scratch[0], scratch[1], scratch[2]
    found[:] = 0.0
    means[:] = 0.0
    mean[:] = 0.0
    origin[:] = centre[_first(seen, 0), 0]
    for c in range(classes):
        about = centre[_first(seen, c), c]
        for p in range(parts):
            for j in range(width if seen[p, c] else 0):
                means[c, j] += (seen[p, c] * (centre[p, c, j] - about[j]) + rest[p, c, j]) / counts[
                    c
                ]
        for j in range(width):
            mean[j] += counts[c] / counts.sum() * (about[j] - origin[j] + means[c, j])
    for c in range(classes):
        about = centre[_first(seen, c), c]
        for p in range(parts):
            n = seen[p, c]
            if n == 0:
                continue
            for j in range(width):
                share = rest[p, c, j] / n
                away = centre[p, c, j] - about[j] - means[c, j] + share
                values[j] = n * (away * away - share * share)
            found[0, c] += squares[p, c] + _sum(values)
            for j in range(width):
                away = centre[p, c, j] - origin[j] - mean[j]
                values[j] = away * (2 * rest[p, c, j] + n * away)
            found[2, c] += squares[p, c] + _sum(values)
        for j in range(width):
            away = about[j] - origin[j] - mean[j] + means[c, j]
            values[j] = counts[c] * away * away
            means[c, j] += about[j]
        found[1, c] = _sum(values)


@njit(cache=True, nogil=True)
def _first(seen, c):
    """The first part of the rows that has one of class c."""
    p = 0
    while seen[p, c] == 0:
        p += 1
    return p


@njit(cache=True, nogil=True)
def by_class(codes, starts, order):
    """Which rows each class has: where class c begins in order is starts[c]; rows of a class keep
    their order.

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
