"""Local engine: tasks in this process, or one fresh supervised process a task.

The outcome is the same. A fresh process is forked in about 0.03 s from a server that has imported
what is heavy (forkserver). If a worker is killed, its task is retried, the others are not affected,
and its memory is freed. If the driver dies, even by kill -9, its workers die with it.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import multiprocessing.connection
import multiprocessing.context
import multiprocessing.forkserver
import os
import signal
import sys
import time
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from ... import files
from ...errors import ResourceError, Stopped, TlxError, resource_error
from .. import signals
from ..tasks import Event, Failed, Finished, Outcome, Progress, RunOptions, Started, Task
from . import worker as engines_worker

GRACE_S = 10.0  # for a worker to stop at its next boundary, or to end after its result
POLL_S = 0.1
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)
# glibc reads these when a process starts. Training frees and takes the same large blocks at every
# step;
MALLOC = {
    # given back to the system each time, they cost a fifth of a small convolutional network's CPU
    # time in page faults
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
}
DEFAULT = RunOptions()


def run_all(
    tasks: Sequence[Task],
    *,
    workers: int,
    threads: int = 1,
    on_event: Callable[[Event], None],
    stop: Callable[[], bool] = signals.stopping,
    conditions: RunOptions = DEFAULT,
) -> list[Outcome]:
    """Return the outcomes of `tasks`, in their order.

    Events are delivered to this thread as they happen.

    workers   processes at once; 0 runs in this process, one task after the other
    threads   for each worker's numeric libraries
    stop      polled: once true, workers are signalled to stop at their next boundary, get 10
              s, and
              Stopped is raised

    A TlxError raised by a task is its outcome, as it is; any other exception is its outcome as a
    bug, its traceback in the log. A worker that dies is replaced up to `retries` times, then its
    task has failed.
    """
    unique = {task.key: task for task in tasks}
    if conditions.log_folder is not None:
        files.make_folder(Path(conditions.log_folder))
    run = _run_here if workers == 0 else _run_workers
    outcomes = run(list(unique.values()), workers, threads, on_event, stop, conditions)
    return [outcomes[task.key] for task in tasks]


# ---------------------------------------------------------------- in this process


def _run_here(
    tasks: Sequence[Task],
    workers: int,
    threads: int,
    on_event: Callable[[Event], None],
    stop: Callable[[], bool],
    conditions: RunOptions,
) -> dict[str, Outcome]:
    for name in conditions.preload:  # what is loaded later would not be held to its threads
        importlib.import_module(name)
    if conditions.initialise:
        engines_worker.function(conditions.initialise)(threads)
    outcomes = {}
    for task in tasks:
        if stop():
            raise Stopped(signals.asked() or signal.SIGINT)
        on_event(Started(task.key, 1))
        try:
            with threadpool_limits(threads):
                result = engines_worker.function(task.call)(
                    *task.args, emit=lambda r, key=task.key: on_event(_progress(key, r))
                )
        except Stopped:
            raise
        except TlxError as error:
            outcomes[task.key] = Outcome(task, error=error)
        except Exception as error:
            outcomes[task.key] = Outcome(
                task, error=engines_worker.bug(error, conditions.log(task.key))
            )
        else:
            outcomes[task.key] = Outcome(task, result)
        on_event(_ending(outcomes[task.key]))
    return outcomes


def _progress(key: str, report: Mapping[str, Any]) -> Progress:
    return Progress(key, report["step"], report["steps"], report.get("values", {}))


def _ending(outcome: Outcome) -> Event:
    if outcome.error is None:
        return Finished(outcome.task.key, outcome.result)
    return Failed(outcome.task.key, outcome.error, will_retry=False)


# ---------------------------------------------------------------- in workers


@dataclass(eq=False)
class _Running:
    """Task in its process."""

    task: Task
    attempt: int
    device: str | None
    process: Any
    connection: Any
    started: float = field(default_factory=time.monotonic)
    kill_at: float = float("inf")
    overdue: bool = False
    stopped: bool = False
    deaf: bool = False  # nothing more will come over the connection
    outcome: Outcome | None = None

    def tell(self, number: int) -> None:
        """Send a signal to the process alone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def kill(self) -> None:
        """Kill the process and everything it forked, now."""
        self.kill_group()
        self.tell(signal.SIGKILL)  # it may not have its group yet

    def kill_group(self) -> None:
        """Kill everything it forked, if it has ended itself."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


def _run_workers(
    tasks: Sequence[Task],
    workers: int,
    threads: int,
    on_event: Callable[[Event], None],
    stop: Callable[[], bool],
    conditions: RunOptions,
) -> dict[str, Outcome]:
    return _Supervisor(tasks, workers, threads, on_event, conditions).run(stop)


class _Supervisor:
    def __init__(
        self,
        tasks: Sequence[Task],
        workers: int,
        threads: int,
        on_event: Callable[[Event], None],
        conditions: RunOptions,
    ):
        self.threads, self.on_event, self.conditions = threads, on_event, conditions
        self.waiting = deque((task, 1) for task in tasks)
        devices = conditions.devices or (None,)
        self.free = deque(devices[i % len(devices)] for i in range(workers))
        self.running: list[_Running] = []
        self.outcomes: dict[str, Outcome] = {}
        self.stopping = False

    def run(self, stop: Callable[[], bool]) -> dict[str, Outcome]:
        context = _server(self.threads, self.conditions.preload)
        try:
            while self.waiting or self.running:
                if stop():
                    self._stop()
                while self.waiting and self.free:
                    self._start(context, *self.waiting.popleft())
                self._listen()
            return self.outcomes
        finally:
            for worker in self.running:
                worker.kill()
                worker.process.join()

    def _start(self, context: Any, task: Task, attempt: int) -> None:
        device = self.free.popleft()
        ours, theirs = context.Pipe()
        order = engines_worker.WorkerRequest(
            task.call,
            task.args,
            self.threads,
            self.conditions.initialise,
            device,
            self.conditions.log(task.key),
            {"PYTHONSAFEPATH": os.environ.get("PYTHONSAFEPATH")},
        )
        process = context.Process(
            target=engines_worker.serve, args=(theirs, order), name=task.title
        )
        self.on_event(Started(task.key, attempt))
        _start(process)
        theirs.close()  # so that only the worker holds it, and its death is heard
        self.running.append(_Running(task, attempt, device, process, ours))

    def _stop(self) -> None:
        """Ask every worker to stop, give them time, and raise Stopped."""
        self.stopping = True
        for worker in self.running:
            worker.tell(signal.SIGTERM)
            worker.kill_at = min(worker.kill_at, time.monotonic() + GRACE_S)
        while self.running:
            self._listen()
        raise Stopped(signals.asked() or signal.SIGINT)

    def _listen(self) -> None:
        """Receive the workers' messages for a moment, handle ended processes, check time limits."""
        by_handle = {worker.process.sentinel: worker for worker in self.running}
        by_handle |= {worker.connection: worker for worker in self.running if not worker.deaf}
        ready = multiprocessing.connection.wait(list(by_handle), POLL_S)
        for handle in ready:
            if not isinstance(handle, int):
                self._hear(by_handle[handle])
        for handle in ready:
            if isinstance(handle, int):
                self._bury(by_handle[handle])
        self._watch_clock()

    def _hear(self, worker: _Running) -> None:
        try:
            word, content = worker.connection.recv()
        except (EOFError, OSError):
            worker.deaf = True
        except Exception as error:  # what cannot be unpickled here
            self._end(
                worker,
                Outcome(
                    worker.task,
                    error=engines_worker.bug(error, self.conditions.log(worker.task.key)),
                ),
            )
        else:
            if word == engines_worker.PROGRESS:
                self.on_event(_progress(worker.task.key, content))
            elif word == engines_worker.STOPPED:
                worker.stopped = True
            else:
                slot = "error" if word == engines_worker.ERROR else "result"
                self._end(worker, Outcome(worker.task, attempts=worker.attempt, **{slot: content}))

    def _end(self, worker: _Running, outcome: Outcome) -> None:
        worker.outcome = self.outcomes[worker.task.key] = outcome
        worker.kill_at = time.monotonic() + GRACE_S
        self.on_event(_ending(outcome))

    def _watch_clock(self) -> None:
        now, limit = time.monotonic(), self.conditions.timeout_s
        for worker in self.running:
            if now > worker.kill_at:
                worker.kill()
            elif (
                limit is not None
                and now > worker.started + limit
                and not (worker.overdue or worker.outcome)
            ):
                worker.overdue = True
                worker.tell(engines_worker.DUMP)
                worker.kill_at = now + 0.5

    def _bury(self, worker: _Running) -> None:
        """Handle the end of a process: read its last messages, clean up, retry without a result."""
        worker.process.join()
        code = worker.process.exitcode
        worker.kill_group()
        while not worker.deaf and worker.connection.poll():
            self._hear(worker)
        worker.connection.close()
        self.running.remove(worker)
        self.free.append(worker.device)
        if worker.outcome is None and not self.stopping:
            self._lose(worker, code)

    def _lose(self, worker: _Running, code: int) -> None:
        key = worker.task.key
        error = _lost(worker, code, self.conditions)
        if worker.attempt <= self.conditions.retries and not worker.overdue:
            self.on_event(Failed(key, error, will_retry=True))
            self.waiting.appendleft((worker.task, worker.attempt + 1))
        else:
            self.outcomes[key] = Outcome(worker.task, error=error, attempts=worker.attempt)
            self.on_event(Failed(key, error, will_retry=False))


