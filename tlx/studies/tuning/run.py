"""Run of a search from its first trial to the test of its best configuration."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import files, locks
from ...errors import LATE, TlxError, TrialsFailedError, counted
from ...lab import energy, environment, signals
from ...lab.engines import ENGINES
from ...lab.settings import FORMS, Settings
from ...lab.store import Draft, Store
from ...lab.tasks import Event, Finished, Progress, Task
from ...lab.tracking import api as tracking_api
from ...lab.tracking.target import TrackingTarget
from ...lab.tuning import api as tuning_api
from ...lab.tuning import records as tuning_records
from ...lab.tuning.records import COMPLETE, FAILED, TrialRecord
from ...result import Result
from .. import frames
from ..base import open_store
from ..runner import absolute, run_groups, run_options
from .features import SearchContext
from .plan import SearchPlan, most_fits

if TYPE_CHECKING:
    import pandas

Preparing = Callable[
    [str], contextlib.AbstractContextManager[Any]
]  # title → context of a progress callback
RESTARTS = 1000  # of a worker: what a trial that kills its process may cost is bounded by the trial
WRITE_S = 2.0  # between writings of study.json while trials end


def _silent(title: str) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()


@dataclass(frozen=True)
class SearchReport:
    """Outcome of a search.

    tried      every trial that ended, by number
    before     how many of them had ended before this command
    best       the most accurate on val (of several the cheapest, then the first); None if none is
               whole
    front      the numbers of those that no other beats in all objectives
    final      the best configuration on the test set, one result a split
    defaults   trial 0, where it is the configuration that is used without a search; else None
    reference  the defaults on the test set, one result a split
    """

    ready: SearchPlan
    tried: tuple[TrialRecord, ...]
    before: int
    best: TrialRecord | None
    front: tuple[int, ...]
    final: tuple[Result, ...]
    defaults: TrialRecord | None
    reference: tuple[Result, ...]
    importances: dict[str, float]
    wall_s: float
    folder: Path
    sent: tracking_api.Sent | None
    address: str

    @property
    def key(self) -> str:
        """The key of the search."""
        return self.ready.search.key

    @property
    def url(self) -> str:
        """The address of the run in MLflow, or the command that shows it; "" without tracking."""
        return self.address

    @property
    def study_folder(self) -> Path:
        """The folder of the search's tables and figures."""
        return Store(self.folder).study_folder(self.key)

    @property
    def figures(self) -> dict[str, Path]:
        """The figures of the search, name → path."""
        return frames.figures_of(self.study_folder)

    @property
    def results(self) -> list[Result]:
        """The best configuration and the defaults on the test set, one result a split."""
        return [*self.final, *self.reference]

    def to_json(self) -> dict[str, object]:
        """Return the search, its summary and its configurations as plain JSON."""
        content = frames.report_json(self.key, self.study_folder, self.address, self.results)
        configurations = [
            {"number": t.number, "state": t.state, "values": t.values, "by_split": t.by_split}
            for t in self.tried
        ]
        best = None if self.best is None else self.best.number
        return {**content, "best": best, "configurations": configurations}

    def frame(self) -> pandas.DataFrame:
        """Return one row a configuration: number, state, settings, validation accuracy (pandas)."""
        import pandas

        rows = [
            {
                "number": t.number,
                "state": t.state,
                **t.values,
                "val_accuracy": sum(t.by_split) / len(t.by_split) if t.by_split else None,
                "splits": len(t.by_split),
            }
            for t in self.tried
        ]
        return pandas.DataFrame(rows)

    def summary(self) -> pandas.DataFrame:
        """Return the metrics of the search: name, step, value (pandas)."""
        return frames.summary_frame(self.study_folder)

    @property
    def fits(self) -> tuple[int, int]:
        """Return the splits that were run, and the number without giving up early."""
        tried = [t for t in self.tried if t.state != FAILED and t.same_as is None]
        return sum(len(t.by_split) for t in tried), len(tried) * most_fits(self.ready.inputs)

    def raise_if_failed(self, require_tracking: bool) -> None:
        """Raise TrialsFailedError if a trial has failed, UntrackedError if records are unsent.

        The latter if they were required.

        A setting that was offered and then refused is a bug, whatever came of the other trials.
        """
        failed = [t for t in self.tried if t.state == FAILED]
        if late := [t for t in failed if f"error[{LATE}]" in t.error]:
            raise TlxError(
                LATE,
                f"{len(late)} of {counted(len(self.tried), 'trial')} "
                f"failed, the first: {late[0].error}",
            )
        if failed:
            raise TrialsFailedError(
                "trials-failed",
                f"{len(failed)} of {counted(len(self.tried), 'trial')} "
                f"failed, the first: {failed[0].error}",
                remedy="narrow the search with --space",
            )
        if require_tracking and self.sent is not None:
            self.sent.require()


