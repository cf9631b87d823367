"""Fits in the span of the training rows: exact, and as narrow as there are rows.

A linear model with an L2 penalty ends (and with these solvers starts, and stays) at a mix of its
training rows. With an orthonormal basis Q (d, m) of their span, X = Z·Qᵀ, the weights are Q·v and
every product x·w and norm ‖w‖ is that of z and v: the model of the coordinates Z (n, m) *is* the
model of X, iteration by iteration, up to rounding. What is equal to what: rows are not centred,
because liblinear penalises the intercept as the weight of a feature that is always 1 and its answer
would move; the other intercepts are free in both fits.

The basis is a pivoted Cholesky factor of the inner products (float64): Z is its factor, the span is
given by m chosen rows (repeated rows drop out), and Q is never made. It is some 7 times as fast
as a QR of the rows, and decision values come out as near the direct fit's (1e-14).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import lapack, solve_triangular

from ..errors import raise_all
from . import fitting
from .classifiers import Classifier, Ridge, RidgeLeftOut
from .fitting import FittedClassifier, check_labels, check_rows
from .products import Products, combine, inner
from .ridge import RidgePath, mean_row


class Span:
    """Span of training rows.

    coordinates  (n, m) float64 — of the training rows; coordinates @ coordinates.T are their inner
                 products
    chosen       (m,) int64 — training rows that span them all
    gamma        1 / (d · variance of all features), what a kernel's scale is by default
    """

    def __init__(self, products: np.ndarray, width: int, gamma: float = 1.0):
        """Factorise products (n, n) float64 — X·Xᵀ; width — d.

        A row whose square outside the span of the others is below 4·√n·ε of the largest square is
        in their span: that much rounding leaves of a repeated row, and as a direction it would be
        noise.
        """
        noise = 4 * np.sqrt(len(products)) * np.finfo(float).eps * products.diagonal().max()
        factor, pivots, rank, _ = lapack.dpstrf(products, lower=1, tol=noise)
        order = pivots.astype(np.int64) - 1
        self.coordinates = np.empty((len(products), rank))
        self.coordinates[order] = np.tril(factor)[:, :rank]
        self.chosen, self.width, self.gamma = order[:rank], width, gamma
        self._lower = self.coordinates[self.chosen]

    @classmethod
    def of(cls, X: np.ndarray) -> Span:
        """Return the span of the rows of X (n, d), of any real dtype.

        X is read in blocks of columns.
        """
        return cls(inner(X), X.shape[1])

    def mix(self, coef: np.ndarray) -> np.ndarray:
        """Return the weights of the coordinates as a mix of the chosen rows: (k, m) → (k, m)."""
        result: np.ndarray = solve_triangular(
            self._lower, coef.T, lower=True, trans="T", check_finite=False
        ).T
        return result

    def lift(self, coef: np.ndarray, X: np.ndarray) -> np.ndarray:
        """Return the weights of the features, (k, d).

        From those of the coordinates (k, m) and the training rows X (n, d).
        """
        return combine(self.mix(coef), X, self.chosen)

    def project(self, between: np.ndarray, squares: np.ndarray) -> np.ndarray:
        """Return coordinates of other rows, the last being their part outside: (t, m + 1) float64.

        It is the length outside the span.

        Training rows have 0 there; so distances and angles between training and other rows are
        those of the features.

        between  (t, m) — inner products with the chosen rows
        squares  (t,) — with themselves
        """
        inside = solve_triangular(self._lower, between.T, lower=True, check_finite=False).T
        outside = np.maximum(squares - np.einsum("ij,ij->i", inside, inside), 0)
        return np.concatenate([inside, np.sqrt(outside)[:, None]], axis=1)


class Training:
    """Labelled training rows for many classifiers; shared parts are computed once, on demand.

    Training(X, y)               X (n, d) of any real dtype. Linear models are fitted in the span
    when n < d and
                                 lifted back: every Fitted reads features.
    Training.among(products, …)  The inner products of all rows of a dump are known (or, by
    `beside`, of one split).
                                 What is isometric is fitted from them, whatever n and d; no feature
                                 is read again.
    """

    def __init__(
        self,
        X: np.ndarray,
        y: np.ndarray,
        *,
        seed: int = 0,
        where: object = "",
        images: np.ndarray | None = None,
    ):
        """Store rows and labels.

        images (n,) whole numbers: rows of one number (crops of an image) are left out together,
        where rows are.
        """
        self.X, self.y, self.seed, self.where, self.images = X, np.asarray(y), seed, where, images
        self.known: Products | None = None
        self.rows = np.empty(0, np.int64)

    @classmethod
    def among(
        cls,
        products: Products,
        rows: np.ndarray,
        y: np.ndarray,
        *,
        seed: int = 0,
        where: object = "",
    ) -> Training:
        """Return training on rows, (n,) indices, of those with known inner products.

        y (n,) are their labels.
        """
        training = cls(products.features, y, seed=seed, where=where)
        training.known, training.rows = products, np.asarray(rows)
        return training

    @classmethod
    def beside(
        cls, X: np.ndarray, y: np.ndarray, test: np.ndarray, **how: Any
    ) -> tuple[Training, EvaluationRows]:
        """Return training on X (n, d), and test rows (t, d) as its classifiers read them.

        Their products are computed once for all classifiers. Worth it for two or more that measure
        distances, in an embedding with statistics of each split.
        """
        known = Products(np.concatenate([X, test]), np.arange(len(X)))
        training = cls.among(known, np.arange(len(X)), y, **how)
        return training, EvaluationRows(training, known, np.arange(len(X), len(X) + len(test)))

    @functools.cached_property
    def features(self) -> np.ndarray:
        """Return the training rows: (n, d)."""
        return self.X if self.known is None else self.X[self.rows]

    @functools.cached_property
    def span(self) -> Span:
        """Return the span of the training rows."""
        if self.known is None:
            check_rows(self.features, where=self.where)
            return Span.of(self.features)
        return Span(
            self.known.between(self.rows, self.rows), self.X.shape[1], self.known.gamma(self.rows)
        )

    def seen(self, rows: np.ndarray) -> Any:
        """Return what every classifier of this training scores.

        Rows themselves (t, d), or indices (t,) into the known products. Keep it for all
        classifiers: what they share is computed once.
        """
        return rows if self.known is None else EvaluationRows(self, self.known, np.asarray(rows))

    def fit(self, spec: Classifier, *, for_features: bool = False) -> FittedClassifier:
        """Fit the classifier on these rows.

        Raises what `fitting.fit` raises.

        for_features   it shall score features even where products are known (to be logged, or used
        elsewhere)
        """
        if isinstance(spec, RidgeLeftOut):
            return self._chosen_ridge(spec, for_features)
        if self.known is not None and spec.isometric and not for_features:
            if spec.linear:
                way = self._mixed
            else:
                way = self._in_pairs if spec.pairs else self._in_coordinates
            return way(spec)
        if spec.linear and self.features.shape[0] < self.features.shape[1]:
            return self._lifted(spec)
        return fitting.fit(spec, self.features, self.y, seed=self.seed, where=self.where)

    def ridge(
        self, specs: Sequence[Ridge], groups: np.ndarray | None = None
    ) -> list[tuple[FittedClassifier, float]]:
        """Fit ridge at each λ from one factorisation.

        Returns (the fitted classifier, its leave-one-out error as a fraction) per spec.

        groups   (n,) whole numbers: rows to be left out together, as the crops of one image should
        be
        """
        path = self.ridge_path
        return [
            (self._of_path(path, spec), path.left_out_error(spec.alpha, groups)) for spec in specs
        ]

    def _chosen_ridge(self, spec: RidgeLeftOut, for_features: bool) -> FittedClassifier:
        """Fit ridge at the λ of a grid with the least leave-one-out error."""
        raise_all(fitting.problems(spec, self.features, self.y, where=self.where))
        alpha, error = self.ridge_path.best(spec.grid, self.images)
        fitted = self.fit(Ridge(alpha=alpha), for_features=for_features)
        fitted.spec = spec
        fitted.notes = [
            f"alpha={alpha:g}: {100 * error:.1f} % of the training rows wrong when their image is "
            f"left out"
        ]
        return fitted

    @functools.cached_property
    def ridge_path(self) -> RidgePath:
        """Return ridge regression on these rows for every λ."""
        check_labels(self.y, len(self.X if self.known is None else self.rows), where=self.where)
        if self.known is None:
            check_rows(self.features, where=self.where)
            return RidgePath.of(self.features, self.y)
        return RidgePath.of_products(self.known.between(self.rows, self.rows), self.y)

    def _fit_span(self, spec: Classifier, coordinates: np.ndarray) -> FittedClassifier:
        return fitting.fit(
            spec,
            coordinates,
            self.y,
            seed=self.seed,
            where=self.where,
            settings=spec.in_span(self.span),
        )

    def _lifted(self, spec: Classifier) -> FittedClassifier:
        fitted = self._fit_span(spec, self.span.coordinates)
        return _with_weights(fitted, self.span.lift(_coef(fitted), self.features))

    def _mixed(self, spec: Classifier) -> FittedClassifier:
        fitted = self._fit_span(spec, self.span.coordinates)
        fitted.reads = "products"
        return _with_weights(fitted, self.span.mix(_coef(fitted)))

    def _in_pairs(self, spec: Classifier) -> FittedClassifier:
        assert self.known is not None
        own = EvaluationRows(self, self.known, self.rows)
        fitted = fitting.fit(
            spec, own.pairs, self.y, where=self.where, settings={"precomputed": True}
        )
        fitted.reads = "pairs"
        return fitted

    def _in_coordinates(self, spec: Classifier) -> FittedClassifier:
        padded = np.pad(
            self.span.coordinates, [(0, 0), (0, 1)]
        )  # nothing of a training row is outside the span
        fitted = self._fit_span(spec, padded)
        fitted.reads, fitted.dtype = "coordinates", "float64"
        return fitted

    def _of_path(self, path: RidgePath, spec: Ridge) -> FittedClassifier:
        fitted = fitting.fit(
            spec, np.zeros((len(self.y), 1)), self.y, where=self.where
        )  # knows the classes at least
        mix = path.mix(spec.alpha)
        if self.known is None:
            coef = combine(mix, self.features, np.arange(len(self.y)))
            fitted.model.intercept_ = path.mean_target - coef @ mean_row(self.features)
            return _with_weights(fitted, coef)
        own = self.known.between(self.rows, self.rows)
        fitted.model.intercept_ = path.mean_target - own.mean(axis=0) @ mix.T
        fitted.reads = "all_products"
        return _with_weights(fitted, mix)


@dataclass
class EvaluationRows:
    """Rows (t,) of known products, in the form of each kind of classifier, computed on demand."""

    training: Training
    known: Products
    rows: np.ndarray

    @functools.cached_property
    def features(self) -> np.ndarray:
        """Return (t, d), the rows themselves."""
        result: np.ndarray = self.known.features[self.rows]
        return result

    @functools.cached_property
    def all_products(self) -> np.ndarray:
        """Return (t, n), inner products with all training rows."""
        return self.known.between(self.rows, self.training.rows)

    @functools.cached_property
    def pairs(self) -> np.ndarray:
        """Return (t, n + 1), inner products with all training rows, then with themselves."""
        return self.known.pairs(self.rows, self.training.rows)

    @functools.cached_property
    def products(self) -> np.ndarray:
        """Return (t, m), inner products with the chosen rows."""
        return self.known.between(self.rows, self.training.rows[self.training.span.chosen])

    @functools.cached_property
    def coordinates(self) -> np.ndarray:
        """Return (t, m + 1), coordinates in the span and outside it."""
        return self.training.span.project(self.products, self.known.squares(self.rows))


def _coef(fitted: FittedClassifier) -> np.ndarray:
    """Return weights (k, m) of a linear model, (1, m) for two classes.

    Ridge alone gives the latter as (m,).
    """
    return np.atleast_2d(fitted.model.coef_)


def _with_weights(fitted: FittedClassifier, coef: np.ndarray) -> FittedClassifier:
    """Return the same model for other columns.

    scikit-learn's linear estimators are their coef_ and intercept_.
    """
    fitted.model.coef_, fitted.model.n_features_in_ = coef, coef.shape[1]
    return fitted
