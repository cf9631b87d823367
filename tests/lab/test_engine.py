"""What the local engine promises beside its contract (tests/contracts/test_engines.py).

Tasks get done, once, with the same results, whoever is killed and whenever.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lab import driver, tiny_tasks

from tlx import files
from tlx.errors import ResourceError, Stopped, TlxError
from tlx.lab import signals
from tlx.lab.engines import forkserver
from tlx.lab.engines import local as engines_local
from tlx.lab.engines.local import Progress, RunOptions, Task
from tlx.lab.store import Store, reproducible_fields

HERE = Path(__file__).parent


def tiny(name, *args, key=None) -> Task:
    return Task(key or name, name, f"lab.tiny_tasks:{name}", args)


def run(tasks, *, workers=2, events=None, **options):
    on_event = (lambda event: None) if events is None else events.append
    return engines_local.run_all(
        tasks, workers=workers, on_event=on_event, options=RunOptions(**options)
    )


def alive(pid: int) -> bool:
    """Whether a process runs (one that is dead and not yet waited for does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def gone(pids, within_s=3.0) -> bool:
    end = time.monotonic() + within_s
    while any(alive(pid) for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


# ---------------------------------------------------------------- results


def test_in_process_and_workers_give_the_same(tmp_path):
    """Level A: one worker = several worker processes = this process, whatever the order."""
    found = []
    for name, workers in (("here", 0), ("one", 1), ("two", 2)):
        tasks = driver.tasks(tmp_path / name, 4, 3, 0)
        if name == "two":
            tasks.reverse()
        found.append(
            {o.task.key: reproducible_fields(o.result) for o in run(tasks, workers=workers)}
        )
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 4


# ---------------------------------------------------------------- options


def test_each_task_has_a_fresh_process_with_its_threads_and_device(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    options = RunOptions(devices=("0", "1"), initialise="lab.tiny_tasks:initialise")
    tasks = [tiny("where", key=str(n)) for n in range(4)]
    for threads in (1, 3):
        found = [
            o.result
            for o in engines_local.run_all(
                tasks, workers=2, threads=threads, on_event=lambda e: None, options=options
            )
        ]
        assert len({row["pid"] for row in found} | {os.getpid()}) == 5
        assert {row["device"] for row in found} == {"0", "1"}
        assert all(row["threads"] == str(threads) and row["set"] == [threads] for row in found)
        assert all(row["safe"] is None for row in found)
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "PYTHONSAFEPATH" not in os.environ


# ---------------------------------------------------------------- what breaks


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (tiny("kill_itself"), "killed by signal 9, probably out of memory"),
        (tiny("kill_itself", int(signal.SIGSEGV)), "crashed with signal 11"),
        (tiny("vanish"), "exit code 4"),
        (tiny("leave"), "SystemExit: 3"),
        (tiny("unpicklable"), "pickle"),
    ],
    ids=lambda x: x.title if isinstance(x, Task) else "",
)
def test_every_way_to_end_is_told(task, words, tmp_path):
    error = run([task], retries=0, log_folder=tmp_path)[0].error
    assert words in str(error)
    if error.where:
        assert Path(error.where).read_text()
    if "signal 11" in words:
        assert "tiny_tasks.py" in Path(error.where).read_text()  # where it stood when it crashed


def test_a_task_that_hangs_is_ended_with_its_stack_in_the_log(tmp_path):
    done = run([tiny("hang"), tiny("double", 1)], timeout_s=2.0, log_folder=tmp_path)
    assert (done[0].error.code, done[0].error.exit_code, done[0].attempts) == ("timeout", 5, 1)
    assert "in hang" in (tmp_path / "hang.log").read_text()
    assert done[1].result == 2


# ---------------------------------------------------------------- stopping


def test_a_deaf_worker_is_killed_when_its_grace_is_over(monkeypatch):
    monkeypatch.setattr(engines_local, "GRACE_S", 0.3)
    start = time.monotonic()
    with pytest.raises(Stopped):
        engines_local.run_all(
            [tiny("hang")],
            workers=1,
            on_event=lambda e: None,
            stop=lambda: time.monotonic() > start + 0.3,
        )


@pytest.fixture
def heard():
    """Whether the tests run below nohup or not, SIGHUP is not ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("heard")
def test_handlers_come_back_and_nested_blocks_keep_the_request():
    before = [signal.getsignal(n) for n in signals.STOP_SIGNALS]
    with signals.graceful() as stopping:
        with signals.graceful():
            os.kill(os.getpid(), signal.SIGHUP)
            assert stopping()
        assert stopping()
        assert signals.received() == signal.SIGHUP
        with pytest.raises(Stopped) as caught:
            signals.stop_if_asked()
        assert caught.value.exit_code == 129
    assert not stopping()
    signals.stop_if_asked()
    assert [signal.getsignal(n) for n in signals.STOP_SIGNALS] == before


def test_an_ignored_signal_stays_ignored():
    """nohup means it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.graceful() as stopping:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stopping()
    finally:
        signal.signal(signal.SIGHUP, before)


# ---------------------------------------------------------------- a real driver, killed


def start_driver(*argv) -> subprocess.Popen:
    env = os.environ | {"PYTHONPATH": f"{HERE.parent}:{HERE.parents[1]}"}
    return subprocess.Popen(
        [sys.executable, str(HERE / "driver.py"), *map(str, argv)],
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def running(folder: Path, process: subprocess.Popen, count: int) -> list[int]:
    """The pids of the workers, when so many run."""
    end = time.monotonic() + 20
    while len(found := [int(p.stem) for p in folder.glob("*.pid")]) < count:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_the_driver_with_its_code_and_a_sentence(tmp_path, number, code, workers):
    process = start_driver(tmp_path, workers, 4, 0, 0, "lab.tiny_tasks:until_stopped")
    pids = running(tmp_path, process, max(workers, 1))
    process.send_signal(number)
    out, _ = process.communicate(timeout=10)
    assert process.returncode == code, out
    assert out.strip().endswith("error[stopped] stopped on request; the same command continues")
    assert "Failed" not in out
    assert "Traceback" not in out
    assert gone(pids)


def test_ctrl_c_in_a_terminal_reaches_everyone_and_still_ends_well(tmp_path):
    process = start_driver(tmp_path, 2, 4, 0, 0, "lab.tiny_tasks:until_stopped")
    pids = running(tmp_path, process, 2)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=10)
    assert (process.returncode, "Traceback" in out, "Failed" in out) == (130, False, False), out
    assert gone(pids)


def test_a_second_signal_ends_at_once(tmp_path):
    process = start_driver(tmp_path, 2, 2, 0, 0, "lab.tiny_tasks:hang_with_pid")
    pids = running(tmp_path, process, 2)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None  # the workers are deaf: it waits for them
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=5)
    assert process.returncode == 130
    assert gone(pids)


