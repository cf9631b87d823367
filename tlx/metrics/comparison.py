"""Similarity of representations: correlations of their RDMs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import BadDataError, ResourceError, UnknownNameError
from ..kernels.concordance import concordance
from ..kernels.pairs import products, row_sums, whiten
from ..kernels.parallel import parallel_for
from ..kernels.ranks import MOST, SortOrder, order, ranks, ties
from . import arrays


@dataclass(frozen=True)
class Comparison:
    """Row of COMPARISONS.

    help     what it is
    vector   (pairs, n, threads) → a vector of length 1, such that the inner product of two is their
             similarity; None
             where no vector does that
    partial  some of the pairs may be missing
    """

    help: str
    vector: Callable[[np.ndarray, int, int | None], np.ndarray] | None
    partial: bool = True


@dataclass(frozen=True)
class Similarities:
    """Pairwise similarities of representations: names, and (m, m) float64 in their order."""

    names: tuple[str, ...]
    values: np.ndarray
    method: str


def compare_rdms(
    a: ArrayLike, b: ArrayLike, method: str = "spearman", *, threads: int | None = None
) -> Any:
    """Compute how similar two RDMs are, by a row of COMPARISONS.

    It is 1 for RDMs that are the same to that measure (but for ties: τ_a and ρ_a).

    a, b    an RDM, (n(n − 1)/2,) or (n, n) — a square with zeros on its diagonal is one — or a
    stack of them,
            (m, n(n − 1)/2) or (m, n, n)
    →       a number; (m, l) float64 where a or b is a stack
    raises  BadDataError: no RDMs, of different sizes, not finite, constant ones, to which nothing
            is alike; UnknownNameError
    """
    known(method)
    first, n, single_a = _stack(a, "a")
    second, other, single_b = (first, n, single_a) if b is a else _stack(b, "b")
    if n != other:
        raise BadDataError(
            "rdm-sizes", f"RDMs of {n} and of {other} stimuli", expected="the same stimuli"
        )
    similarities = _compare(first, second, n, method, threads)
    return float(similarities[0, 0]) if single_a and single_b else similarities


def compare_all(
    rdms: Mapping[str, ArrayLike], method: str = "spearman", *, threads: int | None = None
) -> Similarities:
    """Compare each RDM with each: of layers, of models, or of both.

    rdms: name → RDM, all of the same stimuli.
    """
    known(method)
    if not rdms:
        raise BadDataError("no-rdms", "no RDM to compare")
    stack = [arrays.condensed(rdm, where=name) for name, rdm in rdms.items()]
    if len({n for _, n in stack}) > 1:
        sizes = ", ".join(f"{name} {n}" for name, (_, n) in zip(rdms, stack, strict=True))
        raise BadDataError(
            "rdm-sizes",
            f"RDMs of different numbers of stimuli: {sizes}",
            expected="the same stimuli",
        )
    all_pairs = [pairs for pairs, _ in stack]
    return Similarities(
        tuple(rdms), _compare(all_pairs, all_pairs, stack[0][1], method, threads), method
    )


def known(method: str) -> Comparison:
    """Return the row of COMPARISONS of this name.

    Raises UnknownNameError.
    """
    if method not in COMPARISONS:
        raise UnknownNameError("comparison", method, COMPARISONS)
    return COMPARISONS[method]


def _stack(x: ArrayLike, where: str) -> tuple[list[np.ndarray], int, bool]:
    """Return the condensed RDMs in x, their number of stimuli, and whether x is a single one."""
    values = arrays.array(x, where=where)
    if values.ndim == 1 or arrays.is_square_rdm(values):
        pairs, n = arrays.condensed(values, where=where)
        return [pairs], n, True
    if values.ndim not in (2, 3) or len(values) == 0:
        raise BadDataError(
            "rdm-shape",
            f"an array of shape {values.shape}",
            where=where,
            expected="(n(n − 1)/2,), (n, n), or a stack of these",
        )
    each_ = [arrays.condensed(single, where=f"{where}, RDM {i}") for i, single in enumerate(values)]
    return [pairs for pairs, _ in each_], each_[0][1], False


def _compare(
    a: list[np.ndarray], b: list[np.ndarray], n: int, method: str, threads: int | None
) -> np.ndarray:
    return (_concordances if COMPARISONS[method].vector is None else _products)(
        a, b, n, method, threads
    )


def _products(
    a: list[np.ndarray], b: list[np.ndarray], n: int, method: str, threads: int | None
) -> np.ndarray:
    first = vectors(a, n, method, threads, "a")
    second = first if a is b else vectors(b, n, method, threads, "b")
    out = np.empty((len(first), len(second)))
    parallel_for(len(out), lambda i, _: products(first, second, i, i + 1, out), threads)
    return np.clip(out, -1, 1)


def vectors(
    rdms: list[np.ndarray], n: int, method: str, threads: int | None = None, where: str = "rdm"
) -> np.ndarray:
    """Return (m, p) float64, the vector of each RDM by the row of COMPARISONS.

    Raises BadDataError for an RDM without such a vector.
    """
    make = COMPARISONS[method].vector
    assert make is not None
    result = []
    for i, pairs in enumerate(rdms):
        place = f"{where}, RDM {i}" if len(rdms) > 1 else where
        _check(pairs, method, place)
        result.append(make(pairs, n, threads))
    return np.stack(result) if len(result) > 1 else result[0][None]


def _check(pairs: np.ndarray, method: str, where: str) -> None:
    if len(pairs) >= MOST:
        raise ResourceError(
            "too-many-pairs",
            f"{len(pairs):,} pairs",
            where=where,
            expected=f"fewer than {MOST:,}",
            remedy="compare a sample of the stimuli",
        )
    low, high = pairs.min(), pairs.max()
    if low == high and (low == 0 or method not in ("cosine", "whitened-cosine")):
        raise BadDataError(
            "constant-rdm",
            f"all {len(pairs)} dissimilarities are {low:.6g}, to which nothing is {method}-alike",
            where=where,
            expected="at least two different ones",
        )


def _concordances(
    a: list[np.ndarray], b: list[np.ndarray], n: int, method: str, threads: int | None
) -> np.ndarray:
    orders: list[list[SortOrder]] = []
    for where, rdms in zip("ab", (a, b) if b is not a else (a,), strict=False):
        for i, pairs in enumerate(rdms):
            _check(pairs, method, f"{where}, RDM {i}" if len(rdms) > 1 else where)
        orders.append([order(pairs, threads) for pairs in rdms])
    tied = [[ties(ranks, threads) for ranks in side] for side in orders]
    out = np.empty((len(a), len(b)))
    for i in range(len(a)):
        for j in range(len(b)):
            if b is a and j < i:
                out[i, j] = out[j, i]
            elif tied[0][i] <= tied[-1][j]:  # the one with fewer ties leads
                out[i, j] = concordance(orders[0][i], b[j], threads)
            else:
                out[i, j] = concordance(orders[-1][j], a[i], threads)
    pairs_of_pairs = len(a[0]) * (len(a[0]) - 1) // 2
    return out / pairs_of_pairs


# ---------------------------------------------------------------- vectors


def _unit(x: np.ndarray) -> np.ndarray:
    """Scale x (p,) float64 to length 1, in place."""
    x /= np.abs(x).max()
    square = np.empty((1, 1))
    products(x[None], x[None], 0, 1, square)
    x /= np.sqrt(square[0, 0])
    return x


def _cosine(pairs: np.ndarray, n: int, threads: int | None) -> np.ndarray:
    return _unit(pairs.astype(np.float64))


def _centred(pairs: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the dissimilarities less their mean, and the mean."""
    x, mean = pairs.astype(np.float64), 0.0
    for _ in range(2):  # again for what rounding left of a large one
        less = x.mean()
        x -= less
        mean += less
    return x, float(mean)


