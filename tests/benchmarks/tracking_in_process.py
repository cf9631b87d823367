"""What mirroring costs short trials that run in the process of the command (--workers 0).

    python tests/benchmarks/tracking_in_process.py [--rounds 5] [--epochs 15] [--splits 6]

Each round runs the same study without tracking and with a local store, in random order. Printed are
the medians over rounds of a trial's own clock (median over its trials), of the whole command, and
of the mirror's CPU time a trial.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

from tlx.lab.settings import Settings
from tlx.lab.tracking import api as tracking_api
from tlx.studies import reporting, runner
from tlx.studies.few_shot import FewShotGrid
from tlx.studies.fine_tuning import plan as fine_tuning_plan
from tlx.studies.fine_tuning.spec import FineTuning


def timed(run: Callable[[Any], None], spent: list[float]) -> Callable[[Any], None]:
    """Add the CPU seconds of the thread that `run` runs in."""

    def wrapped(mirror: Any) -> None:
        run(mirror)
        spent.append(time.thread_time())

    return wrapped


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--epochs", type=int, default=15)
    options.add_argument("--splits", type=int, default=6)
    given = options.parse_args()
    spec = FineTuning(epochs=given.epochs, early_stopping=False, use_crops=False)
    trial_s: dict[bool, list[float]] = {False: [], True: []}
    whole_s: dict[bool, list[float]] = {False: [], True: []}
    mirror_s: list[float] = []
    tracking_api.Mirror._run = timed(tracking_api.Mirror._run, mirror_s)  # type: ignore[method-assign]
    for number in range(given.rounds + 1):
        for is_tracked in random.Random(number).sample((False, True), 2):
            folder = tempfile.mkdtemp()
            settings = Settings(
                store=folder,
                workers=0,
                tracking=is_tracked,
                device="cpu",
                mlflow_path=f"{folder}/mlflow.db" if is_tracked else None,
            )
            made, _ = fine_tuning_plan.fine_tuning_study(
                spec, FewShotGrid(shots=(5,), splits=given.splits), settings
            )
            began = time.perf_counter()
            report = runner.run_stage(made, settings, lambda event: None, reporting.write_summary)
            if number:  # the first round imports and compiles
                whole_s[is_tracked].append(time.perf_counter() - began)
                trial_s[is_tracked].append(
                    statistics.median(r.cost["wall_s"]["value"] for r in report.results)
                )
    for is_tracked, name in ((False, "without"), (True, "local store")):
        trial, whole = (
            statistics.median(trial_s[is_tracked]),
            statistics.median(whole_s[is_tracked]),
        )
        ratio = trial / statistics.median(trial_s[False])
        print(f"{name:<12} trial {trial:6.3f} s ({ratio:.3f} ×), whole command {whole:6.2f} s")
    print(f"CPU of the mirror's thread: {statistics.median(mirror_s) / given.splits:.3f} s a trial")


if __name__ == "__main__":
    main()
