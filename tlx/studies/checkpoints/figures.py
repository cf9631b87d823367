"""Figures of a study of checkpoints: accuracies, transfer performance, Spearman's ρ.

Accuracy along the fine-tuning, transfer performance along the pre-training, and Spearman's ρ of
layer metrics with it against a permutation baseline. The same numbers give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter
from matplotlib.typing import ColorType

from ...plots import axes as layer_axes
from ...plots import figures, statistics
from ...plots.statistics import Value
from ..layer_metrics import series as layer_metrics_series
from ..layer_metrics.columns import COLUMNS
from ..layer_metrics.figures import CHECKPOINT_AXIS
from ..layer_metrics.series import CI

BARS = ("id", "ss_ratio", "rsa_contrast")  # of the thesis
LIKE = {"fisher": "#000000", "null": "#C9C9C9"}
BAR_WIDTH = 0.8  # of the distance of two layers, for all bars of one

Rows = Sequence[Mapping[str, Any]]


def accuracy_over_fine_tuning(
    rows: Rows, title: str = "", form: str = "png", *, caption: Sequence[str] = ()
) -> bytes:
    """Draw test accuracy over the moments of the fine-tuning.

    Of the last checkpoint that was fine-tuned of each source: the mean over seeds and its 95 % CI,
    one line a source, one panel a target.

    rows   {"target", "source", "checkpoint", "checkpoint_index", "seed", "tag", "index",
    "test_accuracy"}
    """
    last = {
        (row["target"], row["source"]): max(
            r["checkpoint_index"]
            for r in rows
            if (r["target"], r["source"]) == (row["target"], row["source"])
        )
        for row in rows
    }
    chosen = [row for row in rows if row["checkpoint_index"] == last[row["target"], row["source"]]]
    ends = {row["source"]: row["checkpoint"] for row in chosen}
    tags = _tags(rows, "tag", "index")
    with figures.figure_style():
        figure = _TwoPanels(chosen, tags)
        _lines(
            chosen,
            tags,
            "index",
            "test_accuracy",
            labels={source: f"{source}, {tag}" for source, tag in ends.items()},
            heading="Source, checkpoint",
            figure=figure,
        )
        for axes in figure.axes:
            axes.yaxis.set_major_formatter(
                PercentFormatter(1.0, decimals=figures._percent_decimals(axes))
            )
            low, high = axes.get_ylim()
            axes.set_ylim(max(low, -0.02), min(high, 1.02))
        _name_below(
            figure, CHECKPOINT_AXIS.replace("Checkpoint", "Moment of the fine-tuning"), caption
        )
        layer_axes.y_title(figure.figure, figure.axes, "Mean per-class test accuracy")
        layer_axes.head(figure.figure, title, figure.beside)
        return figures.render(figure.figure, form)


def performance_over_checkpoints(
    rows: Rows, moments: int, title: str = "", form: str = "png", *, caption: Sequence[str] = ()
) -> bytes:
    """Draw transfer performance over the checkpoints of the pre-training.

    The mean over seeds and its 95 % CI, one line a source, one panel a target. A source with a
    single checkpoint (random) is a line across.

    rows      {"target", "source", "checkpoint", "checkpoint_index", "seed", "transfer_performance"}
    moments   of the fine-tuning, whose accuracies make the area: at most moments − 1
    """
    tags = _tags(rows, "checkpoint", "checkpoint_index")
    with figures.figure_style():
        figure = _TwoPanels(rows, tags)
        _lines(
            rows,
            tags,
            "checkpoint",
            "transfer_performance",
            labels={row["source"]: row["source"] for row in rows},
            heading="Source",
            figure=figure,
        )
        for axes in figure.axes:
            low, high = axes.get_ylim()
            axes.set_ylim(
                max(low, 0), min(high, moments - 1)
            )  # an area has ends, also where an interval passes them
        _name_below(
            figure, CHECKPOINT_AXIS.replace("Checkpoint", "Checkpoint of the pre-training"), caption
        )
        layer_axes.y_title(
            figure.figure,
            figure.axes,
            "Transfer performance\n(area under test accuracy as a fraction over "
            f"{moments} moments, at most {moments - 1})",
        )
        layer_axes.head(figure.figure, title, figure.beside)
        return figures.render(figure.figure, form)


class _TwoPanels:
    """Panels, one a target, for lines over named moments."""

    def __init__(self, rows: Rows, tags: Sequence[str]):
        self.targets = statistics.distinct(row["target"] for row in rows)
        self.sources = statistics.distinct(row["source"] for row in rows)
        axis = max(4.2, 0.42 * len(tags))
        self.named = layer_axes.ticks(layer_axes.short(tags), axis, 6.5)
        self.beside = layer_axes.widest([*self.sources, CI], 9) + 1.2
        self.figure, self.axes = layer_axes.panels(
            max(len(self.targets), 1),
            axis + 0.6,
            3.6 + self.named.reach,
            columns=2,
            margin=self.beside,
        )


def _lines(
    rows: Rows,
    tags: Sequence[str],
    x: str,
    y: str,
    *,
    labels: Mapping[str, str],
    heading: str,
    figure: _TwoPanels,
) -> None:
    """Draw one line a source into the panel of each target."""
    ranged: set[str] = set()
    bounds = statistics.ACCURACY if y.endswith("accuracy") else statistics.NOT_NEGATIVE
    for axes, target in zip(figure.axes, figure.targets, strict=True):
        for number, source in enumerate(figure.sources):
            selected = [row for row in rows if (row["target"], row["source"]) == (target, source)]
            places: dict[int, list[float]] = {}
            for row in selected:
                at = tags.index(row["tag"] if x == "index" else row["checkpoint"])
                places.setdefault(at, []).append(row[y])
            values = {at: _value(members, bounds) for at, members in sorted(places.items())}
            ranged |= {value.spread for value in values.values() if value.low is not None}
            like = layer_axes.look(number, labels[source])
            if len(values) == 1 and len(tags) > 1:
                (value,) = values.values()
                axes.axhline(
                    value.mean,
                    color=like.colour,
                    linestyle=":",
                    linewidth=1.6,
                    label=figures.legend_label(like.label),
                    zorder=2.5,
                )
                if value.low is not None and value.high is not None:
                    axes.axhspan(value.low, value.high, color=like.colour, alpha=0.12, linewidth=0)
            elif values:
                layer_axes.line(
                    axes, list(values), list(values.values()), like, max(len(figure.sources), 4)
                )
        axes.set_title(layer_axes.wrapped(f"Target {target}", 4.0, 10), loc="left", fontsize=10)
        layer_axes.name_axis(axes, figure.named)
        axes.set_xlim(-0.5, len(tags) - 0.5)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10], min_n_ticks=3))
    layer_axes.legend(figure.figure, figure.axes, "\n".join([heading, *sorted(ranged)]))


def _name_below(panels: _TwoPanels, axis: str, caption: Sequence[str]) -> None:
    """Name the horizontal axis.

    A caption is below the figure, and the name moves to each panel.
    """
    if not caption:
        panels.figure.supxlabel(axis, fontsize=10)
        return
    for axes in panels.axes:
        axes.set_xlabel(axis, fontsize=10)
    figures.add_caption(panels.figure, caption)


def _value(numbers: Sequence[float], bounds: tuple[float, float]) -> Value:
    mean = statistics.estimate(numbers, bounds=bounds)
    assert mean is not None
    return layer_metrics_series.around(mean)


def _tags(rows: Rows, name: str, place: str) -> list[str]:
    """Return tags in the order of their indices."""
    places: dict[str, int] = {}
    for row in rows:
        places[row[name]] = max(places.get(row[name], 0), row[place])
    return sorted(places, key=lambda tag: (places[tag], tag))


# ---------------------------------------------------------------- correlations


def _chance_notes(rows: Rows) -> tuple[str, str]:
    """Return what the range behind the bars and the band across them are."""
    counts = sorted({row["n"] for row in rows})
    known = f"n = {counts[0]}" if counts else ""
    if len(counts) > 1:
        known += f" to {counts[-1]}"
    sources_moved = max((row.get("sources") or 0 for row in rows), default=0)
    of_what = f"whole sources ({sources_moved})" if sources_moved else f"models ({known})"
    return (
        f"chance: 98 % of orders of {of_what}",
        "Fisher's 95 % band, as if models were independent",
    )


def _bar_handles(
    colours: Sequence[ColorType], labels: Sequence[str], notes: tuple[str, str]
) -> list[Artist]:
    """Return the entries of the legend: a name each, chance, Fisher's band."""
    handles: list[Artist] = [
        Patch(color=colour, label=figures.legend_label(label))
        for colour, label in zip(colours, labels, strict=False)
        if label
    ]
    chance, fisher = notes
    handles += [
        Patch(color=LIKE["null"], label=chance),
        Line2D([], [], color=LIKE["fisher"], linestyle="--", linewidth=1.2, label=fisher),
    ]
    return handles


