"""What tracking costs a trial: without it, with a local store, with a server that is down, with one
that never answers.

    python tests/benchmarks/tracking_cost.py [--rounds 5] [--epochs 15]

Each round runs the same five-shot trial once in each way, in another order; a trial's own clock is
compared (median of its total_s), and how long the whole command took.
"""

from __future__ import annotations

import argparse
import random
import socket
import statistics
import tempfile
import time

from tlx.lab.settings import Settings
from tlx.studies import reporting, runner
from tlx.studies.few_shot import FewShotGrid
from tlx.studies.fine_tuning import plan as fine_tuning_plan
from tlx.studies.fine_tuning.spec import FineTuning


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--epochs", type=int, default=15)
    given = options.parse_args()
    silent = socket.socket()
    silent.bind(("127.0.0.1", 0))
    silent.listen(64)  # takes connections and never answers
    ways = {
        "none": None,
        "local": "",
        "down": "http://127.0.0.1:9",
        "silent": f"http://127.0.0.1:{silent.getsockname()[1]}",
    }
    spec = FineTuning(epochs=given.epochs, early_stopping=False)
    trial_s: dict[str, list[float]] = {name: [] for name in ways}
    whole_s: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(given.rounds):
        for name in random.Random(number).sample(sorted(ways), len(ways)):
            folder = tempfile.mkdtemp()
            settings = Settings(
                store=folder,
                workers=1,
                tracking=ways[name] is not None,
                device="cpu",
                mlflow_path=ways[name] or (f"{folder}/mlflow.db" if name == "local" else None),
            )
            made, _ = fine_tuning_plan.fine_tuning_study(
                spec, FewShotGrid(shots=(5,), splits=1), settings
            )
            began = time.perf_counter()
            report = runner.run_stage(made, settings, lambda event: None, reporting.write_summary)
            whole_s[name].append(time.perf_counter() - began)
            trial_s[name].append(report.results[0].scores["total_s"])
    base = statistics.median(trial_s["none"])
    for name in ways:
        trial, whole = statistics.median(trial_s[name]), statistics.median(whole_s[name])
        print(
            f"{name:<7} trial {trial:6.2f} s ({trial / base:.3f} ×), whole command {whole:6.2f} s"
        )


if __name__ == "__main__":
    main()
