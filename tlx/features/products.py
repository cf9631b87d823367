"""Inner products of rows, in blocks of columns: rows may be wider and longer than memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ResourceError
from .fitting import check_rows

BLOCK_BYTES = 64 << 20  # of one block of columns in float64
ROW_BYTES = 4 << 20  # of one block of rows, that it stays in the cache
WHOLE_BYTES = 512 << 20  # of all columns of the fewer rows in float32
EXACT = 1 << 24  # whole numbers up to here are exact in float32


def inner(
    X: np.ndarray, other: np.ndarray | None = None, *, origin: np.ndarray | None = None
) -> np.ndarray:
    """Compute X·otherᵀ (X·Xᵀ without another) in float64.

    Symmetric to the bit where it is of X alone.

    X, other   (r, d), (s, d) of any real dtype; int8 goes through float32, which is exact and twice
               as fast
    origin     (d,) subtracted from the rows of X first, where there is no other
    →          (r, s) float64
    """
    out = np.zeros((len(X), len(X if other is None else other)))
    if origin is None and _is_whole(X, X if other is None else other):
        _multiply_whole(X, other, out)
        return out
    for columns in _column_blocks(len(X) + (0 if other is None else len(other)), X.shape[1]):
        left = np.array(X[:, columns], np.float64)
        if origin is not None:
            left -= origin[columns]
        right = left if other is None else np.array(other[:, columns], np.float64)
        out += left @ right.T  # of one array with itself: half the work, and symmetric
    return out


def _is_whole(X: np.ndarray, other: np.ndarray) -> bool:
    """Return whether products of all columns are exact in float32, and fit there."""
    if X.dtype != np.int8 or other.dtype != np.int8:
        return False
    largest = _largest(X)
    reach = X.shape[1] * largest * (largest if other is X else _largest(other))
    return bool(reach < EXACT and 4 * other.size <= WHOLE_BYTES)


def _largest(X: np.ndarray) -> int:
    """Return the largest magnitude among int8 numbers; 0 of none."""
    return max(int(X.max(initial=0)), -int(X.min(initial=0)))


def _multiply_whole(X: np.ndarray, other: np.ndarray | None, out: np.ndarray) -> None:
    """Write the products of whole numbers to out (r, s), by float32 in blocks of rows."""
    if other is None:
        whole = X.astype(np.float32)
        out[:] = whole @ whole.T
        return
    right = other.astype(np.float32).T
    for rows in row_blocks(len(X), 4 * X.shape[1]):
        out[rows] = X[rows].astype(np.float32) @ right


def row_blocks(rows: int, row_bytes: int) -> Sequence[slice]:
    """Return blocks of rows that stay in the cache."""
    step = max(64, ROW_BYTES // max(1, row_bytes))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def combine(coef: np.ndarray, X: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Compute coef (k, m) · X[rows] (m, d) in float64, in blocks of columns: (k, d)."""
    out = np.empty((len(coef), X.shape[1]))
    for columns in _column_blocks(len(rows), X.shape[1]):
        out[:, columns] = coef @ X[:, columns][rows].astype(np.float64)
    return out


