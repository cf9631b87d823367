"""Multidimensional scaling: a map whose distances approximate given dissimilarities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..errors import BadDataError, UsageError
from . import arrays
from .comparison import Similarities


@dataclass(frozen=True)
class Map:
    """Points in a few dimensions.

    points  (m, dimensions) float64, in the order of the items; their mean is 0, their axes are
    those of their spread,
            the widest first, and on each axis the farthest point has a positive coordinate
    stress  √(Σ (δ − d)² / Σ δ²) over pairs, δ asked and d in the map (Kruskal 1964): 0 where the
    map is exact
    """

    points: np.ndarray
    stress: float


def mds(dissimilarities: ArrayLike, dimensions: int = 2, *, smacof: bool = False) -> Map:
    """Compute a map by classical scaling (Torgerson 1952, doi:10.1007/BF02288916).

    With `smacof` the stress is then minimised.

    dissimilarities  (m, m) or (m(m − 1)/2,), not negative; or Similarities, of which 1 − similarity
                     is taken
    dimensions       of the map, at most m − 1
    smacof           minimise the stress: scikit-learn's SMACOF from this start,
                     without chance
    raises           BadDataError: no dissimilarities; UsageError: too many dimensions
    """
    if isinstance(dissimilarities, Similarities):
        values = dissimilarities.values
        dissimilarities = 1 - values[np.triu_indices(len(values), 1)]
    pairs, m = arrays.condensed(dissimilarities, where="dissimilarities")
    if pairs.min() < 0:
        raise BadDataError(
            "negative",
            f"a dissimilarity of {pairs.min():.6g}",
            where="dissimilarities",
            expected="none below 0",
        )
    if not 1 <= dimensions < m:
        raise UsageError(
            "out-of-range",
            f"{dimensions} dimensions for {m} items",
            where="dimensions",
            expected=f"1 to {m - 1}",
        )
    square = np.zeros((m, m))
    square[np.triu_indices(m, 1)] = pairs
    square += square.T
    centre = np.eye(m) - 1 / m
    values, axes = np.linalg.eigh(-0.5 * centre @ square**2 @ centre)
    points = _settled(
        axes[:, ::-1][:, :dimensions] * np.sqrt(np.maximum(values[::-1][:dimensions], 0))
    )
    if smacof and pairs.max() > 0:
        from sklearn.manifold import smacof as descend

        points, *_ = descend(
            square,
            n_components=dimensions,
            init=points,
            n_init=1,
            max_iter=3000,
            eps=1e-9,
            normalized_stress=False,
        )
        points = _settled(points)
    return Map(points, _stress(pairs, points))


def _settled(points: np.ndarray) -> np.ndarray:
    """Return the map centred, on its principal axes, farthest points on their positive sides."""
    points = points - points.mean(axis=0)
    points = points @ np.linalg.svd(points, full_matrices=False)[2].T
    far = points[np.abs(points).argmax(axis=0), np.arange(points.shape[1])]
    return points * np.where(far < 0, -1.0, 1.0)


def _stress(pairs: np.ndarray, points: np.ndarray) -> float:
    away = points[:, None] - points[None]
    distances = np.sqrt((away**2).sum(axis=2))[np.triu_indices(len(points), 1)]
    total = float((pairs.astype(np.float64) ** 2).sum())
    return float(np.sqrt(((distances - pairs) ** 2).sum() / total)) if total else 0.0
