"""Dask engine: attempts as tasks of a Dask cluster that already runs."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import queue
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import distributed
from distributed.comm import addressing

from ...errors import UsageError
from ..tasks import RunOptions
from . import cluster, node, probe, wire

T = TypeVar("T")
Answer = probe.NodeDescription | BaseException | None

STARTED_BY = "dask scheduler, and on each machine: dask worker tcp://HOST:8786"
CONNECT_S = 15.0
DEFAULT_PORT = 8786
CLOSE_S = 5.0
GPU = "GPU"  # resource that workers with one declare
TOPIC = f"tlx-{secrets.token_hex(8)}"  # of this process: a scheduler keeps each for ever


class DaskCluster:
    """Client of a Dask scheduler.

    Words come as events of a topic, results as the results of tasks. One task of Dask is one
    attempt; a worker's `nthreads` are its slots.
    """

    def __init__(self, options: RunOptions):
        self.address = options.cluster.address
        self.client: Any = _connected(self.address)
        self.received: queue.SimpleQueue[cluster.Message] = queue.SimpleQueue()
        self.futures: dict[str, distributed.Future[object]] = {}
        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # said in one sentence
        with cluster.leaving_on_error(self.close):
            self.gpus = self._gpus_a_task(options.cluster.gpus, options.processes)
            self.client.subscribe_topic(TOPIC, self._on_topic)

    def slots(self) -> int:
        """Return the threads of all workers."""
        return sum(self._call(self.client.nthreads).values())

    def on_each_node(self, check: probe.NodeCheck) -> Mapping[str, probe.NodeDescription | None]:
        """Describe every worker."""
        names = [*self._call(self.client.nthreads)]
        loop = self.client.loop.asyncio_loop
        answers = asyncio.run_coroutine_threadsafe(self._ask_each(names, check), loop).result()
        nodes: dict[str, probe.NodeDescription | None] = {}
        for name, answer in answers.items():
            if isinstance(answer, BaseException):
                raise cluster.unusable(name, answer)
            nodes[name] = answer
        return nodes

    async def _ask_each(self, names: Sequence[str], check: probe.NodeCheck) -> dict[str, Answer]:
        """Return name → what a worker answers: a description, an exception, None for nothing."""
        asked = {
            name: asyncio.ensure_future(
                self.client.run(
                    probe.describe, check, workers=[name], on_error="return", asynchronous=True
                )
            )
            for name in names
        }
        if asked:
            await asyncio.wait(asked.values(), timeout=cluster.PROBE_S)
        answers: dict[str, Answer] = {}
        for name, answer in asked.items():
            if answer.done() and not answer.cancelled():
                answers[name] = answer.exception() or answer.result().get(name)
            else:
                answer.cancel()
                answers[name] = None
        return answers

    def submit(self, attempt: node.Attempt, *, first: bool, avoid: Collection[str]) -> None:
        """Submit one task of Dask."""
        allowed = None
        if avoid:
            allowed = [name for name in self._call(self.client.nthreads) if name not in avoid]
            if not allowed:
                raise cluster.no_nodes()
        future = self.client.submit(
            _run_attempt,
            attempt,
            TOPIC,
            key=f"tlx-{attempt.key[:16]}-{attempt.name}",
            pure=False,
            priority=1 if first else 0,
            workers=allowed,
            resources={GPU: self.gpus} if self.gpus else None,
        )
        self.futures[attempt.name] = future
        loop = self.client.loop.asyncio_loop
        asyncio.run_coroutine_threadsafe(self._await_ending(attempt.name, future), loop)

    def cancel(self, name: str) -> None:
        """Cancel the task; the worker sees it and ends the attempt."""
        future = self.futures.pop(name, None)
        if future is not None and self.client.status == "running":
            future.cancel()

    def messages(self, timeout_s: float) -> list[cluster.Message]:
        """Return what has come over the topic and from finished tasks."""
        received: list[cluster.Message] = []
        try:
            received.append(self.received.get(timeout=timeout_s))
            while True:
                received.append(self.received.get_nowait())
        except queue.Empty:
            pass
        if self.client.status not in ("running", "connecting"):
            raise cluster.cluster_lost("Dask", self.address)
        return received

    def close(self) -> None:
        """Disconnect."""
        with _quiet(), contextlib.suppress(TimeoutError):
            self.client.close(timeout=CLOSE_S)

    # ----------------------------------------------------------------

    def _on_topic(self, event: tuple[float, Mapping[str, bytes]]) -> None:
        self.received.put(wire.unpacked(event[1]["word"], node.Word))

    async def _await_ending(self, name: str, future: distributed.Future[object]) -> None:
        """Put the end of a task where the driver reads; runs in the client's event loop."""
        try:
            ending = await self.client.gather(future, asynchronous=True)
        except distributed.KilledWorker as error:
            self.received.put(cluster.Lost(name, f"its node died too often ({error.last_worker})"))
        except (asyncio.CancelledError, concurrent.futures.CancelledError):
            # if by `cancel`, the attempt itself says when it is gone
            if name in self.futures and await self._is_connected():
                self.received.put(cluster.Lost(name, "the cluster has dropped it"))
        except Exception as error:
            self.received.put(cluster.Broken(name, error))
        else:
            self.received.put(cluster.Ended(name, ending))
        finally:
            self.futures.pop(name, None)

    async def _is_connected(self) -> bool:
        """Return whether the scheduler is there, after waiting for the client to find out."""
        while self.client.status == "connecting":
            await asyncio.sleep(0.1)
        return bool(self.client.status == "running")

    def _gpus_a_task(self, asked: float | None, processes: int) -> float:
        """Return the share of a GPU that a task takes: of what workers declare as GPU."""
        workers = self._call(lambda: self.client.scheduler_info(n_workers=-1))["workers"]
        most = max(
            (row.get("resources", {}).get(GPU, 0.0) for row in workers.values()), default=0.0
        )
        share = cluster.gpus_a_task(asked, processes, most)
        if workers and share > most:
            started_by = f"dask worker … --resources GPU={processes}"
            raise cluster.no_gpus(share, most, started_by)
        return share

    def _call(self, ask: Callable[[], T]) -> T:
        """Ask the scheduler; what it does not answer is the end of the cluster."""
        try:
            return ask()
        except (OSError, TimeoutError, asyncio.CancelledError, RuntimeError) as error:
            raise cluster.cluster_lost("Dask", self.address) from error


