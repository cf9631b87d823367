"""Error of the estimates of tlx plan: what studies take and what their plans said.

    python tests/benchmarks/plan_error.py [--rounds 3] [--engines local]

Each study is planned and then run in an empty store, in turn, as often as there are rounds, by two
workers. Printed are time and memory as a share of the estimate: of each study the median, of all
the least and the most. The first group trains all its epochs; the second stops early, which a plan
does not foresee. Run it on a quiet machine with two cores. With --engines, clusters of two slots
are started beside it, as cluster.py does.
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
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

os.environ.setdefault("TLX_TEST_ENGINES", "dask,ray")  # which clusters can be started

from lab import clusters

import tlx

SLOTS = 2
FEW = {"dataset": "digits", "shots": (1, 5), "splits": 3}
STUDIES: dict[str, tuple[str, dict[str, Any]]] = {
    "fine-tuning, no crops": ("fine-tuning", {**FEW, "epochs": 10, "use_crops": False}),
    "fine-tuning, ten crops": ("fine-tuning", {**FEW, "epochs": 3}),
    "fine-tuning, ResNet-20": (
        "fine-tuning",
        {
            **FEW,
            "shots": (1,),
            "epochs": 1,
            "use_crops": False,
            "architecture": "resnet20-cifar",
            "source": "random",
        },
    ),
    "pretraining": ("pretrain", {"dataset": "digits", "epochs": 5}),
    "QUANTA": ("quanta", {"dataset": "digits", "positions": "0,2", "repeats": 2, "epochs": 3}),
    "layer transfer": ("layer-transfer", {"dataset": "digits", "depths": "1,3", "epochs": 3}),
}
EARLY = {
    "fine-tuning, no crops": (
        "fine-tuning",
        {**FEW, "early_stopping": True, "use_crops": False},
    ),
    "pretraining": ("pretrain", {"dataset": "digits", "early_stopping": True}),
}
GROUPS = {"all epochs": STUDIES, "early stop": EARLY}


def ratios_of(name: str, settings: dict[str, Any], folder: Path) -> dict[str, float]:
    """Plan a study and run it; return what it took as a share of the plan."""
    shutil.rmtree(folder, ignore_errors=True)
    both = {
        **settings,
        "store": str(folder),
        "workers": SLOTS,
        "tracking": False,
        "figures": "none",
    }
    planned = tlx.plan(name, **both)
    assert planned.seconds
    assert planned.memory_bytes
    assert planned.at_once
    expected = planned.seconds + sum(stage.seconds or 0.0 for stage in planned.further)
    started = time.perf_counter()
    report = tlx.run(name, **both, progress=False)
    wall = time.perf_counter() - started
    peak = max(result.cost["memory_peak_bytes"]["value"] for result in report.results)
    memory = peak / (planned.memory_bytes / planned.at_once)
    return {"time": wall / expected, "memory": memory, "planned_s": expected, "taken_s": wall}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engines", default="local")
    arguments = parser.parse_args()
    engines = arguments.engines.split(",")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        running = []
        try:
            for engine in engines:
                place: dict[str, Any] = {}
                if engine != "local":
                    (kind,) = [kind for kind in clusters.KINDS if kind.engine == engine]
                    cluster = kind(folder / engine)
                    running.append(cluster)
                    cluster.restore(SLOTS)
                    place = {"engine": engine, "address": cluster.address}
                measure(engine, place, folder / "runs", arguments.rounds)
        finally:
            for cluster in running:
                cluster.close()


def measure(engine: str, place: dict[str, Any], folder: Path, rounds: int) -> None:
    taken: dict[tuple[str, str], list[dict[str, float]]] = {}
    for number in range(rounds + 1):  # the first reads images, compiles, imports
        for group, rows in GROUPS.items():
            for title, (name, settings) in rows.items():
                ratios = ratios_of(name, settings | place, folder)
                if number:
                    taken.setdefault((group, title), []).append(ratios)
    for group, rows in GROUPS.items():
        print(f"\n{engine}, {group}, {rounds} rounds: taken / planned")
        for title in rows:
            line = f"  {title:24}"
            for what in ("planned_s", "taken_s"):
                line += f" {statistics.median(row[what] for row in taken[group, title]):6.1f} s"
            for what in ("time", "memory"):
                values = [row[what] for row in taken[group, title]]
                line += f"  {what} {statistics.median(values):.2f}"
                line += f" ({min(values):.2f} to {max(values):.2f})"
            print(line)
        for what in ("time", "memory"):
            values = [row[what] for title in rows for row in taken[group, title]]
            print(f"  {what}: {min(values):.2f} to {max(values):.2f}", flush=True)


if __name__ == "__main__":
    main()
