"""Comparison of feature extraction and fine-tuning: the study, its decision, sentences, page."""

from __future__ import annotations

import base64
import csv
import importlib
import io
import json
import math
import re
import shutil
from dataclasses import replace

import figure_rules
import numpy as np
import pytest
import undrawn
from conftest import draw_images
from PIL import Image
from safetensors.torch import save_file
from studies import comparisons
from studies.comparisons import settings_of

from tlx.errors import BadDataError, IntegrityError, TrialsFailedError, UsageError
from tlx.lab.settings import Figures
from tlx.lab.store import Store
from tlx.metrics.scores import SCORES
from tlx.metrics.source_nulls import NULLS
from tlx.models import backbones
from tlx.result import DIVERGED, Result
from tlx.studies import STUDIES, Session, predictions, run_study, served_trial
from tlx.studies.compare import (
    costs,
    decision,
    evidence,
    examples,
    page,
    pareto,
    race,
    report,
    sentences,
    sources,
    use,
)
from tlx.studies.compare.spec import CompareGrid
from tlx.studies.compare.study import human_hours
from tlx.studies.feature_extraction.plan import feature_extraction_study
from tlx.studies.feature_extraction.spec import FeatureExtraction, FeatureExtractionGrid
from tlx.studies.few_shot import FewShotGrid

FEATURES, TUNING = evidence.FEATURES, evidence.TUNING
DRAWN = Figures(figures="study")


def compare(bars, settings, figures=undrawn.NONE, **changes):
    """Run a small comparison with two classifiers."""
    return comparisons.compare(bars, settings, figures, **{"classifier": "knn ncm", **changes})


@pytest.fixture(scope="module")
def done(bars, cache, tmp_path_factory):
    settings = settings_of(tmp_path_factory.mktemp("runs"), cache)
    return compare(bars, settings, DRAWN, any_time=False), settings


def record_of(done_report):
    return json.loads((done_report.study_folder / report.RECORD).read_text())


