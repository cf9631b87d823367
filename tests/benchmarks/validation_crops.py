"""Few-shot fine-tuning with validation on all ten crops and on fewer: time, epochs and accuracy.

    python tests/benchmarks/validation_crops.py [--dataset digits] [--shots 1,3,5] [--splits 5]
    [--crops 1,2] [--freeze 0] [--checkout OLDER-CHECKOUT] [--json FILE]

Each way is a process of its own; trial by trial they take turns, in another order each time. Every
trial is trained, selected and tested as in a study (without figures and MLflow). The first trial of
each process is not counted. With --checkout the default of another checkout is one more way, the
one that the ratios are against. Times are medians over splits; ratios are medians of the ratios of
one trial. CPU seconds say more than wall seconds on a busy machine.
"""

from __future__ import annotations

import argparse
import atexit
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import turns

ROOT = Path(__file__).resolve().parents[2]
OLDER, DEFAULT = "older checkout", "all crops"


class Trials:
    """The trials of one way, in a process of it."""

    def __init__(self, way: str):
        self.shared: list[Path] = []  # folder of a study's trials, where there is one
        self.crops = int(way.split(maxsplit=1)[0]) if way[0].isdigit() else None

    def handle(self, what: dict) -> dict:
        if "dataset" in what:
            return self.prepare(what)
        return self.run(what["shots"], what["split"])

    def prepare(self, what: dict) -> dict:
        """Read the images once and plan every trial."""
        import tlx
        from tlx.lab.settings import Settings
        from tlx.models import training
        from tlx.studies.base import TrialContext
        from tlx.studies.few_shot import FewShotGrid
        from tlx.studies.fine_tuning import plan
        from tlx.studies.fine_tuning.spec import FineTuning

        training.deterministic(what["threads"])
        more = {} if self.crops is None else {"val_crops": self.crops}
        spec = FineTuning(dataset=what["dataset"], freeze=what["freeze"], **more)
        few = FewShotGrid(shots=tuple(what["shots"]), splits=what["splits"])
        stage, _ = plan.fine_tuning_study(spec, few, Settings(tracking=False, workers=0))
        if "shared" in TrialContext.__dataclass_fields__:  # an older checkout has none
            folder = tempfile.mkdtemp()
            atexit.register(shutil.rmtree, folder)
            self.shared = [Path(folder)]
        self.trials = {(t.spec.shots, t.spec.split): t for t in stage.trials}
        return {"blas": "-", "trials": sorted(self.trials), "code": tlx.__file__}

    def run(self, shots: int, split: int) -> dict:
        """Run one trial, and say what it took and came to."""
        from tlx.studies.base import TrialContext
        from tlx.studies.fine_tuning import trial

        chosen = self.trials[shots, split]
        epochs: list[dict[str, float]] = []
        with tempfile.TemporaryDirectory() as folder:
            context = TrialContext(
                Path(folder),
                "cpu",
                lambda _, row: epochs.append(row),
                lambda *_: None,
                lambda: False,
                *self.shared,
            )
            wall, cpu = time.perf_counter(), time.process_time()
            result = trial.run(chosen.spec, chosen.inputs, context)
            took = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        return took | {
            "train": sum(row["train_epoch_s"] for row in epochs),
            "val": sum(row["val_epoch_s"] for row in epochs),
            "test": result.scores["test_s"],
            "best": result.details["best_epoch"],
            "epochs": result.details["epochs"],
            "accuracy": result.scores["test_accuracy"],
            "validation": result.scores["best_val_accuracy"],
            "loss": result.scores["test_loss"],
        }


