"""Comparison of two methods on the same splits and images: which is better, and how sure that is.

Both are run with the same draws of training images and scored on the same test images. Their
difference is estimated over new draws and new images (`crossed`), for every number of shots
together: the spread of the true differences over shots keeps a chance difference from being
believed (`p_wrong`).

    contrasts = [Contrast.of_predictions(a, b, truth, shots=k, pool=40) for k, a, b in runs]
    for verdict in analyse(contrasts):
        verdict.mean, verdict.p_wrong, verdict.verdict
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from ..errors import BadDataError, UsageError
from . import arrays, crossed

DECIDED, EQUIVALENT, UNDECIDED, ONE_DRAW = "decided", "equivalent", "undecided", "one draw"
ALPHA = 0.05
MARGIN = 0.01
PRIOR_SPREAD = 0.03  # of true differences over shots, in accuracy; counts as PRIOR_WEIGHT shots
PRIOR_WEIGHT = 3
MOST_SPLITS = 1000  # that `settles` looks at
EXACT_FLIPS = 12  # splits up to which all sign flips are counted
RANDOM_FLIPS = 20_000


@dataclass(frozen=True, eq=False)
class Contrast:
    """Difference of two methods at one number of shots.

    parts    the mean difference and its parts of variance
    shots    training images per class
    pool     training images per class that draws come from, of the smallest class
    images   test images; 0 where only scores of splits are known
    dropped  pairs that were left out because a method failed or diverged
    """

    parts: crossed.Components
    shots: int
    pool: int
    images: int = 0
    dropped: int = 0

    @classmethod
    def of_differences(
        cls, differences: ArrayLike, classes: ArrayLike, *, shots: int, pool: int, dropped: int = 0
    ) -> Contrast:
        """Return the contrast of a table of differences.

        differences  (m, n) one row a split, one column a test image: 1 where only the first method
                     is right, −1 where only the second is, else 0
        classes      (n,) class of each image
        """
        table = arrays.matrix(differences, where="differences", least=1)
        if not np.isin(table, (-1, 0, 1)).all():
            bad = table[~np.isin(table, (-1, 0, 1))][0]
            raise BadDataError(
                "not-a-difference", f"{bad}", where="differences", expected="−1, 0 or 1"
            )
        parts = crossed.components(table, classes, shots=shots, pool=pool)
        return cls(parts, shots, pool, table.shape[1], dropped)

    @classmethod
    def of_predictions(
        cls,
        first: ArrayLike,
        second: ArrayLike,
        truth: ArrayLike,
        *,
        shots: int,
        pool: int,
        dropped: int = 0,
    ) -> Contrast:
        """Return the contrast of two methods by their predicted classes.

        first, second  (m, n) predicted class of each test image, one row a split
        truth          (n,) class of each image
        """
        left, right, labels = np.asarray(first), np.asarray(second), np.asarray(truth)
        if left.shape != right.shape or left.ndim != 2 or left.shape[1:] != labels.shape:
            raise BadDataError(
                "unpaired",
                f"predictions of shapes {left.shape} and {right.shape} for {labels.shape} images",
                expected="(splits, images) of both methods, the same splits and images",
            )
        table = (left == labels).astype(np.int8) - (right == labels).astype(np.int8)
        return cls.of_differences(table, labels, shots=shots, pool=pool, dropped=dropped)

    @classmethod
    def of_scores(
        cls, first: ArrayLike, second: ArrayLike, *, shots: int, pool: int, dropped: int = 0
    ) -> Contrast:
        """Return the contrast of two methods by the score of each split.

        Its interval does not cover other test images: use it where predictions were not kept.

        first, second  (m,) scores
        """
        left, right = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
        if left.shape != right.shape:
            raise BadDataError(
                "unpaired",
                f"{left.shape} and {right.shape} scores",
                expected="one of both methods for each split",
            )
        parts = crossed.components_of_scores(left - right, shots=shots, pool=pool)
        return cls(parts, shots, pool, 0, dropped)


@dataclass(frozen=True)
class Settles:
    """What would make an open question decided, if difference and variances stay.

    splits  smallest number of splits; None if no number up to 1,000 is enough
    images  number of test images with which many splits would be enough; None if it is not images
            that are missing
    pool    whether the splits overlap too much for any number of them: only more labelled training
            images help
    """

    splits: int | None = None
    images: int | None = None
    pool: bool = False


@dataclass(frozen=True)
class Verdict:
    """Answer at one number of shots. Differences are fractions, first method minus second.

    shots, splits, images   how many; images is 0 where only scores were known
    mean, se, df, low, high   the difference, its standard error, degrees of freedom, 95 % interval
    split_var       variance over splits, drawn towards that of other shots; None for one split
    df_of_splits    its degrees of freedom
    image_var, residual_var   variance due to images, and due to split × image
    pool_share      expected share of training images that two splits have in common
    p_wrong         probability that the true difference has the other sign; None for one split
    regret          expected loss of choosing by the sign; None for one split
    tost_p          p-value of |difference| < margin, two one-sided tests; None for one split
    verdict         decided, equivalent, undecided, or one draw
    holm            p_wrong adjusted for the number of shots compared; None for one split
    settles         what would decide it
    dropped         pairs left out
    lone_classes    classes with one test image, left out of the variance due to images
    """

    shots: int
    splits: int
    images: int
    mean: float
    se: float
    df: float
    low: float
    high: float
    split_var: float | None
    df_of_splits: float
    image_var: float
    residual_var: float
    pool_share: float
    p_wrong: float | None
    regret: float | None
    tost_p: float | None
    verdict: str
    holm: float | None
    settles: Settles
    dropped: int = 0
    lone_classes: int = 0


def analyse(
    contrasts: Sequence[Contrast], *, alpha: float = ALPHA, margin: float = MARGIN
) -> list[Verdict]:
    """Return a verdict for each number of shots of one comparison, in increasing order.

    alpha   largest probability of being wrong that still counts as decided
    margin  largest difference that counts as none
    raises  UsageError: the same shots twice, alpha or margin out of range
    """
    _check(contrasts, alpha, margin)
    ordered = sorted(contrasts, key=lambda contrast: contrast.shots)
    known = crossed.priors({contrast.shots: contrast.parts for contrast in ordered})
    priors = [known[contrast.shots] for contrast in ordered]
    estimates = [
        crossed.estimate(contrast.parts, prior=prior)
        for contrast, prior in zip(ordered, priors, strict=True)
    ]
    spread = _spread(ordered, estimates)
    verdicts = [
        _verdict(contrast, estimate, prior, spread, alpha, margin)
        for contrast, estimate, prior in zip(ordered, estimates, priors, strict=True)
    ]
    return _with_holm(verdicts)


def _check(contrasts: Sequence[Contrast], alpha: float, margin: float) -> None:
    shots = [contrast.shots for contrast in contrasts]
    if len(set(shots)) < len(shots):
        raise UsageError("shots-twice", f"{sorted(shots)}", expected="each number of shots once")
    if not 0.0 < alpha < 0.5:
        raise UsageError("alpha", f"{alpha}", expected="above 0 and below 0.5")
    if not 0.0 < margin < 1.0:
        raise UsageError("margin", f"{margin}", expected="above 0 and below 1")


def _spread(contrasts: Sequence[Contrast], estimates: Sequence[crossed.Estimate | None]) -> float:
    """Return τ², the variance of true differences over shots, with a prior of 3 points."""
    squares = [
        estimate.mean**2 - estimate.se**2
        for contrast, estimate in zip(contrasts, estimates, strict=True)
        if estimate is not None and contrast.parts.splits > 1
    ]
    variance = max(0.0, float(np.mean(squares))) if squares else 0.0
    prior = PRIOR_WEIGHT * PRIOR_SPREAD**2
    return (len(squares) * variance + prior) / (len(squares) + PRIOR_WEIGHT)


def _verdict(
    contrast: Contrast,
    estimate: crossed.Estimate | None,
    prior: tuple[float, float],
    spread: float,
    alpha: float,
    margin: float,
) -> Verdict:
    parts = contrast.parts
    known = estimate or crossed.Estimate(parts.mean, math.nan, math.nan, math.nan, math.nan)
    base = Verdict(
        shots=contrast.shots,
        splits=parts.splits,
        images=contrast.images,
        mean=known.mean,
        se=known.se,
        df=known.df,
        low=known.low,
        high=known.high,
        split_var=None,
        df_of_splits=0.0,
        image_var=parts.image_var,
        residual_var=parts.residual_var,
        pool_share=parts.overlap,
        p_wrong=None,
        regret=None,
        tost_p=None,
        verdict=ONE_DRAW,
        holm=None,
        settles=Settles(),
        dropped=contrast.dropped,
        lone_classes=parts.lone_classes,
    )
    if parts.split_var is None:
        return base
    p_wrong = wrong_sign(known.mean, known.se, known.df, spread)
    p_margin = tost(known.mean, known.se, known.df, margin)
    verdict = UNDECIDED
    if p_wrong <= alpha:
        verdict = DECIDED
    elif p_margin <= alpha:
        verdict = EQUIVALENT
    split_var, df_of_splits = crossed.moderated(parts.split_var, parts.splits, prior)
    return replace(
        base,
        split_var=split_var,
        df_of_splits=df_of_splits,
        p_wrong=p_wrong,
        regret=expected_regret(known.mean, known.se, known.df),
        tost_p=p_margin,
        verdict=verdict,
        settles=Settles() if verdict == DECIDED else settles(contrast, prior, spread, alpha),
    )


# ---------------------------------------------------------------- probabilities


def wrong_sign(mean: float, se: float, df: float, spread: float) -> float:
    """Return the probability that the true difference has the other sign than the estimate.

    spread  τ², variance of true differences: the estimate is drawn towards 0 by τ²/(τ² + SE²)
    """
    if mean == 0.0:
        return 0.5
    if se == 0.0:
        return 0.0
    shrunk = spread / (spread + se**2)
    return crossed.t_cdf(-abs(mean) * math.sqrt(shrunk) / se, df)


def expected_regret(mean: float, se: float, df: float) -> float:
    """Return the loss, on average, of choosing by the sign of the estimated difference.

    Infinite for 1.05 degrees of freedom or fewer, where the mean of a t tail is not usable.
    """
    if se == 0.0:
        return 0.0
    if df <= 1.05:
        return math.inf
    z = abs(mean) / se
    tail = 1.0 if math.isinf(df) else (df + z**2) / (df - 1.0)
    return max(0.0, se * (crossed.t_density(z, df) * tail - z * crossed.t_cdf(-z, df)))


def tost(mean: float, se: float, df: float, margin: float) -> float:
    """Return the p-value of two one-sided tests of |difference| < margin."""
    if se == 0.0:
        return 0.0 if abs(mean) < margin else 1.0
    return crossed.t_cdf((abs(mean) - margin) / se, df)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted by Holm's method, in the given order, at most 1."""
    order = np.argsort(p_values, kind="stable")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _with_holm(verdicts: list[Verdict]) -> list[Verdict]:
    known = [number for number, verdict in enumerate(verdicts) if verdict.p_wrong is not None]
    adjusted = holm([float(verdicts[number].p_wrong or 0.0) for number in known])
    marked = list(verdicts)
    for number, p_value in zip(known, adjusted, strict=True):
        marked[number] = replace(verdicts[number], holm=p_value)
    return marked


