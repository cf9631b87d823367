"""Multinomial logistic regression by Newton's method, each step solved by conjugate gradients.

The loss is Σ log-loss + ‖W‖² / (2C), the intercept free: that of scikit-learn's LogisticRegression,
whose minimum is unique. Newton's steps come to it in some ten evaluations, where L-BFGS needs
hundreds. A step is solved in float32, which is enough for a direction; loss, slope and the point
itself are float64, so that the end is as exact.

Where there are no more than twice as many rows as columns, steps are mixes of training rows, W =
Xᵀ·A, and one product with X·Xᵀ does for two with X (representer theorem; Schölkopf, Herbrich &
Smola 2001, A generalized representer theorem, COLT, LNAI 2111).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

EPS = float(np.finfo(np.float64).eps)
FORCING = 0.5  # largest residual of a step, relative to the slope it starts from
STEPS_OF_CG = 500  # at most for one step of Newton's
SUFFICIENT = 1e-4  # of the decrease that the slope promises (Armijo)
SHORTEST = 1e-10  # of a step that is tried
SAFE = (1e-12, 1e12)  # magnitudes of rows whose squares float32 holds with room


@dataclass(frozen=True)
class Solution:
    """Minimum of the loss: weights (d, q) and intercept (q,), q = 1 of two classes.

    steps      of Newton's method
    slope      largest of the mean loss at the end
    converged  False where the steps ran out before the slope was below the tolerance
    """

    weights: np.ndarray
    intercept: np.ndarray
    steps: int
    slope: float
    converged: bool


def minimise(X: np.ndarray, labels: np.ndarray, C: float, tol: float, max_iter: int) -> Solution:
    """Return the minimum of Σ log-loss + ‖W‖² / (2C).

    X         (n, d) float64, finite
    labels    (n,) of 0…k−1, each of them there; k ≥ 2
    tol       largest slope of the mean loss at which it ends; it also ends where no step lowers
              the loss in its last digits
    max_iter  steps of Newton's method at most
    """
    loss = _Loss(X, labels, C)
    precision: Any = np.float32 if _fits_float32(X) else np.float64
    at = loss.at(*loss.start())
    steps, converged = 0, at.slope <= tol
    solver = _Steps(loss, precision)
    while not converged and steps < max_iter:
        step = solver.solve(at, tol)
        following = _search(loss, at, step)
        steps += 1
        is_stuck = following is None or (
            following.slope > at.slope / 2 and at.value - following.value <= 64 * EPS * at.value
        )
        if following is not None and not (is_stuck and following.slope > at.slope):
            at = following
        converged = at.slope <= tol
        if is_stuck and not converged:
            if solver.precision == np.float64:
                converged = True  # nothing is left to lower
            else:
                solver = _Steps(loss, np.float64)
    intercept = at.intercept - at.intercept.mean() if loss.classes > 2 else at.intercept
    return Solution(at.weights, intercept, steps, at.slope, converged)


def _fits_float32(X: np.ndarray) -> bool:
    largest = float(np.abs(X).max(initial=0.0))
    return largest == 0.0 or SAFE[0] < largest < SAFE[1]


@dataclass(frozen=True)
class _Point:
    """Weights with what the loss is there.

    mix            (n, q): weights = Xᵀ·mix, where steps are mixes of rows; else (0, q)
    values         (n, q): X·weights + intercept
    probabilities  (n, q)
    residuals      (n, q): slope of Σ log-loss with the values
    gradient       (d, q), of the loss with the weights
    slope          largest of the mean loss
    """

    mix: np.ndarray
    weights: np.ndarray
    intercept: np.ndarray
    values: np.ndarray
    value: float
    probabilities: np.ndarray
    residuals: np.ndarray
    gradient: np.ndarray
    slope: float


class _Loss:
    """Loss of rows and labels: C · Σ log-loss + ‖W‖² / 2."""

    def __init__(self, X: np.ndarray, labels: np.ndarray, C: float):
        self.X, self.C, self.labels = X, C, labels
        self.classes = int(labels.max()) + 1
        hot = np.eye(self.classes)[labels]
        self.targets = hot[:, 1:] if self.classes == 2 else hot
        self.is_mixed = len(X) <= 2 * X.shape[1]  # steps are mixes of rows

    def start(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mix (or weights) and intercept to start from: zeros."""
        length = len(self.X) if self.is_mixed else self.X.shape[1]
        width = self.targets.shape[1]
        return np.zeros((length, width)), np.zeros(width)

    def at(self, element: np.ndarray, intercept: np.ndarray) -> _Point:
        """Return the point of a mix (or weights) and an intercept."""
        weights = self.X.T @ element if self.is_mixed else element
        values = self.X @ weights + intercept
        return self.of_values(element, weights, intercept, values)

    def of_values(
        self, element: np.ndarray, weights: np.ndarray, intercept: np.ndarray, values: np.ndarray
    ) -> _Point:
        """Return the point whose values are known."""
        log_loss, probabilities = self.likelihood(values)
        residuals = probabilities - self.targets
        gradient = self.C * (self.X.T @ residuals) + weights
        steepest = max(
            np.abs(gradient).max(initial=0.0), self.C * np.abs(residuals.sum(axis=0)).max()
        )
        return _Point(
            element,
            weights,
            intercept,
            values,
            self.C * log_loss + 0.5 * float(np.einsum("ij,ij->", weights, weights)),
            probabilities,
            residuals,
            gradient,
            float(steepest) / (self.C * len(values)),
        )

    def likelihood(self, values: np.ndarray) -> tuple[float, np.ndarray]:
        """Return Σ log-loss, and the probabilities (n, q) of the classes, of two of the second."""
        full = np.pad(values, [(0, 0), (1, 0)]) if self.classes == 2 else values
        largest = full.max(axis=1, keepdims=True)
        odds = np.exp(full - largest)
        total = odds.sum(axis=1, keepdims=True)
        chosen = full[np.arange(len(full)), self.labels]
        log_loss = float((np.log(total[:, 0]) + (largest[:, 0] - chosen)).sum())
        probabilities = odds / total
        return log_loss, probabilities[:, 1:] if self.classes == 2 else probabilities


