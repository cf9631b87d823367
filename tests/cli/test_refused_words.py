"""Everything that is wrong with a command line is said at once: unknown options, wrong types, wrong
values.
"""

from __future__ import annotations

import pytest

from tlx.cli.app import TOOLS
from tlx.cli.options import without


def test_unknown_options_are_named_all_at_once_beside_wrong_values(tlx):
    code, _, err = tlx(
        "fine-tuning",
        "--epoch",
        3,
        "--batchsize=4",
        "--wat",
        "--epochs",
        "many",
        "--optimizer",
        "sgdd",
        "--workers",
        0,
    )
    assert code == 2
    for word in ("--epoch", "--batchsize", "--wat"):
        assert f"No such option: {word}" in err, err
    assert err.count("Usage: tlx fine-tuning") == 1
    assert "'many'" in err
    assert "'sgdd'" in err
    assert err.count("--workers") == 0, "which is right"


def test_one_unknown_option_is_said_once(tlx):
    code, _, err = tlx("pretrain", "--xyzq", 3)
    assert code == 2
    assert err.count("Error") == 1
    assert err.count("--xyzq") == 1


@pytest.mark.parametrize("name", [*TOOLS, "pretrain"])
def test_an_unknown_option_is_the_only_error_of_it(name, tlx):
    """Arguments and options of commands that are no studies are no settings to be looked at."""
    code, _, err = tlx(name, "--xyzq")
    assert code == 2
    assert "--xyzq" in err
    assert "unknown setting" not in err


def test_a_short_option_that_is_none_is_said_with_the_others(tlx):
    code, _, err = tlx("chop", "--wat", "-Q", "--depth", 0)
    assert code == 2
    for word in ("--wat", "-Q"):
        assert f"No such option: {word}" in err, err


def test_nothing_is_computed_where_a_word_is_refused(tlx, bars, tmp_path):
    code, _, _ = tlx("feature-extraction", "--dataset", bars, "--wat", 1, "--store", "runs")
    assert code == 2
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (["--a", "1", "--b"], ["--b"]),
        (["--a=1", "x"], ["x"]),
        (["--a", "--b", "2"], ["--b", "2"]),
        (["x", "--a"], ["x"]),
        (["--ab", "1"], ["--ab", "1"]),
        ([], []),
    ],
)
def test_an_option_is_left_out_with_its_value(words, left):
    assert without(words, "--a") == left


@pytest.mark.parametrize("words", [(), ("",), ("", " ")])
def test_an_empty_argument_counts_as_none(words, tlx):
    """As `mlflow run` passes what was not given."""
    code, _, err = tlx("evaluate", *words, "--architecture", "mnist-cnn")
    assert code == 2
    assert "no model is named" in err


@pytest.mark.parametrize("random_out", ["w.pth", "./w.pth", "w.pt"])
def test_trained_and_random_weights_are_not_written_to_one_file(random_out, tlx, bars, tmp_path):
    words = ("--dataset", bars, "--epochs", 1, "--workers", 0, "--no-tracking", "--store", "runs")
    words += ("--val-per-class", 2)
    code, _, err = tlx("pretrain", *words, "--out", "w.pth", "--random-out", random_out)
    if random_out == "w.pt":
        assert code == 0, err
        return
    assert code == 2
    assert "two files" in err
    assert not (tmp_path / "runs").exists()
