"""Samplers that restart, seeded, with every trial, and successive halving.

A sampler that lives as long as its process repeats or forgets itself when the process is killed;
one that is created for trial n from (seed, n) and the known trials proposes the same either way.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from ...errors import ResourceError, UnknownNameError
from ...spec import derive_seed
from .space import Space

optuna.logging.set_verbosity(optuna.logging.ERROR)


def _tpe(seed: int) -> BaseSampler:
    return optuna.samplers.TPESampler(seed=seed)


def _random(seed: int) -> BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


def _cmaes(seed: int) -> BaseSampler:
    return optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)


def _gp(seed: int) -> BaseSampler:
    return optuna.samplers.GPSampler(seed=seed, deterministic_objective=True)


SAMPLERS: dict[str, Callable[[int], BaseSampler] | None] = {
    "tpe": _tpe,
    "random": _random,
    "grid": None,
    "cmaes": _cmaes,
    "gp": _gp,
}
NEEDS = {"cmaes": ("cmaes", "CMA-ES")}


def check(name: str) -> None:
    """Raise UnknownName, or Resource naming the package that a sampler needs."""
    if name not in SAMPLERS:
        raise UnknownNameError("sampler", name, SAMPLERS)
    make = SAMPLERS[name]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if make is not None:
                make(0)
            if name in NEEDS:
                __import__(NEEDS[name][0])
    except ImportError as error:
        package = NEEDS.get(name, (str(getattr(error, "name", "") or error), name))[0]
        raise ResourceError(
            "package",
            f"the sampler '{name}' needs the package {package}, which is not installed",
            remedy=f"pip install {package}",
        ) from error


class Seeded(BaseSampler):
    """Sampler created anew for every trial, from the search's seed and the trial's number.

    The first trial is the default configuration, where the space (or its grid) holds that.
    """

    def __init__(self, name: str, seed: int, space: Space, directions: int = 1):
        self._make, self._seed, self._directions = SAMPLERS[name], seed, directions
        self._grid = space.grid() if self._make is None else []
        self._first = space.default()
        if self._first in self._grid:
            self._grid.remove(self._first)
            self._grid.insert(0, self._first)
        self._inner: BaseSampler = optuna.samplers.RandomSampler(seed=0)
        self._fixed: dict[str, Any] | None = None
        self._drawn: set[str] = set()  # parameters of the trial that this process has drawn

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Create the sampler of this trial."""
        self._drawn = set()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if self._make is not None:
                self._inner = self._make(derive_seed(self._seed, "sampler", trial.number) % 2**32)
            self._fixed = self._first if trial.number == 0 else None
            if self._make is None:
                self._fixed = self._grid[trial.number % len(self._grid)]
            if self._fixed is None:
                self._inner.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, Any]:
        """Return the space that the sampler samples jointly."""
        return (
            {} if self._fixed is not None else self._inner.infer_relative_search_space(study, trial)
        )

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, Any]
    ) -> dict[str, object]:
        """Sample the joint parameters."""
        self._drawn |= search_space.keys()
        return (
            {}
            if self._fixed is not None
            else self._inner.sample_relative(study, trial, search_space)
        )

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, distribution: Any
    ) -> Any:
        """Sample one parameter on its own."""
        if self._fixed is not None:
            return self._fixed[param_name]
        enqueued = trial.system_attrs.get("fixed_params", {})
        for name, known in trial.distributions.items():
            # drawn by a process that was killed: the next draw is the one behind it
            if name not in self._drawn and name not in enqueued:
                self._drawn.add(name)
                self._inner.sample_independent(study, trial, name, known)
        self._drawn.add(param_name)
        return self._inner.sample_independent(study, trial, param_name, distribution)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Pass the end of the trial to its sampler."""
        if self._fixed is None:
            self._inner.after_trial(study, trial, state, values)


class Halving(optuna.pruners.BasePruner):
    """Successive halving: at each rung (a step) the best 1 / factor of all trials so far continue.

    Judged by the reported values alone, so that a trial resumed after a kill is judged as it would
    have been. Ties continue. Jamieson & Talwalkar 2016, arXiv:1502.07943; asynchronous as in Li et
    al. 2020, arXiv:1810.05934.
    """

    def __init__(self, rungs: Sequence[int], factor: int = 3):
        self._rungs, self._factor = frozenset(rungs), factor

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Return whether the trial is outside the best share at its rung."""
        step = trial.last_step
        if step not in self._rungs:
            return False
        others = [
            t.intermediate_values[step]
            for t in study.get_trials(deepcopy=False)
            if t.number != trial.number and step in t.intermediate_values
        ]
        value = trial.intermediate_values[step]
        goes_on = max(1, (len(others) + 1) // self._factor)
        return sum(other > value for other in others) >= goes_on


def pruner(name: str, rungs: Sequence[int]) -> optuna.pruners.BasePruner:
    """Return the pruner of a name."""
    if name not in PRUNERS:
        raise UnknownNameError("pruner", name, PRUNERS)
    return PRUNERS[name](rungs)


PRUNERS: dict[str, Callable[[Sequence[int]], optuna.pruners.BasePruner]] = {
    "halving": Halving,
    "median": lambda rungs: optuna.pruners.MedianPruner(n_warmup_steps=min(rungs, default=1) - 1),
    "none": lambda rungs: optuna.pruners.NopPruner(),
}