def _connected(address: str) -> distributed.Client:
    try:
        _knock(address)
        with _quiet():
            return distributed.Client(address, set_as_default=False, timeout=CONNECT_S, name="tlx")
    except ValueError as error:
        raise UsageError(
            "address",
            f"--address {address}: {error}",
            expected="the address of a Dask scheduler, as tcp://host:8786",
        ) from error
    except (OSError, TimeoutError) as error:
        raise cluster.unreachable("Dask", address, error, STARTED_BY) from error


def _knock(address: str) -> None:
    """Raise OSError, within seconds, unless a scheduler may be at a TCP address.

    It speaks first; behind TLS it does not.
    """
    scheme, separator, place = address.rpartition("://")
    if separator and scheme not in ("tcp", "tls"):
        return
    host, port = addressing.parse_host_port(place, DEFAULT_PORT)
    cluster.knock(host, int(port), answers=scheme != "tls")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask from logging inside the block what is said in one sentence."""
    logger = logging.getLogger("distributed")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


# ---------------------------------------------------------------- on a worker


def _run_attempt(attempt: node.Attempt, topic: str) -> node.AttemptEnd:
    """Run an attempt in a thread of a Dask worker, as long as Dask wants it."""
    worker = distributed.get_worker()
    key = worker.get_current_task()

    def is_unwanted() -> bool:
        state = worker.state.tasks.get(key)
        return state is None or state.state not in ("executing", "long-running")

    def say(word: node.Word) -> None:
        worker.log_event(topic, {"word": wire.packed(word)})

    return node.run_attempt(attempt, say, is_unwanted, node=worker.address)
