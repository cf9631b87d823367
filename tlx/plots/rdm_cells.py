"""Numbers of the figures of RDMs: rows, cells of a heat map, range of the colours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.colors import Normalize
from numpy.typing import ArrayLike

from ..errors import counted


def checked(rdm: ArrayLike, codes: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return both as arrays.

    Raises ValueError if the RDM is not one of so many rows.
    """
    rdm, codes = np.asanyarray(rdm), np.asarray(codes)
    n = len(codes)
    if rdm.shape not in ((n, n), (n * (n - 1) // 2,)):
        raise ValueError(
            f"an RDM of shape {rdm.shape} for {counted(n, 'row')}: neither ({n}, {n}) nor "
            f"({n * (n - 1) // 2},)"
        )
    return rdm, codes


def upper(rdm: np.ndarray, n: int) -> Iterator[tuple[int, np.ndarray]]:
    """Iterate over (i, dissimilarities of row i to rows i + 1 …), in float64.

    Raises ValueError if one is not finite.
    """
    start = 0
    for i in range(n - 1):
        row = np.asarray(
            rdm[i, i + 1 :] if rdm.ndim == 2 else rdm[start : start + n - 1 - i], np.float64
        )
        start += n - 1 - i
        if not np.isfinite(row).all():
            raise ValueError(f"the dissimilarities of row {i} are not all finite")
        yield i, row


def cells(rdm: ArrayLike, codes: ArrayLike, most: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Return the heat map's cells (s, s), where classes begin and end, and their codes.

    Cells are NaN where there is no pair; begin and end are in cells.
    """
    rdm, codes = checked(rdm, codes)
    n = len(codes)
    shown, sizes = np.unique(codes, return_counts=True)
    rank = np.empty(n, np.int64)
    rank[np.argsort(codes, kind="stable")] = np.arange(n)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    if n <= most:
        block, edges = rank, starts.astype(float)
    elif len(shown) <= most // 2:  # no block holds rows of two classes
        of = np.maximum(1, np.round(sizes * most / n)).astype(np.int64)
        edges = np.concatenate([[0], np.cumsum(of)])
        own = np.searchsorted(starts, rank, side="right") - 1
        block = edges[own] + (rank - starts[own]) * of[own] // sizes[own]
    else:
        block, edges = rank * most // n, starts * (most / n)
    members = np.bincount(block)
    sums = np.zeros((len(members), len(members)))
    for i, row in upper(rdm, n):
        sums[block[i]] += np.bincount(block[i + 1 :], weights=row, minlength=len(members))
    pairs = np.outer(members, members) - np.diag(members)
    means = np.divide(sums + sums.T, pairs, out=np.full(sums.shape, np.nan), where=pairs > 0)
    return means, np.asarray(edges, float), shown.tolist()


def span(arrays: Sequence[np.ndarray], percent: float = 0.0) -> tuple[float, float]:
    """Return the least and the largest number (or percentiles), apart from each other."""
    known = [a[np.isfinite(a)] if percent else a for a in map(np.ravel, arrays)]
    known = [a for a in known if a.size]
    if not known:
        return 0.0, 1.0
    if percent:
        low, high = (
            float(v) for v in np.percentile(np.concatenate(known), [percent, 100 - percent])
        )
    else:
        low, high = float(min(a.min() for a in known)), float(max(a.max() for a in known))
    return (
        (low, high)
        if high - low > 1e-9 * max(abs(low), abs(high), 1e-300)
        else (low, low + (abs(low) or 1) * 0.1)
    )


def norm(arrays: Sequence[np.ndarray]) -> tuple[Normalize, str]:
    """Return the colour scale, and at which of its ends numbers are outside it."""
    low, high = span(arrays, 1.0)
    under = any(bool(np.nanmin(a, initial=low) < low) for a in arrays)
    over = any(bool(np.nanmax(a, initial=high) > high) for a in arrays)
    return Normalize(low, high), {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[
        under, over
    ]
