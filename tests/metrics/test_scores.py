"""Transferability scores against their definitions, written out slowly, and their invariances."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize, stats
from sklearn.covariance import ledoit_wolf

from tlx.errors import BadDataError, UnknownNameError
from tlx.metrics import scores
from tlx.metrics.scores import SCORES, feature_table, transferability_scores

rng = np.random.default_rng(7)
LABELS = rng.integers(0, 3, 60)
ROWS = rng.normal(size=(60, 8)) @ rng.normal(size=(8, 8)) + 0.8 * rng.normal(size=(3, 8))[LABELS]
SOURCE = rng.dirichlet(np.ones(5), 60)


def table(rows=ROWS, labels=LABELS, **more):
    return feature_table(rows, labels, **more)


def test_logme_is_the_largest_evidence_of_the_gaussian_that_it_assumes():
    expected = []
    for label in range(3):
        target = (label == LABELS).astype(float)

        def negative(logs, target=target):
            covariance = np.exp(-logs[1]) * np.eye(60) + np.exp(-logs[0]) * ROWS @ ROWS.T
            return -stats.multivariate_normal(np.zeros(60), covariance).logpdf(target)

        found = optimize.minimize(negative, [0.0, 0.0], method="Nelder-Mead")
        expected.append(-found.fun / 60)
    assert scores.logme(table()).score == pytest.approx(np.mean(expected), abs=1e-5)


TLLIB = [  # images, features, classes, source classes → LogME, LEEP, NCE, H-score
    ((300, 20, 5, 8), (-0.082593025630, -1.180322652854, -1.094903949002, 2.701138939172)),
    ((600, 64, 10, 12), (0.475417286535, -1.379100126389, -1.122342812781, 7.445514118678)),
    ((1000, 128, 20, 30), (0.788971699499, -1.559538465347, -1.111976947350, 15.866554768312)),
]


@pytest.mark.parametrize(("number", "row"), list(enumerate(TLLIB)))
def test_scores_are_those_of_the_transfer_learning_library(number, row):
    """The numbers are what its functions (commit 48c707a) returned for these images.

    Its LogME stops at a change of 1 % of the precisions' ratio.
    """
    (images, features, classes, of_source), expected = row
    own = np.random.default_rng(number)
    labels = np.arange(images) % classes
    rows = own.standard_normal((images, features))
    rows = 3 * np.maximum(rows + own.standard_normal((classes, features))[labels], 0)
    logits = own.standard_normal((images, of_source))
    logits = np.exp(logits + 2 * own.standard_normal((classes, of_source))[labels])
    known = table(rows, labels, source_probabilities=logits / logits.sum(axis=1, keepdims=True))
    assert scores.logme(known).score == pytest.approx(expected[0], abs=1e-7)
    assert scores.leep(known).score == pytest.approx(expected[1], abs=1e-11)
    assert scores.nce(known).score == pytest.approx(expected[2], abs=1e-11)
    assert scores.h_score(known, shrunk=False).score == pytest.approx(expected[3], abs=1e-9)


def test_logme_says_that_it_saturates_with_few_images():
    assert "saturates" in scores.logme(table(rng.normal(size=(20, 30)), LABELS[:20])).reason
    assert not scores.logme(table()).reason


def test_leep_and_nce_are_their_sums():
    joint = np.zeros((3, 5))
    counted = np.zeros((3, 5))
    for label, row in zip(LABELS, SOURCE, strict=True):
        joint[label] += row / 60
        counted[label, np.argmax(row)] += 1 / 60
    given = joint / joint.sum(axis=0)
    expected = np.mean([np.log(given[y] @ p) for y, p in zip(LABELS, SOURCE, strict=True)])
    entropy = sum(
        counted[y, z] * math.log(counted[y, z] / counted[:, z].sum())
        for y in range(3)
        for z in range(5)
        if counted[y, z]
    )
    with_head = table(source_probabilities=SOURCE)
    assert scores.leep(with_head).score == pytest.approx(expected, abs=1e-12)
    assert scores.nce(with_head).score == pytest.approx(entropy, abs=1e-12)


def test_a_head_that_knows_the_labels_gives_the_largest_leep_and_nce():
    known = np.eye(3)[LABELS]
    for score in (scores.leep, scores.nce):
        assert score(table(source_probabilities=known)).score == pytest.approx(0.0, abs=1e-12)
        assert score(table(source_probabilities=np.eye(3)[rng.permutation(LABELS)])).score < -0.5


def between_and_within(rows, labels):
    mean = rows.mean(axis=0)
    between = sum(
        (labels == c).mean()
        * np.outer(rows[labels == c].mean(0) - mean, rows[labels == c].mean(0) - mean)
        for c in np.unique(labels)
    )
    return between, np.cov(rows.T, bias=True)


@pytest.mark.parametrize("shape", [(60, 8), (30, 50)])
def test_the_h_scores_are_traces_of_matrices(shape):
    rows, labels = rng.normal(size=shape), np.arange(shape[0]) % 3
    between, covariance = between_and_within(rows, labels)
    plain = np.trace(np.linalg.pinv(covariance, hermitian=True) @ between)
    assert scores.h_score(table(rows, labels), shrunk=False).score == pytest.approx(plain, rel=1e-9)
    shrunk, share = ledoit_wolf(rows)
    expected = (1 - share) * np.trace(np.linalg.inv(shrunk) @ between)
    assert scores.h_score(table(rows, labels)).score == pytest.approx(expected, rel=1e-9)


def test_transrate_is_a_difference_of_coding_rates_and_has_no_unit():
    rows = ROWS - ROWS.mean(axis=0)
    rows /= math.sqrt(np.trace(rows.T @ rows))

    def rate(part):
        inside = np.eye(8) + part.T @ part / (len(part) * 1e-4)
        return 0.5 * np.linalg.slogdet(inside)[1]

    expected = rate(rows) - np.mean([rate(rows[c == LABELS]) for c in range(3)])
    assert scores.transrate(table()).score == pytest.approx(expected, rel=1e-10)
    assert scores.transrate(table(1000 * ROWS + 5)).score == pytest.approx(expected, rel=1e-8)


def test_gbc_is_the_sum_over_pairs_of_classes():
    centred = ROWS - ROWS.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    rows = centred @ directions.T
    floor = 1e-8 * rows.var(axis=0).mean()
    total = 0.0
    for a in range(3):
        for b in range(3):
            if a == b:
                continue
            first, second = rows[a == LABELS], rows[b == LABELS]
            va, vb = first.var(axis=0) + floor, second.var(axis=0) + floor
            mixed = (va + vb) / 2
            distance = ((first.mean(0) - second.mean(0)) ** 2 / mixed).sum() / 8
            distance += 0.5 * math.log(np.prod(mixed) / math.sqrt(np.prod(va) * np.prod(vb)))
            total += math.exp(-distance)
    assert scores.gbc(table()).score == pytest.approx(-math.log(total), rel=1e-9)


def test_parc_is_a_rank_correlation_of_two_dissimilarities():
    centred = ROWS - ROWS.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    rows = centred @ directions.T
    rows *= np.sign((rows**3).sum(axis=0))
    features = 1 - np.corrcoef(rows)[np.triu_indices(60, 1)]
    one_hot = 1 - np.corrcoef(np.eye(3)[LABELS])[np.triu_indices(60, 1)]
    labels = np.round(one_hot, 9)  # ties are ties
    expected = stats.spearmanr(features, labels).statistic
    assert scores.parc(table()).score == pytest.approx(expected, abs=1e-6)


def test_n_leep_needs_images_and_is_the_same_for_the_same_seed():
    assert scores.n_leep(table(ROWS[:20], LABELS[:20])).score is None
    one, other = (scores.n_leep(table(seed=3)).score for _ in range(2))
    assert one == other < 0


def test_the_baselines_leave_each_image_out():
    unit = ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True)
    hits = []
    for number in range(60):
        others = [k for k in range(60) if k != number]
        nearest = max(others, key=lambda k: unit[k] @ unit[number])
        hits.append(LABELS[nearest] == LABELS[number])
    expected = np.mean([np.mean(np.array(hits)[c == LABELS]) for c in range(3)])
    assert scores.nearest_neighbour(table()).score == pytest.approx(expected)
    noise = scores.ridge(table(rng.normal(size=(60, 200)))).score
    assert noise < 0.6, "an image that is not left out would be right"


@pytest.mark.parametrize("name", SCORES)
def test_every_score_prefers_features_that_tell_the_classes_apart(name):
    labels = np.repeat(np.arange(3), 30)
    noise = np.random.default_rng(1).normal(size=(90, 12))
    clear = noise + 4 * np.eye(3, 12)[labels]
    head = {True: 0.9 * np.eye(3)[labels] + 0.1 / 3, False: np.full((90, 3), 1 / 3)}
    good, bad = (
        transferability_scores(
            rows, labels, source_probabilities=head[rows is clear], names=(name,)
        )[name].score
        for rows in (clear, noise)
    )
    assert good > bad


@pytest.mark.parametrize("name", SCORES)
def test_every_score_forgets_the_order_of_images_and_the_names_of_classes(name):
    order = np.random.default_rng(2).permutation(60)
    names = np.array(["c", "a", "b"])[LABELS]
    plain, shuffled = (
        transferability_scores(rows, labels, source_probabilities=source, names=(name,))[name]
        for rows, labels, source in (
            (ROWS, LABELS, SOURCE),
            (ROWS[order], names[order], SOURCE[order]),
        )
    )
    tolerance = 0.3 if name == "n-leep" else 1e-8  # a mixture starts from rows
    assert plain.score == pytest.approx(shuffled.score, abs=tolerance)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("case", ["constant", "one of each", "wide"])
def test_every_score_of_a_hard_case_is_a_number_or_none_with_a_reason(name, case):
    rows = {
        "constant": np.ones((12, 4)),
        "one of each": rng.normal(size=(12, 4)),
        "wide": rng.normal(size=(12, 300)),
    }[case]
    labels = np.arange(12) if case == "one of each" else np.arange(12) % 3
    value = transferability_scores(rows, labels, names=(name,))[name]
    assert (value.score is None and value.reason) or math.isfinite(value.score)


def test_what_cannot_be_scored_is_refused_with_a_sentence():
    with pytest.raises(BadDataError, match="two classes"):
        transferability_scores(ROWS, np.zeros(60, int))
    with pytest.raises(BadDataError, match="sum to 1"):
        transferability_scores(ROWS, LABELS, source_probabilities=2 * SOURCE)
    with pytest.raises(BadDataError, match="row 0"):
        transferability_scores(np.full((60, 2), np.nan), LABELS)
    with pytest.raises(UnknownNameError, match="logme"):
        transferability_scores(ROWS, LABELS, names=("logmee",))
