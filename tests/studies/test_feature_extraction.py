"""Feature extraction end to end: one extraction, every classifier on every draw, checked against
numpy alone.
"""

from __future__ import annotations

import contextlib
import importlib.util
import weakref

import numpy as np
import pytest
import undrawn

from tlx.errors import TlxError, UsageError
from tlx.features import classifiers, fitting, voting
from tlx.features.classifiers import CLASSIFIERS
from tlx.lab import energy
from tlx.lab.cost import NOT_METERED
from tlx.lab.energy import IdlePower
from tlx.lab.engines import forkserver
from tlx.lab.store import Store, reproducible_fields
from tlx.studies import reporting, runner
from tlx.studies.feature_extraction import plan as feature_extraction_plan
from tlx.studies.feature_extraction.spec import FeatureExtraction, FeatureExtractionGrid
from tlx.studies.feature_extraction.trial import Prepared
from tlx.studies.few_shot import FewShotGrid

FEW = FewShotGrid(shots=(1, 3), splits=2, val_per_class=3)


def asked(bars, **changes):
    return FeatureExtraction(dataset=str(bars), **{"use_crops": False, **changes})


def planned(spec, settings, classifiers="linear-svc", few=FEW):
    return feature_extraction_plan.feature_extraction_study(
        spec, few, FeatureExtractionGrid(classifier=classifiers), settings
    )[0]


def perform(spec, settings, classifiers="linear-svc", few=FEW, run_stage=undrawn.run_stage):
    return run_stage(planned(spec, settings, classifiers, few), settings)


def test_draws_share_a_process_and_give_the_same(bars, settings, tmp_path, monkeypatch):
    """Draws are short: a process runs one after the other, to the bits of this process."""
    taken = []
    take = forkserver.Server.take
    monkeypatch.setattr(forkserver.Server, "take", lambda server: taken.append(1) or take(server))
    here = perform(asked(bars), settings.replace(workers=0), "ncm ridge-loo logistic")
    elsewhere = settings.replace(workers=1, store=str(tmp_path / "elsewhere"))
    shared = perform(asked(bars), elsewhere, "ncm ridge-loo logistic")
    assert len(taken) == 1
    assert len(here.results) == 4 * 3
    assert [*map(reproducible_fields, here.results)] == [*map(reproducible_fields, shared.results)]


def test_a_process_keeps_the_rows_of_one_draw(bars, settings):
    first, second = planned(asked(bars), settings).trials[:2]
    prepared = weakref.ref(first.inputs.prepared(first.spec))
    assert first.inputs.prepared(first.spec) is prepared(), "shared by its classifiers"
    second.inputs.prepared(second.spec)
    assert prepared() is None, "freed at once, not when cycles are collected"


def test_every_classifier_on_every_draw(bars, settings):
    report = perform(asked(bars), settings, "linear-svc ncm knn:k=1", run_stage=runner.run_stage)
    report.raise_if_failed(require_tracking=False)
    asked_for = [(r.spec["shots"], r.spec["split"], r.spec["classifier"]) for r in report.results]
    assert asked_for == [
        (k, s, c) for k in (1, 3) for s in (0, 1) for c in ("linear-svc", "ncm", "knn")
    ]
    for result in report.results:
        counts = np.array(result.details["confusion"])
        assert counts.sum() == result.details["test_images"] == 24
        assert result.scores["test_accuracy"] == pytest.approx(
            np.mean(counts.diagonal() / counts.sum(axis=1))
        )
        for name in (
            "train_extraction_s",
            "test_extraction_s",
            "postprocessing_s",
            "classifier_s",
            "total_s",
        ):
            assert result.scores[name] >= 0, name
        assert result.scores["total_s"] == pytest.approx(
            result.scores["own_s"] + result.scores["inherited_s"]
        )
    text = reporting.format_summary(report)
    assert "linear-svc" in text
    assert "12 trials" in text
    folder = report.folder / "studies" / report.key
    assert "ncm/mean_test_accuracy" in (folder / "summary.json").read_text()
    assert (folder / "few_shot_curve.png").stat().st_size > 1000
    assert (folder / "few_shot.csv").read_text().count("\n") == 1 + 3 * 2


