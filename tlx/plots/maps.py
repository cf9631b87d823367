"""Maps of layers and models: the similarity of each pair, and a plane of points (MDS)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from . import axes as layer_axes
from . import figures, labels, sheets
from .canvas import new_figure
from .statistics import distinct

MAP_UP_TO = 400  # rows of a comparison map: above, a cell is hardly a pixel or two
FEW = 30  # names of a map: above, they are shorter and smaller
NUMBERS_UP_TO = 15  # rows: above, cells are too small to hold a number
SIGNED, PLAIN = "PuOr_r", "Blues"


def comparison_map(
    matrix: ArrayLike,
    names: Sequence[str],
    what: str = "Spearman's ρ",
    title: str = "",
    form: str = "png",
    *,
    groups: Sequence[str] = (),
    columns: Sequence[str] | None = None,
) -> bytes:
    """Draw the similarity of layers or models: a cell for each pair.

    Numbers are in the cells up to 15 rows.

    matrix   (k, k) float, or (k, m) where `columns` names m others; `what` it holds. NaN is a blank
             cell
    names    of the rows
    groups   the model of each row (and of each column, in a square): neighbours of one model are
             together, a line
             parts them from the next, which is named above
    """
    matrix = np.asarray(matrix, float)
    across = list(names if columns is None else columns)
    if matrix.shape != (len(names), len(across)) or len(groups) not in (0, len(names)):
        raise ValueError(
            f"a matrix of shape {matrix.shape} for {len(names)} × {len(across)} names and "
            f"{len(groups)} groups"
        )
    most = max(*matrix.shape, 1)
    each = min(
        0.55, max(6.5 / most, min(0.105, 10.5 / most))
    )  # inches; up to 100 rows each is named
    wide, high = max(each * len(across), 1.2), max(each * len(names), 1.2)
    down, over = layer_axes.short(names), layer_axes.short(across)
    below = layer_axes.ticks(over, wide)
    starts = [i for i in range(len(groups)) if not i or groups[i] != groups[i - 1]]
    heads = layer_axes.short([groups[i] for i in starts]) if len(starts) > 1 else []
    ends = [*starts[1:], len(groups)]
    flat = all(
        layer_axes.inches(h, 9) < (b - a) * each - 0.05
        for h, a, b in zip(heads, starts, ends, strict=False)
    )
    top = 0.0
    if heads and columns is None:
        top = 0.25 if flat else layer_axes.widest(heads, 9) + 0.1
    norm, colours = _scale(matrix)
    left, right, under = layer_axes.widest(down, 9) + 0.2, sheets.bar_room(norm), below.reach + 0.2
    title = layer_axes.wrapped(title, left + wide + right - 0.2, 11)
    with figures.figure_style():
        tall = under + high + top + 0.15 + 0.22 * len(title.splitlines())
        figure = new_figure(left + wide + right, tall, laid_out=False)
        axes = sheets.panel(figure, left, under, wide, high)
        image = axes.imshow(matrix, cmap=colours, norm=norm, aspect="auto", interpolation="nearest")
        axes.grid(False)
        for spine in axes.spines.values():
            spine.set_visible(True)
        layer_axes.name_axis(axes, below)
        rows = layer_axes.ticks(down, high)
        axes.set_yticks(rows.places, rows.names, fontsize=rows.size)
        axes.tick_params(length=2)
        for at in starts[1:]:
            for mark in (axes.axhline,) if columns is not None else (axes.axhline, axes.axvline):
                mark(at - 0.5, color="white", linewidth=3.0)
                mark(at - 0.5, color="black", linewidth=1.0)
        if top:
            _heads(axes, heads, starts, ends, flat, each)
        if max(matrix.shape) <= NUMBERS_UP_TO:
            _numbers(axes, matrix, norm, colours, each)
        sheets.bar(figure, image, left=left + wide, below=under, high=high, unit=what)
        if title:
            figure.text(
                0.1 / figure.get_figwidth(),
                1 - 0.08 / figure.get_figheight(),
                title,
                va="top",
                fontsize=11,
            )
        return figures.render(figure, form)


def mds_map(
    points: ArrayLike,
    names: Sequence[str],
    groups: Sequence[str] = (),
    title: str = "",
    form: str = "png",
    *,
    joined: bool = False,
    unit: str = "dissimilarity",
) -> bytes:
    """Draw points of a plane with names that do not overlap.

    A name without room next to its point has a line to it.

    points   (k, 2) float — finite; their distances approximate dissimilarities, in this unit
    groups   of each point: a colour and marker each, named in a legend
    joined   join the points of a group in the order given: the way of a model through its
             checkpoints
    """
    points = np.asarray(points, float)
    if (
        points.shape != (len(names), 2)
        or len(groups) not in (0, len(names))
        or not np.isfinite(points).all()
    ):
        raise ValueError(
            f"points of shape {points.shape} for {len(names)} names and {len(groups)} groups, all "
            f"finite"
        )
    kinds = distinct(groups)
    shown = layer_axes.short(kinds)
    own = [
        [i for i in range(len(names)) if not groups or groups[i] == kind] for kind in kinds or [""]
    ]
    with figures.figure_style():
        margin = layer_axes.widest(shown, 9) + 0.6 if len(kinds) > 1 else 0.0
        figure, (axes,) = layer_axes.panels(1, 7.0, 6.0, margin=margin)
        for number, members in enumerate(own):
            colour = figures.COLOURS[number % len(figures.COLOURS)]
            marker = figures.MARKERS[
                (number + number // len(figures.COLOURS)) % len(figures.MARKERS)
            ]
            x, y = points[members].T
            if joined:
                axes.plot(x, y, color=layer_axes.lighter(colour, 0.55), linewidth=1.2, zorder=2)
            axes.scatter(
                x,
                y,
                s=26,
                color=colour,
                marker=marker,
                zorder=3,
                linewidths=0,
                label=figures.legend_label(shown[number]) if len(kinds) > 1 else None,
            )
        axes.set_xlabel(f"MDS dimension 1 ({unit})")
        axes.set_ylabel(f"MDS dimension 2 ({unit})")
        axes.set_title(" ", loc="right", fontsize=7)  # room for a note on the names
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(nbins=7, min_n_ticks=2))
        _limits(axes, points, 7 / 6)
        if len(kinds) > 1:
            layer_axes.legend(figure, [axes])
        layer_axes.head(figure, title, margin)
        ends = [i for members in own for i in (members[0], members[-1])] if joined else []
        first = distinct([*map(str, ends), *map(str, range(len(names)))])
        texts = dict(
            enumerate(layer_axes.short(names, figures.LABEL_LENGTH if len(names) <= FEW else 16))
        )
        _name_points(figure, axes, points, {int(i): texts[int(i)] for i in first})
        return figures.render(figure, form)


# ---------------------------------------------------------------- pieces


def _scale(matrix: np.ndarray) -> tuple[Normalize, Colormap]:
    """Return the colour range: 0 … 1 of shares, −1 … 1 of correlations with some below 0.

    Else that of the numbers.
    """
    known = matrix[np.isfinite(matrix)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    if low < 0:
        far = 1.0 if low >= -1.0 - 1e-9 and high <= 1.0 + 1e-9 else max(-low, high)
        return Normalize(-far, far), colormaps[SIGNED]
    return Normalize(0.0, 1.0 if high <= 1.0 + 1e-9 else high), colormaps[PLAIN]


def _numbers(
    axes: Axes, matrix: np.ndarray, norm: Normalize, colours: Colormap, each: float
) -> None:
    far = np.nanmax(np.abs(matrix), initial=0.0)
    form = "{:.0e}"
    if far < 10:
        form = "{:.2f}"
    elif far < 1e5:
        form = "{:.0f}"
    texts = {
        (i, j): form.format(v).replace("-", "−")
        for (i, j), v in np.ndenumerate(matrix)
        if math.isfinite(v)
    }
    size = float(
        np.clip(9 * 0.85 * each / max(layer_axes.widest(list(texts.values()), 9), 1e-9), 4.0, 9.0)
    )
    for (i, j), text in texts.items():
        red, green, blue, _ = colours(norm(matrix[i, j]))
        bright = 0.299 * red + 0.587 * green + 0.114 * blue
        axes.text(
            j,
            i,
            text,
            ha="center",
            va="center",
            fontsize=size,
            color="black" if bright > 0.5 else "white",
        )


def _heads(
    axes: Axes,
    heads: Sequence[str],
    starts: Sequence[int],
    ends: Sequence[int],
    flat: bool,
    each: float,
) -> None:
    """Write the models' names above their columns, from the first on each that has room."""
    last = -math.inf
    for name, start, end in zip(heads, starts, ends, strict=True):
        middle = (start + end - 1) / 2
        if flat or (middle - last) * each >= 9 * layer_axes.LINE / 72:
            last = middle
            axes.annotate(
                name,
                (middle, -0.5),
                (0, 4),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=9,
                rotation=0 if flat else 90,
                annotation_clip=False,
            )


