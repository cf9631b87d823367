"""Warnings about accuracies: each fault is said, a sound result is not, and every study says them
everywhere.
"""

from __future__ import annotations

import re
import types

import numpy as np
import pytest
import scipy.stats

from tlx.metrics import crossed
from tlx.plots import figures, statistics, tables
from tlx.result import Result
from tlx.studies import reporting, result_warnings
from tlx.studies.checkpoints import report as checkpoints_report
from tlx.studies.chop import report as chop_report
from tlx.studies.layer_transfer import report as layer_transfer_report
from tlx.studies.parameter_distance import report as parameter_distance_report
from tlx.studies.quanta import report as quanta_report
from tlx.studies.tuning import report as tuning_report

CLASSES = [f"class{number}" for number in range(4)]


def result(
    accuracy,
    *,
    images=(50, 50, 50, 50),
    best_epoch=3,
    epochs=40,
    batch_size=8,
    train_images=40,
    **spec,
):
    """A finished trial whose confusion matrix has so many test images of each class."""
    return Result(
        key=f"{accuracy}{spec}",
        kind="fine-tuning",
        scores={"test_accuracy": accuracy},
        spec={"epochs": epochs, "batch_size": batch_size, **spec},
        details={
            "classes": CLASSES,
            "confusion": np.diag(images).tolist(),
            "best_epoch": best_epoch,
            "train_images": train_images,
            "crops": 1,
        },
    )


SOUND = [0.80, 0.82, 0.78, 0.81, 0.79]


def said(values=SOUND, words=None, **changes):
    return result_warnings.result_warnings(
        {"5 shots": [result(value, **changes) for value in values]}, words
    )


def test_a_sound_result_is_not_warned_of():
    assert said() == []


@pytest.mark.parametrize(
    ("values", "warned"),
    [
        ([0.24, 0.26, 0.25, 0.27, 0.23], True),  # around 1/4
        ([0.10, 0.60, 0.20, 0.70, 0.15], True),  # wide: its t-interval holds 1/4
        ([0.10, 0.11, 0.10, 0.11, 0.10], True),  # below chance
        ([0.30, 0.31, 0.30, 0.31, 0.30], False),
    ],
)
def test_a_mean_is_warned_of_where_its_interval_is_not_above_chance(values, warned):
    low, _ = scipy.stats.t.interval(0.95, len(values) - 1, np.mean(values), scipy.stats.sem(values))
    assert (low <= 0.25) == warned
    found = said(values)
    assert (
        any("not above chance (25.0 %)" in sentence and "5 shots" in sentence for sentence in found)
        == warned
    )


@pytest.mark.parametrize(
    ("accuracy", "images", "warned"), [(0.3, 10, True), (0.3, 1000, False), (0.9, 3, False)]
)
def test_a_single_value_is_held_against_the_interval_of_its_test_set(accuracy, images, warned):
    low = (
        scipy.stats.binomtest(round(accuracy * 4 * images), 4 * images)
        .proportion_ci(method="wilson")
        .low
    )
    assert (low <= 0.25) == warned
    found = said([accuracy], images=(images,) * 4)
    assert any("chance" in sentence for sentence in found) == warned


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_the_interval_of_a_share_is_wilsons(share):
    expected = scipy.stats.binomtest(round(share * 20), 20).proportion_ci(method="wilson")
    assert statistics.binomial_interval(share, 20) == pytest.approx(
        (expected.low, expected.high), abs=1e-12
    )


@pytest.mark.parametrize(
    ("best", "warned"), [([39, 38, 39, 2, 3], True), ([39, 38, 2, 3, 4], False)]
)
def test_trainings_that_were_cut_off_are_said_where_they_are_most(best, warned):
    results = [result(value, best_epoch=epoch) for value, epoch in zip(SOUND, best, strict=True)]
    found = result_warnings.result_warnings(
        {"": results}, result_warnings.Warned(epochs_option="--fine-tune-epochs")
    )
    assert any("raise --fine-tune-epochs" in sentence for sentence in found) == warned


@pytest.mark.parametrize(("n", "warned"), [(1, True), (2, True), (3, True), (4, False), (5, False)])
def test_fewer_than_four_splits_are_said_with_their_number(n, warned):
    assert (
        any(f"fewer than 4 splits (n = {n})" in sentence for sentence in said(SOUND[:n])) == warned
    )


