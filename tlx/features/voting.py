"""Votes: logits of every crop → one class per image → a score.

Counts first (the confusion matrix, integers), one division last: so a score does not depend on
order.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..errors import BadDataError


def majority(logits: np.ndarray) -> np.ndarray:
    """Return the class that most crops vote for.

    Of several with as many votes, the first among the crops.

    logits (n, c, k) float — k class scores of each of c crops
    →      (n,) int64
    """
    ballots = logits.argmax(axis=2)
    votes = (ballots[:, :, None] == ballots[:, None, :]).sum(
        axis=2
    )  # (n, c): votes for each crop's choice
    first = votes.argmax(axis=1)  # argmax takes the first of equals
    result: np.ndarray = ballots[np.arange(len(ballots)), first].astype(np.int64)
    return result


def mean_probability(logits: np.ndarray) -> np.ndarray:
    """Return the class of the largest softmax probability averaged over the crops.

    logits (n, c, k) → (n,) int64.
    """
    z = logits.astype(np.float64)
    p = np.exp(z - z.max(axis=2, keepdims=True))
    p /= p.sum(axis=2, keepdims=True)
    result: np.ndarray = p.mean(axis=1).argmax(axis=1).astype(np.int64)
    return result


VOTING: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "majority": majority,
    "mean-probability": mean_probability,
}


def per_image(logits: np.ndarray, crops: int, rule: str = "majority") -> np.ndarray:
    """Return the predicted class of every image.

    logits (n·c, k), image by image, crops in order → (n,) int64.
    """
    if not np.isfinite(logits).all():  # argmax of NaN is class 0: never a prediction
        raise BadDataError("logits-not-finite", "NaN or infinity among the logits")
    return VOTING[rule](logits.reshape(len(logits) // crops, crops, -1))


def confusion(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Return counts (k, k) int64: rows are the true class, columns the predicted one.

    truth, predicted (n,) int.
    """
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (truth, predicted), 1)
    return counts


def class_counts(labels: np.ndarray, classes: int) -> list[int]:
    """Return how many images each class has.

    labels (n,) int.
    """
    result: list[int] = np.bincount(labels, minlength=classes).tolist()
    return result


def mean_per_class_accuracy(counts: np.ndarray) -> float:
    """Compute the mean accuracy over the classes that have images, a fraction.

    counts (k, k).
    """
    images = counts.sum(axis=1)
    present = images > 0
    return (
        float(np.mean(np.diag(counts)[present] / images[present]))
        if present.any()
        else float("nan")
    )


def accuracy(logits: np.ndarray, labels: np.ndarray, crops: int, rule: str = "majority") -> float:
    """Compute the mean per-class accuracy of the crops' decision, a fraction.

    logits (n·c, k), labels (n,) int.
    """
    return mean_per_class_accuracy(
        confusion(labels, per_image(logits, crops, rule), logits.shape[1])
    )
