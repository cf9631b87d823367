"""Ray engine: attempts as tasks of a Ray cluster that already runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ...errors import ResourceError, UsageError
from .. import signals
from ..tasks import RunOptions
from . import cluster, node, probe, wire

# Read when Ray is imported: a head that does not answer is asked once, not for minutes
os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # lines of C++ beside our own sentences
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
with signals.kept():  # the import sets a handler of its own
    import ray
    import ray.exceptions
    from ray.util import scheduling_strategies

STARTED_BY = "ray start --head, and on each machine: ray start --address HOST:6379"
POLL_S = 0.2
AUTO = "auto"  # the address of the cluster that this machine belongs to
REACH_S = 3.0
HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
CLOSE_S = 5.0
LOOK_S = 5.0  # between two looks at which nodes live
HEAD_LOST = 3  # looks in a row at which the head does not answer
NODE_ID = "ray.io/node-id"  # label that Ray gives every node


class RayCluster:
    """Connection to a Ray cluster.

    One task of Ray is one attempt: a generator whose items are the words, the end of the attempt
    the last. Ray itself retries nothing.
    """

    def __init__(self, options: RunOptions, threads: int):
        self.address, self.processes = options.cluster.address, options.processes
        self.threads = threads * self.processes  # of a task
        _connect(self.address)
        self.head = ray.get_runtime_context().gcs_address
        self.run: Any = ray.remote(max_retries=0, max_calls=0, num_returns="streaming")(
            _run_attempt
        )
        self.describe: Any = ray.remote(max_retries=0, num_cpus=0)(probe.describe)
        self.received: queue.SimpleQueue[cluster.Message] = queue.SimpleQueue()
        self.generators: dict[str, Any] = {}  # name of an attempt → its items
        self.looked_at, self.head_lost = 0.0, 0
        with cluster.leaving_on_error(_disconnect):
            self.cpus = _nodes()
            self._check_room()
            self.gpus = self._gpus_a_task(options.cluster.gpus)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="tlx-ray", daemon=True)
        self.thread.start()

    def _check_room(self) -> None:
        """Raise ResourceError if no node has the CPUs of one trial: Ray would wait for ever.

        A cluster without nodes may start some when it is asked.
        """
        most = max(self.cpus.values(), default=0.0)
        if 0 < most < self.threads:
            raise ResourceError(
                "node-cpus",
                f"a trial takes {self.threads} CPUs (--threads), and the largest node has {most:g}",
                remedy=f"use --threads {max(1, int(most / self.processes))}"
                + (", or fewer --replica-processes" if self.processes > 1 else ""),
            )

    def _gpus_a_task(self, asked: float | None) -> float:
        """Return the share of a GPU that a task takes."""
        most = max(
            (row["Resources"].get("GPU", 0.0) for row in ray.nodes() if row["Alive"]), default=0.0
        )
        share = cluster.gpus_a_task(asked, self.processes, most)
        if self.cpus and share > most:
            raise cluster.no_gpus(share, most, f"ray start … --num-gpus {self.processes}")
        return share

    def slots(self) -> int:
        """Return how many tasks the CPUs have room for."""
        return sum(int(cpus // self.threads) for cpus in self.cpus.values())

    def on_each_node(self, check: probe.NodeCheck) -> Mapping[str, probe.NodeDescription | None]:
        """Describe every node that has CPUs."""
        with self._answered():
            self.cpus = _nodes()
            asked = {
                self.describe.options(scheduling_strategy=_on(name)).remote(check): name
                for name in self.cpus
            }
            if not asked:
                return {}
            answered, silent = ray.wait([*asked], num_returns=len(asked), timeout=cluster.PROBE_S)
            return {asked[ref]: _description(ref) for ref in answered} | {
                asked[ref]: None for ref in silent
            }

    def submit(self, attempt: node.Attempt, *, first: bool, avoid: Collection[str]) -> None:
        """Submit one task of Ray; it has no priorities."""
        strategy = None
        if avoid:
            if self.cpus and set(self.cpus) <= set(avoid):
                raise cluster.no_nodes()
            labels: dict[str, Any] = {NODE_ID: scheduling_strategies.NotIn(*avoid)}
            strategy = scheduling_strategies.NodeLabelSchedulingStrategy(hard=labels)
        with self._answered():
            generator = self.run.options(
                num_cpus=self.threads,
                num_gpus=self.gpus,
                scheduling_strategy=strategy,
                name=f"tlx {attempt.title}"[:80],
            ).remote(attempt, has_gpu=self.gpus > 0)
        self.generators[attempt.name] = generator
        asyncio.run_coroutine_threadsafe(self._listen(attempt.name, generator), self.loop)

    def cancel(self, name: str) -> None:
        """Cancel the task: its node hears a signal, and ends the attempt."""
        generator = self.generators.get(name)
        if generator is not None:
            with contextlib.suppress(Exception):  # it has ended, or the cluster has
                ray.cancel(generator)

    def messages(self, timeout_s: float) -> list[cluster.Message]:
        """Return the items that have come, and whether a node was lost."""
        with self._answered():
            received = self._lost_nodes()
        with contextlib.suppress(queue.Empty):
            received.append(self.received.get(timeout=0 if received else timeout_s))
            while True:
                received.append(self.received.get_nowait())
        return received

    def close(self) -> None:
        """Disconnect. A process that stays connected to a head that is gone is ended by Ray.

        The loop is stopped last: until Ray has left, it may still call into it.
        """
        with contextlib.suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(_end_others(), self.loop).result(timeout=CLOSE_S)
        _disconnect()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    # ----------------------------------------------------------------

    async def _listen(self, name: str, generator: ray.ObjectRefGenerator) -> None:
        """Put the items of an attempt where the driver reads, in a thread of its own.

        There alone what a frozen node owes is waited for: Ray may not give it up for minutes.
        """
        try:
            async for reference in generator:
                item = await reference
                is_end = isinstance(item, node.AttemptEnd)
                message = cluster.Ended(name, item) if is_end else wire.unpacked(item, node.Word)
                self.received.put(message)
        except ray.exceptions.TaskCancelledError:
            self.received.put(cluster.Lost(name, "the cluster has dropped it"))
        except (ray.exceptions.RayTaskError, ray.exceptions.RuntimeEnvSetupError) as error:
            self.received.put(cluster.Broken(name, error))
        except ray.exceptions.RayError as error:
            self.received.put(cluster.Lost(name, f"its node is gone ({type(error).__name__})"))
        else:
            self.received.put(node.Word(name, "", node.GONE))
        finally:
            self.generators.pop(name, None)

    def _lost_nodes(self) -> list[cluster.Message]:
        """Say when a node has died: what waits to start there may wait for ever."""
        if time.monotonic() - self.looked_at < LOOK_S:
            return []
        self.looked_at = time.monotonic()
        rows = self._rows() if self._head_answers() else None
        if rows is None:
            return []
        before = set(self.cpus)
        self.cpus = rows
        if before - set(rows):
            return [cluster.Lost("", "a node was lost before it began")]
        return []

    def _rows(self) -> dict[str, float] | None:
        """Return the nodes with their CPUs; None if the head does not say in time.

        Asked in a thread that ends with this process: Ray waits for a head that is gone.
        """
        answer: queue.SimpleQueue[dict[str, float]] = queue.SimpleQueue()

        def ask() -> None:
            with contextlib.suppress(Exception):  # the head is gone, or this process has left
                answer.put(_nodes())

        threading.Thread(target=ask, name="tlx-ray-nodes", daemon=True).start()
        try:
            return answer.get(timeout=LOOK_S)
        except queue.Empty:
            return None

    def _head_answers(self) -> bool:
        """Return whether the head answers.

        Raises ResourceError when it has not several times in a row: Ray itself waits a minute, then
        ends this process without a word.
        """
        try:
            _reached(self.head)
        except OSError as error:
            self.head_lost += 1
            if self.head_lost >= HEAD_LOST:
                raise cluster.cluster_lost("Ray", self.address) from error
            return False
        self.head_lost = 0
        return True

    @contextlib.contextmanager
    def _answered(self) -> Iterator[None]:
        """Say in one sentence that the cluster is gone."""
        try:
            yield
        except (ray.exceptions.RaySystemError, ray.exceptions.GetTimeoutError) as error:
            raise cluster.cluster_lost("Ray", self.address) from error


def _disconnect() -> None:
    """Leave the cluster; it goes on without this process."""
    with signals.kept(), contextlib.suppress(Exception):
        ray.shutdown()


async def _end_others() -> None:
    """Cancel every other coroutine of this loop and wait for its end."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _connect(address: str) -> None:
    if address.startswith("ray://"):
        raise UsageError(
            "address",
            f"--address {address}: Ray's client cannot run a study",
            expected="the address of the head, from a machine of the cluster",
            remedy="run the command there: ray job submit -- tlx …",
        )
    if ray.is_initialized():  # by whoever called tlx: its work is not ended
        raise UsageError(
            "address",
            f"--address {address}: this process is connected to Ray already",
            expected="that tlx connects",
            remedy="call ray.shutdown() first",
        )
    try:
        if address != AUTO:
            _knock(address)
        with signals.kept():
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                configure_logging=False,
            )
    except (ConnectionError, OSError, TimeoutError, ray.exceptions.RayError) as error:
        if "token" in str(error).lower():
            raise ResourceError(
                "token",
                f"the Ray cluster at {address} takes no command without its token",
                remedy="set RAY_AUTH_MODE=token for this command too; its token is in "
                "~/.ray/auth_token of the head",
            ) from error
        raise cluster.unreachable("Ray", address, _last_line(error), STARTED_BY) from error
    except (ValueError, RuntimeError) as error:
        raise UsageError(
            "address",
            f"--address {address}: {_last_line(error)}",
            expected="auto, or HOST:6379 of the head",
        ) from error


