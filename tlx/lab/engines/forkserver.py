"""Server that forks the workers of the local engine, with what is heavy already imported."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing.context
import multiprocessing.forkserver
import os
import signal
import sys
import types
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from typing import Any

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
_running_with: tuple[int, tuple[str, ...]] | None = None  # threads and modules of the server


def context(threads: int, preload: tuple[str, ...]) -> multiprocessing.context.ForkServerContext:
    """Return the forkserver context, its server running with these modules and as many threads."""
    global _running_with  # noqa: PLW0603 — one server a process
    server: Any = multiprocessing.forkserver._forkserver
    if _running_with is None:
        atexit.register(_kill_server, os.getpid())
    elif _running_with != (threads, preload):
        server._stop()  # its environment was fixed when it started
    _running_with = (threads, preload)
    result = multiprocessing.get_context("forkserver")
    result.set_forkserver_preload([*preload, engines_worker.__name__])
    # Numeric libraries read the thread variables when they are loaded. PYTHONSAFEPATH: a file in
    # the working directory must not shadow a library. Signals are for the driver: the server must
    # not die of them.
    variables = dict.fromkeys(THREAD_VARIABLES, str(threads)) | {"PYTHONSAFEPATH": "1"}
    variables |= {name: os.environ.get(name, value) for name, value in MALLOC.items()}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signals.STOP_SIGNALS)
    try:
        with _environment(variables), _no_main():
            server.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return result


def start(process: BaseProcess) -> None:
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


def _kill_server(owner: int) -> None:
    """Kill the server at the end of the process that started it.

    Its own end takes seconds, and holds what waits for the end of the output (tlx … | tee log).
    """
    pid = getattr(multiprocessing.forkserver._forkserver, "_forkserver_pid", None)
    if pid is not None and os.getpid() == owner:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


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
