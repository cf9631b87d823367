"""Distances of two tensors of one shape: the rows of NORMS.

Tensors are read piece by piece and summed in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

PIECE = 1 << 18  # numbers that are float64 at a time
# squared length between two unit vectors that is rounding: each number of them is known to some
# 1e-16
SAME = 1e-30

Norm = Callable[["Tensor", "Tensor"], float]


def l1(a: Tensor, b: Tensor) -> float:
    """Compute Σ|a − b|."""
    return math.fsum(float(np.abs(x - y).sum()) for x, y in _pieces(a, b))


def l2(a: Tensor, b: Tensor) -> float:
    """Compute √Σ(a − b)²."""
    return math.sqrt(math.fsum(_square(x - y) for x, y in _pieces(a, b)))


def mean_abs(a: Tensor, b: Tensor) -> float:
    """Compute Σ|a − b| / n, n the numbers in the tensor: the published norm."""
    return l1(a, b) / a.numel()


def rms(a: Tensor, b: Tensor) -> float:
    """Compute √(Σ(a − b)² / n)."""
    return l2(a, b) / math.sqrt(a.numel())


def cosine(a: Tensor, b: Tensor) -> float:
    """Compute 1 − cos(a, b), from 0 to 2.

    It is half the squared length between the unit vectors, so small angles are not lost.

    Scale does not matter. Zero has no direction: two zeros are at 0, a zero and anything else at 1.
    """
    return _chord_square(a, b) / 2


def chord(a: Tensor, b: Tensor) -> float:
    """Compute ‖a/‖a‖ − b/‖b‖‖, from 0 to 2: L2 between unit vectors, √(2·cosine)."""
    return math.sqrt(_chord_square(a, b))


def filter_cosine(a: Tensor, b: Tensor) -> float:
    """Compute the mean of `cosine` over the first axis, the output channels.

    A vector is one channel.

    Where batch norm follows a convolution, the scale of each filter means nothing; this does not
    see it.
    """
    a, b = (t.reshape(len(t) if t.ndim > 1 else 1, -1) for t in (a, b))
    step = max(1, PIECE // a.shape[1])
    slices = (slice(i, i + step) for i in range(0, len(a), step))
    return math.fsum(_filters(_float64(a[part]), _float64(b[part])) for part in slices) / len(a)


def relative_l1(a: Tensor, b: Tensor) -> float:
    """Compute Σ|a − b| / Σ|a|.

    Relative to the start, so that D(a, b) is not D(b, a). Infinite from zero.
    """
    return _relative(l1(a, b), math.fsum(float(np.abs(x).sum()) for x, _ in _pieces(a, a)))


def relative_l2(a: Tensor, b: Tensor) -> float:
    """Compute ‖a − b‖ / ‖a‖.

    Relative to the start, so that D(a, b) is not D(b, a). Infinite from zero.
    """
    return _relative(l2(a, b), _length(a))


NORMS: dict[str, Norm] = {
    "mean_abs": mean_abs,
    "l1": l1,
    "l2": l2,
    "rms": rms,
    "cosine": cosine,
    "chord": chord,
    "filter_cosine": filter_cosine,
    "relative_l1": relative_l1,
    "relative_l2": relative_l2,
}
SQUARED = frozenset(
    {"cosine", "filter_cosine"}
)  # of squared lengths: their roots obey the triangle inequality


def finite(t: Tensor) -> bool:
    """Return whether every number can be squared and summed.

    No NaN, no infinity, nothing beyond 1e100.
    """
    return all(bool((np.abs(x) <= 1e100).all()) for x, _ in _pieces(t, t))


def _pieces(a: Tensor, b: Tensor) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    a, b = a.reshape(-1), b.reshape(-1)
    for start in range(0, len(a), PIECE):
        yield _float64(a[start : start + PIECE]), _float64(b[start : start + PIECE])


def _float64(t: Tensor) -> np.ndarray:
    return t.detach().cpu().double().numpy()


def _square(x: np.ndarray) -> float:
    return float(np.square(x).sum())


def _length(a: Tensor) -> float:
    return math.sqrt(math.fsum(_square(x) for x, _ in _pieces(a, a)))


def _relative(distance: float, start: float) -> float:
    if start:
        return distance / start
    return math.inf if distance else 0.0


def _chord_square(a: Tensor, b: Tensor) -> float:
    first, second = _length(a), _length(b)
    if not first or not second:
        return 0.0 if first == second else 2.0
    square = math.fsum(_square(x / first - y / second) for x, y in _pieces(a, b))
    return square if square > SAME else 0.0


def _filters(x: np.ndarray, y: np.ndarray) -> float:
    """Sum over rows 1 − cos, each as in `cosine`."""
    first, second = (np.sqrt(np.square(v).sum(axis=1)) for v in (x, y))
    units = (
        v / np.where(length > 0, length, 1)[:, None] for v, length in ((x, first), (y, second))
    )
    square = np.square(np.subtract(*units)).sum(axis=1)
    square = np.where((first > 0) == (second > 0), np.where(square > SAME, square, 0), 2)
    return math.fsum(square / 2)
