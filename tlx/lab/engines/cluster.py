"""Driver of a cluster: counts attempts, hears words, gives up what is silent.

What Dask and Ray have in common. A cluster runs attempts where it has room; whether an attempt is
made again is decided here, by its words. `Cluster` is what one of them must give.
"""

from __future__ import annotations

import contextlib
import queue
import secrets
import signal
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ... import files
from ...errors import ResourceError, Stopped, TlxError
from .. import signals
from ..tasks import (
    ClusterOptions,
    Event,
    Failed,
    Finished,
    Note,
    Outcome,
    Progress,
    RunOptions,
    Started,
    Task,
)
from . import node, probe, wire
from . import worker as engines_worker

POLL_S = 0.2
REACH_S = 3.0  # for a machine to take a connection
ANSWER_S = 5.0  # for what listens there to answer
PROBE_S = 30.0  # for a node to describe itself
ASLEEP_S = 5.0  # between two hearings: then this process was stopped, or its machine asleep
UNBEGUN = 20  # times that the cluster may lose one task before it has started
STOP_S = 15.0  # for attempts to end once they are cancelled
AHEAD = 256  # attempts asked for beyond the slots: enough for autoscalers to see demand
RETRIED = ("worker-killed", "worker-crashed", "worker-lost", "worker-stopped", "fork-server-lost")


@dataclass(frozen=True)
class Ended:
    """An attempt has ended on a node."""

    name: str
    ending: node.AttemptEnd


@dataclass(frozen=True)
class Lost:
    """An attempt is lost with its node, as the cluster says; `name` "" for those not yet started.

    The last were asked for before a node was lost, and may wait for it for ever.
    """

    name: str
    why: str


@dataclass(frozen=True)
class Broken:
    """A node could not run an attempt at all: what it raised is no outcome of the task."""

    name: str
    error: BaseException


Message = node.Word | Ended | Lost | Broken


class Cluster(Protocol):
    """What a cluster's client does for the driver.

    Raises ResourceError of code "cluster-lost" wherever the cluster itself is gone.
    """

    def slots(self) -> int:
        """Return how many tasks the cluster can run at once now."""
        ...

    def on_each_node(self, check: probe.NodeCheck) -> Mapping[str, probe.NodeDescription | None]:
        """Return name → description of every node, compared with the driver.

        None for one that has not answered after `PROBE_S`.
        """
        ...

    def submit(self, attempt: node.Attempt, *, first: bool, avoid: Collection[str]) -> None:
        """Ask for an attempt: before all that wait if `first`, on no node of `avoid`."""
        ...

    def cancel(self, name: str) -> None:
        """Tell the cluster that an attempt is not wanted any more; it is ended where it runs."""
        ...

    def messages(self, timeout_s: float) -> list[Message]:
        """Return what has come, after waiting for the first for some time at most."""
        ...

    def close(self) -> None:
        """Leave the cluster; it goes on without this driver."""
        ...


def run_all(
    cluster: Cluster,
    tasks: Sequence[Task],
    *,
    workers: int,
    threads: int,
    on_event: Callable[[Event], None],
    stop: Callable[[], bool],
    options: RunOptions,
) -> list[Outcome]:
    """Return the outcomes of tasks that a cluster runs, in their order; see `Engine`.

    workers  attempts at once at most
    """
    unique = list({task.key: task for task in tasks}.values())
    if stop():
        raise Stopped(signals.received() or signal.SIGINT)
    if options.log_folder is not None:
        files.make_folder(Path(options.log_folder))
    check = probe.check_of(options.cluster.folders, mixed=options.cluster.mixed)
    with probe.marked(check):
        avoid = _checked_nodes(cluster, check, options.cluster, on_event)
        # not sent: what is for this process alone
        on_nodes = replace(options, cluster=ClusterOptions(), devices=())
        request = node.Request(threads, on_nodes, check)
        driver = _Driver(
            cluster,
            unique,
            workers,
            request=request,
            on_event=on_event,
            options=options,
            avoid=avoid,
        )
        outcomes = driver.run(stop)
    return [outcomes[task.key] for task in tasks]


