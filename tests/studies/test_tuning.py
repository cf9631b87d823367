"""Searches of features and of recipes: val decides, test is looked at once, the same again is free,
MLflow shows it.
"""

from __future__ import annotations

import functools
import json

import naive
import numpy as np
import pytest

from tlx import files
from tlx.errors import BadDataError, ResourceError, TrialsFailedError, UnknownNameError, UsageError
from tlx.features import classifiers, fitting, voting
from tlx.features.embedding import EMBEDDINGS
from tlx.lab import cost
from tlx.lab.settings import Settings
from tlx.lab.store import Store
from tlx.lab.tuning import api as tuning_api
from tlx.spec import parse_spec
from tlx.studies.few_shot import FewShotGrid
from tlx.studies.tuning import plan as tuning_plan
from tlx.studies.tuning import report as tuning_report
from tlx.studies.tuning import run as tuning_run
from tlx.studies.tuning.features import FeatureSearch, SearchContext
from tlx.studies.tuning.spec import Search, SearchBase

FEW = FewShotGrid(shots=(1, 3), splits=3, val_per_class=3)


@pytest.fixture
def settings(tmp_path, cache):
    return Settings(store=str(tmp_path / "runs"), cache=str(cache), tracking=False, workers=0)


@pytest.fixture
def space(tmp_path):
    def write(**changes):
        path = tmp_path / "space.json"
        path.write_text(json.dumps(changes))
        return str(path)

    return write


def planned(bars, settings, base=None, **asked):
    search = Search(**{"trials": 8, **asked})
    given = SearchBase(dataset=str(bars), **{"use_crops": False, **(base or {})})
    return tuning_plan.plan_search(search, given.of(search.study), FEW, settings)


def perform(ready, settings, form=None):
    """Run a search; figures are drawn in this form, if any."""
    write = functools.partial(tuning_report.write_summary, form=form)
    return tuning_run.run_search(
        ready, settings, lambda event: None, write, tuning_report.test, form=form
    )


@pytest.mark.slow
def test_a_search_of_classifiers(bars, settings):
    report = perform(planned(bars, settings, trials=12), settings, "png")
    report.raise_if_failed(require_tracking=False)
    assert [t.number for t in report.tried] == list(range(12))
    assert report.tried[0].title == "linear-svc", "the first is what stands there without a search"
    assert report.best.objectives[0] == max(
        t.objectives[0] for t in report.tried if t.state == "complete"
    )
    assert [r.spec["split"] for r in report.final] == [0, 1, 2]
    assert {r.spec["shots"] for r in report.final} == {3}, "the largest shots"
    assert all("test_accuracy" in r.scores for r in report.final)
    text = tuning_report.format_summary(report)
    assert "on test, trial" in text
    assert report.defaults is report.tried[0]
    assert report.best.objectives[0] >= report.defaults.objectives[0], (
        "the defaults are among those it is chosen from"
    )
    assert [r.spec["split"] for r in report.reference] == [0, 1, 2]
    assert "trial 0 (the defaults)" in text or "trial 0, the defaults, is the winner" in text
    assert "12 trials" in text
    folder = report.folder / "studies" / report.ready.search.key
    for name in (
        "history.png",
        "slices.png",
        "parallel_coordinates.png",
        "trials.csv",
        "search.json",
    ):
        assert (folder / name).stat().st_size > 200, name
    assert files.read_json(folder / "best_configuration.json")["values"] == report.best.values
    again = perform(planned(bars, settings, trials=12), settings)
    assert (again.before, len(again.tried)) == (12, 12)
    assert [t.values for t in again.tried] == [t.values for t in report.tried]
    more = perform(planned(bars, settings, trials=14), settings)
    assert (more.before, len(more.tried)) == (12, 14)


