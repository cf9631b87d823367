"""Figures: the same bytes twice, drawn without pyplot, labels that do not overlap, every size of
input.
"""

from __future__ import annotations

import io
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

from tlx.plots import figures, statistics
from tlx.studies.chop import figures as chop_figures
from tlx.studies.quanta import figures as quanta_figures

PNG, SVG = b"\x89PNG", b"<?xml"


def curve_rows(shots=(1, 2, 5, 10), splits=4, level=0.5):
    rng = np.random.default_rng(0)
    return statistics.by_shots(
        [
            {"shots": k, "test_accuracy": level + 0.02 * k + 0.03 * rng.normal()}
            for k in shots
            for _ in range(splits)
        ]
    )


def journal(epochs=12):
    return [{"t": "start", "ts": 0}] + [
        {
            "t": "metrics",
            "step": e,
            "values": {
                "train_loss": 1 / e,
                "val_loss": 1.2 / e,
                "train_accuracy": 1 - 0.5 / e,
                "val_accuracy": 0.9 - 0.5 / e,
            },
        }
        for e in range(1, epochs + 1)
    ]


def confusion(k):
    counts = np.random.default_rng(k).integers(0, 3, (k, k))
    return counts + 40 * np.eye(k, dtype=int), [
        f"a rather long name of class {i}" for i in range(k)
    ]


DRAWN = {
    "curve": lambda form: figures.few_shot_curve(curve_rows(), "digits", form),
    "two curves": lambda form: figures.few_shot_curve(
        {"a": curve_rows(), "b": curve_rows(level=0.3)}, "$x_1", form
    ),
    "confusion": lambda form: figures.confusion_matrix(*confusion(10), title="digits", form=form),
    "learning": lambda form: figures.learning_curves(
        journal(), "5-shot split 0", form, best_epoch=4
    ),
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


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize(("form", "start"), [("png", PNG), ("svg", SVG)])
def test_the_same_numbers_give_the_same_bytes(name, form, start):
    one, two = DRAWN[name](form), DRAWN[name](form)
    assert one == two
    assert one.startswith(start)


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="gif"):
        figures.few_shot_curve(curve_rows(), form="gif")


def test_settings_are_as_before_and_pyplot_stays_out():
    before = dict(matplotlib.rcParams)
    for draw in DRAWN.values():
        draw("png")
    assert dict(matplotlib.rcParams) == before
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []


def overlaps(figure, labels):
    figure.canvas.draw()
    boxes = [t.get_window_extent() for t in labels if t.get_text() and t.get_visible()]
    return [(i, j) for i in range(len(boxes)) for j in range(i) if boxes[i].overlaps(boxes[j])]


@pytest.mark.slow
@pytest.mark.parametrize(
    "shots",
    [
        (1,),
        (1, 2),
        (1, 2, 3, 5, 7, 10),
        (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 500),
        tuple(range(1, 60)),
    ],
)
def test_shots_are_ticks_and_do_not_overlap(drawn, shots):
    figures.few_shot_curve(curve_rows(shots, splits=2))
    axes = drawn[0].axes[0]
    ticks = [float(t) for t in axes.get_xticks()]
    assert set(ticks) <= set(shots)
    assert {shots[0], shots[-1]} <= set(ticks)
    assert overlaps(drawn[0], axes.get_xticklabels()) == []
    assert len(shots) > 6 or set(ticks) == set(shots)


def test_the_band_is_the_interval(drawn):
    rows = curve_rows()
    figures.few_shot_curve(rows)
    axes = drawn[0].axes[0]
    band = axes.collections[0].get_paths()[0].vertices
    for row in rows:
        heights = band[np.isclose(band[:, 0], row["shots"]), 1]
        assert heights.min() == pytest.approx(row["low"])
        assert heights.max() == pytest.approx(row["high"])
    assert axes.lines[0].get_ydata() == pytest.approx([r["mean"] for r in rows])
    assert axes.get_xlabel() == "Training images per class"
    assert axes.get_ylabel() == "Mean per-class test accuracy"


BOTH, ALONE = statistics.DRAWS_AND_IMAGES, statistics.IMAGES


def crossed_rows(over=BOTH, shots=(1, 2, 5, 10), splits=4, draws_df=7.0):
    rows = curve_rows(shots, splits)
    for row in rows:
        if over:
            row |= {"over": over, "low": 0.3, "high": 0.8, "ci": 0.25, "draws_df": draws_df}
    return rows


TITLES = {
    "all crossed": (crossed_rows(), "95 % CI over draws and images, n = 4"),
    "none": (crossed_rows(""), "95 % CI over draws, n = 4"),
    "two kinds": (
        [*crossed_rows(shots=(1, 2)), *crossed_rows("", shots=(5, 10))],
        "95 % CI over draws and images, or draws alone, n = 4",
    ),
    "one draw": (crossed_rows(ALONE, splits=1, draws_df=0.0), "95 % CI over images"),
    "two draws, borrowed": (crossed_rows(splits=2, draws_df=5.0), "over draws and images, n = 2"),
    "two draws": (crossed_rows(splits=2, draws_df=1.0), "range, n = 2"),
}


