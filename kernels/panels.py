"""Rows as the register tile wants them: 32 side by side, step by step; and how they get there.

    panel p = rows 32p…32p+31; [p, k, 32]: for each k the numbers of 32 rows lie side by side, 128
    bytes

                  k = 0   1   2  …
        row 32p    ┌ x   x   x           a panel in memory: the column of 32 at k = 0, then that at
                   k = 1, …
        row 32p+1  │ x   x   x
            …      │ …
        row 32p+31 └ x   x   x

Rows are padded with zeros to a multiple of 64, k to a multiple of 4. The plain way (see tile.py)
has no panels: its packed rows are float32 rows, (padded rows, depth).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numba import njit

from . import dispatch, parallel

PANEL = 32  # rows of a panel
BLOCK = 64  # packed rows are padded to a multiple of it
UNROLL = 4  # packed depth is padded to a multiple of it
# columns of a panel that are turned at once: long enough to read rows from memory, 256 KiB
RUN = 2048
TASK = 256  # packed rows of a task
NOTHING = np.empty(0)


def padded(rows: int) -> int:
    """Return how many rows there are once they are packed."""
    return -(-rows // BLOCK) * BLOCK


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Return an uninitialised float32 array that begins on a cache line."""
    size = math.prod(shape)
    raw = np.empty(size + 16, np.float32)
    start = -raw.ctypes.data % 64 // 4
    return raw[start : start + size].reshape(shape)


def empty(rows: int, depth: int, within: np.ndarray | None = None) -> np.ndarray:
    """Return room for packed rows: panels, padded in rows and depth; (padded rows, depth) if plain.

    within   such room for as many columns or more, to be used again
    """
    deep = -(-depth // UNROLL) * UNROLL
    shape: tuple[int, ...] = (padded(rows), depth)
    if dispatch.has_tile():
        shape = (padded(rows) // PANEL, deep, PANEL)
    if within is None:
        return aligned(shape)
    return within.reshape(-1)[: math.prod(shape)].reshape(shape)


def pack(
    packed: np.ndarray,
    x: np.ndarray,
    first: int,
    rows: int,
    begin: int,
    depth: int,
    *,
    shift: np.ndarray = NOTHING,
    scale: np.ndarray = NOTHING,
    centre: np.ndarray = NOTHING,
    squares: np.ndarray = NOTHING,
    threads: int | None = None,
) -> None:
    """Pack (x[i, k] − centre[k] − shift[i]) · scale[i], in float64 and rounded once.

    These are rows first… and columns begin… of x.

    packed   from empty(), of at least these rows and just this depth
    x        (n, d) float32 or float64, of any strides, may be read-only
    shift, scale, squares (n,), centre (d,) float64; empty: left out. squares[i] += Σ of what is
      packed, squared
    """
    x = np.asarray(x).view()
    x.flags.writeable = False  # one compiled version for arrays and read-only maps
    kernel = _pack_kernel()

    def work(task: int, thread: int) -> None:
        kernel(
            x,
            first,
            rows,
            begin,
            depth,
            shift,
            scale,
            centre,
            squares,
            packed,
            task * TASK,
            min(padded(rows), (task + 1) * TASK),
        )

    parallel.parallel_for(-(-padded(rows) // TASK), work, threads)


def _pack_kernel() -> Callable[..., None]:
    if dispatch.has_tile():
        from .llvm import transposition

        return transposition.pack
    return pack_plain


# ---------------------------------------------------------------- packing


@njit(cache=True, nogil=True)
def read(x, row, begin, count, shift, scale, centre, into, to):
    """Copy columns begin…begin+count of a row, shifted and scaled, to into[to, 0:count]."""
    if shift.size == 0 and scale.size == 0 and centre.size == 0:
        for k in range(count):
            into[to, k] = x[row, begin + k]
        return
    less, times = shift[row] if shift.size else 0.0, scale[row] if scale.size else 1.0
    if centre.size:
        for k in range(count):
            into[to, k] = (x[row, begin + k] - centre[begin + k] - less) * times
    else:
        for k in range(count):
            into[to, k] = (x[row, begin + k] - less) * times


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})  # to sum in vectors; NaN stays
def square(values, row, count):
    total = 0.0
    for k in range(count):
        total += np.float64(values[row, k]) * values[row, k]
    return total


@njit(cache=True, nogil=True)
def pack_plain(x, first, rows, begin, depth, shift, scale, centre, squares, packed, start, stop):
    for row in range(start, stop):
        if row < rows:
            read(x, first + row, begin, depth, shift, scale, centre, packed, row)
            if squares.size:
                squares[first + row] += square(packed, row, depth)
        else:
            packed[row] = 0


# ---------------------------------------------------------------- tiles turned


def mirror(
    tile: np.ndarray, rows: int, columns: int, upper: bool, out: np.ndarray, at: int, step: int
) -> None:
    """Write out[at + j·step + i] = tile[j // 64, i, j % 64] for i < rows, j < columns.

    upper  i < j alone;  out  (m,)
    """
    kernel = mirror_plain
    if out.dtype == np.float32 and dispatch.has_tile():
        from .llvm.transposition import mirror as kernel
    kernel(tile, 0, rows, 0, columns, upper, out, at, step)


@njit(cache=True, nogil=True)
def mirror_plain(tile, i0, i1, j0, j1, upper, out, at, step):
    for j in range(j0, j1):
        for i in range(i0, min(i1, j) if upper else i1):
            out[at + j * step + i] = tile[j // BLOCK, i, j % BLOCK]
