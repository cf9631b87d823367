"""Names in figures: none is hidden by a leading underscore, and letters without glyphs are no noise
on the terminal.
"""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest

from tlx.plots import figures, fonts, statistics
from tlx.studies.checkpoints import figures as checkpoints_figures
from tlx.studies.layer_metrics import figures as layer_metrics_figures

NAME = "_best"


def layer_rows(name):
    return [
        {
            "model": model,
            "trained_on": "mnist",
            "checkpoint": "",
            "checkpoint_index": "",
            "seed": "",
            "dataset": "digits",
            "layer": layer,
            "layer_index": i,
            "block": i,
            "rows": 10,
            "width": 4,
            "id": 3.0 + i,
        }
        for model in (name, "other")
        for i, layer in enumerate(("input", "conv1"))
    ]


def few_shot_rows():
    return statistics.by_shots(
        [{"shots": k, "test_accuracy": v} for k in (1, 2) for v in (0.5, 0.6, 0.7, 0.8)]
    )


def tuning(name):
    return [
        {
            "target": "mnist",
            "source": source,
            "checkpoint": "1",
            "checkpoint_index": 1,
            "seed": 1,
            "tag": tag,
            "index": i,
            "test_accuracy": 0.5,
        }
        for source in (name, "other")
        for i, tag in enumerate(("0", "1"))
    ]


FIGURES = {
    "few-shot curve": lambda name: figures.few_shot_curve(
        {name: few_shot_rows(), "other": few_shot_rows()}, form="svg"
    ),
    "bars of many classifiers": lambda name: figures.few_shot_curve(
        {name: few_shot_rows(), **{f"c{i}": few_shot_rows() for i in range(4)}}, form="svg"
    ),
    "metric over layers": lambda name: layer_metrics_figures.metric_over_layers(
        layer_rows(name), "id", form="svg"
    ),
    "accuracy over fine-tuning": lambda name: checkpoints_figures.accuracy_over_fine_tuning(
        tuning(name), form="svg"
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_name_that_begins_with_an_underscore_is_in_the_legend(name):
    drawn = FIGURES[name](NAME).decode()
    assert any(
        re.search(rf"\u200b?{NAME}", comment) for comment in re.findall(r"<!--(.*?)-->", drawn)
    )


def test_the_mark_before_a_hidden_name_has_a_glyph_of_no_width():
    from matplotlib.font_manager import findfont
    from matplotlib.ft2font import FT2Font

    font = FT2Font(findfont(fonts.OWN))
    assert font.load_char(0x200B).horiAdvance == 0
    assert figures.legend_label("plain") == "plain"


@pytest.mark.parametrize("form", ["png", "svg"])
def test_letters_without_a_glyph_warn_of_nothing_and_draw_the_same_again(form):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, again = (
            figures.confusion_matrix(np.eye(2, dtype=int), ["桜", "松"], form=form)
            for _ in range(2)
        )
    assert first == again


def test_letters_that_no_font_has_are_named_in_one_note(monkeypatch):
    monkeypatch.setattr(fonts, "_installed", tuple)
    assert fonts.undrawable(["cat", "Ελλάδα", "naïve 3"]) == []
    assert fonts.note(["cat"]) == ""
    assert "桜 松" in fonts.note(["桜", "松", "桜"])


def test_an_installed_font_that_has_the_letters_is_taken_and_boxes_are_not(monkeypatch):
    held = {"own": {65}, "a": {0x685C}, "b": {0x685C, 0x677E}}
    monkeypatch.setattr(fonts, "_installed", lambda: (("A", "a"), ("B", "b")))
    monkeypatch.setattr(fonts, "_characters", lambda path: frozenset(held.get(path, ())))
    assert fonts.fallback_families("桜松") == ["A", "B"]
    assert fonts.fallback_families("桜") == ["A"]
    monkeypatch.undo()
    assert not any(family.startswith(fonts.PLACEHOLDERS) for family, _ in fonts._installed())
