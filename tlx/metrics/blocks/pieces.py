"""Pieces of a metric as tasks of other processes: how many go together, and how they are joined.

A fresh process takes a while before it computes, so pieces are put together into tasks of some
seconds, and what takes less in all is computed by the process that asks. What is joined in a tree
is put together along the tree: the result has the bits that one process gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, cast

from threadpoolctl import threadpool_limits

from .tree import JoinTree

State = TypeVar("State")

SENT_BYTES = 64 << 20  # of an array in memory that goes to other processes
LEAST_S = 5.0  # of a task, by the rates below; a process starts in 0.2 s and loads for 1 s
MOST_S = 60.0  # of a task, where there are many: what a killed one loses
# Of a core, measured on ones of 2024
NEIGHBOUR_RATE = 168e9  # operations a second of nearest neighbours: two a term of a distance
PRODUCT_RATE = 190e9  # … of products of features
READ_RATE = 0.5e9  # bytes a second that sums are made of


@dataclass(frozen=True)
class PieceTask:
    """Call of a function of a module with what pickles, in another process; its title."""

    title: str
    function: Callable[..., object]
    args: tuple[object, ...]


class PieceRunner(Protocol):
    """What runs tasks in other processes, on this machine or on others."""

    @property
    def workers(self) -> int:
        """Return how many tasks run at once, as far as it is known."""

    @property
    def threads(self) -> int:
        """Return the threads of each task."""

    def __call__(self, tasks: Sequence[PieceTask]) -> list[object]:
        """Return the results of tasks, in their order; raise the first error, in that order."""


def joined(
    title: str,
    function: Callable[..., State],
    shared: tuple[object, ...],
    parts: Sequence[object],
    join: Callable[[State, State], State],
    *,
    run: PieceRunner | None = None,
    part_s: float = 0.0,
) -> State:
    """Return the states of function(*shared, part) of all parts, joined in a tree.

    run     None: this process, one part after the other
    part_s  seconds of a part on one core
    """
    if run is None:
        return subtree(function, shared, parts, join)
    if not is_worth(run, len(parts) * part_s):
        with threadpool_limits(run.threads):  # the bits of products hang on them
            return subtree(function, shared, parts, join)
    size = together(len(parts), part_s / run.threads, run.workers)
    groups = [parts[i : i + size] for i in range(0, len(parts), size)]
    tasks = [
        PieceTask(f"{title}, {i + 1} of {len(groups)}", subtree, (function, shared, group, join))
        for i, group in enumerate(groups)
    ]
    tree = JoinTree(len(groups), join)
    for group_number, state in enumerate(run(tasks)):
        tree.add(group_number, cast("State", state))
    return tree.result


def is_worth(run: PieceRunner, total_s: float) -> bool:
    """Return whether work of so many seconds on one core is worth other processes."""
    return total_s / run.threads >= LEAST_S


def subtree(
    function: Callable[..., State],
    shared: tuple[object, ...],
    parts: Sequence[object],
    join: Callable[[State, State], State],
) -> State:
    """Return the joined states of some parts: a whole branch of the tree of all."""
    tree = JoinTree(len(parts), join)
    for number, part in enumerate(parts):
        tree.add(number, function(*shared, part))
    return tree.result


def together(parts: int, part_s: float, workers: int) -> int:
    """Return how many parts make a task: a power of two, so that a task is a branch of the tree.

    As few as give `task_seconds`, of half of the work of a worker: powers of two fit badly.
    """
    wanted_s = task_seconds(parts * part_s, 2 * workers)
    size = 1
    while size < parts and size * part_s < wanted_s:
        size *= 2
    return size


def task_seconds(total_s: float, workers: int) -> float:
    """Return how long a task should take: the share of a worker, but LEAST_S to MOST_S."""
    return min(MOST_S, max(LEAST_S, total_s / max(1, workers)))


def task_count(total_s: float, workers: int) -> int:
    """Return how many tasks of equal length there are: a multiple of the workers, or fewer."""
    count = max(1, math.floor(total_s / task_seconds(total_s, workers)))
    return count if count < workers else count // workers * workers
