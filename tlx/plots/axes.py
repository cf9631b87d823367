"""Shared parts of layer figures: panels, axes of many names, short names, lines and spread."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import FuncFormatter, NullFormatter
from matplotlib.typing import ColorType

from . import figures
from .canvas import DPI, new_figure
from .statistics import Value

LINE = 1.35  # a line's height, in font sizes
ENTRIES_UP_TO = 24  # of a legend
MARKED_UP_TO = 12  # lines: above, their markers and spreads would hide them
DEPTHS = "viridis"  # equal steps for the eye, whatever its colour vision
USUAL = "Intrinsic dimension of the layers of Networks 1234"  # for the width of a letter
BESIDE_ONE = 0.75  # of a figure's height: limit of the title next to a single panel
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def panels(
    n: int, width: float, height: float, *, columns: int = 3, margin: float = 0.0
) -> tuple[Figure, list[Axes]]:
    """Create a figure of n panels, each of so many inches, with a shared vertical axis.

    `margin` is room for a legend.
    """
    columns = min(n, columns)
    rows = math.ceil(n / columns)
    figure = new_figure(columns * width + margin, rows * height)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for unused in grid.flat[n:]:
        unused.remove()
    return figure, list(grid.flat[:n])


# ---------------------------------------------------------------- words


@functools.lru_cache(4096)
def inches(text: str, size: float) -> float:
    """Measure the width of a text at this font size; of several lines the widest."""
    font, pen = (
        FontProperties(family=figures.STYLE["font.family"], size=size),
        RendererAgg(1, 1, DPI),
    )
    return (
        max(
            (
                pen.get_text_width_height_descent(line, font, False)[0]
                for line in text.splitlines()
                if line
            ),
            default=0.0,
        )
        / DPI
    )


def widest(names: Sequence[str], size: float) -> float:
    """Measure the width of the widest, in inches; 0 without names."""
    return max((inches(name, size) for name in names), default=0.0)


def letters(room: float, size: float) -> int:
    """Estimate how many letters of usual text fit into so many inches, with a reserve."""
    return max(8, int(0.93 * room * len(USUAL) / inches(USUAL, size)))


def wrapped(text: str, room: float, size: float) -> str:
    """Wrap the text to at most three lines, none wider than so many inches."""
    fit = letters(room, size)
    lines = figures._wrapped(text, fit)
    return (
        lines
        if inches(lines, size) <= room
        else figures._wrapped(text, max(1, int(fit * room / inches(lines, size))))
    )


def short(names: Sequence[str], length: int = figures.LABEL_LENGTH) -> list[str]:
    """Shorten names for an axis or legend, and keep them distinct.

    A beginning that all share up to a dot or slash is removed, names are cut in the middle, and are
    longer than `length` only where they would otherwise be the same.
    """
    shown = [figures._shown(name) for name in names]
    if len(set(shown)) > 1 and max(map(len, shown)) > length:
        shown = _without_beginning(shown)
    cut: dict[str, str] = {}
    for long in (length, length * 3 // 2, 2 * length, 4 * length):
        cut = {name: _cut(name, long) for name in shown}
        if len(set(cut.values())) == len(cut):
            break
    return [cut[name] for name in shown]


def _without_beginning(names: list[str]) -> list[str]:
    first, last = min(names), max(names)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), 0)
    shared = max(first.rfind(sign, 0, same) for sign in "./") + 1
    return [name[shared:] for name in names]


def _cut(name: str, length: int) -> str:
    before = length * 13 // 24
    return name if len(name) <= length else f"{name[:before]}…{name[before + 1 - length :]}"


def folded(name: str, length: int) -> str:
    """Break a name into lines of at most so many letters, after a sign between words if any."""
    lines = [""]
    for word in re.findall(r"[^\s./_-]*[\s./_-]?", name):
        if lines[-1] and len(lines[-1]) + len(word.rstrip()) > length:
            lines.append("")
        lines[-1] += word
    return "\n".join(line[at : at + length] for line in lines for at in range(0, len(line), length))


# ---------------------------------------------------------------- axes


@dataclass(frozen=True)
class Ticks:
    """Names along an axis: positions, labels, orientation, and their extent in inches."""

    places: list[int]
    names: list[str]
    size: float
    upright: bool
    reach: float


def ticks(names: Sequence[str], room: float, least: float = 5.5) -> Ticks:
    """Choose which names to show along so many inches: all if they fit, else at regular steps.

    They are upright unless they fit flat.
    """
    step = max(1, math.ceil(len(names) * least * LINE / 72 / room))
    places = list(range(0, len(names), step))
    each = room / max(len(places), 1)
    size = float(np.clip(each * 72 / LINE, least, 9.0))
    shown = [names[i] for i in places]
    upright = widest(shown, size) + 0.08 > each
    return Ticks(places, shown, size, upright, widest(shown, size) if upright else size * LINE / 72)


def axis_width(names: Sequence[str]) -> float:
    """Compute the inches of an axis of names.

    For names side by side, or upright where there are many or long ones.
    """
    flat = len(names) * (widest(names, 9) + 0.1)
    return max(4.6, flat) if flat <= 7.5 else min(max(4.6, 0.145 * len(names) + 0.6), 9.0)


def name_axis(axes: Axes, named: Ticks) -> None:
    """Write names along the horizontal axis."""
    axes.set_xticks(
        named.places, named.names, fontsize=named.size, rotation=90 if named.upright else 0
    )


def powers(axes: Axes) -> None:
    """Set a logarithmic vertical axis with labels such as 10⁵."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda v, _: "10" + str(round(math.log10(v))).translate(RAISED))
    )
    axes.yaxis.set_minor_formatter(NullFormatter())


