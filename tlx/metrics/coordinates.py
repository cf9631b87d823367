"""Coordinates of few columns that keep the inner products of rows."""

from __future__ import annotations

import numpy as np

COLUMNS = 4096  # read at once


def coordinates(x: np.ndarray) -> np.ndarray:
    """Return rows (n, min(n, d)) float64 with the inner products of x (n, d) about its mean.

    What depends on these alone is the same of both, and of parts of both, and many columns become
    few.
    """
    n, d = x.shape
    if d <= n:
        centred: np.ndarray = np.asarray(x, np.float64) - x.mean(axis=0, dtype=np.float64)
        return centred
    gram = np.zeros((n, n))
    for begin in range(0, d, COLUMNS):
        columns = np.asarray(x[:, begin : begin + COLUMNS], np.float64)
        columns = columns - columns.mean(axis=0)
        gram += columns @ columns.T
    values, vectors = np.linalg.eigh(gram)
    result: np.ndarray = vectors * np.sqrt(np.maximum(values, 0))
    return result