def _checked_nodes(
    cluster: Cluster,
    check: probe.NodeCheck,
    options: ClusterOptions,
    on_event: Callable[[Event], None],
) -> set[str]:
    """Return the nodes to leave unused; raise what must be mended on any.

    Those that do not answer, and those whose kind of CPU is another one.
    """
    answers = cluster.on_each_node(check)
    nodes = {name: answer for name, answer in answers.items() if answer is not None}
    silent = answers.keys() - nodes.keys()
    if silent:
        on_event(Note(f"left unused, as they do not answer: {', '.join(sorted(silent))}"))
    probe.raise_faults(nodes)
    others = {name for name, described in nodes.items() if check.cpu not in ("", described.cpu)}
    if nodes and len(others) == len(nodes):
        raise ResourceError(
            "node-kinds",
            f"no node has this machine's kind of CPU ({check.cpu})",
            expected="nodes that give the bits of this machine",
            remedy="start the command on a machine like the nodes, or give --mixed-nodes: results "
            "then agree closely, not to the bit",
        )
    if others:
        on_event(
            Note(
                f"left unused, as their CPU is of another kind: {', '.join(sorted(others))} "
                "(--mixed-nodes takes them; results then agree closely, not to the bit)"
            )
        )
    return others | silent


@dataclass(eq=False)
class _Asked:
    """An attempt that was asked for."""

    task: Task
    number: int
    run: str = ""  # that is heard; "" before it has started
    node: str = ""
    heard_at: float = 0.0


