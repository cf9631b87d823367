"""Nine metrics of the original, by Keras's definitions."""

from __future__ import annotations

import numpy as np

from ...models.training import cross_entropy

THRESHOLD, TOP = 0.5, 3


def keras_scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Compute the metrics of logits (n, k) float32 and labels (n,) int64.

    loss  mean cross-entropy in nats; top1, top3: shares of images whose class is (among the three
          of) the largest
    false_positives, …, true_negatives  over all n · k pairs of image and class, a pair being
                                        positive where the
          softmax is above 0.5: an image without a class above one half predicts nothing (micro
          average)
    precision, recall  of these pairs; 0 where nothing is predicted
    """
    z = logits.astype(np.float64)
    powers = np.exp(z - z.max(axis=1, keepdims=True))
    predicted = powers / powers.sum(axis=1, keepdims=True) > THRESHOLD
    true = labels[:, None] == np.arange(logits.shape[1])
    tp, fp = int((predicted & true).sum()), int((predicted & ~true).sum())
    fn, tn = int((~predicted & true).sum()), int((~predicted & ~true).sum())
    own = logits[np.arange(len(labels)), labels]
    above = (logits > own[:, None]).sum(axis=1)
    return {
        "loss": cross_entropy(logits, labels),
        "top1": float((logits.argmax(axis=1) == labels).mean()),
        "precision": tp / (tp + fp) if tp + fp else 0.0,
        "recall": tp / (tp + fn) if tp + fn else 0.0,
        "false_positives": float(fp),
        "false_negatives": float(fn),
        "true_positives": float(tp),
        "true_negatives": float(tn),
        "top3": float((above < TOP).mean()),
    }
