"""Estimators that scikit-learn lacks, with its interface: rows of CLASSIFIERS.

They have get_params, clone, fit and predict. Those that measure distances read rows in blocks, so
that a matrix of test × training rows never exists as a whole.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, Protocol, Self

import numpy as np
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import SVC
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from . import logistic
from .ridge import RidgePath, mean_row


class Estimator(Protocol):
    """Classifier with scikit-learn's interface."""

    classes_: Any  # labels seen in training, sorted

    def fit(self, X: np.ndarray, y: np.ndarray) -> object:
        """Train on rows and their labels."""

    def set_params(self, **settings: object) -> object:
        """Change settings by name."""

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the class of every row."""


BLOCK_BYTES = 32 << 20  # of one block of test × training values


def _blocks(rows: int, width: int) -> Iterator[slice]:
    step = max(1, BLOCK_BYTES // (8 * max(1, width)))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def unit_rows(X: np.ndarray) -> np.ndarray:
    """Return X (r, d) with every row at Euclidean length 1, in float64, a new array.

    Rows of zeros stay.
    """
    X = np.array(X, np.float64)
    largest = np.abs(X).max(axis=1, keepdims=True, initial=0)
    np.divide(X, largest, out=X, where=largest > 0)
    length = np.sqrt(np.einsum("ij,ij->i", X, X))[:, None]
    result: np.ndarray = np.divide(X, length, out=X, where=length > 0)
    return result


def _training(estimator: Any, X: Any, y: Any, least: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return training rows, at least so many, and labels.

    Raises ValueError, in scikit-learn's words, for what is none.
    """
    X, y = validate_data(estimator, X, y, ensure_min_samples=least)
    check_classification_targets(y)
    return X, y


def _rows(estimator: object, X: object) -> np.ndarray:
    """Return rows to be scored as an array as wide as the training rows.

    Raises NotFittedError before training.
    """
    check_is_fitted(estimator, "classes_")
    result: np.ndarray = validate_data(estimator, X, reset=False)
    return result


def two_sided(scores: np.ndarray) -> np.ndarray:
    """Return scores (r, k) as scikit-learn's decision_function has them.

    Of two classes (r,), above 0 the second.
    """
    return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores


class ScoredClassifier(ClassifierMixin, BaseEstimator):
    """Classifier whose prediction is the column of the largest score; of equals, the first."""

    classes_: np.ndarray

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the class of every row, as it was spelled in training."""
        columns = self.scores(X).argmax(axis=1)
        result: np.ndarray = self.classes_[columns]
        return result

    def scores(self, X: np.ndarray) -> np.ndarray:
        """Return (r, k) float64, higher is likelier, columns as `classes_`."""
        raise NotImplementedError


class Decisive(ScoredClassifier):
    """Scored classifier whose scores are no shares of votes."""

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Return (r, k) float64, (r,) for two classes: above 0 the second is likelier."""
        return two_sided(self.scores(X))


