"""Every row of the classifiers: it forgets, keeps nothing of the caller's, reads what a dump is,
and says why not.
"""

from __future__ import annotations

import importlib.util
import pickle

import numpy as np
import pytest
from sklearn.base import clone

from tlx.errors import BadDataError, ErrorGroup
from tlx.features import fitting
from tlx.features.classifiers import CLASSIFIERS, SGD, classifier, format_classifier
from tlx.features.fitting import fit
from tlx.features.spans import Training
from tlx.spec import Spec, parse_spec

ASKED = [
    *CLASSIFIERS,
    "linear-svc:loss=hinge",
    "svc:kernel=linear",
    "svc:kernel=poly",
    "knn:k=3,weights=distance",
    "ncm:metric=cosine",
    "lda:shrinkage=0.3",
    "sgd:loss=log_loss",
]
FEW = {"knn-cosine": "knn-cosine:k=3"}  # its customary k is more than the rows here


@pytest.fixture(params=ASKED)
def spec(request):
    if request.param == "xgboost" and importlib.util.find_spec("xgboost") is None:
        pytest.skip("xgboost is not installed (the extra tlx[xgboost])")
    return classifier(FEW.get(request.param, request.param))


def clusters(n=60, d=12, classes=3, seed=0, dtype=np.float64, apart=6.0):
    """Rows of whole eighths around well separated centres, so that every dtype holds them
    exactly.
    """
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    centres = np.random.default_rng(99).standard_normal((classes, d)) * apart
    x = np.clip(np.round((centres[y] + rng.standard_normal((n, d))) * 2), -60, 60)
    return x.astype(dtype), y


def test_it_learns(spec):
    x, y = clusters()
    test, truth = clusters(seed=1)
    fitted = fit(spec, x, y, seed=1)
    assert (fitted.predict(test) == truth).mean() >= 0.95
    assert fitted.classes.tolist() == [0, 1, 2]
    assert fitted.converged
    assert fitted.notes == []


def test_where_the_largest_score_stands_there_stands_the_prediction(spec):
    x, y = clusters(apart=0.5)
    test, _ = clusters(seed=1, apart=0.5)
    for labels in (y, y % 2):
        fitted = fit(spec, x, labels)
        scores = fitted.scores(test)
        assert scores.shape == (60, len(np.unique(labels)))
        assert scores.dtype == np.float64
        assert np.isfinite(scores).all()
        np.testing.assert_array_equal(fitted.predict(test), fitted.classes[scores.argmax(axis=1)])
        np.testing.assert_array_equal(fitted.predict(test), fitted.model.predict(test))


def test_a_class_not_seen_lies_below_all_others(spec):
    x, y = clusters()
    labels = np.array([1, 4, 6])[y]
    fitted = fit(spec, x, labels)
    scores = fitted.scores(x, classes=8)
    assert scores.shape == (60, 8)
    np.testing.assert_array_equal(scores[:, [1, 4, 6]], fitted.scores(x))
    assert (scores[:, [0, 2, 3, 5, 7]].max(axis=1) < scores[:, [1, 4, 6]].min(axis=1)).all()
    np.testing.assert_array_equal(scores.argmax(axis=1), fitted.predict(x))


def test_refit_forgets(spec):
    x, y = clusters()
    other, labels = clusters(n=45, seed=5)
    model = spec.make(3)
    model.fit(np.array(other[:, ::-1], spec.dtype), labels)
    model.fit(np.array(x, spec.dtype), y)
    fresh = spec.make(3).fit(np.array(x, spec.dtype), y)
    np.testing.assert_array_equal(model.predict(other), fresh.predict(other))
    a, b = (
        fitting.FittedClassifier(spec, model, y, dtype=spec.dtype),
        fitting.FittedClassifier(spec, fresh, y, dtype=spec.dtype),
    )
    np.testing.assert_array_equal(a.scores(other), b.scores(other))


def test_rows_are_neither_changed_nor_kept(spec):
    x, y = clusters()
    for dtype in (np.float64, np.float32):
        own, labels = x.astype(dtype), y.copy()
        fitted = fit(spec, own, labels)
        np.testing.assert_array_equal(own, x)
        np.testing.assert_array_equal(labels, y)
        before = fitted.scores(x)
        own[:], labels[:] = 7, 0
        np.testing.assert_array_equal(fitted.scores(x), before)
        again = x.copy()
        fitted.scores(again)
        np.testing.assert_array_equal(again, x)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8, np.uint8])
def test_a_read_only_map_of_any_dtype(spec, dtype, tmp_path):
    x, y = clusters()
    x = np.abs(x).astype(dtype)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    want = fit(spec, x.astype(np.float64), y).scores(x.astype(np.float64))
    for training in (fit(spec, mapped, y), Training(mapped, y).fit(spec)):
        np.testing.assert_allclose(training.scores(mapped), want, rtol=1e-9, atol=1e-9)


def test_arrays_that_are_not_contiguous(spec):
    x, y = clusters(d=24)
    want = fit(spec, x[:, ::2].copy(), y).scores(x[:, ::2].copy())
    np.testing.assert_array_equal(fit(spec, x[:, ::2], y[:]).scores(x[:, ::2]), want)
    wide = np.asfortranarray(x[:, ::2])
    np.testing.assert_array_equal(fit(spec, wide, y).scores(wide), want)
    labels = np.repeat(y, 2)[::2]
    np.testing.assert_array_equal(fit(spec, x[::-1, ::2][::-1], labels).scores(wide), want)


def test_a_class_with_one_row(spec):
    x, y = clusters()
    kept = np.flatnonzero((y != 2) | (np.arange(60) == 2))
    fitted = fit(spec, x[kept], y[kept])
    assert fitted.classes.tolist() == [0, 1, 2]
    assert (fitted.predict(x)[y != 2] == y[y != 2]).mean() > 0.95


