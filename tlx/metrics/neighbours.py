"""Exact distances to the nearest other rows, the input of every intrinsic dimension."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ..errors import BadDataError, UsageError, counted
from ..kernels import neighbours
from ..kernels.parallel import parallel_for
from . import arrays

TASK = 1 << 20  # numbers of one task
ORDINARY = {
    "float32": 40,
    "float64": 400,
}  # largest magnitudes from 2^-this to 2^this are summed as they are


def nearest_distances(x: ArrayLike, k: int = 2, threads: int | None = None) -> np.ndarray:
    """Return Euclidean distances to the k nearest other rows, (n, k) float64, ascending.

    Direct differences in float64, relative error ≤ 1e-12 whatever the offset; the same bits at any
    number of threads. A row itself is left out by its place: equal rows are at distance 0 exactly.
    Differences below 1e-150 of the largest magnitude count as 0.

    x        (n, …) floats or whole numbers, a map, a layer of a dump; each row is flattened
    threads  None: NUMBA_NUM_THREADS, else the cores this process may use
    raises   BadDataError: NaN or infinity, no rows, n ≤ k; UsageError: k or threads below 1
    """
    return NeighbourRows(x, k, threads).nearest(k)[0]


def nearest_neighbours(
    x: ArrayLike, k: int = 2, threads: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return (distances, indices) of the k nearest other rows.

    Distances (n, k) float64, ascending; indices (n, k) int64. Equally near rows are in the order of
    their indices. Raises what `nearest_distances` raises, and is otherwise like it.
    """
    return NeighbourRows(x, k, threads).nearest(k, ties=True)


class NeighbourRows:
    """Validated rows, scaled so that squares neither overflow nor underflow.

    values   (n, d) float32 or float64, C order — what was given, or a copy where that is not
             possible
    scale    a power of two: values are what was given times this
    """

    def __init__(self, x: ArrayLike, k: int, threads: int | None = None):
        """Check x (n, …), n > k.

        Raises what `nearest_distances` raises.
        """
        for name, value in (("k", k), ("threads", 1 if threads is None else threads)):
            if value < 1 or value != int(value):
                raise UsageError(
                    "out-of-range", f"{value}", where=name, expected="a whole number, at least 1"
                )
        given = arrays.rows(x, least=1, finite=False)
        if len(given) <= k:
            raise BadDataError(
                "too-few-rows",
                f"{counted(len(given), 'row')}",
                where="x",
                expected=f"more than k = {k}",
            )
        self.values, self.threads = np.ascontiguousarray(given), threads
        largest = largest_magnitude(self.values, threads)
        if not np.isfinite(largest):
            arrays.check_finite(given)
        self.scale = scale_for(largest, self.values.dtype)
        self.values = scaled(self.values, self.scale)

    def __len__(self) -> int:
        return len(self.values)

    def nearest(
        self, k: int, *, ties: bool = False, part: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return distances (n, k) and indices (n, k) as `nearest_neighbours` does.

        Of equally near rows any are returned, unless `ties`.

        part   (m,) int64, ascending: these rows alone are there
        """
        values = self.values if part is None or len(part) == len(self.values) else self.values[part]
        squares, indices = neighbours.nearest(values, k, ties=ties, threads=self.threads)
        return np.sqrt(squares) / self.scale, indices

    def nearest_of(self, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the same of a subset of rows (m,), on one thread: fastest for few rows."""
        squares, indices = neighbours.exact(self.values, k, rows, np.full(len(rows), np.inf), 1)
        return np.sqrt(squares) / self.scale, indices


def largest_magnitude(values: np.ndarray, threads: int | None = None) -> float:
    """Return the largest magnitude of (n, d) float32 or float64, C order.

    Infinity or NaN if there is any.
    """
    whole = np.int32 if values.dtype == np.float32 else np.int64
    bits = values.reshape(-1).view(
        whole
    )  # magnitudes are in the order of their bits, which vectors compare
    largest = np.zeros(-(-bits.size // TASK), whole)

    def work(task: int, thread: int) -> None:
        largest[task] = neighbours.largest_magnitude(
            bits[task * TASK : (task + 1) * TASK], np.iinfo(whole).max
        )

    parallel_for(len(largest), work, threads)
    return float(largest.max(keepdims=True).view(values.dtype)[0])


def scale_for(largest: float, dtype: np.dtype) -> float:
    """Return a power of two by which squares of rows neither overflow nor underflow.

    largest  their largest magnitude;  dtype  float32 or float64
    """
    exponent = int(np.frexp(largest)[1])
    if not largest or abs(exponent) <= ORDINARY[dtype.name]:
        return 1.0
    return float(2.0 ** -max(exponent, -1000))


def scaled(values: np.ndarray, scale: float) -> np.ndarray:
    """Return rows times a scale, in float64; the same rows where it is 1."""
    return values if scale == 1.0 else np.multiply(values, scale, dtype=np.float64)
