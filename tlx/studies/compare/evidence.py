"""Trials of both sides as pairs: same split, same test images."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NotRequired, TypedDict

import numpy as np

from ...errors import BadDataError, TlxError, counted
from ...lab.store import Store
from ...metrics import crossed
from ...metrics.paired import Contrast
from ...result import FINISHED, Result
from ...spec import kinds_of
from .. import intervals, predictions
from ..base import StudyReport
from ..few_shot import FewShotTrial
from ..fine_tuning.spec import FineTuning
from ..source_list import source_label

FEATURES, TUNING = "feature extraction", "fine-tuning"
SIDES = {FEATURES: "feature-extraction", TUNING: "fine-tuning"}  # side → kind of its trials
VALIDATION = "best_val_accuracy"
ALL = "all"  # what a fine-tuning trains by default
LEARNING_RATE = float(str(FineTuning.defaults()["learning_rate"]))

Place = tuple[int, int]  # (shots, split)
Trials = dict[Place, Result]


@dataclass(frozen=True)
class FailedArm:
    """Arm without a result: every trial of it that was run ended in an error.

    side    that it is an arm of
    trials  number of them
    error   the first one, in words
    """

    side: str
    arm: str
    trials: int
    error: str

    @property
    def words(self) -> str:
        """Return what failed, and with what."""
        trials = f"all {counted(self.trials, 'trial')} of it"
        if self.trials == 1:
            trials = "its only trial"
        return f"{self.side} by {self.arm} is left out: {trials} failed, first with {self.error}"

    def identity(self) -> dict[str, object]:
        """Return what is the same when the same trials fail again: all but the error's words."""
        return {"side": self.side, "arm": self.arm, "trials": self.trials}


OF_DRAW = {"shots", "split", "images"}  # settings that differ within an arm
OF_PLACE = {"dataset", "split_path", "precomputed_crops", "model", "log_model"}  # no part of it


@dataclass
class Side:
    """Arms of one side: name → trials by shots and split.

    Trials that differ in a setting are of different arms; the name has what tells them apart.
    """

    name: str
    arms: dict[str, Trials] = field(default_factory=dict)
    failed: set[Place] = field(default_factory=set)  # of a trial that ended without a result

    def add(self, results: Iterable[Result]) -> None:
        """Add the trials of this side among `results`."""
        for result in results:
            if result.kind == SIDES[self.name]:
                place = (int(result.spec["shots"]), int(result.spec["split"]))
                self.arms.setdefault(self._arm_of(result), {})[place] = result

    def add_report(self, report: StudyReport) -> list[FailedArm]:
        """Add the trials of a stage; remember where one failed.

        Returns the arms that have no result. Where these failed is not remembered: it is not the
        draws that are at fault.
        """
        self.add(report.results)
        errors: dict[str, list[TlxError]] = {}
        for trial, outcome in zip(report.stage.trials, report.outcomes, strict=True):
            if isinstance(outcome, Result) or trial.spec.kind != SIDES[self.name]:
                continue
            spec = trial.spec.to_json()
            if self._has_arm_of(trial.spec.kind, spec):
                self.failed.add((trial.spec.shots, trial.spec.split))
            else:
                errors.setdefault(arm_name(spec), []).append(outcome)
        return [FailedArm(self.name, arm, len(rows), str(rows[0])) for arm, rows in errors.items()]

    def _has_arm_of(self, kind: str, spec: Mapping[str, object]) -> bool:
        own = arm_settings(kind, spec)
        return any(
            arm_settings(kind, next(iter(trials.values())).spec) == own
            for trials in self.arms.values()
        )

    def _arm_of(self, result: Result) -> str:
        """Return the name of the arm of a trial, a new one if no arm has its settings."""
        name, own = arm_name(result.spec), arm_settings(result.kind, result.spec)
        for arm, trials in self.arms.items():
            if arm_settings(result.kind, next(iter(trials.values())).spec) == own:
                return arm
        if name in self.arms:
            first = arm_settings(result.kind, next(iter(self.arms[name].values())).spec)
            changed = {key: value for key, value in own.items() if value != first.get(key)}
            name += ", " + ", ".join(f"{key}={value}" for key, value in changed.items())
        return name

    def validation(self, arm: str, shots: int, *, without: int | None = None) -> float:
        """Return the mean validation accuracy of an arm at these shots; −1 if it has none.

        without  split that is left out, unless it is the only one
        """
        at = {split: r for (k, split), r in self.arms[arm].items() if k == shots}
        others = [r for split, r in at.items() if split != without] or list(at.values())
        values = [result.scores.get(VALIDATION, 0.0) for result in others]
        return float(np.mean(values)) if values else -1.0

    @property
    def shots(self) -> list[int]:
        """Return the numbers of shots that were tried, ascending."""
        return sorted({shots for trials in self.arms.values() for shots, _ in trials})

    def champion(self, shots: int) -> str:
        """Return the arm with the best mean validation accuracy at these shots."""
        return self._best(shots, without=None)

    def pick(self, shots: int, split: int) -> Result | None:
        """Return the trial of the arm that is best on the other splits' validation images.

        With the arm chosen on the other splits, its accuracy in this one has no winner's curse.
        None if that arm has no trial here.
        """
        if not self.arms:
            return None
        return self.arms[self._best(shots, without=split)].get((shots, split))

    def _best(self, shots: int, without: int | None) -> str:
        return max(self.arms, key=lambda arm: self.validation(arm, shots, without=without))