def test_labels_need_not_be_contiguous(spec):
    x, y = clusters()
    test, _ = clusters(seed=1, apart=3.0)
    names = np.array([3, 40, 1000])
    for dtype in (np.int64, np.int16, np.uint32):
        fitted = fit(spec, x, names[y].astype(dtype), seed=2)
        np.testing.assert_array_equal(
            fitted.predict(test), names[fit(spec, x, y, seed=2).predict(test)]
        )
        assert fitted.predict(test).dtype == np.int64


def test_the_same_seed_gives_the_same_answer(spec):
    x, y = clusters(apart=0.5)
    a, b = (fit(spec, x, y, seed=2**62 + 2**35 + 5).scores(x) for _ in range(2))
    np.testing.assert_array_equal(a, b)
    np.random.seed(8)  # noqa: NPY002 - the global state is none of its business
    np.testing.assert_array_equal(fit(spec, x, y, seed=2**62 + 2**35 + 5).scores(x), a)


def test_the_order_of_rows_does_not_matter(spec):
    x, y = clusters()
    test, _ = clusters(seed=1)
    order = np.random.default_rng(4).permutation(len(x))
    same = fit(spec, x[order], y[order]).predict(test) == fit(spec, x, y).predict(test)
    assert same.all() or (
        isinstance(spec, SGD) and same.mean() > 0.9
    )  # which goes through them one by one


def test_one_feature(spec):
    x, y = clusters(d=2, classes=2)
    x = np.where(y == 0, -9.0, 9.0)[:, None] + np.random.default_rng(2).standard_normal((60, 1))
    if "cosine" in format_classifier(spec):
        assert set(fit(spec, x, y).predict(x)) == {0, 1}
    if format_classifier(spec) == "svc:kernel=poly":  # of degree 3
        x /= 9
    np.testing.assert_array_equal(fit(spec, x, y).predict(x), y)


def test_wider_than_an_unsigned_short(spec):
    x = np.zeros((12, 65_537), np.float32)
    y = np.arange(12) % 2
    x[:, -1] = np.where(y == 0, -5, 5) + np.arange(12) % 3
    x[:, -2] = 1
    np.testing.assert_array_equal(fit(spec, x, y).predict(x), y)
    np.testing.assert_array_equal(Training(x, y).fit(spec).predict(x), y)


def test_blocks_of_rows_make_no_difference(spec, monkeypatch):
    from tlx.features import estimators

    x, y = clusters(apart=1.0)
    want = fit(spec, x, y).scores(x)
    monkeypatch.setattr(fitting, "BLOCK_BYTES", 8 * 12 * 7)
    monkeypatch.setattr(estimators, "BLOCK_BYTES", 8 * 60 * 2)
    np.testing.assert_allclose(fit(spec, x, y).scores(x), want, rtol=1e-12, atol=1e-12)
    assert fit(spec, x, y).scores(x[:0]).shape == (0, 3)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(spec, poison):
    x, y = clusters()
    bad = x.copy()
    bad[[7, 9], 3] = poison
    with pytest.raises(
        BadDataError, match=r"features-not-finite.* 3 shots.*2 of 60 rows, the first in row 7"
    ):
        fit(spec, bad, y, where="3 shots, split 1")
    with pytest.raises(BadDataError, match="features-not-finite"):
        Training(bad, y).fit(spec)
    with pytest.raises(BadDataError, match="features-not-finite"):
        fit(spec, x, y).scores(bad)


def test_what_cannot_be_fitted_is_said_before(spec):
    x, y = clusters()
    with pytest.raises((BadDataError, ErrorGroup), match=r"one-class.*1 class among 60"):
        fit(spec, x, y * 0)
    with pytest.raises((BadDataError, ErrorGroup), match="one-class"):
        fit(spec, x[:0], y[:0])
    for labels in (y[:-1], y[:, None], y.astype(float), y.astype(str)):
        with pytest.raises(BadDataError, match="labels-shape"):
            fit(spec, x, labels)
    for rows in (x[:, :0], x[0], x.astype(object), x.astype(complex)):
        with pytest.raises(BadDataError, match="features-shape"):
            fit(spec, rows, y)
    with pytest.raises(BadDataError, match=r"11 features.*12 as in the training rows"):
        fit(spec, x, y).scores(x[:, :11])


def test_it_is_a_scikit_learn_estimator(spec):
    model = spec.make(11)
    twin = clone(model)
    assert type(twin) is type(model)
    assert model.get_params().keys() == twin.get_params().keys()
    x, y = clusters()
    np.testing.assert_array_equal(twin.fit(x, y).predict(x), model.fit(x, y).predict(x))
    assert model.score(x, y) > 0.95


def test_it_crosses_to_another_process(spec):
    x, y = clusters()
    fitted = fit(spec, x, y)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).scores(x), fitted.scores(x))


@pytest.mark.parametrize("asked", ASKED)
def test_it_is_asked_for_by_name(asked):
    spec = classifier(asked)
    assert classifier(format_classifier(spec)) == spec
    assert parse_spec(CLASSIFIERS, asked) == spec
    assert Spec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize("row", CLASSIFIERS.values(), ids=CLASSIFIERS.keys())
def test_every_setting_has_a_meaning_and_a_range(row):
    for name, knob in row.settings().items():
        assert knob.help or knob.choices, name
        assert knob.choices or knob.low is not None, name
        assert not knob.log or (knob.low or 0) > 0, name
    assert row.__doc__.rstrip().endswith(".")


def test_no_two_rows_share_a_key():
    assert len({row().key for row in CLASSIFIERS.values()}) == len(CLASSIFIERS)