def _pearson(pairs: np.ndarray, n: int, threads: int | None) -> np.ndarray:
    return _unit(_centred(pairs)[0])


def _spearman(pairs: np.ndarray, n: int, threads: int | None) -> np.ndarray:
    return _unit(ranks(order(pairs, threads), threads))


def _rho_a(pairs: np.ndarray, n: int, threads: int | None) -> np.ndarray:
    p = float(len(pairs))
    result: np.ndarray = ranks(order(pairs, threads), threads) * np.sqrt(
        3 / (p**3 - p)
    )  # ranks are doubled, hence 3 and not 12
    return result


def _whitened(pairs: np.ndarray, n: int, threads: int | None, keep_mean: bool = True) -> np.ndarray:
    """Return H·D·H as a vector: above its diagonal, times √2 (it occurs twice), then diagonal.

    With D = m·(11ᵀ − I) + E, where all of E sums to 0 and its rows to r, H·D·H has e_ij − (r_i +
    r_j)/n + m/n above its diagonal, and −2·r_i/n − m·(n − 1)/n on it.
    """
    out = np.empty(len(pairs) + n)
    above = out[: len(pairs)]
    above[:], mean = _centred(pairs)
    mean = mean if keep_mean else 0.0
    bounds = arrays.row_parts(n)
    sums = np.empty((len(bounds), n))
    parallel_for(
        len(bounds), lambda part, _: row_sums(above, n, *bounds[part], sums[part]), threads
    )
    row = sums.sum(axis=0) / n
    parallel_for(
        len(bounds),
        lambda part, _: whiten(above, row, *bounds[part], mean / n, np.sqrt(2.0)),
        threads,
    )
    out[len(pairs) :] = -2 * row - mean * (n - 1) / n
    return _unit(out)


def _whitened_pearson(pairs: np.ndarray, n: int, threads: int | None) -> np.ndarray:
    return _whitened(pairs, n, threads, keep_mean=False)


COMPARISONS: dict[str, Comparison] = {
    "spearman": Comparison(
        "Spearman's ρ: Pearson's r of ranks, equal ones sharing the mean of theirs", _spearman
    ),
    "rho-a": Comparison(
        "ρ_a: Spearman's ρ expected when ties are broken at random; for models that predict ties "
        "(Schütt et al. 2023, doi:10.7554/eLife.82566)",
        _rho_a,
    ),
    "pearson": Comparison("Pearson's r", _pearson),
    "cosine": Comparison("cosine of the angle between the RDMs as vectors", _cosine),
    "kendall": Comparison(
        "Kendall's τ_a: (concordant − discordant) / all pairs of dissimilarities", None
    ),
    "whitened-cosine": Comparison(
        "cosine in the metric of V⁻¹, V = (C·Cᵀ)∘(C·Cᵀ) being, up to a factor, the covariance of "
        "squared distances "
        "of stimuli with independent, equal noise, C the contrasts of all pairs: the cosine of "
        "H·D₁·H and H·D₂·H, "
        "H = I − 11ᵀ/n, thus linear CKA (Diedrichsen et al. 2021, Neurons, Behavior, Data Analysis "
        "and Theory 5(3), "
        "arXiv:2007.02789); no matrix of pairs × pairs is made",
        _whitened,
        partial=False,
    ),
    "whitened-pearson": Comparison(
        "the same of dissimilarities less their mean", _whitened_pearson, partial=False
    ),
}
