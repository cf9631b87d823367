"""Whatever of a cluster dies, freezes or joins: nothing is lost, nothing doubled, nothing left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from lab import clusters, driver, tiny_tasks

from tlx import files
from tlx.errors import ResourceError
from tlx.lab import attempts
from tlx.lab.engines import ENGINES
from tlx.lab.engines import cluster as engines_cluster
from tlx.lab.store import JOURNAL, Store
from tlx.lab.tasks import (
    ClusterOptions,
    Event,
    Failed,
    Finished,
    Note,
    Outcome,
    Progress,
    RunOptions,
    Started,
)

pytestmark = [pytest.mark.crash, pytest.mark.timeout(240)]
TASKS, STEPS, PAUSE_S = 6, 24, 0.05


# A file system that grants every lock to everybody; TLX_TEST_LOCKS=kernel: this machine's own
NODES = {} if os.environ.get("TLX_TEST_LOCKS") == "kernel" else {"TLX_TEST_NO_LOCKS": "1"}


@pytest.fixture(scope="module", params=clusters.KINDS, ids=lambda kind: kind.engine)
def one_cluster(request, tmp_path_factory):
    """A cluster of this module's tests."""
    result = request.param(tmp_path_factory.mktemp("cluster"), NODES)
    yield result
    result.close()


@pytest.fixture
def cluster(one_cluster):
    """That cluster with two nodes of one slot each, whatever the test before has killed."""
    one_cluster.restore()
    return one_cluster


class Run:
    """Trials of tiny steps on a cluster; `harm` is called once, after so many reports."""

    def __init__(self, cluster, root: Path, *, tasks: int = TASKS, silent_s: float = 60.0):
        self.cluster, self.root, self.silent_s = cluster, root, silent_s
        self.tasks = driver.tasks(root, tasks, STEPS, PAUSE_S, "trial_with_pid")
        self.events: list[Event] = []
        self.notes: list[str] = []
        self.pids: dict[str, int] = {}  # key → process of its running trial
        self.reports = 0
        self.on_report: Callable[[int], None] = lambda pid: None

    def __call__(
        self, harm: Callable[[], None] = lambda: None, after: int = 20, retries: int = 3
    ) -> list[Outcome]:
        def on_event(event: Event) -> None:
            if isinstance(event, Note):
                self.notes.append(event.text)
                return
            self.events.append(event)
            if isinstance(event, Progress):
                if self.pids.get(event.key) != event.values["pid"]:
                    self.pids[event.key] = event.values["pid"]
                    self.on_report(event.values["pid"])
                self.reports += 1
                if self.reports == after:
                    harm()

        cluster_options = ClusterOptions(address=self.cluster.address, silent_s=self.silent_s)
        return ENGINES[self.cluster.engine](
            self.tasks,
            workers=len(self.tasks),
            on_event=on_event,
            options=RunOptions(retries=retries, cluster=cluster_options),
        )

    def running(self) -> list[int]:
        """The processes of trials that have started and not ended."""
        ended = {event.key for event in self.events if isinstance(event, Failed | Finished)}
        return [pid for key, pid in self.pids.items() if key not in ended]


def check_whole(root: Path, keys: list[str]) -> None:
    """Every trial is whole with each step once, and nothing is left of any attempt."""
    store = Store(root)
    store.remove_finished_parts()
    assert store.keys() == sorted(keys)
    for key in keys:
        store.verify(key)
        rows = files.Journal.read(store.folder(key) / JOURNAL)
        steps = [(row["step"], row["values"]["loss"]) for row in rows if row["t"] == "metrics"]
        assert steps == [(n, tiny_tasks.loss(key, n)) for n in range(1, STEPS + 1)]
        assert attempts.parts(store.folder(key)) == []
    assert sorted(path.name for path in (root / "trials").iterdir()) == sorted(keys)


def check_events(events: list[Event], outcomes: list[Outcome]) -> None:
    """Each trial's events are in order; each attempt is counted."""
    by_key = defaultdict(list)
    for event in events:
        by_key[event.key].append(event)
    for outcome in outcomes:
        own = [event for event in by_key[outcome.task.key] if not isinstance(event, Progress)]
        assert [type(e) for e in own] == [
            *[Started, Failed] * (outcome.attempts - 1),
            Started,
            Finished,
        ]
        numbers = [event.attempt for event in own if isinstance(event, Started)]
        assert numbers == list(range(1, outcome.attempts + 1))
        assert all(event.will_retry for event in own if isinstance(event, Failed))


