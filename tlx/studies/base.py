"""Parts of a study: trials, groups of trials, the context of a trial, the report."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, TypeVar

from ..errors import LATE, BusyError, IntegrityError, TlxError, TrialsFailedError, counted
from ..lab.records import DataInput
from ..lab.settings import Settings
from ..lab.store import Store
from ..result import DIVERGED, Result
from ..spec import Spec, make_specs
from . import frames

if TYPE_CHECKING:
    import pandas

    from ..lab.tracking import api as tracking_api
    from .planning import StudyPlan
    from .session import Session

S = TypeVar("S", bound=Spec)
DISK = ("disk-full", "disk-space", "storage-failing", "permission")  # codes of a ResourceError


class TrialFigures(Protocol):
    """Callable that draws the figures of a trial into its folder."""

    def __call__(self, folder: Path, result: Result, form: str | None = "png") -> None:
        """Draw the figures of `result` in `form` into `folder`; None draws none."""


class SummaryWriter(Protocol):
    """Callable that writes the tables, figures and summary.json of a study to its folder."""

    def __call__(self, store: Store, key: str, form: str | None = "png") -> None:
        """Write the summary of the study `key`; no figures where `form` is None."""


@dataclass(frozen=True)
class Trial:
    """Spec with its inputs.

    Trials of one group share their inputs, and run one after the other in one process, so that what
    they have in common is computed once.

    label   name among the trials of its group
    """

    spec: Any
    inputs: Any
    group: str = ""
    label: str = ""


@dataclass(frozen=True)
class Group:
    """Trials that run together; `weight` is the work, relative to other groups."""

    key: str
    title: str
    trials: tuple[Trial, ...]

    @property
    def weight(self) -> float:
        """Return the work, in rows through the network forward."""
        return sum(fitting + testing for fitting, testing in map(work_of, self.trials))

    @property
    def fitting_share(self) -> float:
        """Return the share of its work before the test, which is not counted in steps."""
        fitting = sum(work_of(trial)[0] for trial in self.trials)
        return fitting / self.weight if self.weight else 1.0


def most_epochs(spec: Spec) -> int:
    """Return the epochs of a trial that does not stop early; 1 of one that has none."""
    return int(getattr(spec, "most_epochs", getattr(spec, "epochs", 1)))


BACKWARD = 2  # passes that a training row takes besides the one forward


def work_of(trial: Trial) -> tuple[float, float]:
    """Return the rows through the network until a trial is fitted, and the rows of its test.

    Each epoch takes every training row forward and backward, and every validation row forward. A
    trial whose inputs are not samples counts by its shots.
    """
    train, val, test = row_counts(trial)
    if not train:
        return float(trial.spec.shots or 1), 0.0
    epochs = most_epochs(trial.spec)
    return float(epochs * ((1 + BACKWARD) * train + val)), float(test)


def row_counts(trial: Trial) -> tuple[int, int, int]:
    """Count the training, validation and test rows of a trial: images times crops."""
    inputs = getattr(trial.inputs, "data", trial.inputs)
    train, val, test = (_rows(getattr(inputs, role, None)) for role in ("train", "val", "test"))
    crops = getattr(trial.spec, "val_crops", None)
    if crops is not None and val:
        val = len(inputs.val) * min(crops, inputs.val.crops)
    return train, val, test


def _rows(samples: Any) -> int:
    """Return images times crops; 0 of what is no samples."""
    crops = getattr(samples, "crops", None)
    return len(samples) * crops if isinstance(crops, int) else 0


@dataclass(frozen=True)
class ExpectedStage:
    """Stage that is planned from the results of an earlier one: what is known of it before.

    count   number of its trials; fewer where an earlier training diverges or weights are the same
    trials  trials of the same size, for an estimate of time; () where it is not known
    """

    title: str
    count: int
    trials: tuple[Trial, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Trials that are run, recorded, mirrored and reported together: one parent run in MLflow.

    key         names the study: the same question, asked with more shots or splits, grows the same
                study
    run         runs one trial: (spec, inputs, context) → Result; a function of a module
    preload     modules that its trials need besides runner.PRELOAD, imported once for all processes
    inputs      the data sets that enter, for the record: {"name", "source", "digest", "context"}
    params      shown with every trial
    notes       for people, shown before the trials
    write_trial_figures   (folder, result, form) → None, after each trial, in its process
    write_summary         (store, key, form) → None, after the last one: tables, figures
    format_summary        report → the last words
    further     stages that follow it, for a plan
    leaves_out_failures   whether the study goes on without the trials that failed, and says so
    is_optional           whether it does so even where none of the trials has a result
    is_grouped            whether MLflow shows one run for each number of shots, not one a trial
    runs_here             whether this process runs its trials, one after the other: what they
                          compute goes to the engine in pieces
    has_short_groups      whether its groups take so little that a process runs several of them
    """

    key: str
    run: Callable[[Any, Any, TrialContext], Result]
    experiment: str
    title: str
    spec: dict[str, Any]
    trials: tuple[Trial, ...]
    inputs: tuple[DataInput, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    preload: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    write_trial_figures: TrialFigures | None = None
    write_summary: SummaryWriter | None = None
    format_summary: Callable[[StudyReport], str] | None = None
    further: tuple[ExpectedStage, ...] = ()
    leaves_out_failures: bool = False
    is_optional: bool = False
    is_grouped: bool = False
    runs_here: bool = False
    has_short_groups: bool = False

    @property
    def groups(self) -> tuple[Group, ...]:
        """Return the trials as they run together, in order."""
        together: dict[str, list[Trial]] = {}
        for trial in self.trials:
            together.setdefault(trial.group or trial.spec.key, []).append(trial)
        return tuple(
            Group(key, trials[0].spec.title, tuple(trials)) for key, trials in together.items()
        )


@dataclass(frozen=True)
class TrialContext:
    """Runtime context of one trial: working directory, device and callbacks."""

    folder: Path
    device: str
    log: Callable[[int, dict[str, float]], None]  # store one epoch's metrics durably
    tell: Callable[[int, int], None]  # (batches done, batches in the epoch)
    stopping: Callable[[], bool]
    shared: Path | None = None  # folder of what the trials of the study share while they run
    usage: Callable[[], dict[str, float]] = dict  # what the trial has used so far (lab.cost.Usage)
    inherit: Callable[[dict[str, float]], None] = lambda usage: None  # its part of shared work


@dataclass(frozen=True)
class StudyReport:
    """Outcome of a stage: one result or error per trial, cached trials, MLflow sync status.

    stage     the last stage of its study
    outcomes  a Result or an error for each trial, in the order of `stage.trials`
    reused    number of trials that were found finished
    folder    the store
    sent      what was mirrored; None without tracking
    address   where MLflow shows it; "" without tracking
    """

    stage: Stage
    outcomes: tuple[Result | TlxError, ...]
    reused: int
    wall_s: float
    folder: Path
    sent: tracking_api.Sent | None
    address: str

    @property
    def key(self) -> str:
        """Return the key of the study."""
        return self.stage.key

    @property
    def url(self) -> str:
        """Return the address of the run in MLflow, or the command that shows it.

        "" without tracking.
        """
        return self.address

    @property
    def study_folder(self) -> Path:
        """Return the folder of the study's tables and figures."""
        return Store(self.folder).study_folder(self.key)

    @property
    def figures(self) -> dict[str, Path]:
        """Return the figures of the study, name → path."""
        return frames.figures_of(self.study_folder)

    def to_json(self) -> dict[str, object]:
        """Return the study, its summary and its trials as plain JSON."""
        content = frames.report_json(self.key, self.study_folder, self.address, self.results)
        failed = [
            {"key": trial.spec.key, "code": outcome.code, "error": str(outcome)}
            for trial, outcome in zip(self.stage.trials, self.outcomes, strict=True)
            if isinstance(outcome, TlxError)
        ]
        return content | {"failed": failed}

    def frame(self) -> pandas.DataFrame:
        """Return one row a trial: settings, scores, costs (pandas)."""
        return frames.trial_frame(self.results)

    def summary(self) -> pandas.DataFrame:
        """Return the means of the study with their confidence intervals (pandas)."""
        return frames.summary_frame(self.study_folder)

    @property
    def results(self) -> list[Result]:
        """Return the results, without the errors."""
        return [outcome for outcome in self.outcomes if isinstance(outcome, Result)]

    @property
    def diverged(self) -> list[Result]:
        """Return the trials whose numbers stopped being finite."""
        return [r for r in self.results if r.status == DIVERGED]

    def raise_if_failed(self, require_tracking: bool) -> None:
        """Raise TrialsFailedError if a trial has no result.

        UntrackedError if records are unsent and were required.

        A stage that leaves failures out raises only if no trial has a result, and one that is
        optional leaves what it lacks to its study. Where all that
        failed for a reason that is not the trials' own (another process at work, a full disk, a
        damaged folder), that reason is raised as it is, with its exit code. A setting that was
        offered and then refused is a bug, whatever came of the other trials.
        """
        errors = [outcome for outcome in self.outcomes if isinstance(outcome, TlxError)]
        if late := [error for error in errors if error.code == LATE]:
            raise late[0]
        if errors and all(
            isinstance(e, (BusyError, IntegrityError)) or e.code in DISK for e in errors
        ):
            raise errors[0]
        goes_on = self.stage.is_optional or (self.results and self.stage.leaves_out_failures)
        if errors and not goes_on:
            raise TrialsFailedError(
                "trials-failed",
                f"{len(errors)} of {counted(len(self.outcomes), 'trial')} failed: {errors[0]}",
                remedy="the same command tries them again and keeps the finished ones",
            )
        if require_tracking and self.sent is not None:
            self.sent.require()


def open_store(settings: Settings) -> Store:
    """Return the store of these settings. Raises BadDataError if it is of another format."""
    store = Store(_store_folder(settings))
    store.check_format()
    return store


def has_trials(settings: Settings) -> bool:
    """Return whether the store of these settings has a trial, whole or begun."""
    return (_store_folder(settings) / "trials").is_dir()


def _store_folder(settings: Settings) -> Path:
    from ..lab.tracking import api as tracking_api  # loads mlflow's parts, which help does not need

    target = tracking_api.resolve(settings.mlflow_path) if settings.tracking else None
    return settings.store_folder(target.database if target else None)


Stages = Generator[Stage, StudyReport, None]


class Study(ABC):
    """Study: its settings, and the stages that answer its question.

    One row of STUDIES. The command line, `tlx.run` and the tests run the same stages.

    name    of the command and of `tlx.run`
    help    what it does, for `tlx NAME --help`: a sentence, then more
    short   the same in at most 45 characters
    specs   the classes of its settings, in the order of the options; a name that two share is one
            option, which both get
    shown   the settings that its entry point in MLproject lists
    is_chained  whether stages after the first depend on its results
    """

    name: ClassVar[str]
    help: ClassVar[str]
    short: ClassVar[str]
    specs: ClassVar[tuple[type[Spec], ...]]
    shown: ClassVar[tuple[str, ...]]
    is_chained: ClassVar[bool] = False

    def __init__(self, *specs: Spec):
        self.given: dict[type[Spec], Spec] = {type(spec): spec for spec in specs}

    @classmethod
    def with_settings(cls, settings: Mapping[str, object]) -> Self:
        """Return the study with these settings; all their errors are raised at once."""
        return cls(*make_specs(cls.specs, settings))

    @classmethod
    def of_specs(cls, specs: Iterable[Spec]) -> Self:
        """Return the study with these specs, and defaults for the classes not among them."""
        given = {type(spec): spec for spec in specs}
        return cls(*(given.get(kind) or kind() for kind in cls.specs))

    def of(self, kind: type[S]) -> S:
        """Return the settings of this class."""
        spec = self.given[kind]
        assert isinstance(spec, kind)
        return spec

    def plan(self, session: Session) -> StudyPlan | None:
        """Return the plan of a study that cannot list its trials without computing; else None."""
        return None

    def check(self, settings: Settings) -> None:  # noqa: B027 — most have nothing to refuse
        """Raise what is wrong with the study beside these settings, before anything is read."""

    @abstractmethod
    def stages(self, session: Session) -> Stages:
        """Plan the study and yield its stages; each gives back the report of the stage when it ran.

        Everything that can be wrong is raised before the first stage. After the last one, further
        files are written where settings ask for them.
        """
