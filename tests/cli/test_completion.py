"""What the shell completes, what two bad options say, which spellings of lists are taken, and what
hints name.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import tlx as package
from tlx import models
from tlx.cli import app
from tlx.cli.completion import NAMES, completion
from tlx.spec import Spec, split_words
from tlx.studies.feature_extraction.spec import FeatureExtractionGrid

SOURCES = sorted(Path(package.__file__).parent.rglob("*.py"))


def specs(base=Spec):
    app.flags()
    return [kind for child in base.__subclasses__() for kind in (child, *specs(child))]


def settings_with_choices():
    return sorted(
        {
            (name, row)
            for kind in specs()
            if kind.__module__.startswith("tlx.")
            for name, row in kind.settings().items()
            if row.choices
        },
        key=str,
    )


@pytest.mark.parametrize(
    ("name", "row"), settings_with_choices(), ids=lambda one: one if isinstance(one, str) else ""
)
def test_every_choice_completes(name, row):
    complete = completion(name, row)
    for choice in map(str, row.choices):
        assert choice in complete("")
        assert choice in complete(choice[:2])


@pytest.mark.parametrize(
    ("name", "begun", "found"),
    [
        ("architecture", "mnist", "mnist-cnn"),
        ("dataset", "dig", "digits"),
        ("classifier", "ridge,line", "ridge,linear-svc"),
        ("treatments", "baseA,An", "baseA,AnB"),
        ("study", "fine", "fine-tuning"),
        ("embedding", "f", "fne"),
    ],
)
def test_names_of_tables_complete_after_a_comma_too(name, begun, found):
    from tlx.spec import Setting

    assert found in completion(name, Setting())(begun)


def test_a_data_set_completes_as_a_folder_too(tmp_path, monkeypatch):
    from tlx.spec import Setting

    (tmp_path / "photos").mkdir()
    (tmp_path / "photo.txt").touch()
    monkeypatch.chdir(tmp_path)
    assert completion("dataset", Setting())("pho") == ["photos/"]
    assert completion("dataset", Setting())(f"{tmp_path}/pho") == [f"{tmp_path}/photos/"]


def test_the_shell_is_answered(tlx, monkeypatch):
    monkeypatch.setenv("_TLX_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "tlx fine-tuning --optimizer ad")
    monkeypatch.setenv("COMP_CWORD", "3")
    code, out, _ = tlx()
    assert code == 0
    assert out.split() == ["adam", "adamw"]


def test_every_name_that_completes_is_a_setting():
    known = {name for kind in specs() for name in kind.settings()}
    assert set(NAMES) <= known


# ---------------------------------------------------------------- what is wrong, all at once


@pytest.mark.parametrize(
    "words",
    [
        ["fine-tuning", "--epochs", "0", "--optimizer", "adm"],  # of one spec
        ["fine-tuning", "--epochs", "0", "--splits", "none at all"],  # of two
        ["fine-tuning", "--epochs", "x", "--workers", "-3"],
        ["analyze", "--rdm", "cosin", "--threads", "0"],
        ["chop", "--epochs", "0", "--batch-size", "0"],
    ],
    ids=" ".join,
)
def test_two_bad_options_are_both_named(tlx, words):
    code, _, err = tlx(*words)
    assert code == 2
    for option in (words[1], words[3]):
        assert option.removeprefix("--") in err, err
    assert len(err.splitlines()) == 2, "each once"


# ---------------------------------------------------------------- lists


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ridge,lda", ["ridge", "lda"]),
        ("ridge lda", ["ridge", "lda"]),
        ("ridge, lda", ["ridge", "lda"]),
        ("knn:k=3,weights=distance", ["knn:k=3,weights=distance"]),
        (
            "knn:k=3,weights=distance,ridge:alpha=2,lda",
            ["knn:k=3,weights=distance", "ridge:alpha=2", "lda"],
        ),
        ("ncm linear-svc:C=0.1", ["ncm", "linear-svc:C=0.1"]),
    ],
)
def test_classifiers_may_be_separated_by_commas(text, words):
    assert split_words(text) == words
    assert len(FeatureExtractionGrid(classifier=text).classifiers) == len(words)


# ---------------------------------------------------------------- hints


def test_what_makes_a_missing_thing_is_a_command_or_an_option_that_there_is():
    commands = {*app.COMMANDS, "splits draw"}
    known = {name.replace("_", "-") for kind in specs() for name in kind.settings()}
    hints = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.keyword)
                and node.arg == "made_by"
                and isinstance(node.value, ast.Constant)
            ):
                hints.append(node.value.value)
    assert len(hints) > 5
    for hint in filter(None, hints):
        options = re.findall(r"--([a-z-]+)", hint)
        assert set(options) <= known | {"out"}, hint
        if not hint.startswith("--"):
            assert any(hint.startswith(f"tlx {command}") for command in commands), hint


def test_what_is_loaded_when_asked_for_is_listed():
    for module in (package, models):
        for name in dir(module):
            assert getattr(module, name) is not None or name.startswith("__")
    assert {"models", "metrics", "features", "data"} <= set(dir(package))
    assert {"transfer", "QuantaGate"} <= set(dir(models))
