"""Searches: Optuna proposes, a trial is run and recorded, Optuna gets the result.

    search = tuning.Search(key=…, space=…, evaluator="package.module:Class", …)
    tuning.prepare(search, root)         # once, in the driver: the storage is there, and knows all
                                         that is on record
    tuning_worker.work(search, …)        # in each process: asks for trial after trial until there
                                         are enough
    tuning.standing(search, root)        # the result

The records (tuning_records) are the truth. A trial has one line there, written before Optuna gets
it; what is missing in the storage is put back from them. A process that is killed leaves a
RUNNING trial with its name on it; the next process to ask finds that it is dead, and resumes the
trial: same number, same values.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.trial import TrialState

from .records import COMPLETE, DIVERGED, FAILED, PRUNED, Records, TrialRecord
from .samplers import Seeded, pruner
from .space import Parameter, Space
from .storage import StorageLocation

STATES = {
    COMPLETE: TrialState.COMPLETE,
    PRUNED: TrialState.PRUNED,
    DIVERGED: TrialState.PRUNED,
    FAILED: TrialState.FAIL,
}
# the attribute of a trial in Optuna's storage that has what other machines cannot read in the
# records
RECORD_ATTR = "tlx"


class GivenUp(Exception):  # noqa: N818 — a signal: the trial is pruned
    """Pruning of a trial, raised by `report`; it must be passed on."""


@dataclass(frozen=True, kw_only=True)
class ScoredTrial:
    """Scores of a configuration: val accuracy (fraction) a split, seconds of fit and prediction."""

    by_split: list[float]
    seconds: float
    energy_j: float | None = None
    diverged: bool = False
    details: dict[str, Any] = field(default_factory=dict)


class Evaluator(Protocol):
    """State that a process keeps from trial to trial.

    It is created as Class(inputs, context) and called for every configuration.
    """

    spent: ScoredTrial  # what the last evaluation came to, whole or given up

    def key(self, values: Mapping[str, object]) -> str:
        """Return the content key of the configuration."""

    def title(self, values: Mapping[str, object]) -> str:
        """Return a short description of the configuration."""

    def evaluate(
        self, values: Mapping[str, object], report: Callable[[int, float], None]
    ) -> ScoredTrial:
        """Run the configuration, reporting (step, value) during the run.

        GivenUp, which `report` raises, is passed on.
        """


@dataclass(frozen=True, kw_only=True)
class SearchProblem:
    """Search problem: space, limits, and Optuna's storage.

    key, family  name the question, and what is tried (`Records`)
    objectives   "accuracy" first; then perhaps "time" (s) or "energy" (J), to be small
    rungs        steps at which halving compares trials; pruning is for one objective
    trials       how many, those of earlier commands included
    budget_s     no new trial once the trials, of all processes and commands, took so many seconds;
                 budget_j: joules
    evaluator    "package.module:Class"
    """

    key: str
    family: str
    space: Space
    evaluator: str
    objectives: tuple[str, ...] = ("accuracy",)
    sampler: str = "tpe"
    pruner: str = "halving"
    rungs: tuple[int, ...] = ()
    trials: int = 50
    seed: int = 0
    storage: str = ""
    budget_s: float | None = None
    budget_j: float | None = None

    @property
    def wanted(self) -> int:
        """Return how many trials there will be: a grid ends by itself."""
        return self.trials if self.sampler != "grid" else min(self.trials, len(self.space.grid()))

    @functools.cached_property
    def starts_with_defaults(self) -> bool:
        """Return whether trial 0 is the default configuration, which is never pruned."""
        default = self.space.default()
        return default is not None and (self.sampler != "grid" or default in self.space.grid())

    def is_judged_at(self, step: int) -> bool:
        """Return whether the pruner reads a step.

        The others are kept in the records, and not reported to Optuna.
        """
        return len(self.objectives) == 1 and (self.pruner == "median" or step in self.rungs)

    @property
    def name(self) -> str:
        """Return the study's name in Optuna's storage."""
        return f"tlx-{self.key[:16]}"

    def place(self, root: Path | str) -> StorageLocation:
        """Return Optuna's storage."""
        return StorageLocation(
            self.storage or str(Path(root) / "studies" / self.key / "optuna.journal"), self.name
        )


