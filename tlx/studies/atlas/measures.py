"""Measures of the outputs of one block, each with a 95 % CI over the images.

Intervals are those of the delete-d jackknife: a number is computed on parts of the rows, drawn
without replacement, and its standard error is √(m / (n − m)) times the deviation of these, m of n
being the rows of a part (Shao & Wu 1989, doi:10.1214/aos/1176347263). The unscaled deviation over
90 % of the rows would be three times too small.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.special import ndtri

from ... import metrics
from ...data.streams import seeded_permutation
from ...errors import BadDataError
from ...features import fitting, voting
from ...features.classifiers import Knn
from ...features.sharded import LayerArray
from ...metrics.coordinates import coordinates
from ..layer_measures import LAYER_METRICS, LayerMetric, LayerRows, MeasureSettings, thinned
from .spec import BlockMeasures

# rows; more are thinned out evenly over the classes: the intervals compare all of them, each with
# each
MOST = 2_000
CONFIDENCE = 0.95
# so many deviations from the mean of a normal distribution lie 95 % of it
NORMAL = float(ndtri((1 + CONFIDENCE) / 2))
RATIO_FRACTION = 0.9  # of the TwoNN ratios that is fitted

Measured = dict[str, Any]


Interval = tuple[float, float | None, float | None]  # number, lower and upper end


class _Collected:
    """Values collected measure by measure.

    {"values": name → {"mean", "low", "high", "n"}, "notes", "rows", "width"}.
    """

    def __init__(self, x: np.ndarray):
        self.values: dict[str, dict[str, Any]] = {}
        self.notes: list[str] = []
        self.x = x

    def add(self, name: str, measure: Callable[[], Interval]) -> None:
        """Add a measure; one that cannot be computed is left out with a note.

        Numbers that are not finite are an error.
        """
        try:
            mean, low, high = measure()
        except BadDataError as error:  # any other error, of a setting above all, is a bug
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


def alone(spec: BlockMeasures, x: LayerArray, labels: Sequence[str]) -> Measured:
    """Compute the measures of one network.

    x (n, …), labels (n,). Names: the panels of LAYER_METRICS, and knn (see `knn`).
    """
    rows, of = _rows(x, labels)
    collected, parts = _Collected(rows), _parts(len(rows), spec)
    layer = LayerRows(rows, of, measure_settings(spec))
    for metric in LAYER_METRICS.values():
        if metric.in_atlas is not None:
            measure = functools.partial(with_interval, metric, layer, parts)
            collected.add(metric.in_atlas.name, measure)
    collected.add("knn", lambda: knn(rows, of, spec.k, spec.folds, spec.seed))
    return collected.plain()


def measure_settings(spec: BlockMeasures) -> MeasureSettings:
    """Return the settings of the metrics; of TwoNN's ratios as many as usual are fitted."""
    return MeasureSettings(
        rdm=spec.rdm,
        resamplings=spec.resamplings,
        fraction=spec.fraction,
        seed=spec.seed,
        ratio_fraction=RATIO_FRACTION,
    )


def with_interval(metric: LayerMetric, layer: LayerRows, parts: list[np.ndarray]) -> Interval:
    """Compute a metric of all rows, and its interval from the parts, within the metric's bounds."""
    whole, n = float(metric.function(layer)), len(layer.few)
    if math.isnan(whole):
        raise BadDataError("no-structure", "all rows are alike")
    if metric.parts is not None:
        estimates, drawn = metric.parts(layer)
        ends = _around(whole, estimates, drawn, n)
    else:
        _, *ends_of_parts = _spread(
            whole,
            parts,
            n,
            lambda part: metric.function(layer.part(part, metric.by_inner_products)),
        )
        ends = (ends_of_parts[0], ends_of_parts[1])
    least, most = metric.bounds
    low, high = (None if end is None else min(max(end, least), most) for end in ends)
    return whole, low, high


def beside(spec: BlockMeasures, x: LayerArray, y: LayerArray, labels: Sequence[str]) -> Measured:
    """Compare a network, x (n, …), and that trained on the target, y (n, …), on the same images.

    cka_source, linear CKA (unbiased) of the block of the one with the same block of the other.
    """
    rows, others = _rows(x, labels)[0], _rows(y, labels)[0]
    collected, parts = _Collected(rows), _parts(len(rows), spec)

    def alike() -> Interval:
        whole, a, b = metrics.cka(rows, others), coordinates(rows), coordinates(others)
        return _spread(whole, parts, len(rows), lambda p: metrics.cka(a[p], b[p]))

    collected.add("cka_source", alike)
    return collected.plain()


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
    predicted = np.empty(len(x), np.int64)
    for number in np.unique(fold):
        requested = fold == number
        predicted[requested] = fitting.fit(Knn(k=k), x[~requested], codes[~requested]).predict(
            x[requested]
        )
    share = voting.mean_per_class_accuracy(voting.confusion(codes, predicted, len(classes)))
    n, z2 = len(x), NORMAL**2
    middle, half = (
        share + z2 / (2 * n),
        NORMAL * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)),
    )
    return share, (middle - half) / (1 + z2 / n), (middle + half) / (1 + z2 / n)


# ---------------------------------------------------------------- pieces


def _rows(x: LayerArray, labels: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return x as (n, d), and its labels.

    At most MOST rows, evenly spaced in the order of their classes.
    """
    flat, of = x.reshape(len(x), -1), np.asarray(labels)
    if len(of) <= MOST:
        return np.asarray(flat), of
    index = thinned(of, MOST)
    return np.asarray(flat[index]), of[index]


def _parts(n: int, spec: BlockMeasures) -> list[np.ndarray]:
    """Return the parts of metrics.intrinsic_dimension_resampled."""
    drawn = math.floor(spec.fraction * n)
    return [
        np.sort(seeded_permutation(n, spec.seed, "resampling", i)[:drawn])
        for i in range(spec.resamplings)
    ]


def _spread(
    whole: float, parts: list[np.ndarray], n: int, measure: Callable[[np.ndarray], float]
) -> Interval:
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
