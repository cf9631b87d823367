"""Figures of dissimilarities (RDMs): heat maps sorted by class, and within against between.

An RDM is (n, n), or condensed: (n·(n − 1)/2,), the rows of its upper triangle one after another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.image import AxesImage
from numpy.typing import ArrayLike

from . import axes as layer_axes
from . import figures, rdm_cells, sheets
from .canvas import DPI, new_figure

# along a side of a heat map, one pixel each at 150 dots an inch: larger RDMs are shown by block
# means
CELLS = 1000
LINES_UP_TO = 40  # classes: above, lines between them would hide what they part
COLOURS = "viridis"
UNIT = "Dissimilarity (1 − r)"
BINS = (10, 60)


def rdm_heat_map(
    rdm: ArrayLike,
    codes: ArrayLike,
    names: Sequence[str],
    title: str = "",
    form: str = "png",
    *,
    unit: str = UNIT,
) -> bytes:
    """Draw the dissimilarity of every pair of rows, sorted by class.

    Classes are separated by lines and named, as many as fit.

    rdm     (n, n) or (n·(n − 1)/2,) float — finite
    codes   (n,) int — class of each row: names[code]
    Above 1000 rows a cell is the mean of a block of pairs, blocks cut within classes. A row's
      dissimilarity to itself
    is left blank. The colours span the 1st to the 99th percentile.
    """
    cells, edges, shown = rdm_cells.cells(rdm, codes, CELLS)
    labels = layer_axes.short([names[code] for code in shown])
    side = float(np.clip(len(cells) / DPI * 4, 4.0, CELLS / DPI))
    size = _name_size(edges, side)
    room = layer_axes.widest(labels, size)
    norm, extend = rdm_cells.norm([cells])
    left, right = room + 0.45, sheets.bar_room(norm)
    title = layer_axes.wrapped(title, side + right, 11)
    with figures.figure_style():
        upright = not _fit(edges, side, labels, size)
        below, above = (room if upright else 0.15) + 0.4, 0.15 + 0.2 * len(title.splitlines())
        figure = new_figure(left + side + right, below + side + above, laid_out=False)
        axes = sheets.panel(figure, left, below, side, side)
        image = _draw(axes, cells, edges, norm, side)
        for which in ("x", "y"):
            _name_classes(axes, edges, labels, side=side, size=size, which=which, upright=upright)
        axes.set_xlabel("Rows by class")
        axes.set_ylabel("Rows by class")
        sheets.bar(
            figure, image, left=left + side, below=below, high=side, unit=unit, extend=extend
        )
        axes.set_title(title, loc="left")
        return figures.render(figure, form)


def rdm_grid(
    rdms: Sequence[tuple[str, ArrayLike]],
    codes: ArrayLike,
    names: Sequence[str] = (),
    title: str = "",
    form: str = "png",
    *,
    unit: str = UNIT,
) -> bytes:
    """Draw RDMs of several layers on the same rows, in one figure and on one colour scale.

    Each is drawn as by `rdm_heat_map`.

    rdms    (layer, RDM), in the order of the layers
    codes   (n,) int — class of each row
    names   of the classes, by code, written at the left where they fit
    """
    side = _panel_side(len(rdms))
    columns = min(len(rdms), 2 if len(rdms) == 4 else math.ceil(math.sqrt(1.6 * len(rdms))))
    drawn = [rdm_cells.cells(rdm, codes, int(side * DPI)) for _, rdm in rdms]
    fit = layer_axes.letters(side - 0.1, 8.5)
    headings = [
        layer_axes.folded(name, fit) for name in layer_axes.short([layer for layer, _ in rdms], fit)
    ]
    norm, extend = rdm_cells.norm([cells for cells, *_ in drawn])
    labels = [
        layer_axes.short([names[c] for c in shown], 16) if names else [] for *_, shown in drawn
    ]
    room = max((layer_axes.widest(texts, 7) for texts in labels), default=0.0)
    above, gap = 0.1 + 0.14 * max((len(h.splitlines()) for h in headings), default=1), 0.12
    rows = math.ceil(len(rdms) / max(columns, 1))
    width, height = (
        room + 0.25 + columns * (side + gap) + sheets.bar_room(norm),
        rows * (side + above + gap) + 0.1,
    )
    title = layer_axes.wrapped(title, width, 11)
    with figures.figure_style():
        figure = new_figure(width, height + 0.25 * len(title.splitlines()), laid_out=False)
        for place, (cells, edges, _) in enumerate(drawn):
            row, column = divmod(place, columns)
            left = room + 0.25 + column * (side + gap)
            axes = sheets.panel(
                figure, left, height - (row + 1) * (side + above + gap) + gap, side, side
            )
            image = _draw(axes, cells, edges, norm, side)
            axes.set_xticks([])
            if column or not names:
                axes.set_yticks([])
            else:
                _name_classes(
                    axes,
                    edges,
                    labels[place],
                    side=side,
                    size=min(_name_size(edges, side), 7.0),
                    which="y",
                )
            axes.set_title(headings[place], fontsize=8.5, loc="left", pad=3)
        if rdms:
            tall = min(rows * (side + above + gap) - above - gap, 5.0)
            right = room + 0.25 + columns * (side + gap) - gap
            sheets.bar(
                figure,
                image,
                left=right,
                below=height - above - tall,
                high=tall,
                unit=unit,
                extend=extend,
            )
        if title:
            figure.suptitle(
                title, fontsize=11, x=0.02, ha="left", y=1 - 0.05 / figure.get_figheight(), va="top"
            )
        return figures.render(figure, form)


def within_between(
    rdm: ArrayLike, codes: ArrayLike, title: str = "", form: str = "png", *, unit: str = UNIT
) -> bytes:
    """Draw the distributions of dissimilarities within and between classes, and their means.

    rdm, codes   as in `rdm_heat_map`. Each outline holds the shares of its own pairs, which sum to
    1
    """
    rdm, codes = rdm_cells.checked(rdm, codes)
    low, high = rdm_cells.span([rdm])
    if not math.isfinite(high - low):
        list(rdm_cells.upper(rdm, len(codes)))  # says where
    n_bins = int(np.clip(len(codes) / 3, *BINS))
    counts, sums = np.zeros((2, n_bins)), np.zeros(2)
    for i, row in rdm_cells.upper(rdm, len(codes)):
        within = codes[i + 1 :] == codes[i]
        bins = np.clip(((row - low) / (high - low) * n_bins).astype(np.int64), 0, n_bins - 1)
        for part, mask in enumerate((within, ~within)):
            counts[part] += np.bincount(bins[mask], minlength=n_bins)
            sums[part] += row[mask].sum(dtype=np.float64)
    with figures.figure_style():
        figure, (axes,) = layer_axes.panels(1, 6.4, 4.0)
        for part, (name, colour) in enumerate(
            (("Within classes", figures.VERMILION), ("Between classes", figures.BLUE))
        ):
            pairs = int(counts[part].sum())
            if pairs:
                edges, style = np.linspace(low, high, n_bins + 1), ("-", "--")[part]
                axes.stairs(counts[part] / pairs, edges, color=colour, alpha=0.18, fill=True)
                axes.stairs(
                    counts[part] / pairs, edges, color=colour, linewidth=1.6, linestyle=style
                )
                axes.axvline(
                    sums[part] / pairs,
                    color=colour,
                    linewidth=1.4,
                    linestyle=style,
                    label=f"{name}: {pairs:,} pairs, mean {sums[part] / pairs:.3g} (the line)",
                )
        if not len(rdm):
            layer_axes.nothing(axes, "no pair")
        axes.set_ylim(bottom=0)
        axes.set_xlabel(unit)
        axes.set_ylabel(f"Share of pairs in a bin of {(high - low) / n_bins:.2g}")
        figure.legend(
            *axes.get_legend_handles_labels(), loc="outside lower left", frameon=False, fontsize=9
        )
        layer_axes.head(figure, title)
        return figures.render(figure, form)


# ---------------------------------------------------------------- pieces


def _panel_side(count: int) -> float:
    """Return the side of each of so many panels, in inches."""
    if count <= 4:
        return 3.0
    return 2.2 if count <= 15 else 1.5


def _draw(
    axes: Axes, cells: np.ndarray, edges: np.ndarray, norm: Normalize, side: float
) -> AxesImage:
    image = axes.imshow(
        cells,
        cmap=colormaps[COLOURS],
        norm=norm,
        extent=(0, len(cells), len(cells), 0),
        aspect="auto",
    )
    axes.grid(False)
    if 1 < len(edges) - 1 <= LINES_UP_TO:
        least = (
            float(np.diff(edges).min()) / max(len(cells), 1) * side * 72
        )  # of a class, in points
        width = float(np.clip(least / 5, 0.25, 1.0))
        axes.hlines(edges[1:-1], 0, len(cells), color="white", linewidth=width)
        axes.vlines(edges[1:-1], 0, len(cells), color="white", linewidth=width)
    for spine in axes.spines.values():
        spine.set_visible(True)
    return image


def _name_size(edges: np.ndarray, side: float) -> float:
    """Return the font size at which names of neighbouring classes fit, or the least there is.

    The names are one above the other.
    """
    middles = (edges[:-1] + edges[1:]) / 2 / max(edges[-1], 1) * side
    nearest = float(np.diff(middles).min()) if len(middles) > 1 else side
    return float(np.clip(nearest * 72 / layer_axes.LINE, 6.0, 9.0))


def _fit(edges: np.ndarray, side: float, labels: Sequence[str], size: float) -> bool:
    """Return whether all names fit side by side below."""
    middles = (edges[:-1] + edges[1:]) / 2 / max(edges[-1], 1) * side
    half = [layer_axes.inches(name, size) / 2 + 0.05 for name in labels]
    return all(
        b - a > x + y for a, b, x, y in zip(middles, middles[1:], half, half[1:], strict=False)
    )


def _name_classes(
    axes: Axes,
    edges: np.ndarray,
    labels: Sequence[str],
    *,
    side: float,
    size: float,
    which: str,
    upright: bool = False,
) -> None:
    """Write names at the middles of their classes, from the first on each that has room.

    Marks are where classes meet.
    """
    middles = (edges[:-1] + edges[1:]) / 2
    apart = (
        0.0
        if which == "x" and not upright
        else size * layer_axes.LINE / 72 * 0.999 * max(edges[-1], 1) / side
    )
    kept: list[int] = []
    for i, middle in enumerate(middles):
        if not kept or middle - middles[kept[-1]] >= apart:
            kept.append(i)
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_ticks(
        middles[kept],
        [labels[i] for i in kept],
        fontsize=size,
        rotation=90 if which == "x" and upright else 0,
    )
    axis.set_ticks(edges if len(edges) / side < 25 else [], minor=True)
    axes.tick_params(which="major", length=0, pad=5)
    axes.tick_params(which="minor", length=3)