def _column_blocks(rows: int, width: int) -> Sequence[slice]:
    step = max(1, BLOCK_BYTES // (8 * max(1, rows)))
    return [slice(start, min(start + step, width)) for start in range(0, width, step)]


class Products:
    """Inner products of all rows of features with those of them that any split trains on.

    They hold as long as the features are the same for every split: with embedding "none" or "l2",
    and not with "fne" or "standard", whose statistics are each split's own.

    features   (r, d) — kept, not copied; read again only for what is no matter of angles and
               distances
    columns    (u,) — the rows that may train, ascending
    """

    def __init__(
        self,
        features: np.ndarray,
        columns: np.ndarray | None = None,
        *,
        budget_bytes: int = 2 << 30,
    ):
        """Compute the products.

        Raises ResourceError where r × u float64 numbers do not fit the budget, BadDataError where
        a feature is not finite.
        """
        check_rows(features)
        self.features = features
        self.columns = np.arange(len(features)) if columns is None else np.unique(columns)
        need = 8 * len(features) * len(self.columns)
        if need > budget_bytes:
            raise ResourceError(
                "products-too-large",
                f"inner products of {len(features)} × {len(self.columns)} rows need {need:,} bytes",
                expected=f"at most {budget_bytes:,}",
                remedy="fit split by split",
            )
        count, is_whole = len(self.columns), _is_whole(features, features)
        # float32 where that is exact; the last column has the squares: `pairs` are a part of it
        self._values = np.empty((len(features), count + 1), np.float32 if is_whole else np.float64)
        everything = count == len(features)
        trained = features if everything else features[self.columns]
        if is_whole:
            _multiply_whole(features, trained, self._values[:, :-1])
        else:
            self._values[:, :-1] = inner(features, None if everything else trained)
        self._sums = np.empty(len(features))
        step = max(1, BLOCK_BYTES // (8 * features.shape[1]))
        blocks = [slice(start, start + step) for start in range(0, len(features), step)]
        for rows in row_blocks(len(features), 4 * features.shape[1]) if is_whole else blocks:
            block: np.ndarray = features[rows].astype(np.float32 if is_whole else np.float64)
            self._values[rows, -1] = np.einsum("ij,ij->i", block, block)
            self._sums[rows] = block.sum(axis=1)
        self._values.flags.writeable = False

    def between(self, rows: np.ndarray, trained: np.ndarray) -> np.ndarray:
        """Return (t, n) inner products of rows (t,) with training rows (n,).

        The latter are among `columns`.
        """
        place = np.searchsorted(self.columns, trained)
        if (place == len(self.columns)).any() or (self.columns[place] != trained).any():
            raise ValueError("a training row is not among the columns")
        result: np.ndarray = np.asarray(self._of(rows, place), np.float64)
        return result

    def pairs(self, rows: np.ndarray, trained: np.ndarray) -> np.ndarray:
        """Return (t, n + 1) products of rows with training rows, then with themselves.

        float64, or float32 where they are exact in it.
        """
        place = np.searchsorted(self.columns, trained)
        if _is_run(place) and len(place) == len(self.columns):
            return self._of(rows, np.append(place, len(place)))
        squares = self.squares(rows)[:, None]
        return np.concatenate([self.between(rows, trained), squares], axis=1)

    def _of(self, rows: np.ndarray, place: np.ndarray) -> np.ndarray:
        """Return these rows and columns; read-only, and no copy, where both are runs."""
        if _is_run(rows) and _is_run(place):
            first, column = int(rows[0]), int(place[0])
            view: np.ndarray = self._values[first : first + len(rows), column : column + len(place)]
            return view
        result: np.ndarray = self._values[np.ix_(rows, place)]
        return result

    def squares(self, rows: np.ndarray) -> np.ndarray:
        """Return (t,) inner products of rows with themselves."""
        result: np.ndarray = self._values[rows, -1].astype(np.float64)
        return result

    def gamma(self, rows: np.ndarray) -> float:
        """Compute 1 / (d · variance of all features of these rows), a kernel's default scale.

        1 if none vary.
        """
        size = len(rows) * self.features.shape[1]
        mean = self._sums[rows].sum() / size
        variance = self.squares(rows).sum() / size - mean * mean
        return 1.0 if variance <= 0 else 1 / (self.features.shape[1] * variance)


def _is_run(index: np.ndarray) -> bool:
    """Return whether an index is one whole number after the other."""
    index = np.asarray(index)
    return (
        index.ndim == 1
        and index.dtype.kind in "iu"
        and len(index) > 0
        and int(index[-1]) - int(index[0]) == len(index) - 1
        and bool((np.diff(index) == 1).all())
    )


@dataclass(frozen=True)
class ProductPlan:
    """Decision whether to compute all products at once, and its estimate."""

    at_once: bool
    why: str


def plan(
    shape: tuple[int, int],
    columns: int,
    splits: Sequence[tuple[int, int]],
    *,
    distances: bool,
    budget_bytes: int = 2 << 30,
) -> ProductPlan:
    """Estimate the multiplications of the two ways, and which needs fewer.

    shape      (r, d) of all rows;  columns: how many of them any split trains on
    splits     (training rows, test rows) of every split
    distances  some classifier compares test rows with training rows (neighbours, kernels)
    """
    r, d = shape
    at_once = r * columns * d + sum(n**3 // 3 for n, _ in splits)
    each = sum(n * n * d // 2 + n**3 // 3 + (t * n * d if distances else 0) for n, t in splits)
    need = 8 * r * columns
    fits = need <= budget_bytes
    why = (
        f"all products at once: {at_once / 1e9:.1f} billion multiplications and {need / 2**20:.0f} "
        f"MiB; "
        f"split by split: {each / 1e9:.1f} billion"
        + ("" if fits else f"; over the {budget_bytes / 2**20:.0f} MiB")
    )
    return ProductPlan(fits and at_once < each, why)
