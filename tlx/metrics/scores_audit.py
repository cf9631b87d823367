"""Audit of transferability scores: did they rank the sources as training then did?

Each score, and each null ranking that needs no target data (parameters, published accuracy), is
compared with the accuracies that a study realised on the same sources.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ..errors import BadDataError, counted

FEWEST_SOURCES = 5  # for a correlation
RESAMPLINGS = 1000
LEVEL = 0.95
PUBLISHED_TOLERANCE = 0.025  # columns are printed with three digits


@dataclass(frozen=True)
class Agreement:
    """Correlation over sources with its bootstrap interval; None where it is not defined."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class AuditRow:
    """How well one score ranked the sources.

    sources   sources for which both the score and an accuracy are known
    pearson, kendall, weighted   correlations: Pearson's r, Kendall's τ_b, weighted Kendall's τ
              with SciPy's defaults, (accuracy, score) as the published tables
    top       the source that the score puts first; "" if it is known for none
    regret    accuracy lost by taking that source in place of the best one; of several that are
              equally first, the mean; None if it is known for none
    """

    sources: int
    pearson: Agreement
    kendall: Agreement
    weighted: Agreement
    top: str
    regret: float | None


@dataclass(frozen=True)
class Audit:
    """Rows by name of the score, and what a source drawn at random loses."""

    rows: Mapping[str, AuditRow]
    random_regret: float

    @property
    def has_too_few_sources(self) -> bool:
        """Return whether there are too few sources for a correlation."""
        return all(row.sources < FEWEST_SOURCES for row in self.rows.values())


def audit(
    accuracies: Mapping[str, float],
    scores: Mapping[str, Mapping[str, float | None]],
    *,
    seed: int = 0,
) -> Audit:
    """Compare scores of sources with the accuracies that the sources reached.

    accuracies  source → accuracy that was realised
    scores      name of a score → source → score, larger is better; None where not defined
    raises      BadDataError: no source, or an accuracy that is not finite
    """
    if not accuracies or not all(math.isfinite(value) for value in accuracies.values()):
        raise BadDataError(
            "no-accuracies",
            f"{counted(len(accuracies), 'source')}",
            where="accuracies",
            expected="a finite accuracy for each of one or more sources",
        )
    best = max(accuracies.values())
    rows = {
        name: _row(accuracies, best, of_sources, np.random.default_rng(seed))
        for name, of_sources in scores.items()
    }
    return Audit(rows, best - float(np.mean(list(accuracies.values()))))


def _row(
    accuracies: Mapping[str, float],
    best: float,
    scores: Mapping[str, float | None],
    rng: np.random.Generator,
) -> AuditRow:
    known = [
        (source, accuracies[source], float(score))
        for source, score in scores.items()
        if score is not None and math.isfinite(score) and source in accuracies
    ]
    if not known:
        none = Agreement(None)
        return AuditRow(0, none, none, none, "", None)
    names = [source for source, _, _ in known]
    reached = np.array([accuracy for _, accuracy, _ in known])
    values = np.array([score for _, _, score in known])
    is_first = values == values.max()
    pearson, kendall, weighted = (_agreement(method, reached, values, rng) for method in AGREEMENTS)
    return AuditRow(
        sources=len(known),
        pearson=pearson,
        kendall=kendall,
        weighted=weighted,
        top=names[int(is_first.argmax())],
        regret=best - float(reached[is_first].mean()),
    )


def _pearson(accuracies: np.ndarray, scores: np.ndarray) -> float:
    return float(stats.pearsonr(accuracies, scores).statistic)


def _kendall(accuracies: np.ndarray, scores: np.ndarray) -> float:
    return float(stats.kendalltau(accuracies, scores).statistic)


def weighted_kendall(accuracies: Sequence[float] | np.ndarray, scores: np.ndarray) -> float:
    """Return the weighted Kendall correlation that published tables of scores report."""
    return float(stats.weightedtau(accuracies, scores).statistic)


