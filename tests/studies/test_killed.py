"""Kill -9 after any line of progress, the same command again: the same results to the bit, and each
run in MLflow once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import processes
import pytest

from tlx.lab.store import Store, reproducible_fields

COMMAND = [
    "fine-tuning",
    "--shots",
    "1,2",
    "--splits",
    "2",
    "--val-per-class",
    "3",
    "--epochs",
    "6",
    "--workers",
    "2",
    "--no-early-stopping",
]
KILLS = 3
LINES = 24  # an epoch each, of the whole study


def start(folder: Path, bars: Path, cache: Path, *more: str) -> subprocess.Popen:
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "TLX_CACHE": str(cache)}
    return processes.Popen(
        [sys.executable, "-m", "tlx", *COMMAND, "--dataset", str(bars), *more],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def results(folder: Path):
    store = Store(folder / "tlx-runs")
    found = map(store.find, store.keys())
    return {(r.spec["shots"], r.spec["split"]): r for r in found}


def comparable(result):
    """What must agree to the bit: all but times, and where it ran."""
    return {
        name: value
        for name, value in reproducible_fields(result)["scores"].items()
        if not name.endswith("_s")
    } | {"confusion": result.details["confusion"], "key": result.key}


@pytest.fixture(scope="module")
def undisturbed(bars, cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    process = start(folder, bars, cache, "--no-tracking")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    return results(folder)


@pytest.mark.crash
def test_a_killed_study_comes_to_the_same_results(bars, cache, tmp_path, undisturbed, rng):
    folder = tmp_path / "killed"
    for _ in range(KILLS):
        process = start(folder, bars, cache, "--verbose")
        last, epochs = rng.randrange(LINES // 2), 0
        for line in process.stdout:
            epochs += "epoch " in line
            if epochs > last:
                break
        os.kill(process.pid, signal.SIGKILL)  # the driver alone: its workers end by themselves
        process.communicate(timeout=60)
    process = start(folder, bars, cache)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    found = results(folder)
    assert found.keys() == undisturbed.keys()
    for place, result in found.items():
        assert comparable(result) == comparable(undisturbed[place]), place
    _each_run_stands_once(folder, {r.key for r in found.values()})
    assert not list((folder / "tlx-runs" / "trials").glob("*.part"))


def _each_run_stands_once(folder: Path, keys: set[str]) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("Fine-tuning")
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    assert {run.info.status for run in runs} == {"FINISHED"}
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert sorted(run.data.tags["tlx.key"] for run in children) == sorted(keys)
    (parent,) = [run for run in runs if run not in children]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    for run in children:
        history = client.get_metric_history(run.info.run_id, "val_loss")
        assert [m.step for m in history] == list(range(6)), "every epoch once, in order"


@pytest.mark.crash
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_on_request_is_one_sentence_and_is_continued(
    bars, cache, tmp_path, undisturbed, number
):
    folder = tmp_path / "stopped"
    process = start(folder, bars, cache, "--no-tracking", "--verbose")
    for line in process.stdout:
        if "epoch 1/" in line:
            break
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number, out + err
    assert len(err.strip().splitlines()) == 1
    assert "same command continues" in err
    again = start(folder, bars, cache, "--no-tracking")
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, out + err
    assert {p: comparable(r) for p, r in results(folder).items()} == {
        p: comparable(r) for p, r in undisturbed.items()
    }