@pytest.mark.parametrize("case", TITLES)
def test_a_curve_says_what_its_bands_are_over(drawn, case):
    rows, title = TITLES[case]
    figures.few_shot_curve(rows)
    legend = drawn[0].axes[0].get_legend()
    assert any(title in text.get_text() for text in legend.get_texts())


@pytest.mark.parametrize(("lines", "what"), [(2, "bands: "), (5, "bars: "), (9, "bands: ")])
def test_many_lines_say_it_once(drawn, lines, what):
    figures.few_shot_curve({f"c{i}": crossed_rows() for i in range(lines)})
    legend = drawn[0].axes[0].get_legend()
    text = legend.get_title().get_text() if legend else drawn[0].get_suptitle()
    assert " ".join(text.split()) == f"{what}95 % CI over draws and images, n = 4"


def test_one_split_draws_no_band(drawn):
    figures.few_shot_curve(curve_rows(splits=1))
    assert not drawn[0].axes[0].collections


def test_nothing_finished_says_so(drawn):
    figures.few_shot_curve(statistics.by_shots([{"shots": 1}]))
    assert "no finished trial" in {t.get_text() for t in drawn[0].axes[0].texts}


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 2, 10, 20, 21, 60, 61, 200])
def test_a_confusion_matrix_of_any_size_is_legible(drawn, k):
    counts, names = confusion(k)
    data = figures.confusion_matrix(counts, names)
    drawn.clear()
    figures.confusion_matrix(counts, names, form="svg")
    axes = drawn[0].axes[0]
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert overlaps(drawn[0], labels) == []
        assert all(label.get_fontsize() >= 5 for label in labels)
    assert len(axes.texts) == (np.count_nonzero(counts) if k <= 20 else 0)
    width, height = Image.open(io.BytesIO(data)).size
    assert max(width, height) <= 2400


def test_rows_are_true_classes_and_shade_is_the_share_of_the_row(drawn):
    figures.confusion_matrix([[3, 1], [0, 0]], ["cat", "dog"], form="svg")
    shown = drawn[0].axes[0].images[0].get_array()
    assert shown.tolist() == [[0.75, 0.25], [0.0, 0.0]], (
        "a class without images is an empty row, not a NaN"
    )
    numbers = {t.get_text(): t.get_position() for t in drawn[0].axes[0].texts}
    assert numbers == {"3": (0, 0), "1": (1, 0)}


@pytest.mark.parametrize("k", [2, 7, 30])
def test_the_cells_of_a_png_have_the_shades_of_the_shares(drawn, k):
    """Drawn into a frame made once: every cell where the SVG has it, in the colour of the bar
    beside it.
    """
    counts = np.random.default_rng(k).integers(1, 50, (k, k))
    names = [f"c{i}" for i in range(k)]
    data = figures.confusion_matrix(counts, names)
    drawn.clear()
    assert data == figures.confusion_matrix(counts, names), "the frame was not drawn upon"
    assert not drawn, "and was not drawn again"
    figures.confusion_matrix(counts, names, form="svg")
    box = drawn[0].axes[0].get_window_extent()
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    shade = matplotlib.colormaps["Blues"]
    norm = drawn[0].axes[0].images[0].norm
    for i in range(k):
        for j in range(k):
            x = box.x0 + (j + 0.12) / k * (box.x1 - box.x0)  # beside the number
            y = len(pixels) - box.y1 + (i + 0.15) / k * (box.y1 - box.y0)
            want = np.array(shade(norm(counts[i, j] / counts[i].sum()))[:3]) * 255
            assert np.abs(pixels[int(y), int(x)] - want).max() <= 2, (i, j)


def test_counts_must_fit_the_classes():
    with pytest.raises(ValueError, match="3 classes"):
        figures.confusion_matrix(np.eye(2), ["a", "b", "c"])


def test_names_that_would_drive_a_renderer_are_plain_text():
    figures.confusion_matrix(
        np.eye(2, dtype=int), ["$\\frac{", "\x1b[31m red\n"], title="100 % $ _^"
    )


@pytest.mark.parametrize(
    "records",
    [
        [],
        journal(1),
        journal(60),
        [{"t": "metrics", "step": 1, "values": {"train_loss": 0.5}, "not_finite": {}}],
    ],
)
def test_learning_curves_of_any_length(drawn, records):
    figures.learning_curves(records, best_epoch=1)
    loss, accuracy = drawn[0].axes
    assert overlaps(drawn[0], loss.get_xticklabels()) == []
    assert (loss.get_xlabel(), accuracy.get_ylabel()) == ("Epoch", "Accuracy")