def cost_rows(done_report):
    """Return the rows of cost.csv."""
    with open(done_report.study_folder / "cost.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_the_record_has_a_verdict_for_every_number_of_shots(done):
    record = record_of(done[0])
    assert [verdict["shots"] for verdict in record["verdicts"]] == [1, 2]
    assert all(verdict["splits"] == 4 for verdict in record["verdicts"])
    assert all(verdict["images"] == 24 for verdict in record["verdicts"])
    assert len(record["trials"]) == 2 * 4 * 3
    assert record["at"] == 2
    assert record["recommended"] in (FEATURES, TUNING)


def test_the_difference_is_that_of_the_trials_predictions(done):
    done_report, _ = done
    store, record = Store(done_report.folder), record_of(done_report)
    trials = [store.find(key) for key in record["trials"]]
    for trial in trials:
        predicted, truth = predictions.read(store, trial), predictions.read_truth(store, trial)
        shares = [(predicted[truth == c] == c).mean() for c in np.unique(truth)]
        assert np.mean(shares) == pytest.approx(trial.scores["test_accuracy"])
    tuned = {r.spec["split"]: r for r in trials if r.kind == "fine-tuning" and r.spec["shots"] == 2}
    frozen: dict[str, dict[int, Result]] = {}
    for r in trials:
        if r.kind == "feature-extraction" and r.spec["shots"] == 2:
            frozen.setdefault(r.spec["classifier"], {})[r.spec["split"]] = r
    differences = []
    for split, trial in tuned.items():
        best = max(
            frozen,
            key=lambda name: np.mean(
                [r.scores["best_val_accuracy"] for s, r in frozen[name].items() if s != split]
            ),
        )
        accuracy = frozen[best][split].scores["test_accuracy"]
        differences.append(trial.scores["test_accuracy"] - accuracy)
    assert record["verdicts"][1]["mean"] == pytest.approx(np.mean(differences))


def test_asked_again_nothing_is_run_and_the_record_has_the_same_bytes(done, bars):
    done_report, settings = done
    before = (done_report.study_folder / report.RECORD).read_bytes()
    again = compare(bars, settings, DRAWN, any_time=False)
    assert again.key == done_report.key
    assert (again.study_folder / report.RECORD).read_bytes() == before


@pytest.mark.slow
def test_mlflow_shows_a_run_a_draw_and_a_run_a_trial_once_these_are_asked_for(
    done, bars, tmp_path, monkeypatch
):
    from mlflow import MlflowClient

    shutil.copytree(done[1].store, tmp_path / "runs")
    database = tmp_path / "mlflow.db"
    settings = done[1].replace(
        store=str(tmp_path / "runs"), tracking=True, mlflow_path=str(database)
    )
    monkeypatch.setattr(
        "tlx.studies.feature_extraction.trial.run", lambda *a: pytest.fail("trained again")
    )

    def client():
        return MlflowClient(tracking_uri=f"sqlite:///{database}")

    def runs():
        place = client().get_experiment_by_name("Feature extraction").experiment_id
        return client().search_runs([place], max_results=1000)

    compare(bars, settings, any_time=False)
    roles = [run.data.tags["tlx.role"] for run in runs()]
    assert sorted(roles) == ["group"] * 2 + ["study"]
    (first,) = [run for run in runs() if run.info.run_name == "2-shot"]
    stored = Store(settings.store)
    for name in ("knn", "ncm"):
        history = client().get_metric_history(first.info.run_id, f"test_accuracy/{name}")
        shown = {point.step: point.value for point in history}
        assert len(history) == len(shown) == 4
        for split, accuracy in shown.items():
            result = stored.find(first.data.tags[f"tlx.trial.{name}.{split}"])
            assert (result.spec["classifier"], result.spec["split"]) == (name, split)
            assert accuracy == result.scores["test_accuracy"]
    assert first.data.params["Samples per class"] == "2"
    assert not {"Classifier", "cfg.classifier"} & set(first.data.params)
    few = {name: value for name, value in comparisons.FEW.items() if name != "epochs"}
    alone = STUDIES["feature-extraction"].with_settings(
        {**few, "dataset": str(bars), "classifier": "knn ncm"}
    )
    run_study(alone, undrawn.session(settings))
    roles = [run.data.tags["tlx.role"] for run in runs()]
    assert sorted(roles) == ["study"] + ["trial"] * 16
    compare(bars, settings, any_time=False)
    assert sorted(run.data.tags["tlx.role"] for run in runs()) == ["study"] + ["trial"] * 16


def test_finished_studies_are_compared_without_computing(done, monkeypatch):
    done_report, settings = done
    store = Store(done_report.folder)
    keys = [
        key
        for key in store.studies()
        if store.read_study(key)["experiment"] in ("Fine-tuning", "Feature extraction")
    ]
    monkeypatch.setattr("tlx.models.training.fit", None)
    study = STUDIES["compare"].with_settings({"from_studies": tuple(keys)})
    again = run_study(study, Session(settings, DRAWN))
    assert record_of(again)["verdicts"] == record_of(done_report)["verdicts"]


def test_one_side_alone_cannot_be_compared(done):
    done_report, settings = done
    store = Store(done_report.folder)
    key = next(k for k in store.studies() if store.read_study(k)["experiment"] == "Fine-tuning")
    study = STUDIES["compare"].with_settings({"from_studies": (key,)})
    with pytest.raises(BadDataError, match="same shots and splits"):
        run_study(study, Session(settings))


def test_trials_that_are_not_tested_cannot_be_compared(settings, bars):
    with pytest.raises(UsageError, match="sides are compared on test images"):
        compare(bars, settings, model_selection=True)


def test_an_answer_for_shots_that_were_not_tried_is_refused(done, bars):
    with pytest.raises(UsageError, match="one of 1, 2"):
        compare(bars, done[1], any_time=False, at=3)


def test_it_is_refused_before_anything_is_computed(bars, cache, tmp_path):
    settings = settings_of(tmp_path, cache)
    with pytest.raises(UsageError, match="one of 1, 2"):
        compare(bars, settings, at=3)
    assert not set(Store(settings.store_folder(None)).keys())


def test_another_price_is_another_record_with_that_price(done, bars):
    _, settings = done
    priced = [
        compare(bars, settings, any_time=False, price_cpu_hour=price, currency="CHF")
        for price in (1000.0, 2000.0)
    ]
    assert priced[0].key != priced[1].key
    first, second = (
        {(row["side"], row["part"]): row for row in cost_rows(report_) if row["cost"] == "money"}
        for report_ in priced
    )
    assert first.keys() == second.keys()
    for place, row in first.items():
        if row["value"]:
            assert float(second[place]["value"]) == pytest.approx(2 * float(row["value"]))
            assert (row["unit"], row["source"]) == ("CHF", "declared")
    own, shared, whole = (
        float(first[FEATURES, part]["value"]) for part in ("own", "inherited", "whole")
    )
    assert whole == pytest.approx(own + shared)
    assert first[TUNING, "inherited"]["note"] == costs.NOT_SHARED
    assert "money" in (priced[0].study_folder / report.PAGE).read_text()


def test_another_recipe_is_another_arm(done):
    done_report, _ = done
    store = Store(done_report.folder)
    trials = [store.find(key) for key in record_of(done_report)["trials"]]
    tuned = [r for r in trials if r.kind == "fine-tuning"]
    other = [replace(r, spec={**r.spec, "learning_rate": 0.5}) for r in tuned]
    side = evidence.Side(TUNING)
    side.add([*tuned, *other])
    assert list(side.arms) == ["mnist-cnn", "mnist-cnn at learning rate 0.5"]
    assert all(len(arm) == len(tuned) for arm in side.arms.values())


@pytest.mark.slow
def test_studies_of_two_data_sets_are_not_compared(bars, cache, tmp_path):
    settings = settings_of(tmp_path / "runs", cache)
    others = draw_images(tmp_path / "others", per_class=9, seed=5)
    for name, folder in (("fine-tuning", bars), ("feature-extraction", others)):
        words = {"dataset": str(folder), "shots": 1, "splits": 1, "val_per_class": 3}
        words |= {"use_crops": False} | ({"epochs": 1} if name == "fine-tuning" else {})
        run_study(STUDIES[name].with_settings(words), undrawn.session(settings))
    study = STUDIES["compare"].with_settings(
        {"from_studies": tuple(Store(settings.store_folder(None)).studies())}
    )
    with pytest.raises(BadDataError, match="2 sets of test images"):
        run_study(study, Session(settings))


@pytest.mark.slow
def test_sources_of_two_sizes_are_compared_and_both_are_shown(bars, cache, tmp_path):
    pytest.importorskip("timm")
    settings = settings_of(tmp_path / "runs", cache)
    raced = compare(
        bars,
        settings,
        sources=("mnist-cnn", "timm:test_resnet"),
        source="random",
        shots=1,
        epochs=1,
        classifier="ncm",
    )
    details, store = raced.results[-1].details, Store(raced.folder)
    tuned = {
        r.spec["architecture"]
        for r in map(store.find, details["trials"])
        if r.kind == "fine-tuning"
    }
    left_out = {row["arm"] for row in details["left_out"]}
    assert tuned | left_out == {"mnist-cnn", "timm:test_resnet"}
    assert not tuned & left_out
    text = (raced.study_folder / report.PAGE).read_text()
    assert text.count("(left out)") == len(left_out)
    frozen = {
        r.spec["architecture"]
        for r in map(store.find, details["trials"])
        if r.kind == "feature-extraction"
    }
    assert frozen == {"mnist-cnn", "timm:test_resnet"}
    for key in store.studies():
        assert (store.study_folder(key) / "summary.json").exists(), store.read_study(key)["title"]


@pytest.fixture(scope="module")
def several(bars, cache, tmp_path_factory):
    """A comparison of two sources with random weights."""
    settings = settings_of(tmp_path_factory.mktemp("several"), cache)
    words = {"sources": ("mnist-cnn", "resnet20-cifar"), "source": "random", "classifier": "ncm"}
    return compare(bars, settings, **words, shots=(2,), epochs=1), settings, words


def test_the_scores_of_several_sources_stand_beside_what_was_reached(several):
    """The accuracies are those of the trials, the losses those of the first source of a score."""
    done_report, _, _ = several
    store, record = Store(done_report.folder), record_of(done_report)["scores"]
    details = done_report.results[-1].details
    trials = [store.find(key) for key in [*details["trials"], *details["left_trials"]]]
    reached = {}
    sources = ("mnist-cnn", "resnet20-cifar")
    for side, kind in ((FEATURES, "feature-extraction"), (TUNING, "fine-tuning")):
        by_source = {
            source: {
                r.spec["split"]: r.scores["test_accuracy"]
                for r in trials
                if (r.kind, r.spec["architecture"]) == (kind, source)
            }
            for source in sources
        }
        splits = min(map(len, by_source.values()))
        assert splits in ((4,) if side == FEATURES else (3, 4))
        for source, of_split in by_source.items():
            accuracies = [of_split[split] for split in range(splits)]
            reached[side, source] = np.mean(accuracies)
            row = record["reached"][side][source]
            assert row == {"accuracy": pytest.approx(np.mean(accuracies)), "splits": splits}
    scored = {r.spec["architecture"]: r for r in map(store.find, details["scores"])}
    for name, values in record["values"].items():
        for source, result in scored.items():
            if name in result.details["nulls"]:
                expected = result.details["nulls"][name]
            else:
                of_draws = zip(result.details["draws"], result.details["values"][name], strict=True)
                wanted = record["scored_on"][name]
                known = [v for (k, _), v in of_draws if k == wanted and v is not None]
                expected = np.mean(known) if known else None
            assert values[source] == (None if expected is None else pytest.approx(expected))
        for side in (FEATURES, TUNING):
            row = record["audit"][side]["rows"][name]
            known = {source: v for source, v in values.items() if v is not None}
            assert row["sources"] == len(known)
            if len(set(known.values())) > 1:
                first = max(known, key=lambda source: known[source])
                best = max(reached[side, source] for source in scored)
                assert row["top"] == first
                assert row["regret"] == pytest.approx(best - reached[side, first])
    for side in (FEATURES, TUNING):
        both = [reached[side, source] for source in scored]
        regret = record["audit"][side]["random_regret"]
        assert regret == pytest.approx(max(both) - np.mean(both))


def test_one_backbone_with_two_files_of_weights_is_two_sources(bars, cache, tmp_path):
    """Each is fine-tuned, extracted and scored under the name of its file."""
    files = []
    for seed in (1, 2):
        network = backbones.load("mnist-cnn", weights=None, seed=seed, classes=10)
        files.append(tmp_path / f"seed{seed}.safetensors")
        tensors = {name: t.contiguous() for name, t in network.net.state_dict().items()}
        save_file(tensors, files[-1])
    words = tuple(f"mnist-cnn={file}" for file in files)
    settings = settings_of(tmp_path / "runs", cache)
    done_report = compare(bars, settings, sources=words, shots=(2,), splits=3, epochs=1)
    record = record_of(done_report)["scores"]
    labels = ["mnist-cnn (seed1.safetensors)", "mnist-cnn (seed2.safetensors)"]
    for side in (FEATURES, TUNING):
        assert list(record["reached"][side]) == labels
    assert list(record["values"]["1-nn"]) == labels
    text = (done_report.study_folder / report.PAGE).read_text()
    assert all(f"ncm on {label}" in text for label in labels)


def test_the_scores_are_on_the_page_and_in_tables_with_every_null(several):
    folder = several[0].study_folder
    text = (folder / report.PAGE).read_text()
    assert "<h2>Sources and scores</h2>" in text
    for row in ("1-NN, leave one out", "ImageNet top-1", "static list", "a source at random"):
        assert f'<th scope="row">{row}' in text
    assert "2 sources are too few for a correlation: 5 are needed." in text
    assert "Correlations over the sources" not in text
    audits = (folder / "scores_audit.csv").read_text().splitlines()
    assert len(audits) == 1 + 2 * (10 + 3 + 1)
    assert (folder / "scores.csv").read_text().count("\n") == 1 + 2 * (10 + 3 + 2)
    assert "scores and nulls put first the source that was best for" in text
    assert "scores and nulls put first" in report.format_summary(several[0])


def test_scores_are_reused_and_the_record_keeps_its_bytes(several, bars, monkeypatch):
    done_report, settings, words = several
    before = (done_report.study_folder / report.RECORD).read_bytes()
    monkeypatch.setattr("tlx.features.extract._Pass", None)
    again = compare(bars, settings, **words, shots=(2,), epochs=1)
    assert again.key == done_report.key
    assert (again.study_folder / report.RECORD).read_bytes() == before


def test_a_score_that_is_gone_is_said_and_not_left_out(several, tmp_path):
    done_report, _, _ = several
    copy = tmp_path / "copy"
    shutil.copytree(done_report.folder, copy)
    result = done_report.results[-1]
    shutil.rmtree(copy / "trials" / result.details["scores"][0])
    with pytest.raises(IntegrityError, match="of this decision"):
        report.outcome_of(Store(copy), result)


def test_one_source_has_no_scores_and_the_page_says_why(done):
    assert "scores" not in record_of(done[0])
    text = (done[0].study_folder / report.PAGE).read_text()
    assert "Scores rank sources, and fewer than two were scored: there are none." in text
    assert not (done[0].study_folder / "scores.csv").exists()


def test_five_sources_have_correlations_on_the_page(monkeypatch):
    """Accuracies and scores of five sources from numbers alone; the order is the same."""
    names = [f"net{i}" for i in range(5)]
    sides = {side: evidence.Side(side) for side in (FEATURES, TUNING)}
    for i, name in enumerate(names):
        for split in range(3):
            for side, classifier in ((FEATURES, "ncm"), (TUNING, "")):
                result = trial(evidence.SIDES[side], 5, split, 0.5 + 0.05 * i, 0.5, classifier)
                result.spec["architecture"] = name
                sides[side].add([result])
    monkeypatch.setattr(evidence, "tables_of", lambda store, pairs: None)
    data = evidence.gather(sides[FEATURES], sides[TUNING])
    scored = [scored_source(name, 0.1 * i) for i, name in enumerate(names)]
    audited = sources.audit_sources(scored, data, [], 5)
    rules = decision.Rules(5, 0.05, 0.01, {})
    outcome = decision.decide(None, data, rules, "t", decision.Ending({}, 1.0), sources=audited)
    for side in (FEATURES, TUNING):
        assert audited.audits[side].rows["1-nn"].weighted.value == pytest.approx(1.0)
        assert audited.audits[side].rows["1-nn"].regret == 0.0
        assert audited.audits[side].rows["parameters"].regret == pytest.approx(0.2)
    text = page.render(outcome, "0" * 64, {"versions": {}})
    assert "Correlations over the sources" in text
    assert "1.00 (1.00 to 1.00)" in text
    assert "N-LEEP (all images)" in text
    assert "too few" not in " ".join(sentences.scores(outcome))
    assert decision.to_json(outcome)["scores"]["audit"][FEATURES]["rows"]["1-nn"]["top"] == "net4"


def scored_source(name, value):
    """A finished trial of scores: 1-NN as given, the number of parameters against it."""
    details = {
        "draws": [[5, 0], [5, 1], [0, 0]],
        "values": {n: [value if n == "1-nn" else None] * 3 for n in SCORES}
        | {"n-leep": [None, None, -value]},
        "reasons": {n: ["" if n == "1-nn" else "not here"] * 3 for n in SCORES},
        "nulls": {**dict.fromkeys(NULLS), "parameters": 1.0 - value},
    }
    spec = {"architecture": name}
    return Result(key=name, kind="source-scores", spec=spec, details=details)


def test_a_source_whose_fine_tuning_failed_everywhere_is_left_out_of_that_side():
    side = evidence.Side(TUNING)
    for name, status in (("a", "finished"), ("b", DIVERGED)):
        for split in range(3):
            result = trial("fine-tuning", 5, split, 0.5, status=status)
            result.spec["architecture"] = name
            side.add([result])
    assert sources.reached(side, {"a": ("a", ""), "b": ("b", "")}, 5) == {
        "a": sources.Reached(0.5, 3)
    }
    assert sources.reached(side, {"b": ("b", "")}, 5) == {}


def test_one_weight_file_for_several_networks_is_refused(done, bars):
    with pytest.raises(UsageError, match="weight file is of one network"):
        compare(bars, done[1], sources=("mnist-cnn", "resnet18"), model="weights.pth")


def test_the_race_runs_splits_of_the_grid_and_says_why_it_stopped(bars, cache, tmp_path):
    raced = compare(bars, settings_of(tmp_path / "runs", cache))
    details = raced.results[-1].details
    assert 0 < details["share"] <= 1
    assert set(details["stopped"].values()) <= {"small regret", "all splits", "no gain"}
    store = Store(raced.folder)
    tuned = [r for r in map(store.find, details["trials"]) if r.kind == "fine-tuning"]
    for shots in (1, 2):
        splits = sorted(r.spec["split"] for r in tuned if r.spec["shots"] == shots)
        assert splits == list(range(len(splits))), "in the order of the whole grid"
        assert len(splits) >= 3


@pytest.mark.slow
def test_a_side_that_diverges_ends_without_a_decision(bars, cache, tmp_path):
    with pytest.raises(TrialsFailedError, match="diverged"):
        compare(
            bars,
            settings_of(tmp_path / "runs", cache),
            learning_rate=1e3,
            clip_norm=0.0,
            epochs=30,
            early_stopping=False,
        )
    [path] = tmp_path.glob(f"runs/studies/*/{report.RECORD}")
    record = json.loads(path.read_text())
    assert (record["verdict"], record["recommended"]) == ("no decision", "")
    assert "No decision" in (path.parent / report.PAGE).read_text()


# ---------------------------------------------------------------- evidence and sentences


def trial(kind, shots, split, accuracy, val=0.5, classifier="", status="finished", seconds=1.0):
    spec = {"shots": shots, "split": split, "architecture": "net"}
    if classifier:
        spec["classifier"] = classifier
    scores = {"best_val_accuracy": val, "total_s": seconds}
    if status == "finished":
        scores["test_accuracy"] = accuracy
    details = {"classes": ["a", "b"], "pool": 1000, "test_images": 100}
    key = f"{kind}-{shots}-{split}-{classifier}"
    return Result(key=key, kind=kind, spec=spec, status=status, scores=scores, details=details)


def outcome_of(differences, *, monkeypatch, base=0.6, at=None, margin=0.01, **tuning):
    """The decision of differences by shots: {shots: [one a split]}, from scores alone."""
    monkeypatch.setattr(evidence, "tables_of", lambda store, pairs: None)
    sides = {side: evidence.Side(side) for side in (FEATURES, TUNING)}
    for shots, row in differences.items():
        for split, difference in enumerate(row):
            frozen = trial("feature-extraction", shots, split, base, classifier="ncm", seconds=0.1)
            status = DIVERGED if math.isnan(difference) else "finished"
            sides[FEATURES].add([frozen])
            sides[TUNING].add(
                [trial("fine-tuning", shots, split, base + difference, status=status, **tuning)]
            )
    rules = decision.Rules(at, 0.05, margin, {})
    found = evidence.gather(sides[FEATURES], sides[TUNING])
    ending = decision.Ending({}, 1.0)
    return decision.decide(None, found, rules, "net on photos", ending)


CASES = {
    "clear fine-tuning": ([0.2, 0.21, 0.19, 0.2, 0.22], "Fine-tune net", "less than 1 in 20"),
    "clear features": ([-0.2, -0.21, -0.19, -0.2], "Use feature extraction (ncm", "fine-tuning is"),
    "undecided": ([0.1, -0.12, 0.05, -0.02, 0.03], "no difference was found", "better than a coin"),
    "equivalent": ([0.001, -0.001, 0.0015, -0.0005, 0.0], "within 1 point of each", "at most"),
    "one draw": ([0.1], "one draw of 5 images", "is unknown"),
    "no decision": ([math.nan, math.nan, 0.1, 0.1, 0.1], "No decision: 2 of 5", "nothing is"),
}


@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_answer_has_its_sentences(case, monkeypatch):
    differences, answer, certainty = CASES[case]
    outcome = outcome_of({5: differences}, monkeypatch=monkeypatch)
    said = sentences.section(outcome)
    assert answer in said[0]
    assert certainty in said[1]
    assert "energy is unknown" in said[2]
    assert len(said) == 4
    assert all(text.endswith(".") and "nan" not in text and "inf" not in text for text in said)


def test_what_is_left_out_is_said_at_every_number_of_shots(monkeypatch):
    outcome = outcome_of(
        {1: [math.nan, 0.1, 0.2, 0.1, 0.2], 5: [0.1, 0.2, 0.1, 0.2]}, monkeypatch=monkeypatch
    )
    (said,) = [line for line in sentences.warnings(outcome) if "left out" in line]
    assert said.startswith("1 of 5 splits at 1 image per class are left out")


def test_without_a_sure_difference_the_cheaper_side_is_taken(monkeypatch):
    undecided = [0.1, -0.12, 0.05, -0.02, 0.03]
    cheap = outcome_of({5: undecided}, monkeypatch=monkeypatch, seconds=0.01)
    dear = outcome_of({5: undecided}, monkeypatch=monkeypatch, seconds=5.0)
    assert (cheap.recommended, dear.recommended) == (TUNING, FEATURES)
    assert "50 times as long" in sentences.cost(dear)


def test_an_open_question_says_what_would_settle_it(monkeypatch):
    more = outcome_of({5: [0.06, -0.03, 0.05, 0.02, 0.01]}, monkeypatch=monkeypatch)
    assert re.search(r"About \d+ more draws would settle it .*--splits \d+", sentences.change(more))


SURE, UNSURE = [0.2, 0.21, 0.19, 0.2, 0.22], [0.06, -0.03, 0.05, 0.02, 0.01]
LIKELY = [0.2, 0.12, 0.03, 0.14, 0.0]  # surely better at 0.05, not at half of it


@pytest.mark.parametrize(
    ("shots", "says"),
    [
        ({1: SURE, 5: LIKELY}, "If the two change places, it is beyond 1 image per class."),
        ({1: UNSURE, 5: SURE}, "If the two change places, it is at or below 5 images per class."),
        (
            {1: [-value for value in SURE], 5: SURE},
            "The two change places between 1 and 5 images per class.",
        ),
        (
            {1: SURE, 5: SURE},
            "It holds for every number of images per class that was tried, from 1.",
        ),
    ],
)
def test_the_two_change_places_only_where_each_is_better_somewhere(shots, says, monkeypatch):
    outcome = outcome_of(shots, monkeypatch=monkeypatch)
    assert sentences.change(outcome) == says
    is_sure = says.startswith("The two")
    assert sentences.break_even(outcome).startswith("Break-even: ") == is_sure


def test_an_arm_is_chosen_on_the_other_splits():
    side = evidence.Side(FEATURES)
    for split, (first, second) in enumerate([(0.9, 0.1), (0.2, 0.8), (0.3, 0.7)]):
        side.add([trial("feature-extraction", 1, split, 0.5, first, "ncm")])
        side.add([trial("feature-extraction", 1, split, 0.6, second, "knn")])
    assert side.pick(1, 0).spec["classifier"] == "knn"
    assert side.pick(1, 1).spec["classifier"] == "ncm"
    assert side.pick(1, 9) is None
    assert side.champion(1) == "knn on net"


def test_one_side_alone_is_refused_by_name():
    sides = {side: evidence.Side(side) for side in (FEATURES, TUNING)}
    sides[FEATURES].add([trial("feature-extraction", 1, 0, 0.5, classifier="ncm")])
    with pytest.raises(BadDataError, match="no trial of fine-tuning"):
        evidence.gather(sides[FEATURES], sides[TUNING])


def test_different_test_images_are_not_compared():
    sides = {side: evidence.Side(side) for side in (FEATURES, TUNING)}
    for side, digest in ((FEATURES, "a"), (TUNING, "b")):
        result = trial(evidence.SIDES[side], 1, 0, 0.5, classifier="")
        result.details["test_digest"] = digest
        sides[side].add([result])
    with pytest.raises(BadDataError, match="different images"):
        evidence.gather(sides[FEATURES], sides[TUNING])


def test_the_next_splits_are_not_chosen_twice(monkeypatch):
    differences = {1: [0.1, -0.1, 0.05], 2: [0.2, 0.2, 0.2]}
    outcome = outcome_of(differences, monkeypatch=monkeypatch)
    waiting = {(shots, split) for shots in (1, 2) for split in range(3, 6)}
    chosen, closed = race.choose(outcome.data, None, CompareGrid(), waiting, 2, 6)
    assert chosen == [(1, 3), (1, 4)]
    assert closed == {2: "small regret"}


@pytest.mark.parametrize(
    "words",
    [
        ("fe=2",),
        ("fine-tuning",),
        ("fine-tuning=much",),
        ("fine-tuning=-1",),
        ("fine-tuning=nan",),
    ],
)
def test_hours_that_are_none_are_refused(words):
    with pytest.raises(UsageError, match="fine-tuning=HOURS"):
        human_hours(words)
    assert human_hours(("fine-tuning=6", "feature-extraction=0.5")) == {TUNING: 6.0, FEATURES: 0.5}


# ---------------------------------------------------------------- the page


def test_the_page_asks_for_nothing_and_is_small(done):
    text = (done[0].study_folder / report.PAGE).read_text()
    assert len(text.encode()) <= 400_000
    assert "default-src 'none'" in text
    assert "<script" not in text
    assert not re.search(r"(?:src|href)=[\"'](?!data:)", text)
    assert not re.search(r"url\(", text)
    assert text.count("<h1>") == 1
    assert text.count('alt="') == text.count("<img")
    assert text.count("data:image/svg+xml") == 4
    for sentence in ("Accuracy over training images", "Cost", "Break-even", "Do it again"):
        assert f"<h2>{sentence}" in text


def test_names_from_the_data_are_text_on_the_page(monkeypatch):
    outcome = outcome_of({5: [0.2, 0.21, 0.19]}, monkeypatch=monkeypatch)
    hostile = replace(outcome, title="<script>alert(1)</script>")
    text = page.render(hostile, "0" * 64, {"versions": {}})
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_trials_without_predictions_count_by_their_scores_and_that_is_said(monkeypatch):
    outcome = outcome_of({5: [0.2, 0.21, 0.19]}, monkeypatch=monkeypatch)
    assert outcome.headline.images == 0
    assert any("predictions.npy" in line for line in sentences.warnings(outcome))
    assert page.render(outcome, "0" * 64, {"versions": {}}).count("<img") == 3


# ---------------------------------------------------------------- trials that fail


def failing(run, kind, places):
    """The function that runs trials, failing in these places."""

    def replaced(spec, inputs, context):
        if (spec.shots, spec.split) in places:
            raise RuntimeError(f"planted in {kind}")
        return run(spec, inputs, context)

    replaced.__name__, replaced.__qualname__ = run.__name__, run.__qualname__
    replaced.__module__ = run.__module__
    return replaced


@pytest.mark.slow
@pytest.mark.parametrize("any_time", [False, True])
@pytest.mark.parametrize("kind", ["feature_extraction", "fine_tuning"])
def test_a_trial_that_fails_leaves_its_draw_out_and_is_tried_again(
    kind, any_time, bars, cache, tmp_path, monkeypatch
):
    settings = settings_of(tmp_path, cache)
    place = f"tlx.studies.{kind}.trial.run"
    run = importlib.import_module(f"tlx.studies.{kind}.trial").run
    words = {"classifier": "ncm", "splits": 6, "shots": (2,), "any_time": any_time}
    with monkeypatch.context() as patched:
        patched.setattr(place, failing(run, kind, {(2, 1)}))
        first = compare(bars, settings, DRAWN, **words)
    (verdict,) = record_of(first)["verdicts"]
    assert verdict["dropped"] == 1
    assert verdict["splits"] <= 5
    text = (first.study_folder / report.PAGE).read_text()
    assert "splits at 2 images per class are left out: a training diverged or failed" in text
    before = (first.study_folder / report.RECORD).read_bytes()
    report.write_summary(Store(first.folder), first.key)
    assert (first.study_folder / report.RECORD).read_bytes() == before
    again = compare(bars, settings, **words)
    assert record_of(again)["verdicts"][0]["dropped"] == 0
    assert again.key != first.key


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["feature_extraction", "fine_tuning"])
def test_where_every_trial_of_a_side_fails_that_is_the_error(
    kind, bars, cache, tmp_path, monkeypatch
):
    run = importlib.import_module(f"tlx.studies.{kind}.trial").run
    places = {(k, split) for k in (1, 2) for split in range(4)}
    monkeypatch.setattr(f"tlx.studies.{kind}.trial.run", failing(run, kind, places))
    with pytest.raises(TrialsFailedError, match=f"planted in {kind}") as refused:
        compare(bars, settings_of(tmp_path, cache), classifier="ncm")
    assert refused.value.exit_code == 7


