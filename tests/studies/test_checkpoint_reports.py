"""The tables and figures of a study of checkpoints, from rows made up; units of dissimilarities on
every axis.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_hex

from tlx.errors import BadDataError, MissingError
from tlx.plots import rdms
from tlx.studies.checkpoints import figures as checkpoints_figures
from tlx.studies.checkpoints import redraw as checkpoints_redraw
from tlx.studies.checkpoints import report as checkpoints_report
from tlx.studies.checkpoints import tables as checkpoints_tables
from tlx.studies.layer_metrics import columns as layer_metrics_columns
from tlx.studies.layer_metrics import figures as layer_metrics_figures
from tlx.studies.layer_metrics import series as layer_metrics_series

TAGS = ("0", "0_3", "1", "30")


def tuning(sources=("mnist", "noise"), targets=("mnist",), seeds=(1, 2, 3)):
    rng = np.random.default_rng(0)
    return [
        {
            "target": t,
            "source": s,
            "checkpoint": c,
            "checkpoint_index": i,
            "seed": n,
            "tag": tag,
            "index": k,
            "test_accuracy": float(min(1, 0.1 + 0.2 * k + 0.02 * i + 0.05 * rng.random())),
            "test_top1": 0.5,
            "test_loss": 1.0,
        }
        for t in targets
        for s in sources
        for i, c in enumerate(TAGS)
        for n in seeds
        for k, tag in enumerate(TAGS)
    ]


def performance(rows):
    groups = {}
    for row in rows:
        of = tuple(row[name] for name in checkpoints_tables.MODEL)
        groups.setdefault(of, []).append(row["test_accuracy"])
    return [
        {
            **dict(zip(checkpoints_tables.MODEL, of, strict=True)),
            "test_accuracy": a[-1],
            "val_accuracy": a[-1],
            "transfer_performance_val": 1.5,
            "transfer_performance": sum((x + y) / 2 for x, y in itertools.pairwise(a)),
        }
        for of, a in groups.items()
    ]


def correlations(
    target="mnist", layers=("conv1", "relu1", "out"), metrics=checkpoints_figures.BARS
):
    scopes = [
        ("all", "", 8),
        ("source", "mnist", 4),
        ("source", "noise", 4),
        *(("checkpoint", t, 2) for t in TAGS),
    ]
    return [
        {
            "target": target,
            "metric": m,
            "layer": layer,
            "layer_index": i,
            "scope": scope,
            "name": name,
            "n": n,
            "rho": max(0.9 - 0.2 * i, -1.0),
            "fisher": 0.5,
            "low": -0.6,
            "high": 0.6,
            "p": 0.01,
            "exact": True,
        }
        for m in metrics
        for i, layer in enumerate(layers)
        for scope, name, n in scopes
    ]


FIGURES = {
    "tuning": lambda form: checkpoints_figures.accuracy_over_fine_tuning(tuning(), "a title", form),
    "tuning two targets": lambda form: checkpoints_figures.accuracy_over_fine_tuning(
        tuning(targets=("mnist", "fashion")), form=form
    ),
    "tuning one seed": lambda form: checkpoints_figures.accuracy_over_fine_tuning(
        tuning(seeds=(1,)), form=form
    ),
    "performance": lambda form: checkpoints_figures.performance_over_checkpoints(
        performance(tuning()), 4, form=form
    ),
    "all": lambda form: checkpoints_figures.spearman_bars(correlations(), "all", form=form),
    "source": lambda form: checkpoints_figures.spearman_bars(
        correlations(), "source", title="each", form=form
    ),
    "checkpoint": lambda form: checkpoints_figures.spearman_bars(
        correlations(), "checkpoint", form=form
    ),
    "deep": lambda form: checkpoints_figures.spearman_bars(
        correlations(layers=[f"features.{i}.conv" for i in range(40)]), "source", form=form
    ),
    "nothing": lambda form: checkpoints_figures.spearman_bars([], "all", form=form),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_the_same_bytes_twice(name):
    first = FIGURES[name]("png")
    assert first.startswith(b"\x89PNG")
    assert FIGURES[name]("png") == first
    assert b"<svg" in FIGURES[name]("svg")[:500]


def drawn(monkeypatch, draw):
    """The figure that `draw` makes, before it becomes bytes."""
    found = []
    monkeypatch.setattr(
        layer_metrics_figures.figures, "render", lambda figure, form: found.append(figure) or b""
    )
    draw()
    return found[0]


def test_lines_are_the_means_over_seeds_of_the_last_checkpoint(monkeypatch):
    rows = tuning()
    figure = drawn(monkeypatch, lambda: checkpoints_figures.accuracy_over_fine_tuning(rows))
    lines = [
        line
        for line in figure.axes[0].get_lines()
        if line.get_label().startswith(("mnist", "noise"))
    ]
    for line, source in zip(lines, ("mnist", "noise"), strict=True):
        assert line.get_label() == f"{source}, 30"
        want = [
            np.mean(
                [
                    r["test_accuracy"]
                    for r in rows
                    if (r["source"], r["checkpoint"], r["tag"]) == (source, "30", tag)
                ]
            )
            for tag in TAGS
        ]
        assert line.get_ydata() == pytest.approx(want)
    assert figure.axes[0].get_xticklabels()[1].get_text() == "0_3"


def test_one_checkpoint_is_a_line_across(monkeypatch):
    rows = [
        *performance(tuning(("mnist",))),
        *(r for r in performance(tuning(("random",))) if r["checkpoint"] == "0"),
    ]
    axes = drawn(
        monkeypatch, lambda: checkpoints_figures.performance_over_checkpoints(rows, 4)
    ).axes[0]
    across = next(line for line in axes.get_lines() if line.get_label() == "random")
    assert across.get_linestyle() == ":"
    assert across.get_ydata()[0] == pytest.approx(
        np.mean([r["transfer_performance"] for r in rows if r["source"] == "random"])
    )
    assert axes.get_ylim()[1] <= 3


def test_bars_are_rho_before_what_chance_makes(monkeypatch):
    axes = drawn(
        monkeypatch, lambda: checkpoints_figures.spearman_bars(correlations(), "source")
    ).axes
    assert len(axes) == 3
    bars = [(p.get_x(), p.get_y(), p.get_height()) for p in axes[0].patches]
    assert sorted(h for _, y, h in bars if y == 0) == pytest.approx(sorted([0.9, 0.7, 0.5] * 2))
    assert [(y, round(h, 9)) for _, y, h in bars if y != 0] == [(-0.6, 1.2)] * 6
    xs = sorted(x for x, y, _ in bars if y != 0)
    assert min(np.diff(xs)) > 0.3, "two bars of a layer stand beside each other"


def test_a_source_has_one_colour_in_all_figures_of_a_study(monkeypatch):
    order = (
        "mnist",
        "random",
        "noise",
    )  # one checkpoint has no correlation: random has a line, and no bar
    rows = performance(tuning(order))
    lines = (
        drawn(monkeypatch, lambda: checkpoints_figures.performance_over_checkpoints(rows, 4))
        .axes[0]
        .get_lines()
    )
    of = {line.get_label(): to_hex(line.get_color()) for line in lines}
    figure = drawn(
        monkeypatch,
        lambda: checkpoints_figures.spearman_bars(correlations(), "source", sources=order),
    )
    bars = {
        text.get_text(): to_hex(patch.get_facecolor())
        for patch, text in zip(
            figure.legends[0].get_patches(), figure.legends[0].get_texts(), strict=False
        )
    }
    assert (bars["mnist"], bars["noise"]) == (of["mnist"], of["noise"])
    assert {bars["noise"]} <= {to_hex(p.get_facecolor()) for p in figure.axes[0].patches}


# ---------------------------------------------------------------- tables


def test_tables_come_back(tmp_path):
    rows = {
        "performance": performance(tuning()),
        "tuning": tuning(),
        "correlations": correlations(),
        "pretraining": [{"source": "=mnist", "seed": 1, "tag": "0", "test_loss": 2.3}],
    }
    found = checkpoints_tables.rows_of(rows)
    paths = {path.stem: path for path in checkpoints_tables.write(found, tmp_path)}
    assert set(paths) == set(checkpoints_tables.COLUMNS)
    for name, path in paths.items():
        again = checkpoints_tables.read(path, name)
        want = [
            {k: (str(v) if k == "seed" else v if v != "" else None) for k, v in row.items()}
            for row in found[name]
        ]
        assert again == want


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("target,source,checkpoint\na,b,0\n", "no column transfer_performance"),
        ("target,source,checkpoint,transfer_performance\n", "no row"),
        ("target,source,checkpoint,transfer_performance\na,b,0,much\n", "much"),
        ("target,source,checkpoint,transfer_performance\na,b,0,nan\n", "finite"),
        ("target,source,checkpoint,transfer_performance\na,,0,1\n", "is empty"),
        (
            "target,source,checkpoint,transfer_performance,checkpoint_index\na,b,0,1,1.5\n",
            "whole number",
        ),
        ('target,source,checkpoint,transfer_performance\na,"b,0,1\n', "UTF-8"),
        ("\xff", "no column"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path, text, says):
    path = tmp_path / "areas.csv"
    path.write_text(text)
    with pytest.raises(BadDataError, match=says):
        checkpoints_tables.read(path)
    with pytest.raises(MissingError, match=r"areas\.csv"):
        checkpoints_tables.read(tmp_path / "area.csv")


def test_means_have_their_intervals():
    rows = performance(tuning())
    (row,) = (
        r
        for r in checkpoints_report.means(rows)
        if (r["source"], r["checkpoint"]) == ("noise", "1")
    )
    values = [
        r["transfer_performance"] for r in rows if (r["source"], r["checkpoint"]) == ("noise", "1")
    ]
    assert row["mean"] == pytest.approx(np.mean(values))
    assert row["ci"] == pytest.approx(4.302652729911275 * np.std(values, ddof=1) / np.sqrt(3))
    text = checkpoints_report.table(rows, "mnist")
    assert text.splitlines()[0].split() == ["source", *TAGS]
    assert (
        f"{row['mean']:.3f} ({min(values):.3f} to {max(values):.3f})" in text
    )  # three seeds: too few for ±


def test_correlations_are_redrawn(tmp_path):
    names = {
        p.name
        for p in checkpoints_redraw.correlated(
            [*correlations(), *correlations("other")], tmp_path, ("id",), "svg"
        )
    }
    assert names == {
        "correlations.csv",
        "transfer_correlation_mnist.svg",
        "transfer_correlation_other.svg",
        *(f"spearman_{s}_{t}.svg" for s in ("all", "source") for t in ("mnist", "other")),
    }


# ---------------------------------------------------------------- units of dissimilarities


def layer_rows(rdm, **more):
    return [
        {
            "model": "a",
            "trained_on": "",
            "checkpoint": "",
            "dataset": "d",
            "layer": layer,
            "layer_index": i,
            "rdm": rdm,
            "rsa_contrast": 0.5,
            "rsa_label": 0.4,
            "id": 3.0,
            **more,
        }
        for i, layer in enumerate(("in", "out"))
    ]


@pytest.mark.parametrize(
    ("rdm", "unit"),
    [
        ("", "1 − r"),
        ("correlation", "1 − r"),
        ("cosine", "1 − cosine"),
        ("euclidean", "Euclidean distance"),
    ],
)
def test_axes_say_what_dissimilarities_are(monkeypatch, rdm, unit):
    rows = layer_rows(rdm)
    assert layer_metrics_columns.axis_title("rsa_contrast", rows).endswith(f"({unit})")
    assert layer_metrics_columns.axis_title("id", rows) == layer_metrics_columns.COLUMNS["id"].title
    figure = drawn(
        monkeypatch, lambda: layer_metrics_figures.metric_over_layers(rows, "rsa_contrast")
    )
    assert unit in figure.axes[0].get_ylabel().replace("\n", " ")


def test_different_dissimilarities_share_no_unit():
    rows = [*layer_rows("cosine"), *layer_rows("euclidean")]
    assert layer_metrics_columns.axis_title("rsa_contrast", rows).endswith("(dissimilarity)")


def test_a_trials_figures_say_it_too(monkeypatch, tmp_path):
    from tlx.result import Result
    from tlx.studies.layer_metrics import report as layers
    from tlx.studies.layer_metrics.spec import LayerMetrics

    said = []
    monkeypatch.setattr(
        layer_metrics_figures, "rdm_grid", lambda *a, unit, form: said.append(unit) or b""
    )
    monkeypatch.setattr(
        layer_metrics_figures,
        "within_between",
        lambda *a, title, unit, form: said.append(unit) or b"",
    )
    (tmp_path / "rdms").mkdir()
    np.save(tmp_path / "rdms" / "00.npy", np.arange(6, dtype=np.float32))
    rows = [{"layer": "in", "layer_index": 0, "rows": 4, "width": 3, "id": 2.0}]
    spec = LayerMetrics(rdm="euclidean", model="a", dataset="d", layers=("in",))
    layers.write_trial_figures(
        tmp_path,
        Result.of(spec, details={"rows": rows, "codes": [0, 0, 1, 1], "classes": ["x", "y"]}),
    )
    assert said == ["Dissimilarity (Euclidean distance)"] * 2
    assert rdms.UNIT == "Dissimilarity (1 − r)"


def test_intervals_over_stimuli_are_bars(monkeypatch):
    rows = layer_rows("", rsa_label_low=0.3, rsa_label_high=0.6)
    found = layer_metrics_series.lines(rows, "rsa_label")[0].values["in"]
    assert (found.mean, found.low, found.high, found.spread) == (
        0.4,
        0.3,
        0.6,
        "95 % CI over stimuli",
    )
