"""Figures of layer transfer: the same bytes for the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.ticker import MaxNLocator

from ...plots import figures
from ..transfer_figures import LOOKS, accuracy_axis, across, band, counts

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
                    across(axes, row, name)
        lines: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in rows:
            if row["n"] is not None and row["mean"] is not None:
                lines.setdefault((row["treatment"], row["bn"]), []).append(row)
        for (treatment, bn), members in lines.items():
            colour, marker = LOOKS[treatment]
            name = treatment + (f" ({bn})" if bn != "frozen" else "")
            band(axes, members, "n", name, colour=colour, marker=marker, dash=DASHES[bn])
        axes.set_xlabel("n: blocks copied, counted from the image")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        accuracy_axis(axes, title)
        axes.legend(
            frameon=False,
            loc="upper left",
            bbox_to_anchor=(1.0, 1.0),
            title=figures.interval_title("bands", counts(rows)),
        )
        figures.add_caption(figure, caption)
        return figures.render(figure, form)