@pytest.mark.slow
def test_where_too_many_fine_tunings_fail_nothing_is_decided(bars, cache, tmp_path, monkeypatch):
    run = importlib.import_module("tlx.studies.fine_tuning.trial").run
    places = {(2, 0), (2, 2)}
    monkeypatch.setattr("tlx.studies.fine_tuning.trial.run", failing(run, "it", places))
    with pytest.raises(TrialsFailedError, match="no-decision"):
        compare(bars, settings_of(tmp_path, cache), classifier="ncm", shots=(2,), any_time=False)


# ---------------------------------------------------------------- cost


def costing(kind, **scores):
    result = trial(kind, 5, 0, 0.5, classifier="ncm" if kind == "feature-extraction" else "")
    result.scores.pop("total_s")
    result.scores.update(scores)
    return result


def test_a_training_is_charged_its_features_and_not_its_test():
    frozen = costing(
        "feature-extraction",
        total_s=10.0,
        own_s=1.5,
        predict_s=1.0,
        inherited_s=8.5,
        test_extraction_s=6.0,
    )
    tuned = costing("fine-tuning", total_s=30.0, test_s=4.0, train_s=25.0)
    assert costs.mean_seconds([frozen]) == pytest.approx(0.5 + 2.5)
    assert costs.mean_seconds([tuned]) == pytest.approx(26.0)
    side = evidence.Side(FEATURES)
    side.add([frozen])
    cost = costs.cost_of(side, [frozen], costs.Prices())
    assert (cost.seconds, cost.inherited_s, cost.test_s) == pytest.approx((3.0, 2.5, 7.0))
    assert cost.total_s == pytest.approx(1.5)


