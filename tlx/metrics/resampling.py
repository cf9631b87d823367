"""Confidence of a comparison of two RDMs by resampling stimuli."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..errors import BadDataError, ResourceError, UsageError
from ..kernels.concordance import concordance
from ..kernels.pairs import products, resample
from ..kernels.parallel import parallel_for
from ..kernels.ranks import order
from . import arrays
from .comparison import Comparison, compare_rdms, known

STREAM = 0x626F6F74  # of a seed, for the stimuli drawn here
MOST = 1 << 27  # similarities of all draws that are held: 1 GiB


@dataclass(frozen=True)
class Interval:
    """Similarity and its confidence interval over resampled stimuli.

    value      of all stimuli
    low, high  percentiles of the draws: a `confidence` share of them is between
    error      standard deviation of the draws
    draws      (resamplings,) float64; NaN where a draw left no two different dissimilarities
    """

    value: float
    low: float
    high: float
    error: float
    confidence: float
    draws: np.ndarray


def bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    method: str = "spearman",
    resamplings: int = 1000,
    seed: int = 0,
    *,
    confidence: float = 0.95,
    threads: int | None = None,
) -> Interval:
    """Compute the confidence interval of `compare_rdms(a, b, method)` over stimuli.

    a, b         RDMs of the same n stimuli, condensed or square
    method       a row of COMPARISONS that needs not all pairs: none of the whitened ones
    resamplings  how often n stimuli are drawn, with replacement and the same for both RDMs
    raises       as compare_rdms; UsageError: a whitened method, no resampling, a confidence not
                 between 0 and 1

    A pair of a stimulus with itself has no dissimilarity and is left out, as rsatoolbox does; pairs
    of a stimulus that was drawn more than once count more than once. Percentile interval: Efron &
    Tibshirani 1993, ch. 13.
    """
    row = _check(method, resamplings, confidence)
    pairs = [arrays.condensed(x, where=where) for x, where in ((a, "a"), (b, "b"))]
    value = compare_rdms(pairs[0][0], pairs[1][0], method, threads=threads)
    n = pairs[0][1]
    chosen = _chosen(n, resamplings, seed)
    draws = np.empty(resamplings)

    def draw(number: int, thread: int) -> None:
        parts = []
        for x, _ in pairs:
            out = np.empty(len(x), x.dtype)
            parts.append(out[: resample(x, n, chosen[number], out)])
        draws[number] = _similarity(row, *parts)

    parallel_for(resamplings, draw, threads)
    finite = draws[~np.isnan(draws)]
    if not len(finite):
        raise BadDataError(
            "no-draws", f"{n} stimuli: no draw of them leaves two different dissimilarities"
        )
    low, high = np.quantile(finite, [(1 - confidence) / 2, (1 + confidence) / 2]).tolist()
    error = float(finite.std(ddof=1)) if len(finite) > 1 else float("nan")
    return Interval(float(value), low, high, error, confidence, draws)


@dataclass(frozen=True)
class Intervals:
    """Confidence intervals of the similarity of each RDM with each: (m, m) float64 each.

    NaN where no draw left two different dissimilarities; draws that did so for one RDM do not count
    for it.
    """

    low: np.ndarray
    high: np.ndarray
    confidence: float
    resamplings: int


def _same_stimuli(rdms: Sequence[ArrayLike], resamplings: int) -> list[tuple[np.ndarray, int]]:
    """Return the RDMs condensed, each with its number of stimuli.

    Raises BadDataError unless these are the same, ResourceError for more draws than memory holds.
    """
    condensed = [arrays.condensed(rdm, where=f"RDM {i}") for i, rdm in enumerate(rdms)]
    if not condensed or len({n for _, n in condensed}) > 1:
        raise BadDataError(
            "rdm-sizes",
            f"RDMs of {sorted({n for _, n in condensed})} stimuli",
            expected="the same stimuli",
        )
    m = len(condensed)
    if resamplings * m * m > MOST:
        raise ResourceError(
            "too-many-draws",
            f"{resamplings:,} draws of {m} × {m} similarities",
            where="resamplings",
            expected=f"at most {MOST // (m * m):,} draws",
        )
    return condensed


def bootstrap_all(
    rdms: Sequence[ArrayLike],
    method: str = "spearman",
    resamplings: int = 1000,
    seed: int = 0,
    *,
    confidence: float = 0.95,
    threads: int | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Intervals:
    """Bootstrap the similarity of each of m RDMs with each, from the same draws.

    What depends on one RDM and one draw is computed once and not m times, so m RDMs take m times
    the time of one and not m².

    rdms      of the same n stimuli, condensed or square
    method    a row of COMPARISONS with a vector ("kendall" has none) that needs not all pairs
    progress  called with (draws done, draws in all)
    """
    row = _check(method, resamplings, confidence)
    if row.vector is None:
        raise UsageError(
            "no-bootstrap",
            f"'{method}' compares pair by pair",
            where="method",
            expected="spearman, pearson, cosine or rho-a",
        )
    condensed = _same_stimuli(rdms, resamplings)
    n, m, vector = condensed[0][1], len(condensed), row.vector
    draws = np.empty((resamplings, m, m))
    for number, chosen in enumerate(_chosen(n, resamplings, seed)):
        parts = np.empty((m, len(condensed[0][0])))
        counts = np.zeros(m, np.int64)

        def draw(
            i: int,
            thread: int,
            chosen: np.ndarray = chosen,
            parts: np.ndarray = parts,
            counts: np.ndarray = counts,
        ) -> None:
            out = np.empty(len(condensed[i][0]), condensed[i][0].dtype)
            resampled = out[: resample(condensed[i][0], n, chosen, out)]
            if len(resampled) > 1 and resampled.min() < resampled.max():
                counts[i] = len(resampled)
                parts[i, : len(resampled)] = vector(resampled, 0, 1)

        parallel_for(m, draw, threads)
        whole = counts > 0
        parts = parts[:, : counts.max()]
        parts[~whole] = 0
        draws[number] = _all_products(parts, threads)
        draws[number][~whole[:, None] | ~whole] = np.nan
        progress(number + 1, resamplings)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", RuntimeWarning
        )  # of a pair without a draw, whose answer is NaN
        low, high = np.nanquantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return Intervals(low, high, confidence, resamplings)


def _all_products(x: np.ndarray, threads: int | None) -> np.ndarray:
    """Return (m, m): inner products of the rows of x (m, p).

    The same bits at any number of threads.
    """
    x, out = np.ascontiguousarray(x), np.empty((len(x), len(x)))
    parallel_for(len(x), lambda i, _: products(x, x, i, i + 1, out), threads)
    return np.clip(out, -1, 1)


def _check(method: str, resamplings: int, confidence: float) -> Comparison:
    row = known(method)
    if not row.partial:
        raise UsageError(
            "no-bootstrap",
            f"'{method}' needs all pairs of stimuli, and resampling loses some",
            where="method",
            expected="a comparison that is not whitened",
        )
    if resamplings < 1 or not 0 < confidence < 1:
        raise UsageError(
            "out-of-range",
            f"{resamplings} resamplings, confidence {confidence}",
            expected="at least 1, and a share between 0 and 1",
        )
    return row


def _chosen(n: int, resamplings: int, seed: int) -> np.ndarray:
    """Draw stimuli with replacement: (resamplings, n) int64."""
    words = np.random.PCG64(np.random.SeedSequence([seed, STREAM])).random_raw(resamplings * n)
    return (
        ((words >> np.uint64(32)) * np.uint64(n) >> np.uint64(32))
        .astype(np.int64)
        .reshape(resamplings, n)
    )


def _similarity(row: Comparison, a: np.ndarray, b: np.ndarray) -> float:
    """Compute the similarity of two vectors of as many dissimilarities.

    NaN where one is constant.
    """
    if any(len(x) < 2 or x.min() == x.max() for x in (a, b)):
        return float("nan")
    if row.vector is None:
        result: float = concordance(order(a, 1), b, 1) / (len(a) * (len(a) - 1) // 2)
        return result
    first, second, out = row.vector(a, 0, 1), row.vector(b, 0, 1), np.empty((1, 1))
    products(first[None], second[None], 0, 1, out)
    return float(np.clip(out[0, 0], -1, 1))