def arm_settings(kind: str, spec: Mapping[str, object]) -> dict[str, object]:
    """Return the settings that all trials of an arm share; `spec` is that of one of them."""
    skipped = OF_DRAW | OF_PLACE
    whole = {**_defaults(kind), **spec}
    return {name: value for name, value in whole.items() if name not in skipped}


@functools.cache
def _defaults(kind: str) -> dict[str, object]:
    """Return the settings of a trial at their defaults: one stored before a setting has none."""
    trial = kinds_of(FewShotTrial)[kind]
    return trial().to_json()


def arm_name(spec: Mapping[str, object]) -> str:
    """Return a short name of the arm of a trial: its network, and its classifier or recipe."""
    network = source_label(spec)
    if spec.get("source"):
        network += f" ({spec['source']})"
    classifier = spec.get("classifier")
    return f"{classifier} on {network}" if classifier else recipe_name(network, spec)


def recipe_name(network: str, spec: Mapping[str, object]) -> str:
    """Return the name of a fine-tuning of a network: with the choices that are not the usual ones.

    spec  settings of a trial: what it trains, and its learning rate
    """
    tune, rate = str(spec.get("tune", ALL)), spec.get("learning_rate", LEARNING_RATE)
    name = network if tune == ALL else f"{network} with --tune {tune}"
    return name if rate == LEARNING_RATE else f"{name} at learning rate {rate:g}"


@dataclass(frozen=True)
class Pairs:
    """Paired trials of both sides at one number of shots.

    features, tuning   trials of the same splits, in order
    dropped            splits where a side failed or diverged
    diverged           of these, splits where fine-tuning diverged
    """

    shots: int
    features: tuple[Result, ...]
    tuning: tuple[Result, ...]
    dropped: int
    diverged: int

    @property
    def tried(self) -> int:
        """Return how many splits both sides were tried on."""
        return len(self.features) + self.dropped


@dataclass(frozen=True)
class Evidence:
    """Everything that a decision is made from.

    features, tuning   the two sides
    pairs              paired trials of each number of shots, ascending
    classes            names of the classes
    pool               training images per class that draws come from, of the smallest class
    """

    features: Side
    tuning: Side
    pairs: tuple[Pairs, ...]
    classes: tuple[str, ...]
    pool: int

    @property
    def trials(self) -> list[Result]:
        """Return all trials of all arms."""
        sides = (self.features, self.tuning)
        return [r for side in sides for arm in side.arms.values() for r in arm.values()]


def gather(features: Side, tuning: Side) -> Evidence:
    """Return the evidence of two sides.

    Raises BadDataError if they have no trials in common, or were tested on different images.
    """
    for side in (features, tuning):
        if not side.arms:
            raise BadDataError(
                "one-side",
                f"no trial of {side.name} is among them",
                where="trials",
                expected="both sides, on the same shots and splits of one data set",
            )
    shots = [k for k in tuning.shots if k in set(features.shots)]
    pairs = tuple(pair for k in shots if (pair := _pairs(features, tuning, k)).tried)
    trials = [r for pair in pairs for r in (*pair.features, *pair.tuning)]
    if not pairs:
        raise BadDataError(
            "nothing-to-pair",
            f"shots {features.shots} and {tuning.shots}",
            where="trials",
            expected="both sides on the same shots and splits of one data set",
            remedy="run tlx compare without --from",
        )
    digests = {str(r.details.get("test_digest", "")) for r in trials}
    if len(digests - {""}) > 1:
        raise BadDataError(
            "other-images",
            "the two sides were tested on different images",
            where="trials",
            expected="one test set",
            remedy="give both studies the same data set, splits and --input-size",
        )
    pools = [int(r.details["pool"]) for r in trials if r.details.get("pool")]
    most = max(pair.shots for pair in pairs)
    classes = tuple(trials[0].details["classes"]) if trials else ()
    return Evidence(features, tuning, pairs, classes, max([most, *pools]))


