"""Every engine runs tasks as `Engine` says: each row of the table, and one of this test alone."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from lab import clusters, driver, subprocess_engine, tiny_tasks

from tlx.errors import BadDataError, ResourceError, Stopped, TlxError
from tlx.lab import signals
from tlx.lab.engines import CLUSTERS, ENGINES, Engine
from tlx.lab.settings import Settings
from tlx.lab.store import Store, reproducible_fields
from tlx.lab.tasks import (
    ClusterOptions,
    Event,
    Failed,
    Finished,
    Outcome,
    Progress,
    RunOptions,
    Started,
    Task,
)


@dataclass(frozen=True)
class Case:
    """An engine with a number of workers."""

    name: str
    engine: Engine
    workers: int
    cluster: ClusterOptions = field(default_factory=ClusterOptions)

    def run(
        self,
        tasks: list[Task],
        *,
        events: list[Event] | None = None,
        on_event: Callable[[Event], None] | None = None,
        stop: Callable[[], bool] = signals.stopping,
        threads: int = 1,
        **options,
    ) -> list[Outcome]:
        seen = [] if events is None else events
        return self.engine(
            tasks,
            workers=self.workers,
            threads=threads,
            on_event=on_event or seen.append,
            stop=stop,
            options=RunOptions(**options, cluster=self.cluster),
        )


def run_short(tasks: list[Task], *, options: RunOptions, **how) -> list[Outcome]:
    """Run tasks by the local engine as short ones: a process runs one after the other."""
    return ENGINES["local"](tasks, options=replace(options, are_short=True), **how)


IN_PROCESS = [Case("local in this process", ENGINES["local"], 0)]
ON_THIS_MACHINE = [
    Case("local in 2 workers", ENGINES["local"], 2),
    Case("local in 2 workers, short tasks", run_short, 2),
    Case("subprocess in 2 workers", subprocess_engine.run_all, 2),
]
IN_WORKERS = [*ON_THIS_MACHINE, *(Case(name, ENGINES[name], 2) for name in clusters.CHOSEN)]
SLOW = ("ray",)  # to start and to connect to


def over(cases: list[Case]) -> pytest.MarkDecorator:
    rows = [
        pytest.param(case, id=case.name, marks=pytest.mark.slow if case.name in SLOW else ())
        for case in cases
    ]
    return pytest.mark.parametrize("case", rows, indirect=True)


every_engine = over([*IN_PROCESS, *IN_WORKERS])
with_workers = over(IN_WORKERS)
on_this_machine = over(ON_THIS_MACHINE)


@pytest.fixture
def case(request) -> Case:
    """An engine; one of a cluster has a real cluster of two nodes with a slot each."""
    row: Case = request.param
    if row.name not in CLUSTERS:
        return row
    cluster = request.getfixturevalue(f"{row.name}_cluster")
    return replace(row, cluster=ClusterOptions(address=cluster.address))


def tiny(name: str, *args: object, key: str | None = None) -> Task:
    return Task(key or name, name, f"lab.tiny_tasks:{name}", args)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what must come; the test's own time limit says that it never did."""
    while not condition():
        time.sleep(0.01)


# ---------------------------------------------------------------- outcomes


@every_engine
def test_outcomes_come_in_the_order_of_the_tasks(case):
    tasks = [tiny("double", n, key=str(n)) for n in (5, 3, 9, 1)]
    outcomes = case.run(tasks)
    assert [o.task for o in outcomes] == tasks
    assert [(o.result, o.error, o.attempts) for o in outcomes] == [
        (2 * n, None, 1) for n in (5, 3, 9, 1)
    ]


@every_engine
def test_no_task_gives_no_outcome(case):
    assert case.run([]) == []


@every_engine
def test_a_key_that_is_listed_twice_is_run_once(case):
    events: list[Event] = []
    outcomes = case.run([tiny("where"), tiny("double", 1), tiny("where")], events=events)
    assert outcomes[0] == outcomes[2]
    assert len([e for e in events if isinstance(e, Started) and e.key == "where"]) == 1


@every_engine
def test_every_engine_commits_the_same_trials(case, tmp_path):
    """The same as calling the function here, whatever the order of the tasks."""
    tasks = driver.tasks(tmp_path / "engine", 4, 3, 0)
    by_engine = {o.task.key: o.result for o in case.run(tasks[::-1])}
    for task in driver.tasks(tmp_path / "called", 4, 3, 0):
        called = tiny_tasks.trial(*task.args, emit=lambda report: None)
        assert reproducible_fields(by_engine[task.key]) == reproducible_fields(called)
    assert Store(tmp_path / "engine").keys() == Store(tmp_path / "called").keys()


