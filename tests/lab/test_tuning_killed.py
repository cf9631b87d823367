"""Kill -9 of workers and of the driver at random moments: as many trials as asked, each once, the
same ones.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import processes
import psutil
import pytest
from lab import tiny_search

from tlx.lab.tuning import api as tuning_api
from tlx.lab.tuning.storage import JournalFile

TRIALS, KILLS = 60, 12


def start(root: Path, workers: int, *more: object) -> subprocess.Popen:
    words = [root, workers, TRIALS, 0.01, *more]
    return processes.Popen(
        [sys.executable, "-m", "lab.tiny_search", *map(str, words)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def workers_of(driver: int) -> list[psutil.Process]:
    """The processes that the server of workers forked."""
    found = []
    for process in psutil.Process(driver).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [process] * (process.ppid() != driver)
    return found


def kill_until_done(start_one, kills: int, workers: int, moments: random.Random) -> str:
    """Kill a worker or the driver again and again, then let it end: what it said last."""
    process = start_one()
    for _ in range(kills):
        try:
            process.communicate(timeout=moments.uniform(0.1, 1.2))
        except subprocess.TimeoutExpired:
            busy = workers_of(process.pid)
            if busy and moments.random() < 0.6:
                with contextlib.suppress(psutil.NoSuchProcess):
                    moments.choice(busy).kill()
                continue
            os.kill(process.pid, signal.SIGKILL)
            process.communicate(timeout=30)
        if process.poll() is not None:
            process = start_one()
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    return out


def in_optuna(asked, root) -> list[optuna.trial.FrozenTrial]:
    path = asked.place(root).path
    return optuna.load_study(
        study_name=asked.name, storage=optuna.storages.JournalStorage(JournalFile(path))
    ).trials


@pytest.mark.crash
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_random_moments_every_trial_ends_once(tmp_path, workers, rng):
    kill_until_done(lambda: start(tmp_path / "killed", workers), KILLS, workers, rng)
    asked = tiny_search.search(trials=TRIALS)
    found = tuning_api.completed_trials(asked, tmp_path / "killed")
    assert [t.number for t in found] == list(range(TRIALS))
    trials = in_optuna(asked, tmp_path / "killed")
    assert [t.number for t in trials] == list(range(TRIALS))
    assert all(t.state.is_finished() for t in trials)
    assert [t.params for t in trials] == [t.values for t in found]
    if workers == 1:
        whole = tiny_search.run(asked, tmp_path / "whole")
        for name in ("values", "state", "objectives", "reports", "configuration"):
            assert [getattr(t, name) for t in found] == [getattr(t, name) for t in whole], name


@pytest.mark.crash
def test_a_worker_that_is_paused_and_one_that_is_killed_leave_no_zombie(tmp_path):
    process = start(tmp_path, 2)
    for line in process.stdout:
        if "Progress" in line:
            break
    paused, killed = workers_of(process.pid)[:2]
    killed.kill()
    paused.suspend()
    time.sleep(0.5)
    paused.resume()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    assert f"{TRIALS} ended" in out
