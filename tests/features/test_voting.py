"""Votes of crops against a count by hand."""

from __future__ import annotations

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tlx.errors import BadDataError
from tlx.features import voting


def one_hot(ballots, classes):
    return np.eye(classes, dtype=np.float32)[np.asarray(ballots)]


@given(
    arrays.arrays(
        np.int64, st.tuples(st.integers(1, 12), st.integers(1, 10)), elements=st.integers(0, 4)
    )
)
def test_majority_is_the_count(ballots):
    got = voting.majority(one_hot(ballots, 5))
    assert got.tolist() == [naive.majority_vote(row) for row in ballots.tolist()]


def test_a_tie_goes_to_the_class_seen_first():
    assert voting.majority(one_hot([[3, 1, 1, 3], [2, 0, 0, 2], [4, 3, 2, 1]], 5)).tolist() == [
        3,
        2,
        4,
    ]


def test_mean_probability_hears_the_confident_crop():
    logits = np.array([[[0.1, 0.0], [0.1, 0.0], [0.0, 9.0]]])
    assert voting.majority(logits).tolist() == [0]
    assert voting.mean_probability(logits).tolist() == [1]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_mean_per_class_accuracy(pairs):
    truth, predicted = (np.array(side) for side in zip(*pairs, strict=True))
    counts = voting.confusion(truth, predicted, 4)
    assert counts.sum() == len(pairs)
    assert voting.mean_per_class_accuracy(counts) == pytest.approx(
        naive.mean_per_class(truth, predicted)
    )


@pytest.mark.parametrize("rule", voting.VOTING)
def test_a_network_full_of_nan_predicts_nothing(rule):
    with pytest.raises(BadDataError, match="logits-not-finite"):
        voting.per_image(np.full((10, 3), np.nan), 10, rule)


@pytest.mark.parametrize("rule", voting.VOTING)
def test_every_rule_agrees_when_the_crops_do(rule):
    logits = np.repeat(one_hot([0, 2, 1], 3) * 5, 10, axis=0)
    assert voting.per_image(logits, 10, rule).tolist() == [0, 2, 1]