def test_a_launcher_that_forwards_ctrl_c_as_another_signal_asks_once(tmp_path):
    process = start_driver(tmp_path, 2, 2, 0, 0, "lab.tiny_tasks:until_stopped")
    running(tmp_path, process, 2)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=10)
    assert process.returncode in (130, 143)  # the kernel says which comes first
    assert "error[stopped]" in out


def test_workers_do_not_import_the_main_script(tmp_path):
    """It may have no __main__ guard, and costs its imports in every worker."""
    process = start_driver(tmp_path, 1, 1, 0, 0, "lab.tiny_tasks:main_again")
    assert process.communicate(timeout=20)[0].split() == ["Started", "Finished"]
    assert (tmp_path / "main").read_text() == "False"


def test_a_killed_driver_leaves_no_orphans(tmp_path):
    process = start_driver(tmp_path, 2, 2, 0, 0, "lab.tiny_tasks:hang_with_pid")
    pids = running(tmp_path, process, 2)
    servers = {
        int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in pids
    }
    process.kill()
    process.communicate(timeout=5)
    assert gone([*pids, *servers])


@pytest.mark.crash
def test_a_driver_killed_at_random_moments_loses_and_doubles_nothing(tmp_path):
    rng, unfinished = random.Random(20240601), 0
    killed, straight = Store(tmp_path / "killed"), Store(tmp_path / "straight")
    for _ in range(20):
        process = start_driver(killed.root, 2, 6, 12, 0.06)
        assert process.stdout is not None
        process.stdout.readline()  # the first task has started: the rest is work
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        process.communicate(timeout=30)
        unfinished += len(killed.keys()) < 6
    assert unfinished >= 5
    process = start_driver(killed.root, 2, 6, 12, 0.06)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, "Failed" in out) == (0, False), out
    run(driver.tasks(straight.root, 6, 12, 0), workers=0)
    keys = straight.keys()
    assert killed.keys() == keys
    assert [p.name for p in sorted((killed.root / "trials").iterdir())] == keys
    for key in keys:
        assert reproducible_fields(killed.find(key)) == reproducible_fields(straight.find(key))
        assert (
            steps_of(killed, key)
            == steps_of(straight, key)
            == [(n, tiny_tasks.loss(key, n)) for n in range(1, 13)]
        )


