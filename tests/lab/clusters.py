"""Real clusters on this machine: a head and nodes as processes, each to be killed or frozen."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

import psutil

TESTS = Path(__file__).resolve().parents[1]


@dataclass(eq=False)
class Daemon:
    """A process of a cluster, in a group of its own, and the lines that it writes."""

    command: list[str]
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        paths = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
        self.process = subprocess.Popen(
            self.command,
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": ":".join(filter(None, paths))} | self.environment,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.lines: queue.Queue[str] = queue.Queue()
        self.said: list[str] = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.said.append(line)
                self.lines.put(line)
        self.lines.put("")

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first line with the pattern; the end of the process before it is an error."""
        while line := self.lines.get(timeout=120):
            if match := re.search(pattern, line):
                return match
        raise AssertionError("".join(self.said))

    def pids(self) -> list[int]:
        """The process, what it has started, and what is left of its session."""
        own = self.process.pid
        result = []
        for process in psutil.process_iter():
            with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess, PermissionError):
                parents = {parent.pid for parent in process.parents()}
                if process.pid == own or own in parents or os.getsid(process.pid) == own:
                    result.append(process.pid)
        return result

    def send(self, number: int) -> None:
        """Send a signal to the process and all that it has started."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """Kill it with all that it has started."""
        self.send(signal.SIGSTOP)  # so that it starts nothing meanwhile
        self.send(signal.SIGKILL)
        self.process.wait()
        self.reader.join()


class Nodes:
    """What clusters have in common: nodes that tests kill, and that are replaced."""

    nodes: list[Daemon]
    head: Daemon

    def add_node(self, **environment: str) -> Daemon:
        """Start a node with further variables, and wait until it is there."""
        raise NotImplementedError

    def restore(self, count: int = 2) -> None:
        """Go back to so many nodes: what a test has killed or added is replaced or removed."""
        for node in self.nodes:
            if node.process.poll() is not None:
                node.kill()  # what it left
        self.nodes = [node for node in self.nodes if node.process.poll() is None]
        while len(self.nodes) > count:
            self.nodes.pop().kill()
        while len(self.nodes) < count:
            self.add_node()

    def close(self) -> None:
        """End all of it."""
        for daemon in (*self.nodes, self.head):
            daemon.kill()


IDLE = {  # a cluster that waits takes a fifth of a core else, for as long as the tests run
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
    "DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__INTERVAL": "30s",
    "DASK_DISTRIBUTED__WORKER__MEMORY__MONITOR_INTERVAL": "10s",
}


@dataclass(eq=False)
class DaskCluster(Nodes):
    """A Dask scheduler and workers with one slot each."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)  # of the nodes
    nodes: list[Daemon] = field(default_factory=list)
    started: int = 0

    engine = "dask"

    def __post_init__(self) -> None:
        words = ["scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
        self.head = Daemon(self._command(*words), self.folder / "scheduler", IDLE)
        self.address = self.head.wait_for(r"Scheduler at:\s+(tcp://\S+)")[1]

    @staticmethod
    def _command(*words: str) -> list[str]:
        return [sys.executable, "-m", "distributed.cli.dask_" + words[0], *words[1:]]

    def add_node(self, **environment: str) -> Daemon:
        """Start a worker with one slot and wait until it is registered."""
        words = ["worker", self.address, "--nworkers", "1", "--nthreads", "1", "--no-dashboard"]
        words += ["--memory-limit", "0", "--host", "127.0.0.1"]
        node = Daemon(
            self._command(*words),
            self.folder / f"node-{len(self.nodes)}",
            IDLE | self.environment | environment,
        )
        node.wait_for(r"Registered to:\s+tcp")
        self.nodes.append(node)
        return node

    @staticmethod
    def worker_of(node: Daemon) -> int:
        """The process of a node that runs the tasks: below the nanny."""
        (worker,) = [
            child.pid
            for child in psutil.Process(node.process.pid).children()
            if "multiprocessing.spawn" in " ".join(child.cmdline())
        ]
        return worker


@dataclass(eq=False)
class RayCluster(Nodes):
    """A Ray head without CPUs and nodes with some, on loopback addresses of their own."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)  # of the nodes
    cpus: int = 1  # of each node
    nodes: list[Daemon] = field(default_factory=list)
    started: int = 0

    engine = "ray"

    def __post_init__(self) -> None:
        self.port = free_port()
        self.address = f"127.0.0.2:{self.port}"
        words = ["--head", "--node-ip-address", "127.0.0.2", "--port", str(self.port)]
        words += ["--num-cpus", "0", "--include-dashboard", "false"]
        self.head = Daemon(self._command(*words), self.folder / "head", RAY)
        self.head.wait_for("Ray runtime started")

    def _command(self, *words: str) -> list[str]:
        common = ["--block", "--disable-usage-stats", "--object-store-memory", "100000000"]
        return [sys.executable, "-m", "ray.scripts.scripts", "start", *common, *words]

    def add_node(self, **environment: str) -> Daemon:
        """Start a node and wait until it is there."""
        ip = f"127.0.0.{3 + self.started}"
        words = ["--address", self.address, "--node-ip-address", ip]
        words += ["--num-cpus", str(self.cpus)]
        folder = self.folder / f"node-{self.started}"
        self.started += 1
        node = Daemon(self._command(*words), folder, RAY | self.environment | environment)
        node.wait_for("Ray runtime started")
        self.nodes.append(node)
        return node

    @staticmethod
    def worker_of(node: Daemon) -> int:
        """A process of a node that runs a task now."""
        busy = [
            child.pid
            for child in psutil.Process(node.process.pid).children(recursive=True)
            if "ray::" in " ".join(child.cmdline()) and "IDLE" not in " ".join(child.cmdline())
        ]
        return busy[0]


# no token: the nodes are of this machine alone
RAY = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


# Two clusters of Ray on one machine starve each other: run them alone, with -n 0
CHOSEN = os.environ.get("TLX_TEST_ENGINES", "dask").split(",")
KINDS = tuple(kind for kind in (DaskCluster, RayCluster) if kind.engine in CHOSEN)