@pytest.mark.parametrize(
    ("images", "warned"), [((10, 10, 10, 10), ""), ((9, 50, 50, 3), "2 of 4 test classes")]
)
def test_classes_of_fewer_than_ten_test_images_are_counted_and_the_smallest_named(images, warned):
    found = [sentence for sentence in said(images=images) if "fewer than 10 images" in sentence]
    assert bool(found) == bool(warned)
    assert all(warned in sentence and "class3: 3" in sentence for sentence in found)


@pytest.mark.parametrize(("batch", "warned"), [(40, False), (41, True)])
def test_a_batch_larger_than_the_training_set_is_said(batch, warned):
    assert (
        any("larger than the training set (40 rows)" in s for s in said(batch_size=batch)) == warned
    )


def test_crops_count_as_rows_of_the_training_set():
    one = result(0.8, batch_size=64)
    one.details["crops"] = 10
    assert not any("batch" in sentence for sentence in result_warnings.result_warnings({"": [one]}))


@pytest.mark.parametrize("values", [[0.02, 0.3], [0.98, 0.7], [0.0, 1.0], [1.0, 1.0]])
def test_intervals_of_accuracies_stay_between_0_and_1_wherever_they_are_made(values):
    row = statistics.by_shots([{"shots": 1, "test_accuracy": value} for value in values])[0]
    quanta_row = quanta_report._estimated("test_accuracy", values)
    final = tuning_report.test([result(value) for value in values], None)
    for low, high in (
        (row["low"], row["high"]),
        (final["ci95_low"], final["ci95_high"]),
        (quanta_row["test_accuracy_low"], quanta_row["test_accuracy_high"]),
    ):
        assert 0 <= low <= np.mean(values) <= high <= 1
    half = statistics.student_t(1) * np.std(values, ddof=1) / np.sqrt(2)
    assert row["ci"] == pytest.approx(half)  # the half width itself is not cut


def test_a_cell_of_fewer_than_four_splits_shows_their_range_and_of_more_the_interval():
    two, five = (
        {"splits": len(values), **statistics.accuracy_columns(values)}
        for values in (SOUND[:2], SOUND)
    )
    assert tables.accuracy(two) == "81.0 (80.0 to 82.0)"
    assert tables.accuracy(five) == f"80.0 ± {100 * five['ci']:.1f}"


def test_what_is_drawn_around_two_splits_is_their_range():
    row = {"splits": 2, **statistics.accuracy_columns([0.5, 0.6])}
    assert statistics.drawn_ends(row) == (0.5, 0.6)
    assert row["high"] - row["low"] == 1.0  # Student's interval says nothing here


def test_a_caption_makes_a_figure_larger_or_other_and_the_same_bytes_again():
    rows = statistics.by_shots([{"shots": k, "test_accuracy": v} for k in (1, 5) for v in SOUND])
    plain, warned, again = (
        figures.few_shot_curve(rows, caption=caption)
        for caption in ((), ("take care",), ("take care",))
    )
    assert plain != warned == again


# ---------------------------------------------------------------- every study

GUESSING = [0.25, 0.26, 0.24]
# study → (how it finds its warnings, what the specs of its results hold beside the recipe)
STUDIES = {
    "fine-tuning": (reporting.warnings_of, {"shots": 1, "split": 0}),
    "feature extraction": (reporting.warnings_of, {"shots": 1, "split": 0, "classifier": "ridge"}),
    "pre-training": (reporting.warnings_of, {}),
    "layer transfer": (
        layer_transfer_report.warnings_of,
        {"copied": 0, "task": "B", "bn": "frozen"},
    ),
    "chop": (chop_report.warnings_of, {"cut": 2}),
    "pruning": (chop_report.warnings_of, {"round": 1}),
    "quanta": (quanta_report.warnings_of, {"position": "witness"}),
    "checkpoints": (
        checkpoints_report.warnings_of,
        {"source": "noise", "checkpoint": "1", "dataset": "mnist"},
    ),
}


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_that_reports_accuracies_says_every_warning(name):
    find, spec = STUDIES[name]
    small = [
        result(value, images=(5, 5, 5, 5), best_epoch=39, batch_size=99, **spec)
        for value in GUESSING
    ]
    found = " | ".join(find(small))
    for fault in (
        "not above chance",
        "training was not over",
        "fewer than 4",
        "fewer than 10 images",
        "larger than the training set",
    ):
        assert fault in found, fault