def sign_flips(differences: ArrayLike, *, seed: int = 0) -> float:
    """Return the two-sided p-value of sign flips of the splits' differences.

    Exact up to 12 splits, else from 20,000 random flips. It is conditional on the test images.

    differences  (m,) difference of scores of each split
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) <= EXACT_FLIPS:
        codes = np.arange(2 ** len(values))[:, None] >> np.arange(len(values)) & 1
        return float(_share_as_extreme(values, 1.0 - 2.0 * codes))
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), (RANDOM_FLIPS, len(values)))
    return float(_share_as_extreme(values, np.vstack([np.ones(len(values)), signs])))


def _share_as_extreme(values: np.ndarray, signs: np.ndarray) -> float:
    sums = np.abs(signs @ values)
    least = abs(values.sum())
    return float((sums >= least * (1.0 - 1e-12)).mean())


def wilcoxon(differences: ArrayLike) -> float:
    """Return the two-sided p-value of Wilcoxon's signed-rank test; 1 if all differences are 0.

    differences  (m,) difference of scores of each split
    """
    values = np.asarray(differences, dtype=np.float64)
    if not values.any():
        return 1.0
    return float(stats.wilcoxon(values).pvalue)


# ---------------------------------------------------------------- what would settle it


def settles(contrast: Contrast, prior: tuple[float, float], spread: float, alpha: float) -> Settles:
    """Return what would bring the probability of being wrong down to alpha.

    The difference, the variance over splits and the variance due to images stay as they are.
    """
    parts = contrast.parts
    if parts.split_var is None or parts.mean == 0.0:
        return Settles()
    split_var, _ = crossed.moderated(parts.split_var, parts.splits, prior)

    def wrong_with(splits: int) -> float:
        return wrong_sign(parts.mean, *_error_with(parts, split_var, prior, splits), spread)

    if wrong_with(MOST_SPLITS) <= alpha:
        low, high = parts.splits, MOST_SPLITS
        while high - low > 1:  # wrong_with falls with splits
            middle = (low + high) // 2
            low, high = (low, middle) if wrong_with(middle) <= alpha else (middle, high)
        return Settles(splits=high)
    needed = _needed_variance(parts.mean, spread, alpha)
    of_pool = split_var * parts.overlap / (1.0 - parts.overlap)
    left_for_images = needed - of_pool
    if left_for_images <= 0.0:
        return Settles(pool=True)
    if parts.image_var > left_for_images:
        images = math.ceil(contrast.images * parts.image_var / left_for_images)
        return Settles(images=images, pool=of_pool > parts.image_var)
    return Settles()


def _error_with(
    parts: crossed.Components, split_var: float, prior: tuple[float, float], splits: int
) -> tuple[float, float]:
    """Return the standard error and degrees of freedom with another number of splits."""
    split_df = prior[1] + splits - 1
    return crossed.standard_error(
        split_var, split_df, parts.image_var, parts.image_df, splits, parts.overlap
    )


def _needed_variance(mean: float, spread: float, alpha: float) -> float:
    """Return the squared standard error at which p_wrong is alpha, with many degrees of freedom.

    The root of Δ² τ² = z² SE² (τ² + SE²).
    """
    z2 = float(stats.norm.ppf(1.0 - alpha)) ** 2
    return (math.sqrt(spread**2 + 4.0 * mean**2 * spread / z2) - spread) / 2.0