def _bar_legend(figure: Figure, handles: list[Artist], scope: str) -> None:
    figure.legend(
        handles=handles,
        loc="outside right upper",
        frameon=False,
        fontsize=9,
        title=scope.capitalize() if scope != "all" else None,
        title_fontsize=9,
        alignment="left",
    )


def spearman_bars(
    rows: Rows,
    scope: str,
    metrics: Sequence[str] = BARS,
    title: str = "",
    form: str = "png",
    sources: Sequence[str] = (),
) -> bytes:
    """Draw Spearman's ρ of each metric with the transfer performance, layer by layer.

    A panel a metric, a bar for each name of the scope, behind it the range of ρ by chance, across
    it Fisher's band. Chance is 98 % of the orders of whole sources, where rows have that (all
    models), else of the orders of single models.

    rows    {"metric", "layer", "layer_index", "scope", "name", "n", "rho", "fisher", "low",
    "high"}, of one target, and
            "sources", "source_low", "source_high" where sources can change places
    scope   "all", "source" or "checkpoint"
    sources all of a study, in the order of its lines, whose colours theirs are; else those that
      have bars
    """
    rows = [
        row
        for row in rows
        if row["scope"] == scope and row["rho"] is not None and row["metric"] in metrics
    ]
    shown = [metric for metric in metrics if any(row["metric"] == metric for row in rows)]
    names = statistics.distinct(row["name"] for row in rows)
    colours = _colours(names, scope, sources or names)
    layers = statistics.distinct(
        row["layer"] for row in sorted(rows, key=lambda row: row["layer_index"])
    )
    words = layer_axes.short(layers)
    labels = layer_axes.short(names) if scope != "all" else [""]
    notes = _chance_notes(rows)
    with figures.figure_style():
        width = max(layer_axes.axis_width(words) * 0.8, len(layers) * (0.2 + 0.1 * len(names)))
        named = layer_axes.ticks(words, width)
        beside = layer_axes.widest([*labels, *notes], 9) + 0.7
        figure, axes = layer_axes.panels(
            max(len(shown), 1),
            width + 0.7,
            3.0 + named.reach,
            columns=3 if width < 5 else 1,
            margin=beside,
        )
        for panel, metric in zip(axes, shown, strict=False):
            _bars(panel, [row for row in rows if row["metric"] == metric], layers, names, colours)
            meaning = COLUMNS[metric].meaning if metric in COLUMNS else metric
            panel.set_title(
                layer_axes.wrapped(meaning[:1].upper() + meaning[1:], width, 10),
                loc="left",
                fontsize=10,
            )
            layer_axes.name_axis(panel, named)
        if not shown:
            layer_axes.nothing(axes[0], "no correlation known")
        _bar_legend(figure, _bar_handles(colours, labels, notes), scope)
        figure.supxlabel("Layer", fontsize=10)
        layer_axes.y_title(figure, axes, "Spearman's ρ with transfer performance")
        layer_axes.head(figure, title, beside)
        return figures.render(figure, form)