def test_the_cheaper_side_is_told_first_and_what_using_it_takes(monkeypatch):
    outcome = outcome_of({5: [0.1] * 5}, monkeypatch=monkeypatch, seconds=0.05)
    assert sentences.cost(outcome).startswith(
        "A training takes 50 ms by fine-tuning and 100 ms by feature extraction, 2 times as long"
    )

    def with_use(**image_s):
        costs = {
            side: replace(cost, use=use.UseCost(image_s[name], 10, 20, 10))
            for (side, cost), name in zip(
                outcome.costs.items(), ("features", "tuning"), strict=True
            )
        }
        return sentences.cost(replace(outcome, costs=costs))

    assert "afterwards takes 3 ms with either." in with_use(features=0.0031, tuning=0.003)
    assert "takes 3 ms by fine-tuning, 2.0 s by feature" in with_use(features=2.0, tuning=0.003)


def row(value, **more):
    return {"value": value, "unit": "J", "source": None if value is None else "counter", **more}


def costed(kind, own, inherited=None, split=0, **use):
    """Return a trial with these costs: name → value, or a row."""
    result = trial(kind, 5, split, 0.5, classifier="ncm" if kind == "feature-extraction" else "")
    for prefix, costs_ in (("", own), ("inherited_", inherited or {})):
        for name, value in costs_.items():
            result.cost[prefix + name] = value if isinstance(value, dict) else row(value)
    return result