@pytest.fixture
def unused(settings, tmp_path):
    """Settings with a cache that holds no features."""
    return settings.replace(cache=str(tmp_path / "cache"))


def test_trials_inherit_their_rows_of_the_features_and_the_embedding(bars, unused):
    """What the trials inherit adds up: rows of a draw, the embedding of all but its first."""
    declared = unused.replace(watts=10.0, grid=360.0)
    report = perform(asked(bars), declared, "ridge ncm")
    dump = report.stage.trials[0].inputs.dump
    assert dump.passes[0]["used"]["cpu_s"] > 0
    for trial, result in zip(report.stage.trials, report.results, strict=True):
        cost, inputs = result.cost, trial.inputs
        rows = sum(len(role.rows) for role in (inputs.train, inputs.val, inputs.test))
        features = dump.usage(rows)
        least = features["cpu_s"]
        inherited = cost["inherited_cpu_s"]["value"]
        if result.spec["classifier"] == "ridge":
            assert inherited == pytest.approx(least)
        else:
            assert inherited > least, "the embedding of the trial before"
        assert cost["inherited_energy_j"]["value"] == pytest.approx(10.0 * inherited)
        assert cost["inherited_co2_g"]["value"] == pytest.approx(10.0 * inherited / 1e4)
        assert cost["inherited_disk_bytes"]["value"] == pytest.approx(features["disk_bytes"])
        assert cost["inherited_wall_s"]["value"] == pytest.approx(result.scores["inherited_s"])
        assert cost["disk_bytes"]["value"] > 0
    folder = report.folder / "trials" / report.results[0].key
    assert cost["disk_bytes"]["value"] < sum(p.stat().st_size for p in folder.rglob("*"))


def test_features_of_before_they_were_metered_have_no_cpu_time_and_say_so(
    bars, unused, monkeypatch
):
    monkeypatch.setattr(
        "tlx.studies.activations.metered", lambda device: contextlib.nullcontext(dict)
    )
    report = perform(asked(bars), unused.replace(watts=10.0), "ncm")
    cost = report.results[0].cost
    assert "inherited_cpu_s" not in cost
    assert cost["inherited_energy_j"]["value"] is None
    assert cost["inherited_energy_j"]["note"] == NOT_METERED
    assert cost["inherited_wall_s"]["value"] > 0
    assert cost["energy_j"]["value"] > 0


def test_idle_power_is_sampled_once_a_study_and_machine_and_kept(bars, unused, monkeypatch):
    sampled = []

    def idle(with_gpus):
        sampled.append(with_gpus)
        return IdlePower(energy.this_machine(), 5.0, 3.0)

    monkeypatch.setattr(energy, "idle_power", idle)
    plan = planned(asked(bars), unused, "ncm")
    assert sampled == [False], "before the features are extracted"
    undrawn.run_stage(plan, unused)
    more = planned(asked(bars), unused, "ridge ncm")
    report = undrawn.run_stage(more, unused)
    undrawn.run_stage(more, unused)
    assert sampled == [False, False], "what the study has is taken"
    record = Store(report.folder).read_study(report.key)
    assert record["idle_power"] == {
        energy.this_machine(): IdlePower(energy.this_machine(), 5.0, 3.0).to_json()
    }


def test_nearest_means_of_fne_features_by_numpy_alone(bars, settings):
    made = planned(asked(bars, embedding="fne"), settings, "ncm")
    report = undrawn.run_stage(made, settings)
    for trial, result in zip(made.trials, report.results, strict=True):
        parts = trial.inputs
        features = np.concatenate(
            [parts.dump.array(layer) for layer in parts.dump.layers], axis=1
        ).astype(np.float64)
        train, test = features[parts.train.images], features[parts.test.images]
        mean, std = train.mean(axis=0), train.std(axis=0)
        z = [np.where(std > 0, (x - mean) / np.where(std > 0, std, 1), 0) for x in (train, test)]
        codes = [np.where(x > 0.15, 1.0, np.where(x < -0.25, -1.0, 0.0)) for x in z]
        means = np.stack([codes[0][parts.train.labels == k].mean(axis=0) for k in range(3)])
        distances = ((codes[1][:, None] - means[None]) ** 2).sum(axis=2)
        right = distances.argmin(axis=1) == parts.test.labels
        want = np.mean([right[parts.test.labels == k].mean() for k in range(3)])
        assert result.scores["test_accuracy"] == pytest.approx(want)


