"""Regret of rules: by hand, and what must hold for any scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlx.errors import BadDataError
from tlx.metrics.choice_rules import ChoicePoint, score_rules


def point(first, second, costs=(1.0, 10.0), **rules):
    return ChoicePoint(np.array(first), np.array(second), *costs, rules)


def test_by_hand():
    scores = score_rules(
        [
            point([0.5, 0.7], [0.9, 0.5], a=False, b=True, c=[True, False]),
            point([0.8], [0.4], (3.0, 30.0), a=False, b=True, c=[False]),
        ]
    )
    # means 0.6 and 0.7, then 0.8 and 0.4
    assert scores["a"].regret == pytest.approx((0.1 + 0.0) / 2)
    assert scores["b"].regret == pytest.approx((0.0 + 0.4) / 2)
    assert scores["c"].regret == pytest.approx((0.7 - 0.8 + 0.0) / 2)
    assert [scores[name].cost for name in "abc"] == pytest.approx([2.0, 20.0, (5.5 + 3.0) / 2])


@given(
    st.lists(
        st.lists(
            st.tuples(st.floats(0, 1), st.floats(0, 1), st.booleans()), min_size=1, max_size=6
        ),
        min_size=1,
        max_size=4,
    )
)
def test_one_of_two_constant_rules_is_best_at_each_number_of_shots(table):
    points = [
        point(*(np.array(x) for x in list(zip(*rows, strict=True))[:2]), a=False, b=True)
        for rows in table
    ]
    scores = [score_rules([each]) for each in points]
    assert all(
        min(score["a"].regret, score["b"].regret) == pytest.approx(0, abs=1e-12) for score in scores
    )
    whole = score_rules(points)
    for name in "ab":
        assert whole[name].regret == pytest.approx(np.mean([s[name].regret for s in scores]))
        assert whole[name].regret >= -1e-12


@pytest.mark.parametrize(
    "points",
    [
        [],
        [point([0.5], [0.5, 0.6], a=True)],
        [point([], [], a=True)],
        [point([0.5], [0.5], a=True), point([0.5], [0.5], b=True)],
    ],
)
def test_what_cannot_be_scored_is_refused(points):
    with pytest.raises(BadDataError):
        score_rules(points)
