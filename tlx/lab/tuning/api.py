"""Searches: Optuna proposes, a trial is run and written down, Optuna is told. Only `tuning*.py`
import optuna.

    search = tuning.Search(key=…, space=…, evaluator="package.module:Class", …)
    tuning.prepare(search, root)         # once, in the driver: the storage is there, and knows all
                                         that is on record
    tuning_worker.work(search, …)        # in each process: asks for trial after trial until there
                                         are enough
    tuning.standing(search, root)        # what came of it

The records (tuning_records) are the truth. A trial has one line there, written before Optuna is
told; what is missing in the storage is put back from them. A process that is killed leaves a
RUNNING trial with its name on it; whoever is next to ask finds that it is dead, and takes the same
trial up: same number, same values.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator
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
# the attribute of a trial in Optuna's storage that tells what other machines cannot read in the
# records
TOLD = "tlx"


class GivenUp(Exception):
    """The pruner ended a trial; raised by `report`, to be let through."""


@dataclass(frozen=True, kw_only=True)
class ScoredTrial:
    """What a configuration came to: accuracy on val (fraction) a split, seconds of fitting and
    predicting.
    """

    by_split: list[float]
    seconds: float
    energy_j: float | None = None
    diverged: bool = False
    details: dict[str, Any] = field(default_factory=dict)


class Evaluator(Protocol):
    """What a process keeps from trial to trial: made as Class(inputs, context) and asked of every
    configuration.
    """

    spent: ScoredTrial  # what the last evaluation came to, whole or given up

    def key(self, values: dict[str, Any]) -> str:
        """Names the configuration by content."""

    def title(self, values: dict[str, Any]) -> str:
        """The configuration in a few words."""

    def evaluate(self, values: dict[str, Any], report: Callable[[int, float], None]) -> ScoredTrial:
        """Run it, saying (step, value) as it goes; GivenUp, which `report` raises, is let
        through.
        """


@dataclass(frozen=True, kw_only=True)
class SearchProblem:
    """What is searched, how far, and where Optuna keeps it.

    key, family  name the question, and what is tried (`Records`)
    objectives   "accuracy" first; then perhaps "time" (s) or "energy" (J), to be small
    rungs        steps at which halving looks; pruning is for one objective
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
        """How many trials there will be: a grid ends by itself."""
        return self.trials if self.sampler != "grid" else min(self.trials, len(self.space.grid()))

    @functools.cached_property
    def starts_with_defaults(self) -> bool:
        """Whether trial 0 is the configuration that is used without a search: it is never
        pruned.
        """
        default = self.space.default()
        return default is not None and (self.sampler != "grid" or default in self.space.grid())

    def hears(self, step: int) -> bool:
        """Whether the pruner looks at a step: the others are kept in the records, and Optuna is not
        told.
        """
        return len(self.objectives) == 1 and (self.pruner == "median" or step in self.rungs)

    @property
    def name(self) -> str:
        """The study's name in Optuna's storage."""
        return f"tlx-{self.key[:16]}"

    def place(self, root: Path | str) -> StorageLocation:
        """Optuna's storage."""
        return StorageLocation(
            self.storage or str(Path(root) / "studies" / self.key / "optuna.journal"), self.name
        )