def test_val_alone_decides_and_is_what_numpy_says(bars, settings):
    """No image of the test set is among the inputs; accuracy is that of the plain way, all features
    and no products.
    """
    ready = planned(bars, settings, search="classifier,embedding")
    side = ready.inputs.sides[False]
    evaluator = FeatureSearch(ready.inputs, SearchContext("", "cpu", settings))
    cases = [
        {"classifier": "ridge", "ridge.alpha": 0.5, "embedding": "standard"},
        {
            "classifier": "linear-svc",
            "linear-svc.C": 0.01,
            "linear-svc.loss": "hinge",
            "embedding": "fne",
        },
        {"classifier": "knn", "knn.k": 3, "knn.weights": "distance", "embedding": "l2"},
        {
            "classifier": "svc",
            "svc.C": 2.0,
            "svc.kernel": "rbf",
            "svc.gamma.by": "default",
            "embedding": "none",
        },
        {
            "classifier": "lda",
            "lda.shrinkage.by": "value",
            "lda.shrinkage": 0.3,
            "embedding": "fne",
        },
    ]
    for values in cases:
        found = evaluator.evaluate(values, lambda step, value: None)
        spec = ready.inputs.spec(values)
        layers = [side.dump.array(layer) for layer in spec.layers]
        for draw, accuracy in zip(side.draws, found.by_split, strict=True):
            embedding = parse_spec(EMBEDDINGS, spec.embedding).fit(layers, draw.train.rows)
            fitted = fitting.fit(
                classifiers.classifier(spec.classifier),
                embedding.transform(layers, draw.train.rows),
                draw.train.row_labels,
            )
            scores = fitted.scores(embedding.transform(layers, side.val.rows), classes=3)
            assert accuracy == pytest.approx(
                voting.accuracy(scores, side.val.labels, side.val.crops)
            ), values
        assert len(found.by_split) == 3


def test_test_images_change_no_proposal_and_no_val_score(bars, settings, tmp_path):
    few = FEW.replace(test_per_class=2)
    asked = Search(trials=6)
    spec = SearchBase(dataset=str(bars), use_crops=False).of(asked.study)
    one, two = (tuning_plan.plan_search(asked, spec, f, settings) for f in (FEW, few))
    for ready in (one, two):
        assert all(
            side.draws[0].train.pixels is side.val.pixels for side in ready.inputs.sides.values()
        )
        assert not hasattr(next(iter(ready.inputs.sides.values())), "test")


def test_layers_embeddings_and_crops_are_searched(bars, settings, space):
    where = space(
        layers=["last", "blocks", "1,2"], embedding=["fne", "l2"], classifier=["ridge", "ncm"]
    )
    ready = planned(
        bars,
        settings,
        sampler="grid",
        search="layers,embedding,use_crops,classifier",
        space=where,
        trials=1000,
    )
    assert ready.search.wanted == 3 * 2 * 2 * (5 + 2)
    values = ready.search.space.grid()[0]
    assert set(ready.inputs.sides) == {True, False}
    assert ready.inputs.sides[True].val.crops == 10
    evaluator = FeatureSearch(ready.inputs, SearchContext("", "cpu", settings))
    keys = {evaluator.key(v) for v in ready.search.space.grid()}
    assert len(keys) == ready.search.wanted
    assert 0 <= evaluator.evaluate(values, lambda step, value: None).by_split[0] <= 1


@pytest.mark.slow
def test_a_configuration_is_known_under_another_search_too(bars, settings, space):
    first = perform(
        planned(bars, settings, search="ridge.alpha", sampler="grid", trials=5, pruner="none"),
        settings,
    )
    assert {t.values["classifier"] for t in first.tried} == {"ridge"}
    again = perform(
        planned(
            bars,
            settings,
            sampler="grid",
            trials=6,
            pruner="none",
            space=space(classifier=["ridge", "ncm"]),
        ),
        settings,
    )
    assert sum(t.same_as is not None for t in again.tried) == 5


