"""The parts of a study: trials, groups of trials, the context of a trial, the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import LATE, BusyError, IntegrityError, TlxError, TrialsFailedError
from ..lab.settings import Settings
from ..lab.store import Store
from ..lab.tracking import api as tracking_api
from ..result import DIVERGED, Result

DISK = ("disk-full", "disk-space", "storage-failing", "permission")  # codes of a Resource error


@dataclass(frozen=True)
class Trial:
    """One spec with what it is run on. Trials of one group share their inputs, and run one after
    the other in one process, so that what they have in common is computed once.
    """

    spec: Any
    inputs: Any
    group: str = ""


@dataclass(frozen=True)
class Group:
    """Trials that run together: `weight` says how much work there is, relative to other groups."""

    key: str
    title: str
    trials: tuple[Trial, ...]

    @property
    def weight(self) -> float:
        """How much work there is, in rows through the network forward."""
        return sum(fitting + testing for fitting, testing in map(work_of, self.trials))

    @property
    def fitting_share(self) -> float:
        """The share of its work that comes before the test, which is not told in steps."""
        fitting = sum(work_of(trial)[0] for trial in self.trials)
        return fitting / self.weight if self.weight else 1.0


BACKWARD = 2  # passes that a training row takes beside the one forward


def work_of(trial: Trial) -> tuple[float, float]:
    """Rows through the network until a trial is fitted, and rows of its test.

    Each epoch takes every training row forward and backward, and every validation row forward. A
    trial whose inputs are not samples counts by its shots.
    """
    inputs = getattr(trial.inputs, "data", trial.inputs)
    train, val, test = (_rows(getattr(inputs, role, None)) for role in ("train", "val", "test"))
    if not train:
        return float(trial.spec.shots or 1), 0.0
    epochs = getattr(trial.spec, "epochs", 1)
    return float(epochs * ((1 + BACKWARD) * train + val)), float(test)


def _rows(samples: Any) -> int:
    """Images times crops; 0 of what is no samples."""
    crops = getattr(samples, "crops", None)
    return len(samples) * crops if isinstance(crops, int) else 0


@dataclass(frozen=True, kw_only=True)
class Study:
    """What one command asks for.

    key     names the study: the same question, asked with more shots or splits, is the same study
            grown
    call    "package.module:run" of its trials
    preload modules that its trials need beside PRELOAD: imported once, not in every process
    inputs  the data sets that enter, for the record: {"name", "source", "digest", "context"}
    """

    key: str
    call: str
    experiment: str
    title: str
    spec: dict[str, Any]
    trials: tuple[Trial, ...]
    inputs: tuple[dict[str, str], ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)  # shown with every trial
    preload: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # for people: said before the trials
    # called with a trial's folder, result and the form of figures
    dress: str = "tlx.studies.reporting:write_trial_figures"

    @property
    def groups(self) -> tuple[Group, ...]:
        """The trials as they run together, in order."""
        together: dict[str, list[Trial]] = {}
        for trial in self.trials:
            together.setdefault(trial.group or trial.spec.key, []).append(trial)
        return tuple(
            Group(key, trials[0].spec.title, tuple(trials)) for key, trials in together.items()
        )


@dataclass(frozen=True)
class TrialContext:
    """What a trial is given beside its spec and inputs: a folder of its own, a device, ears."""

    folder: Path
    device: str
    log: Callable[[int, dict[str, float]], None]  # the values of an epoch, durably
    tell: Callable[[int, int], None]  # batches done of an epoch's
    stopping: Callable[[], bool]


@dataclass(frozen=True)
class StudyReport:
    """What came of a study: every outcome in order, what was found done, and how the mirror
    stands.
    """

    study: Study
    outcomes: tuple[Result | TlxError, ...]
    reused: int
    wall_s: float
    folder: Path
    sent: tracking_api.Sent | None  # None without tracking
    address: str

    @property
    def results(self) -> list[Result]:
        """The results there are."""
        return [outcome for outcome in self.outcomes if isinstance(outcome, Result)]

    @property
    def diverged(self) -> list[Result]:
        """The trials whose numbers stopped being finite."""
        return [r for r in self.results if r.status == DIVERGED]

    def raise_if_failed(self, require_tracking: bool) -> None:
        """TrialsFailed if a trial has no result, Untracked if records are unsent and were required.

        Where all that failed for a reason that is not the trials' own (another process at work, a
        full disk, a damaged folder), that reason is raised as it is, with its exit code. A setting
        that was offered and then refused is a bug, whatever came of the other trials.
        """
        errors = [outcome for outcome in self.outcomes if isinstance(outcome, TlxError)]
        if late := [error for error in errors if error.code == LATE]:
            raise late[0]
        if errors and all(
            isinstance(e, (BusyError, IntegrityError)) or e.code in DISK for e in errors
        ):
            raise errors[0]
        if errors:
            raise TrialsFailedError(
                "trials-failed",
                f"{len(errors)} of {len(self.outcomes)} trials failed: {errors[0]}",
                remedy="the same command tries them again and keeps the finished ones",
            )
        if require_tracking and self.sent is not None:
            self.sent.require()


def open_store(settings: Settings) -> Store:
    """Return the store of these settings. Raises BadDataError if it was written in another
    format.
    """
    target = tracking_api.resolve(settings.mlflow_path) if settings.tracking else None
    store = Store(settings.store_folder(target.database if target else None))
    store.check_format()
    return store
