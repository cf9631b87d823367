"""Crossed estimator, verdicts, break-even, racing: oracles, invariances, coverage by simulation."""

from __future__ import annotations

import math

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlx.errors import BadDataError, UsageError
from tlx.metrics import crossed
from tlx.metrics.break_even import break_even
from tlx.metrics.paired import (
    DECIDED,
    EQUIVALENT,
    ONE_DRAW,
    UNDECIDED,
    Contrast,
    analyse,
    expected_regret,
    holm,
    sign_flips,
    tost,
    wilcoxon,
    wrong_sign,
)
from tlx.metrics.paired_race import next_split


def draw(seed, splits=5, classes=3, per_class=4, shift=0.0):
    """A table of −1, 0 and 1 and the classes of its images, of unequal sizes."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, per_class + 2, classes)
    labels = np.repeat(np.arange(classes), sizes)
    rng.shuffle(labels)
    table = np.sign(rng.normal(shift, 1.0, (splits, len(labels)))) * rng.integers(
        0, 2, (splits, len(labels))
    )
    return table.astype(np.int8), labels


def contrast_of(seed, shots=5, pool=20, **changes):
    table, labels = draw(seed, **changes)
    return Contrast.of_differences(table, labels, shots=shots, pool=pool)


def scores(values, shots=5, pool=50):
    return Contrast.of_scores(values, np.zeros(len(values)), shots=shots, pool=pool)


# ---------------------------------------------------------------- the estimator


@given(st.integers(0, 10**6), st.integers(2, 7), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_the_parts_of_variance_are_those_of_four_nested_loops(seed, splits, classes):
    table, labels = draw(seed, splits, classes)
    mean, split_var, images, residual = naive.crossed_variance(table.tolist(), labels.tolist())
    parts = crossed.components(table, labels)
    assert parts.mean == pytest.approx(mean, abs=1e-12)
    assert parts.split_var == pytest.approx(split_var, abs=1e-12)
    assert parts.residual_var == pytest.approx(residual, abs=1e-12)
    assert parts.image_var == pytest.approx(max(0.0, images - residual / splits), abs=1e-12)
    assert parts.image_df == len(labels) - classes


@given(st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_the_order_of_splits_and_images_changes_nothing(seed):
    table, labels = draw(seed)
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(len(table)), rng.permutation(len(labels))
    [one] = analyse([Contrast.of_differences(table, labels, shots=3, pool=9)])
    [other] = analyse(
        [Contrast.of_differences(table[rows][:, columns], labels[columns], shots=3, pool=9)]
    )
    for name in ("mean", "se", "df", "p_wrong", "regret", "tost_p"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-12), name


@given(st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_swapping_the_methods_turns_signs_alone(seed):
    table, labels = draw(seed, shift=0.3)
    [one] = analyse([Contrast.of_differences(table, labels, shots=3, pool=9)])
    [other] = analyse([Contrast.of_differences(-table, labels, shots=3, pool=9)])
    assert (one.mean, one.low, one.high) == (-other.mean, -other.high, -other.low)
    assert (one.p_wrong, one.regret, one.verdict) == (other.p_wrong, other.regret, other.verdict)


def test_predictions_give_the_table_of_differences():
    truth = np.array([0, 0, 1, 1])
    first, second = np.array([[0, 1, 1, 0]] * 2), np.array([[0, 0, 0, 0]] * 2)
    given = Contrast.of_predictions(first, second, truth, shots=1, pool=2)
    assert given.parts.mean == pytest.approx((0 - 1) / 4 + (1 + 0) / 4)
    assert given.images == 4


def test_constant_rows_leave_the_plain_interval_over_splits():
    values = np.array([0.0, 1.0, 1.0, 0.0, 1.0])
    table = np.repeat(values[:, None], 6, axis=1)
    parts = crossed.components(table, [0, 0, 0, 1, 1, 1])
    assert (parts.image_var, parts.residual_var) == (0.0, 0.0)
    found = crossed.estimate(parts)
    assert found.se == pytest.approx(values.std(ddof=1) / math.sqrt(5))
    assert found.df == 4
    assert found.high - found.mean == pytest.approx(2.776445 * found.se, rel=1e-6)


@pytest.mark.parametrize("numbers", [(5,), (1, 5), (1, 3, 10), (1, 2, 3, 5, 10)])
def test_intervals_of_means_lean_on_the_other_shots_as_by_numpy_alone(numbers):
    rng = np.random.default_rng(len(numbers))
    labels = np.repeat(np.arange(4), (6, 9, 5, 7))
    hard = rng.normal(0, 0.8, len(labels))
    tables = {
        k: (rng.normal(0.3 * k + hard, 1.0, (3, len(labels))) + rng.normal(0, 0.5, (3, 1)) > 0)
        * 1.0
        for k in numbers
    }
    expected = naive.crossed_intervals(
        {k: table.tolist() for k, table in tables.items()}, labels.tolist(), pool=30
    )
    found = crossed.estimates_of_means(
        {k: crossed.components(table, labels, shots=k, pool=30) for k, table in tables.items()}
    )
    for k in numbers:
        estimate, lent = found[k]
        ends = max(0.0, estimate.low), min(1.0, estimate.high)
        assert ends == pytest.approx(expected[k], rel=1e-3)
        assert lent == (4.0 if len(numbers) > 3 else 0.0)


def test_an_overlap_of_draws_widens_the_interval_by_its_formula():
    values = [0.1, 0.2, 0.4, 0.3]
    alone = crossed.estimate(crossed.components_of_scores(values))
    shared = crossed.estimate(crossed.components_of_scores(values, shots=5, pool=10))
    assert shared.se / alone.se == pytest.approx(math.sqrt((1 / 4 + 1) / (1 / 4)))
    assert crossed.overlap_of(19, 20) == 0.9
    with pytest.raises(UsageError, match="from 3"):
        crossed.overlap_of(5, 3)


def test_a_class_of_one_image_counts_in_the_mean_and_not_in_the_images():
    table, labels = np.array([[1, 0, 1], [0, 0, 1]]), np.array(["a", "a", "b"])
    parts = crossed.components(table, labels)
    assert parts.by_split.tolist() == [0.75, 0.5]
    assert (parts.lone_classes, parts.image_df) == (1, 1)
    only_lone = crossed.components([[1, 0], [1, 1]], ["a", "b"])
    assert (only_lone.image_var, only_lone.image_df) == (0.0, 0)
    assert crossed.estimate(only_lone).df == 1


@pytest.mark.parametrize(
    ("table", "labels", "words"),
    [
        ([[0.0, math.nan]], [0, 1], "finite"),
        ([[0, 1, 1]], [0, 1], "one for each row"),
        ([], [], "rows"),
    ],
)
def test_a_table_that_is_none_is_refused(table, labels, words):
    with pytest.raises(BadDataError) as caught:
        crossed.components(np.array(table), labels)
    assert words in str(caught.value)


def test_what_is_no_difference_and_what_does_not_pair_is_refused():
    with pytest.raises(BadDataError, match="−1, 0 or 1"):
        Contrast.of_differences([[2, 0]], [0, 1], shots=1, pool=2)
    with pytest.raises(BadDataError, match="both methods"):
        Contrast.of_predictions(np.zeros((2, 3)), np.zeros((3, 3)), np.zeros(3), shots=1, pool=2)
    with pytest.raises(BadDataError, match="both methods"):
        Contrast.of_scores([0.1], [0.1, 0.2], shots=1, pool=2)


def test_the_variance_that_other_shots_predict_is_that_of_a_line():
    truth = {k: math.exp(-3 - 0.5 * math.log(k)) for k in (1, 2, 5, 10)}
    others = [(k, v * math.exp(-1 / 4), 5) for k, v in truth.items() if k != 5]
    assert crossed.predicted_variance(5, others) == (pytest.approx(truth[5]), 4.0)
    assert crossed.predicted_variance(5, others[:2])[0] == pytest.approx(
        math.sqrt(truth[1] * truth[2])
    )
    assert crossed.predicted_variance(5, [*others[:1], (2, 0.0, 5), (3, None, 1)]) == (0.0, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("splits", [5, 10])
def test_nominal_intervals_cover_the_truth_in_a_simulation(splits):
    """Crossed normal effects of splits, images and both, 2,000 times; moderated by five shots."""
    rng = np.random.default_rng(20260901)
    classes = np.repeat(np.arange(5), 12)
    covered = 0
    rounds = 2000
    for _ in range(rounds):
        tables = []
        for _shots in range(5):
            effect = rng.normal(0, 0.03, (splits, 1)) + rng.normal(0, 0.15, (1, 60))
            tables.append(effect + rng.normal(0, 0.4, (splits, 60)))
        parts = [crossed.components(table, classes) for table in tables]
        others = [(k + 1, p.split_var, splits) for k, p in enumerate(parts)][1:]
        prior = crossed.predicted_variance(1, others)
        found = crossed.estimate(parts[0], prior=prior)
        covered += found.low <= 0.0 <= found.high
    assert 0.94 <= covered / rounds <= 0.97


# ---------------------------------------------------------------- verdicts


def test_one_draw_is_never_given_a_probability():
    table, labels = draw(1, splits=1)
    [verdict] = analyse([Contrast.of_differences(table, labels, shots=3, pool=9)])
    assert (verdict.verdict, verdict.p_wrong, verdict.regret) == (ONE_DRAW, None, None)
    assert verdict.se > 0
    [blind] = analyse([scores([0.2])])
    assert blind.mean == 0.2
    assert math.isnan(blind.low)


def test_a_dead_tie_is_a_coin_and_a_difference_without_variance_is_sure():
    [tie] = analyse([scores([0.0, 0.0, 0.0])])
    assert (tie.p_wrong, tie.regret, tie.verdict) == (0.5, 0.0, EQUIVALENT)
    [sure] = analyse([scores([0.25, 0.25, 0.25])])
    assert (sure.p_wrong, sure.regret, sure.verdict) == (0.0, 0.0, DECIDED)


def test_decided_equivalent_and_undecided():
    clear = scores([0.2, 0.21, 0.19, 0.2, 0.22])
    same = scores([0.001, -0.001, 0.0015, -0.0005, 0.0])
    open_question = scores([0.1, -0.12, 0.05, -0.02, 0.03])
    verdicts = [analyse([contrast])[0].verdict for contrast in (clear, same, open_question)]
    assert verdicts == [DECIDED, EQUIVALENT, UNDECIDED]


def test_the_regret_is_the_integral_of_what_is_lost():
    for mean, se, df in ((0.02, 0.02, 4.0), (0.0, 0.03, 6.0), (0.05, 0.02, 12.0)):
        assert expected_regret(mean, se, df) == pytest.approx(
            naive.expected_loss(mean, se, df), rel=2e-3
        )
    assert expected_regret(0.02, 0.02, 1.0) == math.inf
    assert expected_regret(0.02, 0.02, math.inf) == pytest.approx(
        naive.expected_loss(0.02, 0.02, 1e5), rel=1e-3
    )


def test_a_spread_of_true_differences_draws_towards_a_coin():
    plain = wrong_sign(0.03, 0.01, 5.0, 1e9)
    drawn = wrong_sign(0.03, 0.01, 5.0, 0.03**2)
    assert plain < drawn < 0.5
    assert tost(0.0, 0.001, 10, 0.01) < 0.05 < tost(0.009, 0.01, 10, 0.01)


def test_holm_is_that_of_its_definition():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_sign_flips_are_counted_and_drawn():
    assert sign_flips([0.1, 0.2, 0.3]) == 2 / 8
    assert sign_flips([0.1] * 5) == 2 / 32
    assert sign_flips([0.0, 0.0]) == 1.0
    values = np.random.default_rng(3).normal(0.3, 1, 13)
    exact = 1 - 2.0 * (np.arange(2**13)[:, None] >> np.arange(13) & 1)
    share = (np.abs(exact @ values) >= abs(values.sum()) - 1e-12).mean()
    assert sign_flips(values) == pytest.approx(share, abs=0.01)
    assert wilcoxon([0.1, 0.2, 0.3]) == 0.25
    assert wilcoxon([0.0, 0.0]) == 1.0


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"alpha": 0.0}, "alpha"), ({"alpha": 0.6}, "alpha"), ({"margin": 0.0}, "margin")],
)
def test_levels_out_of_range_are_refused(changes, words):
    with pytest.raises(UsageError) as caught:
        analyse([scores([0.1, 0.2])], **changes)
    assert caught.value.code == words


def test_shots_twice_are_refused():
    with pytest.raises(UsageError, match="once"):
        analyse([scores([0.1, 0.2]), scores([0.1, 0.2])])


# ---------------------------------------------------------------- what would settle it


def test_as_many_splits_as_are_said_would_decide_and_one_fewer_would_not():
    contrast = scores([0.06, -0.03, 0.05, 0.02, 0.01], shots=1, pool=5000)
    [verdict] = analyse([contrast])
    assert verdict.verdict == UNDECIDED
    needed = verdict.settles.splits
    assert needed is not None
    split_var = verdict.split_var
    for splits, is_enough in ((needed, True), (needed - 1, False)):
        se, df = crossed.standard_error(split_var, splits - 1, 0.0, 0, splits, 1 / 5000)
        spread = (max(0.0, verdict.mean**2 - verdict.se**2) + 3 * 0.03**2) / 4
        assert (wrong_sign(verdict.mean, se, df, spread) <= 0.05) == is_enough


def test_a_pool_that_is_used_up_and_images_that_are_too_few_are_said():
    [shared] = analyse([scores([0.03, -0.03, 0.05, 0.01, 0.01], shots=9, pool=10)])
    assert shared.settles == type(shared.settles)(pool=True)
    rng = np.random.default_rng(5)
    image = np.sign(rng.normal(0.1, 1, 30))
    table = np.repeat(image[None], 5, axis=0).astype(int)
    table[0, 0] *= -1
    [few] = analyse([Contrast.of_differences(table, np.arange(30) % 3, shots=1, pool=10**6)])
    assert few.verdict == UNDECIDED
    assert few.settles.splits is None
    assert few.settles.images > 30


# ---------------------------------------------------------------- break-even and racing


def verdicts_of(means, se=0.01, pool=10**6):
    shots = [1, 2, 3, 5, 7, 10][: len(means)]
    noise = np.array([1, -1, 1, -1, 0]) * se
    tables = [
        scores(mean + noise, shots=k, pool=pool) for k, mean in zip(shots, means, strict=True)
    ]
    return analyse(tables)


@pytest.mark.parametrize(
    ("means", "low", "high", "words"),
    [
        ([-0.2, -0.1, 0.0, 0.1, 0.2], 2, 5, "between 2 and 5"),
        ([0.2, 0.2, 0.2], None, 1, "below 1"),
        ([0.0, 0.2, 0.2], None, 2, "at or below 2"),
        ([-0.2, -0.2, 0.0], 2, None, "beyond 2"),
        ([-0.2, 0.2, 0.0, 0.2, 0.2], 1, 5, "between 1 and 5"),
    ],
)
def test_the_bracket_is_where_who_is_sure_changes(means, low, high, words):
    found = break_even(verdicts_of(means, se=0.002))
    assert (found.low, found.high, found.words) == (low, high, words)


def test_a_line_that_crosses_has_its_zero_and_an_interval_around_it():
    means = [0.05 * math.log(k / 3) for k in (1, 2, 3, 5, 7, 10)]
    found = break_even(verdicts_of(means, se=0.01))
    assert found.estimate == pytest.approx(3, rel=1e-6)
    low, high = found.fieller
    assert low < 3 < high


def test_nothing_can_be_told_of_noise_and_of_one_split():
    found = break_even(verdicts_of([0.001, -0.001, 0.001], se=0.05))
    assert not found.is_known
    assert "no break-even" in found.words
    assert not break_even(analyse([scores([0.2])])).is_known


def test_the_next_split_goes_where_regret_falls_most_a_second():
    contrasts = [
        scores([0.02, -0.03, 0.05], shots=1),
        scores([0.02, -0.03, 0.05], shots=2),
        scores([0.5, 0.51, 0.5], shots=3),
    ]
    verdicts = analyse(contrasts)
    even = dict.fromkeys((1, 2, 3), 1.0)
    chosen = next_split(contrasts, verdicts, even, headline=2, limit=20)
    assert chosen.shots == 2
    assert chosen.closed == {3: "small regret"}
    dear = next_split(contrasts, verdicts, {**even, 2: 100.0}, headline=2, limit=20)
    assert dear.shots == 1
    full = next_split(contrasts, verdicts, even, headline=2, limit=3)
    assert full.shots is None
    assert full.closed == dict.fromkeys((1, 2, 3), "all splits")


def test_shots_with_too_few_splits_come_first():
    contrasts = [scores([0.02, -0.03], shots=1), scores([0.02, -0.3, 0.2], shots=2)]
    chosen = next_split(contrasts, analyse(contrasts), {1: 9.0, 2: 1.0}, headline=2, limit=20)
    assert chosen.shots == 1
