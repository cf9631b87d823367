"""Classifiers beside their slow twins and scikit-learn's own; names, and what is said of a solver
that did not end.
"""

from __future__ import annotations

import sys

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import svm
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import KNeighborsClassifier

from tlx.errors import BadDataError, ErrorGroup, ResourceError, UnknownNameError, UsageError
from tlx.features import estimators
from tlx.features.classifiers import (
    CLASSIFIERS,
    CosineKnn,
    Knn,
    Lda,
    LinearSVC,
    XGBoost,
    classifier,
)
from tlx.features.estimators import KernelSvc, nearest
from tlx.features.fitting import fit, problems
from tlx.spec import parse_spec


def rows(n=40, d=9, seed=0, classes=4):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % classes)
    return rng.standard_normal((n, d)) + 0.7 * np.random.default_rng(7).standard_normal(
        (classes, d)
    )[y], y


@pytest.mark.parametrize("k", [1, 3, 5, 40])
def test_neighbours_vote_as_the_slow_twin_counts(k):
    (x, y), (test, _) = rows(), rows(seed=1)
    want = [naive.neighbours_vote(x, y.tolist(), row, k) for row in test]
    assert fit(Knn(k=k), x, y).predict(test).tolist() == want


@pytest.mark.parametrize("k", [1, 3, 7])
@pytest.mark.parametrize("weights", ["uniform", "distance"])
@pytest.mark.parametrize("offset", [0.0, 1e7])
def test_neighbours_vote_as_in_scikit_learn(k, weights, offset):
    (x, y), (test, _) = rows(n=60), rows(seed=1)
    test[:5] = x[:5]  # at distance 0
    theirs = KNeighborsClassifier(n_neighbors=k, weights=weights).fit(x, y)
    got = fit(Knn(k=k, weights=weights), x + offset, y).scores(test + offset)
    np.testing.assert_allclose(got, theirs.predict_proba(test), atol=1e-9 if offset == 0 else 1e-5)


def test_a_distance_of_rounding_alone_is_zero():
    """Known products of equal rows may differ in their last digits; such a row outvotes all others
    nevertheless.
    """
    squares = np.array([3.0, 3.0, 5.0])
    known = estimators.KnnClassifier(k=3, weights="distance", precomputed=True)
    known.fit(np.column_stack([np.zeros((3, 3)), squares]), np.array([0, 1, 2]))
    asked = np.array([[3 * (1 - 4e-16), 3 * (1 + 4e-16), 1.0, 3.0]])
    np.testing.assert_array_equal(known.scores(asked), [[0.5, 0.5, 0.0]])


@pytest.mark.parametrize("k", [1, 2, 5, 9])
def test_of_rows_equally_far_the_first_vote_whatever_the_dtype(k):
    rng = np.random.default_rng(3)
    x, test = (
        rng.integers(-1, 2, (50, 7)).astype(np.int8),
        rng.integers(-1, 2, (80, 7)).astype(np.int8),
    )
    y = rng.integers(0, 4, 50)
    want = [naive.neighbours_vote(x.astype(int), y.tolist(), row, k) for row in test.astype(int)]
    for dtype in (np.int8, np.float16, np.float64):
        assert fit(Knn(k=k), x.astype(dtype), y).predict(test.astype(dtype)).tolist() == want


@pytest.mark.parametrize("k", [1, 10, 40])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_cosine_votes_as_the_slow_twin_counts(k, temperature):
    (x, y), (test, _) = rows(), rows(seed=1)
    got = fit(CosineKnn(k=k, temperature=temperature), x, y).scores(test)
    for row, scores in zip(test, got, strict=True):
        want = naive.cosine_votes(x, y.tolist(), row, k, temperature)
        np.testing.assert_allclose(scores, [want[c] for c in range(4)], atol=1e-12)


def test_cosine_of_a_row_of_zeros_and_of_huge_rows():
    x = np.array([[1e200, 0], [0, 1e-200], [0.0, 0.0]])
    fitted = fit(CosineKnn(k=1), x, np.array([0, 1, 2]))
    assert fitted.predict(np.array([[3e-200, 0], [0, 5.0]])).tolist() == [0, 1]
    assert np.isfinite(fitted.scores(np.zeros((1, 2)))).all()


