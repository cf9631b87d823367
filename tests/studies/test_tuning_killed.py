"""`tlx tune` with two workers, killed after any trial: each trial is once in Optuna and MLflow."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import processes
import psutil
import pytest

pytestmark = pytest.mark.crash

TRIALS, KILLS = 24, 3  # tests/benchmarks/tuning.py kills --kills 100 does it at length
COMMAND = [
    "tune",
    "--trials",
    str(TRIALS),
    "--shots",
    "3",
    "--splits",
    "2",
    "--val-per-class",
    "3",
    "--no-use-crops",
    "--workers",
    "2",
]


def start(folder: Path, bars: Path, cache: Path) -> subprocess.Popen:
    return processes.Popen(
        [sys.executable, "-m", "tlx", *COMMAND, "--dataset", str(bars)],
        cwd=folder,
        env={**os.environ, "TLX_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.mark.timeout(600)
def test_every_trial_ends_once_whoever_is_killed(bars, cache, tmp_path, rng):
    process = start(tmp_path, bars, cache)
    for kill in range(KILLS):
        seen, wait = 0, rng.randrange(1, 6)
        for line in process.stdout:  # so many trials further
            seen += line.startswith("trial ")
            if seen >= wait:
                break
        workers = []
        with contextlib.suppress(psutil.NoSuchProcess):
            workers = [
                p
                for p in psutil.Process(process.pid).children(recursive=True)
                if p.ppid() != process.pid
            ]
        if kill % 2 and workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                rng.choice(workers).kill()
        else:
            with contextlib.suppress(ProcessLookupError):  # it may have come to its end
                os.kill(process.pid, signal.SIGKILL)
            process.communicate(timeout=60)
            process = start(tmp_path, bars, cache)
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0, out
    _look(tmp_path)


def _look(folder: Path) -> None:
    import optuna
    from mlflow import MlflowClient

    (path,) = (folder / "tlx-runs" / "studies").glob("*/optuna.journal")
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    trials = optuna.load_study(study_name=None, storage=storage).trials
    assert [t.number for t in trials] == list(range(TRIALS))
    assert all(t.state.name in ("COMPLETE", "PRUNED") for t in trials)
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    runs = client.search_runs(
        [client.get_experiment_by_name("Tuning").experiment_id], max_results=1000
    )
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run is not parent]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    shown = sorted(
        int(r.data.tags["optuna.trial_number"]) for r in children if "tlx.final" not in r.data.tags
    )
    assert shown == list(range(TRIALS))
    assert len(children) == TRIALS + 1, "and the final test"
    assert {run.info.status for run in runs} <= {"FINISHED", "KILLED"}
