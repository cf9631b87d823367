"""Means and intervals against a slow twin, SciPy, and what an interval promises."""

from __future__ import annotations

import naive
import numpy as np
import pytest
import scipy.stats

from tlx.plots import statistics


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_the_interval_is_students(n):
    values = np.random.default_rng(n).normal(0.7, 0.1, n)
    found = statistics.estimate(values)
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx(naive.t_interval(values), rel=1e-3)
    expected = scipy.stats.t.interval(0.95, n - 1, values.mean(), scipy.stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-9)


def test_it_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    found = [statistics.estimate(rng.normal(0.5, 0.1, 5)) for _ in range(2000)]
    covered = np.mean([e.low <= 0.5 <= e.high for e in found])
    assert covered == pytest.approx(0.95, abs=0.02)


def test_scale_shift_and_order():
    values = [0.2, 0.9, 0.4, 0.4]
    one, other = (
        statistics.estimate(values),
        statistics.estimate([10 * v + 3 for v in reversed(values)]),
    )
    assert other.mean == pytest.approx(10 * one.mean + 3)
    assert other.half_width == pytest.approx(10 * one.half_width)


def test_one_split_has_a_mean_and_no_interval_and_none_has_nothing():
    one = statistics.estimate([0.4])
    assert (one.n, one.mean, one.sd, one.half_width, one.low, one.high) == (
        1,
        0.4,
        None,
        None,
        None,
        None,
    )
    assert statistics.estimate([]) is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_number_that_is_none_is_refused(bad):
    with pytest.raises(ValueError, match="diverged"):
        statistics.estimate([0.5, bad])


def test_rows_by_shots_leave_out_and_count_what_has_no_score():
    trials = [
        {"shots": 10, "test_accuracy": 0.8, "train_s": 4.0},
        {"shots": 2, "test_accuracy": 0.5, "train_s": 1.0},
        {"shots": 2, "test_accuracy": 0.7, "train_s": 3.0},
        {"shots": 2, "train_s": 100.0},
        {"shots": 5, "test_accuracy": float("nan")},
    ]
    rows = statistics.by_shots(trials)
    assert [r["shots"] for r in rows] == [2, 5, 10]
    two, five, ten = rows
    assert (two["splits"], two["missing"], two["mean"], two["train_s"]) == (
        2,
        1,
        pytest.approx(0.6),
        2.0,
    )
    assert two["ci"] == pytest.approx(naive.t_interval([0.5, 0.7])[1] - 0.6, rel=1e-3)
    assert (two["low"], two["high"], two["lowest"], two["highest"]) == (0, 1, 0.5, 0.7)
    assert (five["splits"], five["missing"], five["mean"], five["ci"]) == (0, 1, None, None)
    assert (ten["splits"], ten["mean"], ten["ci"], ten["total_s"]) == (1, 0.8, None, None)


def interval(over=statistics.DRAWS_AND_IMAGES, draws_df=6.0):
    return statistics.MeanInterval(over, 0.4, 0.9, 0.25, draws_df)


def test_a_row_keeps_students_interval_beside_that_over_draws_and_images():
    trials = [{"shots": 1, "test_accuracy": value} for value in (0.5, 0.6, 0.7)]
    plain, given = (
        statistics.by_shots(trials, intervals=intervals)[0] for intervals in (None, {1: interval()})
    )
    assert (given["low"], given["high"], given["ci"]) == (0.4, 0.9, 0.25)
    assert given["over"] == "draws and images"
    assert plain["over"] == "draws"
    for name in ("ci", "low", "high"):
        assert given[f"draws_{name}"] == plain[f"draws_{name}"] == plain[name]
    assert list(given) == list(plain)


def test_few_values_have_a_range_unless_more_is_known_of_their_variance():
    trials = [{"shots": 1, "test_accuracy": value} for value in (0.5, 0.7)]
    for draws_df, expected in ((1.0, (0.5, 0.7)), (2.0, (0.5, 0.7)), (3.0, (0.4, 0.9))):
        (row,) = statistics.by_shots(trials, intervals={1: interval(draws_df=draws_df)})
        assert statistics.drawn_ends(row) == expected
        assert statistics.over_of([row]) == (["draws and images"] if draws_df == 3.0 else [])
