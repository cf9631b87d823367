"""95 % intervals of mean test accuracies over draws and images, from kept predictions.

Trials that differ in their split alone are a table of splits × test images, right or wrong: the
layout of `metrics.crossed`. Where a trial kept no predictions that can be used, the interval of its
mean is Student's t over draws (`plots.statistics`), and `MeanIntervals.reasons` says why.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import TlxError
from ..lab.store import Store
from ..plots import statistics
from ..plots.statistics import MeanInterval
from ..result import FINISHED, Result
from . import predictions

if TYPE_CHECKING:
    import numpy as np

    from ..metrics import crossed

SCORES = ("test_accuracy", "test_top1")  # mean over classes, and over images
TOLERANCE = 1e-9  # between an accuracy and that of the kept predictions
NAMED = 2  # trials of one mean that a reason names
CACHED = 1024  # means whose predictions are not read again

Mean = tuple[str, int]  # classifier, "" where networks are fine-tuned; shots


@dataclass(frozen=True)
class MeanIntervals:
    """Intervals of the means of a study.

    by_mean   mean → its interval over draws and images
    reasons   mean → why it has none, by trials: "5-shot split 0 (…) kept no predictions"
    overlaps  mean → expected share of training images that two draws have in common
    """

    by_mean: Mapping[Mean, MeanInterval] = field(default_factory=dict)
    reasons: Mapping[Mean, str] = field(default_factory=dict)
    overlaps: Mapping[Mean, float] = field(default_factory=dict)

    def of_line(self, classifier: str) -> dict[int, MeanInterval]:
        """Return the intervals of a classifier by shots."""
        return {
            shots: interval
            for (line, shots), interval in self.by_mean.items()
            if line == classifier
        }


def mean_of(result: Result) -> Mean:
    """Return the mean that a trial belongs to."""
    return str(result.spec.get("classifier", "")), int(result.spec.get("shots") or 0)


def of_results(store: Store, results: Iterable[Result], score: str = SCORES[0]) -> MeanIntervals:
    """Return the intervals of the means of these few-shot trials.

    Trials of one classifier and number of shots are one mean; those without the score are left out.
    The variance over draws at each number of shots leans on the others
    (`crossed.estimates_of_means`).
    What is wrong with a file of predictions is a reason, never an error.

    score  one of SCORES
    """
    from ..metrics import crossed

    means: dict[Mean, list[Result]] = {}
    for result in results:
        if result.spec.get("shots") and _is_scored(result, score):
            means.setdefault(mean_of(result), []).append(result)
    read = {mean: _parts_of(store, trials, score) for mean, trials in means.items()}
    by_mean: dict[Mean, MeanInterval] = {}
    for line in dict.fromkeys(line for line, _ in means):
        of_line = {mean: parts for mean, parts in read.items() if mean[0] == line}
        lending = {
            mean[1]: _scores_alone(means[mean], score) if isinstance(parts, str) else parts
            for mean, parts in of_line.items()
        }
        estimates = crossed.estimates_of_means(lending)
        for mean, parts in of_line.items():
            estimate, lent_df = estimates[mean[1]]
            if not isinstance(parts, str) and estimate is not None:
                by_mean[mean] = shown(parts, estimate, lent_df)
    return MeanIntervals(
        by_mean,
        {mean: parts for mean, parts in read.items() if isinstance(parts, str)},
        {mean: parts.overlap for mean, parts in read.items() if not isinstance(parts, str)},
    )


def of_difference(
    store: Store, pairs: Sequence[tuple[Result, Result]], score: str = SCORES[0]
) -> MeanInterval | None:
    """Return the interval of the mean difference, first minus second, of trials of the same splits.

    None where a table is missing, or the two were tested on different images.

    pairs  trials of the same shots and split, both with the score
    """
    from ..metrics import crossed

    trials = [trial for pair in pairs for trial in pair]
    sides = [list(side) for side in zip(*pairs, strict=True)]
    if not pairs or any(isinstance(_parts_of(store, side, score), str) for side in sides):
        return None
    try:
        right, truth = _table(_kept(store, trials, score))
    except _UnusableError:
        return None
    parts = crossed.components(
        right[::2] - right[1::2], _weighed(truth, score), shots=_shots(trials), pool=_pool(trials)
    )
    estimate = crossed.estimate(parts)
    return None if estimate is None else shown(parts, estimate, bounds=statistics.DIFFERENCE)


def shown(
    parts: crossed.Components,
    estimate: crossed.Estimate,
    lent_df: float = 0.0,
    *,
    bounds: tuple[float, float] = statistics.ACCURACY,
) -> MeanInterval:
    """Return an interval as it is shown: within its bounds, with what it covers."""
    is_one_draw = parts.split_var is None
    low, high = bounds
    return MeanInterval(
        statistics.IMAGES if is_one_draw else statistics.DRAWS_AND_IMAGES,
        min(max(estimate.low, low), high),
        max(min(estimate.high, high), low),
        (estimate.high - estimate.low) / 2.0,
        0.0 if is_one_draw else parts.splits - 1 + lent_df,
    )


def _is_scored(result: Result, score: str) -> bool:
    return result.status == FINISHED and math.isfinite(result.scores.get(score, math.nan))


def _scores_alone(trials: Sequence[Result], score: str) -> crossed.Components:
    from ..metrics import crossed

    return crossed.components_of_scores([trial.scores[score] for trial in trials])


# ---------------------------------------------------------------- reading


@dataclass(frozen=True)
class _Kept:
    """What a table needs of a trial; equal as long as its files are the same.

    stamps  of its files of predictions: what changes when they do; None for one that is not there
    """

    folder: Path
    name: str
    score: float
    images: int
    test_digest: str
    stamps: tuple[tuple[int, int] | None, ...]

    @classmethod
    def of(cls, store: Store, trial: Result, score: str) -> _Kept:
        """Return what is needed of a trial."""
        folder, details, spec = store.folder(trial.key), trial.details, trial.spec
        return cls(
            folder,
            f"{spec['shots']}-shot split {spec.get('split')} ({trial.key[:12]})",
            float(trial.scores[score]),
            int(details.get("test_images") or 0),
            str(details.get("test_digest") or ""),
            tuple(_stamp(folder / name) for name in predictions.FILES),
        )

    def classes(self, name: str) -> np.ndarray:
        """Return one of its files of predictions. Raises _UnusableError, saying why."""
        try:
            classes = predictions.mapped(self.folder, name, self.images)
        except (TlxError, OSError) as error:
            what = error.what if isinstance(error, TlxError) else error.strerror or error
            raise _UnusableError(f"{name} of {self.name} cannot be read: {what}") from error
        if classes is None:
            raise _UnusableError(f"{self.name} kept no predictions")
        return classes


class _UnusableError(Exception):
    """Predictions that cannot be used, and why."""


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _kept(store: Store, trials: Sequence[Result], score: str) -> tuple[_Kept, ...]:
    return tuple(_Kept.of(store, trial, score) for trial in trials)


def _shots(trials: Sequence[Result]) -> int:
    return int(trials[0].spec["shots"])


def _pool(trials: Sequence[Result]) -> int | None:
    """Return the training images per class that draws are made from; None where not recorded."""
    pools = [int(trial.details["pool"]) for trial in trials if trial.details.get("pool")]
    return max(_shots(trials), min(pools)) if pools else None


def _weighed(truth: np.ndarray, score: str) -> np.ndarray:
    """Return the classes that weigh the same in a score: those of the images, or one of all."""
    return truth if score == SCORES[0] else truth * 0


def _parts_of(store: Store, trials: Sequence[Result], score: str) -> crossed.Components | str:
    """Return the parts of variance of a mean, or why there are none."""
    return _read(_kept(store, trials, score), score, _shots(trials), _pool(trials))


@functools.lru_cache(CACHED)
def _read(
    kept: tuple[_Kept, ...], score: str, shots: int, pool: int | None
) -> crossed.Components | str:
    """Return the parts of variance of trials, or why there are none; each file is read once."""
    try:
        right, truth = _table(kept)
    except _UnusableError as error:
        return str(error)
    from ..metrics import crossed

    parts = crossed.components(right, _weighed(truth, score), shots=shots, pool=pool)
    if parts.image_df == 0:
        return "no class has two test images"
    for trial, accuracy in zip(kept, parts.by_split, strict=True):
        if abs(accuracy - trial.score) > TOLERANCE:
            return f"predictions of {trial.name} give {accuracy:.4f}, not its accuracy"
    return parts


def _table(kept: Sequence[_Kept]) -> tuple[np.ndarray, np.ndarray]:
    """Return right (1) or wrong (0), (splits, images), and the true classes (images,).

    Raises _UnusableError: a trial kept none, another set of test images, a damaged file.
    """
    import numpy as np

    without = [trial.name for trial in kept if not trial.test_digest]
    if without:
        raise _UnusableError(f"{_some(without)} kept no predictions")
    if len({trial.test_digest for trial in kept}) > 1:
        raise _UnusableError("the splits were tested on different images")
    truth = kept[0].classes(predictions.TRUTH)
    right = np.empty((len(kept), len(truth)), np.int8)
    for row, trial in zip(right, kept, strict=True):
        predicted = trial.classes(predictions.PREDICTIONS)
        if len(predicted) != len(truth):
            raise _UnusableError("the splits were tested on different images")
        row[:] = predicted == truth
    return right, np.asarray(truth, np.int64)


def _some(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
