"""Dissimilarities within and between classes, and the RDM of a labelling alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..errors import BadDataError, counted
from ..kernels.pairs import contrast
from ..kernels.parallel import parallel_for
from . import arrays


@dataclass(frozen=True)
class ClassContrast:
    """Contrast of within-class and between-class dissimilarities: the RSA value of a layer.

    within, between   mean dissimilarity of pairs of one class, and of two; with their signs
    contrast          |within − between|; high: the classes are apart
    pairs_within, pairs_between   how many pairs these are means of
    """

    within: float
    between: float
    contrast: float
    pairs_within: int
    pairs_between: int


def class_contrast(
    rdm: ArrayLike, labels: ArrayLike, *, threads: int | None = None
) -> ClassContrast:
    """Compute the mean dissimilarities within and between classes.

    rdm      (n(n − 1)/2,), an array or a map, read once; or (n, n)
    labels   (n,) str or whole numbers, in any order: whether two are equal is all that counts
    threads  to use; the answer has the same bits at any number
    raises   BadDataError: no RDM, not finite, no two rows of one class, or no two of different ones

    Pairs count once; a square has each twice, which leaves means as they are, and its diagonal does
    not count.
    """
    pairs, n = arrays.condensed(rdm, finite=False)
    _, codes = arrays.labels(labels, n)
    inside, outside = pair_counts(codes)
    parts = arrays.row_parts(n)
    sums = np.empty((len(parts), 2))

    def work(part: int, thread: int) -> None:
        with np.errstate(all="ignore"):  # what is not finite shows in the sums
            contrast(pairs, codes, *parts[part], sums[part])

    parallel_for(len(parts), work, threads)
    if not np.isfinite(sums).all():
        arrays.check_finite(pairs, where="rdm")
    return contrast_of(sums.sum(axis=0), inside, outside)


def pair_counts(codes: np.ndarray) -> tuple[int, int]:
    """Return how many pairs of rows are of one class, and of two: codes (n,) int64.

    Raises BadDataError where there is none of either.
    """
    n, counts = len(codes), np.bincount(codes)
    inside = int((counts * (counts - 1) // 2).sum())
    outside = n * (n - 1) // 2 - inside
    if not inside or not outside:
        what = f"{len(counts)} class{'es' if len(counts) > 1 else ''} among {counted(n, 'row')}"
        raise BadDataError(
            "no-contrast",
            what,
            where="labels",
            expected="two or more classes, and one of them with two or more rows",
        )
    return inside, outside


def contrast_of(sums: np.ndarray, inside: int, outside: int) -> ClassContrast:
    """Return the contrast: sums (2,) of dissimilarities, numbers of pairs within and between."""
    within, between = (sums / (inside, outside)).tolist()
    return ClassContrast(within, between, abs(within - between), inside, outside)


def model_rdm(labels: ArrayLike) -> np.ndarray:
    """Return the RDM of labels alone: 0 for two rows of one class, 1 for others.

    Shape (n(n − 1)/2,), float32.
    """
    values = np.asarray(labels)
    _, codes = arrays.labels(labels, len(values) if values.ndim else 0)
    if len(codes) < 2:
        raise BadDataError(
            "too-few-rows", f"{counted(len(codes), 'label')}", where="labels", expected="at least 2"
        )
    return np.concatenate([codes[i + 1 :] != codes[i] for i in range(len(codes) - 1)]).astype(
        np.float32
    )
