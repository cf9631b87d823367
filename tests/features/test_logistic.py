"""Logistic regression by Newton's method: the minimum, whatever its shape, and no worse than
scikit-learn's solver.
"""

from __future__ import annotations

import warnings

import naive
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tlx.features import logistic
from tlx.features.estimators import NewtonLogistic


def rows(n=60, d=8, classes=3, *, noise=1.0, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    return rng.standard_normal((classes, d))[y] + noise * rng.standard_normal((n, d)), y


def loss(X, y, weights, intercept, C):
    """Σ log-loss + ‖W‖² / (2C), in float64."""
    values = X @ weights + intercept
    if values.shape[1] == 1:
        values = np.pad(values, [(0, 0), (1, 0)])
    chosen = values[np.arange(len(y)), y]
    return np.logaddexp.reduce(values, axis=1).sum() - chosen.sum() + (weights**2).sum() / (2 * C)


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize(("n", "d"), [(40, 6), (40, 25), (12, 30)])
@pytest.mark.parametrize("C", [1e-3, 1.0, 1e2])
def test_it_is_the_minimum_that_plain_newton_finds(n, d, classes, C):
    X, y = rows(n, d, classes)
    found = logistic.minimise(X, y, C, 1e-11, 100)
    weights, intercept = naive.logistic(X, y, C)
    assert found.converged
    np.testing.assert_allclose(found.weights, weights, rtol=0, atol=1e-6 * np.abs(weights).max())
    np.testing.assert_allclose(found.intercept, intercept, rtol=0, atol=1e-5)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("C", [1e-4, 1e-2, 1.0, 1e2])
@pytest.mark.parametrize("case", ["wide", "tall", "separable", "ternary", "one rare class"])
def test_its_loss_is_no_larger_than_scikit_learns_and_its_labels_are_the_same(case, C, classes):
    n, d = {"wide": (50, 300), "tall": (400, 10)}.get(case, (90, 40))
    X, y = rows(n, d, classes, noise=0.1 if case == "separable" else 2.0)
    if case == "ternary":
        X = np.sign(np.round(X))
    if case == "one rare class":
        kept = np.flatnonzero((y > 0) | (np.arange(n) == 0))
        X, y = X[kept], y[kept]
    theirs = LogisticRegression(C=C, tol=1e-8, max_iter=1000).fit(X, y)
    found = logistic.minimise(X, y, C, 1e-8, 1000)
    assert found.converged
    assert found.slope <= 1e-8
    ours = loss(X, y, found.weights, found.intercept, C)
    assert ours <= loss(X, y, theirs.coef_.T, theirs.intercept_, C) * (1 + 1e-7)
    model = NewtonLogistic(C).fit(X, y)
    test, _ = rows(200, d, classes, noise=2.0, seed=1)
    sure = np.abs(np.diff(np.sort(theirs.predict_proba(test), axis=1)[:, -2:])).ravel() > 0.05
    np.testing.assert_array_equal(model.predict(test)[sure], theirs.predict(test)[sure])
    np.testing.assert_allclose(
        model.predict_proba(test), theirs.predict_proba(test), rtol=0, atol=0.02
    )  # L-BFGS stops where the loss has no more digits to lose


@pytest.mark.parametrize("n", [20, 200])
@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1e3, 1e20])
def test_rows_of_any_magnitude(scale, n):
    """With a penalty that scales along, the values are those of rows of size 1."""
    X, y = rows(n, 30)
    plain = logistic.minimise(X, y, 1.0, 1e-10, 1000)
    scaled = logistic.minimise(X * scale, y, scale**-2, 1e-10 * min(1, scale), 1000)
    want = X @ plain.weights + plain.intercept
    np.testing.assert_allclose(
        X * scale @ scaled.weights + scaled.intercept, want, rtol=0, atol=1e-5 * np.abs(want).max()
    )


def test_rows_without_columns_or_spread_give_the_shares_of_the_classes():
    y = np.array([0, 0, 0, 1])
    for X in (np.zeros((4, 0)), np.zeros((4, 3))):
        found = logistic.minimise(X, y, 1.0, 1e-10, 100)
        assert not found.weights.any()
        np.testing.assert_allclose(found.intercept, [np.log(1 / 3)], rtol=1e-8)


def test_it_evaluates_the_loss_far_less_often_than_scikit_learns_solver():
    X, y = rows(300, 600, 10, noise=3.0)
    X = np.sign(np.round(X))
    found = logistic.minimise(X, y, 1.0, 1e-8, 1000)
    theirs = LogisticRegression(tol=1e-8, max_iter=1000).fit(X, y)
    assert found.steps < theirs.n_iter_[0] / 5


def test_a_second_precision_takes_over_where_the_first_leads_nowhere(monkeypatch):
    X, y = rows(30, 50)
    monkeypatch.setattr(np, "float32", np.float16)  # three digits, no more
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found = logistic.minimise(X, y, 1.0, 1e-12, 1000)
    assert found.converged
    assert found.slope <= 1e-10


def test_classes_keep_their_spelling_and_probabilities_their_sum():
    X, y = rows(40, 5, 3)
    model = NewtonLogistic().fit(X, np.array(["b", "a", "c"])[y])
    assert model.classes_.tolist() == ["a", "b", "c"]
    np.testing.assert_allclose(model.predict_proba(X).sum(axis=1), 1.0)
    np.testing.assert_array_equal(
        model.classes_[model.predict_proba(X).argmax(axis=1)], model.predict(X)
    )
