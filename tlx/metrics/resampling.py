"""How sure a comparison of two RDMs is: stimuli drawn again and again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import BadData, Usage
from ..kernels.concordance import concordance
from ..kernels.pairs import products, resample
from ..kernels.parallel import each
from ..kernels.ranks import order
from . import arrays
from .comparison import Comparison, compare_rdms, known

STREAM = 0x626F6F74  # of a seed, for the stimuli drawn here


@dataclass(frozen=True)
class Interval:
    """A similarity and where it lies when the stimuli are others.

    value      of all stimuli
    low, high  percentiles of the draws: a `confidence` share of them lies between
    error      standard deviation of the draws
    draws      (resamplings,) float64; NaN where a draw left no two different dissimilarities
    """

    value: float
    low: float
    high: float
    error: float
    confidence: float
    draws: np.ndarray


def bootstrap(a: Any, b: Any, method: str = "spearman", resamplings: int = 1000, seed: int = 0, *,
              confidence: float = 0.95, threads: int | None = None) -> Interval:
    """Confidence interval of `compare_rdms(a, b, method)` over stimuli.

    a, b         RDMs of the same n stimuli, condensed or square
    method       a row of COMPARISONS that needs not all pairs: none of the whitened ones
    resamplings  how often n stimuli are drawn, with replacement and the same for both RDMs
    raises       as compare_rdms; Usage: a whitened method, no resampling, a confidence not between 0 and 1

    A pair of a stimulus with itself has no dissimilarity and is left out, as rsatoolbox does; pairs of a stimulus that
    was drawn more than once count more than once. Percentile interval: Efron & Tibshirani 1993, ch. 13.
    """
    row = known(method)
    if not row.partial:
        raise Usage("no-bootstrap", f"'{method}' needs all pairs of stimuli, and resampling loses some", where="method",
                    expected="a comparison that is not whitened")
    if resamplings < 1 or not 0 < confidence < 1:
        raise Usage("out-of-range", f"{resamplings} resamplings, confidence {confidence}",
                    expected="at least 1, and a share between 0 and 1")
    pairs = [arrays.condensed(x, where=where) for x, where in ((a, "a"), (b, "b"))]
    value = compare_rdms(pairs[0][0], pairs[1][0], method, threads=threads)
    n = pairs[0][1]
    words = np.random.PCG64(np.random.SeedSequence([seed, STREAM])).random_raw(resamplings * n)
    chosen = ((words >> np.uint64(32)) * np.uint64(n) >> np.uint64(32)).astype(np.int64).reshape(resamplings, n)
    draws = np.empty(resamplings)

    def draw(number: int, thread: int) -> None:
        parts = []
        for x, _ in pairs:
            out = np.empty(len(x), x.dtype)
            parts.append(out[:resample(x, n, chosen[number], out)])
        draws[number] = _similarity(row, *parts)

    each(resamplings, draw, threads)
    found = draws[~np.isnan(draws)]
    if not len(found):
        raise BadData("no-draws", f"{n} stimuli: no draw of them leaves two different dissimilarities")
    low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2]).tolist()
    error = float(found.std(ddof=1)) if len(found) > 1 else float("nan")
    return Interval(float(value), low, high, error, confidence, draws)


def _similarity(row: Comparison, a: np.ndarray, b: np.ndarray) -> float:
    """Of two vectors of as many dissimilarities; NaN where one is constant."""
    if any(len(x) < 2 or x.min() == x.max() for x in (a, b)):
        return float("nan")
    if row.vector is None:
        return concordance(order(a, 1), b, 1) / (len(a) * (len(a) - 1) // 2)
    first, second, out = row.vector(a, 0, 1), row.vector(b, 0, 1), np.empty((1, 1))
    products(first[None], second[None], 0, 1, out)
    return float(np.clip(out[0, 0], -1, 1))
