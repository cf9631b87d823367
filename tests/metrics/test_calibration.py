"""Temperatures and the calibration error, by numpy alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from tlx.errors import BadDataError
from tlx.metrics import calibration


def drawn(n=200, c=1, k=4, seed=0, sharp=2.0):
    """Scores whose softmax at temperature `sharp` is the truth that the labels are drawn from."""
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal((n, 1, k)) * 3
    p = softmax(scores[:, 0] / sharp, axis=1)
    labels = np.array([rng.choice(k, p=row) for row in p])
    return scores + rng.standard_normal((n, c, k)) * (c > 1), labels


def loss(scores, labels, temperature):
    p = softmax(scores / temperature, axis=2).mean(axis=1)
    share = 1 / (len(labels) + 1)
    target = np.full(p.shape, share / p.shape[1])
    target[np.arange(len(labels)), labels] += 1 - share
    return -(target * np.log(p)).sum(axis=1).mean()


@pytest.mark.parametrize("crops", [1, 10])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_no_temperature_nearby_has_less_loss(crops, scale):
    scores, labels = drawn(c=crops)
    found = calibration.temperature(scores * scale, labels)
    least = loss(scores * scale, labels, found)
    for factor in np.geomspace(0.1, 100, 301):
        assert least <= loss(scores * scale, labels, found * factor) + 1e-12


def test_the_temperature_that_labels_were_drawn_at_is_found():
    scores, labels = drawn(n=20_000, sharp=2.0)
    assert calibration.temperature(scores, labels) == pytest.approx(2.0, rel=0.05)


def test_scores_in_other_units_have_a_temperature_in_those_units():
    scores, labels = drawn()
    once = calibration.temperature(scores, labels)
    assert calibration.temperature(scores * 1000, labels) == pytest.approx(1000 * once, rel=1e-6)


def test_images_all_classified_rightly_do_not_make_the_model_certain():
    labels = np.arange(30) % 3
    scores = np.eye(3)[labels][:, None]
    temperature = calibration.temperature(scores, labels)
    surest = softmax(scores[:, 0] / temperature, axis=1).max()
    assert surest == pytest.approx(1 - (1 / 31) * (2 / 3), rel=1e-6)


def test_scores_that_know_nothing_become_even_probabilities():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 60)
    scores = -np.eye(3)[labels][:, None]  # always wrong
    temperature = calibration.temperature(scores, labels)
    np.testing.assert_allclose(softmax(scores[:, 0] / temperature, axis=1), 1 / 3, atol=1e-3)


def test_one_crop_needs_no_second_temperature():
    scores, labels = drawn()
    of_crop, of_image = calibration.temperatures(scores, labels)
    assert of_crop == calibration.temperature(scores, labels)
    assert of_image == pytest.approx(1, abs=1e-6)


def test_two_temperatures_have_less_loss_than_one():
    scores, labels = drawn(c=10)
    of = calibration.temperatures(scores, labels)
    q = np.log(softmax(scores / of[0], axis=2).mean(axis=1))[:, None]
    one = loss(scores, labels, calibration.temperature(scores, labels))
    assert loss(q, labels, of[1]) <= one + 1e-9


def test_the_label_is_the_likeliest_class_and_probabilities_are_only_exchanged():
    scores, _ = drawn(c=10, k=5)
    decided = np.random.default_rng(5).integers(0, 5, len(scores))
    p = calibration.calibrated(scores, (1.3, 0.7), decided)
    q = softmax(np.log(softmax(scores / 1.3, axis=2).mean(axis=1)) / 0.7, axis=1)
    assert (p.argmax(axis=1) == decided).all()
    np.testing.assert_allclose(np.sort(p, axis=1), np.sort(q, axis=1))
    same = q.argmax(axis=1) == decided
    np.testing.assert_allclose(p[same], q[same])


def test_the_calibration_error_by_a_loop():
    rng = np.random.default_rng(2)
    p = softmax(rng.standard_normal((500, 4)) * 2, axis=1)
    p[0] = [1, 0, 0, 0]
    labels = rng.integers(0, 4, 500)
    want = 0.0
    for b in range(15):
        top = p.max(axis=1)
        held = (top >= b / 15) & ((top < (b + 1) / 15) | (b == 14))
        if held.any():
            right = (p.argmax(axis=1) == labels)[held].mean()
            want += held.mean() * abs(right - top[held].mean())
    assert calibration.expected_calibration_error(p, labels) == pytest.approx(want)


def test_a_sure_and_right_model_has_no_calibration_error():
    labels = np.array([0, 1, 2, 1])
    assert calibration.expected_calibration_error(np.eye(3)[labels], labels) == 0


@pytest.mark.parametrize("shape", [(3, 2), (0, 1, 2), (4, 1, 2)], ids=str)
def test_scores_of_another_shape_are_refused(shape):
    with pytest.raises(BadDataError, match="shape"):
        calibration.temperature(np.zeros(shape), np.zeros(3, int))
