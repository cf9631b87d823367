"""CPU time of a feature-extraction trial over a whole sweep, as tlx compare runs it, of two trees.

    python tests/benchmarks/feature_trials.py --old ../old/.venv/bin/python
    [--rounds 5] [--splits 2] [--no-crops]

--old is the interpreter of an environment in which the other tree is installed.

Each round runs the same sweep (digits, every shots × split × the classifiers of tlx compare) with
the code of both checkouts, without tracking and with a local store, in random order, each in a
process of its own with its workers. The first draw is run before, so that everything is imported
and the images are extracted. Counted is the CPU time of all processes from there to the end of the
mirror, tables included, divided by the number of trials. Printed are the medians, and how many
accuracies differ between the two trees.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

NAMES = {False: "no tracking", True: "local store"}


# ---------------------------------------------------------------- in the process of one sweep


def sweep(asked: dict[str, Any]) -> dict[str, Any]:
    """Run the sweep without and with tracking; return the seconds of each, and accuracies."""
    from tlx.lab.settings import Settings

    runs = {}
    for is_tracked in random.Random(asked["round"]).sample((False, True), 2):
        folder = f"{asked['folder']}/{is_tracked}"
        settings = Settings(
            store=f"{folder}/runs",
            cache=asked["cache"],
            tracking=is_tracked,
            device="cpu",
            mlflow_path=f"{folder}/mlflow.db" if is_tracked else None,
        )
        runs[NAMES[is_tracked]] = one_sweep(asked, settings)
    return runs


def one_sweep(asked: dict[str, Any], settings: Any) -> dict[str, Any]:
    """Run the sweep with these settings."""
    from tlx.lab.settings import Figures
    from tlx.studies import runner
    from tlx.studies.compare.study import CompareStudy
    from tlx.studies.fine_tuning.spec import FineTuning
    from tlx.studies.session import Session
    from tlx.studies.source_list import SourceChoice

    study = CompareStudy.with_settings({"splits": asked["splits"], "use_crops": asked["crops"]})
    tuning = study.of(FineTuning)
    planned = study._sides(Session(settings), tuning, [SourceChoice(tuning.architecture)])
    (stage,) = planned.features.values()
    first = stage.groups[0].trials
    runner.run_stage(dataclasses.replace(stage, trials=first), settings, figures=Figures())
    before, started = used() + server_cpu(), time.perf_counter()
    report = runner.run_stage(stage, settings, figures=Figures())
    wall, cpu = time.perf_counter() - started, used() + server_cpu() - before
    scores = {
        f"{r.spec['shots']} {r.spec['split']} {r.spec.get('classifier')}": r.scores["test_accuracy"]
        for r in report.results
    }
    return {"cpu": cpu, "wall": wall, "trials": len(stage.trials) - len(first), "scores": scores}


def server_cpu() -> float:
    """Return the CPU seconds of the servers of the workers, which are not waited for yet."""
    import psutil

    from tlx.lab.engines import forkserver

    return float(sum(sum(psutil.Process(pid).cpu_times()[:4]) for pid in forkserver.pids()))


def used() -> float:
    """Return the CPU seconds of this process and of what it has waited for."""
    rows = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(row.ru_utime + row.ru_stime for row in rows)


# ---------------------------------------------------------------- the rounds


def measured(python: str, **asked: Any) -> dict[str, Any]:
    """Run one sweep with the code that an interpreter imports."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [python, __file__, "--sweep", json.dumps(asked | {"folder": folder})],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            sys.exit(done.stderr[-3000:])
        return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--old", help="interpreter of another tree to compare with")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--splits", type=int, default=2)
    options.add_argument("--no-crops", dest="crops", action="store_false")
    options.add_argument("--sweep", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.sweep:
        print(json.dumps(sweep(json.loads(given.sweep))))
        return
    pythons = {"new": sys.executable} | ({"old": given.old} if given.old else {})
    taken: dict[str, list[dict[str, Any]]] = {tree: [] for tree in pythons}
    with tempfile.TemporaryDirectory() as cache:
        asked = {"cache": cache, "splits": given.splits, "crops": given.crops}
        for number in range(given.rounds):
            for tree in random.Random(number).sample(sorted(pythons), len(pythons)):
                taken[tree].append(measured(pythons[tree], round=number, **asked))
            print(f"round {number + 1}, load {os.getloadavg()[0]:.1f}", flush=True)
            for tree, runs in taken.items():
                print(
                    f"  {tree}: " + ", ".join(line_of(runs[-1:], name) for name in NAMES.values())
                )
    print(f"medians of {given.rounds}")
    for tree, runs in taken.items():
        for name in NAMES.values():
            print(f"{tree}, {line_of(runs, name)}")
    if given.old:
        old, new = (taken[tree][0][NAMES[False]]["scores"] for tree in ("old", "new"))
        other = sorted(key for key in old if old[key] != new.get(key))
        print(f"accuracies that differ: {len(other)} of {len(old)} {other[:5]}")


def line_of(runs: list[dict[str, Any]], name: str) -> str:
    """Return the medians of the sweeps of one kind in words."""
    cpu_ms = [1e3 * run[name]["cpu"] / run[name]["trials"] for run in runs]
    wall_s = statistics.median(run[name]["wall"] for run in runs)
    spread = f" ({min(cpu_ms):.1f} to {max(cpu_ms):.1f})" if len(runs) > 1 else ""
    return f"{name} {statistics.median(cpu_ms):.1f} ms CPU a trial{spread}, {wall_s:.1f} s wall"


if __name__ == "__main__":
    main()
