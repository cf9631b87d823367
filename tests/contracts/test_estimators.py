"""Every estimator of ours by scikit-learn's own checks, so that its tools (clone, pipelines,
searches) take it.
"""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC
from sklearn.utils.estimator_checks import check_estimator

from tlx.features import estimators

ESTIMATORS = {
    "knn": estimators.KnnClassifier(),
    "knn-distance": estimators.KnnClassifier(3, "distance"),
    "knn-cosine": estimators.CosineKnnClassifier(k=1),
    "ncm": estimators.NearestMeanClassifier(),
    "ncm-cosine": estimators.NearestMeanClassifier("cosine"),
    "svc": estimators.KernelSvc(),
    "logistic": estimators.NewtonLogistic(),
    "ridge-loo": estimators.LeaveOneOutRidge((0.1, 1.0)),
    "lda-shrunk": estimators.ShrunkLda(),
    "encoded": estimators.Encoded(LogisticRegression()),
}
EXPECTED: dict[str, dict[str, str]] = {}  # estimator → check → why it may fail: none does
BASES = {"ScoredClassifier", "Decisive", "Neighbours", "LinearDecision"}


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks_pass_but_for_those_that_are_stated(name):
    done = check_estimator(
        ESTIMATORS[name], expected_failed_checks=EXPECTED.get(name), on_fail=None, on_skip=None
    )
    failed = {
        row["check_name"]: str(row["exception"])[:200] for row in done if row["status"] == "failed"
    }
    assert not failed
    stated = {row["check_name"] for row in done if row["status"] == "xfail"}
    assert stated == set(EXPECTED.get(name, {})), "what passes by now needs no excuse"
    assert sum(row["status"] == "passed" for row in done) > 40


def test_every_estimator_stands_in_the_list():
    kinds = [
        kind
        for kind in vars(estimators).values()
        if isinstance(kind, type) and issubclass(kind, BaseEstimator)
    ]
    ours = {kind.__name__ for kind in kinds if kind.__module__ == estimators.__name__}
    assert ours - BASES == {type(one).__name__ for one in ESTIMATORS.values()}


@pytest.mark.parametrize(
    "name", [name for name, one in ESTIMATORS.items() if hasattr(one, "decision_function")]
)
def test_of_two_classes_the_decision_is_one_number_a_row(name):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((40, 5)), np.arange(40) % 2
    model = ESTIMATORS[name].fit(X + y[:, None], y)
    found = model.decision_function(X)
    assert found.shape == (40,)
    np.testing.assert_array_equal(model.predict(X), model.classes_[(found > 0).astype(int)])


def test_the_machine_counts_its_iterations_as_scikit_learns_does():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((40, 5)), np.arange(40) % 3
    ours, theirs = estimators.KernelSvc().fit(X, y), SVC().fit(X, y)
    np.testing.assert_array_equal(ours.n_iter_, theirs.n_iter_)
