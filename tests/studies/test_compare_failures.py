"""Arms without a result: a comparison goes on without them, says so, and ends with exit code 7."""

from __future__ import annotations

import importlib
import json

import pytest
from studies.comparisons import compare, settings_of

from tlx.errors import TrialsFailedError
from tlx.lab.settings import Figures
from tlx.lab.store import Store
from tlx.studies import Session
from tlx.studies.compare import report


@pytest.fixture
def lines(monkeypatch):
    """Return the lines that a session says."""
    shown = []
    monkeypatch.setattr(Session, "say", lambda self, *lines: shown.extend(lines))
    return shown


def fail_where(monkeypatch, kind, is_failing):
    """Let the trials of a kind fail whose spec `is_failing`."""
    place = f"tlx.studies.{kind}.trial"
    run = importlib.import_module(place).run

    def replaced(spec, inputs, context):
        if is_failing(spec):
            raise RuntimeError("planted fault")
        return run(spec, inputs, context)

    replaced.__name__, replaced.__qualname__, replaced.__module__ = "run", "run", place
    monkeypatch.setattr(f"{place}.run", replaced)


def decision_in(store_folder):
    """Return the only decision in a store, and the folder of its study."""
    store = Store(store_folder)
    (key,) = [k for k in store.studies() if store.read_study(k)["experiment"] == "Compare"]
    folder = store.study_folder(key)
    return json.loads((folder / report.RECORD).read_text()), folder


@pytest.mark.parametrize(
    "any_time", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["raced", "whole"]
)
def test_a_recipe_that_fails_everywhere_is_left_out_and_the_others_are_compared(
    any_time, bars, cache, tmp_path, monkeypatch, lines
):
    settings = settings_of(tmp_path, cache)
    words = {"recipes": "bias,all", "splits": 4, "any_time": any_time}
    with monkeypatch.context() as patched:
        fail_where(patched, "fine_tuning", lambda spec: spec.tune == "bias")
        with pytest.raises(TrialsFailedError, match="arms-failed") as ended:
            compare(bars, settings, Figures(figures="all"), **words)
    assert ended.value.exit_code == 7
    arm, tried = "mnist-cnn with --tune bias", 6 if any_time else 8
    shown = f"fine-tuning by {arm} is left out: all {tried} trials of it failed, first with"
    (note,) = [line for line in lines if line.startswith("note: fine-tuning by")]
    assert shown in note
    assert "planted fault" in note
    assert "--recipes" in note
    record, folder = decision_in(tmp_path)
    assert record["failed_arms"] == [{"side": "fine-tuning", "arm": arm, "trials": tried}]
    assert record["recommended"]
    assert all(verdict["dropped"] == 0 for verdict in record["verdicts"])
    store = Store(tmp_path)
    tuned = [r for r in map(store.find, record["trials"]) if r.kind == "fine-tuning"]
    assert {r.spec["tune"] for r in tuned} == {"all"}
    page = (folder / report.PAGE).read_text()
    assert shown in page
    assert f"{arm} (failed)" in page
    assert any(record["champions"]["fine-tuning"] in line for line in lines)

    again = compare(bars, settings, **words)  # the fault is gone
    assert "failed_arms" not in json.loads((again.study_folder / report.RECORD).read_text())


@pytest.mark.slow
def test_a_record_without_an_arm_is_the_same_when_it_fails_again(
    bars, cache, tmp_path, monkeypatch
):
    fail_where(monkeypatch, "fine_tuning", lambda spec: spec.tune == "bias")
    records = []
    for _ in range(2):
        with pytest.raises(TrialsFailedError, match="arms-failed"):
            compare(bars, settings_of(tmp_path, cache), recipes="all,bias", shots=(2,))
        records.append((decision_in(tmp_path)[1] / report.RECORD).read_bytes())
    assert records[0] == records[1]


def test_a_classifier_that_fails_everywhere_is_left_out(bars, cache, tmp_path, monkeypatch, lines):
    fail_where(monkeypatch, "feature_extraction", lambda spec: spec.classifier == "knn")
    with pytest.raises(TrialsFailedError, match="planted fault"):
        compare(
            bars, settings_of(tmp_path, cache), classifier="knn ncm", shots=(2,), any_time=False
        )
    record, _ = decision_in(tmp_path)
    assert record["champions"]["feature extraction"] == "ncm on mnist-cnn"
    assert [row["arm"] for row in record["failed_arms"]] == ["knn on mnist-cnn"]
    assert record["verdicts"][0]["dropped"] == 0, "the draws are not at fault"
    assert any("--classifier" in line for line in lines if line.startswith("note: feature"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["feature_extraction", "fine_tuning"])
def test_a_source_that_fails_on_one_side_is_left_out_of_that_side(
    kind, bars, cache, tmp_path, monkeypatch
):
    fail_where(monkeypatch, kind, lambda spec: spec.architecture == "resnet20-cifar")
    with pytest.raises(TrialsFailedError, match="arms-failed"):
        compare(
            bars,
            settings_of(tmp_path, cache),
            sources=("resnet20-cifar", "mnist-cnn"),
            source="random",
            shots=(2,),
            splits=3,
            epochs=1,
        )
    record, folder = decision_in(tmp_path)
    side = kind.replace("_extraction", " extraction").replace("_", "-")
    assert [row["side"] for row in record["failed_arms"]] == [side]
    assert "resnet20" in record["failed_arms"][0]["arm"]
    assert "mnist-cnn" in record["champions"][side]
    assert set(record["scores"]["reached"][side]) == {"mnist-cnn"}
    assert (folder / report.PAGE).is_file()


@pytest.mark.slow
def test_a_source_that_cannot_be_scored_is_left_out_of_the_scores(
    bars, cache, tmp_path, monkeypatch, lines
):
    fail_where(monkeypatch, "scores", lambda spec: spec.architecture == "resnet20-cifar")
    compare(
        bars,
        settings_of(tmp_path, cache),
        sources=("resnet20-cifar", "mnist-cnn"),
        source="random",
        shots=(2,),
        splits=3,
        epochs=1,
    )
    record, folder = decision_in(tmp_path)
    assert "audit" not in record.get("scores", {})
    assert "fewer than two were scored" in (folder / report.PAGE).read_text()
    assert any("left out of the scores" in line for line in lines)


@pytest.mark.slow
def test_where_every_recipe_fails_the_error_names_each_and_features_are_kept(
    bars, cache, tmp_path, monkeypatch
):
    fail_where(monkeypatch, "fine_tuning", lambda spec: True)
    with pytest.raises(TrialsFailedError) as refused:
        compare(bars, settings_of(tmp_path, cache), recipes="all,bias", shots=(2,))
    text = str(refused.value)
    assert "no trial of fine-tuning has a result" in text
    assert "by mnist-cnn is left out" in text
    assert "by mnist-cnn with --tune bias is left out" in text
    assert "--recipes" in text
    store = Store(tmp_path)
    assert {r.kind for r in map(store.find, store.keys())} == {"feature-extraction"}