def y_title(figure: Figure, axes: Sequence[Axes], title: str) -> None:
    """Write the title of the shared vertical axis, in as many lines as the height requires."""
    room = figure.get_figheight() - 0.7
    if len(axes) == 1:  # the title is next to the panel's middle, which upright names below move up
        room *= BESIDE_ONE
    kept = title.replace("Spearman's ρ", "Spearman's\u00a0ρ")  # no line begins with its symbol
    text = "\n".join(wrapped(part, room, 10) for part in kept.splitlines())
    if len(axes) == 1:
        axes[0].set_ylabel(text)
    else:
        figure.supylabel(text, fontsize=10)


def legend(figure: Figure, axes: Sequence[Axes], title: str = "") -> None:
    """Draw one legend for all panels, to their right, each label once, cut where too long."""
    by_label = {
        label: handle
        for panel in axes
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    names, handles = list(by_label), list(by_label.values())
    if len(names) > ENTRIES_UP_TO:
        names[ENTRIES_UP_TO:], handles[ENTRIES_UP_TO:] = (
            [f"and {len(names) - ENTRIES_UP_TO} more"],
            [Figure().patch],
        )
        handles[-1].set_visible(False)
    if by_label:
        figure.legend(
            handles,
            names,
            loc="outside right upper",
            frameon=False,
            fontsize=9,
            title=title or None,
            title_fontsize=9,
            alignment="left",
        )


def head(figure: Figure, title: str, margin: float = 0.0) -> None:
    """Write the title of a whole figure, left of the margin."""
    if title:
        width = figure.get_figwidth()
        figure.suptitle(
            wrapped(title, width - margin - 0.2, 11), fontsize=11, x=0.1 / width, ha="left"
        )


def nothing(axes: Axes, message: str) -> None:
    """Draw an empty panel with a message."""
    axes.text(
        0.5,
        0.5,
        message,
        transform=axes.transAxes,
        ha="center",
        va="center",
        color="#555555",
        wrap=True,
    )
    axes.set_xticks([])
    axes.set_yticks([])


# ---------------------------------------------------------------- lines


@dataclass(frozen=True)
class Look:
    """Style of a line, and its position among the lines of a panel."""

    label: str
    colour: Any
    marker: str
    style: str = "-"
    place: int = 0


def look(number: int, label: str, place: int | None = None) -> Look:
    """Return the style of the line of this number: no two of 16 alike."""
    n = len(figures.COLOURS)
    return Look(
        label,
        figures.COLOURS[number % n],
        figures.MARKERS[number % n],
        "-" if number < n else "--",
        number if place is None else place,
    )


def depth_colours(n: int) -> list[ColorType]:
    """Return n colours from light at the input to dark at the output.

    None is so light that it is lost on white.
    """
    return [to_rgb(colormaps[DEPTHS](0.88 * (1 - i / max(n - 1, 1)))) for i in range(n)]


def lighter(colour: str, share: float) -> tuple[float, ...]:
    """Mix the colour with white: 1 is the colour itself."""
    return tuple(1 - share * (1 - part) for part in to_rgb(colour))


def line(
    axes: Axes, x: Sequence[float], values: Sequence[Value], like: Look, of: int, step: float = 1.0
) -> None:
    """Draw one of `of` lines with its spread.

    A band where few lines are, else bars, moved aside so that none hides another; neither, nor
    markers, where they are many. `step` is the distance of neighbours on the x axis.
    """
    ranged = [i for i, v in enumerate(values) if v.low is not None and of <= 2 * MARKED_UP_TO]
    banded = of <= figures.BANDS_UP_TO and len(ranged) == len(x) > 1
    aside = (
        0.0 if banded or not ranged else (like.place - (of - 1) / 2) * step * min(0.06, 0.5 / of)
    )
    places, many = [at + aside for at in x], len(x) > 30
    marked = of <= 2 * MARKED_UP_TO or len(x) == 1
    axes.plot(
        places,
        [v.mean for v in values],
        marker=like.marker if marked else "",
        markersize=2.5 if many else 4.5,
        color=like.colour,
        label=figures.legend_label(like.label),
        linestyle=like.style,
        zorder=3,
        linewidth=1.2 if of > figures.BANDS_UP_TO or many else 1.8,
    )
    low, high = ([float(getattr(values[i], end)) for i in ranged] for end in ("low", "high"))
    if banded:
        axes.fill_between(x, low, high, color=like.colour, alpha=0.2, linewidth=0)
    elif ranged:
        axes.vlines(
            [places[i] for i in ranged], low, high, color=like.colour, linewidth=0.9, zorder=2.9
        )
