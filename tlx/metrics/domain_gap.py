"""Gap between two feature sets, and spread of a set's classes: G, D, N of the regression.

What the published G and D were is not on record (`regression` has their numbers). Here G is a row
of GAPS, between features of the last layer before the head, and D the mean variance within a class.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from ..data.streams import seeded_permutation
from ..errors import BadDataError, counted
from ..spec import Spec, parse_spec, setting
from . import arrays

BLOCK = 1 << 21  # numbers that are float64 at a time


@dataclass(frozen=True, kw_only=True)
class Frechet(Spec):
    """Squared Fréchet distance between Gaussians fitted to the two sets.

    With the sets' means and (n − 1) covariances: ‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½), as the FID
    is (Dowson & Landau 1982; Heusel et al. 2017, arXiv:1706.08500). With centred rows Σ₁ = AᵀA and
    Σ₂ = BᵀB the last trace is the sum of the singular values of A·Bᵀ, for any number of rows and
    without the square root of a matrix; A and B are brought to at most d rows by QR. It falls as
    rows are added: compare sets of similar size.
    """

    kind: ClassVar[str] = "frechet"

    def between(self, x: np.ndarray, y: np.ndarray) -> float:
        """Compute the squared Fréchet distance of x (n, d) and y (m, d)."""
        (mean_x, a), (mean_y, b) = _centred(x), _centred(y)
        shared = np.linalg.svd(a @ b.T, compute_uv=False).sum()
        spread = np.square(a).sum() + np.square(b).sum() - 2 * shared
        return float(np.square(mean_x - mean_y).sum() + max(0.0, float(spread)))


@dataclass(frozen=True, kw_only=True)
class MeanDiscrepancy(Spec):
    """Squared unbiased maximum mean discrepancy with a Gaussian kernel.

    The kernel is e^(−‖a − b‖² / (2σ²)).

    Gretton et al. 2012 (JMLR 13), equation 3: it may be below 0 where the sets are alike, and is
    between a set and itself. σ is the median distance above 0 between rows of both sets together,
    of at most `sample` rows drawn.
    """

    kind: ClassVar[str] = "mean-discrepancy"

    sigma: float | None = setting(
        None, help="width of the kernel; none or 0: the median distance", low=0
    )
    sample: int = setting(1000, help="rows for the median distance", low=2)
    seed: int = setting(0, help="seed of their draw", low=0)

    def between(self, x: np.ndarray, y: np.ndarray) -> float:
        """Compute the squared maximum mean discrepancy of x (n, d) and y (m, d)."""
        sigma = self.sigma or self._median(x, y)
        if not sigma:  # every row equals every other
            return 0.0
        n, m = len(x), len(y)
        within_x = (_kernel_sum(x, x, sigma) - n) / (
            n * (n - 1)
        )  # less each row with itself, which is 1
        within_y = (_kernel_sum(y, y, sigma) - m) / (m * (m - 1))
        return within_x + within_y - 2 * _kernel_sum(x, y, sigma) / (n * m)

    def _median(self, x: np.ndarray, y: np.ndarray) -> float:
        drawn = seeded_permutation(len(x) + len(y), self.seed, "domain-gap")[: self.sample]
        sample = np.concatenate(
            [x[drawn[drawn < len(x)]], y[drawn[drawn >= len(x)] - len(x)]], dtype=np.float64
        )
        squares = np.concatenate(
            [np.square(sample[i + 1 :] - row).sum(axis=1) for i, row in enumerate(sample)]
        )
        return float(np.median(np.sqrt(squares[squares > 0]))) if squares.any() else 0.0


@dataclass(frozen=True, kw_only=True)
class EarthMover(Spec):
    """Mean over features of the exact one-dimensional Wasserstein distance.

    Of each feature by itself: (∫|F⁻¹ − G⁻¹|^p)^(1/p).
    """

    kind: ClassVar[str] = "earth-mover"

    p: int = setting(1, help="1: earth mover's distance; 2: of squares", choices=(1, 2))

    def between(self, x: np.ndarray, y: np.ndarray) -> float:
        """Compute the mean Wasserstein distance of the columns of x (n, d) and y (m, d)."""
        step = max(1, BLOCK // (len(x) + len(y)))
        distances = [
            _wasserstein(x[:, i : i + step], y[:, i : i + step], self.p)
            for i in range(0, x.shape[1], step)
        ]
        return float((np.concatenate(distances) ** (1 / self.p)).mean())


@dataclass(frozen=True, kw_only=True)
class Sliced(Spec):
    """Sliced Wasserstein distance: (mean over random directions u of W_p(x·u, y·u)^p)^(1/p).

    Bonneel et al. 2015, doi:10.1007/s10851-014-0506-3. The same width and seed give the same
    directions.
    """

    kind: ClassVar[str] = "sliced-wasserstein"

    p: int = setting(2, help="1: distances; 2: their squares", choices=(1, 2))
    directions: int = setting(256, help="random directions", low=1)
    seed: int = setting(0, help="their seed", low=0)

    def between(self, x: np.ndarray, y: np.ndarray) -> float:
        """Compute the sliced Wasserstein distance of x (n, d) and y (m, d)."""
        total, step = 0.0, max(1, BLOCK // (len(x) + len(y) + x.shape[1]))
        for first in range(0, self.directions, step):
            u = _directions(x.shape[1], self.seed, first, min(step, self.directions - first))
            total += float(_wasserstein(_projected(x, u), _projected(y, u), self.p).sum())
        result: float = (total / self.directions) ** (1 / self.p)
        return result


GAPS: dict[str, type[Spec]] = {
    "frechet": Frechet,
    "mmd": MeanDiscrepancy,
    "emd": EarthMover,
    "sliced": Sliced,
}


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Result of `domain_gap`.

    gap: a number whose unit is the method's; method: as requested; n_x, n_y: rows; width: features.
    """

    gap: float
    method: str
    n_x: int
    n_y: int
    width: int

    def __float__(self) -> float:
        return self.gap


