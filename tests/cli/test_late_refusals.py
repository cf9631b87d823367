"""A choice that the program offers and then refuses inside a trial is a bug in tlx: exit 1, and it
says so.
"""

from __future__ import annotations

import pytest
from cli.test_image_rules import COMMANDS, ask

from tlx import errors, metrics
from tlx.features.spans import Training
from tlx.metrics import scores
from tlx.models import training
from tlx.models.quanta import training as quanta_training

PLANTED = {  # command → where its trial refuses a choice
    "feature-extraction": (Training, "fit"),
    "tune": (Training, "fit"),
    "compare": (Training, "fit"),
    "scores": (scores, "feature_table"),
    "analyze": (metrics, "rdm"),
    "atlas": (metrics, "rdm"),
    "quanta": (quanta_training, "fit"),
    **dict.fromkeys(
        ("fine-tuning", "pretrain", "layer-transfer", "chop", "prune", "parameter-distance"),
        (training, "fit"),
    ),
}
WITHOUT_TRIALS = {"check", "splits draw", "extract", "crops"}


def refuse(*args, **settings):
    raise errors.UnknownNameError("planted choice", "svn", ["svm"])


def test_every_command_with_trials_is_in_the_table():
    assert set(PLANTED) == set(COMMANDS) - WITHOUT_TRIALS


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANTED)
def test_a_choice_that_is_refused_inside_a_trial_is_a_bug(name, tlx, bars, monkeypatch):
    monkeypatch.setattr(*PLANTED[name], refuse)
    code, out, complained = ask(tlx, name, bars)
    assert code == 1, out + complained
    assert "unknown planted choice 'svn'" in complained
    assert "fault in tlx" in complained


@pytest.mark.parametrize(
    "error",
    [
        errors.UsageError("u", "x"),
        errors.UnknownNameError("kind", "a", ["b"]),
        errors.ErrorGroup([errors.UsageError("u", "x"), errors.UsageError("v", "y")]),
    ],
)
def test_refused_settings_become_a_bug_and_keep_their_words(error):
    bug = errors.late_refusal(error)
    assert bug.exit_code == 1
    assert str(error) in str(bug).replace("\\n", "\n")


@pytest.mark.parametrize(
    "error",
    [
        errors.BadDataError("b", "x"),
        errors.ResourceError("r", "x"),
        errors.BusyError("b", "x"),
        errors.IntegrityError("i", "x"),
        errors.ErrorGroup([errors.UsageError("u", "x"), errors.BadDataError("b", "x")]),
    ],
)
def test_what_is_no_setting_stays_what_it_is(error):
    assert errors.late_refusal(error) is error
