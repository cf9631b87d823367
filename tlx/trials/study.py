"""A study: trials that differ in shots and split, run where there is room, recorded, mirrored, summarised."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import Busy, Integrity, Stopped, TlxError, TrialsFailed, Usage
from ..lab import cost, engine, environment, resources, signals, tracking
from ..lab.settings import Settings
from ..lab.store import Draft, Store
from ..lab.tasks import Conditions, Event, Finished, Task, Waiting
from ..result import DIVERGED, Result

DISK = ("disk-full", "disk-space", "storage-failing", "permission")  # codes of a Resource error
TELL_EVERY_S = 0.2  # progress within an epoch
PRELOAD = ("torch", "torchvision", "tlx.trials.study", "tlx.trials.inputs", "tlx.models.training",
           "tlx.report.studies")


@dataclass(frozen=True)
class Trial:
    """One spec with what it is run on. Trials of one group share their inputs, and run one after the other in one
    process, so that what they have in common is computed once."""

    spec: Any
    inputs: Any
    group: str = ""


@dataclass(frozen=True)
class Group:
    """Trials that run together: `weight` says how much work there is, relative to other groups."""

    key: str
    title: str
    trials: tuple[Trial, ...]

    @property
    def weight(self) -> float:
        """How much work there is, in rows through the network forward."""
        return sum(fitting + testing for fitting, testing in map(work_of, self.trials))

    @property
    def fitting_share(self) -> float:
        """The share of its work that comes before the test, which is not told in steps."""
        fitting = sum(work_of(trial)[0] for trial in self.trials)
        return fitting / self.weight if self.weight else 1.0


BACKWARD = 2  # passes that a training row takes beside the one forward


def work_of(trial: Trial) -> tuple[float, float]:
    """Rows through the network until a trial is fitted, and rows of its test.

    Each epoch takes every training row forward and backward, and every validation row forward. A trial whose inputs
    are not samples counts by its shots.
    """
    inputs = getattr(trial.inputs, "data", trial.inputs)
    train, val, test = (_rows(getattr(inputs, role, None)) for role in ("train", "val", "test"))
    if not train:
        return float(trial.spec.shots or 1), 0.0
    epochs = getattr(trial.spec, "epochs", 1)
    return float(epochs * ((1 + BACKWARD) * train + val)), float(test)


def _rows(samples: Any) -> int:
    """Images times crops; 0 of what is no samples."""
    crops = getattr(samples, "crops", None)
    return len(samples) * crops if isinstance(crops, int) else 0


@dataclass(frozen=True, kw_only=True)
class Study:
    """What one command asks for.

    key     names the study: the same question, asked with more shots or splits, is the same study grown
    call    "package.module:run" of its trials
    preload modules that its trials need beside PRELOAD: imported once, not in every process
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
    preload: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # for people: said before the trials
    dress: str = "tlx.report.studies:dress"  # called with a trial's folder and result, it adds figures

    @property
    def groups(self) -> tuple[Group, ...]:
        """The trials as they run together, in order."""
        together: dict[str, list[Trial]] = {}
        for trial in self.trials:
            together.setdefault(trial.group or trial.spec.key, []).append(trial)
        return tuple(Group(key, trials[0].spec.title, tuple(trials)) for key, trials in together.items())


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
    outcomes: tuple[Result | TlxError, ...]
    reused: int
    wall_s: float
    folder: Path
    sent: tracking.Sent | None  # None without tracking
    address: str

    @property
    def results(self) -> list[Result]:
        """The results there are."""
        return [outcome for outcome in self.outcomes if isinstance(outcome, Result)]

    @property
    def diverged(self) -> list[Result]:
        """The trials whose numbers stopped being finite."""
        return [r for r in self.results if r.status == DIVERGED]

    def raise_if_failed(self, require_tracking: bool) -> None:
        """TrialsFailed if a trial has no result, Untracked if records are unsent and were required.

        Where all that failed for a reason that is not the trials' own (another process at work, a full disk, a damaged
        folder, settings that do not go together), that reason is raised as it is, with its exit code.
        """
        errors = [outcome for outcome in self.outcomes if isinstance(outcome, TlxError)]
        if errors and all(isinstance(e, (Busy, Integrity, Usage)) or e.code in DISK for e in errors):
            raise errors[0]
        if errors:
            raise TrialsFailed("trials-failed", f"{len(errors)} of {len(self.outcomes)} trials failed: {errors[0]}",
                               remedy="the same command tries them again and keeps the finished ones")
        if require_tracking and self.sent is not None:
            self.sent.require()


Found = dict[str, Result | TlxError]  # key of a trial → what came of it


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
    found: Found = {key: result for key in keys if (result := store.find(key)) is not None}
    reused = len(found)
    record(store, study)
    mirror = None
    if target is not None:
        mirror = tracking.Mirror(target, store.root, study.key, wait=settings.wait,
                                 on_wait=lambda seconds: watch(Waiting(seconds)))

    def hear(event: Event) -> None:
        if isinstance(event, Finished):
            found.update(event.result)
        watch(event)

    with signals.graceful(), contextlib.ExitStack() as held:
        if mirror is not None:
            held.enter_context(mirror)
        run_groups(study, store, settings, hear, found)
        summarise(store, study.key)
        store.seal_study(study.key)
        failed = {key: outcome for key in keys if isinstance(outcome := found[key], TlxError)}
        if mirror is not None and failed:
            for key, outcome in failed.items():
                mirror.failed(key, outcome)
            mirror.stop(tracking.FAILED)
    return Report(study, tuple(found[key] for key in keys), reused, time.perf_counter() - started, store.root,
                  mirror.report if mirror else None, mirror.address if mirror else "")