@dataclass(frozen=True)
class _Step:
    """Direction: change of mix (or weights) and of the intercept."""

    element: np.ndarray
    intercept: np.ndarray


def _search(loss: _Loss, at: _Point, step: _Step) -> _Point | None:
    """Return the first point along a step, halved again and again, that lowers the loss enough.

    None where there is none. Values are linear along it: a shorter step costs no product.
    """
    weights = loss.X.T @ step.element if loss.is_mixed else step.element
    values = loss.X @ weights + step.intercept
    promised = float(np.einsum("ij,ij->", at.gradient, weights)) + loss.C * float(
        at.residuals.sum(axis=0) @ step.intercept
    )
    if not promised < 0:
        return None
    length = 1.0
    while length > SHORTEST:
        new_weights = at.weights + length * weights
        new_values = at.values + length * values
        log_loss, _ = loss.likelihood(new_values)
        value = loss.C * log_loss + 0.5 * float(np.einsum("ij,ij->", new_weights, new_weights))
        if value <= at.value + SUFFICIENT * length * promised + 8 * EPS * at.value:
            return loss.of_values(
                at.mix + length * step.element,
                new_weights,
                at.intercept + length * step.intercept,
                new_values,
            )
        length /= 2
    return None


class _Steps:
    """Newton's steps by conjugate gradients in one precision."""

    def __init__(self, loss: _Loss, precision: Any):
        self.loss, self.precision = loss, precision
        rows = loss.X.astype(precision, copy=False)
        self._rows = rows
        self._products = rows @ rows.T if loss.is_mixed else None
        square = float(np.einsum("ij,ij->", loss.X, loss.X)) / max(1, len(loss.X))
        self._scale = precision(np.sqrt(max(square, 1e-30)))  # of the column of ones: as a feature

    def _values(self, element: np.ndarray) -> np.ndarray:
        """Return the values of a mix of rows, or of weights: (n, q)."""
        result: np.ndarray = (
            self._rows @ element if self._products is None else self._products @ element
        )
        return result

    def _pull(self, values: np.ndarray) -> np.ndarray:
        """Return Xᵀ·values as a mix of rows, or as weights."""
        result: np.ndarray = values if self._products is not None else self._rows.T @ values
        return result

    def _dot(self, a: np.ndarray, b: np.ndarray, values_b: np.ndarray) -> float:
        """Return the inner product of the weights of a and of b."""
        other = b if self._products is None else values_b
        return float(np.einsum("ij,ij->", a, other))

    def solve(self, at: _Point, tol: float) -> _Step:
        """Return the step from a point, as exact as its slope makes worthwhile."""
        loss, scale = self.loss, self._scale
        weighed = loss.C * at.residuals + at.mix if loss.is_mixed else at.gradient
        left = (-weighed).astype(self.precision)
        ones_left = (-loss.C * at.residuals.sum(axis=0)).astype(self.precision) * scale
        probabilities = at.probabilities.astype(self.precision)
        strength = self.precision(loss.C)
        element, ones = np.zeros_like(left), np.zeros_like(ones_left)
        values = self._values(left)
        square = self._dot(left, left, values) + float(ones_left @ ones_left)
        way, way_values, way_ones = left.copy(), values, ones_left.copy()
        enough = square * self._residual(at.slope, tol) ** 2
        for _ in range(STEPS_OF_CG):
            curved = (way_values + scale * way_ones) * probabilities
            curved -= probabilities * curved.sum(axis=1, keepdims=True)
            curved *= strength
            bent, bent_ones = self._pull(curved) + way, scale * curved.sum(axis=0)
            curvature = self._dot(bent, way, way_values) + float(bent_ones @ way_ones)
            if not curvature > 0 or not np.isfinite(curvature):
                break
            length = self.precision(square / curvature)
            element += length * way
            ones += length * way_ones
            left -= length * bent
            ones_left -= length * bent_ones
            values = self._values(left)
            before, square = square, self._dot(left, left, values) + float(ones_left @ ones_left)
            if square <= enough:
                break
            turn = self.precision(square / before)
            way = left + turn * way
            way_values = values + turn * way_values
            way_ones = ones_left + turn * way_ones
        return _Step(element.astype(np.float64), scale * ones.astype(np.float64))

    def _residual(self, slope: float, tol: float) -> float:
        """Return the residual at which a step is exact enough: smaller near the minimum.

        Of the last step no more is asked than the tolerance.
        """
        return max(min(FORCING, float(np.sqrt(slope))), 0.3 * tol / slope)
