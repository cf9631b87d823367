"""Run time of tasks on slots: against a simulation second by second, and bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlx.errors import duration
from tlx.lab.engines import ENGINES
from tlx.studies import schedule
from tlx.studies.schedule import EngineTime, Overhead

TASKS = st.lists(st.integers(1, 9), min_size=1, max_size=12)


def simulated(seconds, slots, start_s, task_s):
    """Step through time one second after the other: each free slot takes the next task."""
    waiting, running, now = list(seconds), [], start_s
    while waiting or running:
        running = [left for left in running if left > 0]
        while waiting and len(running) < slots:
            running.append(waiting.pop(0) + task_s)
        if not running:
            break
        running = [left - 1 for left in running]
        now += 1
    return now


@given(TASKS, st.integers(1, 5), st.integers(0, 3), st.integers(0, 2))
def test_the_run_time_is_that_of_a_simulation(seconds, slots, start_s, task_s):
    expected = simulated(seconds, slots, start_s, task_s)
    assert schedule.run_time(seconds, slots, Overhead(task_s, start_s)) == expected


@given(TASKS, st.integers(1, 5))
def test_no_schedule_beats_its_bounds(seconds, slots):
    taken = schedule.run_time(seconds, slots, schedule.NONE)
    assert max(*seconds, sum(seconds) / slots) <= taken <= sum(seconds)
    assert schedule.run_time(seconds, 1, schedule.NONE) == sum(seconds)
    assert schedule.run_time(seconds, len(seconds), schedule.NONE) == max(seconds)


def test_nothing_takes_no_time():
    assert schedule.run_time([], 4, Overhead(1.0, 8.0)) == 0.0
    assert schedule.table(()) == []


def test_every_engine_has_an_overhead_and_a_row_of_the_table():
    assert schedule.OVERHEADS.keys() == ENGINES.keys()
    rows = schedule.by_engine([10.0] * 5, 2)
    assert {row.engine for row in rows} == ENGINES.keys()
    assert [row.slots for row in rows if row.engine == "local"] == [1, 2]
    assert [row.slots for row in rows if row.engine == "dask"] == [1, 2, 4, 8]
    for row in rows:
        overhead = schedule.OVERHEADS[row.engine]
        longest = -(-5 // row.slots)
        assert row.seconds == pytest.approx(
            overhead.start_s + longest * (10.0 + overhead.task_s), abs=1e-9
        )


@pytest.mark.parametrize(("tasks", "counts"), [(1, (1,)), (2, (1, 2)), (3, (1, 2, 4)), (65, 64)])
def test_the_table_ends_where_every_task_has_a_slot(tasks, counts):
    slots = schedule.slot_counts(tasks)
    assert slots == counts if isinstance(counts, tuple) else slots[-1] == counts


def test_the_table_has_a_column_for_each_number_of_slots():
    rows = (EngineTime("local", 1, 60.4), EngineTime("dask", 1, 61.0), EngineTime("dask", 2, 31.0))
    assert [line.split() for line in schedule.table(rows)] == [
        ["slots", "1", "2"],
        ["local", "1", "min", "00", "s", "-"],
        ["dask", "1", "min", "01", "s", "31.0", "s"],
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (3599.7, "1 h 00 min"),
        (7 * 3600.0, "7 h 00 min"),
        (47 * 3600.0 + 3540, "47 h 59 min"),
        (5 * 86400 + 3 * 3600.0, "5 d 03 h"),
    ],
)
def test_a_duration_has_two_units_at_most(seconds, text):
    assert duration(seconds) == text
