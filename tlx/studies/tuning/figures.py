"""Figures of a search: history, importances, and good configurations, as PNG or SVG bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    PercentFormatter,
)

from ...plots.canvas import new_figure
from ...plots.figures import (
    BLUE,
    GREEN,
    ORANGE,
    VERMILION,
    _percent_decimals,
    _set_title,
    _short,
    add_caption,
    figure_style,
    new_subplots,
    render,
)

# caption, of each figure of accuracies: sentences below it, what its reader must bear in mind
ACCURACY = "Mean val accuracy over splits"
Rows = Sequence[
    Mapping[str, Any]
]  # {"number", "state", "values", "accuracy", "cost"}: accuracy so far, None if failed
PANELS_UP_TO, AXES_UP_TO = 12, 8


def history(
    rows: Rows, title: str = "", form: str = "png", *, caption: Sequence[str] = ()
) -> bytes:
    """Draw the accuracy of every trial in order, and the best complete one so far.

    Those given up early are apart.
    """
    with figure_style():
        figure, axes = new_subplots(6.4, 4.0)
        whole = [r for r in rows if r["state"] == "complete"]
        given_up = [r for r in rows if r["state"] != "complete" and r["accuracy"] is not None]
        for selected, colour, label in (
            (given_up, ORANGE, "Given up early"),
            (whole, BLUE, "Whole"),
        ):
            if selected:
                axes.scatter(
                    [r["number"] for r in selected],
                    [r["accuracy"] for r in selected],
                    s=16,
                    color=colour,
                    label=label,
                    zorder=3,
                    alpha=0.85,
                    linewidths=0,
                )
        if whole:
            best = np.maximum.accumulate([r["accuracy"] for r in whole])
            axes.step(
                [r["number"] for r in whole],
                best,
                where="post",
                color=VERMILION,
                linewidth=1.6,
                label="Best",
            )
        axes.set_xlabel("Trial")
        _accuracy(axes)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if whole or given_up:
            axes.legend(frameon=False, loc="lower right")
        _set_title(axes, title)
        add_caption(figure, caption)
        return render(figure, form)


def importances(shares: Mapping[str, float], title: str = "", form: str = "png") -> bytes:
    """Draw the share of the accuracy's variance that each parameter explains, largest on top."""
    ranked = sorted(shares.items(), key=lambda item: item[1])
    with figure_style():
        figure, axes = new_subplots(6.4, 1.4 + 0.32 * max(1, len(ranked)))
        axes.barh(
            [_short(name) for name, _ in ranked],
            [share for _, share in ranked],
            color=BLUE,
            height=0.65,
        )
        for place, (_, share) in enumerate(ranked):
            axes.text(share + 0.01, place, f"{100 * share:.0f} %", va="center", fontsize=9)
        axes.set_xlim(0, 1.12)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel(
            "Share of the variance explained (a choice's own settings: among its trials)"
        )
        axes.grid(axis="y", visible=False)
        _set_title(axes, title)
        return render(figure, form)


def parallel_coordinates(
    rows: Rows, title: str = "", form: str = "png", *, caption: Sequence[str] = ()
) -> bytes:
    """Draw a line a trial through the values of its parameters, coloured by accuracy.

    Of the eight parameters that most trials have; where one does not apply, below.
    """
    rows = sorted((r for r in rows if r["accuracy"] is not None), key=lambda r: r["accuracy"])
    names = _most(rows)[:AXES_UP_TO]
    with figure_style():
        figure, axes = new_subplots(max(6.4, 1.5 * len(names) + 2), 4.4)
        scales = [_Scale([r["values"].get(name) for r in rows]) for name in names]
        norm = Normalize(
            min((r["accuracy"] for r in rows), default=0),
            max((r["accuracy"] for r in rows), default=1),
        )
        colours = ScalarMappable(norm, "viridis")
        for r in rows:
            heights = [
                scale.height(r["values"].get(name))
                for name, scale in zip(names, scales, strict=True)
            ]
            axes.plot(
                range(len(names)),
                heights,
                color=colours.to_rgba(r["accuracy"]),
                linewidth=1.0,
                alpha=0.8,
            )
        for place, scale in enumerate(scales):
            for height, text in scale.ticks():
                axes.text(
                    place + 0.03,
                    height,
                    text,
                    fontsize=7.5,
                    va="center",
                    bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6},
                )
        axes.set_xticks(
            range(len(names)),
            [_short(n) for n in names],
            rotation=20 if len(names) > 4 else 0,
            ha="right" if len(names) > 4 else "center",
        )
        axes.set_yticks([])
        axes.set_xlim(-0.2, max(0.2, len(names) - 0.6))
        axes.spines["left"].set_visible(False)
        figure.colorbar(colours, ax=axes, format=PercentFormatter(1.0, decimals=1), label=ACCURACY)
        _set_title(axes, title)
        add_caption(figure, caption)
        return render(figure, form)


