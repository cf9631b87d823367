"""Trial: every score of one source, from its activations of training images. Nothing is trained."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import Stopped
from ...result import FINISHED, Result
from ...spec import derive_seed
from .spec import SourceScores

if TYPE_CHECKING:
    import numpy as np

    from ...features.dump import Dump
    from ...metrics.scores import ScoreValue
    from ..base import TrialContext


@dataclass(frozen=True)
class ScoredDraw:
    """Images that scores are computed from.

    shots, split  of the draw; shots 0: all training images
    images        (n,) int64, which images of the dump
    labels        (n,) int64, their classes
    """

    shots: int
    split: int
    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class ScoreInputs:
    """Inputs of one source.

    layers      of the dump, whose rows are the features
    head        layer of the dump with the logits of the source's own head; "" without
    no_head     why there is none
    nulls       what is known of the source without an image of the target
    """

    classes: tuple[str, ...]
    dump: Dump
    layers: tuple[str, ...]
    head: str
    no_head: str
    draws: tuple[ScoredDraw, ...]
    nulls: Mapping[str, float | None]


def run(spec: SourceScores, inputs: ScoreInputs, context: TrialContext) -> Result:
    """Compute every score on every draw and on all training images."""
    from ...metrics.scores import SCORES

    started = time.perf_counter()
    features, probabilities = _features(inputs), _probabilities(inputs)
    values: dict[str, list[float | None]] = {name: [] for name in SCORES}
    reasons: dict[str, list[str]] = {name: [] for name in SCORES}
    seconds = dict.fromkeys(SCORES, 0.0)
    seed = derive_seed(spec.seed, "scores") % 2**31
    for number, draw in enumerate(inputs.draws, 1):
        if context.stopping():
            raise Stopped(15)
        own = None if probabilities is None else probabilities[draw.images]
        for name, value, spent_s in _scored(features[draw.images], draw.labels, own, seed):
            reason = value.reason
            if value.score is None and own is None and name in ("leep", "nce"):
                reason = inputs.no_head
            values[name].append(value.score)
            seconds[name] += spent_s
            reasons[name].append(reason)
        context.tell(number, len(inputs.draws))
    details: dict[str, Any] = {
        "classes": list(inputs.classes),
        "draws": [[draw.shots, draw.split] for draw in inputs.draws],
        "images": [len(draw.images) for draw in inputs.draws],
        "values": values,
        "reasons": reasons,
        "seconds": seconds,
        "nulls": dict(inputs.nulls),
        "features": features.shape[1],
        "layers": list(inputs.layers),
        "crops": inputs.dump.crops,
        "dump": inputs.dump.key,
    }
    context.inherit(inputs.dump.usage(inputs.dump.rows))
    own_s = time.perf_counter() - started
    extraction_s = inputs.dump.own_s + inputs.dump.inherited_s
    scores = {
        "scores_s": sum(seconds.values()),
        "extraction_s": extraction_s,
        "own_s": own_s,
        "inherited_s": extraction_s,
        "total_s": own_s + extraction_s,
    }
    return Result.of(spec, status=FINISHED, scores=scores, details=details)


def _scored(
    features: np.ndarray, labels: np.ndarray, own: np.ndarray | None, seed: int
) -> Iterator[tuple[str, ScoreValue, float]]:
    """Yield each score, its value and its seconds; the first that needs an SVD pays for it."""
    import math

    from ...metrics import scores

    table = scores.feature_table(features, labels, source_probabilities=own, seed=seed)
    for name, row in scores.SCORES.items():
        started = time.perf_counter()
        value = row.compute(table)
        if value.score is not None and not math.isfinite(value.score):
            value = scores.ScoreValue(None, "not a finite number")
        yield name, value, time.perf_counter() - started


def _features(inputs: ScoreInputs) -> np.ndarray:
    """Return (n, d) float64: a row an image, the mean of its crops."""
    return _mean_of_crops(inputs.dump.matrix(inputs.layers), inputs.dump.crops)


def _probabilities(inputs: ScoreInputs) -> np.ndarray | None:
    """Return (n, z), the mean over the crops of the softmax of the source's head."""
    from scipy.special import softmax

    if not inputs.head:
        return None
    logits = inputs.dump.matrix((inputs.head,))
    return _mean_of_crops(softmax(logits.astype("float64"), axis=1), inputs.dump.crops)


def _mean_of_crops(rows: np.ndarray, crops: int) -> np.ndarray:
    import numpy as np

    by_image = rows.reshape(-1, crops, rows.shape[1])
    result: np.ndarray = by_image.mean(axis=1, dtype=np.float64)
    return result
