"""Plan of a study: what it would run, with estimates of time and disk; nothing is trained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..lab.settings import Settings
from ..models import backbones
from . import estimate
from .activations_spec import Extraction
from .base import Stage, Study, Trial, open_store
from .session import Session

BYTES_A_STATE = estimate.STATES * 4  # of a parameter, while a training can be continued


@dataclass(frozen=True)
class LaterStage:
    """Stage that is planned from the results of earlier ones.

    trials   number of its trials, at most
    seconds  estimated run time; None where it is not known
    """

    title: str
    trials: int
    seconds: float | None

    def __str__(self) -> str:
        plural = "" if self.trials == 1 else "s"
        time = "" if self.seconds is None else f", about {self.seconds:.0f} s"
        return f"then {self.title}: {self.trials} trial{plural}{time}"


@dataclass(frozen=True)
class StudyPlan:
    """Plan of a study.

    trials      number of trials of the first stage that are not finished; None where that is known
                only after activations are extracted
    finished    number of trials that are found finished
    seconds     estimated run time of these trials; None where it is not known
    size_bytes  estimated disk space of the states of trainings under way; decoded images, which
                planning has read already, are not counted
    later       whether further stages follow, which are planned from the results of the first
    further     those of them whose size is known
    """

    study: str
    title: str
    trials: int | None
    finished: int
    seconds: float | None
    size_bytes: int | None
    later: bool
    notes: tuple[str, ...]
    further: tuple[LaterStage, ...] = ()

    def __str__(self) -> str:
        count = (
            "trials, their number known after extraction"
            if self.trials is None
            else f"{self.trials} trials"
        )
        lines = [f"{self.study}, {self.title}: {count}, {self.finished} finished before"]
        if self.seconds is not None:
            lines.append(f"estimated run time: {self.seconds:.0f} s")
        if self.size_bytes is not None:
            lines.append(f"estimated disk space: {self.size_bytes / 1e6:.0f} MB")
        lines += map(str, self.further)
        if self.later and not self.further:
            lines.append("further stages follow, planned from the results of these")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


class _Planning(Session):
    """Session that keeps notes and runs nothing."""

    def __init__(self, settings: Settings):
        super().__init__(settings)
        self.notes: list[str] = []

    def note(self, *notes: str) -> None:
        self.notes += [note for note in notes if note not in self.notes]


def plan_study(study: Study, session: Session) -> StudyPlan:
    """Plan the first stage of a study, and estimate what it takes.

    Raises what the study would raise before its first trial.
    """
    planning = _Planning(session.settings)
    planned = study.plan(planning)
    if planned is not None:
        return planned
    stages = study.stages(planning)
    stage = next(stages)
    stages.close()
    planning.note(*stage.notes)
    return of_stage(study, stage, planning.settings, tuple(planning.notes))


def of_stage(study: Study, stage: Stage, settings: Settings, notes: tuple[str, ...]) -> StudyPlan:
    """Estimate what a stage and those that follow take, from one batch of each network on this CPU.

    What follows counts in full: which of its trials are finished is known from earlier results.
    """
    store = open_store(settings)
    keys = {trial.spec.key for trial in stage.trials}
    finished = {key for key in keys if store.folder(key).is_dir()}
    left = [trial for trial in stage.trials if trial.spec.key not in finished]
    speeds = _Speeds(settings)
    seconds = speeds.seconds(left)
    further = tuple(
        LaterStage(later.title, later.count, speeds.seconds(later.trials) if later.trials else None)
        for later in stage.further
    )
    return StudyPlan(
        study.name,
        stage.title,
        len(left),
        len(finished),
        seconds,
        None if seconds is None else speeds.state_bytes(left),
        study.is_chained,
        notes,
        further,
    )


class _Speeds:
    """Speed of each architecture on this CPU, measured once."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._known: dict[str, tuple[float, float, int]] = {}

    def seconds(self, trials: Sequence[Trial]) -> float | None:
        """Estimate the run time of trials; None where one of them is no training."""
        if not all(_is_training(trial) for trial in trials):
            return None
        total = 0.0
        for trial in trials:
            training, scoring, _ = self._of(trial)
            train, score = estimate.rows_of_trial(trial)
            total += train * training + score * scoring
        return total / self._workers(len(trials))

    def state_bytes(self, trials: Sequence[Trial]) -> int:
        """Return the disk space of the states of trainings under way."""
        most = max((self._of(trial)[2] for trial in trials), default=0)
        return self._workers(len(trials)) * BYTES_A_STATE * most

    def _workers(self, trials: int) -> int:
        return max(1, self._settings.resolved_workers("cpu", trials))

    def _of(self, trial: Trial) -> tuple[float, float, int]:
        """Return (seconds a row in training, in scoring, parameters)."""
        architecture = trial.spec.architecture
        if architecture not in self._known:
            network = backbones.load(
                architecture,
                weights=None,
                classes=2,
                seed=0,
                input_size=getattr(trial.spec, "input_size", None),
            )
            speeds = estimate.seconds_a_row(network, trial.spec, self._settings.threads)
            parameters = sum(p.numel() for p in network.parameters())
            self._known[architecture] = (*speeds, parameters)
        return self._known[architecture]


def _is_training(trial: Trial) -> bool:
    spec = trial.spec
    return getattr(spec, "architecture", None) is not None and hasattr(spec, "batch_size")


EXTRACTING = (
    "the time is that of all images once through each network, without measuring; activations "
    "that were extracted before take none"
)


def of_extractions(
    study: Study, title: str, extractions: Iterable[Extraction], settings: Settings
) -> StudyPlan:
    """Return the plan of a study whose trials are known only after extraction.

    The time is that of the images through the networks.
    """
    notes: list[str] = []
    seconds = sum(extraction_seconds(spec, settings, notes) for spec in extractions)
    notes.append(EXTRACTING)
    return without_trials(study, title, tuple(notes), seconds=seconds)


def extraction_seconds(spec: Extraction, settings: Settings, notes: list[str]) -> float:
    """Estimate the time of the images of an extraction through its network, on this CPU."""
    from .activations import is_default, sampled
    from .image_data import located

    spec = spec.resolved
    folder = located(spec.dataset, settings, notes)
    images = sampled(folder, spec.part, spec.samples, notes, at_most=is_default(spec, "samples"))
    network = backbones.load(
        spec.architecture, weights=None, classes=2, seed=0, input_size=spec.input_size
    )
    rows = len(images) * (estimate.CROPS if spec.use_crops else 1)
    return rows * estimate.forward_seconds_a_row(network, estimate.MOST_ROWS, settings.threads)


def without_trials(
    study: Study,
    title: str,
    notes: tuple[str, ...],
    *,
    trials: int | None = None,
    seconds: float | None = None,
) -> StudyPlan:
    """Return the plan of a study whose trials are known only after extraction."""
    return StudyPlan(study.name, title, trials, 0, seconds, None, study.is_chained, notes)
