"""The Python API: a whole study is one call, and says the same as the command line."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pandas
import pytest

import tlx as package
from tlx.errors import ErrorGroup, UnknownNameError
from tlx.studies import STUDIES

QUICK = {"workers": 0, "tracking": False, "progress": False}
FEW = {"shots": (1, 2), "splits": 2, "val_per_class": 2, "epochs": 1, "use_crops": False}


@pytest.fixture
def here(tmp_path, monkeypatch, cache):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TLX_CACHE", str(cache))
    return tmp_path


def test_a_study_is_one_call(here, bars):
    report = package.run("fine-tuning", dataset=bars, **FEW, **QUICK)
    assert len(report.results) == 4
    frame = report.frame()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame["key"]) == [result.key for result in report.results]
    assert list(frame["test_accuracy"]) == [r.scores["test_accuracy"] for r in report.results]
    assert {"shots", "split", "learning_rate", "cost_wall_s"} <= set(frame.columns)
    assert report.figures["few_shot_curve"].is_file()
    assert report.folder == here / "tlx-runs"
    assert report.url == ""
    means = report.summary().set_index("step")
    by_shots = frame.groupby("shots")["test_accuracy"].mean()
    assert list(means.loc[[1, 2], "mean_test_accuracy"]) == pytest.approx(list(by_shots))
    again = package.run("fine_tuning", dataset=bars, **FEW, **QUICK)
    assert again.reused == 4
    assert again.key == report.key


@pytest.mark.slow
def test_the_function_of_a_study_is_the_same_call(here, bars):
    first = package.fine_tuning(dataset=str(bars), **FEW, **QUICK)
    second = package.run("fine-tuning", dataset=bars, **FEW, **QUICK)
    assert second.reused == len(first.results) == 4


@pytest.mark.slow
def test_a_plan_runs_nothing(here, bars):
    plan = package.plan("fine-tuning", dataset=bars, workers=0, tracking=False, **FEW)
    assert (plan.trials, plan.finished) == (4, 0)
    assert plan.seconds > 0
    assert plan.size_bytes > 0
    assert "4 trials" in str(plan)
    assert not (here / "tlx-runs" / "trials").exists()
    package.run("fine-tuning", dataset=bars, **FEW, **QUICK)
    done = package.plan("fine-tuning", dataset=bars, workers=0, tracking=False, **FEW)
    assert (done.trials, done.finished, done.seconds) == (0, 4, 0)


@pytest.mark.parametrize(
    ("name", "settings", "trials"),
    [
        (
            "feature-extraction",
            {"classifier": "knn:k=1,lda", "shots": (1, 2), "splits": 2, "val_per_class": 2},
            8,
        ),
        ("pretrain", {"epochs": 1, "val_per_class": 2}, 1),
        ("quanta", {"epochs": 1, "val_per_class": 2, "repeats": 1, "positions": "0"}, 2),
        ("layer-transfer", {"epochs": 1, "val_per_class": 2, "repeats": 1, "source": "default"}, 1),
        ("chop", {"epochs": 1, "val_per_class": 2, "repeats": 1, "depths": 1}, 2),
        ("prune", {"epochs": 1, "val_per_class": 2, "repeats": 1}, 1),
        ("parameter-distance", {"epochs": 1, "val_per_class": 2, "seeds": 2}, 2),
        ("tune", {"trials": 7}, 7),
        ("analyze", {}, None),
        ("atlas", {}, None),
    ],
)
def test_every_study_can_be_planned(here, bars, name, settings, trials):
    plan = package.plan(name, dataset=bars, workers=0, tracking=False, **settings)
    assert plan.trials == trials
    assert plan.study == name
    assert str(plan)


def test_the_settings_of_a_study_are_in_the_signature_and_in_a_table(here):
    assert {name.replace("_", "-") for name in package.STUDIES} == set(STUDIES)
    for name in package.STUDIES:
        signature = inspect.signature(getattr(package, name))
        table = package.settings(name)
        assert list(signature.parameters)[1:] == list(table["setting"])
        assert table["meaning"].str.len().min() > 0
        assert getattr(package, name).__doc__.count(":") >= len(table)


def test_everything_wrong_is_said_at_once_before_anything_runs(here):
    with pytest.raises(ErrorGroup) as refused:
        package.run("fine-tuning", epoch=3, optimizer="sgdd", learning_rate=-1, **QUICK)
    text = str(refused.value)
    assert "nearest: epochs" in text
    assert "nearest: sgd" in text
    assert "learning-rate" in text
    with pytest.raises(UnknownNameError, match="nearest: fine-tuning"):
        package.run("fine-tunning")
    assert not (here / "tlx-runs").exists()


@pytest.mark.crash
def test_a_store_is_a_table_of_studies(here, bars):
    report = package.run("fine-tuning", dataset=bars, **FEW, **QUICK)
    store = package.Store(report.folder)
    assert store.studies() == [report.key]
    (row,) = store.frame().to_dict("records")
    assert (row["key"], row["trials"], row["finished"]) == (report.key, 4, 4)
    assert row["dataset"] == bars.name


def test_importing_tlx_loads_no_library():
    code = (
        "import sys, tlx; dir(tlx); "
        "heavy = {'torch', 'mlflow', 'numpy', 'pandas', 'optuna', 'typer'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_backbone_is_loaded_by_name():
    net = package.load_backbone("mnist-cnn", weights=None, classes=3, seed=1)
    assert net.input_size == 28
    assert package.load_backbone("mnist-cnn").weights