@pytest.mark.parametrize(
    ("asked", "kind", "words"),
    [
        ({"search": "clasifier"}, UnknownNameError, "nearest: classifier"),
        ({"search": "learning_rate"}, UnknownNameError, "classifier"),
        ({"study": "fine-tuning", "search": "classifier"}, UnknownNameError, "learning_rate"),
        ({"study": "fine_tunning"}, UnknownNameError, "nearest: fine-tuning"),
        ({"objective": "time"}, UsageError, "accuracy,time"),
        ({"budget": "ten minutes"}, UsageError, "10min"),
        ({"space": "nowhere.json"}, BadDataError, "no such file"),
        ({"storage": "search.db"}, UsageError, "sqlite:///"),
        ({"trials": 0}, UsageError, "at least 1"),
        ({"classifier": "svn"}, UnknownNameError, "nearest: svc"),
    ],
    ids=str,
)
def test_what_is_asked_wrongly_is_said_before_anything_is_run(bars, settings, asked, kind, words):
    with pytest.raises(kind, match=words):
        planned(bars, settings, **asked)


def test_a_setting_of_the_other_kind_is_refused(bars, settings):
    with pytest.raises(UsageError, match=r"--epochs is no setting of feature-extraction"):
        planned(bars, settings, base={"epochs": 3})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"linear-svc.C": {"low": 1e-9}}, "from 1e-06 to 1e"),
        ({"linear-svc.c": {"low": 1}}, "nearest: linear-svc.C"),
        ({"knn.k": {"high": 10**6}}, "from 1 to"),
        ({"classifier": ["ridgo"]}, "nearest: ridge"),
        ({"layers": [3]}, "words"),
        ({"layers": ["block99"]}, "block99"),
    ],
    ids=str,
)
def test_a_bad_space_file(bars, settings, space, change, words):
    with pytest.raises((UsageError, BadDataError), match=words):
        planned(bars, settings, space=space(**change))


def test_neighbours_are_no_more_than_the_training_rows(bars, settings):
    ready = planned(bars, settings)
    k = next(one for one in ready.search.space.parameters if one.name == "knn.k")
    assert k.high == 9, "three classes of three images"


@pytest.mark.slow
def test_two_objectives_give_a_front(bars, settings):
    report = perform(planned(bars, settings, objective="accuracy,time", trials=10), settings, "png")
    folder = report.folder / "studies" / report.ready.search.key
    assert (folder / "pareto.png").stat().st_size > 1000
    scores = {t.number: t.objectives for t in report.tried}
    for number in report.front:
        accuracy, seconds = scores[number]
        assert not any(
            a >= accuracy and s <= seconds and (a, s) != (accuracy, seconds)
            for a, s in scores.values()
        )
    assert report.best.number in report.front
    assert "Pareto front" in tuning_report.format_summary(report)


@pytest.mark.slow
def test_energy_is_minimised_where_it_has_a_source(bars, settings):
    told = settings.replace(watts=10.0)
    report = perform(planned(bars, told, objective="accuracy,energy", trials=3), told)
    assert all(t.energy_j > 0 for t in report.tried)


@pytest.mark.parametrize("asked", [{"objective": "accuracy,energy"}, {"max_kwh": 1.0}])
@pytest.mark.parametrize("study", ["feature-extraction", "fine-tuning"])
def test_energy_without_a_source_is_refused_before_anything_is_read(
    settings, monkeypatch, tmp_path, study, asked
):
    monkeypatch.setattr(cost, "is_energy_known", lambda watts, on_gpu: watts is not None)
    option = "--max-kwh" if "max_kwh" in asked else "--objective accuracy,energy"
    with pytest.raises(ResourceError, match=option) as refused:
        planned(tmp_path / "nowhere", settings, study=study, **asked)
    assert "--watts" in str(refused.value)
    with pytest.raises(
        BadDataError, match="nowhere"
    ):  # with watts the look goes on, to the next fault
        planned(tmp_path / "nowhere", settings.replace(watts=10.0), study=study, **asked)


def test_a_budget_ends_it(bars, settings):
    report = perform(planned(bars, settings, budget="0.000001s", trials=20), settings, "png")
    assert len(report.tried) == 1
    assert "the budget ended it after 1 of 20" in tuning_report.format_summary(report)
    report.raise_if_failed(require_tracking=False)