def slices(rows: Rows, title: str = "", form: str = "png", *, caption: Sequence[str] = ()) -> bytes:
    """Draw accuracy over the values of each parameter, a panel each.

    Of the twelve that most trials have.
    """
    rows = [r for r in rows if r["accuracy"] is not None]
    names = _most(rows)[:PANELS_UP_TO]
    across = min(4, max(1, len(names)))
    down = math.ceil(max(1, len(names)) / across)
    with figure_style():
        figure = new_figure(3.0 * across + 0.4, 2.7 * down + 0.4)
        panels = figure.subplots(down, across, squeeze=False, sharey=True).ravel()
        for panel, name in zip(panels, names, strict=False):
            _slice(panel, name, [r for r in rows if name in r["values"]])
        for panel in panels[len(names) :]:
            panel.set_visible(False)
        for panel in panels[::across]:
            _accuracy(panel)
        if title:
            figure.suptitle(title, fontsize=11)
        add_caption(figure, caption)
        return render(figure, form)


def pareto(
    rows: Rows,
    front: Sequence[int],
    cost: str,
    title: str = "",
    form: str = "png",
    *,
    caption: Sequence[str] = (),
) -> bytes:
    """Draw accuracy over cost of every complete trial.

    The front is those that no other beats in both.
    """
    rows = [r for r in rows if r["state"] == "complete" and r["cost"] is not None]
    with figure_style():
        figure, axes = new_subplots(6.4, 4.2)
        others, best = (
            [r for r in rows if (r["number"] in front) == in_front] for in_front in (False, True)
        )
        axes.scatter(
            [r["cost"] for r in others],
            [r["accuracy"] for r in others],
            s=16,
            color=BLUE,
            alpha=0.6,
            label="Trials",
            linewidths=0,
        )
        best = sorted(best, key=lambda r: r["cost"])
        axes.plot(
            [r["cost"] for r in best],
            [r["accuracy"] for r in best],
            color=GREEN,
            marker="o",
            markersize=5,
            linewidth=1.6,
            drawstyle="steps-post",
            label="Pareto front",
            zorder=3,
        )
        if rows and min(r["cost"] for r in rows) > 0:
            _log_axis(axes)
        axes.set_xlabel(cost)
        _accuracy(axes)
        axes.legend(frameon=False, loc="lower right")
        _set_title(axes, title)
        add_caption(figure, caption)
        return render(figure, form)


# ---------------------------------------------------------------- pieces


def _most(rows: Rows) -> list[str]:
    """Return the parameters, those that most trials have first."""
    counts: dict[str, int] = {}
    for r in rows:
        for name in r["values"]:
            counts[name] = counts.get(name, 0) + 1
    return sorted(counts, key=lambda name: (-counts[name], name))


def _accuracy(axes: Axes) -> None:
    axes.set_ylabel(ACCURACY)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -0.02), min(high, 1.02))  # accuracy has ends
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=_percent_decimals(axes)))


def _log_axis(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(numticks=5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _slice(axes: Axes, name: str, rows: Rows) -> None:
    values = [r["values"][name] for r in rows]
    given_up = [r["state"] != "complete" for r in rows]
    colours = [ORANGE if up else BLUE for up in given_up]
    if all(_is_number(v) for v in values):
        axes.scatter(
            values, [r["accuracy"] for r in rows], s=14, c=colours, alpha=0.8, linewidths=0
        )
        if min(values) > 0 and max(values) / min(values) > 50:
            _log_axis(axes)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(nbins=4))  # more would run into each other
    else:
        words = sorted({str(v) for v in values})
        axes.scatter(
            [words.index(str(v)) for v in values],
            [r["accuracy"] for r in rows],
            s=14,
            c=colours,
            alpha=0.8,
            linewidths=0,
        )
        axes.set_xticks(
            range(len(words)), [_short(w) for w in words], rotation=45, ha="right", fontsize=8
        )
        axes.set_xlim(-0.5, len(words) - 0.5)
    axes.set_xlabel(_short(name))


class _Scale:
    """Heights from 0 to 1 of a parameter's values; −0.12 where it does not apply."""

    def __init__(self, values: Sequence[Any]):
        known = [v for v in values if v is not None]
        self.numeric = all(_is_number(v) for v in known)
        self.words = [] if self.numeric else sorted({str(v) for v in known})
        self.log = self.numeric and bool(known) and min(known) > 0 and max(known) / min(known) > 50
        ends = (min(known), max(known)) if self.numeric and known else (0.0, 1.0)
        self.low, self.high = map(float, ends)

    def height(self, value: Any) -> float:
        if value is None:
            return -0.12
        if not self.numeric:
            return self.words.index(str(value)) / max(1, len(self.words) - 1)
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return (value - low) / (high - low) if high > low else 0.5

    def ticks(self) -> list[tuple[float, str]]:
        if not self.numeric:
            return [(self.height(word), _short(word)) for word in self.words]
        return [(self.height(v), f"{v:.3g}") for v in dict.fromkeys((self.low, self.high))]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
