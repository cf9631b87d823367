"""--tune in a study: keys, epochs, what is recorded, what is refused, the model made again."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import undrawn

from tlx.errors import ErrorGroup, ResourceError, UnknownNameError, UsageError
from tlx.lab.store import Store
from tlx.lab.tasks import Progress
from tlx.models.tune_choices import TUNES
from tlx.studies import estimate, served_trial
from tlx.studies.few_shot import FewShotGrid
from tlx.studies.fine_tuning import plan as fine_tuning_plan
from tlx.studies.fine_tuning.spec import FineTuning
from tlx.studies.tuning.spec import SearchBase

FEW = FewShotGrid(shots=(2,), splits=1, val_per_class=3)
BEFORE = {  # keys from before the setting was there
    "9674d55c02dd0c92f0f7c1b3de1660776b5f80bd51f36aa6fda2cbf4de5bc5dd": {},
    "4e95a51e24c9a90550da5c49d54a4ef18b8602aa34a3be1f3efffc44b15b8cba": {
        "epochs": 3,
        "shots": 2,
        "head_epochs": 4,
    },
}


def asked(bars, **changes):
    return FineTuning(dataset=str(bars), **{"epochs": 2, "use_crops": False, **changes})


def perform(spec, settings, watch=lambda event: None):
    stage, _ = fine_tuning_plan.fine_tuning_study(spec, FEW, settings)
    report = undrawn.run_stage(stage, settings, watch)
    report.raise_if_failed(require_tracking=False)
    return report


def refusal(spec, settings):
    with pytest.raises((UsageError, ErrorGroup)) as refused:
        fine_tuning_plan.fine_tuning_study(spec, FEW, settings)
    assert refused.value.exit_code == 2
    return str(refused.value)


@pytest.mark.parametrize("key", BEFORE)
def test_old_keys_stay_and_all_is_no_other_question(key):
    assert FineTuning(**BEFORE[key]).key == key
    assert FineTuning(**BEFORE[key], tune="all").key == key
    assert "Tune" not in FineTuning(**BEFORE[key]).mlflow_params()


def test_every_choice_has_a_key_of_its_own_and_one_text():
    texts = [*TUNES, "head-then-all:epochs=3", "lora:r=4", "lora:r=4,alpha=8"]
    assert len({FineTuning(tune=text).key for text in texts}) == len(texts)
    default = FineTuning(tune="head-then-all:epochs=10")
    assert default.tune == "head-then-all"
    assert default.key == FineTuning(tune="head-then-all").key
    assert default.mlflow_params()["Tune"] == "head-then-all"
    again = FineTuning.from_json(FineTuning(tune="head-then-all:epochs=3").to_json())
    assert again.key == FineTuning(tune="head-then-all:epochs=3").key


def test_the_epochs_of_both_phases_are_counted():
    assert FineTuning(epochs=7).most_epochs == FineTuning(epochs=7, head_epochs=3).most_epochs == 7
    assert FineTuning(epochs=7, tune="head-then-all").most_epochs == 17
    assert FineTuning(epochs=7, tune="head-then-all:epochs=2").most_epochs == 9


def test_what_is_no_choice_is_refused_where_it_is_given():
    with pytest.raises((UnknownNameError, ErrorGroup), match="nearest: bias"):
        FineTuning(tune="biass")


def test_a_network_without_normalisation_is_refused_before_anything_is_computed(bars, settings):
    said = refusal(asked(bars, tune="norm"), settings)
    assert "MNIST CNN has no normalisation layer" in said
    assert "Conv2d, Linear" in said
    found = fine_tuning_plan.look_at_fine_tuning(asked(bars, tune="norm"), FEW, settings)
    assert [problem.code for problem in found.problems] == ["nothing-to-tune"]


def test_adapters_without_their_package_are_refused_before_anything_is_computed(
    bars, settings, monkeypatch
):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ResourceError, match=r"pip install 'tlx\[lora\]'"):
        fine_tuning_plan.fine_tuning_study(asked(bars, tune="lora"), FEW, settings)


def test_workers_import_the_package_of_adapters_once_for_all_trials(bars, settings):
    stages = {}
    for tune in ("bias", "lora"):
        if tune == "lora":
            pytest.importorskip("peft")
        stages[tune], _ = fine_tuning_plan.fine_tuning_study(asked(bars, tune=tune), FEW, settings)
    assert stages["bias"].preload == ()
    assert stages["lora"].preload == ("peft",)


def test_the_epochs_of_the_head_are_said_once(bars, settings):
    said = refusal(asked(bars, tune="head-then-all", head_epochs=4), settings)
    assert "head-then-all:epochs=4" in said


def test_a_search_of_classifiers_has_no_such_setting():
    with pytest.raises(UsageError, match="--tune"):
        SearchBase(tune="bias").of("feature-extraction")
    assert SearchBase(tune="bias").of("fine-tuning").tune == "bias"


@pytest.mark.parametrize(
    ("tune", "learning"),
    [("all", 3 * 3 * 32 + 32 + 9 * 32 * 64 + 64 + 1600 * 128 + 128), ("bias", 32 + 64 + 128)],
)
def test_the_number_of_parameters_that_learn_is_recorded(bars, settings, tune, learning):
    (result,) = perform(asked(bars, tune=tune), settings).results
    assert result.spec["tune"] == tune
    assert result.details["trainable_parameters"] == learning + 128 * 3 + 3
    assert result.details["parameters"] == 224_131


def test_a_study_of_two_phases_counts_its_steps_and_its_cost(bars, settings):
    events = []
    spec = asked(bars, tune="head-then-all:epochs=3", early_stopping=False)
    (result,) = perform(spec, settings, watch=events.append).results
    assert result.details["epochs"] == 5
    assert len(result.details["frozen_prefix"]) == 1, "the head's phase has frozen blocks"
    steps = [(event.step, event.steps) for event in events if isinstance(event, Progress)]
    assert steps
    assert all(0 < step <= most for step, most in steps)
    look = fine_tuning_plan.look_at_fine_tuning(spec, FEW, settings)
    (row,) = estimate.rows_of(spec, FEW, look)
    assert row.training == 5 * 6


@pytest.mark.parametrize("tune", ["bias", "head-then-all:epochs=2", "lora:r=4"])
def test_the_model_of_a_trial_is_made_again(bars, settings, tune):
    if tune.startswith("lora"):
        pytest.importorskip("peft")
    report = perform(asked(bars, tune=tune), settings)
    store = Store(report.folder)
    chosen = served_trial.choose(store, report.results[0].key)
    rebuilt = served_trial.rebuild(chosen, store, settings, lambda text: None)
    kept = np.load(store.file(report.results[0].key, served_trial.PREDICTIONS))
    np.testing.assert_array_equal(rebuilt.decided, kept)