@given(
    hnp.arrays(
        np.float64,
        st.tuples(st.integers(1, 5), st.integers(1, 9)),
        elements=st.integers(0, 3).map(float),
    ),
    st.data(),
)
@settings(deadline=None, max_examples=80)
def test_of_equally_near_rows_the_first_vote(closeness, data):
    k = data.draw(st.integers(1, closeness.shape[1]))
    got = nearest(closeness, k)
    assert (got.sum(axis=1) == k).all()
    for row, chosen in zip(closeness, got, strict=True):
        order = sorted(range(len(row)), key=lambda i: (-row[i], i))[:k]
        assert np.flatnonzero(chosen).tolist() == sorted(order)


def test_nearest_mean_as_the_slow_twin_finds_it():
    (x, y), (test, _) = rows(n=41), rows(seed=1)
    for shift in (0, 1e8):  # a mean far away costs no digits
        want = [naive.nearest_mean(x, y.tolist(), row) for row in test]
        assert fit(classifier("ncm"), x + shift, y).predict(test + shift).tolist() == want


def test_nearest_mean_by_angle_does_not_see_lengths():
    (x, y), (test, _) = rows(), rows(seed=1)
    lengths = np.random.default_rng(3).uniform(0.01, 100, (40, 1))
    spec = classifier("ncm:metric=cosine")
    np.testing.assert_allclose(
        fit(spec, x * lengths, y).scores(test / lengths), fit(spec, x, y).scores(test)
    )


@pytest.mark.parametrize("alpha", [1e-6, 1.0, 1e3])
@pytest.mark.parametrize("classes", [2, 4])
def test_ridge_as_the_normal_equations_say(alpha, classes):
    (x, y), (test, _) = rows(classes=classes), rows(seed=1)
    weights, intercept = naive.ridge(x, 2 * np.eye(classes)[y] - 1, alpha)
    got = fit(classifier(f"ridge:alpha={alpha}"), x, y).scores(test)
    np.testing.assert_allclose(got, test @ weights + intercept, atol=1e-8)


@pytest.mark.parametrize("kernel", ["rbf", "linear", "poly"])
@pytest.mark.parametrize("gamma", ["scale", 0.03])
@pytest.mark.parametrize("classes", [2, 5])
def test_the_kernel_machine_is_scikit_learns(kernel, gamma, classes):
    (x, y), (test, _) = rows(n=60, classes=classes), rows(n=50, seed=1)
    own = KernelSvc(C=2.0, kernel=kernel, gamma=gamma, tol=1e-9).fit(x, y)
    theirs = svm.SVC(C=2.0, kernel=kernel, gamma=gamma, tol=1e-9).fit(x, y)
    np.testing.assert_allclose(
        own.machine_.decision_function(own._kernel(test, x)),
        theirs.decision_function(test),
        atol=1e-7,
    )
    np.testing.assert_array_equal(own.predict(test), theirs.predict(test))


def test_the_kernel_machine_breaks_ties_as_scikit_learn_does():
    """Three classes, each beating one other: SVC takes the first, though another's confidence is
    larger.
    """
    rng = np.random.default_rng(0)
    found = 0
    for seed in range(60):
        x, y = rows(n=9, d=2, seed=seed, classes=3)
        test = rng.standard_normal((200, 2)) * 2
        theirs = svm.SVC(kernel="linear").fit(x, y)
        want = theirs.predict(test)
        found += (want != theirs.decision_function(test).argmax(axis=1)).sum()
        np.testing.assert_array_equal(
            fit(classifier("svc:kernel=linear"), x, y).predict(test), want
        )
    assert found > 0  # or this would have tested nothing


@pytest.mark.parametrize("shrinkage", [0.01, 0.5, 1.0])
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("d", [5, 60])
def test_shrunk_discriminants_are_scikit_learns(shrinkage, classes, d):
    (x, y), (test, _) = rows(n=41, d=d, classes=classes), rows(n=30, d=d, seed=1)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(x, y)
    scores = fit(Lda(shrinkage=shrinkage), x, y).scores(test)
    assert scores.shape == (30, classes)
    posterior = np.exp(scores - scores.max(axis=1, keepdims=True))
    posterior /= posterior.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(posterior, theirs.predict_proba(test), atol=1e-9)