class Neighbours(ScoredClassifier):
    """Vote of the k nearest training rows, compared by matrix products in float64.

    Of rows equally far at the last place those vote that come first in the training set; ternary
    features, whose products are exact, have such rows at every turn. `precomputed`: rows come as
    their inner products with all training rows and, in the last column, with themselves, (r, n +
    1); the votes of ternary features are then the same.
    """

    k: int
    precomputed: bool

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        """Store the rows, or their products with themselves."""
        X, y = _training(self, X, y)
        self.classes_, self._labels = np.unique(y, return_inverse=True)
        self._origin = np.zeros(1) if self.precomputed else np.array(X[0], np.float64)
        self._rows = np.empty((len(X), 0)) if self.precomputed else self._ready(X)
        self._squares = (
            X[:, -1].copy() if self.precomputed else np.einsum("ij,ij->i", self._rows, self._rows)
        )
        return self

    def scores(self, X: np.ndarray) -> np.ndarray:
        """Return each class's share of the votes: (r, k) float64, rows sum to 1."""
        X = _rows(self, X)
        votes = np.zeros((len(X), len(self.classes_)))
        one_hot = np.eye(len(self.classes_))[self._labels]
        for rows in _blocks(len(X), max(len(self._labels), X.shape[1])):
            if self.precomputed:
                products, squares = X[rows, :-1], X[rows, -1]
            else:
                batch = self._ready(X[rows])
                products, squares = batch @ self._rows.T, np.einsum("ij,ij->i", batch, batch)
            if self.k == 1:  # one neighbour has all the votes
                votes[rows] = one_hot[self._closeness(products, squares[:, None]).argmax(axis=1)]
            else:
                votes[rows] = self._weights(products, squares[:, None]) @ one_hot
        result: np.ndarray = votes / votes.sum(axis=1, keepdims=True)
        return result

    predict_proba = scores

    def training_rows(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the training rows as they are compared, what they were moved by, their classes.

        (n, d), (d,) and one-hot (n, k), float64. Raises ValueError if only products are known.
        """
        if self.precomputed:
            raise ValueError("fitted to products of rows, and no row was kept")
        return self._rows, self._moved_by(), np.eye(len(self.classes_))[self._labels]

    def _moved_by(self) -> np.ndarray:
        return self._origin

    def _ready(self, X: np.ndarray) -> np.ndarray:
        """Prepare rows for the matrix product."""
        raise NotImplementedError

    def _closeness(self, products: np.ndarray, squares: np.ndarray) -> np.ndarray:
        """Return what is largest for the nearest training row: (b, n).

        products (b, n) and squares (b, 1) are those of the rows to be scored.
        """
        raise NotImplementedError

    def _weights(self, products: np.ndarray, squares: np.ndarray) -> np.ndarray:
        """Return each training row's weight, from products and squares as for `_closeness`."""
        raise NotImplementedError


class KnnClassifier(Neighbours):
    """Neighbours by Euclidean distance, as scikit-learn's KNeighborsClassifier.

    weights "distance": votes count 1 / distance.

    A row at distance 0, to within rounding, outvotes all others.
    """

    def __init__(self, k: int = 1, weights: str = "uniform", precomputed: bool = False):
        self.k, self.weights, self.precomputed = k, weights, precomputed

    def _ready(self, X: np.ndarray) -> np.ndarray:
        return (
            X - self._origin
        )  # the first training row: no digits go to what all share, and whole numbers stay whole

    def _closeness(self, products: np.ndarray, squares: np.ndarray) -> np.ndarray:
        result: np.ndarray = products - 0.5 * self._squares
        return result

    def _weights(self, products: np.ndarray, squares: np.ndarray) -> np.ndarray:
        chosen = nearest(self._closeness(products, squares), self.k)
        if self.weights == "uniform":
            return chosen
        total = squares + self._squares
        distance = np.maximum(total - 2 * products, 0)
        distance[distance < 32 * np.finfo(float).eps * total] = 0
        np.sqrt(distance, out=distance)
        least = np.where(chosen, distance, np.inf).min(axis=1, keepdims=True)
        near = np.divide(least, distance, out=np.ones_like(distance), where=distance > 0)
        return np.where(chosen, near, 0.0)


class CosineKnnClassifier(Neighbours):
    """Neighbours by angle: each vote counts exp(cosine / temperature).

    A row of zeros has cosine 0 with all.

    Wu et al. 2018, Unsupervised feature learning via non-parametric instance discrimination,
    arXiv:1805.01978, sec. 3.4
    """

    def __init__(self, k: int = 10, temperature: float = 0.07, precomputed: bool = False):
        self.k, self.temperature, self.precomputed = k, temperature, precomputed

    def _ready(self, X: np.ndarray) -> np.ndarray:
        _, exponent = np.frexp(np.abs(X).max(axis=1, keepdims=True))
        result: np.ndarray = np.ldexp(
            np.asarray(X, np.float64), -exponent
        )  # squares must not overflow; powers of two lose nothing
        return result

    def _moved_by(self) -> np.ndarray:
        return np.zeros(self._rows.shape[1])

    def _closeness(self, products: np.ndarray, squares: np.ndarray) -> np.ndarray:
        lengths = np.sqrt(squares) * np.sqrt(self._squares)
        result: np.ndarray = np.divide(
            products, lengths, out=np.zeros_like(lengths), where=lengths > 0
        )
        return result

    def _weights(self, products: np.ndarray, squares: np.ndarray) -> np.ndarray:
        cosine = self._closeness(products, squares)
        weight = np.exp((cosine - cosine.max(axis=1, keepdims=True)) / self.temperature)
        return np.where(nearest(cosine, self.k), weight, 0.0)


def nearest(closeness: np.ndarray, k: int) -> np.ndarray:
    """Return which k columns of each row are largest; of equals the first.

    closeness (r, n) → (r, n) bool.
    """
    chosen: np.ndarray = closeness >= np.partition(closeness, -k, axis=1)[:, -k, None]
    crowded = np.flatnonzero(np.count_nonzero(chosen, axis=1) > k)  # equals at the last place
    if len(crowded):
        near = closeness[crowded]
        last = np.where(chosen[crowded], near, np.inf).min(axis=1, keepdims=True)
        nearer, equal = near > last, near == last
        room = k - nearer.sum(axis=1, keepdims=True)
        chosen[crowded] = nearer | (equal & (np.cumsum(equal, axis=1) <= room))
    return chosen


class NearestMeanClassifier(Decisive):
    """Class whose mean is nearest, by distance or ("cosine") by angle.

    By angle all rows are scaled to unit length first. `precomputed`: rows come as their products
    with all training rows and, in the last column, with themselves, as for `Neighbours`; the
    product with a mean is the mean of products.
    """

    def __init__(self, metric: str = "euclidean", precomputed: bool = False):
        self.metric, self.precomputed = metric, precomputed

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        """Average the rows of every class."""
        X, y = _training(self, X, y)
        if self.precomputed:
            return self._fit_products(X, y)
        X = unit_rows(X) if self.metric == "cosine" else np.asarray(X, np.float64)
        self.classes_ = np.unique(y)
        means = np.array([X[y == label].mean(axis=0) for label in self.classes_])
        self.sums_ = np.array([X[y == label].sum(axis=0) for label in self.classes_])
        self.counts_ = np.array([(y == label).sum() for label in self.classes_], np.float64)
        self.origin_ = np.zeros(X.shape[1]) if self.metric == "cosine" else means.mean(axis=0)
        self.means_ = unit_rows(means) if self.metric == "cosine" else means - self.origin_
        return self

    def scores(self, X: np.ndarray) -> np.ndarray:
        """Return cosine, or minus half the squared distance: (r, k) float64.

        The latter without the part that all classes share.
        """
        X = _rows(self, X)
        if self.precomputed:
            return self._scores_of_products(X)
        out = np.empty((len(X), len(self.classes_)))
        half = 0.0 if self.metric == "cosine" else 0.5 * (self.means_**2).sum(axis=1)
        for rows in _blocks(len(X), X.shape[1]):
            batch = unit_rows(X[rows]) if self.metric == "cosine" else X[rows] - self.origin_
            out[rows] = batch @ self.means_.T - half
        return out

    def _fit_products(self, X: np.ndarray, y: np.ndarray) -> Self:
        """Store the share of each training row in each sum of a class, and what they are long."""
        self.classes_, labels = np.unique(y, return_inverse=True)
        one_hot = np.eye(len(self.classes_))[labels]
        self.counts_ = one_hot.sum(axis=0)
        self.weights_ = one_hot * _reciprocal(np.sqrt(X[:, -1:])) if self._is_angle else one_hot
        between = self.weights_.T @ (X[:, :-1] @ self.weights_)
        means = between / np.outer(self.counts_, self.counts_)
        self.squares_ = means.diagonal().copy()
        self.half_ = 0.5 * (self.squares_ - means.mean())  # of the origin, the mean of the means
        return self

    def _scores_of_products(self, X: np.ndarray) -> np.ndarray:
        means = (X[:, :-1] @ self.weights_) / self.counts_  # sums are exact of whole numbers
        if self._is_angle:
            lengths = np.sqrt(X[:, -1:]) * np.sqrt(self.squares_)
            result: np.ndarray = means * _reciprocal(lengths)
        else:
            apart = means - self.half_
            result = apart - means.mean(axis=1, keepdims=True)
        return result

    @property
    def _is_angle(self) -> bool:
        return self.metric == "cosine"


def _reciprocal(values: np.ndarray) -> np.ndarray:
    """Return 1 / values; 0 of 0."""
    result: np.ndarray = np.divide(1.0, values, out=np.zeros_like(values), where=values > 0)
    return result


class KernelSvc(Decisive):
    """SVC of scikit-learn with the kernel computed by matrix products, with equal results.

    libsvm asks for one inner product at a time, which at the width of a network is nearly all of
    its time.
    """

    def __init__(
        self,
        C: float = 1.0,
        kernel: str = "rbf",
        gamma: float | str = "scale",
        tol: float = 1e-3,
        max_iter: int = -1,
        random_state: int | None = None,
    ):
        self.C, self.kernel, self.gamma, self.tol, self.max_iter = C, kernel, gamma, tol, max_iter
        self.random_state = random_state

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        """Train on the (n, n) kernel; only the support vectors are kept."""
        X, y = _training(self, X, y)
        X = np.asarray(X, np.float64)
        spread = X.var() if self.gamma == "scale" else 0.0
        if self.gamma == "scale":
            self.gamma_ = 1 / (X.shape[1] * spread) if spread else 1.0
        else:
            self.gamma_ = float(self.gamma)
        self.machine_ = SVC(
            C=self.C,
            kernel="precomputed",
            tol=self.tol,
            max_iter=self.max_iter,
            random_state=self.random_state,
        ).fit(self._kernel(X, X), y)
        self.classes_, self.n_iter_ = self.machine_.classes_, self.machine_.n_iter_
        self.support_vectors_, self._trained_on = X[self.machine_.support_], len(X)
        return self

    def scores(self, X: np.ndarray) -> np.ndarray:
        """Return (r, k) float64: votes of the pairs and their confidence.

        What SVC predicts is raised above its equals.
        """
        X = _rows(self, X)
        return np.concatenate([self._scores(block) for block in self._kernel_blocks(X)])

    def pair_weights(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the weight of each support vector in each pair of classes, and the intercepts.

        (p, v) and (p,); pairs (0, 1), (0, 2), …, (1, 2), …; above 0 the first class of a pair, but
        of two classes in all the second, as `decision_function` has them.
        """
        dual, intercept = self.machine_.dual_coef_, self.machine_.intercept_
        if len(self.classes_) == 2:
            return np.asarray(dual), np.asarray(intercept)
        of_class = np.repeat(np.arange(len(self.classes_)), self.machine_.n_support_)
        pairs = [(i, j) for i in range(len(dual) + 1) for j in range(i + 1, len(dual) + 1)]
        weights = np.zeros((len(pairs), dual.shape[1]))
        for pair, (i, j) in enumerate(pairs):
            weights[pair, of_class == i] = dual[j - 1, of_class == i]
            weights[pair, of_class == j] = dual[i, of_class == j]
        return weights, np.asarray(intercept)

    def _scores(self, kernel: np.ndarray) -> np.ndarray:
        decision = self.machine_.decision_function(kernel)
        if decision.ndim == 1:
            return np.stack([-decision, decision], axis=1)
        chosen = np.searchsorted(self.classes_, self.machine_.predict(kernel))
        rows = np.flatnonzero(
            decision.argmax(axis=1) != chosen
        )  # of classes with as many votes SVC takes the first
        decision[rows, chosen[rows]] = np.nextafter(decision[rows].max(axis=1), np.inf)
        result: np.ndarray = decision
        return result

    def _kernel_blocks(self, X: np.ndarray) -> Iterator[np.ndarray]:
        for rows in _blocks(len(X), max(self._trained_on, X.shape[1])):
            block = np.zeros((rows.stop - rows.start, self._trained_on))
            block[:, self.machine_.support_] = self._kernel(
                np.asarray(X[rows], np.float64), self.support_vectors_
            )
            yield block

    def _kernel(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        products: np.ndarray = a @ b.T
        if self.kernel == "linear":
            return products
        if self.kernel == "poly":
            cubes: np.ndarray = (self.gamma_ * products) ** 3
            return cubes
        squares = np.einsum("ij,ij->i", a, a)[:, None] + np.einsum("ij,ij->i", b, b)
        result: np.ndarray = np.exp(-self.gamma_ * np.maximum(squares - 2 * products, 0))
        return result


class LinearDecision(ClassifierMixin, BaseEstimator):
    """Linear classifier that is its coef_ and intercept_; of two classes one row of them."""

    classes_: np.ndarray
    coef_: np.ndarray
    intercept_: np.ndarray

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Return (r, k) float64, (r,) for two classes: the larger the likelier."""
        scores = _rows(self, X) @ self.coef_.T + self.intercept_
        result: np.ndarray = scores[:, 0] if len(self.classes_) == 2 else scores
        return result

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the class of largest value, as it was spelled in training."""
        scores = self.decision_function(X)
        result: np.ndarray = self.classes_[
            (scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)
        ]
        return result


class LeaveOneOutRidge(LinearDecision):
    """Ridge regression to ±1 at the λ of `alphas` with the least leave-one-out error."""

    def __init__(self, alphas: tuple[float, ...] = (1.0,)):
        self.alphas = alphas

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        """Fit all λ with one factorisation and keep the best."""
        X, y = _training(self, X, y, least=2)
        path = RidgePath.of(X, y)
        self.alpha_, self.left_out_error_ = path.best(self.alphas)
        self.coef_ = path.mix(self.alpha_) @ X
        self.intercept_ = path.mean_target - self.coef_ @ mean_row(X)
        self.classes_ = path.classes
        return self


class NewtonLogistic(LinearDecision):
    """Multinomial logistic regression by Newton's method: the loss of LogisticRegression.

    C, tol and max_iter as there; the minimum is the same, and is come to in fewer evaluations.
    """

    def __init__(self, C: float = 1.0, tol: float = 1e-8, max_iter: int = 1000):
        self.C, self.tol, self.max_iter = C, tol, max_iter

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        """Minimise the loss; warns with ConvergenceWarning where the steps ran out."""
        X, y = _training(self, X, y, least=2)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"samples of at least 2 classes are needed; here is 1 class: {self.classes_[0]}"
            )
        solution = logistic.minimise(
            np.asarray(X, np.float64), labels, self.C, self.tol, self.max_iter
        )
        self.coef_, self.intercept_ = solution.weights.T.copy(), solution.intercept
        self.n_iter_ = np.array([solution.steps])
        if not solution.converged:
            warnings.warn(
                f"logistic regression stopped after {solution.steps} steps at a slope of "
                f"{solution.slope:.2g}, above tol={self.tol:g}",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return (r, k) float64, the probability of each class."""
        scores = self.decision_function(X)
        full = np.stack([np.zeros_like(scores), scores], axis=1) if scores.ndim == 1 else scores
        result: np.ndarray = softmax(full, axis=1)
        return result


class ShrunkLda(Decisive):
    """Linear discriminant analysis, the covariance shrunk towards a multiple of the identity.

    Σ = (1 − s)·S + s·tr(S)/d·I. S (d, d) is never made: its inverse is applied through the n × n
    products of the rows (Woodbury). Equal to scikit-learn's solver "lsqr" with the same shrinkage.
    """

    def __init__(self, shrinkage: float = 0.1):
        self.shrinkage = shrinkage

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        """Estimate means, shares and the pooled covariance."""
        X, y = _training(self, X, y, least=2)
        X = np.asarray(X, np.float64)
        self.classes_, labels = np.unique(y, return_inverse=True)
        means = np.array([X[labels == c].mean(axis=0) for c in range(len(self.classes_))])
        origin = X.mean(axis=0)
        within = X - means[labels]
        ridge = self.shrinkage * np.einsum("ij,ij->", within, within) / X.size
        share = (1 - self.shrinkage) / len(X)
        inner = share * (within @ within.T) + ridge * np.eye(len(X))
        away = means - origin
        self.coef_ = (away - share * np.linalg.solve(inner, within @ away.T).T @ within) / ridge
        self.intercept_ = (
            np.log(np.bincount(labels) / len(X))
            - 0.5 * np.einsum("ij,ij->i", away, self.coef_)
            - self.coef_ @ origin
        )
        return self

    def scores(self, X: np.ndarray) -> np.ndarray:
        """Return the log-posterior of every class: (r, k) float64.

        Without the part that all classes share.
        """
        result: np.ndarray = _rows(self, X) @ self.coef_.T + self.intercept_
        return result


class Encoded(ClassifierMixin, BaseEstimator):
    """Estimator that needs the labels 0…k−1, for any labels."""

    def __init__(self, estimator: object):
        self.estimator = estimator

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        """Number the labels, then fit."""
        X, y = _training(self, X, y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        self.estimator_ = clone(self.estimator).fit(X, labels)
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return (r, k) probabilities."""
        X = _rows(self, X)
        result: np.ndarray = self.estimator_.predict_proba(X)
        return result

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the class of largest probability, as it was spelled in training."""
        columns = self.predict_proba(X).argmax(axis=1)
        result: np.ndarray = self.classes_[columns]
        return result