def steps_of(store, key):
    rows = files.Journal.read(store.folder(key) / "metrics.journal")
    return [(r["step"], r["values"]["loss"]) for r in rows if r["t"] == "metrics"]


def test_workers_killed_at_random_lose_nothing(tmp_path):
    """The driver goes on: killed workers are replaced, their trials continue where they stood."""
    rng, killed = random.Random(7), []

    def on_event(event):
        if isinstance(event, Progress) and len(killed) < 8 and rng.random() < 0.3:
            killed.append(os.kill(event.values["pid"], signal.SIGKILL))

    tasks = [
        Task(t.key, t.title, "lab.tiny_tasks:trial_with_pid", t.args)
        for t in driver.tasks(tmp_path, 6, 6, 0.02)
    ]
    done = engines_local.run_all(tasks, workers=2, on_event=on_event, options=RunOptions(retries=9))
    assert [o.error for o in done] == [None] * 6
    assert len(killed) == 8
    assert sum(o.attempts - 1 for o in done) <= 8
    for task in tasks:
        assert steps_of(Store(tmp_path), task.key) == [
            (n, tiny_tasks.loss(task.key, n)) for n in range(1, 7)
        ]


def test_errors_of_the_engine_are_tlx_errors():
    assert all(
        isinstance(o.error, TlxError) for o in run([tiny("vanish"), tiny("leave")], retries=0)
    )


def test_a_dead_fork_server_is_a_sentence(monkeypatch):
    """Not EOFError, which a command line takes for the end of its own input."""

    def gone(self):
        raise EOFError

    context = multiprocessing.get_context("forkserver")
    monkeypatch.setattr(context.Process, "start", gone)
    with pytest.raises(ResourceError, match="--workers 0") as caught:
        run([tiny("double", 1)], workers=1)
    assert caught.value.exit_code == 5


# ---------------------------------------------------------------- processes that are ready before


def children(server) -> set[int]:
    """Return the processes that the server of workers has forked."""
    text = Path(f"/proc/{server}/task/{server}/children").read_text()
    return {int(word) for word in text.split()}


def test_a_process_that_is_ready_is_taken_and_one_that_died_is_not():
    with forkserver.serving(1, ()) as server:
        server.prepare()
        server.prepare()
        kept, killed = server.ready
        killed.process.kill()
        killed.process.join()
        assert server.take() is kept
        assert server.ready == []
        fresh = server.take()
        assert fresh.process.is_alive()
        for prepared in (kept, fresh):
            prepared.end()
            assert gone([prepared.process.pid])


def test_only_processes_that_waited_long_are_ended():
    with forkserver.serving(1, ()) as server:
        server.prepare()
        (prepared,) = server.ready
        server.end_ready(older_than_s=60.0)
        assert server.ready == [prepared]
        server.end_ready()
        assert server.ready == []
        assert gone([prepared.process.pid])


@pytest.mark.parametrize("more_later", [False, True])
def test_no_process_stays_ready_after_the_tasks(more_later, monkeypatch):
    monkeypatch.setattr(engines_local, "READY_S", 0.3)
    outcomes = run([tiny("double", n, key=str(n)) for n in range(4)], more_later=more_later)
    assert [outcome.result for outcome in outcomes] == [0, 2, 4, 6]
    (server,) = forkserver.pids()
    deadline = time.monotonic() + 10
    while children(server) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not children(server)


def test_a_call_takes_the_process_that_one_before_it_kept_ready():
    run([tiny("where", key="first")], workers=1, more_later=True)
    with forkserver.serving(1, ()) as server:
        (prepared,) = server.ready
    (outcome,) = run([tiny("where", key="second")], workers=1)
    assert outcome.result["pid"] == prepared.process.pid


def test_every_process_is_used_once():
    tasks = [tiny("where", key=str(n)) for n in range(12)]
    pids = [outcome.result["pid"] for outcome in run(tasks)]
    assert len(set(pids)) == 12


def pids_of(tasks, **options) -> list[int]:
    return [outcome.result["pid"] for outcome in run(tasks, are_short=True, **options)]


