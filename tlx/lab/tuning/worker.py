"""Worker of a search: ask for a trial, run it, record it, report to Optuna, repeat.

What its trials share (embedded rows, spans, products) stays in the process from trial to trial.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import optuna
from optuna.trial import TrialState

from ... import files
from ...errors import ResourceError, Stopped, TlxError, late_refusal
from .. import signals
from ..engines import worker as engines_worker
from ..tasks import Report
from . import storage as tuning_storage
from .api import (
    RECORD_ATTR,
    Evaluator,
    GivenUp,
    ScoredTrial,
    SearchProblem,
    from_storage,
    opened,
    quiet,
    state_of,
    user_attrs,
)
from .records import COMPLETE, DIVERGED, FAILED, PRUNED, Records, TrialRecord, now_ms, plain
from .space import Parameter
from .storage import StorageLocation

PAUSE_S = 0.2  # between looks whether another process has ended its last trial
LONG_S = 1.0  # of a trial: after such a one the disk is waited for
DEATHS = 5  # of one trial's process under one driver: then the trial is at fault
TAKEN = "taken"  # the attribute of a trial that says by whom: [process, driver, how often under it]


def work(
    search: SearchProblem,
    inputs: object,
    context: object,
    root: str,
    driver: str,
    *,
    emit: Callable[[Report], None],
) -> int:
    """Run trials until as many as wanted have ended; return how many this process ran.

    driver   names the command that this process works for
    """
    place, records = search.place(root), Records(root, search.family)
    with quiet(), contextlib.ExitStack() as held:
        study = held.enter_context(opened(search, place))
        if place.remote:
            held.enter_context(_beating(study))
        journal = held.enter_context(records.writing())
        disk = held.enter_context(ThreadPoolExecutor(1, "tlx-disk"))
        evaluator: Any = engines_worker.function(search.evaluator)(inputs, context)
        return _Process(search, study, place, records, journal, evaluator, driver, disk).run(emit)


@contextlib.contextmanager
def _beating(study: optuna.Study) -> Iterator[None]:
    """Send heartbeats of this machine to the others inside the block."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(tuning_storage.BEAT_S):
            # the server is away for a moment: the next beat may reach it
            with contextlib.suppress(Exception):
                tuning_storage.heartbeat(study)

    tuning_storage.heartbeat(study)
    thread = threading.Thread(target=beat, name="tlx-beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@dataclass(eq=False)
class _Process:
    """Loop of one process over the trials of a search."""

    search: SearchProblem
    study: optuna.Study
    place: StorageLocation
    records: Records
    journal: files.Journal
    evaluator: Evaluator
    driver: str
    disk: ThreadPoolExecutor
    known: dict[str, TrialRecord] = field(default_factory=dict)  # by configuration
    pending: list[tuple[Future[None], Report]] = field(default_factory=list)  # durable in a moment

    def __post_init__(self) -> None:
        for record in self.records.all():
            self._remember(record)

    def run(self, emit: Callable[[Report], None]) -> int:
        count = 0
        while True:
            signals.stop_if_asked()
            with self.place.turn():
                trial, known, ended = self._next()
            if trial is None:
                self._settle(emit)
                if ended:
                    return count
                time.sleep(PAUSE_S)
                continue
            record = known or self._new_record(trial)
            self._settle(emit)  # the disk took the one before while this one was run
            with contextlib.suppress(ValueError, optuna.exceptions.UpdateFinishedTrialError):
                # suppressed: reported by one that took this machine for dead
                self._report_to_optuna(trial, record)
            count += 1
            done = sum(t.state.is_finished() for t in self.study.get_trials(deepcopy=False))
            event: Report = {
                "step": done,
                "steps": self.search.wanted,
                "values": {"tried": plain(record)},
            }
            self.pending.append((self.disk.submit(self.journal.sync), event))
            if record.seconds > LONG_S:
                self._settle(emit)

    def _settle(self, emit: Callable[[Report], None]) -> None:
        """Wait until what was written is durable, and report it."""
        while self.pending:
            written, event = self.pending.pop(0)
            written.result()
            emit(event)

    # ------------------------------------------------------------ which trial

    def _next(self) -> tuple[optuna.Trial | None, TrialRecord | None, bool]:
        """Return a trial whose process died, with its record if any, or a new trial.

        Else whether all have ended. Processes call it in turn.
        """
        trials = self.study.get_trials(deepcopy=False)
        running = [t for t in trials if t.state == TrialState.RUNNING]
        beats = self.study.user_attrs if self.place.remote else {}
        dead = [
            t
            for t in running
            if not tuning_storage.is_alive(t.user_attrs.get(TAKEN, [None])[0], beats)
        ]
        known: TrialRecord | None = None
        before: tuple[str, str, int] = ("", "", 0)
        if dead:
            trial = optuna.Trial(self.study, dead[0]._trial_id)
            known = self.records.of(self.search.key).get(trial.number)
            before = trial.user_attrs.get(TAKEN, before)
        elif any(t.state == TrialState.WAITING for t in trials) or (
            len(trials) < self.search.wanted and not self._is_spent(trials)
        ):
            trial = self.study.ask()
        else:
            return None, None, not running
        times = 1 + (before[2] if before[1] == self.driver else 0)
        trial.set_user_attr(TAKEN, [tuning_storage.process_id(), self.driver, times])
        self.search.space.draw(functools.partial(_suggested, trial))
        return trial, known, False

    def _is_spent(self, trials: list[optuna.trial.FrozenTrial]) -> bool:
        """Return whether a budget is used up."""
        fields = [t.user_attrs.get(RECORD_ATTR, {}) for t in trials]
        limits = {"spent_s": self.search.budget_s, "spent_j": self.search.budget_j}
        return any(
            limit is not None and sum(row.get(name, 0.0) for row in fields) >= limit
            for name, limit in limits.items()
        )

    # ------------------------------------------------------------ what comes of it

    def _new_record(self, trial: optuna.Trial) -> TrialRecord:
        """Run the trial, or take it from one of the same configuration.

        Its line is written, durable in a moment.
        """
        values = dict(trial.params)
        record = TrialRecord(
            study=self.search.key,
            number=trial.number,
            values=values,
            state=FAILED,
            started_ms=now_ms(),
            configuration="",
            title="",
        )
        try:
            record = replace(
                record, configuration=self.evaluator.key(values), title=self.evaluator.title(values)
            )
            if trial.user_attrs[TAKEN][2] > DEATHS:
                raise ResourceError(
                    "process-died", f"its process died {DEATHS} times", remedy="use fewer --workers"
                )
            record = self._reuse(trial, record) or self._run(trial, record)
        except Stopped:
            signals.stop_if_asked()
            raise
        except TlxError as error:
            record = replace(record, error=str(late_refusal(error)))
        system = self.study._storage.get_trial(trial._trial_id).system_attrs
        record = replace(
            record,
            ended_ms=now_ms(),
            system={k: v for k, v in system.items() if k != "fixed_params"},
        )
        self.journal.append(plain(record), sync=False)
        self._remember(record)
        return record

    def _reuse(self, trial: optuna.Trial, record: TrialRecord) -> TrialRecord | None:
        """Return what is known of the configuration; None: to be run.

        It is complete, or given up and again so by today's trials.
        """
        known = self.known.get(record.configuration) or next(
            (
                from_storage(self.search, t)
                for t in self.study.get_trials(deepcopy=False)
                if t.user_attrs.get(RECORD_ATTR, {}).get("configuration") == record.configuration
                and t.number != trial.number
                and t.state in (TrialState.COMPLETE, TrialState.PRUNED)
            ),
            None,
        )
        if known is None or (self.search.objectives[1:] == ("energy",) and known.energy_j is None):
            return None
        record = replace(
            record,
            by_split=known.by_split,
            seconds=known.seconds,
            energy_j=known.energy_j,
            details=known.details,
            same_as=known.same_as or [known.study, known.number],
        )
        reports: list[list[float]] = []
        try:
            for step, value in known.reports:
                self._report(trial, reports, int(step), value, judged=known.state == PRUNED)
        except GivenUp:
            return replace(record, state=PRUNED, reports=reports)
        if known.state == PRUNED:
            return None
        return self._ended(replace(record, reports=reports), known.state)

    def _run(self, trial: optuna.Trial, record: TrialRecord) -> TrialRecord:
        reports: list[list[float]] = []
        self.evaluator.spent = ScoredTrial(by_split=[], seconds=0.0)
        try:
            scored = self.evaluator.evaluate(
                record.values, functools.partial(self._report, trial, reports)
            )
            state = DIVERGED if scored.diverged else COMPLETE
            if scored.diverged:
                last = int(max((r[0] for r in reports), default=0)) + 1
                reports.append([last, 0.0])
                if len(self.search.objectives) == 1:
                    trial.report(0.0, last)
        except GivenUp:
            scored, state = self.evaluator.spent, PRUNED
        return self._ended(
            replace(
                record,
                reports=reports,
                by_split=scored.by_split,
                seconds=scored.seconds,
                energy_j=scored.energy_j,
                details=scored.details,
            ),
            state,
        )

    def _ended(self, record: TrialRecord, state: str) -> TrialRecord:
        if state != COMPLETE:
            return replace(record, state=state)
        costs: dict[str, float | None] = {"time": record.seconds, "energy": record.energy_j}
        objectives = [
            sum(record.by_split) / len(record.by_split),
            *(costs[name] for name in self.search.objectives[1:]),
        ]
        if None in objectives:
            raise ResourceError(
                "energy-unknown",
                "this machine does not report the energy of a trial",
                remedy="give --watts (of a busy core), or use --objective accuracy,time",
            )
        return replace(
            record, state=state, objectives=[float(o) for o in objectives if o is not None]
        )

    def _report(
        self,
        trial: optuna.Trial,
        reports: list[list[float]],
        step: int,
        value: float,
        judged: bool = True,
    ) -> None:
        """Report a value; raise GivenUp where the pruner decides so.

        What was reported before a kill is not reported again.
        """
        if signals.stopping():
            raise Stopped(signals.received())
        if reports and reports[-1][0] >= step:
            return
        reports.append([step, value])
        if not self.search.is_judged_at(step):
            return
        reported = self.study._storage.get_trial(trial._trial_id).intermediate_values
        if step not in reported:
            trial.report(value, step)
        is_reference = trial.number == 0 and self.search.starts_with_defaults
        if (
            judged
            and not is_reference
            and step >= max(reported, default=0)
            and trial.should_prune()
        ):
            raise GivenUp

    def _report_to_optuna(self, trial: optuna.Trial, record: TrialRecord) -> None:
        state = state_of(self.search, record)
        with self.place.writing():
            trial.set_user_attr(RECORD_ATTR, user_attrs(record))
            self.study.tell(
                trial.number,
                record.objectives if state == TrialState.COMPLETE else None,
                state=state,
            )

    def _remember(self, record: TrialRecord) -> None:
        before = self.known.get(record.configuration)
        if record.state != FAILED and (before is None or before.state == PRUNED):
            self.known[record.configuration] = record


def _suggested(trial: optuna.Trial, parameter: Parameter) -> Any:
    if parameter.choices is not None:
        return trial.suggest_categorical(parameter.name, parameter.choices)
    if parameter.whole:
        return trial.suggest_int(
            parameter.name, int(parameter.low), int(parameter.high), log=parameter.log
        )
    return trial.suggest_float(parameter.name, parameter.low, parameter.high, log=parameter.log)