def _colours(names: Sequence[str], scope: str, sources: Sequence[str]) -> Sequence[ColorType]:
    """Return colours: light to dark for checkpoints, those of their lines for sources."""
    if scope == "checkpoint":
        return layer_axes.depth_colours(len(names))
    places = [
        sources.index(name) if name in sources else number for number, name in enumerate(names)
    ]
    return [figures.COLOURS[place % len(figures.COLOURS)] for place in places]


def _bars(
    axes: Axes,
    rows: Rows,
    layers: Sequence[str],
    names: Sequence[str],
    colours: Sequence[ColorType],
) -> None:
    each = BAR_WIDTH / max(len(names), 1)
    for row in rows:
        number = names.index(row["name"])
        at = layers.index(row["layer"]) + (number - (len(names) - 1) / 2) * each
        by_source = row.get("source_low") is not None
        low, high = (
            (row["source_low"], row["source_high"]) if by_source else (row["low"], row["high"])
        )
        axes.bar(at, high - low, each, bottom=low, color=LIKE["null"], zorder=1.5)
        axes.bar(at, row["rho"], each * 0.62, color=colours[number], zorder=3)
        for side in (-1, 1):
            axes.hlines(
                side * row["fisher"],
                at - each / 2,
                at + each / 2,
                color=LIKE["fisher"],
                linewidth=1.1,
                linestyle=(0, (3, 1.5)),
                zorder=3.5,
            )
    axes.axhline(0, color="#555555", linewidth=0.9, zorder=4)
    axes.set_ylim(-1.05, 1.05)
    axes.set_xlim(-0.6, len(layers) - 0.4)
    axes.grid(axis="x", visible=False)
