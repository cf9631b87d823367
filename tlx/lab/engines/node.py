"""Node of a cluster: one attempt of a task, run by the local engine of the machine it came to.

The body of a task is opened in the task's own process alone: the cluster's process loads no torch,
and what an attempt loads or breaks ends with it.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import pickle
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from ...errors import BadDataError, ResourceError, Stopped, TlxError
from .. import attempts
from ..tasks import Event, Progress, Report, RunOptions, Task
from . import local, probe, wire
from . import worker as engines_worker

BEAT_S = 5.0  # between two signs of life of an attempt

STARTED, PROGRESS, BEAT, GONE = "started", "progress", "beat", "gone"  # kinds of words


@dataclass(frozen=True)
class Request:
    """What is the same for all attempts of a driver.

    check  what a node is compared with before its first attempt
    """

    threads: int
    options: RunOptions
    check: probe.NodeCheck


@dataclass(frozen=True)
class Attempt:
    """Attempt at a task, as it is sent to a node.

    name  unique for ever
    body  the pickled call and arguments of the task
    """

    name: str
    key: str
    title: str
    body: bytes
    request: Request


@dataclass(frozen=True)
class Word:
    """Message of an attempt to the driver.

    name     of the attempt
    run      unique for each time that the attempt is run: clusters run one again by themselves
    content  of STARTED the node's name, of PROGRESS the report
    """

    name: str
    run: str
    kind: str
    content: Any = None


@dataclass(frozen=True)
class AttemptEnd:
    """End of an attempt on a node.

    result    the pickled result, if it ended well
    refused   why the node does not take tasks of this driver; "" if it does
    """

    run: str
    node: str
    result: bytes | None = None
    error: TlxError | None = None
    refused: str = ""


def run_attempt(
    attempt: Attempt,
    say: Callable[[Word], None],
    stop: Callable[[], bool],
    *,
    node: str,
    device: str | None = None,
) -> AttemptEnd:
    """Run an attempt in a fresh process of this machine; say what happens.

    stop    polled; once true, the process is asked to stop, then ended
    node    the cluster's name of this node
    device  CUDA_VISIBLE_DEVICES of the process; None leaves the node's own
    """
    word = functools.partial(Word, attempt.name, secrets.token_hex(6))
    run = word("").run
    try:
        refused = probe.refusal(attempt.request.check)
        if refused:
            return AttemptEnd(run, node, refused=refused)
        say(word(STARTED, node))
        with _beating(lambda: say(word(BEAT))):
            return _supervised(attempt, run, node, say, stop, device)
    except TlxError as error:  # of the local engine itself: it cannot start a process
        return AttemptEnd(run, node, error=error)
    finally:
        say(word(GONE))


def _supervised(
    attempt: Attempt,
    run: str,
    node: str,
    say: Callable[[Word], None],
    stop: Callable[[], bool],
    device: str | None,
) -> AttemptEnd:
    def on_event(event: Event) -> None:
        if isinstance(event, Progress):
            report = {"step": event.step, "steps": event.steps, "values": dict(event.values)}
            say(Word(attempt.name, run, PROGRESS, report))

    _allow_children()
    task = Task(attempt.key, attempt.title, "tlx.lab.engines.node:open_body", (attempt.body, run))
    asked = attempt.request.options
    options = replace(
        asked,
        retries=0,
        devices=() if device is None else (device,),
        more_later=True,
        preload=(*asked.preload, __name__),
    )
    try:
        (outcome,) = local.run_all(
            [task],
            workers=1,
            threads=attempt.request.threads,
            on_event=on_event,
            stop=stop,
            options=options,
        )
    except Stopped:
        return AttemptEnd(run, node, error=ResourceError("worker-stopped", "it was asked to stop"))
    return AttemptEnd(run, node, outcome.result, outcome.error)


def open_body(body: bytes, run: str, *, emit: Callable[[Report], None]) -> bytes:
    """Call what a body holds, in the process of the task; return the pickled result."""
    attempts.enter(run)
    call, args = wire.unpacked(body, tuple)
    return wire.packed(engines_worker.function(call)(*args, emit=emit))


def packed(task: Task) -> bytes:
    """Return the body of a task.

    Raises BadDataError if its arguments cannot be sent to another machine.
    """
    try:
        return wire.packed((task.call, task.args))
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise BadDataError(
            "unpicklable",
            f"cannot send {task.title} to another machine ({error})",
            remedy="use --engine local",
        ) from error


def _allow_children() -> None:
    """Let this process start processes although its own parent started it as a daemon."""
    multiprocessing.current_process()._config.pop("daemon", None)  # type: ignore[attr-defined]


@contextlib.contextmanager
def _beating(beat: Callable[[], None]) -> Iterator[None]:
    """Call `beat` every few seconds inside the block, whatever the block waits for."""
    done = threading.Event()

    def keep_on() -> None:
        while not done.wait(BEAT_S):
            beat()

    thread = threading.Thread(target=keep_on, name="tlx-beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