def test_learning_curves_follow_the_journal(drawn):
    figures.learning_curves(list(reversed(journal(5))))
    lines = {line.get_label(): line for line in drawn[0].axes[0].lines}
    assert lines["Training"].get_xdata() == pytest.approx([1, 2, 3, 4, 5])
    assert lines["Validation"].get_ydata() == pytest.approx([1.2 / e for e in range(1, 6)])


def test_more_than_eight_lines_have_a_panel_each_with_one_scale(monkeypatch):
    drawn = []
    real = figures.render
    monkeypatch.setattr(
        figures, "render", lambda figure, form: (drawn.append(figure), real(figure, form))[1]
    )
    rows = [{"shots": k, "test_accuracy": 0.1 * k} for k in (1, 2, 5)]
    figures.few_shot_curve({f"c{i}": statistics.by_shots(rows) for i in range(9)})
    panels = [axes for axes in drawn[0].axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in panels] == [f"c{i}" for i in range(9)]
    assert len({axes.get_ylim() for axes in panels}) == 1


@pytest.mark.parametrize(
    ("share", "text"), [(1.0, "100 %"), (0.125, "12.5 %"), (0.0625, "6.25 %"), (0.3, "30 %")]
)
def test_shares_of_weights_have_the_digits_of_the_table(share, text):
    assert chop_figures.share_text(share) == text


def test_numbers_of_parameters_are_written_without_mathematical_markup(monkeypatch):
    drawn = []
    real = figures.render
    monkeypatch.setattr(
        figures, "render", lambda figure, form: (drawn.append(figure), real(figure, form))[1]
    )
    rows = [
        {
            "n": n,
            "networks": 5,
            "parameters": p,
            **statistics.accuracy_columns([0.5, 0.6, 0.5, 0.6, 0.5]),
        }
        for n, p in ((1, 12_000), (2, 90_000), (3, 400_000))
    ]
    chop_figures.chop(rows)
    axis = drawn[0].axes[1].xaxis
    low, high = drawn[0].axes[1].get_xlim()
    shown = [t.label1.get_text() for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
    assert len(shown) >= 3
    assert "100k" in shown
    assert not any("$" in text or "math" in text for text in shown)


def test_an_axis_of_lambdas_has_a_least_range(monkeypatch):
    drawn = []
    real = figures.render
    monkeypatch.setattr(
        figures, "render", lambda figure, form: (drawn.append(figure), real(figure, form))[1]
    )
    quanta_figures.courses({0: [[0.5, 0.5001, 0.5002]]})
    low, high = drawn[0].axes[0].get_ylim()
    assert high - low >= 0.02 - 1e-12


def test_the_rules_of_figures_find_what_is_cut_and_what_covers_data():
    import figure_rules
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3, 2), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.2, 0.2, 0.6, 0.6))
    axes.plot([0, 1], label="a line")
    figure.draw_without_rendering()
    assert figure_rules.faults(figure) == []
    text = figure.text(0.9, 0.5, "far too long for its place")
    axes.legend(loc="center left", bbox_to_anchor=(0.75, 0.5))
    figure.draw_without_rendering()
    cut, *others = figure_rules.faults(figure)
    assert "far too long" in cut
    assert any("legend" in fault for fault in others)
    text.remove()


def test_a_caption_breaks_no_option_at_its_hyphens():
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3, 2))
    figures.add_caption(figure, ["the batch size is larger than the rows; lower --batch-size " * 3])
    assert all(
        line.count("--") == line.count("--batch-size")
        for line in figure._supxlabel.get_text().splitlines()
    )


def test_accuracies_of_a_search_are_drawn_up_to_100_percent():
    from matplotlib.figure import Figure

    from tlx.studies.tuning import figures as tuning_figures

    axes = Figure().subplots()
    axes.scatter([0], [1.0])
    tuning_figures._accuracy(axes)
    assert axes.get_ylim()[1] <= 1.02


def test_the_last_bits_of_a_layout_do_not_show(monkeypatch):
    """The solver of layouts gives other last bits from one drawing to the next."""
    lay_out = ConstrainedLayoutEngine.execute
    shifts = iter((0, 3e-16, 5e-16, 7e-16))

    def shifted(engine, figure):
        lay_out(engine, figure)
        shift = next(shifts)
        for axes in figure.axes:
            left, bottom, width, height = axes.get_position(original=True).bounds
            axes.set_position((left + shift, bottom + shift, width - shift, height + shift))
            axes.set_in_layout(True)

    monkeypatch.setattr(ConstrainedLayoutEngine, "execute", shifted)
    rows = [{"shots": n, "mean": n / 10, "ci95": 0.1, "n": 5} for n in (1, 3, 5)]
    one, two = (figures.few_shot_curve(rows, "title", "svg") for _ in range(2))
    assert one == two


@pytest.mark.parametrize("level", [0.1, 0.7])
def test_equal_accuracies_whose_mean_is_beside_them_by_rounding_are_drawn(level):
    rows = statistics.by_shots([{"shots": 5, "test_accuracy": level}] * 3)
    assert rows[0]["mean"] != level
    assert figures.few_shot_curve(rows).startswith(PNG)