class _Driver:
    """Loop that asks for attempts, hears them, and decides what is made again."""

    def __init__(
        self,
        cluster: Cluster,
        tasks: Sequence[Task],
        workers: int,
        *,
        request: node.Request,
        on_event: Callable[[Event], None],
        options: RunOptions,
        avoid: set[str],
    ):
        self.cluster, self.on_event, self.options = cluster, on_event, options
        self.workers, self.request, self.avoid = max(1, workers), request, avoid
        self.waiting = deque((task, 1) for task in tasks)
        self.asked: dict[str, _Asked] = {}
        self.ending: set[str] = set()  # attempts that were cancelled and are not gone yet
        self.unbegun: Counter[str] = Counter()  # by key: lost before they had started
        self.outcomes: dict[str, Outcome] = {}

    def run(self, stop: Callable[[], bool]) -> dict[str, Outcome]:
        heard_at = time.monotonic()
        try:
            while self.waiting or self.asked:
                if stop():
                    raise Stopped(signals.received() or signal.SIGINT)
                self._ask()
                for message in self.cluster.messages(POLL_S):
                    self._hear(message)
                if time.monotonic() - heard_at > ASLEEP_S:
                    self._count_silence_anew()
                else:
                    self._give_up_silent()
                heard_at = time.monotonic()
            return self.outcomes
        finally:
            self._end()

    def _ask(self) -> None:
        """Ask for as many attempts as there may be at once."""
        if not self.waiting or len(self.asked) >= self.workers:
            return
        most = min(self.workers, self.cluster.slots() + AHEAD)
        while self.waiting and len(self.asked) < most:
            task, number = self.waiting.popleft()
            try:
                body = node.packed(task)
            except TlxError as error:
                self._settle(task, number, error=error)
                continue
            name = secrets.token_hex(6)
            attempt = node.Attempt(name, task.key, task.title, body, self.request)
            self.asked[name] = _Asked(task, number)
            self.cluster.submit(attempt, first=number > 1, avoid=self.avoid)

    # ---------------------------------------------------------------- hearing

    def _hear(self, message: Message) -> None:
        if isinstance(message, Lost) and not message.name:
            self._ask_again(message.why)
            return
        if isinstance(message, Lost | Broken) or (
            isinstance(message, node.Word) and message.kind == node.GONE
        ):
            self.ending.discard(message.name)
        asked = self.asked.get(message.name)
        if asked is None:
            return  # of an attempt that was given up
        if isinstance(message, Broken):
            raise unusable(asked.node or "of the cluster", message.error)
        if isinstance(message, Ended):
            self._on_ending(message.name, asked, message.ending)
        elif isinstance(message, Lost):
            self._on_loss(message.name, asked, message.why)
        else:
            self._on_word(asked, message)

    def _on_word(self, asked: _Asked, word: node.Word) -> None:
        if word.kind == node.STARTED:
            self._on_start(asked, word.run, str(word.content))
        elif word.run == asked.run:
            asked.heard_at = time.monotonic()
            if word.kind == node.PROGRESS:
                report = word.content
                self.on_event(
                    Progress(asked.task.key, report["step"], report["steps"], report["values"])
                )

    def _on_start(self, asked: _Asked, run: str, place: str) -> None:
        """Hear of a run of an attempt; of a second one, the first is lost with its node."""
        if asked.run == run:
            return
        if asked.run:
            error = _lost(f"its node ({asked.node}) is gone")
            self.on_event(Failed(asked.task.key, error, will_retry=True))
            asked.number += 1
        asked.run, asked.node, asked.heard_at = run, place, time.monotonic()
        self.on_event(Started(asked.task.key, asked.number))

    def _on_ending(self, name: str, asked: _Asked, ending: node.AttemptEnd) -> None:
        if ending.refused:
            self._avoid(name, asked, ending)
            return
        self._on_start(asked, ending.run, ending.node)  # if that word was lost
        del self.asked[name]
        if ending.error is not None:
            if ending.error.code in RETRIED:
                self._retry_or_fail(asked, ending.error)
            else:
                self._settle(asked.task, asked.number, error=ending.error)
            return
        assert ending.result is not None
        try:
            result = wire.unpacked(ending.result, object)
        except Exception as error:  # what cannot be opened here
            log = self.options.log(asked.task.key)
            self._settle(asked.task, asked.number, error=engines_worker.bug(error, log))
        else:
            self._settle(asked.task, asked.number, result=result)

    def _avoid(self, name: str, asked: _Asked, ending: node.AttemptEnd) -> None:
        """Ask for an attempt elsewhere that a node does not take."""
        if ending.node not in self.avoid:
            self.avoid.add(ending.node)
            self.on_event(Note(f"node {ending.node} is left unused: {ending.refused}"))
        del self.asked[name]
        self.waiting.appendleft((asked.task, asked.number))

    def _on_loss(self, name: str, asked: _Asked, why: str) -> None:
        del self.asked[name]
        if asked.run:
            self._retry_or_fail(asked, _lost(why))
            return
        self.unbegun[asked.task.key] += 1
        if self.unbegun[asked.task.key] > UNBEGUN:
            self._settle(asked.task, asked.number, error=_lost(why))
        else:
            self.waiting.appendleft((asked.task, asked.number))

    def _ask_again(self, why: str) -> None:
        """Ask again for what has not started: it may wait for a node that is gone."""
        for name, asked in tuple(self.asked.items()):
            if not asked.run:
                self.cluster.cancel(name)
                self._on_loss(name, asked, why)

    def _retry_or_fail(self, asked: _Asked, error: TlxError) -> None:
        if asked.number <= self.options.retries:
            self.on_event(Failed(asked.task.key, error, will_retry=True))
            self.waiting.appendleft((asked.task, asked.number + 1))
        else:
            self._settle(asked.task, asked.number, error=error)

    def _settle(
        self, task: Task, number: int, *, result: object = None, error: TlxError | None = None
    ) -> None:
        self.outcomes[task.key] = Outcome(task, result, error, number)
        if error is None:
            self.on_event(Finished(task.key, result))
        else:
            self.on_event(Failed(task.key, error, will_retry=False))

    # ---------------------------------------------------------------- giving up

    def _count_silence_anew(self) -> None:
        """Count the silence of all from now on: this process itself did not listen."""
        for asked in self.asked.values():
            asked.heard_at = time.monotonic()

    def _give_up_silent(self) -> None:
        """Give up attempts that have started and said nothing for too long.

        Their nodes are left unused from then on, and what may wait there is asked for again: the
        cluster itself takes minutes to see that a node is frozen.
        """
        silent_s = self.options.cluster.silent_s
        silent_nodes = set()
        for name, asked in tuple(self.asked.items()):
            if asked.run and time.monotonic() - asked.heard_at > silent_s:
                self.cluster.cancel(name)
                silent_nodes.add(asked.node)
                why = f"its node ({asked.node}) has said nothing for {silent_s:g} s"
                self._on_loss(name, asked, why)
        for name in sorted(silent_nodes - self.avoid):
            self.avoid.add(name)
            self.on_event(
                Note(f"node {name} is left unused: it has said nothing for {silent_s:g} s")
            )
            self._ask_again("its node may be frozen")

    def _end(self) -> None:
        """Cancel what is still asked for, and wait until it is gone."""
        for name, asked in self.asked.items():
            self.cluster.cancel(name)
            if asked.run:
                self.ending.add(name)
        self.asked.clear()
        end = time.monotonic() + STOP_S
        with contextlib.suppress(TlxError):
            while self.ending and time.monotonic() < end:
                for message in self.cluster.messages(POLL_S):
                    self._hear(message)


