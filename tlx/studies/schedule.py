"""Time of tasks on the slots of an engine: a model of its overheads, and a list schedule."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import duration
from ..lab.engines import LOCAL

MOST_SLOTS = 64  # of a table over slots


@dataclass(frozen=True)
class Overhead:
    """Time that an engine adds, in seconds.

    task_s   to each task: a fresh process, its journey, its end
    start_s  to each stage, once a slot: libraries loaded before the first task
    """

    task_s: float
    start_s: float


# A task: tests/benchmarks/cluster.py on two cores with two slots, from 60 empty tasks and 100 of
# 0.5 s, medians of three rounds. The start is that of a fresh command: the local server of workers
# loads PyTorch once; so does each slot of Ray in each stage, as its workers end with the stage;
# those of Dask stay.
OVERHEADS = {
    LOCAL: Overhead(0.01, 3.0),
    "dask": Overhead(0.03, 0.5),
    "ray": Overhead(0.1, 8.0),
}
NONE = Overhead(0.0, 0.0)  # of trials in the command's own process


@dataclass(frozen=True)
class EngineTime:
    """Estimated run time of a stage on so many slots of an engine, in seconds."""

    engine: str
    slots: int
    seconds: float


def run_time(seconds: Iterable[float], slots: int, overhead: Overhead) -> float:
    """Return the time from the first start to the last end of tasks, in seconds.

    Each task begins, in their order, on the slot that is free first.

    seconds  of each task alone
    """
    free = [overhead.start_s] * max(1, slots)
    last = 0.0
    for task_s in seconds:
        end = heapq.heappop(free) + task_s + overhead.task_s
        heapq.heappush(free, end)
        last = max(last, end)
    return last


def slot_counts(tasks: int) -> tuple[int, ...]:
    """Return the numbers of slots of a table: powers of two until every task has its own."""
    counts = [1]
    while counts[-1] < min(tasks, MOST_SLOTS):
        counts.append(2 * counts[-1])
    return tuple(counts)


def by_engine(seconds: Sequence[float], local_slots: int) -> tuple[EngineTime, ...]:
    """Return the time of tasks on each engine, by the number of slots.

    local_slots  how many tasks this machine can run at once
    """
    return tuple(
        EngineTime(engine, slots, run_time(seconds, slots, overhead))
        for engine, overhead in OVERHEADS.items()
        for slots in slot_counts(len(seconds))
        if engine != LOCAL or slots <= local_slots
    )


def table(rows: Sequence[EngineTime]) -> list[str]:
    """Return lines that show run times by engine and number of slots; none of no rows."""
    if not rows:
        return []
    slots = sorted({row.slots for row in rows})
    cells = {(row.engine, row.slots): duration(row.seconds) for row in rows}
    lines = [["slots", *map(str, slots)]]
    for engine in dict.fromkeys(row.engine for row in rows):
        lines.append([engine, *(cells.get((engine, count), "-") for count in slots)])
    width = max(map(len, cells.values()))
    return [
        "  ".join([line[0].ljust(5), *(cell.rjust(width) for cell in line[1:])]) for line in lines
    ]
