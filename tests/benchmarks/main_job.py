"""The embedded default: wall time, the table, and the same table after 20 kills at random moments.

    python tests/benchmarks/main_job.py [--kills 20] [--figure FILE.png]

Runs `tlx fine-tuning` with every default in a fresh folder; then again in another, killing it
(SIGKILL, driver alone or the whole group) at random moments before letting it end; and compares
every score of every trial.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tlx.lab.store import Store, reproducible_fields


def start(folder: Path, cache: Path) -> subprocess.Popen:
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "tlx", "fine-tuning"],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "TLX_CACHE": str(cache)},
        start_new_session=True,
    )


def scores(folder: Path) -> dict:
    store = Store(folder / "tlx-runs")
    results = map(store.find, store.keys())
    return {r.key: (reproducible_fields(r)["scores"], r.details["confusion"]) for r in results}


def disturbed(folder: Path, cache: Path, kills: int, seed: int, whole_s: float) -> str:
    moments = random.Random(seed)
    for number in range(kills):
        process = start(folder, cache)
        try:
            process.communicate(timeout=moments.uniform(2, max(10.0, 2 * whole_s / kills)))
        except subprocess.TimeoutExpired:
            (os.killpg if number % 2 else os.kill)(process.pid, signal.SIGKILL)
            process.communicate()
    return start(folder, cache).communicate()[0]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--kills", type=int, default=20)
    options.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    options.add_argument("--figure", type=Path)
    asked = options.parse_args()
    base = Path(tempfile.mkdtemp())
    began = time.perf_counter()
    text = start(base / "whole", base / "cache").communicate()[0]
    wall = time.perf_counter() - began
    print(
        "\n".join(
            line for line in text.splitlines() if "epoch" not in line and "reading" not in line
        )
    )
    print(f"wall time, everything included: {wall:.1f} s")
    if asked.figure:
        asked.figure.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(
            next((base / "whole").glob("tlx-runs/studies/*/few_shot_curve.png")), asked.figure
        )
    if asked.kills:
        print(f"now with {asked.kills} kills, seed {asked.seed}", flush=True)
        disturbed(base / "killed", base / "cache", asked.kills, asked.seed, wall)
        a, b = scores(base / "whole"), scores(base / "killed")
        untimed = [
            {
                key: ({n: v for n, v in s.items() if not n.endswith("_s")}, c)
                for key, (s, c) in side.items()
            }
            for side in (a, b)
        ]
        print(f"{len(b)} trials, equal to the bit: {untimed[0] == untimed[1]}")
        if untimed[0] != untimed[1]:
            sys.exit(1)
    shutil.rmtree(base)


if __name__ == "__main__":
    main()
