"""Command tlx plan: every study can be planned from the command line, as text and as JSON."""

from __future__ import annotations

import json

import pytest
import typer
from cli.test_image_rules import COMMANDS
from conftest import draw_images

from tlx.cli import app
from tlx.studies import STUDIES

SHOWN = {"study", "title", "trials", "seconds", "seconds_range", "engines", "memory_bytes"}
OTHER = {"evaluate", "checkpoints"}  # take their images or models by other options


def test_every_study_has_a_plan_with_its_options():
    root = typer.main.get_command(app.app)
    planned = root.commands["plan"].commands
    assert planned.keys() == STUDIES.keys()
    for name, command in planned.items():
        own = {parameter.name for parameter in root.commands[name].params}
        # figures and closing lines are of a run
        missing = own - {parameter.name for parameter in command.params}
        assert missing <= {"figures", "form", "verbose", "note", "wait"}, name


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(STUDIES.keys() - OTHER))
def test_a_study_is_planned_and_nothing_is_trained(tlx, tmp_path, name):
    images = draw_images(tmp_path / "four", classes=4, per_class=8)
    first, *words = COMMANDS[name]
    code, out, err = tlx("plan", first, *words, "--dataset", images, "--json")
    assert code == 0, err
    content = json.loads(out)
    assert content.keys() >= SHOWN
    assert content["study"] == name
    assert content["seconds"] is None or content["seconds"] > 0
    assert not list(tmp_path.glob("tlx-runs/trials/*"))


def test_the_text_of_a_plan(tlx, bars):
    words = ("--shots", "1,2", "--splits", 2, "--epochs", 2, "--val-per-class", 2)
    code, out, err = tlx("plan", "fine-tuning", "--dataset", bars, "--no-use-crops", *words)
    assert (code, err) == (0, "")
    assert "4 trials, 0 finished before" in out
    for line in ("estimated run time: ", "estimated memory: at most ", "slots ", "local ", "dask "):
        assert f"\n{line}" in out
    assert "by the error of such estimates" in out


def test_what_the_study_refuses_its_plan_refuses(tlx, bars):
    code, _, err = tlx("plan", "fine-tuning", "--dataset", bars, "--shots", 50)
    assert code == 3
    assert "50" in err
    code, _, err = tlx("plan", "no-study")
    assert code == 2
    code, _, err = tlx("plan", "fine-tuning", "--dataset", bars, "--engine", "dask")
    assert code == 2
    assert "--address" in err