def _pairs(features: Side, tuning: Side, shots: int) -> Pairs:
    tried = {place for trials in tuning.arms.values() for place in trials} | tuning.failed
    splits = sorted(split for k, split in tried if k == shots)
    kept: list[tuple[Result, Result]] = []
    dropped = diverged = 0
    for split in splits:
        frozen, tuned = features.pick(shots, split), tuning.pick(shots, split)
        if frozen is None or tuned is None:
            # it failed; else one side alone was asked for this split
            dropped += (shots, split) in features.failed | tuning.failed
            diverged += tuned is None and (shots, split) in tuning.failed
            continue
        if _is_scored(frozen) and _is_scored(tuned):
            kept.append((frozen, tuned))
        else:
            dropped += 1
            diverged += not _is_scored(tuned)
    return Pairs(
        shots, tuple(a for a, _ in kept), tuple(b for _, b in kept), dropped, int(diverged)
    )


def _is_scored(result: Result) -> bool:
    return result.status == FINISHED and "test_accuracy" in result.scores


class CurveRow(TypedDict):
    """Mean accuracy of one side at one number of shots; ends of its interval if they are known."""

    shots: int
    mean: float
    splits: int
    low: NotRequired[float]
    high: NotRequired[float]


@dataclass(frozen=True)
class Tables:
    """Right or wrong of each test image: (splits, images) 0/1 of both sides, and classes (n,)."""

    features: np.ndarray
    tuning: np.ndarray
    classes: np.ndarray
    predicted_features: np.ndarray
    predicted_tuning: np.ndarray


def tables_of(store: Store, pairs: Pairs) -> Tables | None:
    """Return the paired test images; None if a trial kept no predictions."""
    if not pairs.features:
        return None
    truth = predictions.read_truth(store, pairs.features[0])
    sides = []
    for results in (pairs.features, pairs.tuning):
        rows = [predictions.read(store, result) for result in results]
        if truth is None or any(row is None for row in rows):
            return None
        sides.append(np.stack([row for row in rows if row is not None]))
    assert truth is not None
    return Tables(
        (sides[0] == truth).astype(np.int8),
        (sides[1] == truth).astype(np.int8),
        truth,
        sides[0],
        sides[1],
    )


def contrast_of(pairs: Pairs, tables: Tables | None, pool: int) -> Contrast:
    """Return fine-tuning minus feature extraction at one number of shots."""
    known = {"shots": pairs.shots, "pool": max(pool, pairs.shots), "dropped": pairs.dropped}
    if tables is not None:
        difference = tables.tuning - tables.features
        return Contrast.of_differences(difference, tables.classes, **known)
    return Contrast.of_scores(_accuracies(pairs.tuning), _accuracies(pairs.features), **known)


def _accuracies(results: Sequence[Result]) -> list[float]:
    return [result.scores["test_accuracy"] for result in results]


def curve_of_side(
    pairs: Sequence[Pairs], tables: Mapping[int, Tables | None], side: str, pool: int
) -> list[CurveRow]:
    """Return the mean accuracy of one side at each number of shots with its 95 % interval.

    tables  shots → paired test images
    """
    parts = {pair.shots: _parts_of_side(pair, tables[pair.shots], side, pool) for pair in pairs}
    rows: list[CurveRow] = []
    for shots, (estimate, _) in crossed.estimates_of_means(parts).items():
        row: CurveRow = {"shots": shots, "mean": parts[shots].mean, "splits": parts[shots].splits}
        if estimate is not None:
            interval = intervals.shown(parts[shots], estimate)
            row["low"], row["high"] = interval.low, interval.high
        rows.append(row)
    return rows


def _parts_of_side(pairs: Pairs, tables: Tables | None, side: str, pool: int) -> crossed.Components:
    shots = {"shots": pairs.shots, "pool": max(pool, pairs.shots)}
    if tables is None:
        results = pairs.features if side == FEATURES else pairs.tuning
        return crossed.components_of_scores(_accuracies(results), **shots)
    right = tables.features if side == FEATURES else tables.tuning
    return crossed.components(right, tables.classes, **shots)
