"""Runner of a stage: its trials are run where there is room, recorded, mirrored, summarised."""

from __future__ import annotations

import contextlib
import functools
import shutil
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

from .. import files, locks
from ..errors import BusyError, Stopped, TlxError, late_refusal
from ..lab import attempts, cost, energy, environment, resources, signals
from ..lab.engines import ENGINES, LOCAL, local
from ..lab.engines.worker import bug
from ..lab.records import StoredTrial
from ..lab.settings import Figures, Settings
from ..lab.store import Draft, Store
from ..lab.tasks import Event, Finished, Report, RunOptions, Task
from ..lab.tracking import api as tracking_api
from ..result import Result
from ..spec import Spec
from . import replicas, reporting
from .base import Stage, StudyReport, TrialContext, TrialFigures, most_epochs, open_store

SHARED, LOGS = "shared", "logs"  # folders in the store
DRIVER = "driver"  # lease of the command that works on a study with a cluster
TELL_EVERY_S = 0.2  # progress within an epoch
PRELOAD = (
    "torch",
    "torchvision",
    "tlx.studies.runner",
    "tlx.studies.activations",
    "tlx.models.training",
    "tlx.models.transferred",
    "tlx.models.footprint",
    "tlx.studies.training",
    "tlx.studies.reporting",
)


Outcomes = dict[str, Result | TlxError]  # key of a trial → its outcome


class GroupPlace(TypedDict):
    """Place of a trial in the run of its group: fields of `StoredTrial`."""

    group: str
    group_title: str
    label: str
    step: int


def run_stage(
    stage: Stage,
    settings: Settings,
    watch: Callable[[Event], None] = lambda event: None,
    write_summary: Callable[[Store, str], None] | None = None,
    figures: Figures | None = None,
) -> StudyReport:
    """Run what is not finished yet of a stage, then write its tables and figures.

    Finished trials are found by key and cost nothing. Stopped by a signal, everything done so far
    is kept and mirrored, and Stopped is raised.

    write_summary  in place of the stage's own
    figures        which are drawn; None: all, as PNG
    """
    started = time.perf_counter()
    figures = figures or Figures()
    target = tracking_api.resolve(settings.mlflow_path) if settings.tracking else None
    store = open_store(settings)
    keys = [trial.spec.key for trial in stage.trials]
    outcomes: Outcomes = {key: result for key in keys if (result := store.find(key)) is not None}
    reused = len(outcomes)
    if reused < len(keys) and not stage.runs_here:
        start_workers(settings, stage.preload)
    if target is not None:
        tracking_api.prepare(target)  # before any process opens it
    record(store, stage, settings.run_name)
    idle = None
    if reused < len(keys):
        idle = _idle_power(store, stage.key, settings)
    mirror = None
    if target is not None:
        mirror = tracking_api.Mirror(
            target,
            store.root,
            stage.key,
            wait=settings.wait,
            on_wait=watch,
        )

    def hear(event: Event) -> None:
        if isinstance(event, Finished):
            outcomes.update(event.result)
        watch(event)

    with signals.graceful(), contextlib.ExitStack() as held:
        if settings.on_cluster:
            held.enter_context(_only_driver(store, stage.key, takeover=settings.takeover))
        if mirror is not None:
            held.enter_context(mirror)
        run_groups(stage, store, settings, hear, outcomes, figures.trial_form, idle=idle)
        if write_summary is not None:
            write_summary(store, stage.key)
        else:
            write = stage.write_summary or reporting.write_summary
            write(store, stage.key, figures.study_form)
        store.seal_study(stage.key)
        failed = {key: outcome for key in keys if isinstance(outcome := outcomes[key], TlxError)}
        if mirror is not None and failed:
            for key, outcome in failed.items():
                mirror.failed(key, outcome)
            mirror.stop(tracking_api.FAILED)
    return StudyReport(
        stage,
        tuple(outcomes[key] for key in keys),
        reused,
        time.perf_counter() - started,
        store.root,
        mirror.report if mirror else None,
        mirror.address if mirror else "",
    )


