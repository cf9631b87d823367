"""Figures of layers: the same bytes twice, no text on another or outside, whatever the data; lines
say the numbers.
"""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.text import Text
from PIL import Image

from tlx.errors import UnknownNameError
from tlx.plots import axes as layer_axes
from tlx.plots import figures, labels, rdm_cells
from tlx.studies.layer_metrics import figures as layer_metrics_figures
from tlx.studies.layer_metrics import series as layer_metrics_series

CNN = ["in", "conv1", "pool1", "conv2", "pool2", "fc1", "out"]
VGG = ["in", "pool1", "pool2", "pool3", "pool4", "pool5", "fc1", "fc2", "out"]
DEEP = [f"features.denseblock{i // 15 + 1}.denselayer{i % 15 + 1}.conv2" for i in range(60)]
TAGS = ["0", "0_1", "0_3", "0_10", "0_30", "0_100", "0_300", "1", "3", "10", "30", "100"]
SIX = ["mnist", "fashion", "split1", "split2", "noise_struct", "noise"]
TWELVE = [f"a rather long name of model {i} trained somewhere" for i in range(12)]


def table(models, layers, tags=("",), seeds=(None,), datasets=("mnist",)):
    """Rows of a table; layers may be a function of the model."""
    rng = np.random.default_rng(0)
    rows = []
    for dataset in datasets:
        for m, model in enumerate(models):
            for t, tag in enumerate(tags):
                for seed in seeds:
                    for i, layer in enumerate(layers(model) if callable(layers) else layers):
                        value = (
                            10 + m + 4 * math.sin(i / 5 + m) - 0.5 * t * i / 7 + 0.3 * rng.normal()
                        )
                        rows.append(
                            {
                                "model": model,
                                "trained_on": model,
                                "checkpoint": tag,
                                "seed": seed,
                                "checkpoint_index": t if tag else None,
                                "dataset": dataset,
                                "layer": layer,
                                "layer_index": i,
                                "rows": 500,
                                "width": 128,
                                "id": value,
                                "id_std": 0.4,
                                "ss_total": 10 ** (value / 2),
                                "ss_ratio": 1 / (1 + math.exp(-value / 5)),
                            }
                        )
    return rows


def rdm(classes, per, dims=20, seed=0):
    """A condensed RDM of correlation distances, and codes in random order."""
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(classes), per)
    rng.shuffle(codes)
    x = rng.normal(size=(classes, dims))[codes] + rng.normal(size=(len(codes), dims))
    x -= x.mean(axis=1, keepdims=True)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return (1 - x @ x.T)[np.triu_indices(len(codes), 1)], codes


def named(k):
    return [f"a rather long name of class {i}" for i in range(k)]


def alike(k):
    return np.corrcoef(np.random.default_rng(0).normal(size=(k, 30)) + np.linspace(0, 2, 30))


def points(n):
    return np.random.default_rng(0).normal(size=(n, 2))


def correlations(layers, metrics):
    return [
        {
            "metric": m,
            "layer": layer,
            "rho": 0.8 * math.sin(i + k),
            "low": 0.8 * math.sin(i + k) - 0.15,
            "high": 0.8 * math.sin(i + k) + 0.1,
        }
        for k, m in enumerate(metrics)
        for i, layer in enumerate(layers)
    ]


def paths(form="png"):
    x = np.concatenate(
        [
            np.cumsum(
                np.random.default_rng(i).normal(size=(12, 2)) * 0.3 + [math.cos(i), math.sin(i)], 0
            )
            for i in range(6)
        ]
    )
    return layer_metrics_figures.mds_map(
        x, TAGS * 6, [m for m in SIX for _ in TAGS], "Over training", form, joined=True
    )


