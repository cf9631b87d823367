"""Worker process: its tasks, its signal handling, and its end with the driver's."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import importlib
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TextIO

from ... import files
from ...errors import Stopped, TlxError, resource_error
from .. import signals
from . import wire

PROGRESS, DONE, STOPPED, ERROR = "progress", "done", "stopped", "error"  # kinds of messages
DUMP = signal.SIGUSR1  # requests a stack dump of a worker to its log
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class WorkerRequest:
    """Request to a worker: what to call, and with which options.

    stays  whether the worker waits for another request when the call has returned
    """

    call: str
    args: tuple[Any, ...]
    threads: int
    initialise: str
    device: str | None
    log: Path | None
    environment: Mapping[str, str | None]
    stays: bool = False


class _Current:
    request: WorkerRequest | None = None


def current() -> WorkerRequest | None:
    """Return the request that this process runs; None where it is no worker."""
    return _Current.request


def function(dotted: str) -> Callable[..., Any]:
    """Return the function that "package.module:function" names."""
    module, _, name = dotted.partition(":")
    result: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return result


def serve(connection: Connection) -> None:
    """Wait for a request, run its task; send its events and its outcome over `connection`.

    Then end, or wait for the next request where the one before said so.
    """
    # its own group: whatever it forks is killed with it, and Ctrl-C reaches the driver only
    os.setpgid(0, 0)
    die_with_parent()
    signals.in_worker()
    try:
        received = connection.recv_bytes()
    except (EOFError, OSError):  # nothing is to be done any more, or the driver is gone
        return
    later: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, later), daemon=True).start()
    gc.freeze()  # what was imported is not looked at between tasks
    while _serve(connection, received):
        _release()
        received = later.get()


def _release() -> None:
    """Free what a task left behind, and give freed memory back to the system.

    Large arrays in a cycle of references would stay for many tasks, and memory that was freed and
    kept would count as used by the tasks to come.
    """
    _Current.request = None
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def _serve(connection: Connection, received: bytes) -> bool:
    """Run the task of one request; return whether another is to be waited for."""
    try:
        request = wire.unpacked(received, WorkerRequest)
    except Exception as error:  # arguments that cannot be opened here
        connection.send((ERROR, bug(error, None)))
        return False
    _Current.request = request
    _set_environment(request)
    with log_file(request.log):
        kind, content = _run(connection, request)
    try:  # the log is closed: the driver may end a worker that stays as soon as it has this
        connection.send((kind, content))
    except (TypeError, AttributeError, ValueError) as error:  # the result does not pickle
        connection.send((ERROR, bug(error, request.log)))
        return False
    return request.stays and kind == DONE


def _run(connection: Connection, request: WorkerRequest) -> tuple[str, object]:
    try:
        if request.initialise:
            function(request.initialise)(request.threads)
        return DONE, function(request.call)(
            *request.args, emit=lambda report: connection.send((PROGRESS, dict(report)))
        )
    except Stopped:
        return STOPPED, signals.received()
    except TlxError as error:
        return ERROR, error
    except BaseException as error:  # SystemExit too: it would look like a dead worker
        return ERROR, bug(error, request.log)


def bug(error: BaseException, log: Path | None) -> TlxError:
    """Return an unforeseen exception as a TlxError, its traceback in `log`."""
    text = f"{type(error).__name__}: {error}"[:500]
    if log is not None:
        with contextlib.suppress(OSError, TlxError), appending(log) as file:
            traceback.print_exception(error, file=file)
    refused = resource_error(error)
    if refused is not None:
        return refused
    remedy = "this is a fault in tlx: please report it"
    if log:
        remedy += ", with the traceback in that file"
    return TlxError("bug", text, where=log or "", remedy=remedy)


def appending(path: Path) -> TextIO:
    """Open the log of a task at its end."""
    return os.fdopen(
        files.open_own(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND),
        "a",
        encoding="utf-8",
        errors="backslashreplace",
    )


def _set_environment(request: WorkerRequest) -> None:
    changes = dict(request.environment)
    if request.device is not None:
        # before the first CUDA call, which reads them once; counted as the management library
        # counts
        changes |= {"CUDA_VISIBLE_DEVICES": request.device, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    for name, value in changes.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextlib.contextmanager
def log_file(path: Path | None) -> Iterator[None]:
    """Write crashes and stack dumps to `path` inside the block; an empty file is removed."""
    if path is None:
        yield
        return
    with appending(path) as file:
        faulthandler.enable(file)
        faulthandler.register(DUMP, file)
        try:
            yield
        finally:
            faulthandler.unregister(DUMP)
            signal.signal(DUMP, signal.SIG_IGN)  # one that comes late
            faulthandler.disable()
            _remove_if_empty(path, file)


def _remove_if_empty(path: Path, file: TextIO) -> None:
    if os.fstat(file.fileno()).st_size == 0:
        path.unlink(missing_ok=True)


def die_with_parent() -> None:
    """End this process when the server that forked it dies (Linux).

    The driver's end is watched too.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _listen(connection: Connection, later: queue.SimpleQueue[bytes]) -> None:
    """Queue further requests until the end of the driver, however it comes; then end.

    Only the driver holds the other end of the connection.
    """
    with contextlib.suppress(EOFError, OSError):
        while True:
            later.put(connection.recv_bytes())
    os.killpg(0, signal.SIGKILL)
