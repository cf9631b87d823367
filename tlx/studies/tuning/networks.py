"""Configurations of a fine-tuning: each split is a trial with a run folder, reused if done.

A configuration that is given up leaves no folder: its epochs are in the search's records.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ... import files
from ...errors import BusyError
from ...lab import signals
from ...lab.store import JOURNAL, Draft, Store
from ...lab.tasks import Report
from ...lab.tuning.api import GivenUp, ScoredTrial
from ...result import DIVERGED, Result
from .. import runner
from ..few_shot import Inputs
from ..fine_tuning import trial as fine_tuning_trial
from ..fine_tuning.spec import FineTuning
from .features import CropVariant, Draw, SearchContext, named_by_content

WAIT_S = 0.5  # between looks whether another process has ended the same training


@dataclass(frozen=True)
class NetworkInputs:
    """Inputs of a search of recipes."""

    base: FineTuning
    sides: dict[bool, CropVariant]

    def spec(self, values: Mapping[str, object]) -> FineTuning:
        """Return the trial of a configuration, before its split."""
        return self.base.replace(
            **{name: value for name, value in values.items() if not name.endswith(".by")}
        )


class NetworkSearch:
    """Evaluator of configurations; `spent` is the cost of the last one."""

    def __init__(self, inputs: NetworkInputs, context: SearchContext):
        self.inputs, self.context, self.store = inputs, context, Store(context.root)
        self.spent = ScoredTrial(by_split=[], seconds=0.0)

    def key(self, values: Mapping[str, object]) -> str:
        """Return the content key: what it is, and the inputs of every split."""
        return named_by_content(self.inputs.spec(values), self.inputs.sides)

    def title(self, values: Mapping[str, object]) -> str:
        """Return what is searched."""
        return ", ".join(
            f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items()
        )

    def evaluate(
        self, values: Mapping[str, object], report: Callable[[int, float], None]
    ) -> ScoredTrial:
        """Evaluate split after split.

        Of the first, the best epoch so far is reported at each epoch; then the mean at each split's
        end, as if a split had its most epochs.
        """
        side, most = self._side(values), self.inputs.spec(values).most_epochs
        by_split: list[float] = []
        seconds = 0.0
        joules: list[float | None] = [0.0]
        for number, draw in enumerate(side.draws):
            epochs = _Epochs(report if number == 0 else lambda step, value: None)
            self.spent = ScoredTrial(by_split=by_split, seconds=seconds)
            try:
                result = self._result(
                    self._requested(values, draw),
                    Inputs(side.classes, draw.train, side.val, None),
                    epochs,
                )
            except GivenUp:
                self.spent = ScoredTrial(
                    by_split=[*by_split, epochs.best],
                    seconds=seconds + epochs.seconds,
                    details={"splits": [draw.split], "epochs": epochs.epoch},
                )
                self.store.remove(self._requested(values, draw).key)
                raise
            seconds += result.scores.get("train_s", 0.0)
            joules.append((result.cost.get("energy_j") or {}).get("value"))
            known = [energy for energy in joules if energy is not None]
            diverged = result.status == DIVERGED
            if not diverged:
                by_split.append(result.scores["best_val_accuracy"])
            self.spent = ScoredTrial(
                by_split=by_split,
                seconds=seconds,
                diverged=diverged,
                energy_j=sum(known) if len(known) == len(joules) else None,
                details={"splits": [d.split for d in side.draws]},
            )
            if diverged:
                return self.spent
            report((number + 1) * most, sum(by_split) / len(by_split))
        return self.spent

    # ------------------------------------------------------------ one training

    def _side(self, values: Mapping[str, object]) -> CropVariant:
        return self.inputs.sides[self.inputs.spec(values).use_crops]

    def _requested(self, values: Mapping[str, object], draw: Draw) -> FineTuning:
        return self.inputs.spec(values).replace(split=draw.split, images=draw.content)

    def _result(self, spec: FineTuning, inputs: Inputs, epochs: _Epochs) -> Result:
        """Return the result, found, continued or trained.

        Waits for another process that is at it.
        """
        context = self.context
        order = runner.TrialJob(
            fine_tuning_trial.run,
            no_figures,
            context.root,
            context.device,
            context.settings,
            None,
            idle=context.idle,
        )

        def make(draft: Draft) -> Result:
            for row in draft.journal.records:
                epochs(row)
            return runner.run_trial(order, spec, inputs, epochs.on_progress, draft)

        while True:
            signals.stop_if_asked()
            result = self.store.find(spec.key)
            if result is not None:
                for row in files.Journal.read(self.store.folder(spec.key) / JOURNAL):
                    epochs(row)
                return result
            try:
                return self.store.get_or_compute(spec.key, make)
            except BusyError:
                time.sleep(WAIT_S)


def no_figures(folder: Path, result: Result, form: str | None = "png") -> None:
    """Draw nothing for a training that is one of many of a search."""


class _Epochs:
    """Reporter of the best accuracy so far, epoch by epoch, each once."""

    def __init__(self, report: Callable[[int, float], None]):
        self._report, self.best, self.epoch, self.seconds = report, 0.0, 0, 0.0

    def __call__(self, row: dict[str, Any]) -> None:
        if row["t"] == "metrics":
            self._epoch(int(row["step"]) + 1, row["values"])

    def on_progress(self, event: Report) -> None:
        values = event.get("values", {})
        if "epoch" in values:
            self._epoch(int(values["epoch"]), values)

    def _epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        if epoch > self.epoch:
            self.epoch = epoch
            self.seconds += values.get("train_epoch_s", 0.0) + values.get("val_epoch_s", 0.0)
            self.best = max(self.best, values.get("val_accuracy", 0.0))
            self._report(epoch, self.best)
