"""Parts of the figures over blocks that are copied or cut: bands, base networks, accuracies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ..plots import figures, statistics
from ..plots.figures import BLACK, BLUE, GREEN, ORANGE, SKY, VERMILION

LOOKS = {  # of the treatments of layer transfer: colour and marker, or dash
    "AnB": (VERMILION, "s"),
    "AnB+": (ORANGE, "D"),
    "BnB": (BLUE, "o"),
    "BnB+": (SKY, "^"),
    "baseB": (BLACK, "--"),
    "baseB+": (GREEN, ":"),
}


def band(
    axes: Axes,
    rows: Sequence[dict[str, Any]],
    x: str,
    name: str,
    *,
    colour: str,
    marker: str,
    dash: str,
) -> None:
    """Draw a line over `x` with the ends of its means as a band."""
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


def counts(rows: Sequence[Mapping[str, object]]) -> set[int]:
    """Return of how many values the means with a spread are."""
    return {
        statistics.count_of(row) or statistics.FEWEST_SPLITS
        for row in rows
        if row["low"] is not None
    }


def across(axes: Axes, row: dict[str, Any], name: str) -> None:
    """Draw a base network as a line across, with its ends as a band."""
    colour, dash = LOOKS[row["treatment"]]
    axes.axhline(row["mean"], color=colour, linestyle=dash, linewidth=1.4, label=name)
    ends = statistics.drawn_ends(row)
    if ends is not None:
        axes.axhspan(*ends, color=colour, alpha=0.08, linewidth=0)


def accuracy_axis(axes: Axes, title: str) -> None:
    """Label the axis of accuracies in per cent, which end at 0 and 100."""
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