def _host_and_port(address: str) -> tuple[str, int]:
    """Return host and port of HOST:PORT. Raises ValueError for another address."""
    host, _, port = address.rpartition(":")
    if not host:
        raise ValueError("has no port")
    return host.strip("[]"), int(port)


def _reached(address: str) -> None:
    """Raise OSError unless something listens at HOST:PORT, ValueError for another address."""
    socket.create_connection(_host_and_port(address), timeout=REACH_S).close()


def _knock(address: str) -> None:
    """Raise OSError, within seconds, unless a head may be at HOST:PORT; `ray.init` takes a minute.

    The head speaks HTTP/2, in which a server answers a greeting. Behind TLS it does not.
    """
    is_plain = os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true")
    greeting = HTTP2_GREETING if is_plain else b""
    cluster.knock(*_host_and_port(address), greeting, answers=is_plain)


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def _nodes() -> dict[str, float]:
    """Return the CPUs of each node that lives and has some."""
    return {
        row["NodeID"]: row["Resources"]["CPU"]
        for row in ray.nodes()
        if row["Alive"] and row["Resources"].get("CPU")
    }


def _description(reference: ray.ObjectRef[probe.NodeDescription]) -> probe.NodeDescription | None:
    """Return what a node answered; None if it died over it."""
    try:
        answer: probe.NodeDescription = ray.get(reference)
    except (ray.exceptions.RayTaskError, ray.exceptions.RuntimeEnvSetupError) as error:
        raise cluster.unusable("of the cluster", error) from error
    except ray.exceptions.RayError:
        return None
    return answer


