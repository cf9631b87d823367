"""The name that is given to a study's run, as --run_name of the originals."""

from __future__ import annotations

import mlflow
import pytest


@pytest.fixture
def names(tlx, bars, tmp_path):
    """Run a small study with further words; return the names of the parent runs in MLflow."""

    def run(*words):
        code, _, said = tlx(
            *("fine-tuning", "--dataset", bars, "--epochs", "1", "--no-use-crops"),
            *("--shots", "1", "--splits", "1", "--workers", "0", "--figures", "none", *words),
        )
        assert code == 0, said
        client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
        experiments = [e.experiment_id for e in client.search_experiments()]
        runs = client.search_runs(experiments)
        return [r.info.run_name for r in runs if "mlflow.parentRunId" not in r.data.tags]

    return run


def test_the_run_of_a_study_has_the_name_that_is_given(names):
    assert names("--run_name", "ft_bars") == ["ft_bars"]
    assert names() == ["ft_bars"], "the same study again keeps the name that it has"


def test_without_a_name_it_is_what_the_study_is(names):
    (name,) = names()
    assert "epochs=1" in name
