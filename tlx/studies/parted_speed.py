"""Cost of steps whose batches are cut into parts, which several processes of a trial may share."""

from __future__ import annotations

import copy
import math
import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import counted
from ..lab.engines import LOCAL
from ..lab.settings import Settings
from ..models.recipe import Recipe
from . import schedule

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.network import Network
    from ..models.quanta.recipe import QuantaRecipe

SENT_BYTES = 16 << 20  # through a socket, to measure it
HOST = "127.0.0.1"


REPEATS = 5  # of what is measured, unless they take long
ENOUGH_S = 1.0


def least_seconds(
    step: Callable[[], object], clock: Callable[[], float] = time.perf_counter
) -> float:
    """Return the least time of some repeated steps; of one alone if it takes long."""
    least, spent = float("inf"), 0.0
    for _ in range(REPEATS):
        started = clock()
        step()
        taken = clock() - started
        least, spent = min(least, taken), spent + taken
        if spent > ENOUGH_S:
            break
    return least


@dataclass(frozen=True)
class Sharing:
    """How the batches of a trial are shared.

    parts         of a batch
    processes     that share them
    side_by_side  of these that have cores of their own
    """

    parts: int = 1
    processes: int = 1
    side_by_side: int = 1

    @classmethod
    def of(cls, spec: object, settings: Settings) -> Sharing:
        """Return how the batches of a spec are shared, as it runs by these settings.

        Where the processes are not given, they are one a GPU; on CPUs there is one.
        """
        parts = getattr(spec, "replicas", 1)
        processes = (getattr(spec, "replica_processes", None) or 1) if parts > 1 else 1
        slots = processes if settings.on_cluster else settings.local_slots
        return cls(parts, processes, min(processes, slots))

    def trials(self, at_once: int, settings: Settings) -> int:
        """Return how many of the trials that run at once the cores of this machine keep busy."""
        if self.processes == 1 or settings.on_cluster:
            return at_once
        return min(at_once, max(1, settings.local_slots // self.processes))

    def rows(self, batch_size: int) -> int:
        """Return the rows of the largest part of a batch."""
        return -(-batch_size // self.parts)


@dataclass(frozen=True)
class PartedCost:
    """Measured cost of a step besides its rows.

    sums_s      to put together the vectors of the parts and of the processes, in one of them
    exchange_s  to send them from process to process
    """

    sharing: Sharing
    sums_s: float
    exchange_s: float

    def seconds(self, training_s: float, steps: int) -> float:
        """Return the time of so many steps whose rows take so long one after the other.

        The processes that have no core of their own wait for those that have; each trial starts
        its own processes, which load PyTorch.
        """
        sharing = self.sharing
        turns = sharing.processes / sharing.side_by_side
        start_s = schedule.OVERHEADS[LOCAL].start_s if sharing.processes > 1 else 0.0
        step_s = turns * self.sums_s + self.exchange_s
        return start_s + training_s / sharing.side_by_side + steps * step_s


def vectors_bytes(sharing: Sharing, numbers: int) -> int:
    """Return the memory of one process for the vectors that are summed, of so many numbers each.

    The gradients of a part, their copy in one vector, the branches of the tree over the parts of
    the process, and those received of all processes, so many numbers at a time.
    """
    from ..models.replicas import BUCKET

    branches = int(math.log2(sharing.parts // sharing.processes)) + 1
    received = min(numbers, BUCKET) * sharing.processes if sharing.processes > 1 else 0
    return 4 * ((branches + 2) * numbers + received)


def cost_of(
    network: Network, sharing: Sharing, recipe: Recipe | QuantaRecipe, threads: int
) -> PartedCost | None:
    """Measure the sums of a step and its exchange on the CPU; None where batches are whole.

    The network is left unchanged.
    """
    import torch

    if not isinstance(recipe, Recipe) or sharing.parts == 1:
        return None
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        sums_s = least_seconds(_rowless_step(network, sharing, recipe))
    finally:
        torch.set_num_threads(before)
    if sharing.processes == 1:
        return PartedCost(sharing, sums_s, 0.0)
    numbers = sum(p.numel() for p in network.parameters())
    sent_bytes = 4 * numbers * (sharing.processes - 1)  # by each, to the others
    return PartedCost(sharing, sums_s, sent_bytes * socket_seconds_a_byte())


class _Copies:
    """Team whose other processes give what this one gives, at once."""

    rank = 0

    def __init__(self, size: int):
        self.size = size

    def gather(self, vector: Tensor) -> list[Tensor]:
        return [vector.clone() for _ in range(self.size)]

    def add_up(self, vector: Tensor) -> Tensor:
        return vector

    def meet(self) -> None:
        """Wait for nobody."""

    def agree(self, values: dict[str, float]) -> dict[str, float]:
        return values


def _rowless_step(network: Network, sharing: Sharing, recipe: Recipe) -> Callable[[], object]:
    """Return a step of a copy of the network whose gradients cost no pass: its sums are left."""
    import numpy as np
    import torch

    from ..models.replicas import PartedBatch, PartRows, Replicas

    trained = copy.deepcopy(network).train()
    replicas = Replicas(recipe, _Copies(sharing.processes))
    replicas.enter(trained)
    own = range(sharing.parts // sharing.processes)
    row = np.zeros(1, np.int64)
    batch = PartedBatch(len(own), tuple(PartRows(k, row, 1 / len(own)) for k in own))

    def part_loss(part: PartRows) -> tuple[Tensor, Tensor]:
        return torch.stack([p.sum() for p in replicas.learning]).sum() * 0.0, torch.zeros(())

    def step() -> None:
        for parameter in replicas.learning:
            parameter.grad = None
        replicas.step(batch, part_loss)

    return step


def socket_seconds_a_byte(
    size: int = SENT_BYTES, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Measure the time of a byte from thread to thread through a socket of this machine alone."""
    data = bytes(size)
    with closing(socket.create_server((HOST, 0))) as server:
        sender = socket.create_connection(server.getsockname())
        receiver, _ = server.accept()
    with closing(sender), closing(receiver):
        buffer = bytearray(1 << 20)
        started = clock()
        thread = threading.Thread(target=sender.sendall, args=(data,), daemon=True)
        thread.start()
        left = size
        while left:
            left -= receiver.recv_into(buffer)
        thread.join()
        return (clock() - started) / size


def in_words(cost: PartedCost, rows: int, measured_rows: int, numbers: int) -> str:
    """Return how the time of a step in parts was taken."""
    sharing = cost.sharing
    own = sharing.parts // sharing.processes
    timed = "" if rows == measured_rows else f" (timed with {measured_rows})"
    words = [
        f"a step is {counted(own, 'part')} of {counted(rows, 'row')}{timed} and "
        f"{'its' if own == 1 else 'their'} sum, as timed here in one process"
    ]
    if sharing.processes == 1:
        return words[0]
    size_mb = 4 * numbers * (sharing.processes - 1) / 1e6
    words.append(f"{sharing.processes} processes take such steps at once")
    words.append(f"the exchange of {size_mb:.1f} MB a step is that of a local socket")
    words.append("one process scores")
    if sharing.side_by_side < sharing.processes:
        room = counted(sharing.side_by_side, "process", "processes")
        words.append(f"there are cores for {room} at once, so the others wait")
    words.append(f"a slot of the table is {sharing.processes} processes")
    return "; ".join(words)