def measured(asked: argparse.Namespace) -> dict[str, dict[str, dict]]:
    """Return way → "shots split" → what the trial took and came to."""
    names = [DEFAULT, *(f"{n} of ten" for n in asked.crops)]
    names = [OLDER, *names] if asked.checkout else names
    ways = {}
    for name in names:
        code = asked.checkout if name == OLDER else ROOT
        ways[name] = turns.Worker(name, sys.executable, asked.threads, PYTHONPATH=str(code))
    plan = {
        "dataset": asked.dataset,
        "shots": asked.shots,
        "splits": asked.splits,
        "threads": asked.threads,
        "freeze": asked.freeze,
    }
    answers = {name: way.ask(**plan) for name, way in ways.items()}
    absent = {name: a["absent"] for name, a in answers.items() if "absent" in a}
    if absent:
        sys.exit(f"cannot start: {absent}")
    if asked.checkout:  # or the two would be compared with themselves
        assert answers[OLDER]["code"].startswith(str(asked.checkout)), answers[OLDER]["code"]
    trials = [tuple(pair) for pair in answers[DEFAULT]["trials"]]
    for way in ways.values():
        way.ask(shots=trials[0][0], split=trials[0][1])
    rows: dict[str, dict[str, dict]] = {name: {} for name in ways}
    for turn, (shots, split) in enumerate(trials):
        for name in random.Random(turn).sample(sorted(ways), len(ways)):
            rows[name][f"{shots} {split}"] = ways[name].ask(shots=shots, split=split)
    for way in ways.values():
        way.end()
    return rows


def show(rows: dict[str, dict[str, dict]]) -> None:
    first = next(iter(rows))
    print(
        "| shots | way | CPU s | wall s | train, val, test s | times as fast (CPU) | same epoch "
        "chosen | epochs trained | test accuracy | difference |\n|" + "---|" * 10
    )
    for shots in dict.fromkeys(int(place.split()[0]) for place in rows[first]):
        places = [place for place in rows[first] if int(place.split()[0]) == shots]
        for way, trials in rows.items():
            own, base = [trials[p] for p in places], [rows[first][p] for p in places]
            pairs = list(zip(own, base, strict=True))

            def middle(name: str, own: list[dict] = own) -> float:
                return statistics.median(row[name] for row in own)

            ratio = statistics.median(b["cpu"] / a["cpu"] for a, b in pairs)
            same = sum(a["best"] == b["best"] for a, b in pairs)
            accuracy = statistics.mean(row["accuracy"] for row in own)
            change = [a["accuracy"] - b["accuracy"] for a, b in pairs]
            spread = statistics.stdev(change) / len(change) ** 0.5 if len(change) > 1 else 0.0
            print(
                f"| {shots} | {way} | {middle('cpu'):.2f} | {middle('wall'):.2f} | "
                f"{middle('train'):.2f}, {middle('val'):.2f}, {middle('test'):.2f} | {ratio:.2f} | "
                f"{same} of {len(pairs)} | {middle('epochs'):.0f} | {accuracy:.4f} | "
                f"{statistics.mean(change):+.4f} ± {spread:.4f} |"
            )
    if OLDER in rows:
        kinds = ("best", "epochs", "accuracy", "validation", "loss")
        equal = all(
            rows[OLDER][p][kind] == rows[DEFAULT][p][kind] for p in rows[OLDER] for kind in kinds
        )
        print(f"\ndefault equal to the older checkout's in every number: {equal}")


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",") if word]


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--worker", help=argparse.SUPPRESS)
    options.add_argument("--dataset", default="digits")
    options.add_argument("--shots", type=numbers, default=[1, 3, 5])
    options.add_argument("--crops", type=numbers, default=[1, 2])
    options.add_argument("--checkout", type=lambda text: Path(text).resolve())
    options.add_argument("--json", type=Path)
    for name, value in {"splits": 5, "threads": 1, "freeze": 0}.items():
        options.add_argument(f"--{name}", type=int, default=value)
    asked = options.parse_args()
    if asked.worker:
        sys.path.insert(0, os.environ["PYTHONPATH"])  # before what the environment puts first
        turns.serve(Trials(asked.worker).handle)
        return
    rows = measured(asked)
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=1))
    show(rows)


if __name__ == "__main__":
    main()
