"""The atlas's figure and rows: the same bytes twice, no text on another or outside, numbers as in
the studies.
"""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from PIL import Image

from tlx.plots import axes as layer_axes
from tlx.plots import figures
from tlx.result import Result
from tlx.studies.atlas import figure as atlas_figure
from tlx.studies.atlas import report as atlas_report
from tlx.studies.atlas.report import PANELS, Taken

TITLES = {name: (panel.heading(panel.unit), panel.axes) for name, panel in PANELS.items()}
DEEP = [f"features.denseblock{i // 8 + 1}.denselayer{i % 8 + 1}" for i in range(30)]
COMMAND = (
    "tlx quanta --architecture efficientnet-lite0 --dataset /a/long/path/to/a/folder/of/images "
    "--input-size 64"
)


def rows(n, panels=tuple(PANELS), wide=0.05):
    """Something in every panel, with lines and levels."""
    found = []
    for name in panels:
        unit = PANELS[name].unit
        scale = 12 if unit == "dimensions" else 1
        for k, line in enumerate(
            {"quanta": ["gated alone", "all at once"], "transfer": ["AnB", "AnB+"]}.get(
                name, ["source network"]
            )
        ):
            found += [
                {
                    "panel": name,
                    "line": line,
                    "block": b,
                    "mean": scale * (0.8 - 0.3 * b / n + 0.05 * k),
                    "low": scale * (0.75 - 0.3 * b / n),
                    "high": scale * (0.8 - 0.3 * b / n + wide),
                    "unit": unit,
                }
                for b in range(1, n + 1)
            ]
        for line in {
            "knn": ["chance"],
            "transfer": ["baseB", "baseB+", "chance"],
            "quanta": ["start"],
            "quanta_accuracy": ["witness"],
            "distance": ["no nearer than random"],
        }.get(name, []):
            found.append(
                {
                    "panel": name,
                    "line": line,
                    "block": None,
                    "mean": 0.1 if line == "chance" else 0.7,
                    "low": None,
                    "high": None,
                    "unit": unit,
                }
            )
    return found


CASES = {
    "one block": (1, ["conv1"], ()),
    "four": (4, ["conv1", "conv2", "fc1", "fc2"], ()),
    "17": (
        17,
        [f"blocks.{i // 3}.{i % 3}" for i in range(17)],
        [("quanta", COMMAND), ("transfer", COMMAND * 9)],
    ),
    "30": (30, DEEP, [("a", "tlx b")]),
}


@pytest.fixture
def drawn(monkeypatch):
    """The matplotlib figures behind the bytes."""
    seen = []
    make = figures.render
    monkeypatch.setattr(
        figures, "render", lambda figure, form: (seen.append(figure), make(figure, form))[1]
    )
    return seen


def boxes(figure):
    """(text, where it stands) of all that is drawn."""
    found = list(figure.texts)
    for axes in figure.axes:
        found += [axes.yaxis.label, *(tick.label1 for tick in axes.yaxis._update_ticks())]
        if axes.get_subplotspec().is_last_row():
            found += [axes.xaxis.label, *(tick.label1 for tick in axes.xaxis._update_ticks())]
        found += axes.get_legend().get_texts() if axes.get_legend() else []
    pen = figure.canvas.get_renderer()
    return [(text.get_text(), text.get_window_extent(pen)) for text in found if text.get_text()]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_nothing_lies_on_anything_or_outside(case, drawn):
    n, names, missing = CASES[case]
    data = atlas_figure.atlas(rows(n), names, TITLES, "network on a target " * 8, missing)
    (figure,) = drawn
    width, height = Image.open(io.BytesIO(data)).size
    found = boxes(figure)
    for text, box in found:
        assert box.x0 >= -1, text
        assert box.y0 >= -1, text
        assert box.x1 <= width + 1, text
        assert box.y1 <= height + 1, text
    for i, (a, one) in enumerate(found):
        for b, two in found[i + 1 :]:
            over = (
                min(one.x1, two.x1) - max(one.x0, two.x0),
                min(one.y1, two.y1) - max(one.y0, two.y0),
            )
            assert min(over) < 2, f"{a!r} on {b!r}"
    assert len(figure.axes) == 9, "the two kinds of CKA share their axes"
    assert len({tuple(axes.get_xlim()) for axes in figure.axes}) == 1
    shown = {t.get_text() for t in figure.axes[-1].get_xticklabels()}
    assert len(shown) == n
    assert any(name.split()[0] == str(n) for name in shown)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["png", "svg"])
