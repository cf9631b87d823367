"""Figures of chopping and of pruning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from ...plots import figures
from ...plots.figures import BLUE, COLOURS, MARKERS
from ..transfer_figures import accuracy_axis, across, band, counts


def chop(
    rows: Sequence[dict[str, Any]],
    title: str = "",
    form: str = "png",
    *,
    caption: Sequence[str] = (),
) -> bytes:
    """Draw test accuracy of the chopped networks over n, and over their parameters.

    rows   of `chop_studies.table_rows`; the whole network has n None and is a line across
    """
    with figures.figure_style():
        figure, (left, right) = figures.new_subplots(9.6, 4.2, columns=2)
        cut = [row for row in rows if row["n"] is not None and row["mean"] is not None]
        whole = [row for row in rows if row["n"] is None and row["mean"] is not None]
        for axes, x in ((left, "n"), (right, "parameters")):
            for row in whole:
                across(axes, row | {"treatment": "baseB"}, "whole network")
            band(axes, cut, x, "cut behind block n", colour=BLUE, marker="o", dash="-")
            accuracy_axis(axes, title if axes is left else "")
        left.set_xlabel("n: blocks left")
        left.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        right.set_xlabel("Parameters")
        _log_counts(right, [row["parameters"] for row in (*cut, *whole)])
        left.legend(frameon=False, loc="best", title=figures.interval_title("bands", counts(rows)))
        figures.add_caption(figure, caption)
        return figures.render(figure, form)


def pruning(
    rows: Sequence[dict[str, Any]],
    title: str = "",
    form: str = "png",
    *,
    caption: Sequence[str] = (),
) -> bytes:
    """Draw test accuracy over the share of weights left, from all to few.

    rows: of `pruning_report.pruned_rows`.
    """
    with figures.figure_style():
        figure, axes = figures.new_subplots(6.4, 4.2)
        lines = list(dict.fromkeys(row["line"] for row in rows))
        for number, line in enumerate(lines):
            selected = [row for row in rows if row["line"] == line and row["mean"] is not None]
            band(
                axes,
                selected,
                "kept",
                line,
                colour=COLOURS[number % len(COLOURS)],
                marker=MARKERS[number % len(MARKERS)],
                dash="-",
            )
        axes.set_xscale("log")
        axes.invert_xaxis()
        kept = sorted({row["kept"] for row in rows})
        axes.set_xticks(kept)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(_uncrowded_shares(kept))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: share_text(x)))
        axes.set_xlabel("Weights that are left")
        accuracy_axis(axes, title)
        axes.legend(frameon=False, loc="best", title=figures.interval_title("bands", counts(rows)))
        figures.add_caption(figure, caption)
        return figures.render(figure, form)


def share_text(share: float) -> str:
    """Return a share in per cent with the digits that the table has, without zeros at the end."""
    return f"{100 * share:.2f}".rstrip("0").rstrip(".") + " %"


def _uncrowded_shares(shares: Sequence[float]) -> list[float]:
    """Return the shares whose labels fit side by side on a logarithmic axis, the largest first."""
    chosen: list[float] = []
    for share in sorted(shares, reverse=True):
        if not chosen or math.log(chosen[-1] / share) >= 0.09 * math.log(
            max(shares) / min(shares) or 1.0
        ):
            chosen.append(share)
    return chosen


def _log_counts(axes: Axes, counts: Sequence[float]) -> None:
    """Set a logarithmic axis of counts with ticks at 1, 2 and 5 of each power of ten.

    Written as 10k, 2M.
    """
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    is_short = bool(counts) and max(counts) < 200 * min(counts)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if is_short else (1,), numticks=9))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