@contextlib.contextmanager
def opened(search: SearchProblem, place: StorageLocation) -> Iterator[optuna.Study]:
    """The study in its storage, made if it is not there; connections end with the block."""
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
    """Without Optuna's warnings that something is experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# ---------------------------------------------------------------- in the driver


def prepare(search: SearchProblem, root: Path | str) -> None:
    """Make the storage if it is not there, and put into it every trial on record that it does not
    know.
    """
    place = search.place(root)
    with quiet(), place.turn(), opened(search, place) as study:
        if len(search.objectives) > 1 and not study.metric_names:
            study.set_metric_names(list(search.objectives))
        for number, tried in sorted(Records(root, search.family).of(search.key).items()):
            while (
                len(there := study.get_trials(deepcopy=False)) < number
            ):  # one that had not ended: to be run
                study.add_trial(optuna.trial.create_trial(state=TrialState.WAITING))
            if len(there) == number:
                study.add_trial(_frozen(search, tried))


def completed_trials(search: SearchProblem, root: Path | str) -> list[TrialRecord]:
    """The trials that have ended, by number: from the records here, else as the storage tells
    them.
    """
    here = Records(root, search.family).of(search.key)
    with quiet(), opened(search, search.place(root)) as study:
        trials = study.get_trials(deepcopy=False)
    return [here.get(t.number) or from_storage(search, t) for t in trials if t.state.is_finished()]


def importances(search: SearchProblem, tried: list[TrialRecord]) -> dict[str, float]:
    """Parameter → share of the accuracy's variance it explains (fANOVA; Hutter et al. 2014): of
    those that every trial has, and for a choice's own parameters among the trials of that choice.
    """
    found: dict[str, float] = {}
    whole = [t for t in tried if t.state == COMPLETE]
    for when in dict.fromkeys(one.when for one in search.space.parameters):
        mine = [t for t in whole if when is None or t.values.get(when[0]) in when[1]]
        names = [
            one.name
            for one in search.space.parameters
            if one.when == when and len({t.values.get(one.name) for t in mine}) > 1
        ]
        if len(mine) < 4 or not names or len({t.objectives[0] for t in mine}) < 2:
            continue
        with quiet():
            part = optuna.create_study(direction="maximize")
            part.add_trials(
                [_frozen(search, replace(t, objectives=t.objectives[:1], system={})) for t in mine]
            )
            judge = optuna.importance.FanovaImportanceEvaluator(seed=0)
            found |= optuna.importance.get_param_importances(part, evaluator=judge, params=names)
    return found


def state_of(search: SearchProblem, tried: TrialRecord) -> TrialState:
    """A trial's state in Optuna: pruned trials have a value only where there is one objective."""
    diverged = tried.state == DIVERGED and len(search.objectives) > 1
    return TrialState.FAIL if diverged else STATES[tried.state]


def user_attrs(tried: TrialRecord) -> dict[str, Any]:
    """What Optuna's storage keeps of a trial beside its values."""
    return {
        name: getattr(tried, name)
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
    } | {"spent_s": tried.spent_s, "spent_j": tried.spent_j}


def _frozen(search: SearchProblem, tried: TrialRecord) -> optuna.trial.FrozenTrial:
    known = {one.name: one for one in search.space.parameters}
    state = state_of(search, tried)
    heard = {int(step): value for step, value in tried.reports if search.hears(int(step))}
    if tried.state == DIVERGED and state == TrialState.PRUNED:
        heard[int(tried.reports[-1][0])] = tried.reports[-1][1]
    values = tried.objectives if state == TrialState.COMPLETE else None
    if state == TrialState.PRUNED and heard:
        values = [heard[max(heard)]]
    return optuna.trial.create_trial(
        state=state,
        values=values,
        params=tried.values,
        system_attrs=tried.system,
        distributions={name: distribution(known[name]) for name in tried.values},
        intermediate_values=heard,
        user_attrs={TOLD: user_attrs(tried)},
    )


def from_storage(search: SearchProblem, trial: optuna.trial.FrozenTrial) -> TrialRecord:
    """A trial as the storage tells it."""
    said = {
        name: value
        for name, value in trial.user_attrs.get(TOLD, {}).items()
        if not name.startswith("spent_")
    }
    state = said.pop("state", None) or next(
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
            **said,
        }
    )


def distribution(one: Parameter) -> optuna.distributions.BaseDistribution:
    """A parameter in Optuna's terms."""
    if one.choices is not None:
        return optuna.distributions.CategoricalDistribution(one.choices)
    if one.whole:
        return optuna.distributions.IntDistribution(int(one.low), int(one.high), log=one.log)
    return optuna.distributions.FloatDistribution(one.low, one.high, log=one.log)
