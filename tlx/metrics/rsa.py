"""Representational dissimilarity matrices of activations."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from .. import files
from ..data.sources import read_npy
from ..errors import BadDataError, ResourceError, UnknownNameError, UsageError, counted
from ..kernels.dissimilarity import ROOM, Formula, StandardisedRows, fill, unit
from ..kernels.tile import BLOCK, SIDE
from . import arrays

BLOCK_BYTES = 64 << 20  # of answers on their way to disk
SAMPLE = 256  # rows whose mean float64 rows are centred by


class Dissimilarity(NamedTuple):
    """Preparation and formula of a dissimilarity.

    centred: rows less their means; unit: rows of length 1; then the formula of their distance.
    """

    centred: bool
    unit: bool
    formula: Formula


DISSIMILARITIES = {
    "correlation": Dissimilarity(True, True, Formula(0.5, False)),
    "cosine": Dissimilarity(False, True, Formula(0.5, False)),
    "euclidean": Dissimilarity(False, False, Formula(1.0, True)),
    "sqeuclidean": Dissimilarity(False, False, Formula(1.0, False)),
}


def rdm(
    x: Any,
    metric: str = "correlation",
    condensed: bool = True,
    dtype: Any = None,
    threads: int | None = None,
    out: str | os.PathLike[str] | None = None,
) -> np.ndarray:
    """Compute the dissimilarity of every two rows of x.

    x          (n, …) what `arrays.rows` takes — activations, a layer of a dump: one row for each
    image; may be a map
               of a file larger than memory
    metric     correlation (1 − Pearson's r), cosine (1 − cos), euclidean, sqeuclidean
    condensed  the n(n − 1)/2 pairs i < j, row by row, as scipy's pdist; else (n, n), symmetric, 0
               on its diagonal
    dtype      of the answer, float32 or float64; that of x unless given
    threads    the answer has the same bits with any number
    out        a .npy file to write the answer to, in blocks, whole or not at all; for what is
               larger than memory
    →          the answer; a read-only map of `out` if given. Within 2e-5 of the true number,
               relative, and mostly
               1e-6: sums are in float32, but of differences, and pairs too close for that in
               float64
    raises     BadDataError: not finite, a row that is constant (correlation) or zero (cosine),
               numbers
    too large;
               ResourceError: not enough memory or disk

    Kriegeskorte, Mur & Bandettini 2008, doi:10.3389/neuro.06.004.2008
    """
    if metric not in DISSIMILARITIES:
        raise UnknownNameError("dissimilarity", metric, DISSIMILARITIES)
    x = arrays.rows(x, finite=False)
    n, kind = len(x), np.dtype(x.dtype if dtype is None else dtype)
    if kind not in (np.float32, np.float64):
        raise UsageError("rdm-dtype", f"{kind}", where="dtype", expected="float32 or float64")
    chosen, need = (
        DISSIMILARITIES[metric],
        (n * (n - 1) // 2 if condensed else n * n) * kind.itemsize,
    )
    rows = standardised_rows(x, chosen, threads)
    if out is not None:
        _reserve(need, files.free_bytes(Path(out)), Path(out))
        with files.atomic_write(Path(out)) as file:
            for odd in _to_disk(file, rows, chosen.formula, condensed, kind, threads):
                check_in_range(odd, x, kind)
        return read_npy(Path(out))
    _reserve(need, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    answer = np.empty(need // kind.itemsize, kind)
    starts = _starts(n, condensed)
    everything = range(n)
    check_in_range(
        fill(
            rows,
            chosen.formula,
            everything,
            everything,
            answer,
            starts,
            step=0 if condensed else n,
            threads=threads,
        ),
        x,
        kind,
    )
    if condensed:
        return answer
    answer[:: n + 1] = 0
    return answer.reshape(n, n)


def standardised_rows(
    x: np.ndarray,
    chosen: Dissimilarity,
    threads: int | None,
    *,
    first: int = 0,
    centre: np.ndarray | None = None,
) -> StandardisedRows:
    """Return x (n, d) float32 or float64 with what makes its rows comparable.

    first   number of the first row, for messages
    centre  (d,) float64 — what float64 rows are centred by; None: the mean of a sample of x
    """
    if not chosen.unit:
        if x.dtype == np.float32:
            return StandardisedRows(x)
        if centre is None:
            with np.errstate(invalid="ignore", over="ignore"):
                centre = x[sample_rows(len(x))].mean(axis=0)  # so that little is left to round
        return StandardisedRows(x, centre=centre)
    mean, length = unit(x, chosen.centred, threads)
    extreme = np.flatnonzero(~(length < 1e150) | ((length > 0) & (length < 1e-150)))
    if len(extreme):
        arrays.check_finite(x, first=first)
        raise BadDataError(
            "out-of-range",
            f"row {first + extreme[0]} has a length of {length[extreme[0]]:.1g}",
            where="x",
            expected="numbers whose squares float64 holds",
            remedy="scale the rows",
        )
    still = np.flatnonzero(length == 0)
    if len(still):
        kind, name = ("constant", "correlation") if chosen.centred else ("zero", "cosine")
        more = counted(len(still) - 1, "more row", "more rows")
        others = f", and {more} too" if len(still) > 1 else ""
        raise BadDataError(
            f"{kind}-row",
            f"row {first + still[0]} is {kind}{others}: it has no {name} with others",
            where="x",
            expected="rows that vary" if chosen.centred else "rows that are not all 0",
            remedy='leave these rows out, or take metric="euclidean"',
        )
    return StandardisedRows(x, mean, 1 / length)


def sample_rows(n: int) -> slice:
    """Return the rows whose mean float64 rows are centred by."""
    return slice(None, None, max(1, n // SAMPLE))


def check_in_range(odd: int, x: np.ndarray, kind: np.dtype) -> None:
    """Raise BadDataError where some dissimilarities of rows x are not finite."""
    if odd:
        arrays.check_finite(x)
        raise BadDataError(
            "too-large",
            f"{odd} dissimilarities are beyond {kind}",
            where="x",
            remedy="scale the numbers down"
            + (", or take dtype=float64" if kind == np.float32 else ""),
        )


def _starts(n: int, condensed: bool) -> np.ndarray:
    """Return where row i of the result begins, so that pair (i, j) is at [i] + j: (n,) int64.

    What is not in the result is subtracted.
    """
    i = np.arange(n, dtype=np.int64)
    return i * (2 * n - i - 1) // 2 - i - 1 if condensed else i * n


def _reserve(need: int, available: int, place: Path | None = None) -> None:
    """Raise ResourceError where `need` bytes are more than `available`.

    On the disk of `place`, or in memory.
    """
    if need > available:
        raise ResourceError(
            "memory" if place is None else "disk-full",
            f"the dissimilarities need {need:,} bytes",
            where=place or "",
            expected=f"at most {available:,}",
            remedy="give out= a file, and they are written there block by block"
            if place is None
            else "free some space",
        )


# ---------------------------------------------------------------- to disk


def _to_disk(
    file: BinaryIO,
    rows: StandardisedRows,
    formula: Formula,
    condensed: bool,
    kind: np.dtype,
    threads: int | None,
) -> Iterator[int]:
    """Write the result as .npy, block by block.

    After each block it gives how many of its numbers are not finite.
    """
    n = len(rows.x)
    shape = (n * (n - 1) // 2,) if condensed else (n, n)
    np.lib.format.write_array_header_1_0(
        file, {"descr": kind.newbyteorder("<").str, "fortran_order": False, "shape": shape}
    )
    begin, starts, block_starts = file.tell(), _starts(n, condensed), np.zeros(n, np.int64)

    def put(i: int, j: int, numbers: np.ndarray) -> None:
        file.seek(begin + (int(starts[i]) + j) * kind.itemsize)
        file.write(numbers.data)

    side = max(BLOCK, int((BLOCK_BYTES // kind.itemsize) ** 0.5) // SIDE * SIDE)
    parts = [range(i, min(i + side, n)) for i in range(0, n, side)]
    space = np.empty(min(n, side) ** 2, kind)
    for number, of in enumerate(parts):
        for against in parts[number:]:
            width = len(against)
            block = space[: len(of) * width]
            block_starts[of.start : of.stop] = np.arange(len(of)) * width - against.start
            yield fill(
                rows,
                formula,
                of,
                against,
                block,
                block_starts,
                room=ROOM // 2,
                threads=threads,
                step=width if of == against and not condensed else 0,
            )
            block = block.reshape(len(of), width)
            if of == against:
                np.fill_diagonal(block, 0)
            for i in of:
                first = max(against.start, i + 1) if condensed else against.start
                put(i, first, block[i - of.start, first - against.start :])
            if not condensed and of != against:
                for j in range(0, width, BLOCK):
                    turned = np.ascontiguousarray(block[:, j : j + BLOCK].T)
                    for k in range(len(turned)):
                        put(against.start + j + k, of.start, turned[k])