def test_a_trial_is_charged_its_own_and_what_it_inherits_apart_and_together():
    results = [
        costed(
            "feature-extraction",
            {"cpu_s": 1.0 + split, "energy_j": row(2.0, low=1.0, high=4.0)},
            {"cpu_s": 10.0, "energy_j": 7.0},
            split,
        )
        for split in range(2)
    ]
    own, inherited, whole = costs.rows_of(FEATURES, results, costs.Prices(cpu_hour=3600.0))
    assert (own["cpu_s"].value, inherited["cpu_s"].value) == (1.5, 10.0)
    assert whole["cpu_s"].value == 11.5
    assert (whole["energy_j"].low, whole["energy_j"].value, whole["energy_j"].high) == (8, 9, 11)
    assert (own["money"].value, inherited["money"].value, whole["money"].value) == (1.5, 10, 11.5)


@pytest.mark.parametrize(
    ("inherited", "reason"),
    [
        ({}, costs.NOT_KEPT),
        ({"cpu_s": 1.0, "energy_j": row(None, note="no counter")}, "no counter"),
    ],
)
def test_a_part_that_is_unknown_makes_the_whole_unknown_with_its_reason(inherited, reason):
    results = [costed("feature-extraction", {"cpu_s": 1.0, "energy_j": 2.0}, inherited)]
    own, _, whole = costs.rows_of(FEATURES, results, costs.Prices())
    assert own["energy_j"].value == 2.0
    assert (whole["energy_j"].value, whole["energy_j"].note) == (None, reason)


