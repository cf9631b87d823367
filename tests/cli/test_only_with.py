"""A setting that has no effect beside the others is refused, and said with what it has one."""

from __future__ import annotations

import pytest

from tlx.errors import UsageError
from tlx.lab.settings import Figures, Settings
from tlx.spec import Spec, make_specs
from tlx.studies import STUDIES


def others_of(study, spec, name):
    """Return the other settings of a rule that the study has, with their values."""
    owned = {n for kind in (*STUDIES[study].specs, Settings, Figures) for n in kind.settings()}
    return {n: v for n, v in spec.settings()[name].only_with.items() if n in owned}


ROWS = sorted(
    {
        (study, name, spec)
        for study, row in STUDIES.items()
        for spec in (*row.specs, Settings, Figures)
        for name, declared in spec.settings().items()
        if declared.cli and others_of(study, spec, name)
    },
    key=lambda row: row[:2],
)
EXAMPLES = {  # setting → a value that is not its default
    "momentum": 0.5,
    "weight_decay": 0.3,
    "stopping": "accuracy",
    "step_epochs": 3,
    "step_factor": 0.3,
    "standardize": "per-set",
    "require_tracking": True,
    "address": "host:8786",
    "gpus": 0.25,
    "silent_s": 30.0,
    "mixed_nodes": True,
    "takeover": True,
    "alias": "best",
    "refit": True,
    "currency": "CHF",
    "halves": "random",
    "gap": "mmd",
    "source_epochs": 3,
    "source_rate": 0.3,
    "note": "mine",
    "replica_processes": 2,
    "fast_sum": True,
    "bn": "adapt",
}
WITHOUT = {  # other setting → a value that makes the setting have no effect, if not its default
    "optimizer": "adam",
    "schedule": "constant",
    "early_stopping": False,
    "embedding": "l2",
    "tracking": False,
    "source": "ImageNet",
}
GIVEN = {  # other setting → a value that is not its default
    **{"register": "name", "export": "folder", "price_cpu_hour": 2.0, "price_gpu_hour": 2.0},
    "freeze": 1,
    **{"source_images": "digits", "source_dataset": "digits", "out": "file.pth"},
}


NEEDED = {"engine": {"address": "host:8786"}}  # other setting → what it asks for itself


def rows():
    return pytest.mark.parametrize(
        ("study", "name", "spec"), ROWS, ids=[f"{study}-{name}" for study, name, _ in ROWS]
    )


def specs_of(study, **settings):
    return make_specs((*STUDIES[study].specs, Settings, Figures), settings)


def test_every_rule_is_tried():
    assert {name for _, name, _ in ROWS} == set(EXAMPLES)
    assert {"step_epochs", "step_factor", "alias", "refit", "momentum"} <= set(EXAMPLES)


@rows()
def test_a_setting_without_effect_is_refused_and_the_message_says_with_what(study, name, spec):
    others = others_of(study, spec, name)
    settings = {other: WITHOUT[other] for other in others if other in WITHOUT}
    with pytest.raises(UsageError) as refused:
        specs_of(study, **settings, **{name: EXAMPLES[name]})
    assert (refused.value.code, refused.value.exit_code) == ("no-effect", 2)
    assert f"--{name.replace('_', '-')}" in refused.value.what
    for other in others:
        assert f"--{other.replace('_', '-')}" in refused.value.remedy


@rows()
def test_with_any_of_the_others_it_is_taken(study, name, spec):
    for other, values in others_of(study, spec, name).items():
        for value in values or (GIVEN[other],):
            settings = {**NEEDED.get(other, {}), name: EXAMPLES[name], other: value}
            taken = specs_of(study, **settings)
            assert any(getattr(given, name, None) == EXAMPLES[name] for given in taken)


@rows()
def test_its_default_is_no_error_as_scripts_give_every_setting(study, name, spec):
    settings = {other: WITHOUT[other] for other in others_of(study, spec, name) if other in WITHOUT}
    default = spec.defaults()[name]
    specs_of(study, **settings, **({} if default is None else {name: default}))


def test_a_name_with_settings_of_its_own_counts_by_its_name():
    specs_of("feature-extraction", standardize="per-set", embedding="fne:low=-0.5")


def test_trials_of_before_are_read_though_their_settings_have_no_effect():
    kind = STUDIES["fine-tuning"].specs[0]
    assert Spec.from_json(kind(step_epochs=3).to_json()).step_epochs == 3


def test_all_settings_without_effect_are_named_at_once(tlx):
    code, _, err = tlx("fine-tuning", "--step-epochs", 3, "--step-factor", 0.5, "--dataset", "none")
    assert code == 2
    assert "--step-epochs 3 without --schedule step" in err
    assert "--step-factor 0.5 without --schedule step" in err
    assert "add --schedule step, or leave out --step-factor" in err


@pytest.mark.parametrize("option", ["--val-per-class", "--test-per-class", "--split-seed"])
def test_how_to_draw_has_no_effect_with_splits_that_are_given(tlx, bars, option):
    assert tlx("splits", "draw", "csvs", "--dataset", bars, "--val-per-class", 2)[0] == 0
    words = ("check", "--dataset", bars, "--split-path", "csvs", "--shots", 1)
    assert tlx(*words)[0] == 0
    code, _, err = tlx(*words, option, 3)
    assert code == 2
    assert f"{option} with --split-path" in err


def test_a_time_limit_needs_a_process_that_can_be_ended():
    with pytest.raises(UsageError, match="--timeout 60 and --workers 0"):
        Settings(timeout=60.0, workers=0)
    Settings(timeout=60.0, workers=1)
