"""Which figures a study draws: all, those of the study alone, or none, with the same results."""

from __future__ import annotations

import csv
import json

import pytest

import tlx as package
from tlx.lab.settings import FORMS, Figures
from tlx.lab.store import Store
from tlx.spec import make_specs

CHOICES = Figures.settings()["figures"].choices
FEW = {"shots": (1, 2), "splits": 2, "val_per_class": 2, "epochs": 2, "use_crops": False}
MEASURED = ("_s", "_j", "_wh", "bytes", "_mb", "_g")  # ends of names of time, energy, memory


@pytest.fixture(scope="module")
def made(tmp_path_factory, bars, cache):
    """A store of one study for each choice, mirrored to a database of its own."""
    stores = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLX_CACHE", str(cache))
        for choice in CHOICES:
            folder = tmp_path_factory.mktemp(choice)
            patch.chdir(folder)
            report = package.run(
                "fine-tuning",
                dataset=bars,
                workers=0,
                progress=False,
                system_metrics=False,
                figures=choice,
                form="svg",
                **FEW,
            )
            stores[choice] = Store(report.folder)
    return stores


def figures(folder):
    """The figures below a folder by path, with their bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for form in FORMS
        for path in folder.rglob(f"*.{form}")
    }


def study_of(store):
    (key,) = store.studies()
    return store.read_study(key)


def figures_of_trials(store):
    return {
        f"trials/{row['key'][:12]}/{name}": data
        for row in study_of(store)["trials"]
        for name, data in figures(store.folder(row["key"])).items()
    }


def is_measured(name):
    return name.endswith(MEASURED) or name.startswith("cost")


def test_all_draws_those_of_the_study_and_of_each_trial(made):
    names = {name.split("/")[-1] for name in figures_of_trials(made["all"])}
    assert names == {"learning_curves.svg", "confusion_matrix.svg"}
    assert set(figures(made["all"].study_folder(study_of(made["all"])["key"]))) == {
        "few_shot_curve.svg"
    }


def test_study_draws_those_of_the_study_alone(made):
    store = made["study"]
    assert {name.split("/")[-1] for name in figures(store.root)} == {"few_shot_curve.svg"}


def test_none_draws_nothing(made):
    assert figures(made["none"].root) == {}


@pytest.mark.parametrize("choice", ["study", "none"])
def test_keys_and_results_are_the_same_whatever_is_drawn(made, choice):
    keys = [row["key"] for row in study_of(made["all"])["trials"]]
    assert study_of(made[choice])["key"] == study_of(made["all"])["key"]
    assert [row["key"] for row in study_of(made[choice])["trials"]] == keys
    for key in keys:
        drawn, plain = made["all"].find(key), made[choice].find(key)
        assert plain.spec == drawn.spec
        scores = {n: v for n, v in drawn.scores.items() if not is_measured(n)}
        assert {n: v for n, v in plain.scores.items() if not is_measured(n)} == scores
        assert plain.details["confusion"] == drawn.details["confusion"]


def tables(store):
    """The tables of a study and of its trials, without what was measured of the machine."""
    result = {}
    for path in sorted(store.root.rglob("*.csv")):
        rows = list(csv.DictReader(path.read_text().splitlines()))
        result[str(path.relative_to(store.root))] = [
            {name: value for name, value in row.items() if not is_measured(name)} for row in rows
        ]
    return result


@pytest.mark.parametrize("choice", ["study", "none"])
def test_tables_are_the_same_whatever_is_drawn(made, choice):
    drawn = tables(made["all"])
    assert any("confusion_matrix" in name for name in drawn)
    assert any("few_shot.csv" in name for name in drawn)
    assert tables(made[choice]) == drawn


def tracked(store):
    """The metrics of each run in MLflow by its key, without what was measured of the machine."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{store.root.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("Fine-tuning")
    return {
        run.data.tags["tlx.key"]: {
            name: value for name, value in run.data.metrics.items() if not is_measured(name)
        }
        for run in client.search_runs([experiment.experiment_id])
    }


def test_intervals_in_mlflow_are_those_of_the_table_and_say_what_they_are_over(made):
    from mlflow.tracking import MlflowClient

    store = made["none"]
    key = study_of(store)["key"]
    client = MlflowClient(f"sqlite:///{store.root.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("Fine-tuning")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if run.data.tags["tlx.key"] == key]
    rows = csv.DictReader((store.study_folder(key) / "few_shot.csv").read_text().splitlines())
    for row in rows:
        for name in ("ci95_low", "ci95_high", "ci95_draws_low", "ci95_draws_high"):
            history = client.get_metric_history(parent.info.run_id, name)
            (value,) = [point.value for point in history if point.step == int(row["shots"])]
            assert value == pytest.approx(float(row[name]))
        assert row["ci95_over"] in parent.data.tags["tlx.ci95_over"].split(", ")


@pytest.mark.parametrize("choice", ["study", "none"])
def test_metrics_in_mlflow_are_the_same_whatever_is_drawn(made, choice):
    drawn = tracked(made["all"])
    assert len(drawn) == 5
    assert all(drawn.values())
    assert tracked(made[choice]) == drawn


@pytest.mark.parametrize("choice", ["study", "none"])
def test_plot_draws_later_what_all_draws_at_once(made, choice, tlx, tmp_path):
    store, key = made[choice], study_of(made[choice])["key"]
    code, _, complained = tlx("plot", key, "--store", store.root, "--form", "svg", "--out", "drawn")
    assert code == 0, complained
    at_once = figures(made["all"].study_folder(key)) | figures_of_trials(made["all"])
    assert figures(tmp_path / "drawn") == at_once


def test_the_command_says_table_alone_where_nothing_is_drawn(tlx, bars):
    words = ("--epochs", 1, "--val-per-class", 2, "--repeats", 1, "--depths", 1, "--no-tracking")
    command = ("chop", "--dataset", bars, "--workers", 0, *words)
    code, out, complained = tlx(*command, "--figures", "none")
    assert code == 0, complained
    assert "table: " in out
    assert "table and figure: " in tlx(*command)[1]


def test_the_json_of_a_study_without_figures_lists_none(tlx, bars):
    code, out, complained = tlx(
        *("fine-tuning", "--dataset", bars, "--shots", 1, "--splits", 1, "--val-per-class", 2),
        *("--epochs", 1, "--no-use-crops", "--workers", 0, "--no-tracking"),
        *("--figures", "none", "--json"),
    )
    assert code == 0, complained
    assert json.loads(out)["figures"] == {}


def test_figures_are_no_part_of_an_identity():
    assert not any(row.identity for row in Figures.settings().values())
    specs = [make_specs((Figures,), {"figures": choice})[0] for choice in CHOICES]
    assert len({spec.key for spec in specs}) == 1


def test_an_unknown_choice_of_figures_is_refused_by_its_name(tlx, bars):
    code, _, complained = tlx("fine-tuning", "--dataset", bars, "--figures", "some")
    assert code == 2
    assert "all" in complained
    assert "none" in complained
