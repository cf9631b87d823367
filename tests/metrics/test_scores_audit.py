"""Audit of transferability scores against realised accuracies."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from tlx.errors import BadDataError
from tlx.metrics import scores_audit
from tlx.metrics.scores_audit import audit

REACHED = {"a": 0.5, "b": 0.6, "c": 0.7, "d": 0.8, "e": 0.9, "f": 0.65}


def test_a_score_that_is_the_accuracy_agrees_and_loses_nothing():
    [row] = audit(REACHED, {"same": REACHED}).rows.values()
    assert (row.sources, row.top, row.regret) == (6, "e", 0.0)
    assert (row.pearson.value, row.kendall.value) == pytest.approx((1.0, 1.0))
    assert row.weighted.low == pytest.approx(1.0)


def test_correlations_are_those_of_scipy_with_accuracy_first():
    score = {"a": 2.0, "b": 1.0, "c": 3.0, "d": 6.0, "e": 5.0, "f": 4.0}
    row = audit(REACHED, {"x": score}).rows["x"]
    reached, values = list(REACHED.values()), list(score.values())
    assert row.weighted.value == pytest.approx(stats.weightedtau(reached, values).statistic)
    assert row.kendall.value == pytest.approx(stats.kendalltau(reached, values).statistic)
    assert row.pearson.value == pytest.approx(np.corrcoef(reached, values)[0, 1])
    assert row.pearson.low <= row.pearson.value <= row.pearson.high
    assert (row.top, row.regret) == ("d", pytest.approx(0.1))


def test_too_few_sources_have_a_table_and_no_correlation():
    few = audit({"a": 0.5, "b": 0.6}, {"x": {"a": 1.0, "b": 0.0}})
    assert few.has_too_few_sources
    assert few.rows["x"].pearson.value is None
    assert few.rows["x"].regret == pytest.approx(0.1)
    assert few.random_regret == pytest.approx(0.05)


def test_a_constant_score_says_nothing_and_loses_what_chance_does():
    found = audit(REACHED, {"x": dict.fromkeys(REACHED, 1.0)})
    assert found.rows["x"].pearson.value is None
    assert found.rows["x"].regret == pytest.approx(found.random_regret)


def test_what_is_not_defined_is_left_out():
    found = audit(REACHED, {"x": {**dict.fromkeys(REACHED), "a": 1.0}, "none": {"q": 1.0}})
    assert (found.rows["x"].sources, found.rows["x"].top) == (1, "a")
    assert found.rows["none"].regret is None
    with pytest.raises(BadDataError, match="finite"):
        audit({"a": math.nan}, {})
    with pytest.raises(BadDataError, match="one or more"):
        audit({}, {})


@pytest.mark.parametrize("name", scores_audit.AGREEMENTS)
@pytest.mark.parametrize("levels", [3, 1000])
def test_correlations_of_many_resamples_are_those_of_scipy_row_by_row(name, levels):
    of_one, of_rows = scores_audit.AGREEMENTS[name]
    x, y = np.random.default_rng(levels).integers(0, levels, (2, 40, 7)).astype(float)
    y[:20] += x[:20]
    found = of_rows(x, y)
    assert np.isfinite(found).sum() > 30
    for row, value in enumerate(found):
        is_constant = np.ptp(x[row]) == 0 or np.ptp(y[row]) == 0
        assert is_constant == math.isnan(value)
        if not is_constant:
            assert value == pytest.approx(of_one(x[row], y[row]), abs=1e-12)


def test_resamples_of_one_source_alone_count_for_nothing():
    constant = np.ones((3, 5))
    for _, of_rows in scores_audit.AGREEMENTS.values():
        assert np.isnan(of_rows(constant, np.arange(15.0).reshape(3, 5))).all()
