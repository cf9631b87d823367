"""Figures of QUANTA studies as bytes of a PNG, SVG or PDF.

The same numbers give the same bytes.
"""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ...plots import axes as layer_axes
from ...plots import figures, statistics
from ...plots.block_names import AXIS, block_label

Rows = Sequence[Mapping[str, Any]]
SOURCE = "λ of the source"
NAMED_UP_TO = 12  # lines: above, the legend names some of them


def courses(
    lines: Mapping[int, Sequence[Sequence[float]]],
    title: str = "",
    form: str = "png",
    *,
    names: Mapping[int, str] = types.MappingProxyType({}),
) -> bytes:
    """Draw λ of the source over the epochs, the mean over repeats for each position.

    The 95 % CI is a band.

    lines   position → λ before the first epoch and after each, repeat by repeat
    names   position → what its block is called
    """
    with figures.figure_style():
        figure, axes = figures.new_subplots(7.2, 4.2)
        for number, (position, repeats) in enumerate(lines.items()):
            points = [
                e
                for values in zip(*repeats, strict=False)
                if (e := statistics.estimate(values, bounds=(0.0, 1.0))) is not None
            ]
            x, colour = range(len(points)), figures.COLOURS[number % len(figures.COLOURS)]
            named = number % max(1, len(lines) // NAMED_UP_TO) == 0
            label = figures.legend_label(f"Block {names.get(position, position + 1)}")
            axes.plot(
                x,
                [e.mean for e in points],
                color=colour,
                linewidth=1.8,
                zorder=3,
                linestyle="-" if number < len(figures.COLOURS) else "--",
                marker=figures.MARKERS[number % len(figures.MARKERS)]
                if len(points) <= 20
                else None,
                markersize=4,
                label=label if named else None,
            )
            if all(e.half_width is not None for e in points):
                few = len(repeats) < statistics.FEWEST_SPLITS
                axes.fill_between(
                    x,
                    [e.lowest if few else e.low for e in points],
                    [e.highest if few else e.high for e in points],
                    color=colour,
                    alpha=0.15,
                    linewidth=0,
                )
        _few(axes)
        axes.set_xlabel("Epochs trained")
        axes.set_ylabel(SOURCE)
        counts = {len(repeats) for repeats in lines.values()} - {1}
        axes.legend(
            frameon=False,
            loc="upper left",
            bbox_to_anchor=(1.0, 1.0),
            title=figures.interval_title("bands", counts),
        )
        figures._set_title(axes, title)
        return figures.render(figure, form)


def finals(rows: Rows, title: str = "", form: str = "png") -> bytes:
    """Draw the final λ of the source over the positions, with 95 % CI and the start.

    Gated alone and all at once.
    """
    with figures.figure_style():
        figure, axes = figures.new_subplots(7.2, 4.2)
        for number, (gate, name) in enumerate((("alone", "Gated alone"), ("co", "All at once"))):
            selected = [
                row for row in rows if row["gate"] == gate and row["lambda_source"] is not None
            ]
            if selected:
                _points(axes, selected, "lambda_source", name, number)
        starts = {row["lambda_start"] for row in rows if row["lambda_start"] is not None}
        for start in starts:
            axes.axhline(start, color="#555555", linewidth=1, linestyle=":", label="At the start")
        _few(axes)
        axes.set_ylabel(SOURCE)
        _ended(axes, rows, title)
        return figures.render(figure, form)


def accuracies(
    rows: Rows, title: str = "", form: str = "png", *, caption: Sequence[str] = ()
) -> bytes:
    """Draw test accuracy over the positions, with 95 % CI, and that of the target alone.

    The latter is a line and a band.

    caption   sentences below the figure: what its reader must bear in mind
    """
    with figures.figure_style():
        figure, axes = figures.new_subplots(7.2, 4.2)
        for number, (gate, name) in enumerate((("alone", "Gated alone"), ("co", "All at once"))):
            selected = [
                row for row in rows if row["gate"] == gate and row["test_accuracy"] is not None
            ]
            if selected and gate == "alone":
                _points(axes, selected, "test_accuracy", name, number)
            elif selected:
                _level(axes, selected[0], name, number, "--")
        for row in rows:
            if row["gate"] == "witness" and row["test_accuracy"] is not None:
                _level(axes, row, "Witness (no gate)", 2, "-")
        axes.set_ylabel("Mean per-class test accuracy")
        low, high = axes.get_ylim()
        axes.set_ylim(
            max(low, -0.02), min(high, 1.02)
        )  # accuracy has ends, also where a wide interval passes them
        axes.yaxis.set_major_formatter(
            PercentFormatter(1.0, decimals=figures._percent_decimals(axes))
        )
        _ended(axes, rows, title)
        figures.add_caption(figure, caption)
        return figures.render(figure, form)


# ---------------------------------------------------------------- pieces


def _points(axes: Axes, rows: Rows, name: str, label: str, number: int) -> None:
    ends = [_ends(row, name) or (row[name], row[name]) for row in rows]
    half = [
        [row[name] - low for row, (low, _) in zip(rows, ends, strict=True)],
        [high - row[name] for row, (_, high) in zip(rows, ends, strict=True)],
    ]
    axes.errorbar(
        [row["position"] + 1 + 0.08 * number for row in rows],
        [row[name] for row in rows],
        yerr=half,
        color=figures.COLOURS[number],
        marker=figures.MARKERS[number],
        capsize=3,
        linewidth=1.4,
        markersize=5,
        label=label,
        zorder=3,
    )


def _level(axes: Axes, row: Mapping[str, Any], label: str, number: int, line: str) -> None:
    colour = figures.COLOURS[number]
    axes.axhline(row["test_accuracy"], color=colour, linewidth=1.6, linestyle=line, label=label)
    ends = _ends(row, "test_accuracy")
    if ends is not None:
        axes.axhspan(*ends, color=colour, alpha=0.15, linewidth=0)


def _ends(row: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    """Return what is drawn around a mean: its interval, or the range of fewer than 4 repeats."""
    return statistics.ends_of(row, name, row.get("repeats"))


LEAST_RANGE = 0.02  # of a λ axis: below, noise of the last digits would look like a course


def _few(axes: Axes) -> None:
    low, high = axes.get_ylim()
    if high - low < LEAST_RANGE:
        middle = (low + high) / 2
        axes.set_ylim(middle - LEAST_RANGE / 2, middle + LEAST_RANGE / 2)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10, min_n_ticks=1))
    axes.ticklabel_format(axis="y", useOffset=False)


def _ended(axes: Axes, rows: Rows, title: str) -> None:
    known = [row["position"] + 1 for row in rows if row["position"] is not None]
    axes.set_xlim(min(known) - 0.5, max(known) + 0.5)
    names = {
        row["block"]: block_label(row["block"], row.get("block_name") or "")
        for row in rows
        if row.get("block") is not None
    }
    if len(names) == len({*known}):
        blocks = sorted(names)
        named = layer_axes.ticks([names[block] for block in blocks], 4.6)
        axes.set_xticks(
            [blocks[place] for place in named.places],
            named.names,
            fontsize=named.size,
            rotation=90 if named.upright else 0,
        )
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=14, min_n_ticks=1))
    axes.set_xlabel(f"{AXIS} (of a gate: position + 1)")
    axes.legend(
        frameon=False,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        title=figures.interval_title(
            "bars, bands",
            {
                row.get("repeats") or statistics.FEWEST_SPLITS
                for row in rows
                if row["test_accuracy_low"] is not None
            },
        ),
    )
    figures._set_title(axes, title)
