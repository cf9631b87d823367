"""Words of the original programs, and that each of them leads to an option that there is."""

from __future__ import annotations

import pytest
import typer

from tlx.cli.app import COMMANDS, app, flags
from tlx.cli.options import normalised
from tlx.cli.originals import ORIGINALS, translated


def options_of(command):
    """Return every spelling of the options of a command."""
    built = typer.main.get_command(app).commands[command]
    return {option for parameter in built.params for option in parameter.opts}


@pytest.mark.parametrize("command", ORIGINALS)
def test_every_spelling_leads_to_an_option_of_its_command(command):
    assert command in COMMANDS
    for spelling, ours in ORIGINALS[command].items():
        assert ours.partition("=")[0] in options_of(command), spelling
        assert spelling not in options_of(command), f"{spelling} is an option of its own"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["quanta", "--layer=5"], ["quanta", "--positions=5"]),
        (["quanta", "-l=5", "-r=30"], ["quanta", "-l", "5", "-r", "30"]),
        (
            ["quanta", "--output_dir", "x", "-t=a=b"],
            ["quanta", "--export", "x", "--dataset", "a=b"],
        ),
        (["quanta", "-sw", "w.h5"], ["quanta", "--model", "w.h5"]),
        (["quanta", "--layer", "--layer"], ["quanta", "--positions", "--positions"]),
        (["chop", "--layer=5"], ["chop", "--layer=5"]),
        (["prune", "-keep_iter", "0.7", "-iter=5"], ["prune", "--keep", "0.7", "--iterations=5"]),
        (["layer-transfer", "--n_copy", "3"], ["layer-transfer", "--depths", "3"]),
        (
            ["feature-extraction", "--model", "w.h5", "d.json", "--splits"],
            ["feature-extraction", "--model", "w.h5", "--model-description", "d.json", "--splits"],
        ),
        (["pretrain", "-r", "r.pth", "-a", "a.pth"], ["pretrain", "-r", "r.pth", "--out", "a.pth"]),
        (["pretrain", "-a", "resnet50"], ["pretrain", "-a", "resnet50"]),
        (["feature-extraction", "-m", "w.h5"], ["feature-extraction", "-m", "w.h5"]),
        ([], []),
    ],
)
def test_words_are_translated(words, expected):
    assert translated(words) == expected
    assert translated(expected) == expected, "and ours stay as they are"


def test_a_flag_that_stands_for_a_value_keeps_it():
    assert normalised(translated(["quanta", "--augment_data"]), flags()) == [
        "quanta",
        "--augment=2025",
    ]
