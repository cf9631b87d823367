"""CPU time of a feature-extraction trial over a whole sweep, as tlx compare runs it, of two trees.

    python tests/benchmarks/feature_trials.py --old ../old [--rounds 5] [--splits 4] [--no-crops]

Each round runs the same sweep (digits, every shots × split × the classifiers of tlx compare) with
the code of both checkouts, without tracking and with a local store, in random order, each in a
process of its own with its workers. Its first draw is run before, so that everything is imported
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
from pathlib import Path
from typing import Any

TREES = ("old", "new")


# ---------------------------------------------------------------- in the process of one sweep


def sweep(asked: dict[str, Any]) -> dict[str, Any]:
    """Run one sweep; return its seconds and its accuracies by trial."""
    from tlx.lab.settings import Figures, Settings
    from tlx.studies import runner
    from tlx.studies.compare.study import CompareStudy
    from tlx.studies.fine_tuning.spec import FineTuning
    from tlx.studies.session import Session

    settings = Settings(
        store=f"{asked['folder']}/runs",
        cache=asked["cache"],
        tracking=asked["tracked"],
        device="cpu",
        mlflow_path=f"{asked['folder']}/mlflow.db" if asked["tracked"] else None,
    )
    study = CompareStudy.with_settings({"splits": asked["splits"], "use_crops": asked["crops"]})
    tuning = study.of(FineTuning)
    planned = study._sides(Session(settings), tuning, {tuning.architecture: None})
    (stage,) = planned.features.values()
    first = stage.groups[0].trials
    runner.run_stage(dataclasses.replace(stage, trials=first), settings, figures=Figures())
    before, started = used() + server_cpu(), time.perf_counter()
    report = runner.run_stage(stage, settings, figures=Figures())
    wall = time.perf_counter() - started
    end_workers()
    cpu = used() - before
    scores = {
        f"{r.spec['shots']} {r.spec['split']} {r.spec.get('classifier')}": r.scores["test_accuracy"]
        for r in report.results
    }
    trials = len(stage.trials) - len(first)
    return {"cpu": cpu, "wall": wall, "trials": trials, "scores": scores}


def server_cpu() -> float:
    """Return the CPU seconds of the server of the workers, which is not waited for yet."""
    import multiprocessing.forkserver

    import psutil

    server: Any = multiprocessing.forkserver._forkserver  # type: ignore[attr-defined]
    return float(sum(psutil.Process(server._forkserver_pid).cpu_times()[:4]))


def end_workers() -> None:
    """End the server of the workers and wait for it: its CPU time has theirs."""
    import multiprocessing.forkserver

    multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]


def used() -> float:
    """Return the CPU seconds of this process and of what it has waited for."""
    rows = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(row.ru_utime + row.ru_stime for row in rows)


# ---------------------------------------------------------------- the rounds


def measured(checkout: Path, **asked: Any) -> dict[str, Any]:
    """Run one sweep with the code of a checkout."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, __file__, "--sweep", json.dumps(asked | {"folder": folder})],
            env={**os.environ, "PYTHONPATH": str(checkout)},
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
    options.add_argument("--old", type=Path, help="another checkout to compare with")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--splits", type=int, default=4)
    options.add_argument("--no-crops", dest="crops", action="store_false")
    options.add_argument("--sweep", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.sweep:
        print(json.dumps(sweep(json.loads(given.sweep))))
        return
    checkouts = {"new": Path(__file__).resolve().parents[2]}
    if given.old:
        checkouts["old"] = given.old.resolve()
    ways = [(tree, tracked) for tree in checkouts for tracked in (False, True)]
    taken: dict[tuple[str, bool], list[dict[str, Any]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as cache:
        asked = {"cache": cache, "splits": given.splits, "crops": given.crops}
        measured(checkouts["new"], tracked=False, **asked)  # decodes and extracts
        for number in range(given.rounds):
            for tree, tracked in random.Random(number).sample(ways, len(ways)):
                taken[tree, tracked].append(measured(checkouts[tree], tracked=tracked, **asked))
            print(f"round {number + 1}: load {os.getloadavg()[0]:.1f}", flush=True)
    trials = taken["new", False][0]["trials"]
    print(f"{trials} trials, medians of {given.rounds}")
    for tree, tracked in ways:
        runs = taken[tree, tracked]
        cpu_ms = [1e3 * run["cpu"] / trials for run in runs]
        print(
            f"{tree}, {'local store' if tracked else 'no tracking':<11} "
            f"{statistics.median(cpu_ms):6.1f} ms CPU a trial "
            f"({min(cpu_ms):.1f} to {max(cpu_ms):.1f}), "
            f"{statistics.median(run['wall'] for run in runs):5.1f} s wall"
        )
    if given.old:
        old, new = (taken[tree, False][0]["scores"] for tree in TREES)
        other = sorted(key for key in old if old[key] != new.get(key))
        print(f"accuracies that differ: {len(other)} of {len(old)} {other[:5]}")


if __name__ == "__main__":
    main()
