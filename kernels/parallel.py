"""Tasks over threads: compiled kernels that release the GIL, called from plain threads that end with the call.

No threading layer of Numba is used. Its OpenMP layer aborts a process that was forked after the first parallel
region (a DataLoader's worker, for one), its workqueue layer aborts when two threads enter it at once, and its TBB
layer is one more package. Threads that live for one call only are safe beside all of these and cost some 0.1 ms.

A task writes only what belongs to it (or to its thread), so the answer has the same bits at any number of threads.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

from numba import config


def default_threads() -> int:
    """How many threads a call uses unless told: NUMBA_NUM_THREADS, else the cores this process may use."""
    return int(config.NUMBA_NUM_THREADS)


def each(tasks: int, work: Callable[[int, int], object], threads: int | None = None) -> None:
    """work(task, thread) for every task 0…tasks-1, in that order of starting, thread in 0…threads-1.

    The caller's thread works too. The first exception (an interrupt too) ends it after the tasks in hand.
    """
    threads = max(1, min(tasks, threads or default_threads()))
    waiting, failed = itertools.count(), list[BaseException]()

    def take(thread: int) -> None:
        try:
            while not failed and (task := next(waiting)) < tasks:  # a C iterator: one step of it is atomic
                work(task, thread)
        except BaseException as error:
            failed.append(error)

    others = [threading.Thread(target=take, args=(thread,), name=f"kernel-{thread}") for thread in range(1, threads)]
    for other in others:
        other.start()
    try:
        take(0)
    finally:
        for other in others:
            other.join()
    if failed:
        raise failed[0]