def test_short_tasks_share_a_process_for_each_worker_which_ends_with_them():
    tasks = [tiny("where", key=str(n)) for n in range(12)]
    pids = pids_of(tasks)
    assert 1 <= len(set(pids)) <= 2
    assert gone(set(pids))


def test_a_process_ends_after_so_many_short_tasks(monkeypatch):
    monkeypatch.setattr(engines_local, "SHORT_TASKS", 3)
    pids = pids_of([tiny("where", key=str(n)) for n in range(7)], workers=1)
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 1]
    assert gone(set(pids))


@pytest.mark.parametrize("broken", ["refuse", "break_down", "unpicklable", "leave"])
def test_a_process_whose_short_task_did_not_end_well_gets_no_other(broken, tmp_path):
    tasks = [tiny("where", key="before"), tiny(broken), tiny("where", key="after")]
    before, failed, after = run(tasks, workers=1, are_short=True, log_folder=tmp_path)
    assert failed.error is not None
    assert before.result["pid"] != after.result["pid"]


def test_a_process_killed_in_a_later_short_task_loses_that_task_alone(tmp_path):
    events = []
    tasks = [tiny("where", key="before"), tiny("killed_once", str(tmp_path / "was_here"))]
    before, killed = run(tasks, workers=1, are_short=True, events=events)
    assert (killed.result, killed.attempts) == ("second time", 2)
    assert before.attempts == 1
    kinds = [(type(event).__name__, event.key) for event in events]
    assert kinds.index(("Finished", "before")) < kinds.index(("Started", "killed_once"))


def test_what_a_short_task_leaves_behind_is_freed():
    tasks = [tiny("leave_cycle", 200, key=str(n)) for n in range(6)]
    first, *later = [outcome.result for outcome in run(tasks, workers=1, are_short=True)]
    assert max(later) < first + 200


def test_a_short_task_has_its_own_time_and_log(tmp_path):
    """The time of the tasks before it in its process is not counted."""
    pauses = [tiny("pause", 0.6, key=str(n)) for n in range(6)]
    outcomes = run(
        [*pauses, tiny("hang")],
        workers=1,
        are_short=True,
        timeout_s=3.0,
        log_folder=tmp_path,
    )
    assert [outcome.error for outcome in outcomes[:-1]] == [None] * 6
    assert outcomes[-1].error.code == "timeout"
    assert [path.name for path in tmp_path.glob("*.log")] == ["hang.log"]
    assert "in hang" in (tmp_path / "hang.log").read_text()


def test_a_task_begins_while_the_one_before_it_still_ends(tmp_path):
    """Its process may take seconds to end; with devices, which it may still hold, it is awaited."""
    for devices, waits in (((), False), (("0",), True)):
        ends = [tmp_path / f"{waits}{n}" for n in range(2)]
        tasks = [tiny("slow_to_end", str(path), 1.5, key=path.name) for path in ends]
        _, second = run(tasks, workers=1, devices=devices)
        assert (second.result > float(ends[0].read_text())) == waits


def test_arguments_that_cannot_be_opened_are_a_bug_of_their_task_alone():
    closed, good = run([tiny("double", tiny_tasks.Closed(), key="closed"), tiny("double", 2)])
    assert closed.error.code == "bug"
    assert "cannot be opened here" in str(closed.error)
    assert good.result == 4


def test_tasks_run_on_where_no_process_can_be_made_ready(monkeypatch):
    """A process for later saves time alone: want of one is no reason to end what runs."""

    def refuse(server):
        raise ResourceError("memory", "no process can be started")

    monkeypatch.setattr(forkserver.Server, "prepare", refuse)
    outcomes = run([tiny("double", n, key=str(n)) for n in range(4)])
    assert [outcome.result for outcome in outcomes] == [0, 2, 4, 6]


def test_processes_that_take_long_to_end_do_not_pile_up(tmp_path, monkeypatch):
    """Two workers: at most four processes, two of which still end."""
    counts = []
    start = engines_local._Supervisor._start

    def counted(supervisor, *words):
        start(supervisor, *words)
        counts.append(len(supervisor.workers))

    monkeypatch.setattr(engines_local._Supervisor, "_start", counted)
    run([tiny("slow_to_end", str(tmp_path / str(n)), 0.5, key=str(n)) for n in range(8)])
    assert len(counts) == 8
    assert 2 < max(counts) <= 4
