"""What the driver of a cluster makes of what it hears: a cluster that says what a test wants."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import pytest
from lab import tiny_tasks

from tlx.errors import ResourceError, Stopped
from tlx.lab.engines import cluster, node, probe, wire
from tlx.lab.engines.cluster import Broken, Ended, Lost
from tlx.lab.tasks import ClusterOptions, Event, Failed, Finished, Note, RunOptions, Started, Task

TASK = Task("ab", "a task", "lab.tiny_tasks:double", (4,))


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    """The clock of the driver; its other uses of time are none."""
    clock = Clock()
    monkeypatch.setattr(cluster, "time", clock)
    return clock


class Scripted:
    """A cluster of nodes that never run anything: each hearing is the next step of a script.

    script  functions of this cluster that return what is heard; afterwards each attempt ends well
    """

    def __init__(self, clock: Clock, *script: Callable, nodes: tuple[str, ...] = ("n1", "n2")):
        self.clock, self.script, self.nodes = clock, deque(script), nodes
        self.asked: list[str] = []  # names of attempts, as they were asked for
        self.avoided: list[set[str]] = []
        self.first: list[bool] = []
        self.cancelled: list[str] = []
        self.cpus: dict[str, str] = {}

    def slots(self) -> int:
        return len(self.nodes)

    def on_each_node(self, check):
        described = {name: probe.describe(check) for name in self.nodes}
        return {
            name: probe.NodeDescription(name, self.cpus.get(name, row.cpu))
            for name, row in described.items()
        }

    def submit(self, attempt, *, first, avoid) -> None:
        self.asked.append(attempt.name)
        self.first.append(first)
        self.avoided.append(set(avoid))

    def cancel(self, name) -> None:
        self.cancelled.append(name)

    def messages(self, timeout_s):
        self.clock.now += timeout_s
        if self.script:
            return self.script.popleft()(self)
        gone = [node.Word(name, "", node.GONE) for name in self.cancelled]
        return [*gone, *(ended(name) for name in self.asked if name not in self.cancelled)]

    def close(self) -> None:
        pass


def started(name: str, run: str = "run", place: str = "n1") -> node.Word:
    return node.Word(name, run, node.STARTED, place)


def ended(name: str, run: str = "run", **fields) -> Ended:
    fields = fields or {"result": wire.packed(8)}
    return Ended(name, node.AttemptEnd(run, "n1", **fields))


def run(scripted: Scripted, *, retries: int = 1, silent_s: float = 60.0, tasks=(TASK,), **options):
    """Run tasks; return their outcomes and the events."""
    events: list[Event] = []
    outcomes = cluster.run_all(
        scripted,
        tasks,
        workers=9,
        threads=1,
        on_event=events.append,
        stop=options.pop("stop", lambda: False),
        options=RunOptions(retries=retries, cluster=ClusterOptions(silent_s=silent_s, **options)),
    )
    return outcomes, events


def wait(seconds: float) -> Callable:
    """Hear nothing for so long, in short steps."""

    def hear(scripted):
        scripted.clock.now += seconds
        return []

    return hear


def steps(seconds: float) -> list[Callable]:
    return [wait(1.0)] * int(seconds)


def test_an_attempt_that_starts_and_ends_is_one(clock):
    outcomes, events = run(Scripted(clock, lambda c: [started(c.asked[0])]))
    assert [(o.result, o.attempts) for o in outcomes] == [(8, 1)]
    assert [type(e) for e in events] == [Started, Finished]


def test_silence_after_the_start_is_given_up_and_the_node_left_unused(clock):
    scripted = Scripted(clock, lambda c: [started(c.asked[0])], *steps(70))
    outcomes, events = run(scripted)
    assert [(o.result, o.attempts) for o in outcomes] == [(8, 2)]
    assert scripted.cancelled == scripted.asked[:1]
    assert scripted.avoided == [set(), {"n1"}]
    assert scripted.first == [False, True]
    assert [type(e) for e in events] == [Started, Failed, Note, Started, Finished]


def test_what_waits_for_a_silent_node_is_asked_for_elsewhere(clock):
    other = Task("cd", "another task", TASK.call, TASK.args)
    scripted = Scripted(clock, lambda c: [started(c.asked[0])], *steps(70))
    outcomes, _ = run(scripted, tasks=(TASK, other))
    assert [outcome.attempts for outcome in outcomes] == [2, 1]
    assert sorted(scripted.cancelled) == sorted(scripted.asked[:2])
    assert scripted.avoided == [set(), set(), {"n1"}, {"n1"}]


def test_beats_keep_an_attempt(clock):
    def beat(scripted):
        scripted.clock.now += 4.0
        return [node.Word(scripted.asked[0], "run", node.BEAT)]

    scripted = Scripted(clock, lambda c: [started(c.asked[0])], *[beat] * 40)
    outcomes, _ = run(scripted)
    assert outcomes[0].attempts == 1
    assert scripted.cancelled == []


def test_a_driver_that_was_stopped_itself_gives_nothing_up(clock):
    """It did not listen for an hour; what was said meanwhile comes a moment later."""
    scripted = Scripted(clock, lambda c: [started(c.asked[0])], wait(3600.0), wait(1.0))
    outcomes, _ = run(scripted)
    assert outcomes[0].attempts == 1
    assert scripted.cancelled == []


def test_what_has_not_started_may_wait_as_long_as_it_takes(clock):
    scripted = Scripted(clock, *steps(500))
    outcomes, _ = run(scripted)
    assert (outcomes[0].attempts, len(scripted.asked)) == (1, 1)


def test_what_has_not_started_is_asked_for_again_when_a_node_is_lost(clock):
    scripted = Scripted(clock, lambda c: [Lost("", "a node was lost")])
    outcomes, events = run(scripted)
    assert outcomes[0].attempts == 1  # it was never begun
    assert scripted.cancelled == scripted.asked[:1]
    assert not any(isinstance(event, Failed) for event in events)


def test_a_task_that_the_cluster_loses_again_and_again_fails(clock):
    lose = [lambda c: [Lost(c.asked[-1], "dropped")]] * (cluster.UNBEGUN + 1)
    scripted = Scripted(clock, *lose)
    outcomes, _ = run(scripted)
    assert outcomes[0].error.code == "worker-lost"
    assert len(scripted.asked) == cluster.UNBEGUN + 1


def test_a_run_that_the_cluster_itself_began_again_counts_as_an_attempt(clock):
    def again(scripted):
        return [started(scripted.asked[0], "second", "n2")]

    def late_words_of_the_first(scripted):
        report = {"step": 1, "steps": 2, "values": {}}
        return [node.Word(scripted.asked[0], "run", node.PROGRESS, report)]

    scripted = Scripted(
        clock,
        lambda c: [started(c.asked[0])],
        again,
        late_words_of_the_first,
        lambda c: [ended(c.asked[0], "second")],
    )
    outcomes, events = run(scripted)
    assert [(o.result, o.attempts) for o in outcomes] == [(8, 2)]
    assert [type(e) for e in events] == [Started, Failed, Started, Finished]
    assert len(scripted.asked) == 1


def test_words_of_an_attempt_that_was_given_up_are_not_heard(clock):
    def late(scripted):
        return [ended(scripted.asked[0], result=wire.packed("too late"))]

    scripted = Scripted(clock, lambda c: [started(c.asked[0])], *steps(70), late)
    outcomes, _ = run(scripted)
    assert outcomes[0].result == 8


def test_a_lost_attempt_is_made_again_so_many_times(clock):
    lose = lambda c: [started(c.asked[-1], f"run-{len(c.asked)}"), Lost(c.asked[-1], "gone")]  # noqa: E731
    outcomes, events = run(Scripted(clock, lose, lose, lose), retries=2)
    assert (outcomes[0].error.code, outcomes[0].attempts) == ("worker-lost", 3)
    assert [e.will_retry for e in events if isinstance(e, Failed)] == [True, True, False]


def test_a_node_that_refuses_is_avoided_and_the_attempt_not_counted(clock):
    scripted = Scripted(clock, lambda c: [ended(c.asked[0], refused="another kind of CPU")])
    outcomes, events = run(scripted)
    assert outcomes[0].attempts == 1
    assert scripted.avoided == [set(), {"n1"}]
    assert [event.text for event in events if isinstance(event, Note)] == [
        "node n1 is left unused: another kind of CPU"
    ]


def test_a_node_that_cannot_run_tlx_ends_the_command_and_is_not_asked_again(clock):
    scripted = Scripted(clock, lambda c: [Broken(c.asked[0], ImportError("no tlx"))])
    with pytest.raises(ResourceError, match=r"cannot run tlx \(ImportError: no tlx\)"):
        run(scripted)
    assert len(scripted.asked) == 1


def test_a_result_that_cannot_be_opened_here_is_a_bug_of_that_task(clock):
    scripted = Scripted(clock, lambda c: [ended(c.asked[0], result=b"no pickle")])
    outcomes, _ = run(scripted)
    assert outcomes[0].error.code == "bug"


def test_a_stop_cancels_and_waits_until_what_ran_is_gone(clock):
    asked_to_stop = []

    def start(scripted):
        asked_to_stop.append(True)
        return [started(scripted.asked[0])]

    scripted = Scripted(clock, start)
    with pytest.raises(Stopped):
        run(scripted, stop=lambda: bool(asked_to_stop))
    assert scripted.cancelled == scripted.asked
    assert clock.now < cluster.STOP_S  # it was told that the attempt is gone


def test_no_node_of_this_kind_of_cpu_is_said_before_anything_is_asked_for(clock):
    scripted = Scripted(clock)
    scripted.cpus = dict.fromkeys(scripted.nodes, "another")
    with pytest.raises(ResourceError, match="--mixed-nodes"):
        run(scripted)
    assert scripted.asked == []
    assert run(scripted, mixed=True)[0][0].result == 8


def test_the_task_of_this_file_is_what_its_result_says():
    assert tiny_tasks.double(*TASK.args, emit=lambda report: None) == 8