F = layer_metrics_figures
USUAL = {  # form → bytes, one of each kind
    "layers": lambda form: F.metric_over_layers(table(SIX, CNN), "id", "$x_1 of 100 %", form),
    "checkpoints": lambda form: F.metric_over_checkpoints(
        table(SIX[:3], CNN, TAGS), "id", "Over training", form
    ),
    "delta": lambda form: F.delta_to_baseline(table(SIX, CNN), "ss_ratio", "mnist", "", form),
    "heat map": lambda form: F.rdm_heat_map(*rdm(10, 5), list("0123456789"), "fc1", form),
    "grid": lambda form: F.rdm_grid(
        [(layer, rdm(5, 5, seed=i)[0]) for i, layer in enumerate(CNN)],
        rdm(5, 5)[1],
        list("abcde"),
        "CNN",
        form,
    ),
    "within": lambda form: F.within_between(*rdm(10, 5), "fc1", form),
    "comparison": lambda form: F.comparison_map(alike(7), CNN, title="RDMs of layers", form=form),
    "mds": paths,
    "transfer": lambda form: F.transfer_correlation(
        correlations(CNN, ["id", "ss_ratio"]), 0.232, "72 models", form
    ),
}
AWKWARD = {
    "two models": lambda: F.metric_over_layers(table(SIX[:2], CNN, seeds=(1, 2, 3)), "id"),
    "one of all": lambda: F.metric_over_layers(table(["m"], ["out"]), "id"),
    "nothing known": lambda: F.metric_over_layers(table(["m"], CNN), "cka_label"),
    "12 models, 60 layers": lambda: F.metric_over_layers(table(TWELVE, DEEP), "id", "word " * 60),
    "networks alike": lambda: F.metric_over_layers(
        table(["cnn", "vgg"], lambda m: CNN if m == "cnn" else VGG), "id"
    ),
    "networks unlike": lambda: F.metric_over_layers(
        table(["d", "vgg"], lambda m: DEEP if m == "d" else VGG), "id"
    ),
    "72 networks": lambda: F.metric_over_layers(table(SIX, CNN, TAGS), "id"),
    "some checkpoints": lambda: F.metric_over_layers(table(SIX[:2], CNN, TAGS[::5]), "id"),
    "data sets": lambda: F.metric_over_layers(
        table(SIX, CNN, datasets=("a", "b", "a very long name " * 3)), "ss_total"
    ),
    "60 layers over training": lambda: F.metric_over_checkpoints(table(SIX[:2], DEEP, TAGS), "id"),
    "12 trainings": lambda: F.metric_over_checkpoints(table(TWELVE, VGG, TAGS[::3]), "ss_total"),
    "one checkpoint": lambda: F.metric_over_checkpoints(table(["m"], ["out"], ["0"]), "id"),
    "no checkpoint": lambda: F.metric_over_checkpoints(table(["m"], CNN), "id"),
    "long delta": lambda: F.delta_to_baseline(table(TWELVE, DEEP, seeds=(1, 2)), "id", TWELVE[3]),
    "delta of one": lambda: F.delta_to_baseline(table(["m"], CNN), "id", "m"),
    "no correlation": lambda: F.transfer_correlation([]),
    "60 correlations": lambda: F.transfer_correlation(
        correlations(DEEP, layer_metrics_series.METRICS[:5]), (-0.5, 0.4)
    ),
    "100 classes": lambda: F.rdm_heat_map(*rdm(100, 3), named(100)),
    "37 long classes": lambda: F.rdm_heat_map(*rdm(37, 4), named(37), "W" * 300),
    "above 1000 rows": lambda: F.rdm_heat_map(*rdm(12, 100), named(12)),
    "uneven classes": lambda: F.rdm_heat_map(*rdm(7, [60, 1, 1, 1, 20, 3, 30]), named(7)),
    "2 classes": lambda: F.rdm_heat_map(*rdm(2, 2), ["cat", "dog"]),
    "one row": lambda: F.rdm_heat_map(*rdm(1, 1), ["cat"]),
    "constant": lambda: F.rdm_heat_map(np.full(6, 0.5), [0, 0, 1, 1], ["cat", "dog"]),
    "60 heat maps": lambda: F.rdm_grid(
        [(layer, rdm(3, 4)[0]) for layer in DEEP], rdm(3, 4)[1], named(3), "deep"
    ),
    "one heat map": lambda: F.rdm_grid([("out", rdm(50, 2)[0])], rdm(50, 2)[1], named(50)),
    "one class": lambda: F.within_between(*rdm(1, 20)),
    "no pair": lambda: F.within_between(*rdm(1, 1)),
    "15 layers": lambda: F.comparison_map(abs(alike(15)), named(15), "CKA"),
    "12 models compared": lambda: F.comparison_map(
        alike(84), CNN * 12, groups=[m for m in TWELVE for _ in CNN], title="word " * 40
    ),
    "3 models compared": lambda: F.comparison_map(
        alike(21), CNN * 3, groups=[m for m in SIX[:3] for _ in CNN]
    ),
    "120 rows compared": lambda: F.comparison_map(
        alike(120), [f"{DEEP[i % 60]} {i}" for i in range(120)]
    ),
    "one compared": lambda: F.comparison_map([[1.0]], ["out"]),
    "with label models": lambda: F.comparison_map(
        alike(9)[:, :3] * 1e4, VGG, columns=["labels", "b", "c " * 20]
    ),
    "12 long names": lambda: F.mds_map(points(12), TWELVE, SIX * 2, "Models"),
    "one point": lambda: F.mds_map(points(1), ["only"]),
    "12 points at one place": lambda: F.mds_map(np.zeros((12, 2)), TWELVE),
    "60 points": lambda: F.mds_map(points(60), DEEP, [f"group {i}" for i in range(60)]),
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


def texts(figure):
    """(text, its box in pixels) of everything that is written, ticks beyond the ends of an axis
    left out.
    """
    figure.canvas.draw()
    ticks = [
        (tick, sorted(axis.get_view_interval()))
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in axis.majorTicks + axis.minorTicks
    ]
    unseen = {
        id(label)
        for tick, (low, high) in ticks
        if not low - 1e-9 <= tick.get_loc() <= high + 1e-9
        for label in (tick.label1, tick.label2)
    }
    return [
        (text.get_text(), text.get_window_extent())
        for text in figure.findobj(Text)
        if text.get_text().strip() and text.get_visible() and id(text) not in unseen
    ]


def assert_legible(figure):
    width, height = figure.canvas.get_width_height()
    found = texts(figure)
    for number, (text, box) in enumerate(found):
        assert min(box.x0, box.y0, width - box.x1, height - box.y1) > -1, (
            f"'{text}' leaves the figure"
        )
        for other, second in found[:number]:
            across = min(box.x1, second.x1) - max(box.x0, second.x0)
            assert min(across, min(box.y1, second.y1) - max(box.y0, second.y0)) < 1, (
                f"'{text}' lies on '{other}'"
            )


@pytest.mark.slow
@pytest.mark.parametrize("name", USUAL)
@pytest.mark.parametrize(("form", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_the_same_numbers_give_the_same_bytes(name, form, start):
    one, two = USUAL[name](form), USUAL[name](form)
    assert one == two
    assert one.startswith(start)


@pytest.mark.slow
@pytest.mark.sampled(20)
@pytest.mark.parametrize("name", [*USUAL, *AWKWARD])
def test_no_text_lies_on_another_or_leaves_the_figure(drawn, name):
    data = USUAL[name]("png") if name in USUAL else AWKWARD[name]()
    assert_legible(drawn[0])
    assert max(Image.open(io.BytesIO(data)).size) <= 3200
    sizes = [text.get_fontsize() for text in drawn[0].findobj(Text) if text.get_text().strip()]
    assert min(sizes) >= 4


# ---------------------------------------------------------------- lines


def test_a_band_is_the_confidence_interval_over_seeds_and_the_spread_of_resamplings(drawn):
    rows = [
        {
            "model": "m",
            "dataset": "d",
            "layer": layer,
            "layer_index": i,
            "seed": s,
            "ss_ratio": v,
            "id": v,
            "id_std": 0.25,
        }
        for i, layer in enumerate(["a", "b"])
        for s, v in enumerate([0.2, 0.2, 0.3, 0.3])
    ]
    layer_metrics_figures.metric_over_layers(rows, "ss_ratio")
    axes = drawn[0].axes[0]
    half = 3.182446305284263 * np.std([0.2, 0.2, 0.3, 0.3], ddof=1) / math.sqrt(4)
    heights = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((0.25 - half, 0.25 + half))
    assert axes.lines[0].get_ydata() == pytest.approx([0.25, 0.25])
    assert [t.get_text() for t in axes.get_xticklabels()] == ["a", "b"]
    assert axes.get_xlabel() == "Layer"
    assert " ".join(axes.get_ylabel().split()) == "Within / total sum of squares (fraction)"
    layer_metrics_figures.metric_over_layers([r for r in rows if r["seed"] == 1], "id")
    heights = drawn[1].axes[0].collections[0].get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx(
        (0.0, 0.2 + 0.25)
    )  # a dimension is not negative
    assert drawn[1].legends[0].get_title().get_text() == "± std over resamplings"


def test_the_difference_is_paired_by_seed():
    rows = [
        {"model": m, "dataset": "d", "layer": "a", "layer_index": 0, "seed": s, "id": base + s}
        for m, base in (("x", 1.0), ("y", 3.0))
        for s in range(4)
    ]
    (line,) = layer_metrics_series.difference(rows, "id", "x")
    assert (line.model, line.values["a"].mean) == ("y", 2.0)
    assert line.values["a"].low == line.values["a"].high == 2.0
    (line,) = layer_metrics_series.difference(
        [r for r in rows if r["seed"] == (0 if r["model"] == "x" else 1)], "id", "x"
    )
    assert (line.values["a"].mean, line.values["a"].low) == (3.0, None)


def test_the_difference_is_to_the_same_checkpoint_or_the_last():
    rows = [
        {"model": m, "checkpoint": tag, "dataset": "d", "layer": "a", "layer_index": 0, "id": value}
        for m, tag, value in (("x", "0", 1.0), ("x", "3", 5.0), ("y", "0", 2.0), ("y", "9", 6.0))
    ]
    found = {
        line.checkpoint: line.values["a"].mean
        for line in layer_metrics_series.difference(rows, "id", "x")
    }
    assert found == {"0": 1.0, "9": 1.0}


def test_names_that_are_not_there_are_said():
    with pytest.raises(UnknownNameError, match="nearest: ss_ratio"):
        layer_metrics_figures.metric_over_layers(table(SIX, CNN), "ss_ration")
    with pytest.raises(UnknownNameError, match="nearest: mnist") as raised:
        layer_metrics_figures.delta_to_baseline(table(SIX, CNN), "id", "mnits")
    assert raised.value.exit_code == 2
    with pytest.raises(ValueError, match="gif"):
        layer_metrics_figures.metric_over_layers(table(SIX, CNN), "id", form="gif")


def test_a_model_keeps_its_colour_in_every_figure(drawn):
    rows = table(SIX, CNN)
    layer_metrics_figures.metric_over_layers(rows, "id")
    layer_metrics_figures.delta_to_baseline(rows, "id", "mnist")
    one, two = (
        {
            line.get_label(): line.get_color()
            for line in f.axes[0].lines
            if line.get_label()[0] != "_"
        }
        for f in drawn
    )
    assert two == {name: colour for name, colour in one.items() if name != "mnist"}


def test_one_panel_a_training_and_the_darker_the_deeper(drawn):
    layer_metrics_figures.metric_over_checkpoints(table(SIX, CNN, TAGS), "id")
    assert [axes.get_title(loc="left") for axes in drawn[0].axes] == [
        f"Trained on {name}" for name in SIX
    ]
    assert [t.get_text() for t in drawn[0].axes[0].get_xticklabels()] == TAGS
    bright = [sum(line.get_color()) for line in drawn[0].axes[0].lines]
    assert bright == sorted(bright, reverse=True)


def test_models_of_one_training_have_their_own_panels_where_they_would_meet(drawn):
    rows = table(["a", "b"], CNN, TAGS[:3])
    for row in rows:
        row["trained_on"] = "mnist"
    layer_metrics_figures.metric_over_checkpoints(rows, "id")
    assert [axes.get_title(loc="left") for axes in drawn[0].axes] == [
        "Trained on mnist, a",
        "Trained on mnist, b",
    ]
    apart = [row for row in rows if (row["model"] == "a") == (row["checkpoint"] == "0")]
    layer_metrics_figures.metric_over_checkpoints(apart, "id")
    assert [axes.get_title(loc="left") for axes in drawn[1].axes] == ["Trained on mnist"], (
        "a model a checkpoint"
    )


@given(st.permutations(TAGS))
def test_checkpoints_stand_in_the_order_of_training(tags):
    assert layer_metrics_series.checkpoints([{"checkpoint": tag} for tag in tags]) == TAGS
    assert (
        layer_metrics_series.checkpoints(
            [{"checkpoint": tag, "checkpoint_index": i} for i, tag in enumerate(tags)]
        )
        == tags
    )


@given(
    st.lists(
        st.lists(st.sampled_from(range(30)), min_size=1, unique=True).map(sorted),
        min_size=1,
        max_size=5,
    )
)
def test_layers_keep_every_networks_order(networks):
    rows = [
        {"model": str(m), "layer": f"l{layer}", "layer_index": i}
        for m, own in enumerate(networks)
        for i, layer in enumerate(own)
    ]
    found = layer_metrics_series.layers(rows)
    if found is not None:
        assert sorted(found) == sorted({row["layer"] for row in rows})
        for own in networks:
            places = [found.index(f"l{layer}") for layer in own]
            assert places == sorted(places)


def test_layers_in_opposite_orders_have_no_common_axis(drawn):
    rows = [
        {"model": m, "dataset": "d", "layer": layer, "layer_index": i, "id": 1.0}
        for m, order in (("x", "abc"), ("y", "cba"))
        for i, layer in enumerate(order)
    ]
    assert layer_metrics_series.layers(rows) is None
    layer_metrics_figures.metric_over_layers(rows, "id")
    assert drawn[0].axes[0].get_xlabel().startswith("Relative depth")


def test_rows_of_any_spelling_of_unknown_are_drawn():
    row = {"model": "m", "dataset": "d", "layer": "a", "layer_index": 0}
    lines = layer_metrics_series.lines(
        [
            row | {"id": 1.0, "seed": "", "checkpoint_index": "", "checkpoint": ""},
            row | {"layer": "b", "id": ""},
            row | {"layer": "c", "id": None},
        ],
        "id",
    )
    assert [list(line.values) for line in lines] == [["a"]]


# ---------------------------------------------------------------- RDMs


def test_cells_are_sorted_by_class_and_square_and_condensed_agree():
    condensed, codes = rdm(4, [3, 1, 5, 2])
    n = len(codes)
    square = np.zeros((n, n))
    square[np.triu_indices(n, 1)] = condensed
    square += square.T
    order = np.argsort(codes, kind="stable")
    expected = square[np.ix_(order, order)]
    np.fill_diagonal(expected, np.nan)
    for given_as in (condensed, square, condensed.astype(np.float32)):
        cells, edges, shown = rdm_cells.cells(given_as, codes, 1000)
        np.testing.assert_allclose(cells, expected, atol=1e-6)
        assert edges.tolist() == [0, 3, 4, 9, 11]
        assert shown == [0, 1, 2, 3]


@pytest.mark.parametrize(("classes", "per", "most"), [(3, [17, 4, 9], 10), (1, 23, 5), (20, 2, 10)])
def test_blocks_are_means_of_pairs_and_hold_one_class_where_they_can(classes, per, most):
    condensed, codes = rdm(classes, per)
    cells, edges, _ = rdm_cells.cells(condensed, codes, most)
    assert abs(len(cells) - most) <= classes
    assert cells.shape[0] == cells.shape[1]
    np.testing.assert_allclose(cells, cells.T)
    assert edges[-1] == len(cells)
    if classes <= most // 2:
        square = np.zeros((len(codes),) * 2)
        square[np.triu_indices(len(codes), 1)] = condensed
        square += square.T
        first, last = int(edges[1]), int(edges[-2])
        if (
            first == 1 and last > 1
        ):  # the block of all of class 0 against one block of the last class
            assert np.isfinite(cells[0, -1])
        whole = square[np.ix_(codes == 0, codes == classes - 1)]
        part = cells[:first, last:]
        assert np.nanmin(part) >= whole[whole > 0].min() - 1e-12
        assert np.nanmax(part) <= whole.max() + 1e-12


def test_one_block_a_class_is_the_mean_over_the_class():
    condensed, codes = rdm(3, 30)
    cells, _, _ = rdm_cells.cells(condensed, codes, 6)
    square = np.zeros((90, 90))
    square[np.triu_indices(90, 1)] = condensed
    square += square.T
    order = [np.flatnonzero(codes == c) for c in range(3)]
    expected = square[np.ix_(order[0][:15], order[2][15:])].mean()
    assert cells[0, -1] == pytest.approx(expected)
    own = square[np.ix_(order[0][:15], order[0][:15])]
    assert cells[0, 0] == pytest.approx(own.sum() / (15 * 14)), (
        "a row's distance to itself does not count"
    )


def test_means_within_and_between_are_those_of_the_pairs(drawn):
    condensed, codes = rdm(4, 6)
    i, j = np.triu_indices(len(codes), 1)
    same = codes[i] == codes[j]
    layer_metrics_figures.within_between(condensed, codes)
    means = [line.get_xdata()[0] for line in drawn[0].axes[0].lines]
    assert means == pytest.approx([condensed[same].mean(), condensed[~same].mean()])
    said = [t.get_text() for t in drawn[0].legends[0].get_texts()]
    assert f"{same.sum()} pairs" in said[0]
    for patch in drawn[0].axes[0].patches:
        assert np.sum(patch.get_data().values) == pytest.approx(1.0)


def test_a_shape_that_does_not_fit_and_a_number_that_is_none_are_refused():
    condensed, codes = rdm(2, 3)
    with pytest.raises(ValueError, match="for 5 rows"):
        layer_metrics_figures.rdm_heat_map(condensed, codes[:5], ["a", "b"])
    condensed[7] = np.nan
    for draw in (
        lambda: layer_metrics_figures.rdm_heat_map(condensed, codes, ["a", "b"]),
        lambda: layer_metrics_figures.within_between(condensed, codes),
    ):
        with pytest.raises(ValueError, match="row 1 are not all finite"):
            draw()


def test_heat_maps_of_a_grid_share_their_colours(drawn):
    layer_metrics_figures.rdm_grid(
        [("a", rdm(2, 4)[0]), ("b", 3 * rdm(2, 4)[0])], rdm(2, 4)[1], ["x", "y"]
    )
    limits = {image.get_clim() for axes in drawn[0].axes for image in axes.images}
    assert len(limits) == 1


# ---------------------------------------------------------------- maps


def test_cells_hold_their_numbers_up_to_15_rows(drawn):
    layer_metrics_figures.comparison_map(alike(15), named(15))
    layer_metrics_figures.comparison_map(alike(16), named(16))
    layer_metrics_figures.comparison_map([[1.0, np.nan], [-0.5, 1.0]], ["a", "b"])
    assert [len(figure.axes[0].texts) for figure in drawn] == [225, 0, 3]
    assert drawn[2].axes[0].images[0].get_clim() == (-1, 1)
    with pytest.raises(ValueError, match="2 × 2 names"):
        layer_metrics_figures.comparison_map(np.eye(3), ["a", "b"])


def test_a_line_parts_models(drawn):
    layer_metrics_figures.comparison_map(alike(6), list("abcabc"), groups=["m"] * 3 + ["n"] * 3)
    at = {
        float(line.get_xdata()[0])
        for line in drawn[0].axes[0].lines
        if line.get_xdata()[0] == line.get_xdata()[1]
    }
    assert at == {2.5}
    assert [t.get_text() for t in drawn[0].axes[0].texts[:2]] == ["m", "n"]


def test_both_dimensions_of_a_map_have_one_scale_and_every_point_is_seen(drawn):
    x = points(20) * [100, 1]
    layer_metrics_figures.mds_map(x, [str(i) for i in range(20)], SIX[:4] * 5)
    axes = drawn[0].axes[0]
    box = axes.get_window_extent()
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    assert (right - left) / box.width == pytest.approx((high - low) / box.height)
    assert left < x[:, 0].min()
    assert right > x[:, 0].max()
    assert sum(len(c.get_offsets()) for c in axes.collections) == 20
    with pytest.raises(ValueError, match="finite"):
        layer_metrics_figures.mds_map([[0, np.inf]], ["a"])


def test_names_without_room_are_counted(drawn):
    layer_metrics_figures.mds_map(np.zeros((300, 2)), TWELVE * 25)
    assert "names had no room" in drawn[0].axes[0].get_title(loc="right")
    assert_legible(drawn[0])


POINT = st.tuples(st.floats(0, 400), st.floats(0, 300))
SIZE = st.tuples(st.floats(4, 120), st.floats(6, 12))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(POINT, SIZE), max_size=25))
def test_placed_names_cover_no_name_and_no_point(rows):
    where = np.array([p for p, _ in rows]).reshape(-1, 2)
    found = labels.place_labels(
        where, {i: size for i, (_, size) in enumerate(rows)}, (0, 0, 400, 300)
    )
    boxes = {
        i: (
            *(where[i] + offset - np.array(rows[i][1]) / 2),
            *(where[i] + offset + np.array(rows[i][1]) / 2),
        )
        for i, (offset, _) in found.items()
    }
    for i, (x0, y0, x1, y1) in boxes.items():
        assert x0 >= 0 and y0 >= 0 and x1 <= 400 and y1 <= 300  # noqa: PT018
        assert not any(x0 < x < x1 and y0 < y < y1 for x, y in where)
        for j, other in boxes.items():
            assert j >= i or x0 >= other[2] or other[0] >= x1 or y0 >= other[3] or other[1] >= y1
    if rows and 60 <= where[0][0] <= 200 and 20 <= where[0][1] <= 280 and len(rows) == 1:
        assert 0 in found


# ---------------------------------------------------------------- words


@given(
    st.lists(
        st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=60),
        min_size=1,
        max_size=8,
        unique=True,
    )
)
def test_shortened_names_stay_different_where_they_can(names):
    short = layer_axes.short(names)
    assert len(short) == len(names)
    if max(map(len, names)) <= figures.LABEL_LENGTH:
        assert short == [figures._shown(name) for name in names]
    assert len(set(short)) == len({figures._shown(name) for name in names})


@given(st.text(max_size=80), st.integers(1, 20))
def test_a_folded_name_keeps_its_letters(name, length):
    folded = layer_axes.folded(name.replace("\n", " "), length)
    assert all(len(line) <= length for line in folded.split("\n"))


def test_long_layer_names_lose_what_all_share():
    assert layer_axes.short(DEEP[:2]) == ["denselayer1.conv2", "denselayer2.conv2"]
