"""Transfer performance of checkpoints, and how well a metric predicts it."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from ..errors import BadDataError, UsageError
from . import arrays

EXACT = 8  # items of which all orders are gone through: 40,320
STREAM = 0x7065726D  # of a seed, for the orders drawn here
BLOCK = 1 << 20  # words drawn at once


@dataclass(frozen=True)
class Correlation:
    """Spearman's ρ of a metric with the transfer performance, with a permutation baseline.

    scope, name   "all"; "source" or "checkpoint" and which
    n             models
    rho           −1…1; NaN where the metric or the performance is the same for all of them
    fisher        tanh(z/√(n − 3)): |ρ| of unrelated variables stays below it with the asked
                  confidence (Fisher 1921,
                  for normal ones and many models); 1 up to n = 3
    low, high     percentiles of ρ over orders of the models, with the requested confidence for this
    p             share of orders with as large a |ρ|; of drawn orders (1 + those) / (1 + all)
    exact         all orders were gone through, none drawn
    sources       of scope "all": how many sources changed places as a whole for what follows; 0:
                  none could
    source_low, source_high, source_p   as low, high, p over orders of the sources: the one to
                                        believe

    Models of one source are alike. Orders of single models take them for independent: `fisher`,
    `low`, `high` and `p` over all models are then too narrow by far, and a false finding more
    likely than not. Where sources change places as a whole, each with its checkpoints, what models
    of a source share stays together.
    """

    scope: str
    name: str
    n: int
    rho: float
    fisher: float
    low: float
    high: float
    p: float
    exact: bool
    sources: int = 0
    source_low: float = math.nan
    source_high: float = math.nan
    source_p: float = math.nan


def transfer_performance(accuracy: ArrayLike) -> float | np.ndarray:
    """Compute the area under accuracy over the checkpoint index, by trapezoids of width 1.

    "log-AUC" for log-spaced checkpoints.

    accuracy  (…, c) fractions or percent, c ≥ 2 checkpoints of the fine-tuning, in their order
    →         (…,) float64, at most c − 1 times the largest accuracy; a number for one row

    >>> transfer_performance([0.1, 0.5, 0.9])
    1.0
    """
    values = arrays.floating(arrays.array(accuracy, where="accuracy")).astype(np.float64)
    if values.ndim < 1 or values.shape[-1] < 2 or not values.size:
        raise BadDataError(
            "too-few-checkpoints",
            f"accuracies of shape {values.shape}",
            where="accuracy",
            expected="two or more checkpoints in the last dimension",
        )
    arrays.check_finite(values.reshape(-1, values.shape[-1]), where="accuracy")
    area = values.sum(axis=-1) - (values[..., 0] + values[..., -1]) / 2
    return float(area) if values.ndim == 1 else area


def metric_correlations(
    metric: ArrayLike,
    performance: ArrayLike,
    sources: ArrayLike | None = None,
    checkpoints: ArrayLike | None = None,
    *,
    confidence: float = 0.95,
    permutation_confidence: float = 0.98,
    permutations: int = 10_000,
    seed: int = 0,
) -> list[Correlation]:
    """Correlate a metric with the transfer performance: over all, per source, per checkpoint.

    metric, performance   (n,) numbers, one a model
    sources, checkpoints  (n,) str or whole numbers: what a model was trained on, and which of its
                          checkpoints it is
    confidence            of the Fisher band;  permutation_confidence: of the other
    permutations, seed    orders drawn where there are more than 8 models; of fewer, all are gone
                          through
    raises                BadDataError: not finite, of other lengths, fewer than 2 models;
                          UsageError: a confidence out of range
    """
    for share in (confidence, permutation_confidence):
        if not 0 < share < 1 or permutations < 1:
            raise UsageError(
                "out-of-range",
                f"confidence {share}, {permutations} permutations",
                expected="a share between 0 and 1, and at least 1",
            )
    x, y = (
        arrays.rows(np.asarray(v)[:, None] if np.ndim(v) == 1 else v, where=where)[:, 0].astype(
            np.float64
        )
        for v, where in ((metric, "metric"), (performance, "performance"))
    )
    if len(x) != len(y):
        raise BadDataError(
            "lengths",
            f"{len(x)} metrics and {len(y)} performances",
            expected="one of each for each model",
        )
    groups: list[tuple[str, str, np.ndarray]] = [("all", "", np.arange(len(x)))]
    for scope, labels in (("source", sources), ("checkpoint", checkpoints)):
        if labels is not None:
            names, codes = arrays.labels(labels, len(x), where=f"{scope}s")
            groups += [
                (scope, str(name), np.flatnonzero(codes == code)) for code, name in enumerate(names)
            ]
    out = []
    for scope, name, index in groups:
        rho, null, exact = _null(x[index], y[index], permutations, seed)
        low, high = _band(null, permutation_confidence)
        correlation = Correlation(
            scope,
            name,
            len(index),
            rho,
            fisher_band(len(index), confidence),
            low,
            high,
            _p_value(rho, null, exact),
            exact,
        )
        if scope == "all" and sources is not None:
            correlation = _over_sources(
                correlation,
                x,
                y,
                sources=sources,
                checkpoints=checkpoints,
                confidence=permutation_confidence,
                permutations=permutations,
                seed=seed,
            )
        out.append(correlation)
    return out


def _over_sources(
    correlation: Correlation,
    x: np.ndarray,
    y: np.ndarray,
    *,
    sources: ArrayLike,
    checkpoints: ArrayLike | None,
    confidence: float,
    permutations: int,
    seed: int,
) -> Correlation:
    """Add what permutations of whole sources give to the correlation over all models."""
    blocks = _blocks(len(x), sources, checkpoints)
    moved = sum(len(alike) for alike in blocks if len(alike) > 1)
    if moved == 0 or not math.isfinite(correlation.rho):
        return correlation
    null, exact = _null_of_blocks(x, y, blocks, permutations, seed)
    low, high = _band(null, confidence)
    return replace(
        correlation,
        sources=moved,
        source_low=low,
        source_high=high,
        source_p=_p_value(correlation.rho, null, exact),
    )


def _p_value(rho: float, null: np.ndarray, exact: bool) -> float:
    if not math.isfinite(rho):
        return math.nan
    as_large = int((np.abs(null) >= abs(rho) - 1e-12).sum())
    return as_large / len(null) if exact else (1 + as_large) / (1 + len(null))


def _blocks(n: int, sources: ArrayLike, checkpoints: ArrayLike | None) -> list[list[np.ndarray]]:
    """Return the rows of each source in the order of its checkpoints.

    Sources with the same checkpoints are adjacent.
    """
    names, source = arrays.labels(sources, n, where="sources")
    tags = (
        np.zeros(n, np.int64)
        if checkpoints is None
        else arrays.labels(checkpoints, n, where="checkpoints")[1]
    )
    alike: dict[tuple[int, ...], list[np.ndarray]] = {}
    for code in range(len(names)):
        rows = np.flatnonzero(source == code)
        rows = rows[np.argsort(tags[rows], kind="stable")]
        alike.setdefault(tuple(tags[rows].tolist()), []).append(rows)
    return list(alike.values())


def _null_of_blocks(
    x: np.ndarray, y: np.ndarray, blocks: list[list[np.ndarray]], permutations: int, seed: int
) -> tuple[np.ndarray, bool]:
    """Return ρ of x and y with the sources' rows of y permuted, and whether exhaustively."""
    first, second = (rankdata(values) - (len(values) + 1) / 2 for values in (x, y))
    scale = math.sqrt(float(first @ first) * float(second @ second))
    exact = math.prod(math.factorial(len(alike)) for alike in blocks) <= math.factorial(EXACT)
    sizes = [len(alike) for alike in blocks]
    orders = _all_block_orders(sizes) if exact else _drawn_block_orders(sizes, permutations, seed)
    null = []
    for order in orders:
        moved = np.empty_like(second)
        for alike, places in zip(blocks, order, strict=True):
            for rows, place in zip(alike, places, strict=True):
                moved[rows] = second[alike[place]]
        null.append(float(first @ moved) / scale)
    return np.array(null), exact


