"""A study: trials that differ in shots and split, run where there is room, recorded, mirrored, summarised."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import Stopped, TrialsFailed
from ..lab import cost, engine, environment, resources, signals, tracking
from ..lab.settings import Settings
from ..lab.store import Draft, Store
from ..lab.tasks import Conditions, Event, Failed, Finished, Outcome, Task
from ..result import DIVERGED, Result

TELL_EVERY_S = 0.2  # progress within an epoch
PRELOAD = ("torch", "torchvision", "tlx.trials.study", "tlx.trials.inputs", "tlx.models.training",
           "tlx.report.studies")


@dataclass(frozen=True)
class Trial:
    """One spec with what it is run on."""

    spec: Any
    inputs: Any


@dataclass(frozen=True, kw_only=True)
class Study:
    """What one command asks for.

    key     names the study: the same question, asked with more shots or splits, is the same study grown
    call    "package.module:run" of its trials
    inputs  the data sets that enter, for the record: {"name", "source", "digest", "context"}
    """

    key: str
    call: str
    experiment: str
    title: str
    spec: dict[str, Any]
    trials: tuple[Trial, ...]
    inputs: tuple[dict[str, str], ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)  # shown with every trial
    dress: str = "tlx.report.studies:dress"  # called with a trial's folder and result, it adds figures


@dataclass(frozen=True)
class Bench:
    """What a trial is given beside its spec and inputs: a folder of its own, a device, ears."""

    folder: Path
    device: str
    log: Callable[[int, dict[str, float]], None]  # the values of an epoch, durably
    tell: Callable[[int, int], None]  # batches done of an epoch's
    stopping: Callable[[], bool]


@dataclass(frozen=True)
class Report:
    """What came of a study: every outcome in order, what was found done, and how the mirror stands."""

    study: Study
    outcomes: tuple[Outcome, ...]
    reused: int
    wall_s: float
    folder: Path
    sent: tracking.Sent | None  # None without tracking
    address: str

    @property
    def results(self) -> list[Result]:
        """The results there are."""
        return [o.result for o in self.outcomes if o.result is not None]

    @property
    def diverged(self) -> list[Result]:
        """The trials whose numbers stopped being finite."""
        return [r for r in self.results if r.status == DIVERGED]

    def raise_if_failed(self, require_tracking: bool) -> None:
        """TrialsFailed if a trial has no result, Untracked if records are unsent and were required."""
        errors = [o.error for o in self.outcomes if o.error is not None]
        if errors:
            raise TrialsFailed("trials-failed", f"{len(errors)} of {len(self.outcomes)} trials failed: {errors[0]}",
                               remedy="the same command tries them again and keeps the finished ones")
        if require_tracking and self.sent is not None:
            self.sent.require()


def perform(study: Study, settings: Settings, watch: Callable[[Event], None],
            summarise: Callable[[Store, str], None]) -> Report:
    """Run what is not finished yet of `study`; `summarise(store, key)` then makes its figures.

    Finished trials are found by key and cost nothing. Stopped by a signal, everything done so far is kept and
    mirrored, and Stopped is raised.
    """
    started = time.perf_counter()
    target = tracking.resolve(settings.mlflow_path) if settings.tracking else None
    if target is not None:
        tracking.prepare(target)  # before any process opens it
    store = Store(settings.store_folder(target.database if target else None))
    keys = [trial.spec.key for trial in study.trials]
    found = {key: result for key in keys if (result := store.find(key)) is not None}
    record(store, study)
    for key, result in found.items():
        watch(Finished(key, result))
    mirror = tracking.Mirror(target, store.root, study.key) if target is not None else None

    def hear(event: Event) -> None:
        if mirror is not None and isinstance(event, Failed) and not event.will_retry:
            mirror.failed(event.key, event.error)
        watch(event)

    with signals.graceful(), contextlib.ExitStack() as held:
        if mirror is not None:
            held.enter_context(mirror)
        outcomes = _run(study, store, settings, hear, found)
        summarise(store, study.key)
        if mirror is not None and any(outcome.error is not None for outcome in outcomes):
            mirror.stop(tracking.FAILED)
    return Report(study, tuple(outcomes), len(found), time.perf_counter() - started, store.root,
                  mirror.report if mirror else None, mirror.address if mirror else "")


def _run(study: Study, store: Store, settings: Settings, watch: Callable[[Event], None],
         found: dict[str, Result]) -> list[Outcome]:
    device = settings.resolved_device()
    todo = [trial for trial in study.trials if trial.spec.key not in found]
    tasks = [Task(t.spec.key, t.spec.title, "tlx.trials.study:work",
                  ((study.call, study.dress), t.spec, t.inputs, str(store.root), device, settings)) for t in todo]
    workers = settings.resolved_workers(device, len(tasks))
    conditions = Conditions(timeout_s=settings.timeout, preload=PRELOAD, log_folder=store.root / "logs",
                            initialise="tlx.models.training:deterministic",
                            devices=tuple(map(str, range(workers))) if device == "cuda" and workers > 1 else ())
    done = {o.task.key: o for o in engine.run_all(tasks, workers=workers, threads=settings.threads, on_event=watch,
                                                  conditions=conditions)} if tasks else {}
    return [done.get(t.spec.key) or Outcome(Task(t.spec.key, t.spec.title, study.call), found[t.spec.key])
            for t in study.trials]


def record(store: Store, study: Study) -> None:
    """Write down the study with its trials, those of earlier commands included."""
    before = store.read_study(study.key) or {}
    rows = {row["key"]: row for row in before.get("trials", [])}
    rows |= {t.spec.key: {"key": t.spec.key, "title": t.spec.title, "shots": t.spec.shots, "split": t.spec.split,
                          "params": t.spec.named() | dict(study.params), "spec": t.spec.to_json()}
             for t in study.trials}
    ordered = sorted(rows.values(), key=lambda row: (row["shots"], row["split"], row["key"]))
    store.write_study(study.key, {
        "key": study.key, "kind": type(study.trials[0].spec).__name__, "experiment": study.experiment,
        "title": study.title, "spec": study.spec, "trials": ordered, "inputs": list(study.inputs),
        "tags": dict(study.tags), "params": dict(study.params), "environment": environment.gather()})


# ---------------------------------------------------------------- in the process of a trial

def work(calls: tuple[str, str], spec: Any, inputs: Any, root: str, device: str, settings: Settings, *,
         emit: Callable[[dict[str, Any]], None]) -> Result:
    """One trial, made once: found, continued or run, and committed."""
    run, dress = map(engine.worker.function, calls)

    def make(draft: Draft) -> Result:
        teller = _Teller(draft, spec, emit)
        bench = Bench(draft.folder, device, teller.log, teller.tell, signals.stopping)
        carbon = cost.Carbon(settings.grid, "declared") if settings.grid is not None else None
        try:
            with (resources.Sampler(teller.resources) if settings.system_metrics else contextlib.nullcontext(),
                  cost.Meter(watts=settings.watts, carbon=carbon) as meter):
                result = run(spec, inputs, bench)
        except Stopped:
            signals.stop_if_asked()  # with the number of the signal that asked
            raise
        for scratch in draft.folder.glob("training.*"):
            scratch.unlink()  # the training's state served to continue it
        dress(draft.folder, result)
        return replace(result, cost=meter.cost(), environment=environment.gather())

    return Store(root).once(spec.key, make)


class _Teller:
    """Passes on what a trial says: epochs to its journal, all of it to whoever watches."""

    def __init__(self, draft: Draft, spec: Any, emit: Callable[[dict[str, Any]], None]):
        self._draft, self._emit = draft, emit
        self._epochs, self._epoch, self._batches, self._told = spec.epochs, 0, 1, 0.0
        if draft.steps:
            self._epoch = max(draft.steps) + 1

    def log(self, epoch: int, values: dict[str, float]) -> None:
        self._draft.log(epoch, values)
        self._epoch = epoch + 1
        self._say(0, {"epoch": float(epoch + 1), **values})

    def resources(self, values: dict[str, float]) -> None:
        self._draft.journal.append({"t": "system", "ts": time.time_ns() // 1_000_000, "values": values})

    def tell(self, done: int, of: int) -> None:
        self._batches = of
        if time.monotonic() - self._told > TELL_EVERY_S:
            self._say(done, {})

    def _say(self, done: int, values: dict[str, float]) -> None:
        self._told = time.monotonic()
        self._emit({"step": self._epoch * self._batches + done, "steps": self._epochs * self._batches,
                    "values": values})