def domain_gap(x: ArrayLike, y: ArrayLike, method: str = "frechet") -> Gap:
    """Compute the gap between two sets of features of one layer.

    x, y    (n, …), (m, …) floats or whole numbers, maps, layers of dumps, n and m at least 2; rows
            are flattened
    method  a row of GAPS, perhaps with settings: "frechet", "mmd", "mmd:sigma=3", "emd",
            "sliced:directions=500"
    raises  BadDataError: NaN or infinity, fewer than two rows, other widths; UnknownNameError,
            UsageError: the method, its settings
    """
    how: Any = parse_spec(GAPS, method, "method")
    first, second = arrays.rows(x, where="x"), arrays.rows(y, where="y")
    if first.shape[1] != second.shape[1]:
        raise BadDataError(
            "widths",
            f"x has {first.shape[1]} features and y has {second.shape[1]}",
            where="y",
            expected="features of the same layer",
        )
    return Gap(
        gap=how.between(first, second),
        method=method,
        n_x=len(first),
        n_y=len(second),
        width=first.shape[1],
    )


# ---------------------------------------------------------------- within one set


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassSpread:
    """Variance of features within the classes of a set.

    variance    mean over classes of per_class: D
    per_class   (k,) float64 — mean over features of the variance (divided by n − 1) of the class's
                rows
    classes     (k,) names, sorted; counts (k,) int64 — their rows
    left_out    classes of one row, which show no spread
    n           rows of all classes: N, where a row is an image
    """

    variance: float
    per_class: np.ndarray
    classes: np.ndarray
    counts: np.ndarray
    left_out: tuple[str, ...]
    n: int

    @property
    def variance_per_classes(self) -> float:
        """Return variance / number of classes: the published D goes with 1 / classes."""
        return self.variance / (len(self.classes) + len(self.left_out))


def intra_class_variance(x: ArrayLike, labels: ArrayLike) -> ClassSpread:
    """Compute how far the rows of a class are from its mean, averaged over classes.

    x, labels   (n, …) as for `domain_gap`, and (n,) names or whole numbers
    raises  BadDataError: NaN or infinity, labels that do not fit, no class of two rows
    """
    rows = arrays.rows(x, least=1)
    names, codes = arrays.labels(labels, len(rows))
    counts = np.bincount(codes, minlength=len(names))
    several = np.flatnonzero(counts > 1)
    if not len(several):
        raise BadDataError(
            "too-few-rows",
            f"{counted(len(names), 'class', 'classes')} of one row each",
            where="labels",
            expected="a class of at least two rows",
        )
    per_class = np.array([_variance(rows, np.flatnonzero(codes == code)) for code in several])
    return ClassSpread(
        variance=float(per_class.mean()),
        per_class=per_class,
        classes=names[several],
        counts=counts[several],
        left_out=tuple(str(names[c]) for c in np.flatnonzero(counts == 1)),
        n=len(rows),
    )


