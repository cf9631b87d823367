"""Figures of layer metrics as bytes of a PNG or SVG: the same bytes for the same numbers.

rows   of the table of layer metrics, see `layer_table`
The figures of RDMs (heat maps, within and between) and the maps (comparison, MDS) are in modules
  of their own and
are named here too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.typing import ColorType

from ...plots import axes as layer_axes
from ...plots import figures, statistics
from ...plots.axes import Look
from ...plots.maps import MAP_UP_TO, comparison_map, mds_map
from ...plots.rdms import rdm_grid, rdm_heat_map, within_between
from ...plots.statistics import Value
from . import series as layer_metrics_series
from .columns import COLUMNS, axis_title
from .series import Line, Rows

__all__ = [
    "MAP_UP_TO",
    "comparison_map",
    "delta_to_baseline",
    "mds_map",
    "metric_over_checkpoints",
    "metric_over_layers",
    "rdm_grid",
    "rdm_heat_map",
    "transfer_correlation",
    "within_between",
]

CHECKPOINT_AXIS = "Checkpoint (epochs; 0_k: k batches)"


def metric_over_layers(rows: Rows, metric: str, title: str = "", form: str = "png") -> bytes:
    """Draw a metric over the layers, one line a model and checkpoint, one panel a data set.

    The range of each value is the 95 % CI over seeds, or ± the standard deviation of the
    resamplings: a band of up to three lines, else bars. Checkpoints of one model have its colour,
    the later the darker. Networks whose layers have little in common are drawn over their relative
    depth.
    """
    lines = layer_metrics_series.lines(rows, metric)
    return _over_layers(rows, metric, lines, label=axis_title(metric, rows), title=title, form=form)


def delta_to_baseline(
    rows: Rows, metric: str, baseline: str, title: str = "", form: str = "png"
) -> bytes:
    """Draw the difference of each model to the baseline, over the layers both have.

    See `series.difference`.

    Raises UnknownNameError if the rows have no such model.
    """
    lines = layer_metrics_series.difference(rows, metric, baseline)
    label = f"Difference to {layer_axes.short([baseline])[0]}\n{axis_title(metric, rows)}"
    return _over_layers(rows, metric, lines, label=label, title=title, form=form, zero=True)


def _at_checkpoints(
    rows: Rows, layer: str, tags: Sequence[str], metric: str
) -> dict[int, statistics.Value]:
    """Return place of a checkpoint → value of a layer there, where it is known."""
    values = {}
    for place, tag in enumerate(tags):
        members = [row for row in rows if row["layer"] == layer and row["checkpoint"] == tag]
        if members:
            values[place] = layer_metrics_series.value(members, metric)
    return values


def metric_over_checkpoints(rows: Rows, metric: str, title: str = "", form: str = "png") -> bytes:
    """Draw a metric over training, one line a layer (the darker the deeper).

    One panel a data set trained on.

    Checkpoints are at equal distances: their tags are spaced logarithmically as they are. Rows
    without a checkpoint are left out. Where models or data sets would overlap, each has
    its own panel.
    """
    rows = [row for row in layer_metrics_series.having(rows, metric) if row["checkpoint"]]
    groups, tags, order = (
        _trainings(rows),
        layer_metrics_series.checkpoints(rows),
        layer_metrics_series.layers(rows),
    )
    names = order or statistics.distinct(
        row["layer"] for row in sorted(rows, key=lambda row: row["layer_index"])
    )
    shown, colours = layer_axes.short(names), layer_axes.depth_colours(len(names))
    few = len(names) <= layer_axes.MARKED_UP_TO
    looks = [
        Look(shown[i], colours[i], figures.MARKERS[i % len(figures.MARKERS)], place=i)
        for i in range(len(names))
    ]
    measured = layer_metrics_series.measured(rows) if few else []
    spreads = _spreads(layer_metrics_series.value(group, metric) for group in measured)
    with figures.figure_style():
        axis = min(max(2.6, 0.22 * len(tags)), 7.0) + (2.0 if len(groups) < 2 else 0.0)
        named = layer_axes.ticks(layer_axes.short(tags), axis, 6.5)
        beside = layer_axes.widest([*spreads, *shown], 9) + 0.8
        figure, axes = layer_axes.panels(
            max(len(groups), 1), axis + 0.5, 3.2 + named.reach, margin=beside
        )
        for panel, (name, members) in zip(axes, groups.items(), strict=False):
            for layer, like in zip(names, looks, strict=True):
                values = _at_checkpoints(members, layer, tags, metric)
                if values:
                    layer_axes.line(
                        panel, list(values), list(values.values()), like, len(names) if few else 99
                    )
            panel.set_title(layer_axes.wrapped(name, axis, 10), loc="left", fontsize=10)
            layer_axes.name_axis(panel, named)
            panel.set_xlim(-0.5, len(tags) - 0.5)
            _scale(panel, metric, rows)
        if not rows:
            layer_axes.nothing(axes[0], f"no {metric} at a named checkpoint")
        elif few:
            layer_axes.legend(figure, axes, "\n".join(["Layer", *spreads]))
        else:
            _depth_bar(figure, axes, shown, colours)
        figure.supxlabel(CHECKPOINT_AXIS, fontsize=10)
        layer_axes.y_title(figure, axes, axis_title(metric, rows))
        layer_axes.head(figure, title, beside)
        return figures.render(figure, form)


def transfer_correlation(
    rows: Sequence[Mapping[str, Any]],
    null: float | tuple[float, float] | None = None,
    title: str = "",
    form: str = "png",
    *,
    null_label: str = "by chance",
) -> bytes:
    """Draw Spearman's ρ between a layer's metric and transfer performance, one line a metric.

    rows   {"metric", "layer" (in the order of the network), "rho", "low", "high"}; low and high,
    the ends of its
           interval, may be None
    null   the band in which ρ is by chance: (low, high), or half its width; `null_label`: its name
           in the legend
    """
    rows = [row for row in rows if row["rho"] is not None]
    layers, metrics = (
        statistics.distinct(row[name] for row in rows) for name in ("layer", "metric")
    )
    titles = [
        COLUMNS[m].meaning[:1].upper() + COLUMNS[m].meaning[1:] if m in COLUMNS else m
        for m in metrics
    ]
    shown, words = layer_axes.short(titles, 44), layer_axes.short(layers)
    with figures.figure_style():
        width, beside = (
            layer_axes.axis_width(words),
            layer_axes.widest([*shown, null_label], 9) + 0.7,
        )
        named = layer_axes.ticks(words, width)
        figure, (axes,) = layer_axes.panels(1, width + 0.9, 3.6 + named.reach, margin=beside)
        for number, metric in enumerate(metrics):
            own = {
                row["layer"]: Value(row["rho"], row.get("low"), row.get("high"))
                for row in rows
                if row["metric"] == metric
            }
            layer_axes.line(
                axes,
                [layers.index(layer) for layer in own],
                list(own.values()),
                layer_axes.look(number, shown[number]),
                len(metrics),
            )
        axes.axhline(0, color="#555555", linewidth=0.9)
        if null is not None:
            low, high = (-null, null) if isinstance(null, (int, float)) else null
            axes.axhspan(
                low, high, color="#BBBBBB", alpha=0.45, linewidth=0, label=null_label, zorder=0.5
            )
        axes.set_ylim(-1.05, 1.05)
        axes.set_xlim(-0.5, max(len(layers), 1) - 0.5)
        axes.set_xlabel("Layer")
        layer_axes.name_axis(axes, named)
        layer_axes.y_title(figure, [axes], "Spearman's ρ with transfer performance")
        if not rows:
            layer_axes.nothing(axes, "no correlation known")
        layer_axes.legend(figure, [axes])
        layer_axes.head(figure, title, beside)
        return figures.render(figure, form)


# ---------------------------------------------------------------- pieces


def _over_layers(
    rows: Rows,
    metric: str,
    lines: list[Line],
    *,
    label: str,
    title: str,
    form: str,
    zero: bool = False,
) -> bytes:
    rows = layer_metrics_series.having(rows, metric)
    drawn = {line.model for line in lines}
    order = layer_metrics_series.layers([row for row in rows if row["model"] in drawn])
    datasets, words = (
        statistics.distinct(line.dataset for line in lines),
        layer_axes.short(order or []),
    )
    looks = _looks(rows, lines)
    with figures.figure_style():
        width = layer_axes.axis_width(words) * (1 if len(datasets) < 2 else 0.8)
        named, columns = layer_axes.ticks(words, width), max(1, min(3, int(15 / width)))
        spreads = _spreads(v for line in lines for v in line.values.values())
        beside = layer_axes.widest([*spreads, *(look.label for look in looks.values())], 9) + 0.7
        figure, axes = layer_axes.panels(
            max(len(datasets), 1), width + 0.8, 3.6 + named.reach, columns=columns, margin=beside
        )
        for panel, dataset in zip(axes, datasets, strict=False):
            for line in (line for line in lines if line.dataset == dataset):
                x = [order.index(layer) if order else line.depths[layer] for layer in line.values]
                layer_axes.line(
                    panel,
                    x,
                    list(line.values.values()),
                    looks[line.model, line.checkpoint],
                    len(looks),
                    1.0 if order else 1 / max(len(line.values), 2),
                )
            panel.set_title(
                layer_axes.wrapped(f"Images of {dataset}", width, 10), loc="left", fontsize=10
            )
            if order:
                layer_axes.name_axis(panel, named)
                panel.set_xlim(-0.5, len(order) - 0.5)
            panel.set_xlabel("Layer" if order else "Relative depth (0: input, 1: output)")
            if zero:
                panel.axhline(0, color="#555555", linewidth=0.9)
            else:
                _scale(panel, metric, rows)
        if not lines:
            layer_axes.nothing(axes[0], f"no {metric}" + (" to compare" if zero else ""))
        layer_axes.legend(
            figure, axes, "\n".join(spreads if len(looks) <= 2 * layer_axes.MARKED_UP_TO else [])
        )
        layer_axes.y_title(figure, axes, label)
        layer_axes.head(figure, title, beside)
        return figures.render(figure, form)


def _looks(rows: Rows, lines: list[Line]) -> dict[tuple[str, str], Look]:
    """Return the style of each model and checkpoint.

    Colours are the models', shades the checkpoints', the later the darker.

    Where a legend would be too long it names the last checkpoint of each model only.
    """
    numbers = {
        model: number
        for number, model in enumerate(statistics.distinct(row["model"] for row in rows))
    }
    models = statistics.distinct(line.model for line in lines)
    tags = {
        m: statistics.distinct(line.checkpoint for line in lines if line.model == m) for m in models
    }
    several = len({line.checkpoint for line in lines}) > 1
    shown = dict(zip(models, layer_axes.short(models), strict=True))
    crowded = sum(map(len, tags.values())) > layer_axes.ENTRIES_UP_TO
    looks: dict[tuple[str, str], Look] = {}
    for model in models:
        for place, tag in enumerate(tags[model], 1):
            label = f"{shown[model]}, {tag}" if several and tag else shown[model]
            plain = layer_axes.look(
                numbers[model], "" if crowded and place < len(tags[model]) else label, len(looks)
            )
            shade = 1.0 if len(tags[model]) == 1 else 0.3 + 0.7 * place / len(tags[model])
            looks[model, tag] = replace(plain, colour=layer_axes.lighter(plain.colour, shade))
    return looks


def _trainings(rows: Rows) -> dict[str, Rows]:
    """Return rows of one training by the title of their panel."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["trained_on"], row["dataset"]), []).append(row)
    of_one = len({dataset for _, dataset in groups}) == 1
    trainings: dict[str, Any] = {}
    for (trained_on, dataset), members in groups.items():
        seen = {(row["checkpoint"], row["layer"], row.get("seed")) for row in members}
        for row in members:
            parts = [
                f"Trained on {trained_on}" if trained_on else "",
                row["model"] if len(seen) < len(members) else "",
                "" if of_one else f"images of {dataset}",
            ]
            trainings.setdefault(
                ", ".join(filter(None, parts)) or f"Images of {dataset}", []
            ).append(row)
    return trainings