@pytest.mark.slow
def test_images_are_forwarded_once_whatever_is_tried_on_them(bars, settings, monkeypatch, tmp_path):
    settings = settings.replace(cache=str(tmp_path / "cache"))
    passes = []
    from tlx.features import extract as module

    real = module.forward
    monkeypatch.setattr(module, "forward", lambda *a, **k: (passes.append(1), real(*a, **k)))
    perform(asked(bars), settings, "ncm")
    assert passes == [1]
    perform(asked(bars), settings, "linear-svc:C=0.1 ridge")
    perform(asked(bars, embedding="l2"), settings, "ridge")
    perform(asked(bars, embedding="none", vote="mean-probability"), settings, "knn")
    assert passes == [1]
    perform(asked(bars, layers="last"), settings, "ncm")
    assert passes == [1], "the layer was there"
    perform(asked(bars, layers="blocks", dtype="float16"), settings, "ncm")
    assert passes == [1, 1]


def test_asked_again_nothing_is_fitted_and_more_classifiers_join_the_study(bars, settings):
    first = perform(asked(bars), settings, "ncm")
    second = perform(asked(bars), settings, "ncm linear-svc")
    assert first.key == second.key
    assert (second.reused, len(second.results)) == (4, 8)
    record = Store(second.folder).read_study(second.key)
    assert len(record["trials"]) == 8
    third = perform(asked(bars), settings, "LinearSVC")
    assert third.reused == 4, "another spelling of the same classifier"


@pytest.mark.parametrize(
    "change",
    [
        {"embedding": "l2"},
        {"embedding": "fne:low=-0.5"},
        {"standardize": "per-set"},
        {"layers": "last"},
        {"reduce": "flat"},
        {"dtype": "float16"},
        {"fold": False},
        {"use_crops": True},
        {"source": "random"},
        {"seed": 3},
    ],
    ids=str,
)
def test_every_setting_that_matters_changes_every_key(bars, settings, change):
    few = FewShotGrid(shots=(1,), splits=1, val_per_class=3)
    specs = (asked(bars), asked(bars, **change))
    keys = [{t.spec.key for t in planned(spec, settings, few=few).trials} for spec in specs]
    assert not keys[0] & keys[1]


def test_the_same_features_asked_for_in_other_words_have_one_key(bars, settings):
    few = FewShotGrid(shots=(1,), splits=1, val_per_class=3)
    keys = {
        planned(spec, settings, few=few).trials[0].spec.key
        for spec in (
            asked(bars),
            asked(bars, layers="1,2,3"),
            asked(bars, layers="blocks"),
            asked(bars, embedding="fne:low=-0.25,high=0.15"),
        )
    }
    assert len(keys) == 1


def test_ten_crops_are_ten_training_rows_and_vote(bars, settings):
    few = FewShotGrid(shots=(2,), splits=1, val_per_class=3)
    made = planned(asked(bars, use_crops=True), settings, "ncm ridge", few)
    report = undrawn.run_stage(made, settings)
    for result in report.results:
        assert result.details["crops"] == 10
        assert np.sum(result.details["confusion"]) == 24
    assert len(made.trials[0].inputs.train.rows) == 3 * 2 * 10


def test_model_selection_scores_val_and_leaves_the_test_set_alone(bars, settings):
    report = perform(
        asked(bars, model_selection=True), settings, "ncm ridge", run_stage=runner.run_stage
    )
    assert [r.spec["shots"] for r in report.results] == [3, 3]
    for result in report.results:
        assert 0 <= result.scores["val_accuracy"] <= 1
        assert "test_accuracy" not in result.scores
    assert "ncm: val accuracy" in reporting.format_summary(report)


