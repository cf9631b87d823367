"""Figures of parameter distances: T and D over layers, the regression of T.

The same numbers give the same bytes. The head is apart, after a line: its state before fine-tuning
is not a result of pre-training.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from ...metrics.parameter_distance.rules import PUBLISHED_MEAN
from ...plots import axes as layer_axes
from ...plots import figures, maps, statistics
from ...plots.block_names import AXIS, block_label
from ...plots.canvas import new_figure
from ...plots.figures import BLACK, BLUE, COLOURS, GREEN, MARKERS, ORANGE, PURPLE, VERMILION
from ..drawings import Drawings

Row = Mapping[str, Any]
PAIRS = {
    "random_finetuned": (
        "random to fine-tuned",
        GREEN,
        "^",
        3.0,
        "-",
    ),  # wide, for the next covers it
    "random_pretrained": ("random to pre-trained", BLUE, "o", 1.2, "--"),
    "pretrained_finetuned": ("pre-trained to fine-tuned", VERMILION, "s", 1.5, "-"),
}
UNITS = {
    "mean_abs": "mean |difference| of weights",
    "l1": "sum of |differences|",
    "l2": "Euclidean",
    "rms": "root mean square difference",
    "cosine": "1 − cosine",
    "chord": "between unit vectors",
    "filter_cosine": "1 − cosine, mean of filters",
    "relative_l1": "sum of |differences|, relative",
    "relative_l2": "Euclidean, relative",
}
LITTLE, STILL = "moved too little: T says no more", "not moved: T is undefined"
PUBLISHED_NORM = "mean_abs"
APART = 1.6  # places from the last layer to the head
NARROW = 3  # the largest over the smallest: below, ticks are at equal differences
ONE_POWER = 10  # the largest over the smallest: below, more ticks are within a power of ten
FEW_POWERS = 300  # the largest over the smallest: below, ticks are between powers of ten
BANDS = 3  # lines: above, bands would cover each other


def all_of(
    lines: Mapping[tuple[str, str], Sequence[Row]],
    title: str,
    caption: Sequence[str] = (),
    *,
    published: Sequence[float] = (),
) -> Drawings:
    """Return file-name ending → figure.

    Of every target and norm by itself, and of the targets of a norm together.

    caption   sentences below each figure: what its reader must bear in mind
    published  T of the layers of the published profile, for the published norm
    """
    drawings: dict[str, Callable[[str], bytes]] = {
        _name(f"{norm}_{target}"): functools.partial(
            profile,
            rows,
            f"{title}, {target}",
            caption=caption,
            published=published if norm == PUBLISHED_NORM else (),
        )
        for (target, norm), rows in lines.items()
    }
    for norm in dict.fromkeys(norm for _, norm in lines):
        members = {target: rows for (target, of), rows in lines.items() if of == norm}
        if len(members) > 1:
            drawings[_name(f"{norm}_targets")] = functools.partial(
                targets, members, title, caption=caption
            )
    return drawings


def _name(text: str) -> str:
    return re.sub(r"[^\w.-]", "_", text)


def profile(
    rows: Sequence[Row],
    title: str = "",
    form: str = "png",
    *,
    caption: Sequence[str] = (),
    published: Sequence[float] = (),
) -> bytes:
    """Draw T over the layers of one target in one norm, and below it the three distances.

    rows   of `parameter_distances.mean_rows`; bands are 95 % CI over repeats, or the range of fewer
    than 4
    published  T of these layers as it was published for another target, drawn beside it
    """
    layers = [row for row in rows if row["level"] == "layer"]
    overall = next((row for row in rows if row["level"] == "overall"), None)
    with figures.figure_style():
        figure, (above, below) = _stacked(_width(layers))
        _line(above, layers, "transferability", "T of a layer", BLACK, "o", bands=True)
        _marks(above, layers)
        body = [x for x, row in zip(_places(layers), layers, strict=True) if not row["head"]]
        shown = published if len(body) == len(published) else ()
        if shown:
            above.plot(
                body,
                shown,
                color=PURPLE,
                linewidth=1.2,
                linestyle="--",
                marker="D",
                markersize=3,
                label=f"published, CIFAR-10: mean {PUBLISHED_MEAN}",
            )
        above.axhline(
            1, color="#777777", linewidth=1, linestyle=":", label="1: no nearer than random"
        )
        if overall is not None and overall["transferability"] is not None:
            above.axhline(
                overall["transferability"],
                color=ORANGE,
                linewidth=1.2,
                linestyle="--",
                label=f"mean without the head: {overall['transferability']:.2f}",
            )
        _ratio_axis(above, layers, shown)
        above.set_ylabel("Transferability T\nD(random, f.) / D(pre-trained, f.)")
        for name, (label, colour, marker, wide, dash) in PAIRS.items():
            _line(below, layers, name, label, colour, marker, bands=True, wide=wide, dash=dash)
        if distances := [row[name] for row in layers for name in PAIRS if row[name]]:
            _logarithmic(below, distances)
        below.set_ylabel(f"Distance D\n{UNITS.get(layers[0]['norm'], '')}")
        for axes in (above, below):
            _head_line(axes, layers)
            axes.legend(
                frameon=False,
                loc="upper left",
                bbox_to_anchor=(1.0, 1.0),
                fontsize=8.5,
                title=figures.interval_title(
                    "bands", {row["repeats"] for row in layers if row["repeats"] > 1}
                ),
                title_fontsize=8.5,
            )
        _layer_axis(below, layers)
        figures._set_title(above, title)
        figures.add_caption(figure, caption)
        return figures.render(figure, form)


def targets(
    lines: Mapping[str, Sequence[Row]],
    title: str = "",
    form: str = "png",
    *,
    caption: Sequence[str] = (),
) -> bytes:
    """Draw T over the layers of several targets in one norm.

    lines: target → rows of `report.mean_rows`.
    """
    layers = {
        name: [row for row in rows if row["level"] == "layer"] for name, rows in lines.items()
    }
    longest = max(layers.values(), key=len)
    with figures.figure_style():
        figure = new_figure(_width(longest), 4.2)
        axes = figure.subplots()
        for number, (name, rows) in enumerate(layers.items()):
            overall = next(
                (row["transferability"] for row in lines[name] if row["level"] == "overall"), None
            )
            label = name + (f" (mean {overall:.2f})" if overall is not None else "")
            _line(
                axes,
                rows,
                "transferability",
                label,
                COLOURS[number % len(COLOURS)],
                MARKERS[number % len(MARKERS)],
                bands=len(layers) <= BANDS,
            )
        _marks(
            axes,
            [row for rows in layers.values() for row in rows],
            [p for rows in layers.values() for p in _places(rows)],
        )
        axes.axhline(1, color="#777777", linewidth=1, linestyle=":")
        every = [row for rows in layers.values() for row in rows]
        _ratio_axis(axes, every)
        axes.set_ylabel("Transferability T\nD(random, f.) / D(pre-trained, f.)")
        _head_line(axes, longest)
        _layer_axis(axes, longest)
        counts = (
            {row["repeats"] for row in every if row["repeats"] > 1}
            if len(layers) <= BANDS
            else set()
        )
        axes.legend(
            frameon=False,
            loc="upper left",
            bbox_to_anchor=(1.0, 1.0),
            fontsize=8.5,
            title_fontsize=8.5,
            title=figures.interval_title("bands", counts),
        )
        figures._set_title(axes, title)
        figures.add_caption(figure, caption)
        return figures.render(figure, form)


def observed_and_fitted(report: Row, form: str = "png") -> bytes:
    """Draw observed over fitted log T: a named point for every row.

    Hollow where corrected.
    """
    points = np.column_stack([report["fitted"], report["observed"]])
    corrected = np.array([name in report.get("corrected", ()) for name in report["names"]], bool)
    with figures.figure_style():
        figure = new_figure(6.2, 5.6)
        axes = figure.subplots()
        for selected, face, label in (
            (~corrected, BLUE, ""),
            (corrected, "white", "corrected rows"),
        ):
            if selected.any():
                axes.plot(
                    *points[selected].T,
                    "o",
                    color=BLUE,
                    markerfacecolor=face,
                    markersize=6,
                    label=label,
                    zorder=5,
                )
        axes.axline(
            (points.mean(), points.mean()),
            slope=1,
            color="#777777",
            linewidth=1,
            linestyle=":",
            label="fitted = observed",
        )
        axes.set_xlabel("log T that is fitted, from G, D and log N (natural logarithm)")
        axes.set_ylabel("log T that is observed (natural logarithm)")
        left_out = report["loo_r2"]
        figures._set_title(
            axes,
            f"{report['about']}: R² {report['r2']:.2f}"
            + (f", of rows left out {left_out:.2f}" if left_out is not None else ""),
        )
        axes.legend(frameon=False, loc="lower right")
        maps._name_points(figure, axes, points, dict(enumerate(report["names"])))
        return figures.render(figure, form)


# ---------------------------------------------------------------- pieces


def _stacked(width: float) -> tuple[Figure, Any]:
    figure = new_figure(width, 6.2)
    return figure, figure.subplots(2, 1, sharex=True)


def _width(layers: Sequence[Row]) -> float:
    return min(16.0, max(8.2, 3.6 + 0.3 * len(layers)))


def _places(layers: Sequence[Row]) -> list[float]:
    """Return 1, 2, … for the layers, and a separate place for the head."""
    apart = APART - 1
    return [number + apart if row["head"] else number for number, row in enumerate(layers, 1)]


def _line(  # noqa: PLR0913 — the look of a line
    axes: Axes,
    layers: Sequence[Row],
    name: str,
    label: str,
    colour: str,
    marker: str,
    *,
    bands: bool,
    wide: float = 1.5,
    dash: str = "-",
) -> None:
    """Draw a line through the layers with its band; the head is a separate point with a bar."""
    for head in (False, True):
        selected = [
            (x, row)
            for x, row in zip(_places(layers), layers, strict=True)
            if bool(row["head"]) == head and row[name] is not None
        ]
        if not selected:
            continue
        axes.plot(
            [x for x, _ in selected],
            [row[name] for _, row in selected],
            color=colour,
            marker=marker,
            markersize=3.5 + wide,
            linewidth=wide,
            linestyle="none" if head else dash,
            label=None if head else figures.legend_label(label),
            zorder=3,
        )
        ranged = [
            (x, row[name], *ends) for x, row in selected if (ends := _ends(row, name)) is not None
        ]
        if not bands or not ranged:
            continue
        x, means, low, high = map(np.array, zip(*ranged, strict=True))
        if not head and len(ranged) > 1:
            axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
        else:
            axes.errorbar(
                x,
                means,
                yerr=np.maximum(0.0, [means - low, high - means]),  # equal values: rounding
                color=colour,
                fmt="none",
                capsize=3,
                linewidth=1,
            )


def _ends(row: Row, name: str) -> tuple[float, float] | None:
    """Return what is drawn around a mean over repeats."""
    return statistics.ends_of(
        row, name, row["defined"] if name == "transferability" else row["repeats"]
    )


def _marks(axes: Axes, layers: Sequence[Row], places: Sequence[float] | None = None) -> None:
    """Draw rings around each T that is confounded, crosses on the axis where T is undefined."""
    at = list(zip(places or _places(layers), layers, strict=True))
    ringed = [
        (x, row["transferability"])
        for x, row in at
        if row["confounded"] and row["transferability"] is not None
    ]
    if ringed:
        axes.plot(
            *zip(*ringed, strict=True),
            "o",
            markersize=11,
            markerfacecolor="none",
            markeredgecolor=VERMILION,
            markeredgewidth=1.6,
            label=LITTLE,
            zorder=4,
        )
    if still := [x for x, row in at if row["undefined"]]:
        axes.plot(
            still,
            [0.02] * len(still),
            "x",
            color=VERMILION,
            markersize=7,
            markeredgewidth=1.8,
            label=STILL,
            transform=axes.get_xaxis_transform(),
            clip_on=False,
            zorder=4,
        )


def _ratio_axis(axes: Axes, layers: Sequence[Row], others: Sequence[float] = ()) -> None:
    """Make the axis of T logarithmic, as T is a ratio.

    1 is on it, and an interval that reaches 0 ends at its edge.

    others  further T that are drawn
    """
    means = [row["transferability"] for row in layers if row["transferability"]]
    ends = [end for row in layers for end in _ends(row, "transferability") or ()]
    floor = min([*means, 1.0]) / 3
    values = [*means, *others, 1.0, *(max(end, floor) for end in ends)]
    _logarithmic(axes, values)
    spare = max((max(values) / min(values)) ** 0.06, 1.1)
    axes.set_ylim(min(values) / spare, max(values) * spare)


def _logarithmic(axes: Axes, values: Sequence[float]) -> None:
    """Set powers of ten as ticks.

    Or also 2 and 5 times them where there are few, and more within one power.
    """
    axes.set_yscale("log")
    if max(values) < ONE_POWER * min(values):
        is_narrow = max(values) < NARROW * min(values)
        axes.yaxis.set_major_locator(
            MaxNLocator(nbins=6)
            if is_narrow
            else LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0))
        )
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        return
    if max(values) > FEW_POWERS * min(values):
        layer_axes.powers(axes)
        return
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _head_line(axes: Axes, layers: Sequence[Row]) -> None:
    if layers and layers[-1]["head"] and len(layers) > 1:
        first = next(i for i, row in enumerate(layers) if row["head"])
        axes.axvline(first + APART / 2, color="#999999", linewidth=0.8)


def _layer_axis(axes: Axes, layers: Sequence[Row]) -> None:
    """Name blocks by number where all are numbered, else layers by name.

    At most as many names as there is room for.
    """
    numbered = all(row["block"] is not None for row in layers if not row["head"])
    names = [_layer_name(row, numbered) for row in layers]
    step = 1 if len(names) <= 40 else -(-len(names) // 40)
    kept = [i for i, row in enumerate(layers) if i % step == 0 or row["head"]]
    places, size = _places(layers), 9 if len(kept) <= 30 else 7.5
    shown = layer_axes.short([names[i] for i in kept], figures.LABEL_LENGTH)
    is_upright = layer_axes.widest(shown, size) + 0.1 > (_width(layers) - 3.6) / max(len(kept), 1)
    axes.set_xticks(
        [places[i] for i in kept], shown, rotation=90 if is_upright else 0, fontsize=size
    )
    axes.set_xlim(0.4, places[-1] + 0.6)
    axes.set_xlabel(AXIS if numbered else "Layer")


def _layer_name(row: Row, numbered: bool) -> str:
    """Return the name of a layer on the axis.

    "head", or its block's name where all are blocks.
    """
    if row["head"] and numbered:
        return "head"
    return block_label(row["block"], row["layer"]) if numbered else str(row["layer"])