def run_groups(
    stage: Stage,
    store: Store,
    settings: Settings,
    hear: Callable[[Event], None],
    outcomes: Outcomes,
    form: str | None,
    *,
    idle: energy.IdlePower | None = None,
) -> None:
    """Run the groups that have an unfinished trial.

    Outcomes of trials arrive as events of their group. Figures of trials are drawn in `form`; None
    draws none.
    """
    device = settings.trial_device()
    tasks = []
    shared = store.root / SHARED / stage.key
    several = sum(trial.spec.key not in outcomes for trial in stage.trials) > 1
    for group in stage.groups:
        todo = [trial for trial in group.trials if trial.spec.key not in outcomes]
        if todo:
            job = TrialJob(
                stage.run,
                stage.write_trial_figures or reporting.write_trial_figures,
                str(store.root),
                device,
                absolute(settings, store),
                form,
                str(shared) if several else None,
                idle,
                has_run=not stage.is_grouped,
            )
            specs, inputs = [trial.spec for trial in todo], todo[0].inputs
            tasks.append(
                Task(group.key, group.title, "tlx.studies.runner:run_group", (job, specs, inputs))
            )
        else:
            hear(
                Finished(
                    group.key, {trial.spec.key: outcomes[trial.spec.key] for trial in group.trials}
                )
            )
    specs = [trial.spec for trial in stage.trials]
    processes = replicas.processes_of(specs)
    workers = settings.resolved_workers(device, len(tasks), processes)
    options = replace(
        run_options(settings, store, device, workers, specs),
        timeout_s=settings.timeout,
        preload=(*PRELOAD, *stage.preload),
        are_short=stage.has_short_groups,
    )
    if not tasks:
        _remove_shared(shared)  # of a command that was killed after its last trial
        return
    groups = {group.key: group for group in stage.groups}
    engine, workers = (LOCAL, 0) if stage.runs_here else (settings.engine, workers)
    for outcome in ENGINES[engine](
        tasks, workers=workers, threads=settings.threads, on_event=hear, options=options
    ):
        if outcome.error is not None:
            lost = {
                t.spec.key: outcome.error
                for t in groups[outcome.task.key].trials
                if t.spec.key not in outcomes
            }
            outcomes.update({key: store.find(key) or error for key, error in lost.items()})
    if settings.on_cluster:
        store.wait_for(key for key, outcome in outcomes.items() if isinstance(outcome, Result))
        store.remove_finished_parts()
    _remove_shared(shared)  # after a stop it is there for the next command


def start_workers(settings: Settings, modules: Sequence[str] = ()) -> None:
    """Let the workers of trials to come import their modules while this process prepares data.

    modules  that the trials need beside PRELOAD
    """
    if settings.engine == LOCAL and settings.workers != 0:
        local.start_soon(settings.threads, (*PRELOAD, *modules))


def run_options(
    settings: Settings, store: Store, device: str, workers: int, specs: Sequence[Spec] = ()
) -> RunOptions:
    """Return the options of an engine that follow from the settings and the specs of trials."""
    return RunOptions(
        log_folder=store.root / LOGS,
        initialise="tlx.models.training:deterministic",
        devices=replicas.devices(specs, settings, device, workers),
        processes=replicas.processes_of(specs),
        cluster=settings.cluster_options((str(store.root), str(settings.cache_folder))),
    )


def absolute(settings: Settings, store: Store) -> Settings:
    """Return settings whose folders do not hang on the machine that a trial runs on."""
    if not settings.on_cluster:
        return settings
    return settings.replace(store=str(store.root), cache=str(settings.cache_folder))


@contextlib.contextmanager
def _only_driver(store: Store, key: str, *, takeover: bool) -> Iterator[None]:
    """Be the only command that works on a study inside the block.

    Raises BusyError, naming the other, unless `takeover`. It saves work: attempts need no lock.
    """
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locks.lease(store.study_folder(key) / DRIVER, takeover=takeover))
        except BusyError as error:
            error.remedy += "; --takeover goes on at once"
            raise
        yield


def _remove_shared(folder: Path) -> None:
    """Remove what the trials of a study have shared."""
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()


SHOWN_DIFFERENCES = 6  # settings in the name of a run; the others are among its parameters


def run_name(stage: Stage) -> str:
    """Return a study's title with the non-default settings that all its trials share."""
    spec = stage.trials[0].spec
    defaults, words = spec.defaults(), []
    for name, row in spec.settings().items():
        value = getattr(spec, name)
        is_choice = row.cli and row.identity and name != "architecture"
        if not is_choice or name not in defaults or value == defaults[name]:
            continue
        if all(getattr(trial.spec, name, None) == value for trial in stage.trials):
            shown = "+".join(map(str, value)) if isinstance(value, tuple) else str(value)
            words.append(f"{name.replace('_', '-')}={shown}")
    if len(words) > SHOWN_DIFFERENCES:
        words = [*words[:SHOWN_DIFFERENCES], "…"]
    return ", ".join([stage.title, *words])