@pytest.mark.slow
def test_workers_come_to_the_same_scores(bars, settings, tmp_path):
    here = perform(asked(bars), settings, "ridge svc logistic")
    there = perform(
        asked(bars),
        settings.replace(workers=2, store=str(tmp_path / "other")),
        "ridge svc logistic",
    )
    for a, b in zip(here.results, there.results, strict=True):
        assert a.key == b.key
        assert a.details["confusion"] == b.details["confusion"]


def test_one_classifier_that_cannot_be_does_not_stop_the_others(bars, settings):
    report = perform(
        asked(bars), settings, "ncm knn:k=7", FewShotGrid(shots=(1, 3), splits=1, val_per_class=3)
    )
    good = [(r.spec["shots"], r.spec["classifier"]) for r in report.results]
    assert good == [(1, "ncm"), (3, "ncm"), (3, "knn:k=7")]
    with pytest.raises(TlxError, match="too-few-neighbours"):
        report.raise_if_failed(require_tracking=False)


@pytest.mark.parametrize(
    ("change", "classifiers", "says"),
    [
        ({}, "linear-svcc", "nearest: linear-svc"),
        ({}, "linear-svc:D=1", "setting"),
        ({"embedding": "fnee"}, "ncm", "nearest: fne"),
        ({"layers": "conv9"}, "ncm", "conv"),
        ({"layers": "7"}, "ncm", "7"),
        ({"layers": "last", "model_description": "x.json"}, "ncm", "one of the two"),
        ({"model_description": "nowhere.json"}, "ncm", "nowhere.json"),
    ],
)
def test_a_wrong_word_is_refused_before_anything_is_extracted(
    bars, settings, change, classifiers, says
):
    with pytest.raises(TlxError, match=says) as refused:
        planned(asked(bars, **change), settings, classifiers)
    assert isinstance(refused.value, UsageError) or refused.value.exit_code == 3


def test_runs_are_told_apart_by_their_classifier(bars, settings):
    report = perform(
        asked(bars), settings, "ncm ridge", FewShotGrid(shots=(1,), splits=1, val_per_class=3)
    )
    rows = Store(report.folder).read_study(report.key)["trials"]
    assert sorted(row["title"] for row in rows) == ["1-shot split 0, ncm", "1-shot split 0, ridge"]


def test_all_leaves_out_what_a_draw_is_too_small_for(bars, settings):
    spec, few = asked(bars), FewShotGrid(shots=(1, 4), splits=1, val_per_class=3)
    made, found = feature_extraction_plan.feature_extraction_study(
        spec, few, FeatureExtractionGrid(classifier="all"), settings
    )
    tried = {
        shots: {t.spec.classifier for t in made.trials if t.spec.shots == shots} for shots in (1, 4)
    }
    assert tried[4] - tried[1] == {"lda", "knn-cosine"}
    assert any("1-shot split 0 is too small for knn-cosine, lda" in note for note in found.notes)
    runner.run_stage(made, settings, lambda event: None, reporting.write_summary).raise_if_failed(
        require_tracking=False
    )


def test_a_trial_has_the_same_bits_whatever_is_tried_beside_it(bars, settings, tmp_path):
    few = FewShotGrid(shots=(4,), splits=1, val_per_class=3)
    together = perform(asked(bars, embedding="l2"), settings, "all", few)
    for result in together.results:
        alone = perform(
            asked(bars, embedding="l2"),
            settings.replace(store=str(tmp_path / "alone")),
            result.spec["classifier"],
            few,
        ).results[0]
        assert alone.key == result.key
        assert alone.details["confusion"] == result.details["confusion"]
        assert alone.scores["val_accuracy"] == result.scores["val_accuracy"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", [{}, {"embedding": "l2"}, {"use_crops": True}, {"standardize": "per-set"}], ids=str
)
def test_rows_compared_through_shared_products_get_the_classes_of_a_fit_on_features(
    bars, settings, change
):
    """What feature_extraction does for neighbours and kernels, beside fitting.fit on the embedded
    rows.
    """
    few = FewShotGrid(shots=(4,), splits=1, val_per_class=3)
    made = planned(asked(bars, **change), settings, "knn:k=3 knn-cosine:k=5 svc ncm", few)
    report = undrawn.run_stage(made, settings)
    for trial, result in zip(made.trials, report.results, strict=True):
        prepared = Prepared(trial.inputs, trial.spec)
        test = prepared.embedding.transform(prepared.layers, trial.inputs.test.rows)
        fitted = fitting.fit(
            classifiers.classifier(trial.spec.classifier),
            prepared.rows,
            trial.inputs.train.row_labels,
        )
        decided = voting.per_image(fitted.scores(test, classes=3), trial.inputs.test.crops)
        assert (
            voting.confusion(trial.inputs.test.labels, decided, 3).tolist()
            == result.details["confusion"]
        )


