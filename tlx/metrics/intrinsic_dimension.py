"""Intrinsic dimension of a layer's activations, estimated from nearest-neighbour distances.

μ is the ratio of the distances to a row's second and first neighbour. Where the density hardly
changes over two neighbours, and whatever it is, ln μ is exponential with the dimension as its rate
(Facco, d'Errico, Rodriguez & Laio 2017, doi:10.1038/s41598-017-11873-y). Rows that equal another
row (r1 = 0) and rows with two equally near neighbours (r1 = r2) have no information, are left out
and counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import betainc

from ..errors import BadDataError, UsageError, counted
from ..spec import Spec, parse_spec, setting
from .neighbours import NeighbourRows

LEAST = 4  # informative rows: the regression leaves two out, and a correlation needs two


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """Intrinsic dimension and the data that it was estimated from.

    dimension    the estimate
    r, p         Pearson's correlation of the points of the regression and its two-sided p; None
                 where there is none
    n, n_used    rows given; rows (of the regression: points) that the estimate is made from
    repeated     rows left out because another row is equal to them
    tied         rows left out because their neighbours are all equally near
    """

    dimension: float
    r: float | None = None
    p: float | None = None
    n: int
    n_used: int
    repeated: int
    tied: int


@dataclass(frozen=True, kw_only=True)
class TwoNN(Spec):
    """Slope of −ln(1 − F) against ln μ through the origin, F_i = i/N of the sorted ratios.

    As Ansuini, Laio, Macke & Zoccolan 2019 (doi:10.48550/arXiv.1905.12784) compute it: the last two
    of the N points are dropped, least squares takes the first ⌊fraction·N⌋ of the others.
    """

    kind: ClassVar[str] = "two-nn"

    fraction: float = setting(
        0.9, help="fraction of the smallest ratios that is used", low=0, high=1
    )
    neighbours = 2

    def estimate(self, distances: np.ndarray) -> Dimension:
        """Estimate from distances (n, 2) float64, ascending.

        Raises BadDataError where fewer than four ratios, or two points, are left.
        """
        logs, left_out = log_ratios(distances)
        total = len(logs)
        used = min(math.floor(self.fraction * total), total - 2)
        x, y = logs[:used], -np.log(1 - np.arange(1, used + 1) / total)
        if used < 2 or x[0] == x[-1]:
            raise _too_few(
                f"{used} points of the regression, {len(np.unique(x))} different", **left_out
            )
        a, b = x - x.mean(), y - y.mean()
        r = min(1.0, float(a @ b / np.sqrt((a @ a) * (b @ b))))
        p = float(betainc(used / 2 - 1, 0.5, 1 - r * r)) if used > 2 else 1.0
        return Dimension(dimension=float(x @ y / (x @ x)), r=r, p=p, n_used=used, **left_out)


@dataclass(frozen=True, kw_only=True)
class TwoNNLikelihood(Spec):
    """Unbiased maximum-likelihood rate of ln μ from the smallest m = ⌊fraction·N⌋ ratios.

    (m − 1) / (Σ_{i ≤ m} ln μ_i + (N − m)·ln μ_m); the other ratios are known only to be larger
    (type II censoring).

    At fraction 1 it is (N − 1) / Σ ln μ, which DADApy calls "ml"; at 0.9 what scikit-dimension
    calls "mle".
    """

    kind: ClassVar[str] = "two-nn-likelihood"

    fraction: float = setting(
        0.9, help="fraction of the smallest ratios that is used", low=0, high=1
    )
    neighbours = 2

    def estimate(self, distances: np.ndarray) -> Dimension:
        """Estimate from distances (n, 2) float64, ascending.

        Raises BadDataError where fewer than four ratios are left, or two used.
        """
        logs, left_out = log_ratios(distances)
        used = math.floor(self.fraction * len(logs))
        if used < 2:
            raise _too_few(f"{used} ratios", **left_out)
        total = logs[:used].sum() + (len(logs) - used) * logs[used - 1]
        return Dimension(dimension=float((used - 1) / total), n_used=used, **left_out)


@dataclass(frozen=True, kw_only=True)
class LevinaBickel(Spec):
    """Maximum likelihood from the distances to the k nearest neighbours T_1 … T_k of each row.

    1/m̂ = Σ_{j < k} ln(T_k / T_j) / (k − 1).

    Levina & Bickel 2004 (NIPS 17); the inverses are averaged, as MacKay & Ghahramani 2005 derive.
    Rows whose k neighbours are all equally near say that m̂ is infinite; they are left out.
    """

    kind: ClassVar[str] = "levina-bickel"

    k: int = setting(20, help="neighbours of each row", low=2)

    @property
    def neighbours(self) -> int:
        """Return the number of neighbours that the estimate needs."""
        return self.k

    def estimate(self, distances: np.ndarray) -> Dimension:
        """Estimate from distances (n, k) float64, ascending.

        Raises BadDataError where no row is left.
        """
        good, left_out = _telling(distances)
        if not len(good):
            raise _too_few("0 rows", **left_out)
        inverse = np.log(good[:, -1:] / good[:, :-1]).sum(axis=1) / (self.k - 1)
        return Dimension(dimension=float(1 / inverse.mean()), n_used=len(good), **left_out)


METHODS: dict[str, type[Spec]] = {"twonn": TwoNN, "twonn-mle": TwoNNLikelihood, "mle": LevinaBickel}


def intrinsic_dimension(
    x: ArrayLike, method: str = "twonn", fraction: float | None = None, threads: int | None = None
) -> Dimension:
    """Estimate the intrinsic dimension of rows.

    x         (n, …) floats or whole numbers, a map, a layer of a dump; each row is flattened
    method    a row of METHODS, perhaps with settings: "twonn", "twonn-mle", "mle:k=10"
    fraction  of the ratios that is used; None: 0.9, or what `method` says
    raises    BadDataError: NaN or infinity, too few informative rows (the message has how many
              were left out, and why);
              UnknownNameError, UsageError: the method, its settings
    """
    how = estimator(method, fraction)
    result: Dimension = how.estimate(
        NeighbourRows(x, how.neighbours, threads).nearest(how.neighbours)[0]
    )
    return result


def estimator(method: str, fraction: float | None = None) -> Any:
    """Return the row of METHODS for `method`, with its settings."""
    how = parse_spec(METHODS, method, "method")
    if fraction is None:
        return how
    if "fraction" not in how.settings():
        raise UsageError(
            "no-fraction", f"fraction {fraction} of '{method}'", where="fraction", expected="none"
        )
    return how.replace(fraction=fraction)


def log_ratios(distances: np.ndarray) -> tuple[np.ndarray, dict[str, int]]:
    """Return (ln μ, ascending, of the informative rows; counts of all rows and of those left out).

    distances  (n, 2) float64, ascending
    raises     BadDataError: fewer than four are left
    """
    good, left_out = _telling(distances)
    if len(good) < LEAST:
        raise _too_few(f"{counted(len(good), 'row')}", **left_out)
    return np.log(np.sort(good[:, 1] / good[:, 0])), left_out


def _telling(distances: np.ndarray) -> tuple[np.ndarray, dict[str, int]]:
    """Return the rows with 0 < r1 < rk, and the counts of all rows and of those left out."""
    repeated = distances[:, 0] == 0
    tied = ~repeated & (distances[:, 0] == distances[:, -1])
    left_out = {"n": len(distances), "repeated": int(repeated.sum()), "tied": int(tied.sum())}
    return distances[~(repeated | tied)], left_out


def _too_few(left: str, *, n: int, repeated: int, tied: int) -> BadDataError:
    return BadDataError(
        "no-dimension",
        f"{left} left of {counted(n, 'row')}: {repeated} are "
        f"equal to another row, {tied} have only "
        "equally near neighbours",
        where="x",
        expected=f"at least {LEAST} rows, with different ratios",
        remedy="give more rows, each once; rows on a lattice have no intrinsic dimension",
    )


# ---------------------------------------------------------------- over scales


@dataclass(frozen=True, kw_only=True, eq=False)
class Scales:
    """Intrinsic dimension as the neighbourhood grows, one entry a scale, small to large.

    rank        (s,) int64 — n2: the scale is that of neighbours n2/2 and n2
    dimension   (s,) float64
    error       (s,) float64 — its standard error, from the curvature of the likelihood
    radius      (s,) float64 — mean distance of the neighbours n2/2 and n2
    n_used      (s,) int64 — rows with 0 < r_{n2/2} < r_{n2}
    """

    rank: np.ndarray
    dimension: np.ndarray
    error: np.ndarray
    radius: np.ndarray
    n_used: np.ndarray


def scale_scan(x: ArrayLike, largest: int = 64, threads: int | None = None) -> Scales:
    """Estimate the intrinsic dimension at neighbours 1 and 2, 2 and 4, … up to `largest`.

    Gride, by maximum likelihood.

    Denti, Doimo, Laio & Mira 2022, doi:10.1038/s41598-022-20991-1, with μ = r_{n2} / r_{n1}
    distributed as d·(μ^d − 1)^(n2 − n1 − 1) / (μ^((n2 − 1)·d + 1)·B(n2 − n1, n1)).

    x        (n, …) as for `intrinsic_dimension`
    largest  largest neighbour, at least 2; no larger one than n − 1 is taken
    raises   BadDataError: as `intrinsic_dimension`; UsageError: largest
    """
    if largest < 2:
        raise UsageError("out-of-range", f"{largest}", where="largest", expected="at least 2")
    rows = NeighbourRows(x, 2, threads)
    ranks = 2 ** np.arange(1, int(math.log2(min(largest, len(rows.values) - 1))) + 1)
    distances = rows.nearest(int(ranks[-1]))[0]
    scales = [_gride(distances[:, [rank // 2 - 1, rank - 1]], int(rank)) for rank in ranks]
    dimension, error, radius, used = (np.array(column) for column in zip(*scales, strict=True))
    return Scales(rank=ranks, dimension=dimension, error=error, radius=radius, n_used=used)


def _gride(distances: np.ndarray, n2: int) -> tuple[float, float, float, int]:
    """Return dimension, error, radius and rows used of one scale.

    The dimension is the zero of the derivative of the log-likelihood,

        (N − 1)/d + more·Σ l / (1 − e^(−d·l)) − (n2 − 1)·Σ l,   l = ln μ, more = n2 − n1 − 1,

    which falls with d, and is between the zeros that it has with 1/d and with 1/d + l for that
    fraction. N − 1, not N, makes the estimate of neighbours 1 and 2 unbiased; it is what
    `twonn-mle` and DADApy have.
    """
    good, left_out = _telling(distances)
    if len(good) < LEAST:
        raise _too_few(f"{counted(len(good), 'row')} at neighbours {n2 // 2} and {n2}", **left_out)
    logs, n1 = np.log(good[:, 1] / good[:, 0]), n2 // 2
    more, many, total = n2 - n1 - 1, len(logs), logs.sum()

    def slope(d: float) -> float:
        result: float = (
            (many - 1) / d - more * float((logs / np.expm1(-d * logs)).sum()) - (n2 - 1) * total
        )
        return result

    weight = many - 1 + more * many
    low, high = weight / ((n2 - 1) * total), weight / (n1 * total)
    d = float(brentq(slope, low * (1 - 1e-9), high * (1 + 1e-9), xtol=1e-300, rtol=1e-14))
    curve = (many - 1) / d**2 + more * float(
        (logs**2 * np.exp(-d * logs) / np.expm1(-d * logs) ** 2).sum()
    )
    return d, float(1 / np.sqrt(curve)), float(distances.mean()), many
