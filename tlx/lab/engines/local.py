"""Local engine: tasks in this process, or one fresh supervised process a task.

The outcome is the same. A fresh process is forked from a server that has imported what is heavy
(forkserver). That takes about 0.1 s, so that a process is made ready while the tasks before it run,
and a task begins while the process of the one before it still ends. If a worker is killed, its task
is retried, the others are not affected, and its memory is freed. If the driver dies, even by
kill -9, its workers die with it. To fork a process and to end it costs some 0.2 s of CPU, so that
one runs several tasks where they are short (RunOptions.are_short).
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing.connection
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from threadpoolctl import threadpool_limits

from ... import files
from ...errors import ResourceError, Stopped, TlxError
from .. import signals
from ..tasks import Event, Failed, Finished, Outcome, Progress, Report, RunOptions, Started, Task
from . import DEFAULT, forkserver
from . import worker as engines_worker

GRACE_S = 10.0  # for a worker to stop at its next boundary, or to end after its result
DUMP_S = 0.5  # for a worker that takes too long to write its stack
POLL_S = 0.1
MOST_READY = 2  # processes that are started before a worker is free for their task
READY_S = 2.0  # that such a process waits for tasks of another call
SHORT_TASKS = 50  # that one process runs: what their libraries leave behind ends with it


def run_all(
    tasks: Sequence[Task],
    *,
    workers: int,
    threads: int = 1,
    on_event: Callable[[Event], None],
    stop: Callable[[], bool] = signals.stopping,
    options: RunOptions = DEFAULT,
) -> list[Outcome]:
    """Return the outcomes of `tasks`, in their order; see `Engine` for the contract.

    workers   processes at once; 0 runs in this process, one task after the other
    stop      polled: once true, workers are signalled to stop at their next boundary, get 10 s,
              and Stopped is raised
    """
    unique = list({task.key: task for task in tasks}.values())
    if options.log_folder is not None:
        files.make_folder(Path(options.log_folder))
    if workers == 0:
        outcomes = _run_here(unique, threads, on_event, stop, options)
    else:
        outcomes = _Supervisor(unique, workers, threads, on_event, options).run(stop)
    return [outcomes[task.key] for task in tasks]


def start_soon(threads: int, preload: tuple[str, ...]) -> None:
    """Start the server of workers with these modules, which takes seconds; do not wait for it.

    It saves time alone: where it cannot be started, the tasks that need it say so.
    """
    with contextlib.suppress(OSError, ResourceError), forkserver.serving(threads, preload):
        pass


# ---------------------------------------------------------------- in this process


def _run_here(
    tasks: Sequence[Task],
    threads: int,
    on_event: Callable[[Event], None],
    stop: Callable[[], bool],
    options: RunOptions,
) -> dict[str, Outcome]:
    for name in options.preload:  # what is loaded later would not be held to its threads
        importlib.import_module(name)
    if options.initialise:
        engines_worker.function(options.initialise)(threads)
    outcomes = {}
    for task in tasks:
        if stop():
            raise Stopped(signals.received() or signal.SIGINT)
        on_event(Started(task.key, 1))
        with threadpool_limits(threads):
            outcomes[task.key] = _call(task, on_event, options)
        on_event(_end_event(outcomes[task.key]))
    return outcomes


def _call(task: Task, on_event: Callable[[Event], None], options: RunOptions) -> Outcome:
    try:
        result = engines_worker.function(task.call)(
            *task.args, emit=lambda report: on_event(_progress(task.key, report))
        )
    except Stopped:
        raise
    except TlxError as error:
        return Outcome(task, error=error)
    except Exception as error:
        return Outcome(task, error=engines_worker.bug(error, options.log(task.key)))
    return Outcome(task, result)


def _progress(key: str, report: Report) -> Progress:
    return Progress(key, report["step"], report["steps"], report.get("values", {}))


def _end_event(outcome: Outcome) -> Event:
    if outcome.error is None:
        return Finished(outcome.task.key, outcome.result)
    return Failed(outcome.task.key, outcome.error, will_retry=False)


# ---------------------------------------------------------------- in workers


@dataclass(eq=False)
class _Worker:
    """Process that runs one attempt of a task.

    tasks  how many it has run, with this one
    """

    task: Task
    attempt: int
    device: str | None
    process: BaseProcess
    connection: Connection
    tasks: int = 1
    started: float = field(default_factory=time.monotonic)
    kill_at: float = float("inf")
    is_overdue: bool = False
    was_stopped: bool = False
    is_freed: bool = False  # another task may run in its place
    is_connected: bool = True  # something may still come over the connection
    outcome: Outcome | None = None

    def send_signal(self, number: int) -> None:
        """Send a signal to the process alone."""
        assert self.process.pid is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def kill(self) -> None:
        """Kill the process and everything it forked, now."""
        self.kill_group()
        self.send_signal(signal.SIGKILL)  # it may not have its group yet

    def kill_group(self) -> None:
        """Kill everything it forked, if it has ended itself."""
        assert self.process.pid is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


class _Supervisor:
    """Loop that keeps as many workers running as there are devices free and tasks waiting."""

    def __init__(
        self,
        tasks: Sequence[Task],
        workers: int,
        threads: int,
        on_event: Callable[[Event], None],
        options: RunOptions,
    ):
        self.threads, self.on_event, self.options = threads, on_event, options
        self.waiting = deque((task, 1) for task in tasks)
        devices = options.devices or (None,)
        self.free_devices = deque(devices[i % len(devices)] for i in range(workers))
        self.workers: list[_Worker] = []
        self.outcomes: dict[str, Outcome] = {}
        self.is_stopping = False
        self.most_processes = 2 * workers  # with those that still end after their outcome
        self.prepares = True

    def run(self, stop: Callable[[], bool]) -> dict[str, Outcome]:
        with forkserver.serving(self.threads, self.options.preload) as server:
            try:
                while self.waiting or self.workers:
                    if stop():
                        self._stop()
                    while self.waiting and self.free_devices:
                        self._start(server, *self.waiting.popleft())
                    self._prepare(server)
                    self._poll()
                return self.outcomes
            finally:
                for worker in self.workers:
                    worker.kill()
                    worker.process.join()
                if self.options.more_later:
                    _end_soon(server)
                else:
                    server.end_ready()

    def _prepare(self, server: forkserver.Server) -> None:
        """Start a process for a task to come, unless enough are ready.

        It saves time alone: where none can be started, tasks that run are not ended for it.
        """
        if self.options.are_short and self.workers:
            return  # those that run take the next tasks
        wanted = min(MOST_READY, len(self.waiting) + self.options.more_later)
        if self.prepares and len(server.ready) < wanted:
            try:
                server.prepare()
            except ResourceError:
                self.prepares = False

    def _start(self, server: forkserver.Server, task: Task, attempt: int) -> None:
        device = self.free_devices.popleft()
        self.on_event(Started(task.key, attempt))
        prepared = server.take()
        self._send(_Worker(task, attempt, device, prepared.process, prepared.connection))

    def _send(self, worker: _Worker) -> None:
        """Send a worker its task."""
        request = engines_worker.WorkerRequest(
            worker.task.call,
            worker.task.args,
            self.threads,
            self.options.initialise,
            worker.device,
            self.options.log(worker.task.key),
            {"PYTHONSAFEPATH": os.environ.get("PYTHONSAFEPATH")},
            self.options.are_short,
        )
        self.workers.append(worker)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died: seen as it ends
            worker.connection.send(request)

    def _go_on(self, worker: _Worker) -> None:
        """Give a process that has ended its task well another one; end it where none waits."""
        if self.is_stopping or not self.waiting or worker.tasks >= SHORT_TASKS:
            worker.kill()
            return
        task, attempt = self.waiting.popleft()
        self.on_event(Started(task.key, attempt))
        self.workers.remove(worker)
        device, tasks = worker.device, worker.tasks + 1
        self._send(_Worker(task, attempt, device, worker.process, worker.connection, tasks))

    def _stop(self) -> None:
        """Ask every worker to stop, give them time, and raise Stopped."""
        self.is_stopping = True
        for worker in self.workers:
            worker.send_signal(signal.SIGTERM)
            worker.kill_at = min(worker.kill_at, time.monotonic() + GRACE_S)
        while self.workers:
            self._poll()
        raise Stopped(signals.received() or signal.SIGINT)

    def _poll(self) -> None:
        """Wait a moment for the workers: handle messages, then exits, then time limits."""
        handles: list[int | Connection] = [worker.process.sentinel for worker in self.workers]
        handles += [worker.connection for worker in self.workers if worker.is_connected]
        ready = set(multiprocessing.connection.wait(handles, POLL_S))
        for worker in [w for w in self.workers if w.connection in ready]:
            self._on_message(worker)
        for worker in [w for w in self.workers if w.process.sentinel in ready]:
            self._on_exit(worker)
        self._check_time()

    def _on_message(self, worker: _Worker) -> None:
        try:
            kind, content = worker.connection.recv()
        except (EOFError, OSError):
            worker.is_connected = False
        except Exception as error:  # what cannot be unpickled here
            log = self.options.log(worker.task.key)
            self._on_outcome(worker, Outcome(worker.task, error=engines_worker.bug(error, log)))
        else:
            if kind == engines_worker.PROGRESS:
                self.on_event(_progress(worker.task.key, content))
            elif kind == engines_worker.STOPPED:
                worker.was_stopped = True
            elif kind == engines_worker.ERROR:
                outcome = Outcome(worker.task, error=content, attempts=worker.attempt)
                self._on_outcome(worker, outcome)
            else:
                outcome = Outcome(worker.task, result=content, attempts=worker.attempt)
                # one that has ended already is not asked: its exit is being handled
                stays = self.options.are_short and worker.process.is_alive()
                self._on_outcome(worker, outcome, stays=stays)

    def _on_outcome(self, worker: _Worker, outcome: Outcome, *, stays: bool = False) -> None:
        """Record an outcome.

        stays  whether the worker waits for another task
        """
        worker.outcome = self.outcomes[worker.task.key] = outcome
        worker.kill_at = time.monotonic() + GRACE_S
        # a device is not shared with a process that still ends
        if not stays and not self.options.devices and len(self.workers) < self.most_processes:
            self._free(worker)
        self.on_event(_end_event(outcome))
        if stays:
            self._go_on(worker)

    def _free(self, worker: _Worker) -> None:
        """Let another task begin in a worker's place."""
        if not worker.is_freed:
            worker.is_freed = True
            self.free_devices.append(worker.device)

    def _check_time(self) -> None:
        """Kill workers whose time to end is over; dump the stack of those that take too long."""
        now, limit_s = time.monotonic(), self.options.timeout_s
        for worker in self.workers:
            if now > worker.kill_at:
                worker.kill()
            elif limit_s is None or worker.is_overdue or worker.outcome is not None:
                continue
            elif now > worker.started + limit_s:
                worker.is_overdue = True
                worker.send_signal(engines_worker.DUMP)
                worker.kill_at = now + DUMP_S

    def _on_exit(self, worker: _Worker) -> None:
        """Read a worker's last messages, clean up, retry its task if it has no outcome."""
        worker.process.join()
        worker.kill_group()
        while worker.is_connected and worker.connection.poll():
            self._on_message(worker)
        worker.connection.close()
        self.workers.remove(worker)
        self._free(worker)
        if worker.outcome is None and not self.is_stopping:
            self._retry_or_fail(worker)

    def _retry_or_fail(self, worker: _Worker) -> None:
        key = worker.task.key
        error = _death_error(worker, self.options)
        if worker.attempt <= self.options.retries and not worker.is_overdue:
            self.on_event(Failed(key, error, will_retry=True))
            self.waiting.appendleft((worker.task, worker.attempt + 1))
        else:
            self.outcomes[key] = Outcome(worker.task, error=error, attempts=worker.attempt)
            self.on_event(Failed(key, error, will_retry=False))