def record(store: Store, stage: Stage, named: str = "") -> None:
    """Write the record of the study with its trials, those of earlier commands included.

    `named` is the name of its run in MLflow; "" leaves the one that an earlier command gave.
    Of a grouped stage, a trial that is on record with a run of its own keeps that.
    """
    before = store.read_study(stage.key) or {}
    named = named.strip() or str(before.get("named", ""))
    rows = {row["key"]: row for row in before.get("trials", [])}
    alone = {key for key, row in rows.items() if not row.get("group")}
    grouped = _grouped(stage, alone) if stage.is_grouped else {}
    rows |= {
        t.spec.key: {
            "key": t.spec.key,
            "title": t.spec.run_name,
            "shots": t.spec.shots,
            "split": t.spec.split,
            "params": t.spec.mlflow_params() | dict(stage.params),
            "spec": t.spec.to_json(),
            **grouped.get(t.spec.key, {}),
        }
        for t in stage.trials
    }
    placed = _without_doubles(rows.values(), {trial.spec.key for trial in stage.trials})
    ordered = sorted(placed, key=lambda row: (row["shots"], row["split"], row["key"]))
    store.write_study(
        stage.key,
        {
            "key": stage.key,
            "kind": stage.trials[0].spec.own_kind(),
            "experiment": stage.experiment,
            "title": stage.title,
            "run_name": named or run_name(stage),
            "named": named,
            "spec": stage.spec,
            "trials": ordered,
            "inputs": list(stage.inputs),
            "tags": dict(stage.tags),
            "params": dict(stage.params),
            "environment": environment.gather(),
            **({"idle_power": before["idle_power"]} if "idle_power" in before else {}),
        },
    )


def _grouped(stage: Stage, alone: Collection[str]) -> dict[str, GroupPlace]:
    """Return key of a trial → its place in the run of its group, without those `alone`.

    All draws of a number of shots are one run, in which a draw is a step.
    """
    return {
        trial.spec.key: {
            "group": files.digest(["group", stage.key, trial.spec.shots]),
            "group_title": f"{trial.spec.shots}-shot",
            "label": trial.label,
            "step": trial.spec.split,
        }
        for trial in stage.trials
        if trial.spec.key not in alone
    }


def _without_doubles(rows: Iterable[StoredTrial], keys: Collection[str]) -> list[StoredTrial]:
    """Return lines of trials, of which no two have one place in the run of a group.

    A trial of `keys` keeps its place; one of an earlier command, with other images under the number
    of the same draw, gets a run of its own.
    """
    rows = tuple(rows)
    holders = {_place(row): row["key"] for row in rows if row["key"] in keys}
    placed = []
    for row in rows:
        if row.get("group") and holders.setdefault(_place(row), row["key"]) != row["key"]:
            placed.append(_ungrouped(row))
        else:
            placed.append(row)
    return placed


def _place(row: StoredTrial) -> tuple[str, str, int]:
    return row.get("group", ""), row.get("label", ""), row.get("step", 0)


def _ungrouped(row: StoredTrial) -> StoredTrial:
    own = row.copy()
    for name in GroupPlace.__annotations__:
        own.pop(name, None)  # type: ignore[misc]  # each is a field that may be absent
    return own


def _idle_power(store: Store, key: str, settings: Settings) -> energy.IdlePower | None:
    """Return the idle power of this machine from the record of a study, sampled if it has none.

    None, at once, on a machine without counters.
    """
    if settings.on_cluster:
        return None  # another machine computes
    study = store.read_study(key)
    assert study is not None
    machine = energy.this_machine()
    known = dict(study.get("idle_power", {}))
    if machine in known:
        return energy.IdlePower.from_json(known[machine])
    sampled = energy.idle_power(settings.resolved_device() != "cpu")
    if sampled is not None:
        known[machine] = sampled.to_json()
        store.write_study(key, {**study, "idle_power": known})
    return sampled


# ---------------------------------------------------------------- in the process of a trial


