"""Clusters beside the local engine, two slots each: overhead of a task, efficiency, a study.

python tests/benchmarks/cluster.py [--rounds 5] [--engines local,dask,ray] [--parts tasks,study]

The engines take turns in each round; medians and the ratio to local of the same round are printed.
A task is a fresh process everywhere. Run it on a quiet machine with two cores.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

os.environ.setdefault("TLX_TEST_ENGINES", "dask,ray")  # which clusters can be started

from lab import clusters

import tlx
from tlx.lab.engines import ENGINES
from tlx.lab.tasks import ClusterOptions, RunOptions, Task

SLOTS = 2
TINY, NAPS, NAP_S = 60, 100, 0.5
STUDY = {"dataset": "digits", "shots": (1, 2, 3), "splits": 2, "epochs": 10, "tracking": False}


def seconds_of(engine: str, address: str, count: int, nap_s: float) -> float:
    """Return the wall seconds of so many tasks that each take `nap_s`."""
    tasks = [Task(f"{n:04x}", "nap", "benchmarks.naps:nap", (nap_s,)) for n in range(count)]
    started = time.perf_counter()
    outcomes = ENGINES[engine](
        tasks,
        workers=SLOTS if engine == "local" else count,  # a cluster has its own slots
        on_event=lambda event: None,
        options=RunOptions(cluster=ClusterOptions(address=address)),
    )
    assert all(outcome.error is None for outcome in outcomes), outcomes
    return time.perf_counter() - started


def seconds_of_study(engine: str, address: str, folder: Path) -> float:
    """Return the wall seconds of fine-tuning on digits, in a store of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    place = {"workers": SLOTS} if engine == "local" else {"engine": engine, "address": address}
    started = time.perf_counter()
    tlx.run("fine-tuning", **STUDY, store=str(folder), **place)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engines", default="local,dask,ray")
    parser.add_argument("--parts", default="tasks,study")
    arguments = parser.parse_args()
    engines = arguments.engines.split(",")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        addresses = {"local": ""}
        running = []
        try:
            for kind in clusters.KINDS:
                if kind.engine in engines:
                    cluster = kind(folder / kind.engine)
                    running.append(cluster)
                    cluster.restore(SLOTS)
                    addresses[kind.engine] = cluster.address
            measure(engines, addresses, folder, arguments)
        finally:
            for cluster in running:
                cluster.close()


def measure(
    engines: list[str], addresses: dict[str, str], folder: Path, asked: argparse.Namespace
) -> None:
    rounds, parts = asked.rounds, asked.parts.split(",")
    measures = {
        f"{TINY} tasks of nothing": lambda e, a: seconds_of(e, a, TINY, 0.0),
        f"{NAPS} tasks of {NAP_S} s": lambda e, a: seconds_of(e, a, NAPS, NAP_S),
        "fine-tuning on digits, 6 trials": lambda e, a: seconds_of_study(e, a, folder / "runs"),
    }
    for title, run in measures.items():
        if ("study" if title.startswith("fine-tuning") else "tasks") not in parts:
            continue
        for engine in engines:  # servers of workers are started, images are read
            run(engine, addresses[engine])
        walls: dict[str, list[float]] = {engine: [] for engine in engines}
        for number in range(rounds):
            for engine in engines[number % len(engines) :] + engines[: number % len(engines)]:
                walls[engine].append(run(engine, addresses[engine]))
        print(f"\n{title}, {rounds} rounds")
        for engine in engines:
            ratios = [a / b for a, b in zip(walls[engine], walls[engines[0]], strict=True)]
            line = f"  {engine:6} {statistics.median(walls[engine]):7.2f} s"
            line += f"  {statistics.median(ratios):5.2f} x {engines[0]}"
            if title.startswith(str(NAPS)):
                ideal = NAPS * NAP_S / SLOTS
                line += f"  efficiency {ideal / statistics.median(walls[engine]):.3f}"
            elif title.startswith(str(TINY)):
                line += f"  {1000 * statistics.median(walls[engine]) * SLOTS / TINY:.0f} ms a slot"
            print(line, flush=True)


if __name__ == "__main__":
    main()
