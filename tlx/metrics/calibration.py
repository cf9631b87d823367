"""Calibration of probabilities: the temperature of a softmax, and the expected calibration error.

Guo, Pleiss, Sun and Weinberger 2017, On calibration of modern neural networks, arXiv:1706.04599.
"""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp, softmax

from ..errors import BadDataError

BINS = 15
LIMIT = 12.0  # of |log T|: beyond, all probabilities are 0 and 1, or all equal
TINY = 1e-300  # a probability that underflowed still has a logarithm
STEPS, SMALLEST_STEP = 100, 1e-10


def temperature(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the T of least log-loss of the mean over crops of softmax(scores / T), by Newton.

    The loss is of n + 1 images: one more, of unknown class, is shared out evenly over images and
    classes. Without it T would be 0 wherever all n are classified rightly.

    scores  (n, c, k) of c crops of n validation images
    labels  (n,) class of each
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 3 or not scores.size or scores.shape[:1] != np.shape(labels):
        raise BadDataError(
            "scores-shape",
            f"scores of shape {scores.shape} for labels of shape {np.shape(labels)}",
            expected="(images, crops, classes), and a label for each image",
        )
    weights = _targets(labels, scores.shape[2])
    at = -np.log(max(float(scores.std()), 1e-12))  # of log 1/T
    value, slope, curvature = _loss(scores, weights, at)
    for _ in range(STEPS):
        step = -slope / curvature if curvature > 0 else -np.sign(slope)
        step = float(np.clip(step, -1, 1))
        while abs(step) > SMALLEST_STEP:  # halved until the loss falls
            after = float(np.clip(at + step, -LIMIT, LIMIT))
            new = _loss(scores, weights, after)
            if new[0] < value:
                break
            step /= 2
        if abs(step) <= SMALLEST_STEP:
            break
        at, (value, slope, curvature) = after, new
    return float(np.exp(-at))


def temperatures(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Return (T_crop, T_image) of p = softmax(log q / T_image), q = mean softmax(scores / T_crop).

    T_crop is fitted to the crops as if each were an image, then T_image to the images. Crops that
    disagree make their mean less sure than it is right; T_image below 1 undoes that. Arguments as
    for `temperature`.
    """
    scores = np.asarray(scores, np.float64)
    of_crop = temperature(scores, labels)
    if scores.shape[1] > 1:
        rows = scores.reshape(-1, 1, scores.shape[2])
        of_crop = temperature(rows, np.repeat(labels, scores.shape[1]))
    log_p = scores / of_crop - logsumexp(scores / of_crop, axis=2, keepdims=True)
    log_mean = logsumexp(log_p, axis=1, keepdims=True) - np.log(scores.shape[1])
    return of_crop, temperature(log_mean, labels)


def calibrated(scores: np.ndarray, of: tuple[float, float], labels: np.ndarray) -> np.ndarray:
    """Return the probabilities (n, k) of images from the scores (n, c, k) of their crops.

    of      the two temperatures, as `temperatures` returns them
    labels  (n,) the decision for each image; where another class is likelier, the two are exchanged
    """
    of_crop, of_image = of
    q = softmax(np.asarray(scores, np.float64) / of_crop, axis=2).mean(axis=1)
    p: np.ndarray = softmax(np.log(np.maximum(q, TINY)) / of_image, axis=1)
    rows, likeliest = np.arange(len(p)), p.argmax(axis=1)
    p[rows, likeliest], p[rows, labels] = p[rows, labels], p[rows, likeliest]
    return p


def _targets(labels: np.ndarray, classes: int) -> np.ndarray:
    """Return (n, k) weights of each image's classes: the share 1/(n + 1) is spread evenly."""
    share = 1 / (len(labels) + 1)
    weights = np.full((len(labels), classes), share / classes)
    weights[np.arange(len(labels)), labels] += 1 - share
    return weights


def _loss(scores: np.ndarray, weights: np.ndarray, at: float) -> tuple[float, float, float]:
    """Return the log-loss at 1/T = exp(at), with its first and second derivative in `at`."""
    beta = np.exp(at)
    log_p = beta * scores - logsumexp(beta * scores, axis=2, keepdims=True)
    p = np.exp(log_p)
    mean = (p * scores).sum(axis=2, keepdims=True)
    away = scores - mean  # of log p by 1/T
    spread = (p * away**2).sum(axis=2, keepdims=True)
    of_crop = softmax(log_p, axis=1)  # share of each crop in the mean probability of a class
    log_mean = logsumexp(log_p, axis=1) - np.log(scores.shape[1])
    first = (of_crop * away).sum(axis=1)
    second = (of_crop * (away**2 - spread)).sum(axis=1) - first**2
    value, slope, curvature = (
        -float((weights * part).sum()) / len(weights) for part in (log_mean, first, second)
    )
    return value, beta * slope, beta**2 * curvature + beta * slope


def expected_calibration_error(
    probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS
) -> float:
    """Return the mean gap between confidence and accuracy over bins of equal width, a fraction.

    probabilities  (n, k); labels (n,) true classes
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(place, confidence - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))
