"""Run a small study of every kind and write down every number; compare two such records to the bit.

    python tests/benchmarks/same_results.py record FILE.json [--checkout FOLDER]
    python tests/benchmarks/same_results.py compare OLD.json NEW.json

Used when the code changes and the science must not: record at the old commit (in a worktree),
record at the new one on the same machine, compare. Times are left out. Numbers may differ between
machines.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FAST = ("--workers", "0", "--no-tracking", "--threads", "1")
FEW = ("--shots", "1,5", "--splits", "2")
TRAIN = ("--epochs", "2", "--train-per-class", "40", "--val-per-class", "10")
PLACES = ("Job number", "Fine-tuned")  # parameters that are numbers of a person, or paths
KEYS = ("key", "keys", "study", "configuration", "same_as")
COMMANDS = {
    "fine-tuning": ("fine-tuning", *FEW, "--epochs", "3"),
    "fine-tuning frozen": ("fine-tuning", *FEW, "--epochs", "3", "--freeze", "1", "--no-use-crops"),
    "feature-extraction": ("feature-extraction", *FEW, "--classifier", "all"),
    "pretrain": ("pretrain", "--dataset", "digits", *TRAIN, "--checkpoints", "0,1,2"),
    "analyze": ("analyze", "mnist", "--samples", "100"),
    "quanta": ("quanta", *TRAIN, "--repeats", "1"),
    "layer-transfer": ("layer-transfer", *TRAIN, "--repeats", "1", "--depths", "1,2"),
    "chop": ("chop", *TRAIN, "--repeats", "1", "--depths", "1,2"),
    "prune": ("prune", *TRAIN, "--repeats", "1", "--iterations", "2"),
    "parameter-distance": ("parameter-distance", *TRAIN, "--seeds", "1"),
    "checkpoints": (
        *("checkpoints", "--sources", "digits,random", "--targets", "digits", "--seeds", "2"),
        *("--epochs", "2", "--checkpoints", "0,1,2", "--from-checkpoints", "all"),
        *("--fine-tune-epochs", "2", "--fine-tune-checkpoints", "0,1,2", "--samples", "50"),
        *("--train-per-class", "20", "--fine-tune-per-class", "20", "--val-per-class", "5"),
    ),
    "atlas": ("atlas", "--samples", "100"),
    "tune": ("tune", "--shots", "5", "--splits", "2", "--trials", "6"),
}


def record(checkout: Path) -> dict[str, Any]:
    """Return command → the numbers of its trials, from a checkout's code."""
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        environment = os.environ | {
            "PYTHONPATH": str(checkout),
            "TLX_CACHE": f"{scratch}/cache",
            "OMP_NUM_THREADS": "1",
        }
        for name, words in COMMANDS.items():
            folder = Path(scratch) / name.replace(" ", "-")
            folder.mkdir()
            started = time.perf_counter()
            command = [sys.executable, "-m", "tlx", *words, *FAST]
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True
            )
            found[name] = {"exit": done.returncode, "trials": trials_of(folder)}
            print(
                f"{name}: exit {done.returncode}, {len(found[name]['trials'])} trials, "
                f"{time.perf_counter() - started:.0f} s",
                flush=True,
            )
            if done.returncode:
                print(done.stderr[-1500:])
    return found


def trials_of(folder: Path) -> dict[str, Any]:
    """Return the place of a trial among its siblings → its scores and details, without times."""
    trials: dict[str, Any] = {}
    for study in sorted(folder.glob("**/studies/*/study.json")):
        rows = json.loads(study.read_text())["study"]["trials"]
        for row in rows:
            path = study.parents[2] / "trials" / row["key"] / "result.json"
            if path.exists():
                result = json.loads(path.read_text())["result"]
                params = {k: v for k, v in row.get("params", {}).items() if k not in PLACES}
                name = json.dumps([result["kind"], row["shots"], row["split"], params])
                trials[name] = {
                    part: timeless(result[part]) for part in ("status", "scores", "details")
                }
    return trials


def timeless(value: Any) -> Any:
    """Return plain JSON without times, paths and keys, which differ from run to run."""
    if isinstance(value, dict):
        kept = {
            k: v
            for k, v in value.items()
            if k not in KEYS and not k.endswith(("_s", "_j", "_ms", "seconds", "path", "dump"))
        }
        return {k: timeless(v) for k, v in kept.items()}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def compare(old: dict[str, Any], new: dict[str, Any]) -> int:
    """Print what differs, and return how many commands do."""
    differing = 0
    for name in old:
        a, b = old[name]["trials"], new[name]["trials"]
        lost, added = sorted(a.keys() - b.keys()), sorted(b.keys() - a.keys())
        changed = [trial for trial in a.keys() & b.keys() if a[trial] != b[trial]]
        differing += bool(lost or added or changed)
        same = len(a.keys() & b.keys()) - len(changed)
        print(
            f"{name}: {same} trials equal, {len(changed)} differ, {len(lost)} lost, "
            f"{len(added)} added"
        )
        for trial in changed[:3]:
            print("   ", trial, *differences(a[trial], b[trial])[:5], sep="\n      ")
        for trial in (*lost[:2], *added[:2]):
            print("    only in one:", trial)
    return differing


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """Return the places where two JSON values differ, in words."""
    if isinstance(a, dict) and isinstance(b, dict):
        names = sorted(a.keys() | b.keys())
        return [line for n in names for line in differences(a.get(n), b.get(n), f"{where}/{n}")]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [line for i in range(len(a)) for line in differences(a[i], b[i], f"{where}[{i}]")]
    return [] if a == b else [f"{where}: {a!r} is now {b!r}"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="what", required=True)
    recording = parts.add_parser("record")
    recording.add_argument("file", type=Path)
    recording.add_argument("--checkout", type=Path, default=Path(__file__).resolve().parents[2])
    comparing = parts.add_parser("compare")
    comparing.add_argument("old", type=Path)
    comparing.add_argument("new", type=Path)
    asked = parser.parse_args()
    if asked.what == "record":
        asked.file.write_text(
            json.dumps(record(asked.checkout.resolve()), indent=1, sort_keys=True)
        )
    else:
        old, new = (json.loads(path.read_text()) for path in (asked.old, asked.new))
        sys.exit(1 if compare(old, new) else 0)


if __name__ == "__main__":
    main()