# ---------------------------------------------------------------- events


@every_engine
def test_a_task_starts_then_reports_then_ends(case):
    events: list[Event] = []
    case.run([tiny("double", n, key=str(n)) for n in range(4)] + [tiny("refuse")], events=events)
    for n in range(4):
        assert [e for e in events if e.key == str(n)] == [
            Started(str(n), 1),
            Progress(str(n), 1, 1, {"number": n}),
            Finished(str(n), 2 * n),
        ]
    started, failed = (e for e in events if e.key == "refuse")
    assert started == Started("refuse", 1)
    assert isinstance(failed, Failed)
    assert (failed.will_retry, failed.error.code) == (False, "no-rows")


@every_engine
def test_events_are_delivered_in_the_callers_thread(case):
    threads = set()
    case.run(
        [tiny("double", n, key=str(n)) for n in range(4)],
        on_event=lambda event: threads.add(threading.get_ident()),
    )
    assert threads == {threading.get_ident()}


@every_engine
def test_events_come_while_the_task_runs(case, tmp_path):
    """A task that waits for what is written when its first report has arrived."""
    marker = tmp_path / "arrived"
    case.run(
        [tiny("wait_for", str(marker))],
        on_event=lambda event: isinstance(event, Progress) and marker.touch(),
    )
    assert marker.exists()


@with_workers
def test_an_error_of_the_caller_ends_the_workers_and_is_raised(case, tmp_path):
    def on_event(event):
        if isinstance(event, Progress):
            raise KeyError(event.key)

    with pytest.raises(KeyError):
        case.run([tiny("until_stopped", str(tmp_path))], on_event=on_event)
    for path in tmp_path.glob("*.pid"):
        wait_until(lambda pid=int(path.stem): not alive(pid))


# ---------------------------------------------------------------- errors


@every_engine
def test_a_tlx_error_is_the_outcome_whole(case):
    (outcome,) = case.run([tiny("refuse")])
    assert type(outcome.error) is BadDataError
    assert (outcome.error.code, outcome.error.where) == ("no-rows", "train.csv")
    assert (outcome.error.expected, outcome.error.remedy) == ("at least one", "add one")


@every_engine
def test_any_other_error_is_a_bug_with_its_traceback_in_the_log(case, tmp_path):
    events: list[Event] = []
    logs = tmp_path / "new" / "logs"
    bug, well = case.run([tiny("break_down"), tiny("double", 2)], events=events, log_folder=logs)
    assert (bug.error.code, bug.error.exit_code, bug.attempts) == ("bug", 1, 1)
    assert "KeyError: 'absent'" in str(bug.error)
    assert "in break_down" in (logs / "break_down.log").read_text()
    assert not any(e.will_retry for e in events if isinstance(e, Failed))
    assert well.result == 4
    assert [path.name for path in logs.iterdir()] == ["break_down.log"]


@every_engine
def test_want_of_memory_is_a_resource_error(case):
    (outcome,) = case.run([tiny("no_memory")])
    assert type(outcome.error) is ResourceError
    assert (outcome.error.code, outcome.error.exit_code) == ("out-of-memory", 5)


@with_workers
@pytest.mark.parametrize(("name", "words"), [("leave", "SystemExit: 3"), ("unpicklable", "pickle")])
def test_a_task_that_leaves_or_returns_what_cannot_be_sent_has_a_bug(case, name, words, tmp_path):
    lost, well = case.run([tiny(name), tiny("double", 1)], log_folder=tmp_path)
    assert (lost.error.code, lost.attempts) == ("bug", 1)
    assert words in str(lost.error)
    assert well.result == 2


# ---------------------------------------------------------------- dead processes, time


@with_workers
def test_a_task_whose_process_died_is_run_again(case, tmp_path):
    events: list[Event] = []
    again, well = case.run(
        [tiny("killed_once", str(tmp_path / "marker")), tiny("double", 1)], events=events
    )
    assert [(o.result, o.attempts) for o in (again, well)] == [("second time", 2), (2, 1)]
    own = [event for event in events if event.key == "killed_once"]
    assert [type(event) for event in own] == [Started, Failed, Started, Finished]
    assert [event.attempt for event in own if isinstance(event, Started)] == [1, 2]
    assert [event.will_retry for event in own if isinstance(event, Failed)] == [True]


