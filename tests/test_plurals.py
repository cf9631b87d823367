"""Messages have the noun that belongs to their number: no "1 trials"."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "tlx"
NOUNS = "trials|images|classes|studies|dumps|splits|draws|sources|networks|layers|files|records"
COUNT = re.compile(r"\{(len\([^{}]*\)|self\.trials|stage\.trial_count)\} (" + NOUNS + r")\b(?!_)")
COMMANDS = sorted([*PACKAGE.glob("cli/*.py"), *PACKAGE.glob("studies/**/*.py")])


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_length_before_a_noun_is_written_by_counted(path):
    faults = [
        f"{number}: {match[0]}"
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1)
        for match in COUNT.finditer(line)
    ]
    assert not faults


def test_a_study_of_one_trial_says_trial(tlx, bars):
    words = ("--dataset", bars, "--shots", 1, "--splits", 1, "--val-per-class", 2, "--epochs", 1)
    code, out, err = tlx("fine-tuning", *words, "--no-use-crops", "--workers", 0, "--no-tracking")
    assert code == 0, err
    assert re.search(r"\b1 trial\b", out)
    assert not re.search(r"\b1 (?:\w+ )?(?:trials|images|classes|splits|draws|dumps)\b", out), out
    _, listed, _ = tlx("ls")
    assert "1 study in" in listed
