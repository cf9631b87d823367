"""Servers that fork the workers of the local engine, with what is heavy already imported.

A server for each number of threads and set of modules: threads of one process (those of a Dask
worker) may run tasks of several studies at once.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing.context
import multiprocessing.forkserver
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from ...errors import ResourceError, resource_error
from .. import signals
from . import worker as engines_worker

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)
# glibc reads these when a process starts. Training frees and takes the same large blocks at every
# step; given back to the system each time, they cost a fifth of a small convolutional network's
# CPU time in page faults.
MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
}
# One thread at a time changes what belongs to the whole process: its environment, its main module,
# and which server the standard library asks.
_changing = threading.RLock()


@dataclass(eq=False)
class ReadyProcess:
    """Process that waits for a task, and the connection over which it gets one."""

    process: BaseProcess
    connection: Connection
    since: float = field(default_factory=time.monotonic)

    def end(self) -> None:
        """End it."""
        self.connection.close()
        self.process.kill()
        self.process.join()


@dataclass
class Server:
    """Server that forks processes with the same threads and modules."""

    threads: int
    preload: tuple[str, ...]
    process: multiprocessing.forkserver.ForkServer = field(
        default_factory=multiprocessing.forkserver.ForkServer
    )
    users: int = 0
    ready: list[ReadyProcess] = field(default_factory=list)

    def serves(self, threads: int, modules: Iterable[str]) -> bool:
        """Return whether it has so many threads and has imported these modules."""
        return self.threads == threads and set(modules) <= set(self.preload)

    @property
    def context(self) -> multiprocessing.context.ForkServerContext:
        """Return the context whose processes `start` starts."""
        return multiprocessing.get_context("forkserver")

    def prepare(self) -> None:
        """Start a process that waits for a task; errors as for `take`."""
        prepared = self._started()
        with _changing:
            self.ready.append(prepared)

    def take(self) -> ReadyProcess:
        """Return a process that waits for a task: one that is ready, else a new one.

        Raises ResourceError if the server is gone or refuses.
        """
        while True:
            with _changing:
                prepared = self.ready.pop() if self.ready else None
            if prepared is None:
                return self._started()
            if prepared.process.is_alive():
                return prepared
            prepared.end()

    def end_ready(self, older_than_s: float = 0.0) -> None:
        """End the processes that have waited for so long."""
        before = time.monotonic() - older_than_s
        with _changing:
            old = [prepared for prepared in self.ready if prepared.since <= before]
            self.ready = [prepared for prepared in self.ready if prepared not in old]
        for prepared in old:
            prepared.end()

    def _started(self) -> ReadyProcess:
        connection, worker_connection = self.context.Pipe()
        process = self.context.Process(target=engines_worker.serve, args=(worker_connection,))
        try:
            self.start(process)
        except BaseException:
            connection.close()
            raise
        finally:
            worker_connection.close()  # only the worker holds it: its death closes the connection
        return ReadyProcess(process, connection)

    def start(self, process: BaseProcess) -> None:
        """Start a process of `context`.

        Raises ResourceError if the server is gone or refuses.
        """
        try:
            with _changing, _no_main(), _asked_of(self.process):
                process.start()
        except (EOFError, OSError) as error:
            refused = resource_error(error)
            raise refused or ResourceError(
                "fork-server-lost",
                "the process that starts the workers was killed",
                remedy="run the same command again; if it was for want of memory, with fewer "
                "--workers, or with --workers 0",
            ) from error

    def ensure_running(self) -> None:
        """Start the server unless it runs.

        Numeric libraries read the thread variables when they are loaded. PYTHONSAFEPATH: a file in
        the working directory must not shadow a library. Signals are for the driver: the server must
        not die of them.
        """
        self.process.set_forkserver_preload([*self.preload, engines_worker.__name__])
        variables = dict.fromkeys(THREAD_VARIABLES, str(self.threads)) | {"PYTHONSAFEPATH": "1"}
        variables |= {name: os.environ.get(name, value) for name, value in MALLOC.items()}
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signals.STOP_SIGNALS)
        try:
            with _environment(variables), _no_main():
                self.process.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


_servers: dict[tuple[int, tuple[str, ...]], Server] = {}


@contextlib.contextmanager
def serving(threads: int, preload: tuple[str, ...]) -> Iterator[Server]:
    """Keep a server with these modules and as many threads running inside the block.

    It stays for the next block that asks for the same, or for some of its modules. Servers that
    are asked by nobody end when one of another kind is.
    """
    with _changing:
        if not _servers:
            atexit.register(_kill_servers, os.getpid())
        running = (server for server in _servers.values() if server.serves(threads, preload))
        server = next(running, None) or _servers.setdefault(
            (threads, preload), Server(threads, preload)
        )
        server.users += 1
        for kind, other in tuple(_servers.items()):
            if not other.users:
                other.end_ready()
                other.process._stop()  # type: ignore[attr-defined]  # its own way to end
                del _servers[kind]
    try:
        with _changing:
            server.ensure_running()
        yield server
    finally:
        with _changing:
            server.users -= 1


def pids() -> list[int]:
    """List the process numbers of the servers that run."""
    numbers = [getattr(server.process, "_forkserver_pid", None) for server in _servers.values()]
    return [number for number in numbers if number is not None]


def _kill_servers(owner: int) -> None:
    """Kill the servers at the end of the process that started them.

    Their own end takes seconds, and holds what waits for the end of the output (tlx … | tee log).
    """
    if os.getpid() == owner:
        for pid in pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def _asked_of(server: multiprocessing.forkserver.ForkServer) -> Iterator[None]:
    """Let the standard library ask this server for new processes inside the block."""
    module = multiprocessing.forkserver
    before = module.connect_to_new_process
    module.connect_to_new_process = server.connect_to_new_process
    try:
        yield
    finally:
        module.connect_to_new_process = before


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables inside the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _no_main() -> Iterator[None]:
    """Keep workers from importing the main script again: tasks are named by module."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