def test_one_trial_that_does_not_know_a_cost_makes_the_mean_unknown():
    known = costed("fine-tuning", {"cpu_s": 1.0, "energy_j": 2.0})
    other = costed("fine-tuning", {"cpu_s": 1.0, "energy_j": row(None, note="why")}, split=1)
    _, inherited, whole = costs.rows_of(TUNING, [known, other], costs.Prices())
    assert (whole["energy_j"].value, whole["energy_j"].note) == (None, "why")
    assert inherited["cpu_s"].note == costs.NOT_SHARED
    assert whole["cpu_s"].value == 1.0
    assert costs.rows_of(TUNING, [], costs.Prices())[2]["cpu_s"].value is None


def test_a_gpu_that_only_the_features_used_counts_and_one_that_nobody_used_is_said():
    on_gpu = [costed("feature-extraction", {"cpu_s": 1.0}, {"cpu_s": 2.0, "gpu_s": 3600.0})]
    _, _, whole = costs.rows_of(FEATURES, on_gpu, costs.Prices(gpu_hour=2.0))
    assert (whole["gpu_s"].value, whole["money"].value) == (3600.0, 2.0)
    on_cpu = [costed("feature-extraction", {"cpu_s": 1.0}, {"cpu_s": 2.0})]
    assert costs.rows_of(FEATURES, on_cpu, costs.Prices())[2]["gpu_s"].note == costs.NO_GPU


