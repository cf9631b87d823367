"""Settings of a search: declarations only, read without loading what it needs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from ...errors import UnknownNameError, UsageError
from ...spec import Spec, setting
from ..feature_extraction.spec import FeatureExtraction
from ..fine_tuning.spec import FineTuning

KINDS: dict[str, type[Spec]] = {"feature-extraction": FeatureExtraction, "fine-tuning": FineTuning}
SECONDS = {"s": 1.0, "sec": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "": 1.0}
JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True, kw_only=True)
class Search(Spec):
    """Study that is searched, limits and objectives."""

    kind: ClassVar[str] = "search"

    study: str = setting("feature-extraction", help="feature-extraction or fine-tuning")
    trials: int = setting(
        50, low=1, high=100_000, help="configurations to try, those of earlier commands included"
    )
    search: tuple[str, ...] = setting(
        (),
        help="what is searched, comma-separated: classifier (with its own settings), "
        "linear-svc.C, layers, embedding, use_crops, learning_rate, freeze, … Default: "
        "classifier; or the recipe of a fine-tuning",
    )
    space: str | None = setting(
        None,
        identity=False,
        help='JSON that narrows it: {"linear-svc.C": {"low": 0.01, "high": 10}, '
        '"classifier": ["ridge", "linear-svc"]}',
    )
    classifier: str = setting("linear-svc", help="the classifier where none is searched")
    sampler: str = setting(
        "tpe",
        choices=("tpe", "random", "grid", "cmaes", "gp"),
        help="how configurations are chosen",
    )
    pruner: str = setting(
        "halving",
        choices=("halving", "median", "none"),
        help="who is given up early: halving tries "
        "each on one split first and continues with the best third",
    )
    objective: str = setting(
        "accuracy",
        choices=("accuracy", "accuracy,time", "accuracy,energy"),
        help="with a cost besides accuracy the Pareto front of both is the result",
    )
    budget: str | None = setting(
        None,
        identity=False,
        help="time for the trials of all commands together, after which none "
        "is begun: 90s, 10min, 2h",
    )
    max_kwh: float | None = setting(
        None, identity=False, low=0.0, help="energy for them, in kWh, likewise"
    )
    storage: str | None = setting(
        None,
        identity=False,
        help="where Optuna keeps its study: a URL (sqlite:///…, "
        "postgresql://…, mysql://…) or a file name.journal; several machines may share one. "
        "Default: $TLX_OPTUNA_STORAGE, or a journal next to the results",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        study = self.study.replace("_", "-")
        if study not in KINDS:
            raise UnknownNameError("study", self.study, KINDS)
        object.__setattr__(self, "study", study)

    @property
    def objectives(self) -> tuple[str, ...]:
        """Return what is optimised, accuracy first."""
        return tuple(self.objective.split(","))

    @property
    def names(self) -> tuple[str, ...]:
        """Return what is searched, under the names of the settings."""
        return tuple(name if "." in name else name.replace("-", "_") for name in self.search)

    @property
    def budget_s(self) -> float | None:
        """Return the budget in seconds."""
        if self.budget is None:
            return None
        match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?)\s*([a-z]*)\s*", self.budget.lower())
        if not match or match[2] not in SECONDS:
            raise UsageError(
                "budget",
                f"'{self.budget}'",
                where="--budget",
                expected="a time as 90s, 10min or 2h",
            )
        return float(match[1]) * SECONDS[match[2]]

    @property
    def budget_j(self) -> float | None:
        """Return the most energy, in joules."""
        return None if self.max_kwh is None else self.max_kwh * JOULES_PER_KWH


@dataclass(frozen=True, kw_only=True)
class SearchBase(FeatureExtraction, FineTuning):
    """Settings of both kinds of trial.

    What a search leaves alone keeps the value given here.
    """

    kind: ClassVar[str] = "search-base"

    def of(self, study: str) -> Spec:
        """Return the trial that a study is about.

        Raises UsageError for a setting that only the other kind has.
        """
        kind, other = KINDS[study], next(k for name, k in KINDS.items() if name != study)
        defaults = self.defaults()
        for name in other.settings():
            if name not in kind.settings() and getattr(self, name) != defaults.get(name):
                raise UsageError(
                    "setting-of-another",
                    f"--{name.replace('_', '-')} is no setting of {study}",
                    remedy=f"leave it out, or use --study {next(n for n in KINDS if n != study)}",
                )
        return kind.with_settings(
            {name: getattr(self, name) for name in kind.settings() if name in self.settings()}
        )
