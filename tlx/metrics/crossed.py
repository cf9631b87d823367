"""Mean over crossed random splits and images, with its variance in parts.

A table of m splits (draws of training images) by n test images is the layout of multi-reader,
multi-case studies: both factors are random. Its variance has a part of the splits, one of the
images and a residual (Gallas, Pennello and Myers 2007, JOSA A 24, B70; Chen, Gallas and Yousef
2012, Pattern Recognition 45, 2661). Degrees of freedom are Satterthwaite's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from ..errors import BadDataError, UsageError
from . import arrays

LARGEST_OVERLAP = 0.9  # of two draws: 1/(1 − overlap) grows without bound
MODERATION_DF = 4.0  # degrees of freedom of the variance that other shots predict
FEWEST_FOR_MEAN = 2  # other shots, to predict a variance from their mean
FEWEST_FOR_LINE = 3  # other shots, to predict a variance from a line in log(shots)


@dataclass(frozen=True)
class Components:
    """Mean of a split × image table and the parts of its variance.

    mean          mean over splits of the mean per class
    by_split      (m,) the mean per class of each split
    split_var     S², variance over splits, residual included; None for one split
    image_var     variance of the mean due to images: V_I − V_E/m, at least 0; 0 without images
    residual_var  V_E, variance of one split's mean due to split × image
    image_df      n − classes, of the classes with two images or more; 0 without images
    lone_classes  classes with one image, which are left out of the image parts
    overlap       expected share of training images that two splits have in common
    """

    mean: float
    by_split: np.ndarray
    split_var: float | None
    image_var: float
    residual_var: float
    image_df: int
    lone_classes: int
    overlap: float

    @property
    def splits(self) -> int:
        """Return the number of splits."""
        return len(self.by_split)


@dataclass(frozen=True)
class Estimate:
    """Mean with its standard error, degrees of freedom and confidence interval.

    mean, se   the mean and its standard error
    df         Satterthwaite's degrees of freedom; may be infinite where nothing varies
    low, high  ends of the interval
    """

    mean: float
    se: float
    df: float
    low: float
    high: float


def components(
    values: ArrayLike, classes: ArrayLike, *, shots: int | None = None, pool: int | None = None
) -> Components:
    """Return the mean per class of a split × image table and its parts of variance.

    values   (m, n) one row a split, one column a test image: right (1) or wrong (0) for an
             accuracy, their difference for two methods
    classes  (n,) class of each image, str or whole numbers
    shots, pool   training images per class that a split draws, and that it draws them from (of the
             smallest class); without them splits count as independent
    raises   BadDataError: not a table of finite numbers, or not a class for each image
    """
    table = arrays.matrix(values, where="values", least=1)
    table = table.astype(np.float64)
    arrays.check_finite(table, where="values")
    _, codes = arrays.labels(classes, table.shape[1])
    order = np.argsort(codes, kind="stable")
    counts = np.bincount(codes)
    table = table[:, order]
    starts = np.concatenate(([0], counts.cumsum()[:-1]))
    class_means = np.add.reduceat(table, starts, axis=1) / counts  # (m, classes)
    by_split = class_means.mean(axis=1)
    splits, several = len(table), counts > 1
    image_means = table.mean(axis=0)
    centred = image_means - np.repeat(class_means.mean(axis=0), counts)
    residuals = table - image_means - np.repeat(class_means, counts, axis=1)
    residuals += np.repeat(class_means.mean(axis=0), counts)
    scale = np.zeros(len(counts))
    scale[several] = 1.0 / (len(counts) ** 2 * counts[several] * (counts[several] - 1.0))
    total_image = float(np.add.reduceat(centred**2, starts) @ scale)
    residual = 0.0
    if splits > 1:
        squares = np.add.reduceat((residuals**2).sum(axis=0), starts)
        residual = float(squares @ scale) / (splits - 1)
    return Components(
        mean=float(by_split.mean()),
        by_split=by_split,
        split_var=float(by_split.var(ddof=1)) if splits > 1 else None,
        image_var=max(0.0, total_image - residual / splits),
        residual_var=residual,
        image_df=int((counts[several] - 1).sum()),
        lone_classes=int((~several).sum()),
        overlap=overlap_of(shots, pool),
    )


def components_of_scores(
    by_split: ArrayLike, *, shots: int | None = None, pool: int | None = None
) -> Components:
    """Return the parts of variance where only the score of each split is known.

    Test images then count as fixed: the interval does not cover other images.

    by_split  (m,) one score a split
    """
    scores = np.asarray(by_split, dtype=np.float64)
    if scores.ndim != 1 or not len(scores) or not np.isfinite(scores).all():
        raise BadDataError(
            "not-scores",
            f"an array of shape {scores.shape}",
            where="by_split",
            expected="one finite score a split",
        )
    split_var = float(scores.var(ddof=1)) if len(scores) > 1 else None
    return Components(
        float(scores.mean()), scores, split_var, 0.0, 0.0, 0, 0, overlap_of(shots, pool)
    )


def overlap_of(shots: int | None, pool: int | None) -> float:
    """Return the expected share of training images that two splits have in common, at most 0.9.

    Splits draw `shots` of `pool` images a class without replacement. Where the mean is linear in
    the training images, two splits correlate by this share, and the variance of their mean is
    S² · (1/m + overlap/(1 − overlap)): Nadeau and Bengio (2003), with the share of this design.
    """
    if shots is None or pool is None:
        return 0.0
    if shots < 1 or pool < shots:
        raise UsageError(
            "pool-size",
            f"{shots} training images per class from {pool}",
            expected="as many images in the pool as are drawn, or more",
        )
    return min(LARGEST_OVERLAP, shots / pool)


def predicted_variance(
    shots: int, others: Sequence[tuple[int, float | None, int]]
) -> tuple[float, float]:
    """Return the split variance that other shots predict, and its degrees of freedom.

    A least-squares line through log S² + 1/(m − 1) over log shots, from three others on; the mean
    of two; (0, 0) for fewer. Smyth (2004) moderates variances of genes in this way.

    others  (shots, S², m) of each other number of shots
    """
    usable = [(k, s2, m) for k, s2, m in others if m > 1 and s2 is not None and s2 > 0]
    if len(usable) < FEWEST_FOR_MEAN:
        return 0.0, 0.0
    x = np.log([k for k, _, _ in usable])
    y = np.array([math.log(s2) + 1.0 / (m - 1) for _, s2, m in usable])
    if len(usable) < FEWEST_FOR_LINE:
        return float(np.exp(y.mean())), MODERATION_DF
    slope, intercept = np.polyfit(x - x.mean(), y, 1)
    return float(np.exp(intercept + slope * (math.log(shots) - x.mean()))), MODERATION_DF


def priors(
    parts: Mapping[int, Components], *, least: int = FEWEST_FOR_MEAN
) -> dict[int, tuple[float, float]]:
    """Return `predicted_variance` of each number of shots from the others.

    parts  shots → parts of one mean, or of one difference
    least  others that must be known; with fewer a prior is (0, 0)
    """
    known = [
        (shots, own.split_var, own.splits)
        for shots, own in parts.items()
        if own.splits > 1 and own.split_var
    ]
    others = {shots: [row for row in known if row[0] != shots] for shots in parts}
    return {
        shots: predicted_variance(shots, rows) if len(rows) >= least else (0.0, 0.0)
        for shots, rows in others.items()
    }


def moderated(split_var: float, splits: int, prior: tuple[float, float]) -> tuple[float, float]:
    """Return the split variance drawn towards its prior, and its degrees of freedom.

    prior  (S0², d0) of `predicted_variance`
    """
    prior_var, prior_df = prior
    df = prior_df + splits - 1
    return (prior_df * prior_var + (splits - 1) * split_var) / df, df


def standard_error(
    split_var: float,
    split_df: float,
    image_var: float,
    image_df: float,
    splits: int,
    overlap: float,
) -> tuple[float, float]:
    """Return the standard error of the mean over splits and images, and its degrees of freedom.

    split_var, split_df   variance over splits, moderated or not
    image_var, image_df   variance of the mean due to images
    """
    of_splits = split_var * (1.0 / splits + overlap / (1.0 - overlap))
    total = of_splits + image_var
    if total == 0.0:
        return 0.0, math.inf
    denominator = of_splits**2 / split_df
    if image_var > 0.0:
        denominator += image_var**2 / image_df
    return math.sqrt(total), total**2 / denominator


def estimate(
    parts: Components,
    *,
    prior: tuple[float, float] = (0.0, 0.0),
    level: float = 0.95,
) -> Estimate | None:
    """Return the mean with its interval over new splits and new images of the same kind.

    None for one split without images, of which nothing is known. Of one split with images the
    interval is over images only.

    prior  (S0², d0) of `predicted_variance`
    level  of the interval
    """
    if parts.split_var is None:
        if parts.image_df == 0:
            return None
        se, df = math.sqrt(parts.image_var), float(parts.image_df)
    else:
        split_var, split_df = moderated(parts.split_var, parts.splits, prior)
        se, df = standard_error(
            split_var, split_df, parts.image_var, parts.image_df, parts.splits, parts.overlap
        )
    half = t_quantile(df, 0.5 + level / 2.0) * se
    return Estimate(parts.mean, se, df, parts.mean - half, parts.mean + half)


def estimates_of_means(
    parts: Mapping[int, Components], *, level: float = 0.95
) -> dict[int, tuple[Estimate | None, float]]:
    """Return `estimate` of a mean score at each number of shots, and the df that others lend it.

    Three other numbers of shots lend their variance, by a line; fewer do not. The variance of an
    accuracy falls steeply with the shots: with the mean of two others as its prior, replays of
    recorded studies had a coverage of .82 at one shot and of 1.00 at ten.

    parts  shots → parts of the mean
    """
    prior = priors(parts, least=FEWEST_FOR_LINE)
    return {
        shots: (estimate(own, prior=prior[shots], level=level), prior[shots][1])
        for shots, own in parts.items()
    }


def t_quantile(df: float, probability: float) -> float:
    """Return the quantile of Student's t; of the normal distribution for infinite df."""
    if math.isinf(df):
        return float(special.ndtri(probability))
    return float(special.stdtrit(df, probability))


def t_cdf(x: float, df: float) -> float:
    """Return the distribution function of Student's t; of the normal for infinite df."""
    return float(special.ndtr(x) if math.isinf(df) else special.stdtr(df, x))


def t_density(x: float, df: float) -> float:
    """Return the density of Student's t; of the normal for infinite df."""
    from scipy import stats  # half a second to load, for regrets alone

    return float(stats.norm.pdf(x) if math.isinf(df) else stats.t.pdf(x, df))