def test_ridge_by_left_out_images_says_what_it_chose(bars, settings):
    few = FewShotGrid(shots=(4,), splits=1, val_per_class=3)
    result = perform(asked(bars, use_crops=True), settings, "ridge-loo", few).results[0]
    assert result.details["notes"][0].startswith("alpha=")
    assert "when their image is left out" in result.details["notes"][0]


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("embedding", ["fne", "l2"])
def test_the_model_that_is_kept_is_the_one_that_was_scored(bars, settings, name, embedding):
    """Loaded by mlflow from a trial's folder alone, it gives raw features of the test set the
    trial's predictions.
    """
    if name == "xgboost" and importlib.util.find_spec("xgboost") is None:
        pytest.skip("xgboost is not installed (the extra tlx[xgboost])")
    import mlflow.sklearn

    few = FewShotGrid(shots=(4,), splits=1, val_per_class=3)
    made = planned(asked(bars, embedding=embedding, log_model=True), settings, name, few)
    report = undrawn.run_stage(made, settings)
    report.raise_if_failed(require_tracking=False)
    folder = Store(report.folder).folder(report.results[0].key) / "model"
    assert not [p for p in folder.rglob("*") if p.suffix in (".pkl", ".pickle")]
    model = mlflow.sklearn.load_model(str(folder))
    parts = made.trials[0].inputs
    raw = np.concatenate([parts.dump.array(layer) for layer in parts.dump.layers], axis=1)[
        parts.test.images
    ]
    predicted = model.predict(raw.astype(np.float32))
    assert set(predicted) <= set(parts.classes)
    counts = np.zeros((3, 3), np.int64)
    np.add.at(counts, (parts.test.labels, np.searchsorted(parts.classes, predicted)), 1)
    assert counts.tolist() == report.results[0].details["confusion"]
    assert (folder / "input_example.json").stat().st_size > 0
    assert "tlx==" in (folder / "requirements.txt").read_text()


@pytest.mark.slow
def test_a_kept_model_is_a_model_of_its_run_and_stays_one(bars, settings, tmp_path):
    import mlflow

    from tlx.lab.tracking import models as tracking_models

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    few = FewShotGrid(shots=(4,), splits=1, val_per_class=3)
    tracked = settings.replace(tracking=True, mlflow_path=uri)
    report = perform(asked(bars, log_model=True), tracked, "ncm ridge", few)
    report.raise_if_failed(require_tracking=True)
    client = mlflow.MlflowClient(tracking_uri=uri)
    home = client.get_experiment_by_name("Feature extraction").experiment_id
    models = client.search_logged_models([home])
    assert len(models) == 2
    run = client.get_run(models[0].source_run_id)
    assert [out.model_id for out in run.outputs.model_outputs] == [models[0].model_id]
    assert not any(a.path.startswith("model") for a in client.list_artifacts(run.info.run_id)), (
        "not twice"
    )
    folder = Store(report.folder).folder(run.data.tags["tlx.key"]) / "model"
    tracking_models.send(client, home, run.info.run_id, folder)
    assert len(client.search_logged_models([home])) == 2
    other = client.create_run(home).info.run_id
    client.create_logged_model(home, name="model", source_run_id=other)  # and its sender was killed
    tracking_models.send(client, home, other, folder)
    assert [
        m.status.name for m in client.search_logged_models([home]) if m.source_run_id == other
    ] == ["READY"]