def test_the_same_bytes_twice(form):
    one, two = (
        atlas_figure.atlas(rows(3), ["a", "b", "c"], TITLES, "x", [("q", COMMAND)], form)
        for _ in range(2)
    )
    assert one == two
    assert one[:4] in (b"\x89PNG", b"<?xm")


def test_panels_that_lack_are_left_out_and_named_below(drawn):
    atlas_figure.atlas(
        rows(4, ["id", "knn"]), ["a", "b", "c", "d"], TITLES, "x", [("quanta", "tlx quanta")]
    )
    atlas_figure.atlas([], ["a"], TITLES)
    full, empty = drawn
    assert len(full.axes) == 2
    assert any("Not there: quanta: tlx quanta" in t.get_text() for t in full.texts)
    assert "nothing is known" in empty.axes[0].texts[0].get_text()


def test_lines_say_the_numbers_and_chance_far_below_does_not_press_them(drawn):
    atlas_figure.atlas(rows(4, ["transfer", "id"], wide=5), ["a", "b", "c", "d"], TITLES)
    dimension, transfer = drawn[0].axes
    line = next(line for line in dimension.get_lines() if len(line.get_xdata()) == 4)
    np.testing.assert_allclose(line.get_xdata(), [1, 2, 3, 4])
    np.testing.assert_allclose(line.get_ydata(), [12 * (0.8 - 0.3 * b / 4) for b in (1, 2, 3, 4)])
    assert transfer.get_ylim()[1] <= 1.3, "an accuracy has ends, also where an interval passes them"
    named = [t.get_text() for t in transfer.get_legend().get_texts()]
    assert named[:4] == ["AnB", "AnB+", "baseB", "baseB+"]
    drawn.clear()
    some = [row for row in rows(4, ["knn"]) if row["block"] in (None, 1, 2)]
    atlas_figure.atlas(some, ["a", "b", "c", "d"], TITLES)
    (axes,) = drawn[0].axes
    assert axes.get_ylim()[0] > 0.3
    assert "chance: 10 %, below" in [t.get_text() for t in axes.get_legend().get_texts()]


# ---------------------------------------------------------------- rows


def distance(key, ts, norm="mean_abs"):
    profile = [
        {"norm": norm, "layer": f"l{b}", "block": b, "head": b is None, "transferability": t}
        for b, t in ts.items()
    ]
    return Result(
        key=key, kind="parameter-distance", spec={"norm": norm}, details={"profile": profile}
    )


def test_transferability_by_hand():
    some = [
        distance("a", {1: 2.0, 2: None, None: 9.0}),
        distance("b", {1: 4.0, 2: 1.5, None: 9.0}),
        distance("c", {1: 100.0}, norm="l2"),
    ]
    found = {row["block"]: row for row in PANELS["distance"].read(Taken(some, {}, 3))}
    assert found[1]["mean"] == 3.0
    assert found[1]["high"] - 3.0 == pytest.approx(12.706204736 * np.sqrt(2) / np.sqrt(2)), (
        "t of one degree"
    )
    assert found[1]["keys"] == ["a", "b"]
    assert (found[2]["mean"], found[2]["low"], found[2]["n"]) == (1.5, None, 1), (
        "what has no T is left out"
    )
    assert found[None]["mean"] == 1.0
    (other,) = [r for r in PANELS["distance"].read(Taken(some[2:], {}, 3)) if r["block"]]
    assert (other["line"], other["mean"]) == ("T, l2", 100.0)


def test_every_panel_has_a_source_and_the_table_survives_its_own_reading():
    from tlx.studies.atlas.lookup import SOURCES

    for name, panel in PANELS.items():
        assert panel.source in {"blocks", *SOURCES}, name
        assert panel.axes in {"", *PANELS}
        assert panel.title
        assert panel.unit
    said = atlas_report.table(rows(2, ["id", "quanta"]), ["one", "two"], "csv")
    assert next(csv.reader(said.splitlines())) == [
        "block",
        "name",
        "id",
        "quanta gated alone",
        "quanta all at once",
    ]


def test_names_are_short_and_different():
    assert len(set(layer_axes.short(DEEP, 20))) == 30