@pytest.mark.slow
@with_workers
@pytest.mark.parametrize("retries", [0, 2])
@pytest.mark.parametrize(
    ("task", "words"),
    [
        (tiny("kill_itself"), "signal 9"),
        (tiny("kill_itself", int(signal.SIGSEGV)), "signal 11"),
        (tiny("vanish"), "exit code 4"),
    ],
    ids=["killed", "crashed", "vanished"],
)
def test_a_task_that_always_kills_its_process_fails_alone(case, task, words, retries):
    events: list[Event] = []
    tasks = [task, *(tiny("double", n, key=str(n)) for n in range(3))]
    dead, *well = case.run(tasks, events=events, retries=retries)
    assert type(dead.error) is ResourceError
    assert dead.error.exit_code == 5
    assert words in str(dead.error)
    assert dead.attempts == retries + 1
    assert [e.will_retry for e in events if isinstance(e, Failed)] == [True] * retries + [False]
    assert [o.result for o in well] == [0, 2, 4]


@with_workers
def test_what_a_dead_process_has_forked_ends_too(case, tmp_path):
    case.run([tiny("with_child", str(tmp_path / "pid"))], retries=0)
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: not alive(pid))


@pytest.mark.slow
@with_workers
def test_a_task_that_takes_too_long_is_ended_and_not_tried_again(case, tmp_path):
    late, well = case.run(
        [tiny("hang"), tiny("double", 1)], timeout_s=3.0, retries=2, log_folder=tmp_path
    )
    assert (late.error.code, late.error.exit_code, late.attempts) == ("timeout", 5, 1)
    assert well.result == 2


# ---------------------------------------------------------------- stopping


@every_engine
def test_a_stop_reaches_every_task_and_raises_stopped(case, tmp_path):
    events: list[Event] = []

    def on_event(event):
        events.append(event)
        if isinstance(event, Progress) and not signals.stopping():
            os.kill(os.getpid(), signal.SIGTERM)

    tasks = [tiny("until_stopped", str(tmp_path), key=str(n)) for n in range(5)]
    with signals.graceful(), pytest.raises(Stopped) as caught:
        case.run(tasks, on_event=on_event)
    assert caught.value.exit_code == 143
    assert not any(isinstance(event, Failed | Finished) for event in events)
    assert len([e for e in events if isinstance(e, Started)]) <= max(1, case.workers)
    for path in tmp_path.glob("*.pid"):
        pid = int(path.stem)
        assert pid == os.getpid() or not alive(pid)


@every_engine
def test_a_stop_before_the_first_task_runs_nothing(case, tmp_path):
    with pytest.raises(Stopped):
        case.run([tiny("hang_with_pid", str(tmp_path))], stop=lambda: True)
    assert not list(tmp_path.glob("*.pid"))


# ---------------------------------------------------------------- resources


@every_engine
@pytest.mark.parametrize("threads", [1, 3])
def test_each_process_is_initialised_with_its_threads(case, threads, monkeypatch):
    monkeypatch.setattr(tiny_tasks, "INITIALISED", [])
    outcomes = case.run(
        [tiny("where", key=str(n)) for n in range(2)],
        threads=threads,
        initialise="lab.tiny_tasks:initialise",
    )
    assert [o.result["set"] for o in outcomes] == [[threads], [threads]]


@on_this_machine
@pytest.mark.parametrize("threads", [1, 3])
def test_each_worker_has_its_device_and_its_threads(case, threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    outcomes = case.run(
        [tiny("where", key=str(n)) for n in range(4)], threads=threads, devices=("0", "1")
    )
    places = [o.result for o in outcomes]
    assert {place["device"] for place in places} == {"0", "1"}
    assert {place["threads"] for place in places} == {str(threads)}
    assert os.getpid() not in {place["pid"] for place in places}
    assert os.environ["OMP_NUM_THREADS"] == "7"


# ---------------------------------------------------------------- the table


def test_the_setting_offers_every_row_and_is_no_part_of_a_key():
    row = Settings.settings()["engine"]
    assert row.choices == tuple(ENGINES)
    assert not row.identity
    assert Settings().engine in ENGINES
    with pytest.raises(TlxError, match="local"):
        Settings(engine="locale")
