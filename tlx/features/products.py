"""Inner products of rows, in blocks of columns: rows may be wider and longer than memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ResourceError
from .fitting import check_rows

BLOCK_BYTES = 64 << 20  # of one block of columns in float64
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
    whole = origin is None and X.dtype == np.int8 and (other is None or other.dtype == np.int8)
    for columns in _column_blocks(len(X) + (0 if other is None else len(other)), X.shape[1]):
        left = np.array(X[:, columns], np.float64)
        if origin is not None:
            left -= origin[columns]
        right = left if other is None else np.array(other[:, columns], np.float64)
        out += _multiply(left, right, whole=whole)
    return out


def combine(coef: np.ndarray, X: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Compute coef (k, m) · X[rows] (m, d) in float64, in blocks of columns: (k, d)."""
    out = np.empty((len(coef), X.shape[1]))
    for columns in _column_blocks(len(rows), X.shape[1]):
        out[:, columns] = coef @ X[:, columns][rows].astype(np.float64)
    return out


def _column_blocks(rows: int, width: int) -> Sequence[slice]:
    step = max(1, BLOCK_BYTES // (8 * max(1, rows)))
    return [slice(start, min(start + step, width)) for start in range(0, width, step)]


def _multiply(left: np.ndarray, right: np.ndarray, whole: bool) -> np.ndarray:
    if whole and left.shape[1] * np.abs(left).max(initial=0) * np.abs(right).max(initial=0) < EXACT:
        left32 = left.astype(np.float32)
        return left32 @ (left32.T if right is left else right.astype(np.float32).T)
    result: np.ndarray = left @ right.T  # of one array with itself: half the work, and symmetric
    return result


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
        everything = len(self.columns) == len(features)
        self._values = inner(features, None if everything else features[self.columns])
        self._squares = np.empty(len(features))
        self._sums = np.empty(len(features))
        step = max(1, BLOCK_BYTES // (8 * features.shape[1]))
        for start in range(0, len(features), step):
            block = features[start : start + step].astype(np.float64)
            self._squares[start : start + step] = np.einsum("ij,ij->i", block, block)
            self._sums[start : start + step] = block.sum(axis=1)

    def between(self, rows: np.ndarray, trained: np.ndarray) -> np.ndarray:
        """Return (t, n) inner products of rows (t,) with training rows (n,).

        The latter are among `columns`.
        """
        place = np.searchsorted(self.columns, trained)
        if (place == len(self.columns)).any() or (self.columns[place] != trained).any():
            raise ValueError("a training row is not among the columns")
        result: np.ndarray = self._values[np.ix_(rows, place)]
        return result

    def squares(self, rows: np.ndarray) -> np.ndarray:
        """Return (t,) inner products of rows with themselves."""
        result: np.ndarray = self._squares[rows]
        return result

    def gamma(self, rows: np.ndarray) -> float:
        """Compute 1 / (d · variance of all features of these rows), a kernel's default scale.

        1 if none vary.
        """
        size = len(rows) * self.features.shape[1]
        mean = self._sums[rows].sum() / size
        variance = self._squares[rows].sum() / size - mean * mean
        return 1.0 if variance <= 0 else 1 / (self.features.shape[1] * variance)


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
