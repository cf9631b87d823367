"""Comparison over several data sets: the table of rules, what is refused."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import draw_images
from studies import comparisons
from studies.comparisons import settings_of

from tlx.errors import BadDataError, UsageError
from tlx.lab.settings import Figures
from tlx.lab.store import Store
from tlx.metrics.paired import DECIDED, analyse
from tlx.result import FINISHED, Result
from tlx.studies.compare import across, evidence, report
from tlx.studies.compare.study import data_sets


def compare(settings, **changes):
    """Run small comparisons of every draw on the data sets given."""
    dataset = changes.pop("dataset", None)
    if "from_studies" not in changes:
        changes = {"any_time": False, "epochs": 1, **changes}
    return comparisons.compare(dataset, settings, **changes)


@pytest.fixture(scope="module")
def done(bars, cache, tmp_path_factory):
    other = draw_images(tmp_path_factory.mktemp("other") / "other", classes=4, per_class=9, seed=3)
    settings = settings_of(tmp_path_factory.mktemp("runs"), cache)
    return compare(settings, dataset=f"{bars},{other}", figures=Figures(figures="study")), settings


@pytest.mark.slow
def test_each_data_set_has_a_decision_and_each_rule_its_regret_on_it(done):
    done_report, _ = done
    store = Store(done_report.folder)
    (result,) = done_report.results
    with open(done_report.study_folder / "rules.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 4
    for name, key in result.details["decisions"]:
        outcome = report.outcome_of(store, store.find(key))
        means = [
            [np.mean([r.scores["test_accuracy"] for r in side]) for side in (p.features, p.tuning)]
            for p in outcome.data.pairs
        ]
        shown = {row["rule"]: float(row["regret"]) for row in rows if row["data_set"] == name}
        wanted = {
            "always feature extraction": np.mean([max(m) - m[0] for m in means]),
            "always fine-tuning": np.mean([max(m) - m[1] for m in means]),
        }
        wanted["feature extraction below 20 images per class"] = wanted["always feature extraction"]
        for rule, regret in wanted.items():
            assert shown[rule] == pytest.approx(regret, abs=1e-12)
        assert shown[across.OURS] <= max(wanted.values()) + 0.5


@pytest.mark.slow
def test_the_words_the_table_and_the_figure(done):
    done_report, _ = done
    text = done_report.stage.format_summary(done_report)
    assert "bars: " in text
    assert "other: " in text
    assert "Over 2 data sets, deciding by tlx compare loses " in text
    assert "always fine-tuning" in text
    assert (done_report.study_folder / "rules.png").exists()
    summary = json.loads((done_report.study_folder / "summary.json").read_text())
    assert {m["name"] for m in summary["metrics"]} == {
        "regret_features",
        "regret_tuning",
        "regret_few_shots",
        "regret_tlx",
    }


@pytest.mark.slow
def test_finished_studies_of_two_data_sets_give_the_same_table(done, monkeypatch):
    done_report, settings = done
    store = Store(done_report.folder)
    keys = [
        key
        for key in store.studies()
        if store.read_study(key)["experiment"] in ("Fine-tuning", "Feature extraction")
    ]
    assert len(keys) == 4
    monkeypatch.setattr("tlx.models.training.fit", None)
    again = compare(settings, from_studies=tuple(keys))
    table = (done_report.study_folder / "rules.csv").read_text().splitlines()
    assert sorted((again.study_folder / "rules.csv").read_text().splitlines()) == sorted(table)
    side_of = {
        (store.read_study(key)["experiment"], store.read_study(key)["inputs"][0]["name"]): key
        for key in keys
    }
    apart = side_of["Fine-tuning", "bars"], side_of["Feature extraction", "other"]
    with pytest.raises(BadDataError, match="2 sets of test images"):
        compare(settings, from_studies=apart)


@pytest.mark.parametrize("text", ["a,", "a,,b", "a,b,a"])
def test_a_data_set_that_is_empty_or_twice_is_refused(text):
    with pytest.raises(UsageError, match="each data set once"):
        data_sets(text)


def test_a_folder_with_a_comma_is_one_data_set(tmp_path):
    folder = tmp_path / "a,b"
    folder.mkdir()
    assert data_sets(str(folder)) == (str(folder),)
    assert data_sets("digits, mnist-noise") == ("digits", "mnist-noise")


@pytest.mark.parametrize("option", ["split_path", "out", "precomputed_crops"])
def test_what_belongs_to_one_data_set_is_refused_for_two(option, settings):
    with pytest.raises(UsageError, match="with 2 data sets"):
        compare(settings, dataset="digits,mnist", **{option: "there"})


# ---------------------------------------------------------------- the decision, without its draw


def trials(kind, accuracies, shots, seconds):
    for split, accuracy in enumerate(accuracies):
        yield Result(
            key=f"{kind}{shots}{split}",
            kind=kind,
            spec={"shots": shots, "split": split, "architecture": "net"},
            status=FINISHED,
            scores={"test_accuracy": accuracy, "best_val_accuracy": accuracy, "total_s": seconds},
            details={"classes": ["a"], "pool": 1000},
        )


def test_tlx_decides_for_each_draw_from_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, "tables_of", lambda store, pairs: None)
    rng = np.random.default_rng(0)
    sides = {}
    accuracies = {}
    for side, kind, base in (
        (evidence.FEATURES, "feature-extraction", {1: 0.5, 5: 0.6, 20: 0.70}),
        (evidence.TUNING, "fine-tuning", {1: 0.3, 5: 0.61, 20: 0.80}),
    ):
        sides[side] = evidence.Side(side)
        for shots, mean in base.items():
            accuracies[side, shots] = mean + rng.normal(0, 0.04, 6)
            seconds = 1.0 if side == evidence.FEATURES else 9.0
            sides[side].add(trials(kind, accuracies[side, shots], shots, seconds))
    data = evidence.gather(sides[evidence.FEATURES], sides[evidence.TUNING])
    points = across.choice_points(Store(tmp_path), data, 0.05, 0.01)
    for shots, found in zip((1, 5, 20), points, strict=True):
        assert found.first == pytest.approx(accuracies[evidence.FEATURES, shots])
        assert found.second == pytest.approx(accuracies[evidence.TUNING, shots])
        for split in range(6):
            others = [
                evidence.contrast_of(
                    replace(
                        pair,
                        features=pair.features[:split] + pair.features[split + 1 :],
                        tuning=pair.tuning[:split] + pair.tuning[split + 1 :],
                    ),
                    None,
                    data.pool,
                )
                for pair in data.pairs
            ]
            verdict = next(v for v in analyse(others) if v.shots == shots)
            tunes = verdict.verdict == DECIDED and verdict.mean > 0  # else features: cheaper
            assert found.chose_second[across.OURS][split] == tunes
    assert not points[0].chose_second[across.OURS].any()
    assert points[2].chose_second[across.OURS].all()
    assert points[2].chose_second["feature extraction below 20 images per class"]


def test_settings_of_trials_are_refused_beside_finished_studies(settings):
    with pytest.raises(UsageError) as refused:
        comparisons.compare(
            None, settings, from_studies=("ab",), epochs=3, splits=4, sources=("mnist-cnn",)
        )
    assert refused.value.code == "no-effect"
    assert "--sources, --epochs, --splits with --from" in str(refused.value)
    assert not Store(settings.store).studies()
