"""Figure of an atlas: its panels one above the other, over blocks 1…N.

The same numbers give the same bytes.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ...plots import axes as layer_axes
from ...plots import figures, statistics
from ...plots.block_names import AXIS, block_label
from ...plots.canvas import RoundedLayout, new_figure
from ...plots.figures import BLACK, BLUE, PURPLE, VERMILION
from ..transfer_figures import LOOKS

Rows = Sequence[Mapping[str, Any]]

HEIGHT, LEAST, MOST, EACH = (
    1.12,
    4.8,
    10.0,
    0.36,
)  # inches: of a panel; of the axis at least, at most, a block
BESIDE = 1.75  # inches for the legends
SMALL = 8.0  # font size of the text next to the panels, in points
SAID_LINES = 4  # of a command under the figure
LINES = ((BLUE, "o"), (VERMILION, "s"))  # of the conditions of a panel, in order
LEVELS = {
    "chance": ("#777777", (0, (1, 2))),
    "start": (BLACK, ":"),
    "no nearer than random": ("#777777", (0, (1, 2))),
    "witness": (PURPLE, "--"),
}
FAR = (
    "chance",
    "no nearer than random",
)  # levels that are left out where all else is far above them
PLAIN = "source network"  # a panel of this line alone needs no legend
RANGES = {
    "accuracy": (0.0, 1.0),
    "fraction": (0.0, 1.0),
    "share": (0.0, 1.0),
    "ratio": (0.0, None),
    "dimensions": (0.0, None),
}  # unit → ends, which a wide interval passes and a panel does not
REPEATED = (
    "quanta",
    "quanta_accuracy",
    "distance",
    "transfer",
)  # panels whose intervals are over repeats
IMAGES = "over the images (jackknife; Wilson for kNN)"
REPEATS = "over repeats (Student's t; the range of fewer than 4: QUANTA, T, AnB)"


def atlas(
    rows: Rows,
    blocks: Sequence[str],
    panels: Mapping[str, tuple[str, str]],
    title: str = "",
    missing: Sequence[tuple[str, str]] = (),
    form: str = "png",
    *,
    caption: Sequence[str] = (),
) -> bytes:
    """Draw every panel that has rows, in the order of `panels`, on one axis of blocks.

    rows     {"panel", "line", "block" (1…N, or None: a level across), "mean", "low", "high",
    "unit"}; low and high, the
             ends of an interval, may be None
    blocks   the names of blocks 1…N
    panels   panel → title of its vertical axis, and the panel on whose axes it is drawn ("": its
             own)
    missing  missing panels → the command for them: shown under the figure
    caption  caveats for the reader: shown there too
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for name, (_, on) in panels.items():
        for row in rows:
            if row["panel"] == name:
                groups.setdefault(on or name, []).append(row)
    with figures.figure_style():
        axis = min(max(LEAST, EACH * len(blocks)), MOST)
        words = [
            block_label(number, name)
            for number, name in enumerate(layer_axes.short(list(blocks), 20), 1)
        ]
        named = layer_axes.ticks(words, axis, 6.5)
        width = axis + 0.85 + BESIDE
        foot = _foot(missing, {row["panel"] for row in rows}, width, caption)
        below = (len(foot) * SMALL * 1.32 + 8) / 72
        above = 0.36 if title else 0.08
        height = max(len(groups), 1) * HEIGHT + named.reach + 0.55 + below + above
        figure = _canvas(width, height, above, below)
        grid = figure.subplots(max(len(groups), 1), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (name, members) in zip(grid, groups.items(), strict=False):
            _panel(axes, members, panels[name][0])
        if not groups:
            layer_axes.nothing(grid[0], "nothing is known yet")
        transfer = any(row["panel"] == "transfer" for row in rows)
        _name_blocks(grid[-1], named, len(blocks), transfer)
        figure.align_ylabels(list(grid))
        _write_title_and_foot(figure, title, foot)
        return figures.render(figure, form)


def _canvas(width: float, height: float, above: float, below: float) -> Figure:
    """Return an empty figure of this size, with so many inches free above and below its axes."""
    figure = new_figure(width, height)
    engine = figure.get_layout_engine()
    assert isinstance(engine, RoundedLayout)
    engine.set(
        rect=(0, below / height, 1, 1 - (below + above) / height),
        h_pad=0.03,
        hspace=0.0,
    )
    return figure


def _name_blocks(axes: Axes, named: layer_axes.Ticks, blocks: int, transfer: bool) -> None:
    """Name the blocks below the last panel."""
    axes.set_xticks(
        [place + 1 for place in named.places],
        named.names,
        fontsize=named.size,
        rotation=90 if named.upright else 0,
    )
    axes.set_xlim(0.5, blocks + 0.5)
    label = f"{AXIS} (AnB: blocks 1…n copied, drawn at n)" if transfer else AXIS
    axes.set_xlabel(label, fontsize=9)


def _write_title_and_foot(figure: Figure, title: str, foot: Sequence[str]) -> None:
    width, height = figure.get_size_inches()
    if title:
        figure.text(
            0.1 / width,
            1 - 0.1 / height,
            layer_axes.wrapped(title, width - 0.2, 11).splitlines()[0],
            fontsize=11,
            va="top",
            ha="left",
        )
    figure.text(
        0.1 / width,
        0.06 / height,
        "\n".join(foot),
        fontsize=SMALL,
        va="bottom",
        ha="left",
        color="#333333",
        linespacing=1.2,
    )


def _panel(axes: Axes, rows: Rows, title: str) -> None:
    conditions = list(dict.fromkeys(row["line"] for row in rows if row["block"] is not None))
    for number, line in enumerate(conditions):
        members = sorted(
            (row for row in rows if row["line"] == line and row["block"] is not None),
            key=lambda row: row["block"],
        )
        colour, marker = LOOKS[line] if line in LOOKS else LINES[number % len(LINES)]
        _line(axes, members, line, colour, marker)
    low, high = axes.get_ylim()
    for row in rows:
        if row["block"] is None:
            colour, dash = (LOOKS | LEVELS).get(row["line"], (BLACK, "--"))
            if row["line"] in FAR and row["mean"] < low - (
                high - low
            ):  # drawn, it would press all else together
                axes.plot([], [], color="none", label=f"{row['line']}: {_plain(row)}, below")
                continue
            axes.axhline(
                row["mean"],
                color=colour,
                linestyle=dash,
                linewidth=1.3,
                label=row["line"],
                zorder=2,
            )
            if (ends := _ends(row)) is not None:
                axes.axhspan(*ends, color=colour, alpha=0.08, linewidth=0)
    _scale(axes, rows)
    axes.set_ylabel(title, fontsize=8.5)
    axes.tick_params(labelsize=SMALL)
    axes.tick_params(axis="x", length=2)
    handles, labels = axes.get_legend_handles_labels()
    if labels != [PLAIN]:
        axes.legend(
            handles,
            labels,
            frameon=False,
            fontsize=SMALL,
            loc="upper left",
            bbox_to_anchor=(1.0, 1.06),
            borderaxespad=0.3,
            handlelength=1.8,
            labelspacing=0.3,
        )


def _line(axes: Axes, rows: Rows, label: str, colour: str, marker: str) -> None:
    places = [row["block"] for row in rows]
    axes.plot(
        places,
        [row["mean"] for row in rows],
        color=colour,
        marker=marker,
        markersize=3.8,
        linewidth=1.5,
        label=figures.legend_label(label),
        zorder=3,
    )
    ranged = [(row["block"], *ends) for row in rows if (ends := _ends(row)) is not None]
    if not ranged:
        return
    x, low, high = zip(*ranged, strict=True)
    if len(ranged) > 1:
        axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    else:
        axes.vlines(x, low, high, color=colour, linewidth=1.0)


def _ends(row: Mapping[str, object]) -> tuple[float, float] | None:
    """Return what is drawn around a number: its interval, or the range of fewer than 4 repeats."""
    count = row.get("n") if row.get("lowest") is not None else None
    return statistics.drawn_ends({**row, "repeats": count})


def _plain(row: Mapping[str, Any]) -> str:
    return f"{100 * row['mean']:.3g} %" if row["unit"] == "accuracy" else f"{row['mean']:.3g}"


def _scale(axes: Axes, rows: Rows) -> None:
    """Return the panel's range: that of what is drawn, no further than the unit goes."""
    low, high = axes.get_ylim()
    unit = rows[0]["unit"]
    least, most = RANGES.get(unit, (None, None))
    spare = 0.04 * (high - low)
    axes.set_ylim(
        low if least is None else max(low, least - spare),
        high if most is None else min(high, most + spare),
    )
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 2.5, 5, 10], min_n_ticks=2))
    axes.ticklabel_format(axis="y", useOffset=False)
    if unit == "accuracy":
        axes.yaxis.set_major_formatter(
            PercentFormatter(1.0, decimals=figures._percent_decimals(axes), symbol="")
        )


def _foot(
    missing: Sequence[tuple[str, str]], drawn: set[str], width: float, caption: Sequence[str]
) -> list[str]:
    """Return the text below the figure, in lines that fit."""
    fit = layer_axes.letters(width - 0.3, SMALL)
    kinds = []
    if drawn - {*REPEATED}:
        kinds.append(IMAGES)
    if drawn & {*REPEATED}:
        kinds.append(REPEATS)
    lines = textwrap.wrap(f"Bands and bars: 95 % CI {', or '.join(kinds)}.", fit) if kinds else []
    for sentence in caption:
        lines += textwrap.wrap(
            figures._shown(sentence), fit, subsequent_indent="    ", break_on_hyphens=False
        )
    for names, message in missing:
        wrapped_lines = textwrap.wrap(
            figures._shown(f"Not there: {names}: {message}"),
            fit,
            subsequent_indent="    ",
            break_on_hyphens=False,
        )
        lines += (
            wrapped_lines
            if len(wrapped_lines) <= SAID_LINES
            else [*wrapped_lines[: SAID_LINES - 1], "    …"]
        )
    return lines
