"""Plan of a study: what it would run, with estimates of time and disk; nothing is trained."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ..lab.settings import Settings
from ..models import backbones
from . import estimate
from .base import Stage, Study
from .session import Session

BYTES_A_STATE = estimate.STATES * 4  # of a parameter, while a training can be continued


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
    """

    study: str
    title: str
    trials: int | None
    finished: int
    seconds: float | None
    size_bytes: int | None
    later: bool
    notes: tuple[str, ...]

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
        if self.later:
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
    """Estimate what a stage takes from one batch of its network on this CPU."""
    from .base import open_store

    store = open_store(settings)
    keys = {trial.spec.key for trial in stage.trials}
    finished = {key for key in keys if store.folder(key).is_dir()}
    left = [trial for trial in stage.trials if trial.spec.key not in finished]
    workers = max(1, settings.resolved_workers("cpu", len(left)))
    seconds, size_bytes = 0.0, 0
    networks: dict[str, Any] = {}
    for trial in left:
        spec = trial.spec
        architecture = getattr(spec, "architecture", None)
        if architecture is None or not hasattr(spec, "batch_size"):
            return StudyPlan(
                study.name,
                stage.title,
                len(left),
                len(finished),
                None,
                None,
                study.is_chained,
                notes,
            )
        if architecture not in networks:
            network = backbones.load(
                architecture,
                weights=None,
                classes=2,
                seed=0,
                input_size=getattr(spec, "input_size", None),
            )
            training, scoring = estimate.seconds_a_row(network, spec, settings.threads)
            parameters = sum(p.numel() for p in network.parameters())
            networks[architecture] = (training, scoring, parameters)
        training, scoring, parameters = networks[architecture]
        train, score = estimate.rows_of_trial(trial)
        seconds += train * training + score * scoring
        size_bytes = max(size_bytes, workers * BYTES_A_STATE * parameters)
    return StudyPlan(
        study.name,
        stage.title,
        len(left),
        len(finished),
        seconds / workers,
        size_bytes,
        study.is_chained,
        notes,
    )


def without_trials(study: Study, title: str, notes: tuple[str, ...], **known: Any) -> StudyPlan:
    """Return the plan of a study whose trials are known only after extraction."""
    plan = StudyPlan(study.name, title, None, 0, None, None, study.is_chained, notes)
    return dataclasses.replace(plan, **known)