def _spreads(values: Iterable[Value]) -> list[str]:
    return statistics.distinct(value.spread for value in values if value.spread)


def _scale(axes: Axes, metric: str, rows: Rows) -> None:
    """Set a logarithmic scale where sums over layers differ by orders of magnitude."""
    numbers = [row[metric] for row in rows]
    if (
        metric.startswith("ss_")
        and metric != "ss_ratio"
        and min(numbers) > 0
        and max(numbers) / min(numbers) > 100
    ):
        layer_axes.powers(axes)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=7, min_n_ticks=3))


def _depth_bar(
    figure: Figure, axes: Sequence[Axes], names: Sequence[str], colours: Sequence[ColorType]
) -> None:
    norm = BoundaryNorm([i - 0.5 for i in range(len(names) + 1)], len(names))
    bar = figure.colorbar(
        ScalarMappable(norm, ListedColormap(list(colours))),
        ax=list(axes),
        pad=0.02,
        fraction=0.04,
        aspect=30,
    )
    step = math.ceil(len(names) / (figure.get_figheight() * 4))
    places = list(range(0, len(names), step))
    bar.set_ticks(places, labels=[names[i] for i in places], fontsize=7)
    bar.ax.minorticks_off()
    bar.ax.invert_yaxis()  # the input above
    bar.ax.set_title("Layer", fontsize=9, loc="left")