def _end_soon(server: forkserver.Server) -> None:
    """End processes that nobody has taken in a while."""
    timer = threading.Timer(READY_S, server.end_ready, (READY_S,))
    timer.daemon = True
    timer.start()


def _death_error(worker: _Worker, options: RunOptions) -> TlxError:
    """Return the error of a worker that ended without an outcome."""
    where = _log_if_written(options.log(worker.task.key))
    code = worker.process.exitcode
    assert code is not None
    if worker.is_overdue:
        remedy = "allow it more time"
        return ResourceError(
            "timeout",
            f"took more than {options.timeout_s:g} s and was stopped",
            where=where,
            remedy=f"{remedy}; that file says where it stood" if where else remedy,
        )
    if worker.was_stopped:
        return ResourceError("worker-stopped", "its process was asked to stop by another")
    if code == -signal.SIGKILL:
        return ResourceError(
            "worker-killed",
            "its process was killed by signal 9, probably out of memory",
            remedy="use fewer workers or a smaller batch size",
        )
    if code < 0:
        return ResourceError(
            "worker-crashed", f"its process crashed with signal {-code}", where=where
        )
    return ResourceError(
        "worker-lost", f"its process ended without a result (exit code {code})", where=where
    )


def _log_if_written(log: Path | None) -> Path | str:
    """Return the log of a process that died, "" if there is nothing in it."""
    if log is None or not log.exists():
        return ""
    if log.stat().st_size:
        return log
    log.unlink()
    return ""