def _lost(worker: _Running, code: int, conditions: RunOptions) -> TlxError:
    where = _told(conditions.log(worker.task.key))
    if worker.overdue:
        return ResourceError(
            "timeout",
            f"took more than {conditions.timeout_s:g} s and was stopped",
            where=where,
            remedy="allow it more time; that file says where it stood"
            if where
            else "allow it more time",
        )
    if worker.stopped:
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


def _told(log: Path | None) -> Path | str:
    """Return the log of a process that died, "" if there is nothing in it."""
    if log is None or not log.exists():
        return ""
    if log.stat().st_size:
        return log
    log.unlink()
    return ""


# ---------------------------------------------------------------- the server that forks workers

_served: tuple[int, tuple[str, ...]] | None = None


def _kill_server(owner: int) -> None:
    """Kill the server at the end of the process that started it.

    Its own end takes seconds, and holds what waits for the end of the output (tlx …

    tee log).
    """
    pid = getattr(multiprocessing.forkserver._forkserver, "_forkserver_pid", None)
    if pid is not None and os.getpid() == owner:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _server(threads: int, preload: tuple[str, ...]) -> multiprocessing.context.ForkServerContext:
    """Return the forkserver context, its server running with these modules and as many threads."""
    global _served
    server: Any = multiprocessing.forkserver._forkserver
    if _served is None:
        atexit.register(_kill_server, os.getpid())
    elif _served != (threads, preload):
        server._stop()  # its environment was fixed when it started
    _served = (threads, preload)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*preload, engines_worker.__name__])
    # Numeric libraries read the thread variables when they are loaded. PYTHONSAFEPATH: a file in
    # the working
    # directory must not shadow a library. Signals are for the driver: the server must not die
    # of them.
    changes = dict.fromkeys(THREAD_VARIABLES, str(threads)) | {"PYTHONSAFEPATH": "1"}
    changes |= {name: os.environ.get(name, value) for name, value in MALLOC.items()}
    before = {name: os.environ.get(name) for name in changes}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signals.ASKING)
    try:
        os.environ.update(changes)
        with _no_main():
            server.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    return context


def _start(process: Any) -> None:
    """Start a worker.

    Raises Resource if the server that forks them is gone or refuses.
    """
    try:
        with _no_main():
            process.start()
    except (EOFError, OSError) as error:
        refused = resource_error(error)
        raise refused or ResourceError(
            "fork-server-lost",
            "the process that starts the workers was killed",
            remedy="run the same command again; if it was for want of memory, with fewer "
            "--workers, or with --workers 0",
        ) from error


@contextlib.contextmanager
def _no_main() -> Iterator[None]:
    """Keep workers from importing the main script again: tasks are named by module."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
