"""Fits in the span equal fits of the features; one factorisation for every λ, and rows left out as
if fitted again.
"""

from __future__ import annotations

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tlx.errors import BadDataError, ErrorGroup, ResourceError
from tlx.features import products as products_module
from tlx.features import ridge as ridge_module
from tlx.features import spans as spans_module
from tlx.features.classifiers import CLASSIFIERS, Ridge, classifier
from tlx.features.fitting import fit
from tlx.features.products import Products, combine, inner, plan
from tlx.features.ridge import RidgePath
from tlx.features.spans import Span, Training

TIGHT = [
    "linear-svc:tol=1e-9,max_iter=20000",
    "linear-svc:loss=hinge,tol=1e-9,max_iter=20000",
    "logistic:tol=1e-12",
]
LINEAR = [*TIGHT, "linear-svc", "ridge", "sgd", "sgd:loss=log_loss"]
ISOMETRIC = [
    "linear-svc",
    "linear-svc:loss=hinge",
    *LINEAR[2:],
    "svc",
    "svc:kernel=linear",
    "svc:kernel=poly",
    "svc:gamma=0.001",
    "knn:k=3",
    "knn:k=5,weights=distance",
    "knn-cosine",
    "ncm",
    "ncm:metric=cosine",
    "ridge-loo",
]


