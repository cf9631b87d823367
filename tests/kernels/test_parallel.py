"""Tasks over threads: every task once, errors out, nothing left behind, forks survived."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest

from tlx.kernels import parallel


@pytest.mark.parametrize("threads", [1, 2, 5, None])
@pytest.mark.parametrize("tasks", [0, 1, 2, 97])
def test_every_task_once(tasks, threads):
    done = np.zeros(tasks, np.int64)

    def work(task, thread):
        assert 0 <= thread < (threads or parallel.default_threads())
        done[task] += 1

    parallel.parallel_for(tasks, work, threads)
    assert (done == 1).all()
    assert not [t for t in threading.enumerate() if t.name.startswith("kernel-")]


@pytest.mark.parametrize("raised", [ValueError("no"), KeyboardInterrupt()])
def test_the_first_error_comes_out_and_stops_the_rest(raised):
    started = []

    def work(task, thread):
        started.append(task)
        if task == 3:
            raise raised

    with pytest.raises(type(raised)):
        parallel.parallel_for(10_000, work, 2)
    assert len(started) < 10_000


def test_a_crew_keeps_its_threads_from_round_to_round_and_ends_them():
    seen = []
    meet = threading.Barrier(3, timeout=30)  # so that each of three threads has a task of its own
    with parallel.ThreadTeam(3) as crew:
        for tasks in (3, 1, 0, 3):
            done = np.zeros(tasks, np.int64)

            def work(task, thread, done=done, tasks=tasks):
                done[task] += 1
                seen.append((thread, threading.get_ident()))
                if tasks == 3:
                    meet.wait()

            crew.each(tasks, work)
            assert (done == 1).all()
    assert len(set(seen)) == 3
    assert {thread for thread, _ in seen} == {0, 1, 2}
    assert not [t for t in threading.enumerate() if t.name.startswith("kernel-")]


@pytest.mark.parametrize("at", [0, 1])
def test_a_crew_works_on_after_an_error_and_ends_after_one(at):
    def fails(task, thread):
        if task == at:
            raise ValueError(task)

    def leaves_by_an_error():
        with parallel.ThreadTeam(2) as crew:
            with pytest.raises(ValueError, match=str(at)):
                crew.each(50, fails)
            done = []
            crew.each(5, lambda task, thread: done.append(task))
            assert sorted(done) == [0, 1, 2, 3, 4]
            raise RuntimeError

    with pytest.raises(RuntimeError):
        leaves_by_an_error()
    assert not [t for t in threading.enumerate() if t.name.startswith("kernel-")]


def test_calls_from_several_threads_do_not_meet():
    sums = np.zeros(4)

    def caller(index):
        def work(task, thread):
            sums[index] += 0  # touches what others touch; each() itself must keep them apart

        parallel.parallel_for(50, work, 2)
        sums[index] = 1

    callers = [threading.Thread(target=caller, args=(i,)) for i in range(4)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    assert sums.all()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_works_after_its_parent_did():
    parallel.parallel_for(8, lambda task, thread: None, 2)
    child = os.fork()
    if child == 0:
        try:
            parallel.parallel_for(8, lambda task, thread: None, 2)
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