@pytest.mark.parametrize("asked", ["lda", "lda:shrinkage=0.2", "lda:shrinkage=1"])
def test_discriminants_need_spread_within_classes(asked):
    x, y = rows(n=4)
    with pytest.raises(
        BadDataError, match=r"no-spread\] 1 shot, split 0.*4 training rows of 4 classes"
    ):
        fit(classifier(asked), x, y, where="1 shot, split 0")
    with pytest.raises(BadDataError, match="no-spread"):
        fit(classifier(asked), np.repeat(x, 10, axis=0), np.repeat(y, 10))


@pytest.mark.parametrize("name", ["knn", "knn-cosine"])
def test_more_neighbours_than_rows_are_refused_with_numbers(name):
    x, y = rows(n=8)
    message = r"too-few-neighbours\] 2 shots, split 4: 9 neighbours asked of 8 training rows"
    with pytest.raises(BadDataError, match=message) as e:
        fit(classifier(f"{name}:k=9"), x, y, where="2 shots, split 4")
    assert e.value.exit_code == 3
    fit(classifier(f"{name}:k=8"), x, y)


def test_everything_wrong_is_said_at_once():
    x, _ = rows(n=8)
    found = problems(Knn(k=9), x, np.zeros(8, int))
    assert [error.code for error in found] == ["one-class", "too-few-neighbours"]
    with pytest.raises(ErrorGroup):
        fit(Knn(k=9), x, np.zeros(8, int))


@pytest.mark.parametrize(
    "asked", ["linear-svc:max_iter=1,C=1000", "logistic:max_iter=1", "sgd:max_iter=1"]
)
def test_a_solver_that_did_not_end_is_recorded(asked):
    x, y = rows()
    fitted = fit(classifier(asked), x * 30, y)
    assert fitted.converged is False
    assert any("ConvergenceWarning" in note for note in fitted.notes)
    assert np.isfinite(fitted.scores(x)).all()


def test_other_warnings_are_notes_too():
    x, y = rows()
    fitted = fit(Lda(), np.hstack([x, x]), y)
    if fitted.notes:
        assert "collinear" in fitted.notes[0]
    assert fitted.converged


def test_gradient_boosting_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "xgboost", None)
    with pytest.raises(ResourceError, match=r"pip install 'tlx\[xgboost\]'") as e:
        fit(XGBoost(), *rows())
    assert e.value.exit_code == 5


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LinearSVC", "linear-svc"),
        ("SVC", "svc"),
        ("SGDClassifier", "sgd"),
        ("KNN", "knn:k=5"),
        ("XGBoost", "xgboost"),
        ("KNN:k=3", "knn:k=3"),
        ("LinearSVC:C=0.1,loss=hinge", "linear-svc:C=0.1,loss=hinge"),
    ],
)
def test_the_originals_spellings(old, new):
    assert classifier(old) == classifier(new)


def test_names_that_are_none():
    with pytest.raises(UnknownNameError, match="nearest: svc"):
        classifier("svcc")
    with pytest.raises(UnknownNameError, match="unknown-classifier"):
        parse_spec(CLASSIFIERS, "svcc", "classifier")
    with pytest.raises(UnknownNameError, match="nearest: loss"):
        classifier("linear-svc:los=hinge")
    with pytest.raises(UsageError, match="out-of-range"):
        classifier("linear-svc:C=0")
    assert classifier("linear-svc:C=0.1") == LinearSVC(C=0.1)
    assert classifier("sgd").tol == 5e-4


def test_pinned_keys():
    """A default never changes its meaning: these identities are written down."""
    assert LinearSVC().identity() == {"kind": "linear-svc"}
    assert classifier("svc:gamma=0.5").identity() == {"kind": "svc", "gamma": 0.5}
    assert LinearSVC(C=0.1).key == LinearSVC(C="0.10").key != LinearSVC().key
