"""Tasks over threads: compiled kernels that release the GIL, called from plain threads that end
with the call.

No threading layer of Numba is used. Its OpenMP layer aborts a process that was forked after the
first parallel region (a DataLoader's worker, for one), its workqueue layer aborts when two threads
enter it at once, and its TBB layer is one more package. Threads that live for one call only are
safe beside all of these and cost some 0.1 ms.

A task writes only what belongs to it (or to its thread), so the answer has the same bits at any
number of threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue

from numba import config


def default_threads() -> int:
    """Return how many threads a call uses unless told.

    It is NUMBA_NUM_THREADS, else the cores that this process may use.
    """
    return int(config.NUMBA_NUM_THREADS)


def parallel_for(
    tasks: int, work: Callable[[int, int], object], threads: int | None = None
) -> None:
    """Call work(task, thread) for every task 0…tasks-1, started in that order.

    thread is in 0…threads-1.

    The caller's thread works too. The first exception (an interrupt too) ends it after the tasks in
    hand.
    """
    with ThreadTeam(threads) as crew:
        crew.each(tasks, work)


class ThreadTeam:
    """Run several rounds of tasks on threads that end with the block.

    A thread begins on the processor of the one that started it, and is moved elsewhere after some
    milliseconds: of a round of a few milliseconds that is half. Those of a crew stay where they
    were moved to.
    """

    def __init__(self, threads: int | None = None):
        self._most = max(1, threads or default_threads())
        self._orders: list[SimpleQueue[_Round | None]] = []  # of each thread but the caller's
        self._ended: SimpleQueue[None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._round: _Round | None = None

    def __enter__(self) -> ThreadTeam:
        return self

    def __exit__(self, *_: object) -> None:
        if self._round is not None:  # left by an interrupt: nothing more is begun
            self._round.waiting = iter(())
        for orders in self._orders:
            orders.put(None)
        for thread in self._threads:
            thread.join()

    def each(self, tasks: int, work: Callable[[int, int], object]) -> None:
        """Call work(task, thread) for every task; as `parallel_for`."""
        helpers = max(0, min(tasks, self._most) - 1)
        while len(self._threads) < helpers:
            self._begin_thread()
        self._round = _Round(tasks, work)
        for orders in self._orders[:helpers]:
            orders.put(self._round)
        self._round.take(0)
        for _ in range(helpers):
            self._ended.get()
        if self._round.failed:
            raise self._round.failed[0]

    def _begin_thread(self) -> None:
        orders, number = SimpleQueue[_Round | None](), len(self._threads) + 1

        def serve() -> None:
            while (next_round := orders.get()) is not None:
                next_round.take(number)
                self._ended.put(None)

        thread = threading.Thread(target=serve, name=f"kernel-{number}")
        thread.start()
        self._orders.append(orders)
        self._threads.append(thread)


class _Round:
    """Tasks that threads take one by one."""

    def __init__(self, tasks: int, work: Callable[[int, int], object]):
        self.waiting: Iterator[int] = iter(range(tasks))
        self.work, self.failed = work, list[BaseException]()

    def take(self, thread: int) -> None:
        """Do tasks until none waits, or one has failed."""
        try:
            while (
                not self.failed and (task := next(self.waiting, None)) is not None
            ):  # atomic: an iterator in C
                self.work(task, thread)
        except BaseException as error:
            self.failed.append(error)