def alive(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def check_gone(pids: list[int]) -> None:
    """The processes end within some seconds."""
    end = time.monotonic() + 10
    while any(map(alive, pids)):
        assert time.monotonic() < end, [pid for pid in pids if alive(pid)]
        time.sleep(0.05)


def check(run: Run, outcomes: list[Outcome]) -> None:
    assert [outcome.error for outcome in outcomes] == [None] * len(run.tasks)
    check_events(run.events, outcomes)
    check_whole(run.root, [task.key for task in run.tasks])
    check_gone(list(run.pids.values()))


def test_a_killed_trial_is_continued(cluster, tmp_path):
    run = Run(cluster, tmp_path / "runs")
    outcomes = run(lambda: os.kill(run.running()[0], signal.SIGKILL))
    check(run, outcomes)
    assert sum(outcome.attempts for outcome in outcomes) == TASKS + 1


def test_a_killed_process_of_the_cluster_is_replaced(cluster, tmp_path):
    run = Run(cluster, tmp_path / "runs")
    check(run, run(lambda: os.kill(cluster.worker_of(cluster.nodes[0]), signal.SIGKILL)))


def test_a_killed_node_is_done_without(cluster, tmp_path):
    run = Run(cluster, tmp_path / "runs")
    check(run, run(cluster.nodes[0].kill))


def test_a_killed_daemon_of_a_node_is_done_without(cluster, tmp_path):
    run = Run(cluster, tmp_path / "runs")
    check(run, run(lambda: os.kill(cluster.nodes[0].process.pid, signal.SIGKILL)))


def test_a_node_that_joins_late_is_used(cluster, tmp_path):
    tasks = 30 if cluster.engine == "ray" else 10  # a node of Ray takes its time to start
    run, homes = Run(cluster, tmp_path / "runs", tasks=tasks), set()

    def join() -> None:
        node = cluster.add_node()
        run.on_report = lambda pid: homes.add(pid in node.pids())

    check(run, run(join, after=5))
    assert True in homes


def test_a_frozen_node_is_given_up_and_harmless_when_it_is_thawed(cluster, tmp_path):
    frozen, run = cluster.nodes[0], Run(cluster, tmp_path / "runs", silent_s=8)
    try:
        outcomes = run(lambda: frozen.send(signal.SIGSTOP))
        assert [outcome.error for outcome in outcomes] == [None] * TASKS
        check_events(run.events, outcomes)
        check_whole(run.root, [task.key for task in run.tasks])
        frozen.send(signal.SIGCONT)
        check_gone(list(run.pids.values()))
        check_whole(run.root, [task.key for task in run.tasks])
    finally:
        frozen.kill()


def test_a_node_that_is_frozen_before_the_command_starts_is_left_unused(
    cluster, tmp_path, monkeypatch
):
    monkeypatch.setattr(engines_cluster, "PROBE_S", 5.0)
    frozen, run = cluster.nodes[0], Run(cluster, tmp_path / "runs", tasks=2)
    try:
        frozen.send(signal.SIGSTOP)
        outcomes = run()
        assert [(outcome.error, outcome.attempts) for outcome in outcomes] == [(None, 1)] * 2
        assert ["do not answer" in note for note in run.notes] == [True]
    finally:
        frozen.kill()


def test_a_killed_head_is_one_sentence_and_another_cluster_continues(cluster, tmp_path):
    """Ray's nodes finish what they have without a head: there is more than that."""
    doomed = type(cluster)(tmp_path / "doomed", NODES)
    tasks = 20 if cluster.engine == "ray" else TASKS
    try:
        doomed.add_node()
        run = Run(doomed, tmp_path / "runs", tasks=tasks)
        with pytest.raises(ResourceError, match=r"is gone.*same command continues") as caught:
            run(doomed.head.kill)
        assert (caught.value.code, caught.value.exit_code) == ("cluster-lost", 5)
    finally:
        doomed.close()
    second = Run(cluster, tmp_path / "runs", tasks=tasks)
    check(second, second())


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_a_driver_that_is_stopped_or_killed_leaves_no_trial_running(
    cluster, tmp_path, number, code
):
    root = tmp_path / "runs"
    words = [cluster.engine, cluster.address, str(root), str(TASKS), str(STEPS), str(PAUSE_S)]
    paths = f"{clusters.TESTS}:{clusters.TESTS.parent}"
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("cluster_driver.py")), *words],
        env=os.environ | {"PYTHONPATH": paths},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    pids, lines = set(), []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("Progress"):
            pids.add(int(line.split()[2]))
        if len(pids) == 2:
            break
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == code, [*lines, out]
    assert "Traceback" not in out
    assert "Failed" not in out
    check_gone(list(pids))
    run = Run(cluster, root)
    check(run, run())