def test_all_failed(bars, settings, monkeypatch):
    monkeypatch.setattr(
        FeatureSearch,
        "evaluate",
        lambda self, values, report: (_ for _ in ()).throw(BadDataError("unfit", "no good")),
    )
    report = perform(planned(bars, settings, trials=3), settings, "png")
    assert report.best is None
    assert report.final == ()
    with pytest.raises(TrialsFailedError, match="3 of 3"):
        report.raise_if_failed(require_tracking=False)
    assert "3 failed" in tuning_report.format_summary(report)


def tables_of(folder, results):
    """Rows of right or wrong, and the classes, from the files alone."""
    folders = [Store(folder).folder(result.key) for result in results]
    truth = np.load(folders[0] / "test_labels.npy")
    right = [(np.load(one / "predictions.npy") == truth).astype(float) for one in folders]
    return [row.tolist() for row in right], truth.tolist()


def test_the_defaults_are_tested_and_recorded_beside_a_winner(bars, settings, space):
    """The defaults are made the worst there can be, so that another trial wins."""
    ready = planned(
        bars,
        settings,
        base={"embedding": "none", "layers": ("1",)},
        trials=2,
        search="layers",
        space=space(layers=["1", "last"]),
    )
    report = perform(ready, settings)
    gains = [
        a.scores["test_accuracy"] - b.scores["test_accuracy"]
        for a, b in zip(report.final, report.reference, strict=True)
    ]
    summary = files.read_json(report.folder / "studies" / ready.search.key / "summary.json")
    said = {row["name"]: row["value"] for row in summary["metrics"]}
    assert said["defaults_val_accuracy"] == report.tried[0].objectives[0]
    assert said["defaults_test_accuracy"] == pytest.approx(
        np.mean([r.scores["test_accuracy"] for r in report.reference])
    )
    assert said["tuned_minus_defaults_test_accuracy"] == pytest.approx(np.mean(gains))
    for results, name in ((report.final, ""), (report.reference, "defaults_test_accuracy_")):
        tables, classes = tables_of(report.folder, results)
        shots, pool = results[0].spec["shots"], results[0].details["pool"]
        expected = naive.crossed_intervals({shots: tables}, classes, pool)[shots]
        ends = said[f"{name}ci95_low"], said[f"{name}ci95_high"]
        assert ends == pytest.approx(expected, rel=1e-3)
    study = Store(report.folder).read_study(ready.search.key)
    finals = [row["title"] for row in study["trials"] if row["tags"].get("tlx.final")]
    assert any("(the defaults)" in title for title in finals)
    assert len(finals) == len({report.best.number, 0})
    kept = files.read_json(report.folder / "studies" / ready.search.key / "best_configuration.json")
    assert kept["defaults"]["values"] == report.tried[0].values


def test_model_selection_leaves_the_test_set_alone(bars, settings):
    ready = planned(bars, settings, base={"model_selection": True}, trials=3)
    report = perform(ready, settings, "png")
    assert report.best is not None
    assert report.final == ()
    store = Store(report.folder)
    assert not any("test_accuracy" in store.find(key).scores for key in sorted(store.keys()))


# ---------------------------------------------------------------- recipes

RECIPE = {"epochs": 4, "batch_size": 8}