@contextlib.contextmanager
def leaving_on_error(leave: Callable[[], None]) -> Iterator[None]:
    """Leave the cluster if the block raises: who connects then has nothing to close."""
    try:
        yield
    except BaseException:
        leave()
        raise


def _lost(why: str) -> ResourceError:
    return ResourceError(
        "worker-lost",
        why,
        remedy="does the node have enough memory? The same command continues",
    )


def unusable(name: str, error: BaseException) -> ResourceError:
    """Return the error of a node that cannot run tlx."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ResourceError(
        "node-unusable",
        f"node {name} cannot run tlx ({type(error).__name__}: {lines[0] if lines else ''})",
        remedy="install the same tlx there and where the head of the cluster runs, with the extra "
        "of this engine, then start both again",
    )


def no_nodes() -> ResourceError:
    """Return the error of a cluster none of whose nodes takes tasks of this command."""
    return ResourceError(
        "no-nodes",
        "no node is left that takes trials of this command",
        remedy="the notes above say why; mend the nodes and start their workers again",
    )


def gpus_a_task(asked: float | None, processes: int, most: float) -> float:
    """Return the GPUs of a task of so many processes, each with the share that is asked for.

    most  GPUs of the largest node: where none has any and none is asked for, tasks take none
    """
    share = asked if asked is not None else float(most > 0)
    return share * processes


def no_gpus(asked: float, most: float, started_by: str) -> ResourceError:
    """Return the error of a share of a GPU that no node has: a cluster would wait for ever."""
    return ResourceError(
        "node-gpus",
        f"a trial takes {asked:g} GPU (--gpus), and the most that a node offers is {most:g}",
        remedy=f"start nodes that offer theirs ({started_by}), or ask for less by --gpus and "
        "--replica-processes",
    )


def cluster_lost(engine: str, address: str) -> ResourceError:
    """Return the error of a cluster that is gone."""
    return ResourceError(
        "cluster-lost",
        f"the {engine} cluster at {address} is gone",
        remedy="start it again; the same command continues, nothing that was done is lost",
    )


def unreachable(engine: str, address: str, why: object, started_by: str) -> ResourceError:
    """Return the error of a cluster that does not answer."""
    return ResourceError(
        "no-cluster",
        f"no {engine} cluster answers at {address} ({why})",
        remedy=f"give --address as the cluster prints it when it starts, or start one with: "
        f"{started_by}",
    )


def knock(host: str, port: int, greeting: bytes = b"", *, answers: bool = True) -> None:
    """Raise OSError, within seconds, unless something at HOST:PORT takes a connection and answers.

    The engines' own clients try again for up to a minute.

    greeting  what is said first
    answers   whether something must come back
    """
    outcomes: queue.SimpleQueue[OSError | None] = queue.SimpleQueue()
    no_answer = f"no answer within {REACH_S + ANSWER_S:g} s"

    def try_it() -> None:
        try:
            with socket.create_connection((host, port), timeout=REACH_S) as connection:
                connection.settimeout(ANSWER_S)
                connection.sendall(greeting)
                if answers and not connection.recv(1):
                    raise ConnectionError("what listens there is no such cluster")
        except TimeoutError:
            outcomes.put(TimeoutError(no_answer))
        except OSError as error:
            outcomes.put(error)
        else:
            outcomes.put(None)

    # looking up a name has no time limit: a thread of its own, which ends with this process
    threading.Thread(target=try_it, name="tlx-knock", daemon=True).start()
    try:
        error = outcomes.get(timeout=REACH_S + ANSWER_S)
    except queue.Empty:
        error = TimeoutError(no_answer)
    if error is not None:
        raise error