def rows(n=40, d=200, seed=0, classes=4, offset=0.0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    x = (
        rng.standard_normal((n, d))
        + 0.5 * np.random.default_rng(7).standard_normal((classes, d))[y]
        + offset
    )
    return x.astype(dtype), y


def difference(got, want):
    """Largest difference of decision values beside the largest decision value."""
    return np.abs(got - want).max() / np.abs(want).max()


# ---------------------------------------------------------------- the span itself


def check_isometry(x, test):
    span = Span.of(x)
    scale = max(1e-300, (x.astype(float) ** 2).sum(axis=1).max())
    assert np.abs(span.coordinates @ span.coordinates.T - x @ x.T).max() <= 1e-12 * scale
    assert span.coordinates.shape == (len(x), len(span.chosen))
    placed = span.project(test @ x[span.chosen].T, (test**2).sum(axis=1))
    padded = np.pad(span.coordinates, [(0, 0), (0, 1)])
    reach = np.sqrt(scale * max(1e-300, (test**2).sum(axis=1).max()))
    assert np.abs(placed @ padded.T - test @ x.T).max() <= 1e-7 * reach
    return span


def test_coordinates_keep_products_and_distances():
    (x, _), (test, _) = rows(), rows(n=15, seed=1)
    span = check_isometry(x, test)
    assert len(span.chosen) == 40
    placed = span.project(test @ x[span.chosen].T, (test**2).sum(axis=1))
    padded = np.pad(span.coordinates, [(0, 0), (0, 1)])
    want = ((test[:, None] - x) ** 2).sum(axis=2)
    np.testing.assert_allclose(((placed[:, None] - padded) ** 2).sum(axis=2), want, rtol=1e-10)
    np.testing.assert_allclose((placed**2).sum(axis=1), (test**2).sum(axis=1), rtol=1e-12)


def test_repeated_and_dependent_rows_drop_out():
    x, _ = rows(n=12)
    twice = np.vstack([x, x[::-1], x[:3] + x[3:6], 0 * x[:2]])
    span = check_isometry(twice, x * 2)
    assert len(span.chosen) == 12
    apart = rows(n=12, seed=3)[0]
    assert len(Span.of(np.vstack([x, x + 1e-6 * apart])).chosen) == 24
    assert len(Span.of(np.vstack([x, x + 1e-9 * apart])).chosen) == 12
    assert Span.of(np.zeros((5, 9))).coordinates.shape == (5, 0)


@given(
    hnp.arrays(
        np.float64,
        st.tuples(st.integers(1, 7), st.integers(1, 9)),
        elements=st.integers(-4, 4).map(float),
    )
)
@settings(deadline=None, max_examples=150)
def test_any_rows_have_a_span(x):
    span = check_isometry(x, x[::-1] * 3)
    assert len(span.chosen) == np.linalg.matrix_rank(x)
    coef = np.arange(1.0, 1 + span.coordinates.shape[1])[None]
    lifted = span.lift(coef, x)
    np.testing.assert_allclose(x @ lifted.T, span.coordinates @ coef.T, atol=1e-8)
    np.testing.assert_allclose((lifted**2).sum(), (coef**2).sum(), rtol=1e-8)


# ---------------------------------------------------------------- equal to the direct fit


@pytest.mark.parametrize("asked", LINEAR)
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_a_fit_in_the_span_is_the_direct_fit(asked, classes, offset):
    """`offset` makes the intercept matter: liblinear penalises its own, the others do not."""
    (x, y), (test, _) = rows(classes=classes, offset=offset), rows(n=25, seed=1, offset=offset)
    spec = classifier(asked)
    direct, spanned = fit(spec, x, y, seed=5), Training(x, y, seed=5).fit(spec)
    assert direct.converged == spanned.converged
    reach = (
        1e-4 if offset and "logistic" in asked else 1e-6
    )  # L-BFGS stops where the loss has no more digits to lose
    assert difference(spanned.scores(test), direct.scores(test)) <= reach
    assert difference(spanned.model.intercept_, direct.model.intercept_) <= reach or offset == 0
    assert (
        difference(np.atleast_2d(spanned.model.coef_), np.atleast_2d(direct.model.coef_)) <= reach
    )
    np.testing.assert_array_equal(spanned.predict(test), direct.predict(test))
    np.testing.assert_array_equal(
        spanned.model.predict(test), direct.predict(test)
    )  # a model one can log


@pytest.mark.parametrize("C", [1e-4, 1e-2, 1.0, 1e2])
@pytest.mark.parametrize(
    "kind", ["linear-svc:tol=1e-9,max_iter=20000", "logistic:tol=1e-12,max_iter=5000"]
)
def test_over_a_grid_of_penalties(C, kind):
    (x, y), (test, _) = rows(dtype=np.float32), rows(n=25, seed=1, dtype=np.float32)
    training = Training(x, y)
    spec = classifier(f"{kind},C={C}")
    assert difference(training.fit(spec).scores(test), fit(spec, x, y).scores(test)) <= 1e-6


@pytest.mark.parametrize(
    "case", ["repeated", "nearly repeated", "far from zero", "ternary", "zeros among them"]
)
@pytest.mark.parametrize(
    "asked", ["linear-svc:tol=1e-8,max_iter=20000", "ridge", "logistic:tol=1e-12"]
)
def test_rows_that_are_hard_to_span(case, asked):
    (x, y), (test, _) = rows(), rows(n=25, seed=1)
    if case == "repeated":
        x, y = np.repeat(x[:20], 3, axis=0), np.repeat(y[:20], 3)
    elif case == "nearly repeated":
        x, y = np.vstack([x, x + 1e-7 * rows(seed=3)[0]]), np.concatenate([y, y])
    elif case == "far from zero":
        x, test = x + 1e3, test + 1e3
    elif case == "ternary":
        x, test = np.sign(np.round(x)).astype(np.int8), np.sign(np.round(test)).astype(np.int8)
    else:
        x[[3, 9]] = 0
    spec = classifier(asked)
    direct, spanned = fit(spec, x, y), Training(x, y).fit(spec)
    if direct.converged and spanned.converged:
        assert difference(spanned.scores(test), direct.scores(test)) <= 1e-6
    else:
        assert case == "far from zero"


def test_one_basis_serves_every_classifier(monkeypatch):
    x, y = rows()
    calls = []
    monkeypatch.setattr(spans_module, "inner", lambda *a, **k: calls.append(1) or inner(*a, **k))
    training = Training(x, y)
    for asked in LINEAR:
        training.fit(classifier(asked))
    assert len(calls) == 1


def test_with_more_rows_than_features_the_fit_is_direct():
    x, y = rows(n=50, d=20)
    training = Training(x, y)
    for asked in LINEAR:
        np.testing.assert_array_equal(
            training.fit(classifier(asked)).scores(x), fit(classifier(asked), x, y).scores(x)
        )
    assert "span" not in training.__dict__


def test_a_solver_that_did_not_end_in_the_span_is_recorded_too():
    x, y = rows()
    fitted = Training(x, y).fit(classifier("linear-svc:max_iter=1"))
    assert not fitted.converged
    assert "ConvergenceWarning" in fitted.notes[0]


# ---------------------------------------------------------------- inner products known beforehand


@pytest.mark.parametrize("asked", [*ISOMETRIC, "lda:shrinkage=0.2", "lda"])
@pytest.mark.parametrize("shape", [(90, 300), (90, 25)])
@pytest.mark.parametrize("columns", [True, False])
def test_known_products_serve_any_split(asked, shape, columns):
    features, labels = rows(*shape, seed=4, dtype=np.float32, offset=0.3)
    products = Products(features, np.arange(0, 60) if columns else None)
    spec = classifier(asked)
    for seed in range(2):
        order = np.random.default_rng(seed).permutation(60)
        train, test = order[:40], np.concatenate([order[40:], np.arange(60, 90)])
        training = Training.among(products, train, labels[train], seed=3)
        direct = fit(spec, features[train], labels[train], seed=3)
        seen = training.seen(test)
        fitted = training.fit(spec)
        tolerance = (
            1e-6 if shape[1] == 300 or asked != "linear-svc" else 0.02
        )  # a primal solver at its own tolerance
        assert (
            difference(fitted.scores(seen, classes=4), direct.scores(features[test], classes=4))
            <= tolerance
        )
        np.testing.assert_array_equal(fitted.predict(seen), direct.predict(features[test]))
        logged = training.fit(spec, for_features=True)
        assert difference(logged.scores(features[test]), direct.scores(features[test])) <= tolerance


@pytest.mark.parametrize("asked", [*ISOMETRIC, "lda:shrinkage=0.2"])
def test_one_split_by_its_own_products(asked):
    (x, y), (test, _) = rows(), rows(n=25, seed=1)
    x, test = (
        np.sign(np.round(part)).astype(np.int8) for part in (x, test)
    )  # as a split's own embedding gives them
    training, seen = Training.beside(x, y, test, seed=4)
    direct = fit(classifier(asked), x, y, seed=4)
    fitted = training.fit(classifier(asked))
    assert difference(fitted.scores(seen, classes=4), direct.scores(test, classes=4)) <= 1e-6
    np.testing.assert_array_equal(fitted.predict(seen), direct.predict(test))


def test_every_isometric_row_is_tested_here():
    named = {text.partition(":")[0] for text in ISOMETRIC}
    assert named == {name for name, row in CLASSIFIERS.items() if row.isometric}
    linear = {name for name, row in CLASSIFIERS.items() if row.linear}
    assert {t.partition(":")[0] for t in [*LINEAR, "ridge-loo"]} == linear


def test_a_row_that_may_not_train_is_refused():
    features, labels = rows()
    products = Products(features, np.array([1, 2, 5, 6]))
    with pytest.raises(ValueError, match="not among the columns"):
        _ = Training.among(products, np.array([1, 2, 3]), labels[:3]).span
    with pytest.raises(ValueError, match="not among the columns"):
        _ = Training.among(products, np.array([1, 2, 39]), labels[:3]).span


def test_products_that_do_not_fit_or_are_not_finite_are_refused():
    features, _ = rows()
    with pytest.raises(
        ResourceError, match=r"40 × 40 rows need 12,800 bytes.*at most 10,000.*split by split"
    ):
        Products(features, budget_bytes=10_000)
    features[7, 3] = np.nan
    with pytest.raises(BadDataError, match="features-not-finite"):
        Products(features)


def test_the_plan_counts_what_each_way_needs():
    shared = plan((2000, 5000), 500, [(100, 1500)] * 60, distances=True)
    assert shared.at_once
    assert "billion multiplications" in shared.why
    assert not plan((20_000, 5000), 10_000, [(100, 1500)] * 5, distances=False).at_once
    tight = plan((2000, 5000), 500, [(100, 1500)] * 60, distances=True, budget_bytes=1000)
    assert not tight.at_once
    assert "over the" in tight.why


def test_blocks_of_columns_make_no_difference(monkeypatch):
    x, y = rows(dtype=np.float32)
    other = rows(n=9, seed=2, dtype=np.float32)[0]

    def answers():
        some = combine(np.eye(2, 40), x, np.arange(40))
        return inner(x), inner(x, other), some, Training(x, y).ridge([Ridge()])[0][0].scores(other)

    want = answers()
    monkeypatch.setattr(products_module, "BLOCK_BYTES", 8 * 40 * 7)
    monkeypatch.setattr(ridge_module, "BLOCK_BYTES", 8 * 200 * 7)
    for a, b in zip(answers(), want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(ridge_module.mean_row(x), x.astype(float).mean(axis=0), rtol=1e-12)


@pytest.mark.parametrize("largest", [1, 100, 127])
def test_products_of_whole_numbers_are_exact(largest):
    """int8 goes through float32 only as far as float32 holds every sum."""
    x = (
        np.random.default_rng(0)
        .integers(-largest - (largest == 127), largest + 1, (6, 4000))
        .astype(np.int8)
    )
    x[0] = x[1] = -128 if largest == 127 else largest
    want = x.astype(np.int64) @ x.astype(np.int64).T
    np.testing.assert_array_equal(inner(x), want)
    np.testing.assert_array_equal(inner(x, x[:2]), want[:, :2])
    assert (inner(x.astype(np.float64) / 3) == inner(x.astype(np.float64) / 3).T).all()


# ---------------------------------------------------------------- ridge

SHAPES = [(14, 40), (14, 14), (14, 13), (30, 6), (2, 5), (3, 1)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("alpha", [1e-6, 1e-2, 1.0, 1e4])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("way", ["rows", "products"])
def test_ridge_for_every_penalty_and_every_row_left_out(shape, alpha, classes, way):
    classes = min(classes, shape[0])
    (x, y), (test, _) = (
        rows(*shape, classes=classes, offset=0.5),
        rows(10, shape[1], seed=1, classes=classes),
    )
    targets = 2 * np.eye(classes)[y] - 1
    known = Products(np.vstack([x, test]))
    training = Training(x, y) if way == "rows" else Training.among(known, np.arange(len(x)), y)
    seen = test if way == "rows" else training.seen(np.arange(len(x), len(x) + 10))
    [(fitted, error)] = training.ridge([Ridge(alpha=alpha)])
    weights, intercept = naive.ridge(x, targets, alpha)
    np.testing.assert_allclose(
        fitted.scores(seen), test @ weights + intercept, rtol=1e-5, atol=1e-6
    )
    want = naive.ridge_left_out(x, targets, alpha, range(len(x)))
    got = training.ridge_path.left_out(alpha)
    np.testing.assert_allclose(got, want[:, 1:] if classes == 2 else want, rtol=1e-4, atol=1e-5)
    assert error == np.mean(want.argmax(axis=1) != y)
    assert fitted.classes.tolist() == list(range(classes))


@pytest.mark.parametrize("shape", [(24, 50), (24, 23), (24, 8)])
@pytest.mark.parametrize("alpha", [1e-3, 1.0, 1e3])
def test_crops_of_one_image_are_left_out_together(shape, alpha):
    x, y = rows(*shape, classes=3)
    y = np.repeat(y[:8], 3)
    x += 3 * np.repeat(rows(8, shape[1], seed=9)[0], 3, axis=0)  # rows of an image are alike
    groups = np.random.default_rng(0).permutation(np.repeat(np.arange(8), 3)) * 7
    order = np.argsort(groups, kind="stable")
    back = np.argsort(order, kind="stable")
    x, y = x[back], y[back]  # groups lie scattered
    targets = 2 * np.eye(3)[y] - 1
    want = naive.ridge_left_out(x, targets, alpha, groups)
    [(_, together)] = Training(x, y).ridge([Ridge(alpha=alpha)], groups)
    path = Training(x, y).ridge_path
    np.testing.assert_allclose(path.left_out(alpha, groups), want, rtol=1e-5, atol=1e-6)
    assert together == np.mean(want.argmax(axis=1) != y)
    alone = path.left_out(alpha, np.arange(24))
    np.testing.assert_allclose(alone, path.left_out(alpha), atol=1e-8)


def test_repeated_rows_and_far_means_in_ridge():
    x, y = rows(n=12, d=30, classes=3)
    x, y = np.repeat(x, 2, axis=0), np.repeat(y, 2)
    targets = 2 * np.eye(3)[y] - 1
    for shift, atol in ((0, 1e-8), (1e7, 1e-4)):
        path = RidgePath.of(x + shift, y)
        np.testing.assert_allclose(
            path.left_out(0.5), naive.ridge_left_out(x, targets, 0.5, range(24)), atol=atol
        )
    weights, intercept = naive.ridge(x, targets, 0.5)
    [(fitted, _)] = Training(x + 1e4, y).ridge([Ridge(alpha=0.5)])
    np.testing.assert_allclose(fitted.scores(x + 1e4), x @ weights + intercept, atol=1e-6)


@pytest.mark.parametrize("d", [6, 13])
def test_repeated_columns_in_ridge(d):
    x, y = rows(n=14, d=d, classes=3)
    x[:, -1] = x[:, 0]
    targets = 2 * np.eye(3)[y] - 1
    want = naive.ridge_left_out(x, targets, 0.5, range(14))
    np.testing.assert_allclose(RidgePath.of(x, y).left_out(0.5), want, atol=1e-8)


def test_a_grid_of_ridges_is_what_single_fits_are():
    (x, y), (test, _) = rows(dtype=np.float32), rows(n=25, seed=1)
    specs = [Ridge(alpha=a) for a in np.logspace(-6, 6, 9)]
    for spec, (fitted, _) in zip(specs, Training(x, y).ridge(specs), strict=True):
        direct = fit(spec, x, y)
        assert difference(fitted.scores(test), direct.scores(test)) <= 1e-9
        np.testing.assert_array_equal(fitted.model.predict(test), direct.model.predict(test))
        assert fitted.spec == spec


def test_what_cannot_be_fitted_is_said():
    x, y = rows()
    for call in (
        lambda: Training(x, y * 0, where="5 shots").ridge([Ridge()]),
        lambda: Training(x, y * 0, where="5 shots").fit(Ridge()),
    ):
        with pytest.raises((BadDataError, ErrorGroup), match=r"one-class\] 5 shots"):
            call()
    with pytest.raises(BadDataError, match="too-few-neighbours"):
        Training(x, y).fit(classifier("knn:k=41"))
    with pytest.raises(BadDataError, match="labels-shape"):
        Training(x, y[:-1]).fit(classifier("linear-svc"))
    with pytest.raises(BadDataError, match="labels-shape"):
        Training(x, y[:-1]).ridge([Ridge()])
    with pytest.raises(BadDataError, match="features-not-finite"):
        Training(np.full((4, 9), np.nan), y[:4]).ridge([Ridge()])