def test_a_search_of_recipes(bars, settings, space):
    where = space(learning_rate=[1e-4, 0.01, 0.03], freeze=[0, 3])
    ready = planned(
        bars,
        settings,
        base=RECIPE,
        study="fine_tuning",
        search="learning_rate,freeze",
        space=where,
        sampler="grid",
        trials=6,
    )
    report = perform(ready, settings, "png")
    report.raise_if_failed(require_tracking=False)
    assert len(report.tried) == 6
    assert {t.values["freeze"] for t in report.tried} == {0, 3}
    pruned = [t for t in report.tried if t.state == "pruned"]
    assert pruned, "some are given up early"
    store = Store(report.folder)
    runs = [store.find(key) for key in sorted(store.keys())]
    tuned = [r for r in runs if r.kind == "fine-tuning" and r.spec["model_selection"]]
    assert len(tuned) == sum(len(t.by_split) for t in report.tried if t.state == "complete") + sum(
        len(t.by_split) - 1 for t in pruned
    ), "one given up on the way leaves no folder"
    assert not any("test_accuracy" in r.scores for r in tuned)
    assert not list((report.folder / "trials").glob("*.part"))
    best = report.best
    mine = [
        r
        for r in tuned
        if r.spec["learning_rate"] == best.values["learning_rate"]
        and r.spec["freeze"] == best.values["freeze"]
    ]
    assert best.objectives[0] == pytest.approx(
        np.mean([r.scores["best_val_accuracy"] for r in mine])
    )
    assert len(report.final) == 3
    tuning_place = tuning_api.SearchProblem.place(ready.search, report.folder).path
    tuning_place.unlink()
    again = perform(ready, settings)
    assert [(t.values, t.state, t.objectives) for t in again.tried] == [
        (t.values, t.state, t.objectives) for t in report.tried
    ]


def test_the_usual_recipe_and_how_far_it_goes(bars, settings):
    ready = planned(bars, settings, base=RECIPE, study="fine-tuning")
    found = {one.name: one for one in ready.search.space.parameters}
    assert set(found) == set(tuning_plan.RECIPE)
    assert (found["learning_rate"].low, found["learning_rate"].high) == (1e-4, 1.0)
    assert found["freeze"].high == ready.inputs.base.freeze + 3
    assert found["momentum"].when == ("optimizer", ("sgd",))
    assert found["head"].choices == ("linear", "mlp256")
    assert ready.search.rungs == (1, 4)
    assert ready.search.space.default() is not None


# ---------------------------------------------------------------- the command, and MLflow


@pytest.mark.slow
def test_the_command_and_what_mlflow_shows(tlx, bars, tmp_path):
    words = (
        "tune",
        "--dataset",
        bars,
        "--shots",
        3,
        "--splits",
        2,
        "--val-per-class",
        3,
        "--no-use-crops",
        "--trials",
        6,
        "--workers",
        1,
    )
    code, out, err = tlx(*words)
    assert code == 0, out + err
    assert "trial 5 (6/6)" in out
    assert "left" in out
    assert "on test, trial" in out
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("Tuning").experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = {run.info.run_name: run for run in runs if run is not parent}
    numbers = sorted(
        int(r.data.tags["optuna.trial_number"])
        for n, r in children.items()
        if n.startswith("trial")
    )
    assert numbers == list(range(6))
    assert any("(the defaults)" in name for name in children)
    best = parent.data.tags["tlx.best_trial"]
    (final,) = [
        run for name, run in children.items() if name.startswith(f"final test of trial {best}")
    ]
    assert "defaults_test_accuracy" in parent.data.metrics
    assert {"mean_test_accuracy", "ci95_low", "ci95_high"} <= set(final.data.metrics)
    assert [m.step for m in client.get_metric_history(final.info.run_id, "test_accuracy")] == [0, 1]
    for name, run in children.items():
        if name.startswith("trial"):
            state = run.data.tags["optuna.state"]
            assert run.info.status == {"COMPLETE": "FINISHED", "PRUNED": "KILLED"}[state]
            assert "classifier" in run.data.params
            assert "test_accuracy" not in run.data.metrics
    assert parent.data.metrics["trials"] == 6
    assert parent.data.metrics["best_val_accuracy"] <= 1
    assert parent.data.tags["best.classifier"]
    shown = {a.path for a in client.list_artifacts(parent.info.run_id)}
    assert {
        "history.png",
        "parallel_coordinates.png",
        "slices.png",
        "search.json",
        "trials.csv",
        "best_configuration.json",
    } <= shown
    code, out, _ = tlx(*words)
    assert code == 0
    assert "6 of them from before" in out
    assert len(client.search_runs([parent.info.experiment_id])) == len(runs), "nothing was added"
    assert tlx(*words, "--search", "x")[0] == 2
    assert tlx(*words, "--space", "x")[0] == 3