def run_search(
    ready: SearchPlan,
    settings: Settings,
    watch: Callable[[Event], None],
    summarise: Callable[[SearchReport], dict[str, Any]],
    test: Callable[[list[Result], Store], dict[str, float]],
    *,
    preparing: Preparing = _silent,
    form: str | None = FORMS[0],
) -> SearchReport:
    """Run what is missing of a search, then test its best configuration and the defaults.

    summarise   makes figures and summary.json
    test        the scores of the child run "final test", from those of its splits
    preparing   called with what is about to be tested; gives the progress callback of reading and
                extracting test images
    form        of the figures of the tested trials; None: not drawn
    """
    started = time.perf_counter()
    target = tracking_api.resolve(settings.mlflow_path) if settings.tracking else None
    if target is not None:
        tracking_api.prepare(target)
    store = open_store(settings)
    settings = settings.replace(system_metrics=False)
    tuning_api.prepare(ready.search, store.root)
    book = _SearchRecord(ready, store)
    mirror = None if target is None else _mirror_of(ready, target, store, settings, watch)

    def hear(event: Event) -> None:
        if isinstance(event, Progress) and "tried" in event.values:
            book.enter(TrialRecord(**event.values["tried"]))  # type: ignore[arg-type]
        watch(event)

    with signals.graceful(), contextlib.ExitStack() as held:
        if mirror is not None:
            held.enter_context(mirror)
        if book.before < ready.search.wanted:
            _run(ready, store, settings, hear)
        for tried in tuning_api.completed_trials(ready.search, store.root):
            book.enter(tried)

        def score_splits(number: int) -> list[Result]:
            results = _test(
                ready,
                book.tried[number],
                store,
                settings,
                watch=watch,
                preparing=preparing,
                form=form,
            )
            book.end(book.tried[number], results, test(results, store))
            return results

        report = _tested(ready, book, store, score_splits)
        report = replace(report, wall_s=time.perf_counter() - started)
        store.unseal_study(ready.search.key)
        summarise(report)
        store.seal_study(ready.search.key)
        if mirror is not None and all(t.state == FAILED for t in report.tried):
            mirror.stop(tracking_api.FAILED)
    return replace(
        report,
        wall_s=time.perf_counter() - started,
        sent=mirror.report if mirror else None,
        address=mirror.address if mirror else "",
    )


def _mirror_of(
    ready: SearchPlan,
    target: TrackingTarget,
    store: Store,
    settings: Settings,
    watch: Callable[[Event], None],
) -> tracking_api.Mirror:
    """Return what sends the records of the search to MLflow; waiting for it is shown."""
    return tracking_api.Mirror(
        target,
        store.root,
        ready.search.key,
        wait=settings.wait,
        on_wait=watch,
    )


def _tested(
    ready: SearchPlan,
    book: _SearchRecord,
    store: Store,
    score_splits: Callable[[int], list[Result]],
) -> SearchReport:
    """Test the best configuration and the defaults, and return the report without its time."""
    trials = tuple(book.tried[number] for number in sorted(book.tried))
    best, front = best_and_pareto(trials)
    defaults = defaults_of(ready.search, trials)
    tested: dict[int, list[Result]] = {}
    for number in _to_test(best, defaults) if not ready.val_only else ():
        tested[number] = score_splits(number)
    book.write()
    return SearchReport(
        ready,
        trials,
        book.before,
        best,
        front,
        tuple(tested.get(best.number, ())) if best is not None else (),
        defaults,
        tuple(tested.get(defaults.number, ())) if defaults is not None else (),
        tuning_api.importances(ready.search, list(trials)),
        0.0,
        store.root,
        None,
        "",
    )


def best_and_pareto(trials: tuple[TrialRecord, ...]) -> tuple[TrialRecord | None, tuple[int, ...]]:
    """Return the best of these trials, and the numbers of the Pareto front.

    None beats these in every objective (accuracy, then costs).
    """
    whole = [t for t in trials if t.state == COMPLETE]
    scores = {t.number: (t.objectives[0], *(-cost for cost in t.objectives[1:])) for t in whole}
    best = max(whole, key=lambda t: (scores[t.number], -t.number), default=None)
    front = [
        n
        for n, costs in scores.items()
        if not any(
            other != costs and all(a >= b for a, b in zip(other, costs, strict=True))
            for other in scores.values()
        )
    ]
    return best, tuple(front)


def defaults_of(
    search: tuning_api.SearchProblem, trials: tuple[TrialRecord, ...]
) -> TrialRecord | None:
    """Return trial 0, where it is the default configuration.

    None where the space leaves that out.
    """
    is_first = search.starts_with_defaults and trials and trials[0].number == 0
    return trials[0] if is_first and trials[0].values == search.space.default() else None


def _to_test(best: TrialRecord | None, defaults: TrialRecord | None) -> list[int]:
    """List the trials that are scored on the test set: the best, and the defaults."""
    whole = [
        tried.number for tried in (best, defaults) if tried is not None and tried.state == COMPLETE
    ]
    return list(dict.fromkeys(whole))