@dataclass(frozen=True)
class TrialJob:
    """Data that the process of a group needs in addition to specs and inputs.

    form     of the trial's figures; None: they are not drawn
    shared   folder of what the trials share while they run; None: nothing
    idle     idle power of the machine that started the study
    has_run  whether MLflow shows a trial as a run, with the load of the machine
    """

    run: Callable[[Any, Any, TrialContext], Result]
    write_trial_figures: TrialFigures
    root: str
    device: str
    settings: Settings
    form: str | None
    shared: str | None = None
    idle: energy.IdlePower | None = None
    has_run: bool = True


def run_group(
    job: TrialJob, specs: Sequence[Spec], inputs: object, *, emit: Callable[[Report], None]
) -> dict[str, Result | TlxError]:
    """Run the trials of a group, one after the other, each found, continued or run.

    Each is then committed. An error of one trial is its outcome; the others are run.
    """
    results: dict[str, Result | TlxError] = {}
    for number, spec in enumerate(specs):
        tell = functools.partial(_as_part, emit, number, len(specs))
        try:
            results[spec.key] = Store(job.root).get_or_compute(
                spec.key, functools.partial(run_trial, job, spec, inputs, tell)
            )
        except Stopped:
            signals.stop_if_asked()  # with the number of the signal that asked
            raise
        except TlxError as error:
            results[spec.key] = late_refusal(error)
        except Exception as error:
            if len(specs) == 1:
                raise  # the engine writes the log of the group
            results[spec.key] = bug(error, Path(job.root) / LOGS / f"{spec.key}.log")
    return results


def _as_part(emit: Callable[[Report], None], number: int, of: int, report: Report) -> None:
    emit(
        {**report, "step": report["step"] + number * report["steps"], "steps": of * report["steps"]}
    )


def run_trial(
    job: TrialJob,
    spec: Spec,
    inputs: object,
    emit: Callable[[Report], None],
    draft: Draft,
) -> Result:
    """Return the result of a trial, continued from its draft."""
    settings, teller = job.settings, _ProgressReporter(draft, spec, emit)
    shared = None if job.shared is None else Path(job.shared)
    idle = job.idle if job.idle is not None and job.idle.machine == energy.this_machine() else None
    inherited: list[cost.Usage] = []
    with (
        resources.Sampler(teller.resources)
        if settings.system_metrics and job.has_run
        else contextlib.nullcontext(),
        cost.Meter(cost.declared_of(settings), idle=idle) as meter,
    ):
        context = TrialContext(
            draft.folder,
            settings.device_here(job.device),
            teller.log,
            teller.tell,
            signals.stopping,
            shared,
            meter.usage,
            inherited.append,
        )
        result = job.run(replicas.placed(spec, settings), inputs, context)
    for scratch in draft.folder.glob("training.*"):
        scratch.unlink()  # the training's state served to continue it
    job.write_trial_figures(draft.folder, result, job.form)
    written = sum(path.stat().st_size for path in draft.folder.rglob("*") if path.is_file())
    from_others = functools.reduce(cost.added, inherited) if inherited else None
    return replace(
        result, cost=meter.cost(from_others, written), environment=environment.gather() | _node()
    )


def _node() -> dict[str, object]:
    """Return the name of this machine where it is one of a cluster."""
    return {"node": socket.gethostname()} if attempts.current() else {}


class _ProgressReporter:
    """Sink of a trial's progress: epochs go to its journal, everything to the listener."""

    def __init__(self, draft: Draft, spec: Spec, emit: Callable[[Report], None]):
        self._draft, self._emit = draft, emit
        self._epochs, self._epoch, self._batches, self._told = most_epochs(spec), 0, 1, 0.0
        if draft.steps:
            self._epoch = max(draft.steps) + 1

    def log(self, epoch: int, values: dict[str, float]) -> None:
        self._draft.log(epoch, values)
        self._epoch = epoch + 1
        self._say(0, {"epoch": float(epoch + 1), **values})

    def resources(self, values: dict[str, float]) -> None:
        self._draft.journal.append(
            {"t": "system", "ts": time.time_ns() // 1_000_000, "values": values}
        )

    def tell(self, done: int, of: int) -> None:
        self._batches = of
        if time.monotonic() - self._told > TELL_EVERY_S:
            self._say(done, {})

    def _say(self, done: int, values: dict[str, float]) -> None:
        self._told = time.monotonic()
        self._emit(
            {
                "step": self._epoch * self._batches + done,
                "steps": self._epochs * self._batches,
                "values": values,
            }
        )
