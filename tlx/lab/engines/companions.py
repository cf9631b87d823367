"""Companions: further processes of one trial, started by the trial's own process on its machine.

They belong to its process group, so that whoever ends the trial ends them, and die with it: they
are forked from a server of its own, which ends with it. If one dies, the trial's process ends the
others and then itself in the same way, so that the engine sees a lost attempt and tries again.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NoReturn, Protocol

from ...errors import ResourceError, Stopped, TlxError
from .. import cost, signals
from . import forkserver
from . import worker as engines_worker

START_S = 300.0  # to start and import what a training needs
MEET_S = 1800.0  # to come to a meeting: what all compute for themselves lies between two
BREAK_S = 10.0  # for the reason of a broken exchange to be known
END_S = 10.0  # to end after the last message
POLL_S = 0.2
HERE, GO, END = "here", "go", "end"
STOPPED, ERROR, USED = engines_worker.STOPPED, engines_worker.ERROR, "used"
LOST = 1  # exit code of a process that gives up
Values = dict[str, float]


class CompanionCall(Protocol):
    """Callable that a companion runs."""

    def __call__(self, *args: object, link: CompanionLink) -> None:
        """Do the companion's part."""


class Companions:
    """Companions of this process, and what it says to them. A context: they end with it."""

    def __init__(
        self,
        call: str,
        args: Sequence[tuple[object, ...]],
        *,
        threads: int,
        preload: tuple[str, ...],
        stopping: Callable[[], bool],
    ):
        self.stopping = stopping
        request = engines_worker.current()
        self.log = None if request is None else request.log
        self.processes: list[BaseProcess] = []
        self.controls: list[Connection] = []
        self.faults: list[Connection] = []
        self._fault: Exception | None = None
        self._is_known, self._is_over = threading.Event(), False
        self._wake, self._woken = multiprocessing.Pipe()
        with contextlib.ExitStack() as held:
            server = held.enter_context(forkserver.serving(threads, preload))
            held.callback(self.kill)
            for number, values in enumerate(args, 1):
                self._start(server, call, values, number)
            self._held = held.pop_all()
        self._watcher = threading.Thread(target=self._watch, name="tlx-companions", daemon=True)
        self._watcher.start()

    def _start(
        self, server: forkserver.Server, call: str, args: tuple[object, ...], number: int
    ) -> None:
        control, own_control = server.context.Pipe()
        fault, own_fault = server.context.Pipe(duplex=False)
        process = server.context.Process(
            target=serve,
            args=(own_control, own_fault, call, args, self.log),
            name=f"process {number}",
            daemon=True,
        )
        server.start(process)
        own_control.close()
        own_fault.close()
        self.processes.append(process)
        self.controls.append(control)
        self.faults.append(fault)

    def __enter__(self) -> Companions:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.kill()
        self.dismiss()
        if kind is None:
            self._count_usage()
        for process in self.processes:
            process.join(END_S)
        self._held.close()
        self._watcher.join()
        for connection in (*self.controls, *self.faults, self._wake, self._woken):
            connection.close()

    # ------------------------------------------------------------ messages

    def meet(self, limit_s: float = MEET_S) -> None:
        """Wait until all companions have come to the same meeting, then let all go on.

        Raises Stopped, the error of a companion, or ResourceError if one does not come in time.
        """
        deadline = time.monotonic() + limit_s
        for number, control in enumerate(self.controls, 1):
            while not control.poll(POLL_S):
                if self.stopping():
                    raise Stopped(signal.SIGTERM)
                if time.monotonic() > deadline:
                    raise ResourceError(
                        "replicas-silent",
                        f"process {number} of the trial did not answer within {limit_s:g} s",
                        remedy="run the same command again, with fewer --replica-processes if "
                        "memory or processors are short",
                    )
            try:
                control.recv()
            except (EOFError, OSError) as error:
                self.broken(error)
        self._send(GO)

    def agree(self, values: Values) -> Values:
        """Send values to all companions, and return them."""
        self._send(values)
        return values

    def _send(self, message: object) -> None:
        for control in self.controls:
            try:
                control.send(message)
            except OSError as error:
                self.broken(error)

    def check(self) -> None:
        """Raise the error of a companion, if there is one."""
        if self._fault is not None:
            raise self._fault

    def broken(self, error: BaseException) -> NoReturn:
        """Raise why an exchange with the companions has failed.

        Where a companion died, this process ends instead; where none did or said anything, too: one
        of them is frozen, and another attempt may go well.
        """
        if self._is_known.wait(BREAK_S) and self._fault is not None:
            raise self._fault from error
        if self.stopping():
            raise Stopped(signal.SIGTERM) from error
        self._lose(f"the processes of a trial do not answer each other: {error}", LOST)

    # ------------------------------------------------------------ deaths

    def _watch(self) -> None:
        """Wait for a companion's error or death."""
        faults = dict(zip(self.faults, self.processes, strict=True))
        sentinels = {process.sentinel: process for process in self.processes}
        while True:
            ready = multiprocessing.connection.wait([*faults, *sentinels, self._woken])
            if self._is_over:
                return
            for fault in [fault for fault in faults if fault in ready]:
                try:
                    kind, content = fault.recv()
                except (EOFError, OSError):  # it has died: its exit code comes too
                    del faults[fault]
                    continue
                self._fault = content if kind == ERROR else Stopped(signal.SIGTERM)
                self._kill_all()
                self._is_known.set()
                return
            for sentinel in [number for number in sentinels if number in ready]:
                if sentinels[sentinel] not in faults.values():
                    self._end_like(sentinels[sentinel])

    def _end_like(self, process: BaseProcess) -> None:
        """End this process as a companion has ended, which makes the attempt a lost one."""
        process.join()
        code = process.exitcode or LOST
        if code == -signal.SIGKILL:
            self._kill_all()
            os.kill(os.getpid(), signal.SIGKILL)
        if code < 0:
            self._note(f"{process.name} of the trial crashed with signal {-code}")
            self._kill_all()
            os.kill(os.getpid(), -code)
            time.sleep(1.0)  # until the signal has come; one that is handled ends nothing
        self._lose(f"{process.name} of the trial ended without a result (exit code {code})", LOST)

    def _lose(self, reason: str, code: int) -> NoReturn:
        self._note(reason)
        self._kill_all()
        os._exit(code)

    def _note(self, text: str) -> None:
        """Write a line to the log of the trial."""
        if self.log is not None:
            with (
                contextlib.suppress(OSError, TlxError),
                engines_worker.appending(self.log) as file,
            ):
                file.write(f"{text}\n")

    # ------------------------------------------------------------ ends

    def dismiss(self) -> None:
        """Let all companions end, which is no death from now on."""
        self._stop_watching()
        for control in self.controls:
            with contextlib.suppress(OSError):
                control.send(END)

    def _count_usage(self) -> None:
        """Add what the companions say they used to the cost of the running block."""
        for fault in self.faults:
            with contextlib.suppress(EOFError, OSError):
                if fault.poll(END_S):
                    kind, content = fault.recv()
                    if kind == USED:
                        cost.add_companion(*content)

    def kill(self) -> None:
        """End all companions now."""
        self._stop_watching()
        self._kill_all()
        for process in self.processes:
            process.join()

    def _stop_watching(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._wake.send(END)

    def _kill_all(self) -> None:
        for process in self.processes:
            process.kill()


# ---------------------------------------------------------------- in a companion


class CompanionLink:
    """What a companion hears from the process that started it."""

    def __init__(self, control: Connection):
        self._control, self._has_ended = control, False

    def meet(self) -> None:
        """Say that this process is here, and wait until all are."""
        with self._dying():
            self._control.send(HERE)
            self._control.recv()

    def agree(self, values: Values) -> Values:
        """Return the values that the trial's process sends; `values` are not looked at."""
        with self._dying():
            received: Values = self._control.recv()
            return received

    def check(self) -> None:
        """Do nothing: the trial's process hears of errors first."""

    def broken(self, error: BaseException) -> NoReturn:
        """Wait for the end: the trial's process knows why an exchange has failed, or will."""
        self.wait_for_end()
        os._exit(LOST)

    def wait_for_end(self) -> None:
        """Wait until the trial's process lets this one end, or has ended."""
        with contextlib.suppress(EOFError, OSError):
            while not self._has_ended:
                self._has_ended = self._control.recv() == END

    @contextlib.contextmanager
    def _dying(self) -> Iterator[None]:
        """End this process where the one that started it is gone."""
        try:
            yield
        except (EOFError, OSError):
            os._exit(LOST)


def serve(
    control: Connection,
    faults: Connection,
    call: str,
    args: tuple[object, ...],
    log: Path | None,
) -> None:
    """Run a companion's call; send its error, if it has one, and wait for the end."""
    engines_worker.die_with_parent()
    signals.in_worker()
    link = CompanionLink(control)
    run: CompanionCall = engines_worker.function(call)
    with engines_worker.log_file(log):
        try:
            run(*args, link=link)
        except Stopped:
            faults.send((STOPPED, None))
        except TlxError as error:
            faults.send((ERROR, error))
        except BaseException as error:
            faults.send((ERROR, engines_worker.bug(error, log)))
        link.wait_for_end()
        with contextlib.suppress(OSError):
            faults.send((USED, cost.own_usage()))
