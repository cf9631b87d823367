"""A search without science: a hill to climb, in a driver to kill. argv: root, workers, trials,
seconds a split, …
"""

from __future__ import annotations

import os
import signal
import sys
import time

from tlx.errors import BadDataError, TlxError
from tlx.lab import signals
from tlx.lab.engines import local as engines_local
from tlx.lab.tasks import RunOptions, Task
from tlx.lab.tuning import api as tuning_api
from tlx.lab.tuning.space import Parameter, Space

SPACE = Space(
    (
        Parameter(
            "kind",
            choices=("round", "flat", "bad"),
            default="round",
            bounds=("round", "flat", "bad"),
        ),
        Parameter(
            "round.x",
            low=-4.0,
            high=4.0,
            default=1.0,
            when=("kind", ("round",)),
            bounds=(-9.0, 9.0),
        ),
        Parameter(
            "round.n",
            low=1,
            high=64,
            log=True,
            whole=True,
            default=8,
            when=("kind", ("round",)),
            bounds=(1, 99),
        ),
        Parameter(
            "flat.y",
            low=1e-3,
            high=1e3,
            log=True,
            default=1.0,
            when=("kind", ("flat",)),
            bounds=(1e-9, 1e9),
        ),
    )
)
SPLITS = 3


class Hill:
    """Accuracy by formula, on three splits; `context` is seconds a split."""

    made = 0

    def __init__(self, inputs, context):
        self.pause_s, self.spent = context or 0.0, tuning_api.ScoredTrial(by_split=[], seconds=0.0)
        self.fails = (inputs or {}).get("fails", ())
        self.log = (inputs or {}).get("log")

    def key(self, values):
        from tlx import files

        return files.digest(["hill", values])

    def title(self, values):
        return str(values["kind"])

    def evaluate(self, values, report):
        if self.log:
            with open(self.log, "a") as file:
                file.write(f"{values}\n")
        if values["kind"] in self.fails:
            raise BadDataError("unfit", "no good")
        by_split = []
        for split in range(SPLITS):
            time.sleep(self.pause_s)
            x = values.get("round.x", 3.0)
            by_split.append(1 / (1 + x * x) - 0.01 * split + 0.001 * values.get("round.n", 0))
            seconds = 0.1 * len(by_split) * (1 + abs(x))
            self.spent = tuning_api.ScoredTrial(
                by_split=by_split, seconds=seconds, energy_j=2 * seconds
            )
            report(split + 1, sum(by_split) / len(by_split))
        return self.spent


def search(**changes):
    """A search over the hill."""
    asked = {
        "key": "5" * 64,
        "family": "f" * 64,
        "space": SPACE,
        "evaluator": "lab.tiny_search:Hill",
        "rungs": (1,),
        "trials": 12,
        **changes,
    }
    return tuning_api.SearchProblem(**asked)


def run(asked, root, workers=0, pause_s=0.0, inputs=None, hear=lambda event: None):
    """Run it to its end; the trials, by number."""
    tuning_api.prepare(asked, root)
    tasks = [
        Task(
            f"worker-{n}",
            "",
            "tlx.lab.tuning.worker:work",
            (asked, inputs, pause_s, str(root), f"driver-{os.getpid()}"),
        )
        for n in range(max(1, workers))
    ]
    found = engines_local.run_all(
        tasks,
        workers=workers,
        on_event=hear,
        options=RunOptions(retries=1000, preload=("tlx.lab.tuning.worker", "lab.tiny_search")),
    )
    for outcome in found:
        if outcome.error:
            raise outcome.error
    return tuning_api.completed_trials(asked, root)


def main(root, workers, trials, pause_s, storage="", key="5" * 64) -> None:
    for number in signals.STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    with signals.graceful():
        found = run(
            search(trials=int(trials), storage=storage, key=key),
            root,
            int(workers),
            float(pause_s),
            hear=lambda event: print(type(event).__name__, flush=True),
        )
    print(len(found), "ended", flush=True)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except TlxError as error:
        print(error, flush=True)
        os._exit(error.exit_code)
