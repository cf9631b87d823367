"""Transferability scores: how well frozen features of a source fit labels, without any training.

A score ranks sources on one set of labelled images. Every row of SCORES is computed from the
features of training images (one row an image, crops averaged first) and their labels; LEEP and NCE
also need the class probabilities of the source's own head. None is returned, with the reason, where
a score is not defined: never 0.

    for name, value in transferability_scores(x, labels).items():
        value.score, value.reason
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from ..errors import BadDataError, UnknownNameError, counted
from ..features.ridge import RidgePath
from . import arrays
from .comparison import compare_rdms
from .rsa import rdm

LOGME_STEPS = 20
LOGME_TOLERANCE = 1e-5  # of the ratio of the two precisions
MIXTURE_COMPONENTS = 5  # a class
MIXTURE_IMAGES = 10  # a class, the fewest
MIXTURE_SEEDS = 3
MIXTURE_FLOOR = 1e-4  # added to variances
MIXTURE_VARIANCE = 0.8  # share that the principal components keep
TRANSRATE_DISTORTION = 1e-4
GBC_COMPONENTS = 64
VARIANCE_FLOOR = 1e-8  # of the mean variance
PARC_COMPONENTS = 32
PARC_IMAGES = 500
RIDGE_GRID = tuple(10.0**power for power in range(-4, 5))


@dataclass(frozen=True)
class ScoreValue:
    """Value of a score; None with the reason why it is not defined here."""

    score: float | None
    reason: str = ""


@dataclass(frozen=True)
class FeatureTable:
    """Features and labels that scores are computed from; what they share is computed once.

    rows    (n, d) float64, raw
    codes   (n,) class of each row, 0…k − 1
    counts  (k,) rows of each class
    source  (n, z) class probabilities of the source's head; None without
    seed    of what is drawn
    """

    rows: np.ndarray
    codes: np.ndarray
    counts: np.ndarray
    source: np.ndarray | None = None
    seed: int = 0

    @property
    def classes(self) -> int:
        """Return the number of classes."""
        return len(self.counts)

    @functools.cached_property
    def members(self) -> np.ndarray:
        """Return (n, k) float64, 1 where a row is of a class."""
        members: np.ndarray = np.eye(self.classes)[self.codes]
        return members

    @functools.cached_property
    def raw_svd(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the left singular vectors (n, q) and singular values (q,) of the raw rows."""
        return _left_svd(self.rows)

    @functools.cached_property
    def centred_svd(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the left singular vectors and singular values of the rows less their mean."""
        return _left_svd(self.rows - self.rows.mean(axis=0))

    def components(self, most: int) -> np.ndarray:
        """Return the rows on at most this many principal components, (n, ≤ most).

        Their signs, which PARC depends on, are those of a positive third moment.
        """
        left, values = self.centred_svd
        kept = values[:most] > values[:1].max(initial=0.0) * len(left) * np.finfo(float).eps
        coordinates: np.ndarray = left[:, :most][:, kept] * values[:most][kept]
        return coordinates * np.where((coordinates**3).sum(axis=0) < 0.0, -1.0, 1.0)


def _left_svd(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    left, values, _ = np.linalg.svd(rows, full_matrices=False)
    return left, values


def feature_table(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    source_probabilities: ArrayLike | None = None,
    seed: int = 0,
) -> FeatureTable:
    """Return validated features and labels.

    features              (n, d) one row a training image
    labels                (n,) str or whole numbers, two classes or more
    source_probabilities  (n, z) softmax of the source's head
    raises                BadDataError: not finite, one class, rows that do not sum to 1
    """
    rows = arrays.matrix(features, where="features").astype(np.float64)
    arrays.check_finite(rows, where="features")
    _, codes = arrays.labels(labels, len(rows))
    counts = np.bincount(codes)
    if len(counts) < 2:
        raise BadDataError("one-class", "one class", where="labels", expected="two classes or more")
    source = None
    if source_probabilities is not None:
        source = arrays.matrix(source_probabilities, where="source_probabilities").astype(float)
        sums = source.sum(axis=1)
        if len(source) != len(rows) or (source < 0).any() or not np.allclose(sums, 1, atol=1e-4):
            raise BadDataError(
                "not-probabilities",
                f"an array of shape {source.shape}, sums {sums.min():.3g} to {sums.max():.3g}",
                where="source_probabilities",
                expected=f"{counted(len(rows), 'row')} that sum to 1",
            )
    return FeatureTable(rows, codes, counts, source, seed)


# ---------------------------------------------------------------- from the feature distribution


def logme(table: FeatureTable) -> ScoreValue:
    """Return the mean over classes of the largest log evidence per image.

    Bayesian linear regression of "is of this class" on raw features, its two precisions by fixed
    point. You et al. 2021, arXiv:2102.11005, algorithm 1.
    """
    left, values = table.raw_svd
    squares = values**2
    n, d = table.rows.shape
    evidence = [
        log_evidence(left.T @ target, squares, float(target @ target), n, d)
        for target in table.members.T
    ]
    reason = "saturates: no more images than features" if n <= d else ""
    return ScoreValue(float(np.mean(evidence)), reason)


def log_evidence(turned: np.ndarray, squares: np.ndarray, norm: float, n: int, d: int) -> float:
    """Return the maximised log evidence per row.

    turned   (q,) the targets on the left singular vectors
    squares  (q,) squared singular values
    norm     squared length of the targets
    """
    inside = turned**2
    outside = max(0.0, norm - float(inside.sum()))
    prior = noise = 1.0  # precisions: alpha of the weights, beta of the noise
    for _ in range(LOGME_STEPS):
        ratio = prior / noise
        effective = float((squares / (squares + ratio)).sum())
        weights = float((squares * inside / (squares + ratio) ** 2).sum())
        residual = float((inside / (1.0 + squares / ratio) ** 2).sum()) + outside
        prior = effective / (weights + 1e-12)
        noise = (n - effective) / (residual + 1e-12)
        if abs(prior / noise - ratio) <= LOGME_TOLERANCE * ratio:
            break
    ratio = prior / noise
    weights = float((squares * inside / (squares + ratio) ** 2).sum())
    residual = float((inside / (1.0 + squares / ratio) ** 2).sum()) + outside
    log_determinant = float(np.log(prior + noise * squares).sum())
    log_determinant += (d - len(squares)) * math.log(prior)
    total = d * math.log(prior) + n * math.log(noise / (2.0 * math.pi)) - log_determinant
    return (total - noise * residual - prior * weights) / (2.0 * n)


def h_score(table: FeatureTable, *, shrunk: bool = True) -> ScoreValue:
    """Return the trace of the inverse feature covariance times that of the class means.

    shrunk  covariance after Ledoit and Wolf (2004), times 1 − its shrinkage: Ibrahim, Ponomareva
            and Mazumder 2022, arXiv:2110.06893. Otherwise with the pseudo-inverse: Bao et al. 2019.
    """
    left, values = table.centred_svd
    n, d = table.rows.shape
    variances = values**2 / n
    if not variances.max(initial=0.0) > 0.0:
        return ScoreValue(None, "all rows are equal")
    spread = (left.T @ table.members) / np.sqrt(table.counts) * values[:, None]  # (q, k)
    between = (spread**2).sum(axis=1) / n
    if not shrunk:
        kept = values > values.max() * max(n, d) * np.finfo(float).eps
        return ScoreValue(float((between[kept] / variances[kept]).sum()))
    shrinkage = ledoit_wolf_shrinkage(left, values, d)
    inverse = 1.0 / ((1.0 - shrinkage) * variances + shrinkage * variances.sum() / d)
    return ScoreValue(float((1.0 - shrinkage) * (between * inverse).sum()))


def ledoit_wolf_shrinkage(left: np.ndarray, values: np.ndarray, d: int) -> float:
    """Return Ledoit and Wolf's shrinkage from the SVD of centred rows, without a d × d matrix.

    left (n, q), values (q,)   left singular vectors and singular values
    """
    n = len(left)
    lengths = ((left * values) ** 2).sum(axis=1)  # squared length of each row
    variances = values**2 / n
    mean_variance = variances.sum() / d
    sum_of_squares = float((variances**2).sum())
    noise = (float((lengths**2).sum()) / n - sum_of_squares) / (d * n)
    signal = (sum_of_squares - d * mean_variance**2) / d
    if noise <= 0.0:
        return 0.0
    return min(1.0, noise / signal) if signal > 0.0 else 1.0


def transrate(table: FeatureTable) -> ScoreValue:
    """Return the coding rate of all rows less the mean coding rate of a class.

    Rows are centred and scaled to a total variance of 1, so that the unit of the features does not
    matter. Huang et al. 2022, arXiv:2106.09362.
    """
    left, values = table.centred_svd
    total = float((values**2).sum())
    if total == 0.0:
        return ScoreValue(None, "all rows are equal")
    rows = left * (values / math.sqrt(total))  # (n, q): products of rows are those of the features
    of_classes = [_coding_rate(rows[table.codes == code]) for code in range(table.classes)]
    return ScoreValue(_coding_rate(rows) - float(np.mean(of_classes)))


def _coding_rate(rows: np.ndarray) -> float:
    """Return ½ log det(I + rowsᵀ·rows / (n ε))."""
    values = np.linalg.svd(rows, compute_uv=False)
    return 0.5 * float(np.log1p(values**2 / (len(rows) * TRANSRATE_DISTORTION)).sum())


def gbc(table: FeatureTable) -> ScoreValue:
    """Return −log of the summed Gaussian Bhattacharyya coefficients of all pairs of classes.

    Gaussians have diagonal covariances, on 64 principal components. Pándy et al. 2022,
    arXiv:2111.12780; the logarithm keeps the order and does not underflow.
    """
    if table.counts.min() < 2:
        return ScoreValue(None, "a class has one image")
    rows = table.components(GBC_COMPONENTS)
    if not rows.shape[1]:
        return ScoreValue(None, "all rows are equal")
    shares = table.members / table.counts
    means = shares.T @ rows
    variances = np.stack([rows[table.codes == code].var(axis=0) for code in range(table.classes)])
    variances += VARIANCE_FLOOR * rows.var(axis=0).mean()
    first, second = np.triu_indices(table.classes, 1)
    mixed = (variances[first] + variances[second]) / 2.0
    distances = ((means[first] - means[second]) ** 2 / mixed).sum(axis=1) / 8.0
    logs = np.log(mixed) - (np.log(variances[first]) + np.log(variances[second])) / 2.0
    distances += logs.sum(axis=1) / 2.0
    return ScoreValue(-float(logsumexp(-distances) + math.log(2.0)))


def parc(table: FeatureTable) -> ScoreValue:
    """Return Spearman's correlation of the dissimilarities of features and of labels.

    1 − r of every two images on 32 principal components, and of their one-hot labels; at most 500
    images. Bolya, Mittapalli and Hoffman 2021, arXiv:2111.06977.
    """
    rows = table.components(PARC_COMPONENTS)
    if rows.shape[1] < 2:
        return ScoreValue(None, "fewer than two principal components")
    chosen = np.arange(len(rows))
    if len(rows) > PARC_IMAGES:
        order = np.random.default_rng(table.seed).permutation(len(rows))
        chosen = np.sort(order[:PARC_IMAGES])
    codes = table.codes[chosen]
    if len(np.unique(codes)) < 2 or len(np.unique(codes)) == len(codes):
        return ScoreValue(None, "no two images of one class, or one class")
    first, second = np.triu_indices(len(chosen), 1)
    of_labels = (codes[first] != codes[second]).astype(np.float64)
    of_features = rdm(rows[chosen], metric="correlation")
    return ScoreValue(float(compare_rdms(of_features, of_labels, method="spearman")))


# ---------------------------------------------------------------- from the source's head


def leep(table: FeatureTable) -> ScoreValue:
    """Return the log expected empirical prediction.

    The mean over images of log Σ_z p(label | z)·p(z | image), z the source's classes. Nguyen et al.
    2020, arXiv:2002.12462.
    """
    if table.source is None:
        return ScoreValue(None, "the source has no head of its own")
    return ScoreValue(_leep(table.source, table.members))


def _leep(source: np.ndarray, members: np.ndarray) -> float:
    joint = members.T @ source / len(source)  # (k, z)
    totals = joint.sum(axis=0)
    given = np.divide(joint, totals, out=np.zeros_like(joint), where=totals > 0)
    expected = ((source @ given.T) * members).sum(axis=1)
    return float(np.log(expected).mean())


def nce(table: FeatureTable) -> ScoreValue:
    """Return the negative conditional entropy of labels, given the source's predicted class.

    Tran, Nguyen and Hassner 2019, arXiv:1908.08142.
    """
    if table.source is None:
        return ScoreValue(None, "the source has no head of its own")
    predicted = np.eye(table.source.shape[1])[table.source.argmax(axis=1)]
    joint = table.members.T @ predicted / len(predicted)
    totals = np.broadcast_to(joint.sum(axis=0), joint.shape)
    seen = joint > 0
    return ScoreValue(float((joint[seen] * np.log(joint[seen] / totals[seen])).sum()))


def n_leep(table: FeatureTable) -> ScoreValue:
    """Return LEEP with the clusters of a Gaussian mixture in place of source classes.

    Five diagonal Gaussians a class on the components that keep 80 % of the variance; mean of three
    seeds. Li et al. 2021, arXiv:2102.07078.
    """
    if len(table.rows) < MIXTURE_IMAGES * table.classes:
        return ScoreValue(None, f"fewer than {MIXTURE_IMAGES} images a class")
    _, values = table.centred_svd
    total = float((values**2).sum())
    if total == 0.0:
        return ScoreValue(None, "all rows are equal")
    most = int(np.searchsorted(np.cumsum(values**2) / total, MIXTURE_VARIANCE)) + 1
    rows = table.components(most)
    scores = [
        _leep(_mixture(rows, MIXTURE_COMPONENTS * table.classes, table.seed + k), table.members)
        for k in range(MIXTURE_SEEDS)
    ]
    return ScoreValue(float(np.mean(scores)))


def _mixture(rows: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """Return the probability of each cluster for each row."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    mixture = GaussianMixture(
        clusters, covariance_type="diag", reg_covar=MIXTURE_FLOOR, random_state=seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # as good a clustering as any
        mixture.fit(rows)
    probabilities: np.ndarray = mixture.predict_proba(rows)
    return probabilities


# ---------------------------------------------------------------- honest baselines


def nearest_neighbour(table: FeatureTable) -> ScoreValue:
    """Return the accuracy of the nearest other image by cosine, mean over classes."""
    if table.counts.min() < 2:
        return ScoreValue(None, "a class has one image")
    lengths = np.linalg.norm(table.rows, axis=1, keepdims=True)
    unit = np.divide(table.rows, lengths, out=np.zeros_like(table.rows), where=lengths > 0)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    return ScoreValue(_class_mean(table, table.codes[cosine.argmax(axis=1)]))


def ridge(table: FeatureTable) -> ScoreValue:
    """Return the best accuracy of ridge regression with each image left out, mean over classes."""
    if table.counts.min() < 2:
        return ScoreValue(None, "a class has one image")
    path = RidgePath.of(table.rows, table.codes)
    accuracies = []
    for penalty in RIDGE_GRID:
        predicted = path.left_out(penalty)
        is_two = predicted.shape[1] == 1
        codes = (predicted[:, 0] > 0).astype(int) if is_two else predicted.argmax(axis=1)
        accuracies.append(_class_mean(table, codes))
    return ScoreValue(max(accuracies))


def _class_mean(table: FeatureTable, predicted: np.ndarray) -> float:
    is_right = predicted == table.codes
    return float((np.bincount(table.codes, is_right) / table.counts).mean())


@dataclass(frozen=True)
class ScoreRow:
    """Row of SCORES: larger is better in each."""

    compute: Callable[[FeatureTable], ScoreValue]
    title: str
    source: str


SCORES: dict[str, ScoreRow] = {
    "logme": ScoreRow(logme, "LogME", "You et al. 2021"),
    "leep": ScoreRow(leep, "LEEP", "Nguyen et al. 2020"),
    "nce": ScoreRow(nce, "NCE", "Tran et al. 2019"),
    "n-leep": ScoreRow(n_leep, "N-LEEP", "Li et al. 2021"),
    "h-score": ScoreRow(h_score, "H-score, shrunk", "Ibrahim et al. 2022"),
    "transrate": ScoreRow(transrate, "TransRate", "Huang et al. 2022"),
    "gbc": ScoreRow(gbc, "GBC (log)", "Pándy et al. 2022"),
    "parc": ScoreRow(parc, "PARC", "Bolya et al. 2021"),
    "1-nn": ScoreRow(nearest_neighbour, "1-NN, leave one out", "baseline"),
    "ridge": ScoreRow(ridge, "ridge, leave one out", "baseline"),
}


def transferability_scores(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    source_probabilities: ArrayLike | None = None,
    names: tuple[str, ...] = tuple(SCORES),
    seed: int = 0,
) -> Mapping[str, ScoreValue]:
    """Return scores of features for labels, by name; arguments as `feature_table`.

    names   rows of SCORES
    raises  UnknownNameError, BadDataError
    """
    for name in names:
        if name not in SCORES:
            raise UnknownNameError("score", asked=name, known=tuple(SCORES))
    table = feature_table(features, labels, source_probabilities=source_probabilities, seed=seed)
    return {name: SCORES[name].compute(table) for name in names}
