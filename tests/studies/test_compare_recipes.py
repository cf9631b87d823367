"""Recipes of fine-tuning as arms of a comparison: reduced to the best after the first draws."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
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
    return compare(bars, settings, any_time=False, recipes=RECIPES), settings


def tuned_by_recipe(store):
    """--tune → trials, of everything in a store."""
    trials = [r for r in map(store.find, store.keys()) if r.kind == "fine-tuning"]
    return {
        tune: [r for r in trials if r.spec["tune"] == tune]
        for tune in CompareGrid(recipes=RECIPES).tunes("")
    }


def test_every_recipe_is_tried_on_the_first_draws_and_the_best_on_validation_goes_on(done):
    done_report, _ = done
    by_recipe = tuned_by_recipe(Store(done_report.folder))
    counts = {tune: len(trials) for tune, trials in by_recipe.items()}
    assert sorted(counts.values()) == [6, 6, 8], "two shots on three draws, and the best on four"
    first = {
        tune: np.mean(
            [
                np.mean(
                    [
                        r.scores["best_val_accuracy"]
                        for r in trials
                        if r.spec["shots"] == k and r.spec["split"] < 3
                    ]
                )
                for k in (1, 2)
            ]
        )
        for tune, trials in by_recipe.items()
    }
    best = max(first, key=lambda tune: first[tune])
    assert counts[best] == 8
    record = json.loads((done_report.study_folder / report.RECORD).read_text())
    kept = [Store(done_report.folder).find(key) for key in record["trials"]]
    assert {r.spec["tune"] for r in kept if r.kind == "fine-tuning"} == {best}
    named = {row["arm"] for row in done_report.results[-1].details["left_out"]}
    assert named == {
        "mnist-cnn" if tune == "all" else f"mnist-cnn with --tune {tune}"
        for tune in first
        if tune != best
    }
    text = (done_report.study_folder / report.PAGE).read_text()
    assert all(f"{name} (left out)" in text for name in named)


def test_asked_again_nothing_is_trained(done, bars, monkeypatch):
    done_report, settings = done
    monkeypatch.setattr("tlx.models.training.fit", None)
    assert compare(bars, settings, any_time=False, recipes=RECIPES).key == done_report.key


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


def test_a_recipe_that_a_source_has_no_part_for_is_refused_before_anything_runs(
    bars, cache, tmp_path
):
    with pytest.raises((UsageError, ErrorGroup), match="no normalisation layer"):
        compare(bars, settings_of(tmp_path, cache), recipes="all,norm")
    assert not Store(tmp_path).keys()


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
    again = run_study(study, Session(settings))
    outcome = report.outcome_of(store, again.results[-1])
    arms = [row[0] for row in page.arms_table(outcome)["rows"] if row[0].startswith("fine-tuning")]
    assert len(arms) == 3
