"""Tasks, their events and their outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from ..errors import TlxError


class Report(TypedDict):
    """Progress that a task reports: steps done, steps in all, values by name."""

    step: int
    steps: int
    values: NotRequired[Mapping[str, Any]]


@dataclass(frozen=True)
class Task:
    """Call to make: "package.module:function", called as function(*args, emit=report).

    key    names the task; tasks of one key are run once
    title  for people
    args   plain and picklable
    emit   takes a `Report` and sends it to the driver
    """

    key: str
    title: str
    call: str
    args: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Started:
    """Event: a task has started."""

    key: str
    attempt: int


@dataclass(frozen=True)
class Progress:
    """Event: a task has made progress."""

    key: str
    step: int
    steps: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class Finished:
    """Event: a task has finished."""

    key: str
    result: Any


@dataclass(frozen=True)
class Failed:
    """Event: an attempt of a task has failed."""

    key: str
    error: TlxError
    will_retry: bool


@dataclass(frozen=True)
class Waiting:
    """Event: all tasks have ended, and the last records are still being written.

    seconds   they are waited for at most
    is_local  whether they go to a database of this machine, not to a server
    """

    seconds: float
    is_local: bool = False


@dataclass(frozen=True)
class Note:
    """Event: something about the run as a whole that its user should know."""

    text: str


Event = Started | Progress | Finished | Failed | Waiting | Note


@dataclass(frozen=True)
class Outcome:
    """Outcome of a task: a result or an error, and how often it was started."""

    task: Task
    result: Any = None
    error: TlxError | None = None
    attempts: int = 1


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """Options of an engine that runs tasks on a cluster.

    address     where the cluster is asked
    gpus        share of a GPU of each task; None: 1 where the cluster has GPUs, else 0
    silent_s    seconds after which a task that has started and says nothing is given up and asked
                for again
    mixed       take nodes of several kinds of CPU
    folders     which every node must see as this process does
    """

    address: str = ""
    gpus: float | None = None
    silent_s: float = 60.0
    mixed: bool = False
    folders: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of how an engine runs tasks.

    timeout_s   seconds a task may take (workers only); its stack is written to its log before it is
                killed
    retries     how often a task is started again whose process died
    preload     modules that the server of workers imports once
    initialise  "package.module:function", called with the number of threads before the first task
                of a process
    devices     a CUDA_VISIBLE_DEVICES for each worker, used in turn
    processes   of a task: each has the threads of a task and its share of a GPU
    log_folder  where <key>.log is written when a task breaks
    cluster     for an engine that runs tasks on a cluster
    more_later  whether tasks of this kind are likely to be run again in a moment: the local engine
                then keeps a process ready for them
    are_short   whether tasks are so short that a process of the local engine runs one after the
                other, as long as each ends well
    """

    timeout_s: float | None = None
    retries: int = 1
    preload: tuple[str, ...] = ()
    initialise: str = ""
    devices: tuple[str, ...] = ()
    processes: int = 1
    log_folder: Path | None = None
    cluster: ClusterOptions = ClusterOptions()
    more_later: bool = False
    are_short: bool = False

    def log(self, key: str) -> Path | None:
        """Return the log file of a task."""
        return None if self.log_folder is None else Path(self.log_folder) / f"{key}.log"
