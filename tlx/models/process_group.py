"""Processes that share a training on one machine, joined by torch.distributed.

Gloo on CPUs, NCCL on GPUs; the meeting place is a port of 127.0.0.1 that process 0 has bound.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import ResourceError
from .replicas import Values

HOST = "127.0.0.1"
JOIN_S = 60.0  # for all processes to join
POLL_S = 0.02
EXCHANGE_S = 600.0  # of one exchange between processes, within a step
INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")  # variables that name a network interface


class Link(Protocol):
    """What processes of a trial say to each other beside their vectors."""

    def meet(self) -> None:
        """Wait until all processes have come here."""

    def agree(self, values: Values) -> Values:
        """Return the values that process 0 gives."""

    def check(self) -> None:
        """Raise the error of another process, if there is one."""

    def broken(self, error: BaseException) -> NoReturn:
        """Raise why an exchange has failed, or end this process."""


@dataclass(frozen=True)
class Membership:
    """Number of a process of so many, the port where they meet, and its device."""

    rank: int
    size: int
    port: int
    device: str

    @property
    def own_device(self) -> str:
        """Return the device of this process: on GPUs each has its own."""
        return self.device if self.device == "cpu" else f"cuda:{self.rank}"


class ProcessTeam:
    """Processes that exchange vectors by torch.distributed; see `replicas.Team`."""

    def __init__(self, rank: int, size: int, link: Link):
        self.rank, self.size, self._link = rank, size, link

    def gather(self, vector: Tensor) -> list[Tensor]:
        """Return the vectors of all processes, in their order."""
        received = [torch.empty_like(vector) for _ in range(self.size)]
        self._link.check()
        try:
            dist.all_gather(received, vector)
        except RuntimeError as error:
            self._link.broken(error)
        return received

    def add_up(self, vector: Tensor) -> Tensor:
        """Return the sum of the vectors of all processes, in the backend's own order."""
        self._link.check()
        try:
            dist.all_reduce(vector)
        except RuntimeError as error:
            self._link.broken(error)
        return vector

    def meet(self) -> None:
        """Wait until all processes have come here."""
        self._link.meet()

    def agree(self, values: Values) -> Values:
        """Return the values that process 0 gives."""
        return self._link.agree(values)


def listener() -> socket.socket:
    """Return a socket of this machine alone that listens on a free port, for process 0."""
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.bind((HOST, 0))
    bound.listen()
    return bound


def refuse_missing(device: str, size: int) -> None:
    """Raise ResourceError where torch cannot join so many processes on this machine."""
    backend = "gloo" if device == "cpu" else "nccl"
    if not dist.is_available() or not dist.is_backend_available(backend):
        raise ResourceError(
            "replicas",
            f"this torch has no {backend} for several processes in a trial",
            remedy="--replica-processes 1",
        )
    if device == "cpu":
        return
    gpus = torch.cuda.device_count()
    if gpus < size or device != "cuda":
        raise ResourceError(
            "replicas",
            f"--replica-processes {size} takes a GPU each; the trial has "
            + (f"{gpus}" if device == "cuda" else f"{device} alone"),
            expected="--device cuda, and as many GPUs as processes",
            remedy="fewer --replica-processes, or --workers 1, which gives a trial all GPUs",
        )


@contextlib.contextmanager
def joined(
    member: Membership, link: Link, bound: socket.socket | None = None, join_s: float | None = None
) -> Iterator[ProcessTeam]:
    """Join the processes of a trial inside the block.

    bound   socket of process 0, see `listener`
    join_s  seconds for all to come; None: JOIN_S

    Raises ResourceError if one does not come in time.
    """
    limit_s = JOIN_S if join_s is None else join_s
    try:
        store = dist.TCPStore(  # type: ignore[attr-defined]
            HOST,
            member.port,
            member.size,
            is_master=bound is not None,
            timeout=datetime.timedelta(seconds=limit_s),
            wait_for_workers=False,
            master_listen_fd=None if bound is None else bound.detach(),
        )
        store.set(f"joined/{member.rank}", "")
        _await_all(store, member, link, limit_s)
    except RuntimeError as error:
        raise ResourceError(
            "replicas-silent",
            f"the {member.size} processes of the trial did not join within {limit_s:g} s",
            remedy="run the same command again, or with --replica-processes 1",
        ) from error
    _use_loopback()
    if member.device != "cpu":
        torch.cuda.set_device(member.own_device)
    hook = sys.excepthook  # torch puts "[rank0]:" before every line of a traceback
    try:
        dist.init_process_group(
            "gloo" if member.device == "cpu" else "nccl",
            store=store,
            rank=member.rank,
            world_size=member.size,
            timeout=datetime.timedelta(seconds=EXCHANGE_S),
        )
    except RuntimeError as error:
        link.broken(error)
    sys.excepthook = hook
    try:
        yield ProcessTeam(member.rank, member.size, link)
    finally:
        with contextlib.suppress(RuntimeError):  # of a group whose others are gone
            dist.destroy_process_group()


def _await_all(
    store: dist.Store,  # type: ignore[name-defined]
    member: Membership,
    link: Link,
    limit_s: float,
) -> None:
    """Wait until all processes have come to the store. Raises RuntimeError if one does not."""
    names = [f"joined/{rank}" for rank in range(member.size)]
    if member.rank:  # process 0 ends the others where one does not come
        store.wait(names, datetime.timedelta(seconds=limit_s + EXCHANGE_S))
        return
    deadline = time.monotonic() + limit_s
    while not store.check(names):
        link.check()
        if time.monotonic() > deadline:
            raise RuntimeError("a process has not come")
        time.sleep(POLL_S)


def _use_loopback() -> None:
    """Let processes of one machine talk by its own interface, which nobody else reaches."""
    names = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    for variable in INTERFACES:
        if names:
            os.environ.setdefault(variable, names[0])
