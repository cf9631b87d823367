"""Recipes of fine-tuning as arms of a comparison: reduced to the best after the first draws."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import undrawn
from studies.comparisons import compare, settings_of

from tlx.errors import ErrorGroup, TlxError, UsageError
from tlx.lab.store import Store
from tlx.studies import STUDIES, Session, run_study
from tlx.studies.compare import evidence, page, report
from tlx.studies.compare.spec import CompareGrid

RECIPES = "all bias,head-then-all:epochs=2"


@pytest.fixture(scope="module")
def done(bars, cache, tmp_path_factory):
    settings = settings_of(tmp_path_factory.mktemp("runs"), cache)
    return compare(bars, settings, splits=5, recipes=RECIPES), settings


def tuned_by_recipe(store):
    """--tune → trials, of everything in a store."""
    trials = [r for r in map(store.find, store.keys()) if r.kind == "fine-tuning"]
    return {
        tune: [r for r in trials if r.spec["tune"] == tune]
        for tune in CompareGrid(recipes=RECIPES).tunes("")
    }


def name_of(tune):
    return "mnist-cnn" if tune == "all" else f"mnist-cnn with --tune {tune}"


def splits_of(trials, shots):
    return {r.spec["split"] for r in trials if r.spec["shots"] == shots}


def test_every_recipe_is_tried_on_the_first_draws_and_those_that_are_hardly_the_best_go(done):
    done_report, _ = done
    by_recipe = tuned_by_recipe(Store(done_report.folder))
    record = json.loads((done_report.study_folder / report.RECORD).read_text())
    kept = [Store(done_report.folder).find(key) for key in record["trials"]]
    for shots in (1, 2):
        tried = {tune: splits_of(trials, shots) for tune, trials in by_recipe.items()}
        assert all(splits >= {0, 1, 2} for splits in tried.values()), shots
        left = {
            r.spec["tune"] for r in kept if r.kind == "fine-tuning" and r.spec["shots"] == shots
        }
        assert left
        most = max(tried.values(), key=len)
        assert all(tried[tune] == most for tune in left), "arms that are left have the same draws"
        means = {
            tune: np.mean(
                [
                    r.scores["best_val_accuracy"]
                    for r in trials
                    if r.spec["shots"] == shots and r.spec["split"] < 3
                ]
            )
            for tune, trials in by_recipe.items()
        }
        assert max(means, key=lambda tune: means[tune]) in left or len(most) > 3
    at_headline = {r.spec["tune"] for r in kept if r.kind == "fine-tuning" and r.spec["shots"] == 2}
    left_out = done_report.results[-1].details["left_out"]
    named = {row["arm"] for row in left_out if row["shots"] == 2}
    assert named == {name_of(tune) for tune in by_recipe if tune not in at_headline}
    text = (done_report.study_folder / report.PAGE).read_text()
    assert all(f"{name} (left out)" in text for name in named)


def test_without_a_race_every_recipe_is_tried_on_every_draw(done, bars):
    _, settings = done
    whole = compare(bars, settings, splits=5, any_time=False, recipes=RECIPES)
    counts = {tune: len(trials) for tune, trials in tuned_by_recipe(Store(whole.folder)).items()}
    assert set(counts.values()) == {10}
    assert not whole.results[-1].details["left_out"]


def test_each_recipe_is_tried_at_each_learning_rate(bars, cache, tmp_path):
    words = {"recipes": "all,bias", "learning_rates": (0.01, 0.1), "splits": 3, "any_time": False}
    done_report = compare(bars, settings_of(tmp_path, cache), **words)
    store = Store(tmp_path)
    trials = [r for r in map(store.find, store.keys()) if r.kind == "fine-tuning"]
    arms = {(r.spec["tune"], r.spec["learning_rate"]) for r in trials}
    assert arms == {("all", 0.01), ("all", 0.1), ("bias", 0.01), ("bias", 0.1)}
    assert len(trials) == 4 * 2 * 3
    text = (done_report.study_folder / report.PAGE).read_text()
    assert "mnist-cnn with --tune bias at learning rate 0.1" in text
    titles = {store.read_study(key)["title"] for key in store.studies()}
    assert sum("learning rate 0.1" in title for title in titles) == 2


def test_learning_rates_and_one_of_them_exclude_each_other(bars, cache, tmp_path):
    with pytest.raises(UsageError, match="one of the two"):
        compare(bars, settings_of(tmp_path, cache), learning_rates=(0.1, 0.2), learning_rate=0.3)


def test_asked_again_nothing_is_trained(done, bars, monkeypatch):
    done_report, settings = done
    monkeypatch.setattr("tlx.models.training.fit", None)
    assert compare(bars, settings, splits=5, recipes=RECIPES).key == done_report.key


def test_recipes_in_another_order_are_the_same_question(done, bars, monkeypatch):
    done_report, settings = done
    monkeypatch.setattr("tlx.models.training.fit", None)
    turned = " ".join(reversed(CompareGrid(recipes=RECIPES).tunes("")))
    assert compare(bars, settings, splits=5, recipes=turned).key == done_report.key


def test_one_recipe_is_the_question_that_it_was(done, bars):
    grid = CompareGrid()
    assert grid.tunes("all") == ["all"]
    assert grid.tunes("bias") == ["bias"]
    _, settings = done
    alone = [
        compare(bars, settings, any_time=False, splits=3, **words)
        for words in ({"recipes": "all"}, {})
    ]
    assert alone[0].key == alone[1].key


def test_commas_separate_recipes_and_their_settings():
    texts = CompareGrid(recipes="all, lora:r=4,alpha=16,norm all").tunes("all")
    assert texts == ["all", "lora:r=4,alpha=16", "norm"]


@pytest.mark.parametrize("words", ["all,nrom", "norm:epochs=2", "head-then-all:epochs=0"])
def test_what_is_no_recipe_is_refused(words):
    with pytest.raises((TlxError, ErrorGroup)) as refused:
        CompareGrid(recipes=words)
    assert refused.value.exit_code == 2


def test_a_list_and_one_choice_exclude_each_other(bars, cache, tmp_path):
    with pytest.raises(UsageError, match="one of the two"):
        compare(bars, settings_of(tmp_path, cache), recipes="all,bias", tune="bias")


def test_recipes_that_no_source_has_a_part_for_are_refused_before_anything_runs(
    bars, cache, tmp_path
):
    with pytest.raises(UsageError, match="no normalisation layer"):
        compare(bars, settings_of(tmp_path, cache), recipes="norm")
    assert not Store(tmp_path).keys()


def test_a_recipe_that_one_source_has_no_part_for_is_left_out_there(
    bars, cache, tmp_path, monkeypatch
):
    said = []
    monkeypatch.setattr(Session, "say", lambda self, *lines: said.extend(lines))
    compare(bars, settings_of(tmp_path, cache), recipes="all,norm", splits=3, any_time=False)
    store = Store(tmp_path)
    trials = [r for r in map(store.find, store.keys()) if r.kind == "fine-tuning"]
    assert {r.spec["tune"] for r in trials} == {"all"}
    assert any("mnist-cnn with --tune norm is left out: " in line for line in said)


def test_a_trial_stored_before_the_setting_is_of_the_arm_of_all(done):
    done_report, _ = done
    trials = tuned_by_recipe(Store(done_report.folder))["all"]
    old = [
        replace(r, spec={name: v for name, v in r.spec.items() if name != "tune"}) for r in trials
    ]
    side = evidence.Side(evidence.TUNING)
    side.add([*trials[:3], *old[3:]])
    assert list(side.arms) == ["mnist-cnn"]


def test_studies_of_two_recipes_are_two_arms_of_a_comparison_from_the_store(done):
    done_report, settings = done
    store = Store(done_report.folder)
    names = ("Fine-tuning", "Feature extraction")
    keys = [k for k in store.studies() if store.read_study(k)["experiment"] in names]
    titles = {store.read_study(key)["title"] for key in keys}
    assert any("--tune bias" in title for title in titles)
    study = STUDIES["compare"].with_settings({"from_studies": tuple(keys)})
    again = run_study(study, undrawn.session(settings))
    outcome = report.outcome_of(store, again.results[-1])
    arms = [
        row[0]
        for row in page.arms_table(outcome, outcome.at)["rows"]
        if row[0].startswith("fine-tuning")
    ]
    assert len(arms) == 3
