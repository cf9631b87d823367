"""Words of the original programs, and that each of them leads to an option that there is."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest
import typer

from tlx.cli.app import COMMANDS, app, flags
from tlx.cli.options import normalised
from tlx.cli.originals import ORIGINALS, translated

ROOT = Path(__file__).resolve().parents[2]


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
        (["predict", "KEY", "--", "-a=b.jpg"], ["predict", "KEY", "--", "-a=b.jpg"]),
        (["quanta", "-l=1", "--", "-l=2"], ["quanta", "-l", "1", "--", "-l=2"]),
        ([], []),
    ],
)
def test_words_are_translated(words, expected):
    assert translated(words) == expected
    assert translated(expected) == expected, "and ours stay as they are"


COMMAND = re.compile(r"`(tlx [^`]+)`")


def commands_of_the_page():
    text = (ROOT / "docs" / "reference" / "originals.md").read_text()
    return [words for line in COMMAND.findall(text) if len(words := shlex.split(line)[1:]) > 1]


@pytest.mark.parametrize("words", commands_of_the_page(), ids=" ".join)
def test_every_command_of_the_page_on_the_originals_has_its_options(words):
    """Words of the originals are translated first, as they are when they are typed."""
    known = normalised(translated(words), flags())
    command = known[0]
    options = options_of(command)
    for word in known[1:]:
        if re.match(r"--?[A-Za-z]", word):
            assert word.partition("=")[0] in options, word


def test_a_flag_that_stands_for_a_value_keeps_it():
    assert normalised(translated(["quanta", "--augment_data"]), flags()) == [
        "quanta",
        "--augment=2025",
    ]


def test_every_row_of_the_page_is_run_by_the_benchmark_or_is_not_here():
    """tests/benchmarks/originals_table.py, by hand: its rows are those of the page, no others."""
    table = importlib.import_module("benchmarks.originals_table")
    cells = table.first_cells()
    assert len(cells) > 60
    assert [row.original for row in table.ROWS] == [c for c in cells if c not in table.OTHERS]
    assert set(table.OTHERS) <= set(cells)


def test_every_command_of_the_benchmark_has_its_options():
    table = importlib.import_module("benchmarks.originals_table")
    for row in table.ROWS:
        for text in row.commands:
            known = normalised(translated(shlex.split(text)), flags())
            if known[0] == "splits":
                continue
            options = options_of(known[0])
            for given in known[1:]:
                word = re.sub(r"^--no-(?=use-crops)", "--", given)
                if re.match(r"--?[A-Za-z]", word):
                    assert word.partition("=")[0] in options, f"{word} of {row.original}"


def test_no_option_with_a_value_is_a_switch_elsewhere():
    """`--keep 1` would lose its value if any spec had a switch of that name.

    --halves is a switch of quanta; of layer-transfer it has words that mean neither on nor off.
    """
    valued = {
        (name, option.removeprefix("--"))
        for name, command in typer.main.get_command(app).commands.items()
        for parameter in getattr(command, "params", ())
        if not parameter.secondary_opts and not getattr(parameter, "is_flag", False)
        for option in parameter.opts
        if option.startswith("--")
    }
    assert {(name, option) for name, option in valued if option in flags()} == {
        ("layer-transfer", "halves")
    }