def _run(
    ready: SearchPlan, store: Store, settings: Settings, hear: Callable[[Event], None]
) -> None:
    """Let workers ask for trials until there are enough.

    What a worker cannot continue with is raised.
    """
    device = settings.trial_device()
    workers = settings.resolved_workers(device, ready.search.wanted)
    context = SearchContext(
        str(store.root),
        device,
        absolute(settings, store),
        with_energy="energy" in ready.search.objectives or ready.search.budget_j is not None,
        idle=None if settings.on_cluster else energy.idle_power(device != "cpu"),
    )
    driver = files.digest([os.getpid(), time.time_ns()])[:16]
    tasks = [
        Task(
            f"worker-{number}",
            f"worker {number}",
            "tlx.lab.tuning.worker:work",
            (ready.search, ready.inputs, context, str(store.root), driver),
        )
        for number in range(max(1, workers))
    ]
    options = replace(
        run_options(settings, store, device, workers),
        retries=RESTARTS,
        preload=("torch", *ready.preload),
    )
    for outcome in ENGINES[settings.engine](
        tasks, workers=workers, threads=settings.threads, on_event=hear, options=options
    ):
        if outcome.error is not None:
            raise outcome.error


def _test(
    ready: SearchPlan,
    tried: TrialRecord,
    store: Store,
    settings: Settings,
    *,
    watch: Callable[[Event], None],
    preparing: Preparing,
    form: str | None,
) -> list[Result]:
    """Test a configuration on every split, scored on the test set: found, or run now."""
    with preparing(final_title(ready, tried)) as progress:
        requested = ready.final(tried.values, settings, progress)
    with locks.lock(store.root / "locks" / f"final-{ready.search.key}", wait=True):
        outcomes: dict[str, Result | TlxError] = {
            t.spec.key: result
            for t in requested.trials
            if (result := store.find(t.spec.key)) is not None
        }

        def hear(event: Event) -> None:
            if isinstance(event, Finished):
                outcomes.update(event.result)
            watch(event)

        if len(outcomes) < len(requested.trials):
            idle = None
            if not settings.on_cluster:
                idle = energy.idle_power(settings.resolved_device() != "cpu")
            run_groups(requested, store, settings, hear, outcomes, form, idle=idle)
    results = []
    for trial in requested.trials:
        outcome = outcomes[trial.spec.key]
        if isinstance(outcome, TlxError):
            raise outcome
        results.append(outcome)
    return results


def final_title(ready: SearchPlan, tried: TrialRecord) -> str:
    """Return the name of the final test of a trial; the defaults are called so."""
    is_defaults = tried.number == 0 and ready.search.starts_with_defaults
    return (
        f"final test of trial {tried.number}{' (the defaults)' if is_defaults else ''}: "
        f"{tried.title}"
    )


class _SearchRecord:
    """Record of a search: study.json and the run folders, updated as trials end."""

    def __init__(self, ready: SearchPlan, store: Store):
        self.ready, self.store, self.key = ready, store, ready.search.key
        self.tried: dict[int, TrialRecord] = {}
        self._written = 0.0
        previous = store.read_study(self.key) or {}
        self.finals = [
            row for row in previous.get("trials", []) if row.get("tags", {}).get("tlx.final")
        ]
        for tried in tuning_api.completed_trials(ready.search, store.root):
            self.enter(tried, now=False)
        self.before = len(self.tried)
        self.write()

    def enter(self, tried: TrialRecord, now: bool = True) -> None:
        """Add the run folder and the line of a trial."""
        self.tried.setdefault(tried.number, tried)
        tuning_records.keep(self.store, tried)
        if now and time.monotonic() - self._written > WRITE_S:
            self.write()

    def end(self, tried: TrialRecord, results: list[Result], scores: dict[str, float]) -> None:
        """Add the run folder and the line of the final test."""
        key = files.digest(["search final", self.key, tried.configuration])
        spec = {
            name: value
            for name, value in results[0].spec.items()
            if name not in ("split", "images")
        }

        def make(draft: Draft) -> Result:
            for result in results:
                if "test_accuracy" in result.scores:
                    draft.log(
                        result.spec["split"], {"test_accuracy": result.scores["test_accuracy"]}
                    )
            return Result(
                key=key,
                kind="final-test",
                spec=spec,
                scores=scores,
                environment=environment.gather(),
                details={
                    "trial": tried.number,
                    "values": tried.values,
                    "splits": [r.spec["split"] for r in results],
                    "keys": [r.key for r in results],
                },
            )

        self.store.get_or_compute(key, make)
        self.finals = [row for row in self.finals if row["key"] != key] + [
            {
                "key": key,
                "title": final_title(self.ready, tried),
                "shots": 0,
                "split": 0,
                "params": tried.values,
                "tags": {"tlx.final": "true", "optuna.trial_number": str(tried.number)},
            }
        ]

    def write(self) -> None:
        """Write study.json, with all lines so far."""
        rows = [tuning_records.row(self.tried[number]) for number in sorted(self.tried)]
        self.store.write_study(
            self.key,
            {
                **self.ready.record,
                "trials": rows + self.finals,
                "environment": environment.gather(),
            },
        )
        self._written = time.monotonic()