def test_the_final_test_of_a_search_says_them(tmp_path):
    report = types.SimpleNamespace(
        final=[result(value) for value in GUESSING], folder=tmp_path / "runs"
    )
    assert any("chance" in sentence for sentence in tuning_report.warnings_of(report))


def test_t_and_distances_are_not_negative_and_their_plus_minus_is_whole():
    row = {
        "transferability": 0.5,
        "transferability_low": 0.0,
        "transferability_high": 1.5,
        "confounded": 0,
        "defined": 5,
    }
    assert parameter_distance_report.t_of(row) == "0.50 ± 1.00"


# ---------------------------------------------------------------- what intervals cover


def coverage(split_sd, test_sd, *, new_images, splits=5, tries=4000):
    """How often the interval of a mean over splits covers the expected accuracy, on this test set
    or on new images.

    Each try has one test set, whose difficulty all its splits share.
    """
    chance = np.random.default_rng(7)
    test_set = chance.normal(0, test_sd, tries)
    values = 0.5 + test_set[:, None] + chance.normal(0, split_sd, (tries, splits))
    covered = 0
    for row, difficulty in zip(values, test_set, strict=True):
        found = statistics.estimate(row)
        covered += found.low <= 0.5 + (0 if new_images else difficulty) <= found.high
    return covered / tries


def test_intervals_cover_what_their_sentence_says():
    stated = [
        float(number) for number in re.findall(r"(?<!\d)\.\d\d", result_warnings.INTERVALS_COVER)
    ]
    low, high, *new = stated
    for split_sd, test_sd in ((0.05, 0.01), (0.02, 0.02), (0.01, 0.03)):
        here = coverage(split_sd, test_sd, new_images=False)
        assert low <= here <= high + 0.01, "the expected accuracy on this test set"
    found = [coverage(sd, 0.02, new_images=True) for sd in (0.05, 0.02, 0.01)]
    assert new == sorted(new, reverse=True)
    assert found == sorted(found, reverse=True), (
        "the less splits differ, the less often new images are covered"
    )
    assert found[-1] < low - 0.1


def coverage_of_new_images(splits, tries=300, classes=4, per_class=25):
    """How often an interval over draws and images covers the expected accuracy, by simulation: an
    image is right where its ease, that of the draw and that of both together are above 0.
    """
    chance = np.random.default_rng(splits)
    labels = np.repeat(np.arange(classes), per_class)
    means = {1: 0.0, 2: 0.4, 5: 0.8, 10: 1.1}
    total = np.sqrt(0.3**2 + 0.8**2 + 0.6**2)
    covered = []
    for _ in range(tries):
        ease = chance.normal(0, 0.8, len(labels))
        parts = {}
        for shots, mean in means.items():
            draws = chance.normal(0, 0.3, (splits, 1))
            both = chance.normal(0, 0.6, (splits, len(labels)))
            parts[shots] = crossed.components((mean + ease + draws + both > 0) * 1.0, labels)
        for shots, (found, _) in crossed.estimates_of_means(parts).items():
            truth = scipy.stats.norm.cdf(means[shots] / total)
            covered.append(found.low <= truth <= found.high)
    return np.mean(covered)


@pytest.mark.parametrize("splits", [3, 5, 10])
def test_intervals_over_draws_and_images_cover_what_their_sentence_says(splits):
    sentence = result_warnings.COVER[statistics.DRAWS_AND_IMAGES]
    low, high = (float(number) for number in re.findall(r"(?<!\d)\.\d\d", sentence))
    assert low <= coverage_of_new_images(splits) <= high + 0.01


def test_what_intervals_cover_is_said_only_where_there_is_an_interval():
    assert result_warnings.lines(["x"]) == [result_warnings.INTERVALS_COVER, "warning: x"]
    assert result_warnings.lines(["x"], intervals=False) == ["warning: x"]
    assert result_warnings.lines(["x"], over=[]) == ["warning: x"]
    assert result_warnings.lines([], over=statistics.OVER) == list(result_warnings.COVER.values())


@pytest.mark.parametrize("n", [2, 3])
def test_t_of_fewer_than_four_repeats_is_shown_with_its_range(n):
    row = {
        "transferability": 2.0,
        "transferability_low": 0.0,
        "transferability_high": 9.0,
        "confounded": 1,
        "transferability_lowest": 1.5,
        "transferability_highest": 2.5,
        "defined": n,
    }
    assert parameter_distance_report.t_of(row) == "2.00 (1.50 to 2.50) !"
    assert statistics.ends_of(row, "transferability", n) == (1.5, 2.5)