def run_groups(study: Study, store: Store, settings: Settings, hear: Callable[[Event], None], found: Found) -> None:
    """Run the groups that have an unfinished trial; what comes of each trial is heard as part of its group."""
    device = settings.resolved_device()
    tasks = []
    for group in study.groups:
        todo = [trial for trial in group.trials if trial.spec.key not in found]
        if todo:
            order = Order(study.call, study.dress, str(store.root), device, settings)
            specs, inputs = [trial.spec for trial in todo], todo[0].inputs
            tasks.append(Task(group.key, group.title, "tlx.trials.study:work", (order, specs, inputs)))
        else:
            hear(Finished(group.key, {trial.spec.key: found[trial.spec.key] for trial in group.trials}))
    workers = settings.resolved_workers(device, len(tasks))
    conditions = Conditions(timeout_s=settings.timeout, preload=(*PRELOAD, *study.preload),
                            log_folder=store.root / "logs",
                            initialise="tlx.models.training:deterministic",
                            devices=tuple(map(str, range(workers))) if device == "cuda" and workers > 1 else ())
    if not tasks:
        return
    groups = {group.key: group for group in study.groups}
    for outcome in engine.run_all(tasks, workers=workers, threads=settings.threads, on_event=hear,
                                  conditions=conditions):
        if outcome.error is not None:
            lost = {t.spec.key: outcome.error for t in groups[outcome.task.key].trials if t.spec.key not in found}
            found.update({key: store.find(key) or error for key, error in lost.items()})


SHOWN_DIFFERENCES = 6  # settings in the name of a run; the others are among its parameters


def run_name(study: Study) -> str:
    """Return the title of a study with the settings in which all of its trials differ from the defaults."""
    spec = study.trials[0].spec
    defaults, said = spec.defaults(), []
    for name, row in spec.knobs().items():
        value = getattr(spec, name)
        is_choice = not row.derived and not row.place and name != "architecture"
        if not is_choice or name not in defaults or value == defaults[name]:
            continue
        if all(getattr(trial.spec, name, None) == value for trial in study.trials):
            shown = "+".join(map(str, value)) if isinstance(value, tuple) else str(value)
            said.append(f"{name.replace('_', '-')}={shown}")
    return ", ".join([study.title, *said[:SHOWN_DIFFERENCES], *(["…"] if len(said) > SHOWN_DIFFERENCES else [])])


def record(store: Store, study: Study) -> None:
    """Write down the study with its trials, those of earlier commands included."""
    before = store.read_study(study.key) or {}
    rows = {row["key"]: row for row in before.get("trials", [])}
    rows |= {t.spec.key: {"key": t.spec.key, "title": t.spec.run_name, "shots": t.spec.shots, "split": t.spec.split,
                          "params": t.spec.named() | dict(study.params), "spec": t.spec.to_json()}
             for t in study.trials}
    ordered = sorted(rows.values(), key=lambda row: (row["shots"], row["split"], row["key"]))
    store.write_study(study.key, {
        "key": study.key, "kind": type(study.trials[0].spec).__name__, "experiment": study.experiment,
        "title": study.title, "run_name": run_name(study), "spec": study.spec, "trials": ordered,
        "inputs": list(study.inputs), "tags": dict(study.tags), "params": dict(study.params),
        "environment": environment.gather()})


# ---------------------------------------------------------------- in the process of a trial

@dataclass(frozen=True)
class Order:
    """What the process of a group is told beside its specs: functions as "package.module:name", folder, device."""

    run: str
    dress: str
    root: str
    device: str
    settings: Settings


def work(order: Order, specs: list[Any], inputs: Any, *, emit: Callable[[dict[str, Any]], None]
         ) -> dict[str, Result | TlxError]:
    """The trials of a group, one after the other, each made once: found, continued or run, and committed.

    What is wrong with one trial is its outcome; the others go on.
    """
    found: dict[str, Result | TlxError] = {}
    for number, spec in enumerate(specs):
        tell = functools.partial(_as_part, emit, number, len(specs))
        try:
            found[spec.key] = Store(order.root).once(spec.key, functools.partial(make, order, spec, inputs, tell))
        except Stopped:
            signals.stop_if_asked()  # with the number of the signal that asked
            raise
        except TlxError as error:
            found[spec.key] = error
    return found


def _as_part(emit: Callable[[dict[str, Any]], None], number: int, of: int, report: dict[str, Any]) -> None:
    emit({**report, "step": report["step"] + number * report["steps"], "steps": of * report["steps"]})


def make(order: Order, spec: Any, inputs: Any, emit: Callable[[dict[str, Any]], None], draft: Draft) -> Result:
    """The result of a trial, continued from where its draft stands."""
    settings, teller = order.settings, _Teller(draft, spec, emit)
    bench = Bench(draft.folder, order.device, teller.log, teller.tell, signals.stopping)
    carbon = cost.Carbon(settings.grid, "declared") if settings.grid is not None else None
    with (resources.Sampler(teller.resources) if settings.system_metrics else contextlib.nullcontext(),
          cost.Meter(watts=settings.watts, carbon=carbon) as meter):
        result = engine.worker.function(order.run)(spec, inputs, bench)
    for scratch in draft.folder.glob("training.*"):
        scratch.unlink()  # the training's state served to continue it
    engine.worker.function(order.dress)(draft.folder, result)
    return replace(result, cost=meter.cost(), environment=environment.gather())


class _Teller:
    """Passes on what a trial says: epochs to its journal, all of it to whoever watches."""

    def __init__(self, draft: Draft, spec: Any, emit: Callable[[dict[str, Any]], None]):
        self._draft, self._emit = draft, emit
        self._epochs, self._epoch, self._batches, self._told = getattr(spec, "epochs", 1), 0, 1, 0.0
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