@contextlib.contextmanager
def opened(search: SearchProblem, place: StorageLocation) -> Iterator[optuna.Study]:
    """Open the study in its storage, created if absent; connections end with the block."""
    directions: list[Any] = ["maximize"] + ["minimize"] * (len(search.objectives) - 1)
    with place.open() as storage:
        yield optuna.create_study(
            storage=storage,
            study_name=search.name,
            directions=directions,
            load_if_exists=True,
            sampler=Seeded(search.sampler, search.seed, search.space),
            pruner=pruner(search.pruner, search.rungs),
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress Optuna's warnings about experimental features."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# ---------------------------------------------------------------- in the driver


def prepare(search: SearchProblem, root: Path | str) -> None:
    """Create the storage if absent, and add every recorded trial that it lacks."""
    place = search.place(root)
    with quiet(), place.turn(), opened(search, place) as study:
        if len(search.objectives) > 1 and not study.metric_names:
            study.set_metric_names(list(search.objectives))
        for number, record in sorted(Records(root, search.family).of(search.key).items()):
            # those before it that are not on record had not ended: they are to be run
            while len(stored := study.get_trials(deepcopy=False)) < number:
                study.add_trial(optuna.trial.create_trial(state=TrialState.WAITING))
            if len(stored) == number:
                study.add_trial(_frozen(search, record))


def completed_trials(search: SearchProblem, root: Path | str) -> list[TrialRecord]:
    """Return the trials that have ended, by number.

    From the records here, else from the storage.
    """
    here = Records(root, search.family).of(search.key)
    with quiet(), opened(search, search.place(root)) as study:
        trials = study.get_trials(deepcopy=False)
    return [here.get(t.number) or from_storage(search, t) for t in trials if t.state.is_finished()]


def importances(search: SearchProblem, records: list[TrialRecord]) -> dict[str, float]:
    """Return parameter → share of the accuracy's variance it explains.

    fANOVA, Hutter et al. 2014: of parameters that every trial has, and for a choice's own
    parameters among the trials of that choice.
    """
    shares: dict[str, float] = {}
    complete = [record for record in records if record.state == COMPLETE]
    for when in dict.fromkeys(parameter.when for parameter in search.space.parameters):
        applicable = [t for t in complete if when is None or t.values.get(when[0]) in when[1]]
        names = [
            parameter.name
            for parameter in search.space.parameters
            if parameter.when == when
            and len({t.values.get(parameter.name) for t in applicable}) > 1
        ]
        if len(applicable) < 4 or not names or len({t.objectives[0] for t in applicable}) < 2:
            continue
        with quiet():
            part = optuna.create_study(direction="maximize")
            part.add_trials(
                [
                    _frozen(search, replace(t, objectives=t.objectives[:1], system={}))
                    for t in applicable
                ]
            )
            judge = optuna.importance.FanovaImportanceEvaluator(seed=0)
            shares |= optuna.importance.get_param_importances(part, evaluator=judge, params=names)
    return shares


def state_of(search: SearchProblem, record: TrialRecord) -> TrialState:
    """Return a trial's state in Optuna.

    Pruned trials have a value only where there is one objective.
    """
    diverged = record.state == DIVERGED and len(search.objectives) > 1
    return TrialState.FAIL if diverged else STATES[record.state]


def user_attrs(record: TrialRecord) -> dict[str, object]:
    """Return what Optuna's storage keeps of a trial besides its values."""
    return {
        name: getattr(record, name)
        for name in (
            "configuration",
            "title",
            "state",
            "by_split",
            "seconds",
            "energy_j",
            "same_as",
            "error",
            "started_ms",
            "ended_ms",
        )
    } | {"spent_s": record.spent_s, "spent_j": record.spent_j}


def _frozen(search: SearchProblem, record: TrialRecord) -> optuna.trial.FrozenTrial:
    known = {parameter.name: parameter for parameter in search.space.parameters}
    state = state_of(search, record)
    reports = {int(step): value for step, value in record.reports if search.is_judged_at(int(step))}
    if record.state == DIVERGED and state == TrialState.PRUNED:
        reports[int(record.reports[-1][0])] = record.reports[-1][1]
    values = record.objectives if state == TrialState.COMPLETE else None
    if state == TrialState.PRUNED and reports:
        values = [reports[max(reports)]]
    return optuna.trial.create_trial(
        state=state,
        values=values,
        params=record.values,
        system_attrs=record.system,
        distributions={name: distribution(known[name]) for name in record.values},
        intermediate_values=reports,
        user_attrs={RECORD_ATTR: user_attrs(record)},
    )


def from_storage(search: SearchProblem, trial: optuna.trial.FrozenTrial) -> TrialRecord:
    """Return a trial as the storage has it."""
    fields = {
        name: value
        for name, value in trial.user_attrs.get(RECORD_ATTR, {}).items()
        if not name.startswith("spent_")
    }
    state = fields.pop("state", None) or next(
        name for name, state in STATES.items() if state == trial.state
    )
    objectives = list(trial.values or []) if state == COMPLETE else []
    return TrialRecord(
        **{
            "study": search.key,
            "number": trial.number,
            "values": trial.params,
            "state": state,
            "configuration": "",
            "title": "",
            "objectives": objectives,
            "reports": [[s, v] for s, v in sorted(trial.intermediate_values.items())],
            **fields,
        }
    )


def distribution(parameter: Parameter) -> optuna.distributions.BaseDistribution:
    """Return a parameter as an Optuna distribution."""
    if parameter.choices is not None:
        return optuna.distributions.CategoricalDistribution(parameter.choices)
    if parameter.whole:
        return optuna.distributions.IntDistribution(
            int(parameter.low), int(parameter.high), log=parameter.log
        )
    return optuna.distributions.FloatDistribution(parameter.low, parameter.high, log=parameter.log)
