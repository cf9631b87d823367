"""Measures of the outputs of one block, each with a 95 % CI over the images.

Intervals are those of the delete-d jackknife: a number is computed on parts of the rows, drawn
without replacement, and its standard error is √(m / (n − m)) times the deviation of these, m of n
being the rows of a part (Shao & Wu 1989, doi:10.1214/aos/1176347263). The unscaled deviation over
90 % of the rows would be three times too small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ... import metrics
from ...data.streams import seeded_permutation
from ...errors import BadDataError
from ...features import fitting, voting
from ...features.classifiers import Knn
from .spec import BlockMeasures

# rows; more are thinned out evenly over the classes: the intervals compare all of them, each with
# each
MOST = 2_000
NORMAL = 1.959963984540054  # 95 % of a normal distribution are within so many deviations
COLUMNS = 4096  # of a block's output, read at once

Measured = dict[str, Any]


class _Found:
    """Values collected measure by measure.

    {"values": name → {"mean", "low", "high", "n"}, "notes", "rows", "width"}.
    """

    def __init__(self, x: np.ndarray):
        self.values: dict[str, dict[str, Any]] = {}
        self.notes: list[str] = []
        self.x = x

    def add(
        self, name: str, measure: Callable[[], tuple[float, float | None, float | None]]
    ) -> None:
        """Add a measure; one that cannot be computed is left out with a note.

        Numbers that are not finite are an error.
        """
        try:
            mean, low, high = measure()
        except (
            BadDataError
        ) as error:  # anything else, a setting that is refused above all, is a fault
            if error.code == "not-finite":
                raise
            self.notes.append(f"{name}: {error.what}")
        else:
            self.values[name] = {"mean": mean, "low": low, "high": high, "n": len(self.x)}

    def plain(self) -> Measured:
        return {
            "values": self.values,
            "notes": self.notes,
            "rows": len(self.x),
            "width": self.x.shape[1],
        }


def alone(spec: BlockMeasures, x: np.ndarray, labels: Sequence[str]) -> Measured:
    """Compute the measures of one network.

    x (n, …), labels (n,); names: ss_ratio, id, rsa_contrast, cka_label, knn.

    ss_ratio      sum of squares within classes / total sum of squares
    id            TwoNN on all rows
    rsa_contrast  |mean dissimilarity within − between classes|
    cka_label     linear CKA (unbiased) to the classes, one column each
    knn           see `knn`
    """
    x, of = _rows(x, labels)
    measured, parts = _Found(x), _parts(len(x), spec)
    z = (
        coordinates(x) if np.ptp(x) > 0 else x
    )  # where all rows are alike each measure says so itself
    classes = (of[:, None] == np.unique(of)).astype(np.float32)

    def ratio() -> tuple[float, float | None, float | None]:
        whole = metrics.sum_of_squares(x, of)
        if not whole.total:
            raise BadDataError("no-structure", "all rows are alike")
        mean, *ends = _spread(
            whole.ratio, parts, len(x), lambda p: metrics.sum_of_squares(z[p], of[p]).ratio
        )
        low, high = (
            None if end is None else min(max(end, 0.0), 1.0) for end in ends
        )  # a fraction has ends
        return mean, low, high

    def dimension() -> tuple[float, float | None, float | None]:
        spread = metrics.intrinsic_dimension_resampled(
            x, spec.resamplings, spec.fraction, spec.seed
        )
        return spread.whole.dimension, *_around(
            spread.whole.dimension, spread.values, spread.rows, len(x)
        )

    def contrast() -> tuple[float, float | None, float | None]:
        rdm = metrics.rdm(x, metric=spec.rdm, condensed=False)
        return _spread(
            metrics.class_contrast(rdm, of).contrast,
            parts,
            len(x),
            lambda p: (
                metrics.class_contrast(np.ascontiguousarray(rdm[np.ix_(p, p)]), of[p]).contrast
            ),
        )

    measured.add("ss_ratio", ratio)
    measured.add("id", dimension)
    measured.add("rsa_contrast", contrast)
    measured.add(
        "cka_label",
        lambda: _spread(
            metrics.cka(x, classes), parts, len(x), lambda p: metrics.cka(z[p], classes[p])
        ),
    )
    measured.add("knn", lambda: knn(x, of, spec.k, spec.folds, spec.seed))
    return measured.plain()


def beside(spec: BlockMeasures, x: np.ndarray, y: np.ndarray, labels: Sequence[str]) -> Measured:
    """Compare a network, x (n, …), and that trained on the target, y (n, …), on the same images.

    cka_source, linear CKA (unbiased) of the block of the one with the same block of the other.
    """
    x, y = _rows(x, labels)[0], _rows(y, labels)[0]
    measured, parts = _Found(x), _parts(len(x), spec)

    def alike() -> tuple[float, float | None, float | None]:
        whole, a, b = metrics.cka(x, y), coordinates(x), coordinates(y)
        return _spread(whole, parts, len(x), lambda p: metrics.cka(a[p], b[p]))

    measured.add("cka_source", alike)
    return measured.plain()


def knn(
    x: np.ndarray, labels: np.ndarray, k: int, folds: int, seed: int
) -> tuple[float, float, float]:
    """Compute mean per-class accuracy (a fraction) of the k nearest rows' vote, with interval.

    By Euclidean distance.

    Every row is classified once, by the rows of the other folds; classes are spread evenly over the
    folds. The interval is Wilson's (1927, doi:10.1080/01621459.1927.10502953) of this share in as
    many rows.
    """
    classes, codes = np.unique(labels, return_inverse=True)
    fold, dealt = np.empty(len(x), np.int64), 0
    for code in range(len(classes)):
        members = np.flatnonzero(codes == code)
        fold[members[seeded_permutation(len(members), seed, "fold", code)]] = (
            dealt + np.arange(len(members))
        ) % folds
        dealt += len(members)
    told = np.empty(len(x), np.int64)
    for number in np.unique(fold):
        asked = fold == number
        told[asked] = fitting.fit(Knn(k=k), x[~asked], codes[~asked]).predict(x[asked])
    share = voting.mean_per_class_accuracy(voting.confusion(codes, told, len(classes)))
    n, z2 = len(x), NORMAL**2
    middle, half = (
        share + z2 / (2 * n),
        NORMAL * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)),
    )
    return share, (middle - half) / (1 + z2 / n), (middle + half) / (1 + z2 / n)


def coordinates(x: np.ndarray) -> np.ndarray:
    """Return rows (n, min(n, d)) float64 with the inner products of x (n, d) about its mean.

    What depends on these alone is the same of both, and of parts of both, and many columns become
    few.
    """
    n, d = x.shape
    if d <= n:
        centred: np.ndarray = np.asarray(x, np.float64) - x.mean(axis=0, dtype=np.float64)
        return centred
    gram = np.zeros((n, n))
    for begin in range(0, d, COLUMNS):
        columns = np.asarray(x[:, begin : begin + COLUMNS], np.float64)
        columns = columns - columns.mean(axis=0)
        gram += columns @ columns.T
    values, vectors = np.linalg.eigh(gram)
    result: np.ndarray = vectors * np.sqrt(np.maximum(values, 0))
    return result


# ---------------------------------------------------------------- pieces


def _rows(x: np.ndarray, labels: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return x as (n, d), and its labels.

    At most MOST rows, evenly spaced in the order of their classes.
    """
    x, of = x.reshape(len(x), -1), np.asarray(labels)
    if len(of) <= MOST:
        return x, of
    by_class = np.argsort(of, kind="stable")
    index = np.sort(by_class[np.linspace(0, len(of) - 1, MOST).round().astype(np.int64)])
    return np.asarray(x[index]), of[index]


def _parts(n: int, spec: BlockMeasures) -> list[np.ndarray]:
    """Return the parts of metrics.intrinsic_dimension_resampled."""
    drawn = math.floor(spec.fraction * n)
    return [
        np.sort(seeded_permutation(n, spec.seed, "resampling", i)[:drawn])
        for i in range(spec.resamplings)
    ]


def _spread(
    whole: float, parts: list[np.ndarray], n: int, measure: Callable[[np.ndarray], float]
) -> tuple[float, float | None, float | None]:
    """Return a number with its interval.

    None where a part cannot be measured (say, it lacks a class).
    """
    try:
        values = np.array([measure(part) for part in parts])
    except BadDataError:
        return float(whole), None, None
    return float(whole), *_around(whole, values, len(parts[0]), n)


def _around(whole: float, values: np.ndarray, m: int, n: int) -> tuple[float | None, float | None]:
    if m >= n:
        return None, None
    half = NORMAL * math.sqrt(m / (n - m)) * float(np.std(values))
    return float(whole) - half, float(whole) + half
