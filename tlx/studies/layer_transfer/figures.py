"""Figures of layer transfer: the same bytes for the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ...plots import figures, statistics
from ...plots.figures import BLACK, BLUE, GREEN, ORANGE, SKY, VERMILION

LOOKS = {
    "AnB": (VERMILION, "s"),
    "AnB+": (ORANGE, "D"),
    "BnB": (BLUE, "o"),
    "BnB+": (SKY, "^"),
    "baseB": (BLACK, "--"),
    "baseB+": (GREEN, ":"),
}
DASHES = {"frozen": "-", "adapt": "--", "keras2": ":"}  # ways of batch norm


def layer_transfer(
    rows: Sequence[dict[str, Any]],
    title: str = "",
    form: str = "png",
    *,
    caption: Sequence[str] = (),
) -> bytes:
    """Draw accuracy over n with its 95 % CI over repeats as a band per treatment.

    Base networks are lines across.

    rows   of `transfer_studies.table_rows`. baseA, which is about other classes, is left out
    """
    with figures.figure_style():
        figure, axes = figures.new_subplots(7.6, 4.4)
        for name in ("baseB", "baseB+"):
            for row in rows:
                if row["treatment"] == name and row["mean"] is not None:
                    _across(axes, row, name)
        lines: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in rows:
            if row["n"] is not None and row["mean"] is not None:
                lines.setdefault((row["treatment"], row["bn"]), []).append(row)
        for (treatment, bn), members in lines.items():
            colour, marker = LOOKS[treatment]
            name = treatment + (f" ({bn})" if bn != "frozen" else "")
            _band(axes, members, "n", name, colour, marker, DASHES[bn])
        axes.set_xlabel("n: blocks copied, counted from the image")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        _accuracy_axis(axes, title)
        axes.legend(
            frameon=False,
            loc="upper left",
            bbox_to_anchor=(1.0, 1.0),
            title=figures.interval_title("bands", _counts(rows)),
        )
        figures.add_caption(figure, caption)
        return figures.render(figure, form)


def _band(
    axes: Axes,
    rows: Sequence[dict[str, Any]],
    x: str,
    name: str,
    colour: str,
    marker: str,
    dash: str,
) -> None:
    rows = sorted(rows, key=lambda row: row[x])
    places = [row[x] for row in rows]
    axes.plot(
        places,
        [row["mean"] for row in rows],
        color=colour,
        marker=marker,
        markersize=4.5,
        linestyle=dash,
        linewidth=1.6,
        label=name,
        zorder=3,
    )
    ranged = [row for row in rows if statistics.drawn_ends(row) is not None]
    if len(ranged) > 1:
        low, high = zip(*map(statistics.drawn_ends, ranged), strict=True)
        axes.fill_between(
            [row[x] for row in ranged], low, high, color=colour, alpha=0.15, linewidth=0
        )
    elif ranged:
        figures._error_bars(axes, ranged, x, colour)


def _counts(rows: Sequence[dict[str, Any]]) -> set[int]:
    """Return of how many values the means with a spread are."""
    return {
        statistics.count_of(row) or statistics.FEWEST_SPLITS
        for row in rows
        if row["low"] is not None
    }


def _across(axes: Axes, row: dict[str, Any], name: str) -> None:
    colour, dash = LOOKS[row["treatment"]]
    axes.axhline(row["mean"], color=colour, linestyle=dash, linewidth=1.4, label=name)
    ends = statistics.drawn_ends(row)
    if ends is not None:
        axes.axhspan(*ends, color=colour, alpha=0.08, linewidth=0)


def _accuracy_axis(axes: Axes, title: str) -> None:
    axes.set_ylabel("Mean per-class test accuracy")
    axes.yaxis.set_major_locator(
        MaxNLocator(nbins=8, steps=[1, 2, 5, 10])
    )  # none at halves, which would be rounded
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=figures._percent_decimals(axes)))
    low, high = axes.get_ylim()
    axes.set_ylim(
        max(low, -0.02), min(high, 1.02)
    )  # accuracy has ends, also where a wide interval passes them
    figures._set_title(axes, title)