@pytest.mark.parametrize(
    ("used", "prices", "value", "says"),
    [
        ({"cpu_s": 3600.0}, {"cpu_hour": 0.5}, 0.5, "0.5 CHF an hour of CPU time"),
        ({"cpu_s": 3600.0, "gpu_s": 1800.0}, {"cpu_hour": 0.5, "gpu_hour": 4.0}, 2.5, "of a GPU"),
        ({"cpu_s": 3600.0, "gpu_s": 1800.0}, {"gpu_hour": 4.0}, 2.0, "of a GPU"),
        ({"cpu_s": 3600.0, "gpu_s": 1800.0}, {"cpu_hour": 0.5}, None, "--price-gpu-hour"),
        ({"cpu_s": 3600.0}, {"gpu_hour": 4.0}, None, "--price-cpu-hour"),
        ({"cpu_s": 3600.0}, {}, None, costs.NO_PRICE),
        ({}, {"cpu_hour": 0.5}, None, costs.NOT_RECORDED),
    ],
)
def test_money_is_that_of_the_hours_that_were_used_and_never_a_part_of_it(
    used, prices, value, says
):
    results = [costed("fine-tuning", used)]
    _, _, whole = costs.rows_of(TUNING, results, costs.Prices(currency="CHF", **prices))
    assert whole["money"].value == (None if value is None else pytest.approx(value))
    assert says in whole["money"].note


def test_the_table_of_costs_has_source_and_reason_in_every_row(done):
    rows = cost_rows(done[0])
    assert list(rows[0]) == list(costs.CSV)
    named = {(row_["side"], row_["cost"], row_["part"]): row_ for row_ in rows}
    assert len(named) == len(rows)
    for row_ in rows:
        assert bool(row_["value"]) == bool(row_["source"]), row_
        assert row_["value"] or row_["note"], row_
    for side in (FEATURES, TUNING):
        assert named[side, "energy_j", "whole"]["note"]
        assert named[side, "wall_s", "whole"]["codecarbon"] == "duration"
    parts = [float(named[FEATURES, "cpu_s", part]["value"]) for part in ("own", "inherited")]
    assert float(named[FEATURES, "cpu_s", "whole"]["value"]) == pytest.approx(sum(parts))
    assert float(named[FEATURES, "use_classifier_bytes", "whole"]["value"]) > 0
    text = (done[0].study_folder / report.PAGE).read_text()
    assert "energy: unknown: no energy counter" in text


def test_the_units_of_codecarbon_are_kilowatt_hours_and_kilograms():
    results = [costed("fine-tuning", {"cpu_s": 1.0, "energy_j": 3.6e6, "co2_g": 500.0})]
    cost = costs.cost_of(evidence.Side(TUNING), results, costs.Prices())
    rows = {(row_[1], row_[2]): row_ for row_ in costs.csv_rows({TUNING: cost})}
    assert rows["energy_j", "whole"][-2:] == ["energy_consumed", 1.0]
    assert rows["co2_g", "whole"][-2:] == ["emissions", 0.5]


# ---------------------------------------------------------------- accuracy over cost


def test_the_front_has_the_points_that_none_beats_in_both(rng):
    numbers = [(rng.randrange(6), rng.randrange(6)) for _ in range(40)]
    points = tuple(
        pareto.Point(FEATURES, str(i), float(a), float(c), False)
        for i, (a, c) in enumerate(numbers)
    )
    front = pareto.Axis("x", points, "", str).front
    for point in points:
        is_beaten = any(
            other.cost <= point.cost
            and other.accuracy >= point.accuracy
            and (other.cost, other.accuracy) != (point.cost, point.accuracy)
            for other in points
        )
        is_on_front = (point.cost, point.accuracy) in [(p.cost, p.accuracy) for p in front]
        assert is_on_front == (not is_beaten)


@pytest.mark.parametrize("scale", [1e-7, 1.0, 3e5])
@pytest.mark.parametrize("axes", [1, 2, 5])
def test_the_figure_of_costs_is_whole_at_any_size_of_them(monkeypatch, scale, axes):
    outcome = outcome_of({5: [0.2, 0.21, 0.19]}, monkeypatch=monkeypatch)
    points = tuple(
        pareto.Point(side, "net", accuracy, cost * scale, True)
        for side, accuracy, cost in ((FEATURES, 0.6, 1.0), (TUNING, 0.8, 70.0))
    )
    drawn = [
        pareto.Axis(f"money of a trial {n}", points, "", lambda v: f"{v:.3g} EUR")
        for n in range(axes)
    ]
    with figure_rules.held(monkeypatch):
        assert pareto.draw(outcome, drawn)


def test_axes_that_are_unknown_are_left_out_and_named(done):
    done_report, _ = done
    store = Store(done_report.folder)
    outcome = report.outcome_of(store, done_report.results[-1])
    axes = {axis.title: axis for axis in pareto.axes_of(outcome)}
    shown = {title for title, axis in axes.items() if not axis.reason}
    assert shown == {"training time", "labelling an image"}
    words = pareto.left_out(list(axes.values()))
    assert "hours of work (not declared)" in words
    assert "money of a trial (no price was given)" in words
    assert "energy of a trial (no energy counter" in words
    assert words in (done_report.study_folder / report.PAGE).read_text()
    headings, rows = pareto.table(list(axes.values()))
    assert headings == ["arm", "test accuracy", "training time", "labelling an image"]
    assert len(rows) == 3
    assert sum("(chosen)" in row_[0] for row_ in rows) == 2
    assert (done_report.study_folder / "comparison_pareto.png").stat().st_size > 1000
    declared = replace(
        outcome,
        costs={
            side: replace(cost, whole={**cost.whole, "human_h": costs.CostRow(2.0, "h")})
            for side, cost in outcome.costs.items()
        },
    )
    work = pareto.axes_of(declared)[3]
    assert [point.cost for point in work.points] == [2.0, 2.0]


@pytest.mark.slow
def test_networks_are_measured_once_where_sides_share_one():
    about = {"architecture": "mnist-cnn", "input_size": None, "classes": 4, "crops": 10}
    measured = use.measure(
        {"a": about, "b": dict(about), "c": {**about, "architecture": "nothing"}}, lambda: False
    )
    assert measured["a"] == measured["b"]
    assert measured["a"]["image_s"] > 0
    one = use.measure({"d": {**about, "crops": 1}}, lambda: False)["d"]
    assert measured["a"]["macs"] == 10 * one["macs"]
    stopped = use.measure({"a": about}, lambda: True)["a"]
    assert (stopped["image_s"], stopped["macs"]) == (None, measured["a"]["macs"])
    assert measured["c"]["image_s"] is None
    assert "nothing" in measured["c"]["reason"]