def regression_row(
    source: ArrayLike,
    target: ArrayLike,
    labels: ArrayLike,
    transferability: float | None = None,
    *,
    method: str = "frechet",
) -> dict[str, object]:
    """Build a row for `transferability_regression`: G, D, N and T.

    It also has the method of G and what D and N were computed from.

    source, target   (n, …), (m, …) features of one layer on images of the source's data and of the
                     target's
    labels           (m,) of the target's rows; one row an image, or N counts crops
    """
    gap, spread = domain_gap(source, target, method), intra_class_variance(target, labels)
    return {
        "G": gap.gap,
        "D": spread.variance,
        "N": spread.n,
        "T": transferability,
        "gap": method,
        "classes": len(spread.classes) + len(spread.left_out),
        "source_rows": gap.n_x,
        "width": gap.width,
    }


# ---------------------------------------------------------------- arithmetic


def _blocks(x: np.ndarray) -> Iterator[np.ndarray]:
    step = max(1, BLOCK // x.shape[1])
    for start in range(0, len(x), step):
        yield np.asarray(x[start : start + step], np.float64)


def _mean(x: np.ndarray) -> np.ndarray:
    return sum((block.sum(axis=0) for block in _blocks(x)), np.zeros(x.shape[1])) / len(x)


def _centred(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (mean (d,), a (≤ d or n, d)) with aᵀa the covariance of x.

    a has the centred rows, or the R of their QR, block by block.
    """
    mean, width, a = _mean(x), x.shape[1], np.zeros((0, x.shape[1]))
    for start in range(0, len(x), step := 4 * max(width, 1024)):
        a = np.concatenate([a, *(block - mean for block in _blocks(x[start : start + step]))])
        a = np.asarray(np.linalg.qr(a, mode="r")) if len(a) > width else a
    return mean, a / np.sqrt(len(x) - 1)


def _kernel_sum(x: np.ndarray, y: np.ndarray, sigma: float) -> float:
    """Sum e^(−‖a − b‖² / (2σ²)) over all pairs.

    Rows are centred first so that little cancels.
    """
    mean, total, step = _mean(y), 0.0, max(1, min(int(np.sqrt(BLOCK)), BLOCK // x.shape[1]))
    for i in range(0, len(x), step):
        a = (x[i : i + step] - mean) / sigma
        for j in range(0, len(y), step):
            b = (y[j : j + step] - mean) / sigma
            squares = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1) - 2 * (a @ b.T)
            total += float(np.exp(-np.maximum(squares, 0) / 2).sum())
    return total


def _wasserstein(x: np.ndarray, y: np.ndarray, p: int) -> np.ndarray:
    """Integrate |F⁻¹ − G⁻¹|^p over the quantiles, by column: x (n, c), y (m, c) → (c,) float64.

    Between two of the levels i/n and j/m, in units of 1/(n·m) so that they are whole numbers, both
    are constant.
    """
    n, m = len(x), len(y)
    levels = np.unique(
        np.concatenate([np.arange(n, dtype=np.int64) * m, np.arange(m, dtype=np.int64) * n])
    )
    widths = np.diff(levels, append=n * m) / (n * m)
    x, y = (np.sort(np.asarray(v, np.float64), axis=0) for v in (x, y))
    result: np.ndarray = widths @ np.abs(x[levels // m] - y[levels // n]) ** p
    return result


def _projected(x: np.ndarray, u: np.ndarray) -> np.ndarray:
    return np.concatenate([block @ u for block in _blocks(x)])


def _directions(width: int, seed: int, first: int, count: int) -> np.ndarray:
    """Return columns first…first+count−1 of the random unit vectors, (width, count).

    Each is from a random stream of its own.
    """
    streams = [
        np.random.PCG64(np.random.SeedSequence([seed, i])) for i in range(first, first + count)
    ]
    normal = ndtri(
        ((np.stack([s.random_raw(width) for s in streams], axis=1) >> np.uint64(12)) + 0.5)
        / 2.0**52
    )
    result: np.ndarray = normal / np.sqrt(np.square(normal).sum(axis=0))
    return result


def _variance(x: np.ndarray, rows: np.ndarray) -> float:
    """Compute the mean over features of the variance of rows about their mean, in float64."""
    step = max(1, BLOCK // x.shape[1])  # rows that are float64 at a time
    parts = [rows[i : i + step] for i in range(0, len(rows), step)]
    mean = sum(
        (x[part].sum(axis=0, dtype=np.float64) for part in parts), np.zeros(x.shape[1])
    ) / len(rows)
    result: float = (
        sum(float(np.square(x[part] - mean).sum()) for part in parts) / (len(rows) - 1) / x.shape[1]
    )
    return result
