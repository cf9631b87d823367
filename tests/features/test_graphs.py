"""Classifiers and embeddings as torch modules give the scores of their estimators."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tlx.errors import UsageError
from tlx.features import fitting, graphs
from tlx.features.classifiers import CLASSIFIERS, classifier
from tlx.features.embedding import EMBEDDINGS, FittedEmbedding
from tlx.spec import parse_spec

TEXTS = [
    *("linear-svc", "svc", "svc:kernel=poly", "svc:kernel=linear", "sgd", "sgd:loss=log_loss"),
    *("knn", "knn:k=3", "knn:k=4,weights=distance", "knn-cosine:k=5", "logistic", "ridge"),
    *("ridge-loo", "lda", "lda:shrinkage=0.2", "ncm", "ncm:metric=cosine"),
]


def rows(classes, per_class=12, d=9, seed=0, ternary=False):
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(classes), per_class)
    X = rng.standard_normal((len(y), d)) + 1.2 * rng.standard_normal((classes, d))[y]
    test = rng.standard_normal((60, d)) * 1.5
    if ternary:
        X, test = np.clip(np.rint(X), -1, 1), np.clip(np.rint(test), -1, 1)
    return X, y, test


def test_every_classifier_is_a_graph_or_says_why_not():
    assert {**graphs.GRAPHS, **graphs.NOT_SERVED}.keys() == CLASSIFIERS.keys()
    assert {text.partition(":")[0] for text in TEXTS} == graphs.GRAPHS.keys()
    assert not graphs.GRAPHS.keys() & graphs.NOT_SERVED.keys()


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("ternary", [False, True], ids=["real", "ternary"])
def test_the_graph_gives_the_scores_and_the_labels_of_the_estimator(text, classes, ternary):
    X, y, test = rows(classes, ternary=ternary)
    fitted = fitting.fit(classifier(text), X, y)
    module = graphs.scores_of(fitted, classes)
    test = np.concatenate([test, X])  # training rows have neighbours at distance 0
    ours = module(torch.from_numpy(test)).numpy()
    want = fitted.scores(test, classes=classes)
    np.testing.assert_allclose(ours, want, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(ours.argmax(axis=1), want.argmax(axis=1))


@pytest.mark.parametrize("text", TEXTS)
def test_a_class_that_was_not_in_training_is_below_all_others(text):
    X, y, test = rows(3)
    fitted = fitting.fit(classifier(text), X, np.array([0, 2, 4])[y])
    ours = graphs.scores_of(fitted, 6)(torch.from_numpy(test)).numpy()
    np.testing.assert_allclose(ours, fitted.scores(test, classes=6), rtol=1e-9, atol=1e-9)
    assert set(ours.argmax(axis=1)) <= {0, 2, 4}


@pytest.mark.parametrize(
    "text", ["fne", "fne:low=-0.5,high=0.4", "standard", "l2", "none"], ids=str
)
def test_the_graph_gives_the_embedding_of_the_rows(text):
    rng = np.random.default_rng(3)
    layers = [rng.standard_normal((40, 6)).astype(np.float32), rng.random((40, 3), np.float32)]
    layers[0][:, 2] = 0.7  # constant
    layers[0][5] = 0  # a row of zeros in one layer
    spec = parse_spec(EMBEDDINGS, text, "embedding")
    embedded = spec.fit(layers, np.arange(20))
    module = graphs.EmbeddedRows(embedded)
    features = torch.from_numpy(np.concatenate(layers, axis=1).astype(np.float64))
    np.testing.assert_array_equal(module(features).numpy(), embedded.transform(layers))


def test_statistics_of_each_set_cannot_be_served():
    spec = parse_spec(EMBEDDINGS, "fne:standardize=per-set", "embedding")
    embedded: FittedEmbedding = spec.fit(np.ones((3, 2)) * np.arange(3)[:, None])
    with pytest.raises(UsageError, match="whole set"):
        graphs.EmbeddedRows(embedded)


def test_a_classifier_without_a_graph_is_refused_by_name():
    with pytest.raises(UsageError, match="xgboost cannot be exported"):
        graphs.check({"classifier": "xgboost:n_estimators=2"})


@pytest.mark.parametrize(
    ("embedding", "standardize", "is_served"),
    [
        ("fne", "train", True),
        ("fne", "per-set", False),
        ("standard:standardize=per-set", "train", False),
        ("l2", "per-set", True),
        ("none", "per-set", True),
    ],
)
def test_rows_that_are_judged_by_their_set_are_refused_by_the_settings_alone(
    embedding, standardize, is_served
):
    spec = {"classifier": "ncm", "embedding": embedding, "standardize": standardize}
    if is_served:
        graphs.check(spec)
        return
    with pytest.raises(UsageError, match="--standardize train"):
        graphs.check(spec)