def _limits(axes: Axes, points: np.ndarray, shape: float) -> None:
    """Set room around the points, and one scale for both dimensions.

    `shape` is the panel's width / height.
    """
    low, high = (
        (points.min(axis=0), points.max(axis=0)) if len(points) else (np.zeros(2), np.zeros(2))
    )
    span = float((high - low).max()) or 1.0
    middle, half = (low + high) / 2, (high - low) / 2 + 0.16 * span
    tall = max(half[1], half[0] / shape)
    axes.set_xlim(middle[0] - tall * shape, middle[0] + tall * shape)
    axes.set_ylim(middle[1] - tall, middle[1] + tall)


BEHIND = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}
LINK = {"arrowstyle": "-", "color": "#888888", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}


def _name_points(figure: Figure, axes: Axes, points: np.ndarray, texts: dict[int, str]) -> None:
    """Write each name where `labels.place_labels` finds room, and how many have no room."""
    figure.draw_without_rendering()  # the layout is what it will be
    figure.set_layout_engine("none")
    dot, renderer = figure.dpi / 72, figure.canvas.get_renderer()  # type: ignore[attr-defined]
    frame = axes.get_window_extent(renderer)
    _limits(axes, points, frame.width / frame.height)
    size = 8.0 if len(texts) <= FEW else 6.5
    written = {
        i: axes.annotate(
            name,
            points[i],
            (0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=size,
            zorder=4,
            bbox=BEHIND,
        )
        for i, name in texts.items()
    }
    boxes = {i: text.get_window_extent(renderer) for i, text in written.items()}
    where = axes.transData.transform(points) / dot
    offsets = labels.place_labels(
        where,
        {i: (box.width / dot, box.height / dot) for i, box in boxes.items()},
        (frame.x0 / dot, frame.y0 / dot, frame.x1 / dot, frame.y1 / dot),
    )
    for i, text in written.items():
        if i not in offsets:
            text.remove()
            continue
        offset, tip = offsets[i]
        text.set_position(offset)
        if tip is not None:
            axes.annotate(
                "", points[i], tip, textcoords="offset points", zorder=2.5, arrowprops=LINK
            )
    if len(offsets) < len(written):
        axes.set_title(
            f"{len(written) - len(offsets)} of {len(written)} names had no room",
            loc="right",
            fontsize=7,
            color="#555555",
        )
