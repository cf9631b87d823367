"""The literal command: `mlflow run . -e fine_tuning`, with no flag and no pyenv, and what the store
then holds.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent


def mlflow_run(
    cwd: Path, cache: Path, *parameters: str, entry: str = "fine_tuning"
) -> subprocess.CompletedProcess:
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYENV", "CONDA", "UV"))
    }
    environment |= {"PATH": f"{BIN}:/usr/local/bin:/usr/bin:/bin", "TLX_CACHE": str(cache)}
    words = [word for parameter in parameters for word in ("-P", parameter)]
    return subprocess.run(
        ["mlflow", "run", str(ROOT), "-e", entry, *words],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.fixture(scope="module")
def done(bars, cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    found = mlflow_run(
        folder,
        cache,
        "splits=2",
        "shots=1,2",
        f"dataset={bars}",
        "epochs=3",
        "use-crops=False",
        "batch-size=16",
        "val_per_class=3",
        "workers=1",
    )
    return folder, found


def test_it_ends_well_with_the_table_and_the_address(done):
    _, found = done
    assert found.returncode == 0, found.stdout + found.stderr
    assert "mean per-class test accuracy" in found.stdout
    assert "mlflow ui" in found.stdout
    assert "succeeded" in found.stderr


def test_the_store_shows_a_parent_its_children_and_their_curves(done):
    from mlflow import MlflowClient

    folder, _ = done
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("Fine-tuning")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run is not parent]
    assert len(children) == 4
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    for run in children:
        metrics = run.data.metrics
        for name in (
            "train_loss",
            "train_accuracy",
            "val_loss",
            "val_accuracy",
            "train_epoch_s",
            "val_epoch_s",
        ):
            assert [m.step for m in client.get_metric_history(run.info.run_id, name)] == [
                0,
                1,
                2,
            ], name
        assert 0 <= metrics["test_accuracy"] <= 1
        assert any(name.startswith("system/cpu") for name in metrics)
        assert any(name.startswith("system/") and "memory" in name for name in metrics)
        assert run.data.params["Samples per class"] in ("1", "2")
        assert run.data.params["Batch size"] == "16"
        assert run.data.params["Using crops"] == "false"
        assert run.data.params["cfg.learning_rate"] == "0.01"
        assert len(run.data.tags["mlflow.source.git.commit"]) == 40
        assert run.data.tags["env.versions.torch"]
        assert [i.dataset.name for i in run.inputs.dataset_inputs] == ["bars"]
        assert {"confusion_matrix.png", "learning_curves.png"} <= {
            a.path for a in client.list_artifacts(run.info.run_id)
        }
    curve = {
        m.step: m.value for m in client.get_metric_history(parent.info.run_id, "mean_test_accuracy")
    }
    for shots, mean in curve.items():
        mine = [
            r.data.metrics["test_accuracy"]
            for r in children
            if r.data.params["Samples per class"] == str(shots)
        ]
        assert mean == pytest.approx(sum(mine) / 2)
    assert set(curve) == {1, 2}
    assert "few_shot_curve.png" in {a.path for a in client.list_artifacts(parent.info.run_id)}
    (launcher,) = client.search_runs(["0"])
    assert launcher.data.tags["tlx.study"] == parent.info.run_id


def test_a_search_runs_so_too_and_adds_no_trial_when_it_is_asked_again(bars, cache, tmp_path):
    from mlflow import MlflowClient

    asked = (
        "trials=3",
        f"dataset={bars}",
        "splits=2",
        "shots=2",
        "use_crops=False",
        "val_per_class=3",
        "workers=0",
    )
    for before in (0, 3):
        found = mlflow_run(tmp_path, cache, *asked, entry="tune")
        assert found.returncode == 0, found.stdout + found.stderr
        assert f"{before} of them from before" in found.stdout
        client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
        runs = client.search_runs([client.get_experiment_by_name("Tuning").experiment_id])
        assert sorted(
            run.data.tags.get("optuna.trial_number", "-")
            for run in runs
            if "tlx.final" not in run.data.tags
        ) == ["-", "0", "1", "2"]
        (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
        values = [
            float(run.data.metrics["mean_val_accuracy"])
            for run in runs
            if run.data.tags.get("optuna.state") == "COMPLETE"
        ]
        assert parent.data.metrics["best_val_accuracy"] == pytest.approx(max(values))


def test_hostile_values_are_values_and_run_nothing(bars, cache, tmp_path):
    canary = tmp_path / "canary"
    found = mlflow_run(tmp_path, cache, f"dataset=./x; touch {canary}", f"model=$(touch {canary})")
    assert found.returncode == 1
    assert not canary.exists()
    assert "Traceback" not in found.stdout