def test_what_labels_an_image_is_the_network_with_the_classifier_on_top(done, bars, monkeypatch):
    """The knn of more rows is larger; a classifier that is not served leaves the network alone."""
    done_report, settings = done
    result = done_report.results[-1]
    used = {side: use.UseCost(**row_) for side, row_ in result.details["use"].items()}
    alone = use.measure({TUNING: result.details["networks"][TUNING]}, lambda: True)[TUNING]
    assert used[TUNING].classifier_bytes is None
    assert used[TUNING].macs == alone["macs"]
    assert used[FEATURES].classifier_bytes > 0
    assert not used[FEATURES].reason
    stage, _ = feature_extraction_study(
        FeatureExtraction(dataset=str(bars), use_crops=False),
        FewShotGrid(shots=(1, 2), splits=1, val_per_class=3),
        FeatureExtractionGrid(classifier="knn"),
        settings,
    )
    plans = {
        f"{trial_.spec.shots}": use.FrozenPlan(trial_.spec, trial_.inputs)
        for trial_ in stage.trials
    }
    about = dict.fromkeys(plans, result.details["networks"][FEATURES])
    by_shots = use.measure(about, lambda: True, plans)
    assert by_shots["2"]["classifier_bytes"] > by_shots["1"]["classifier_bytes"] > 0
    assert by_shots["1"]["macs"] > 0
    plan = plans["1"]
    refused = replace(plan, spec=plan.spec.replace(classifier="xgboost"))
    without = use.measure({"x": about["1"]}, lambda: True, {"x": refused})["x"]
    assert without["classifier_bytes"] is None
    assert "xgboost" in without["reason"]
    assert without["macs"] == alone["macs"]
    unknown = use.measure({"x": about["1"]}, lambda: True, {"x": None})["x"]
    assert unknown["reason"] == use.NO_FEATURES


# ---------------------------------------------------------------- the winner, to use it


def test_the_winner_of_a_comparison_is_the_median_trial_of_the_recommended_side(done):
    done_report, _ = done
    store, record = Store(done_report.folder), record_of(done_report)
    chosen = served_trial.choose(store, done_report.key)
    spec = chosen.result.spec
    assert spec["shots"] == record["at"]
    assert chosen.result.kind == evidence.SIDES[record["recommended"]]
    twins = [
        r
        for r in map(store.find, record["trials"])
        if (r.kind, r.spec["shots"]) == (chosen.result.kind, spec["shots"])
        and r.spec.get("classifier") == spec.get("classifier")
    ]
    values = sorted(r.scores["best_val_accuracy"] for r in twins)
    assert len(values) == 4
    assert chosen.result.scores["best_val_accuracy"] == values[1]
    means = {}
    for r in map(store.find, record["trials"]):
        if (r.kind, r.spec["shots"]) == (chosen.result.kind, spec["shots"]):
            means.setdefault(r.spec.get("classifier"), []).append(r.scores["best_val_accuracy"])
    assert np.mean(values) == pytest.approx(max(map(np.mean, means.values())))
    assert chosen.tags["tlx.verdict"] == record["verdict"]
    assert chosen.tags["tlx.comparison"] == done_report.key
    assert chosen.alias == ("champion" if record["verdict"] == "decided" else "")
    assert f"tlx export {done_report.key[:12]}" in report.format_summary(done_report)
    text = (done_report.study_folder / report.PAGE).read_text()
    assert f"tlx predict {done_report.key[:12]} PHOTOS" in text


def test_a_comparison_without_decision_has_no_winner(done, monkeypatch):
    done_report, _ = done
    outcome = report.outcome_of(Store(done_report.folder), done_report.results[-1])
    monkeypatch.setattr(report, "outcome_of", lambda *_: replace(outcome, recommended=""))
    with pytest.raises(BadDataError, match="has no decision"):
        served_trial.choose(Store(done_report.folder), done_report.key)


# ---------------------------------------------------------------- confusions, with pictures


def test_frequent_confusions_and_the_images_that_are_so_confused_most():
    truth = np.array([0, 0, 0, 1, 1, 2])
    wrong = np.array([[1, 1, 0, 1, 1, 2], [1, 0, 0, 2, 1, 0], [1, 1, 2, 1, 1, 2]])
    right = np.tile(truth, (3, 1))
    tables = evidence.Tables(
        (right == truth).astype(int), (wrong == truth).astype(int), truth, right, wrong
    )
    found = examples.confusions(tables)
    assert {row.side for row in found} == {TUNING}
    assert [(row.true, row.guess) for row in found] == [(0, 1), (0, 2), (1, 2), (2, 0)]
    assert [row.share for row in found] == pytest.approx([5 / 9, 1 / 9, 1 / 6, 1 / 3])
    assert [row.images for row in found] == [(0, 1), (2,), (3,), (5,)]
    assert examples.confusions(None) == []


@pytest.mark.parametrize("size", [(8, 8), (300, 40), (2000, 1500)])
def test_a_picture_for_the_page_is_small(tmp_path, size, rng):
    noise = np.random.default_rng(rng.randrange(10**6)).integers(0, 255, (*size[::-1], 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    pictures = examples.thumbnails(
        {"1": str(tmp_path / "a.png"), "2": str(tmp_path / "broken.png"), "3": "nowhere.png"}
    )
    assert list(pictures) == ["1"]
    data = base64.b64decode(pictures["1"])
    assert len(data) <= examples.MOST_BYTES
    shown = Image.open(io.BytesIO(data))
    assert max(shown.size) == examples.SIDE
    assert shown.width / shown.height == pytest.approx(size[0] / size[1], rel=0.2)


@pytest.mark.slow
def test_the_page_shows_the_images_that_the_trials_confused_unless_it_must_not(
    bars, cache, tmp_path
):
    settings = settings_of(tmp_path, cache)
    words = {"classifier": "ncm", "shots": (1,), "any_time": False}
    with_pictures = compare(bars, settings, **words)
    without = compare(bars, settings, thumbnails=False, **words)
    assert with_pictures.key != without.key
    shown = (with_pictures.study_folder / report.PAGE).read_text()
    outcome = report.outcome_of(Store(with_pictures.folder), with_pictures.results[-1])
    wanted = {image for row in examples.confusions(outcome.tables) for image in row.images}
    assert {int(name) for name in outcome.thumbnails} == wanted
    assert shown.count("data:image/jpeg;base64,") >= len(wanted) > 0
    assert "image/jpeg" not in (without.study_folder / report.PAGE).read_text()
    assert "jpeg" not in json.dumps(without.results[-1].details)
    files_of_test = sorted((bars / "test").glob("*/*.png"))
    image, picture = next(iter(outcome.thumbnails.items()))
    small = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))).convert("L"), float)
    likeness = []
    for path in files_of_test:
        pixels = Image.open(path).convert("L").resize(small.shape[::-1], Image.Resampling.NEAREST)
        likeness.append(np.abs(np.asarray(pixels, float) - small).mean())
    nearest = files_of_test[int(np.argmin(likeness))]
    assert nearest.parent.name == outcome.data.classes[outcome.tables.classes[int(image)]]
    assert min(likeness) < 0.5 * sorted(likeness)[1]