def _on(name: str) -> scheduling_strategies.NodeAffinitySchedulingStrategy:
    return scheduling_strategies.NodeAffinitySchedulingStrategy(name, soft=False)


# ---------------------------------------------------------------- on a node


def _run_attempt(attempt: node.Attempt, has_gpu: bool) -> Iterator[object]:
    """Run an attempt beside the main thread of a Ray worker, which hears that it is cancelled.

    Yields the words, packed, and the end of the attempt.
    """
    words: queue.SimpleQueue[bytes | node.AttemptEnd] = queue.SimpleQueue()
    unwanted = threading.Event()
    # Ray gives each task a GPU by this variable; without a share a task must see none
    device = os.environ.get("CUDA_VISIBLE_DEVICES", "") if has_gpu else ""
    name = ray.get_runtime_context().get_node_id()

    def run() -> None:
        words.put(
            node.run_attempt(
                attempt,
                lambda word: words.put(wire.packed(word)),
                lambda: unwanted.is_set() or signals.stopping(),
                node=name,
                device=device,
            )
        )

    with signals.graceful():
        thread = threading.Thread(target=run, name="tlx-attempt", daemon=True)
        thread.start()
        try:
            item: object = None
            while not isinstance(item, node.AttemptEnd):
                try:
                    item = words.get(timeout=POLL_S)  # in short steps: a signal is heard between
                except queue.Empty:
                    continue
                # a word of a task that was cancelled would end this before the process of the trial
                if not signals.stopping() or isinstance(item, node.AttemptEnd):
                    yield item
        finally:
            unwanted.set()
            thread.join()
