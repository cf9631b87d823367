"""Engines: what runs tasks. One contract (`Engine`), one row each (`ENGINES`).

A row imports its module when it is called: a command that runs nothing loads no engine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from .. import signals
from ..tasks import Event, Outcome, RunOptions, Task

if TYPE_CHECKING:
    from .cluster import Cluster

DEFAULT = RunOptions()


class Engine(Protocol):
    """Contract of an engine: run tasks, report events, return outcomes.

    tests/contracts/test_engines.py holds every row of `ENGINES` to each of these.

    Outcomes
        One for each task, in the order of the tasks. A key that is listed twice is run once; both
        places have its outcome. No task gives no outcome.
    Events
        `on_event` is called in the caller's thread only, while the tasks run: for each attempt
        Started, then Progress for each report of the task, then Finished or Failed. Started counts
        the attempts from 1. What `on_event` raises ends the workers and is raised.
    Errors
        A TlxError that a task raises is its outcome, whole: its class, code, place and remedy. Any
        other exception, SystemExit included where the task has a process of its own, is a bug: a
        TlxError of code "bug" whose traceback is in the task's log. Want of memory is a
        ResourceError. A result that cannot be sent to this process is a bug. No error of a task
        ends another task.
    Dead processes
        A task whose process died is started again, up to `options.retries` times: Failed with
        `will_retry`, then Started with the next attempt. Then its outcome is a ResourceError that
        says how the process ended. What the dead process had started is ended too. An engine that
        runs tasks in the caller's process (local, with `workers` 0) cannot promise this.
    Time
        A task that takes more than `options.timeout_s` is ended and not tried again; its outcome
        is a ResourceError of code "timeout". Not promised in the caller's process.
    Stopping
        `stop` is polled between tasks and while they run. Once it is true, each running task is
        told (`signals.stopping` is true in it), has some seconds to stop at its next boundary, and
        is ended. Then Stopped is raised, with nothing of the engine left running. A task that was
        stopped so has no Failed event. In the caller's process `stop` is polled between tasks; a
        running task sees the caller's own `signals`.
    Resources
        At most `workers` tasks run at once, each with `threads` threads for numeric libraries.
        `options.devices` are given out in turn, one for each worker, as CUDA_VISIBLE_DEVICES; two
        tasks that run at once share none as long as there are as many devices as workers.
        `options.initialise` is called with `threads` in each process before its first task.
    Logs
        `options.log_folder` is created. <key>.log is written there only if something went wrong.
    """

    def __call__(
        self,
        tasks: Sequence[Task],
        *,
        workers: int,
        threads: int = 1,
        on_event: Callable[[Event], None],
        stop: Callable[[], bool] = signals.stopping,
        options: RunOptions = DEFAULT,
    ) -> list[Outcome]:
        """Run the tasks; return their outcomes in order."""
        ...


def run_locally(
    tasks: Sequence[Task],
    *,
    workers: int,
    threads: int = 1,
    on_event: Callable[[Event], None],
    stop: Callable[[], bool] = signals.stopping,
    options: RunOptions = DEFAULT,
) -> list[Outcome]:
    """Run tasks on this machine: a fresh process for each, or this process if `workers` is 0."""
    from . import local

    return local.run_all(
        tasks, workers=workers, threads=threads, on_event=on_event, stop=stop, options=options
    )


@dataclass(frozen=True)
class ClusterKind:
    """Kind of cluster: an example of its address, and how a driver connects to one.

    connect  called with the options of the run and the threads of a task; raises ResourceError if
             no cluster answers
    """

    address: str
    connect: Callable[[RunOptions, int], Cluster]


def _dask(options: RunOptions, threads: int) -> Cluster:
    from . import dask

    return dask.DaskCluster(options)


def _ray(options: RunOptions, threads: int) -> Cluster:
    from . import ray

    return ray.RayCluster(options, threads)


CLUSTERS = {"dask": ClusterKind("tcp://HOST:8786", _dask), "ray": ClusterKind("auto", _ray)}


def run_on(kind: ClusterKind) -> Engine:
    """Return the engine that runs tasks on a cluster that already runs."""

    def run(
        tasks: Sequence[Task],
        *,
        workers: int,
        threads: int = 1,
        on_event: Callable[[Event], None],
        stop: Callable[[], bool] = signals.stopping,
        options: RunOptions = DEFAULT,
    ) -> list[Outcome]:
        from . import cluster

        if not tasks:
            return []
        with contextlib.closing(kind.connect(options, threads)) as connected:
            return cluster.run_all(
                connected,
                tasks,
                workers=workers,
                threads=threads,
                on_event=on_event,
                stop=stop,
                options=options,
            )

    return run


def slots(engine: str, threads: int, options: RunOptions) -> int:
    """Return how many tasks a cluster has room for now.

    Raises ResourceError if none answers.
    """
    with contextlib.closing(CLUSTERS[engine].connect(options, threads)) as connected:
        return connected.slots()


LOCAL = "local"
ENGINES: dict[str, Engine] = {
    LOCAL: run_locally,
    "dask": run_on(CLUSTERS["dask"]),
    "ray": run_on(CLUSTERS["ray"]),
}
