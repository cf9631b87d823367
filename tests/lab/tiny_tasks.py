"""Tiny tasks for the engine: each breaks, waits or counts in its own way. No torch."""

from __future__ import annotations

import multiprocessing.util
import os
import signal
import sys
import time
from pathlib import Path

from tlx import locks
from tlx.errors import BadDataError
from tlx.lab import signals
from tlx.lab.store import Store
from tlx.result import Result

if os.environ.get("TLX_TEST_NO_LOCKS"):  # a file system that grants every lock, as some do
    locks._flock = lambda fd, path, operation: None
    locks._kind_of_locks = lambda folder: locks._Kind(flock=True, lease=False)


def double(number, *, emit):
    emit({"step": 1, "steps": 1, "values": {"number": number}})
    return 2 * number


def where(*, emit):
    return {
        "pid": os.getpid(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "device": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "safe": os.environ.get("PYTHONSAFEPATH"),
        "set": INITIALISED,
    }


def main_again(folder, *, emit):
    """Notes whether the main script was imported a second time."""
    (Path(folder) / "main").write_text(str(sys.modules["__main__"].__name__ == "__mp_main__"))


INITIALISED: list[int] = []


def initialise(threads):
    INITIALISED.append(threads)


def refuse(*, emit):
    raise BadDataError(
        "no-rows", "0 rows", where="train.csv", expected="at least one", remedy="add one"
    )


def break_down(*, emit):
    return {}["absent"]


def leave(*, emit):
    sys.exit(3)


def vanish(*, emit):
    os._exit(4)


def unpicklable(*, emit):
    return lambda: None


def no_memory(*, emit):
    raise MemoryError("10 TiB")


def kill_itself(number=signal.SIGKILL, *, emit):
    os.kill(os.getpid(), number)


def killed_once(marker, *, emit):
    if not Path(marker).exists():
        Path(marker).write_text("was here")
        os.kill(os.getpid(), signal.SIGKILL)
    return "second time"


def with_child(pid_file, *, emit):
    """Forks a child that would live on for a minute, and is killed."""
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    Path(pid_file).write_text(str(pid))
    os.kill(os.getpid(), signal.SIGKILL)


def pause(seconds, *, emit):
    time.sleep(seconds)


def leave_cycle(megabytes, *, emit):
    """Return the memory that was in use before, in megabytes; leave an array in a cycle."""
    import numpy as np
    import psutil

    before = psutil.Process().memory_info().rss / 1e6
    cycle = [np.ones((megabytes, 1_000_000), np.uint8)]
    cycle.append(cycle)
    return before


def hang(*, emit):
    while True:  # deaf to requests
        time.sleep(0.05)


def hang_with_pid(folder, *, emit):
    (Path(folder) / f"{os.getpid()}.pid").write_text("")
    hang(emit=emit)


def until_stopped(folder, *, emit):
    """Says that it runs, and stops at its next boundary when asked."""
    (Path(folder) / f"{os.getpid()}.pid").write_text("")
    for step in range(6000):
        emit({"step": step, "steps": 6000, "values": {}})
        time.sleep(0.01)
        signals.stop_if_asked()


def trial(root, key, steps, pause_s, *, emit):
    """A miniature trial: a loss that follows from the key and the step, journalled, committed."""

    def make(draft):
        for step in range(1, steps + 1):
            time.sleep(pause_s)
            draft.log(step, {"loss": loss(key, step)})
            emit({"step": step, "steps": steps, "values": {}})
            signals.stop_if_asked()
        return Result(
            key=key,
            kind="Tiny",
            spec={},
            scores={"loss": loss(key, steps)},
            details={"steps": steps},
        )

    return Store(root).get_or_compute(key, make)


def trial_with_pid(*args, emit):
    """A trial whose progress says which process to kill."""
    return trial(*args, emit=lambda report: emit({**report, "values": {"pid": os.getpid()}}))


def loss(key, step):
    return (int(key, 16) % 97) / step


def wait_for(path, *, emit):
    """Reports once, then waits for a file."""
    emit({"step": 1, "steps": 1, "values": {}})
    while not Path(path).exists():
        time.sleep(0.01)


class Closed:
    """Argument that cannot be opened in another process."""

    def __reduce__(self):
        return _refuse_to_open, ()


def _refuse_to_open():
    raise RuntimeError("cannot be opened here")


def slow_to_end(path, seconds, *, emit):
    """Write when it began; take long to end after its result, and write when it did."""
    started = time.monotonic()

    def end():
        time.sleep(seconds)
        Path(path).write_text(str(time.monotonic()))

    multiprocessing.util.Finalize(None, end, exitpriority=10)
    return started