def _all_block_orders(sizes: list[int]) -> Iterator[tuple[tuple[int, ...], ...]]:
    return itertools.product(*(itertools.permutations(range(size)) for size in sizes))


def _drawn_block_orders(
    sizes: list[int], permutations: int, seed: int
) -> Iterator[list[list[int]]]:
    rng = np.random.default_rng(np.random.SeedSequence([seed, STREAM, 1]))
    for _ in range(permutations):
        yield [rng.permutation(size).tolist() for size in sizes]


def fisher_band(n: int, confidence: float = 0.95) -> float:
    """Compute tanh(z/√(n − 3)), the bound of |ρ| for n unrelated pairs; 1 up to n = 3.

    z is the normal quantile.

    >>> [round(fisher_band(n), 3) for n in (72, 12, 7)]
    [0.232, 0.574, 0.753]
    """
    return (
        math.tanh(NormalDist().inv_cdf((1 + confidence) / 2) / math.sqrt(n - 3)) if n > 3 else 1.0
    )


def permutation_band(
    n: int, confidence: float = 0.98, *, permutations: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Compute (low, high) of Spearman's ρ over orders of n items without ties.

    All orders up to n = 8, drawn ones beyond.

    >>> [round(permutation_band(n)[1], 3) for n in (6, 7)]
    [0.886, 0.857]
    """
    items = np.arange(n, dtype=np.float64)
    return _band(_null(items, items, permutations, seed)[1], confidence)


def _band(null: np.ndarray, confidence: float) -> tuple[float, float]:
    low, high = np.quantile(null, [(1 - confidence) / 2, (1 + confidence) / 2]).tolist()
    return low, high


def _null(
    x: np.ndarray, y: np.ndarray, permutations: int, seed: int
) -> tuple[float, np.ndarray, bool]:
    """Return ρ of x and y, ρ of x and permuted y, and whether these are all permutations."""
    n, exact = len(x), len(x) <= EXACT
    first, second = (rankdata(v) - (n + 1) / 2 for v in (x, y))
    scale = math.sqrt(float(first @ first) * float(second @ second))
    if scale == 0:
        return math.nan, np.full(1, math.nan), exact
    orders: Sequence[np.ndarray] | Any = (
        [_all_orders(n)] if exact else _drawn_orders(n, permutations, seed)
    )
    return (
        float(first @ second) / scale,
        np.concatenate([second[block] @ first for block in orders]) / scale,
        exact,
    )


@functools.cache
def _all_orders(n: int) -> np.ndarray:
    return np.array(list(itertools.permutations(range(n))), np.int8)


def _drawn_orders(n: int, permutations: int, seed: int) -> Iterator[np.ndarray]:
    draw: Callable[[int], np.ndarray] = np.random.PCG64(
        np.random.SeedSequence([seed, STREAM])
    ).random_raw
    step = max(1, BLOCK // n)
    for start in range(0, permutations, step):
        rows = min(step, permutations - start)
        yield np.argsort(draw(rows * n).reshape(rows, n), axis=1, kind="stable")