@dataclass(frozen=True)
class Recomputed:
    """Correlations of a published column with the published accuracies, computed again.

    pearson, weighted             from the columns
    pearson_printed, weighted_printed   as the table says
    """

    pearson: float
    weighted: float
    pearson_printed: float
    weighted_printed: float

    @property
    def is_consistent(self) -> bool:
        """Return whether the columns give what is printed below them."""
        return (
            abs(self.pearson - self.pearson_printed) <= PUBLISHED_TOLERANCE
            and abs(self.weighted - self.weighted_printed) <= PUBLISHED_TOLERANCE
        )


def recompute(
    accuracies: Sequence[float] | np.ndarray,
    scores: Sequence[float] | np.ndarray,
    *,
    pearson: float,
    weighted: float,
) -> Recomputed:
    """Return the correlations of a published column beside those printed in the table."""
    reached, values = np.asarray(accuracies, float), np.asarray(scores, float)
    return Recomputed(
        _pearson(reached, values), weighted_kendall(reached, values), pearson, weighted
    )


def _agreement(
    name: str, accuracies: np.ndarray, scores: np.ndarray, rng: np.random.Generator
) -> Agreement:
    """Return a correlation and its percentile interval over resampled sources.

    name  a row of AGREEMENTS
    """
    if len(scores) < FEWEST_SOURCES or np.ptp(scores) == 0.0 or np.ptp(accuracies) == 0.0:
        return Agreement(None)
    method, of_rows = AGREEMENTS[name]
    drawn = rng.integers(0, len(scores), (RESAMPLINGS, len(scores)))
    resampled = of_rows(accuracies[drawn], scores[drawn])
    known = resampled[np.isfinite(resampled)]
    low, high = np.quantile(known, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Agreement(method(accuracies, scores), float(low), float(high))


# ---------------------------------------------------------------- of many resamples at once: (b, n)


def _pearson_rows(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return (b,) Pearson's r of each row of x and y (b, n); NaN where one is constant."""
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    return _quotient((x * y).sum(axis=1), (x * x).sum(axis=1), (y * y).sum(axis=1))


def _kendall_rows(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return (b,) Kendall's τ_b of each row of x and y (b, n)."""
    return _pairwise(x, y, np.ones_like(x))


def _weighted_rows(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return (b,) weighted Kendall of each row: a pair weighs 1/(1 + rank) of both, summed.

    The mean of ranking by x and by y, ties by the other one, as SciPy's weightedtau.
    """
    by_x, by_y = (1.0 / (1.0 + _ranks(*pair)) for pair in ((x, y), (y, x)))
    result: np.ndarray = (_pairwise(x, y, by_x / 2.0) + _pairwise(x, y, by_y / 2.0)) / 2.0
    return result


def _pairwise(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    first, second = np.triu_indices(x.shape[1], 1)
    of_x, of_y = (np.sign(values[:, first] - values[:, second]) for values in (x, y))
    weight = weights[:, first] + weights[:, second]
    return _quotient(
        *((weight * a * b).sum(axis=1) for a, b in ((of_x, of_y), (of_x, of_x), (of_y, of_y)))
    )


def _ranks(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return (b, n) ranks from 0, the largest x first, ties by y."""
    order = np.lexsort((-y, -x), axis=1)
    ranks = np.empty(x.shape)
    np.put_along_axis(ranks, order, np.broadcast_to(np.arange(float(x.shape[1])), x.shape), axis=1)
    return ranks


def _quotient(xy: np.ndarray, xx: np.ndarray, yy: np.ndarray) -> np.ndarray:
    """Return xy / √(xx·yy); NaN where that is 0 / 0."""
    lengths = np.sqrt(xx * yy)
    result: np.ndarray = np.divide(xy, lengths, out=np.full_like(xy, np.nan), where=lengths > 0)
    return result


Method = Callable[[np.ndarray, np.ndarray], float]
RowMethod = Callable[[np.ndarray, np.ndarray], np.ndarray]
AGREEMENTS: dict[str, tuple[Method, RowMethod]] = {  # name → of one table, of many resamples
    "pearson": (_pearson, _pearson_rows),
    "kendall": (_kendall, _kendall_rows),
    "weighted": (weighted_kendall, _weighted_rows),
}
