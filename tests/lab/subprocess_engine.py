"""A second engine, for its contract: `python -m` for each task, messages over its output.

It shares no code with the local engine but what every engine is given: the errors, the signals and
how a function is named.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass

from tlx import files
from tlx.errors import ResourceError, Stopped, TlxError
from tlx.lab import signals
from tlx.lab.engines import DEFAULT
from tlx.lab.engines.worker import bug, function
from tlx.lab.tasks import Failed, Finished, Outcome, Progress, Started

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
POLL_S, GRACE_S = 0.05, 10.0


def run_all(tasks, *, workers, threads=1, on_event, stop=signals.stopping, options=DEFAULT):
    """Run the tasks, at most `workers` (at least one) at once."""
    if options.log_folder is not None:
        files.make_folder(options.log_folder)
    run = Run(threads, on_event, options, deque(), max(1, workers))
    run.waiting.extend((task, 1) for task in {task.key: task for task in tasks}.values())
    try:
        run.to_the_end(stop)
    finally:
        for child in run.children:
            child.kill()
            child.listener.join()
    return [run.outcomes[task.key] for task in tasks]


@dataclass(eq=False)
class Child:
    """One attempt of a task in its process; a thread passes on what it sends."""

    task: object
    attempt: int
    device: str | None
    process: subprocess.Popen
    messages: queue.Queue
    kill_at: float
    is_overdue: bool = False
    outcome: Outcome | None = None

    def __post_init__(self) -> None:
        self.listener = threading.Thread(target=self.listen, daemon=True)

    def listen(self) -> None:
        """Pass on what it sends, then its exit."""
        threading.Thread(target=self.end_group, daemon=True).start()
        with self.process.stdout, contextlib.suppress(EOFError, pickle.UnpicklingError):
            while True:  # to the end, or to where a message is cut off
                self.messages.put((self, *pickle.load(self.process.stdout)))
        self.messages.put((self, "exit", self.process.wait()))

    def end_group(self) -> None:
        """End what it has forked, which holds its output open, when it has ended itself."""
        self.process.wait()
        self.kill()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Run:
    def __init__(self, threads, on_event, options, waiting, workers):
        self.threads, self.on_event, self.options = threads, on_event, options
        self.waiting, self.children, self.outcomes = waiting, [], {}
        devices = options.devices or (None,)
        self.devices = [devices[number % len(devices)] for number in range(workers)]
        self.messages: queue.Queue = queue.Queue()

    def to_the_end(self, stop) -> None:
        asked = False
        while self.children or (self.waiting and not asked):
            if stop() and not asked:
                asked = True
                for child in self.children:
                    child.process.send_signal(signal.SIGTERM)
                    child.kill_at = time.monotonic() + GRACE_S
            while self.waiting and self.devices and not asked:
                self.start(*self.waiting.popleft())
            with contextlib.suppress(queue.Empty):
                self.on_message(*self.messages.get(timeout=POLL_S), asked)
            for child in self.children:
                if time.monotonic() > child.kill_at:
                    child.is_overdue = not asked
                    child.kill()
        if asked or (self.waiting and stop()):
            raise Stopped(signals.received() or signal.SIGINT)

    def start(self, task, attempt) -> None:
        device = self.devices.pop(0)
        environ = os.environ | dict.fromkeys(THREAD_VARIABLES, str(self.threads))
        environ["PYTHONPATH"] = os.pathsep.join(sys.path)
        if device is not None:
            environ["CUDA_VISIBLE_DEVICES"] = device
        self.on_event(Started(task.key, attempt))
        process = subprocess.Popen(
            [sys.executable, "-m", "lab.subprocess_engine"],
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        log = self.options.log(task.key)
        pickle.dump((task, self.threads, self.options.initialise, log), process.stdin)
        process.stdin.close()
        limit_s = self.options.timeout_s or float("inf")
        child = Child(task, attempt, device, process, self.messages, time.monotonic() + limit_s)
        self.children.append(child)
        child.listener.start()

    def on_message(self, child, kind, content, asked) -> None:
        key = child.task.key
        if kind == "progress":
            self.on_event(
                Progress(key, content["step"], content["steps"], content.get("values", {}))
            )
        elif kind in ("result", "error"):
            child.outcome = Outcome(child.task, attempts=child.attempt, **{kind: content})
            self.outcomes[key] = child.outcome
            error = child.outcome.error
            self.on_event(Failed(key, error, False) if error else Finished(key, content))
        elif kind == "exit":
            self.children.remove(child)
            self.devices.append(child.device)
            if child.outcome is None and not asked:
                self.on_death(child, content)

    def on_death(self, child, code) -> None:
        key, end = child.task.key, f"exit code {code}"
        if code < 0:
            end = f"signal {-code}"
        error = ResourceError("worker-lost", f"its process ended without a result ({end})")
        if child.is_overdue:
            error = ResourceError("timeout", f"took more than {self.options.timeout_s:g} s")
        will_retry = child.attempt <= self.options.retries and not child.is_overdue
        if will_retry:
            self.waiting.appendleft((child.task, child.attempt + 1))
        else:
            self.outcomes[key] = Outcome(child.task, error=error, attempts=child.attempt)
        self.on_event(Failed(key, error, will_retry))


def main() -> None:
    task, threads, initialise, log = pickle.load(sys.stdin.buffer)
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what the task prints is no message
    signals.in_worker()

    def send(kind, content) -> None:
        out.write(pickle.dumps((kind, content)))

    try:
        if initialise:
            function(initialise)(threads)
        send("result", function(task.call)(*task.args, emit=lambda r: send("progress", dict(r))))
    except Stopped:
        pass
    except TlxError as error:
        send("error", error)
    except BaseException as error:
        send("error", bug(error, log))


if __name__ == "__main__":
    main()
