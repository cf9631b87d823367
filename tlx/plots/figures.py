"""Figures of results as bytes of a PNG, SVG or PDF: the same bytes for the same numbers.

Colours are those of Okabe & Ito, distinguishable with any colour vision. Drawn with matplotlib's
objects, never pyplot: no figure stays open, and the caller's settings do not change.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
import re
import textwrap
import threading
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps, font_manager, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    MaxNLocator,
    NullLocator,
    PercentFormatter,
)
from matplotlib.typing import ColorType
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont

from ..errors import counted, escape_control
from . import fonts, statistics
from .canvas import DPI, new_figure

BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW, BLACK = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#F0E442",
    "#000000",
)
COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK, YELLOW)
MARKERS = "osD^vPX*"
MISSING_GLYPH = re.compile(
    r"Glyph (\d+) .*missing from"
)  # what matplotlib warns of where it draws a box
LINES_UP_TO = (
    8  # lines of one panel: above, each has a panel of its own, the others in grey behind it
)
PANELS_ACROSS = 4
BANDS_UP_TO = 3  # lines: above, bands would cover each other
NUMBERS_UP_TO = 20  # classes: above, the cells of a confusion matrix are too small to hold a number
LABELS_UP_TO, LABELS_SHOWN = (
    60,
    40,
)  # classes: above 60, at most 40 names are given, at regular steps
UNDATED: dict[
    str, Any
] = {  # form → what is left out of a file, so that the same numbers give the same bytes
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
LEGEND_WIDTH = 22  # characters of a legend's title beside the axes
LABEL_LENGTH = 24  # characters of a class name on an axis
STYLE: Any = {
    # comes with matplotlib: the same everywhere, accents and Greek included
    "font.family": "DejaVu Sans",
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "svg.hashsalt": "tlx",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
    "text.parse_math": False,
    "axes.formatter.use_mathtext": False,
}

Rows = Sequence[Mapping[str, Any]]


def few_shot_curve(
    rows: Rows | Mapping[str, Rows],
    title: str = "",
    form: str = "png",
    *,
    caption: Sequence[str] = (),
) -> bytes:
    """Draw accuracy over shots, with the 95 % CI of each mean as a band.

    Of more than three lines as bars, set side by side.

    rows      of `statistics.by_shots`; or several of them by name, one line each. Fewer than 4
    splits are drawn with
              the range of their values
    caption   sentences below the figure: what its reader must bear in mind
    """
    lines = rows if isinstance(rows, Mapping) else {"": rows}
    if len(lines) > LINES_UP_TO:
        return _few_shot_panels(lines, title, form, caption)
    with figure_style():
        figure, axes = new_subplots(6.4, 4.2)
        draw = (
            _draw_curve
            if len(lines) <= BANDS_UP_TO
            else functools.partial(_draw_bars, of=len(lines))
        )
        drawn = [
            draw(axes, name, line, number) for number, (name, line) in enumerate(lines.items())
        ]
        shots = sorted({shot for line in drawn for shot in line})
        _shots_axis(axes, shots)
        axes.set_ylabel("Mean per-class test accuracy")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=_percent_decimals(axes)))
        low, high = axes.get_ylim()
        axes.set_ylim(
            max(low, -0.02), min(high, 1.02)
        )  # accuracy has ends, also where a wide interval passes them
        _set_title(axes, title)
        ranged = [row for line in lines.values() for row in line if row.get("low") is not None]
        if len(drawn) > BANDS_UP_TO:
            axes.legend(
                frameon=False,
                loc="upper left",
                bbox_to_anchor=(1.0, 1.0),
                title=_beside(rows_title("bars", ranged)),
            )
        elif len(drawn) > 1:
            axes.legend(frameon=False, loc="best", title=rows_title("bands", ranged))
        elif ranged:
            axes.legend(frameon=False, loc="best")
        add_caption(figure, caption)
        return render(figure, form)


def _few_shot_panels(
    lines: Mapping[str, Rows], title: str, form: str, caption: Sequence[str]
) -> bytes:
    """Draw a panel for each line, with all others in grey behind it; the panels share axes."""
    known = {name: [r for r in rows if r.get("mean") is not None] for name, rows in lines.items()}
    down = math.ceil(len(lines) / PANELS_ACROSS)
    with figure_style():
        figure = new_figure(2.5 * PANELS_ACROSS, 2.1 * down + 0.6)
        panels = figure.subplots(
            down, PANELS_ACROSS, squeeze=False, sharex=True, sharey=True
        ).ravel()
        shots = sorted({row["shots"] for rows in known.values() for row in rows})
        for number, (panel, name) in enumerate(zip(panels, known, strict=False)):
            for rows in known.values():
                panel.plot(
                    [r["shots"] for r in rows],
                    [r["mean"] for r in rows],
                    color="#CCCCCC",
                    linewidth=0.9,
                )
            _draw_curve(panel, name, known[name], number)
            panel.set_title(_short(name), loc="left", fontsize=9)
            _shots_axis(panel, shots)
            panel.set_xlabel("")
        for panel in panels[len(known) :]:
            panel.set_visible(False)
        low, high = panels[0].get_ylim()
        panels[0].set_ylim(max(low, -0.02), min(high, 1.02))
        panels[0].yaxis.set_major_formatter(
            PercentFormatter(1.0, decimals=_percent_decimals(panels[0]))
        )
        for panel in panels[max(0, len(known) - PANELS_ACROSS) : len(known)]:
            panel.tick_params(labelbottom=True)
            panel.set_xlabel("Training images per class", fontsize=8)
        ranged = [row for rows in known.values() for row in rows if row.get("low") is not None]
        spread = rows_title("bands", ranged)
        figure.supylabel("Mean per-class test accuracy", fontsize=10)
        heading = ", ".join(word for word in (title, spread) if word)
        if heading:
            figure.suptitle(_wrapped(heading, 100), fontsize=11, x=0.01, ha="left")
        add_caption(figure, caption)
        return render(figure, form)


def confusion_matrix(
    counts: ArrayLike, classes: Sequence[str], title: str = "", form: str = "png"
) -> bytes:
    """Draw true classes in rows, predicted ones in columns; shade = share of the row.

    Above 20 classes the shade is its root.

    counts   (k, k) int — images of class i taken for class j. A class without images has an empty
             row
    Numbers are in the cells up to 20 classes; above 60 the names are given at regular steps.
    """
    counts = np.asarray(counts)
    k = len(classes)
    if counts.shape != (k, k):
        raise ValueError(f"{counts.shape} counts for {counted(k, 'class', 'classes')}")
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    names = tuple(_short(c) for c in classes)
    if form != "png":
        with figure_style():
            return render(_matrix_frame(names, title, counts, shares)[0], form)
    frame, (left, top, right, bottom), dots = _frame_pixels(names, title)
    pixels = frame.copy()
    columns, rows = (
        np.linspace(a, b, k + 1).round().astype(int) for a, b in ((left, right), (top, bottom))
    )
    cells = (
        (np.asarray(colormaps["Blues"](_shades(k)(shares)))[..., :3] * 255).round().astype(np.uint8)
    )
    pixels[top:bottom, left:right] = np.repeat(
        np.repeat(cells, np.diff(rows), axis=0), np.diff(columns), axis=1
    )
    picture = Image.fromarray(pixels)
    if k <= NUMBERS_UP_TO:
        pen, font = ImageDraw.Draw(picture), _font(round(_number_size(counts) * DPI / 72))
        for i, j in zip(*np.nonzero(counts), strict=True):
            middle = ((columns[j] + columns[j + 1]) / 2, (rows[i] + rows[i + 1]) / 2)
            pen.text(middle, str(counts[i, j]), fill=_ink(shares[i, j]), font=font, anchor="mm")
    out = io.BytesIO()
    picture.save(out, "png", dpi=dots, compress_level=1)
    return out.getvalue()


def _matrix_frame(
    names: Sequence[str], title: str, counts: np.ndarray | None, shares: np.ndarray | None
) -> tuple[Figure, Axes]:
    """Draw the confusion matrix's axes, names and colour bar.

    The cells too where there are counts.
    """
    k = len(names)
    side = float(np.clip(0.42 * k, 3.2, 8.4))
    room = 0.075 * max(
        len(n) for n in names
    )  # inches for names; a layout engine would take as long as all drawing
    right = 1.05
    title = _wrapped(title, int((side + right) / 0.09))
    left, below, above = room + 0.55, room + 0.55, 0.15 + 0.2 * len(title.splitlines())
    width, height = left + side + right, below + side + above
    figure = new_figure(width, height, laid_out=False)
    axes = figure.add_axes((left / width, below / height, side / width, side / height))
    image = axes.imshow(
        np.zeros((k, k)) if shares is None else shares,
        cmap="Blues",
        norm=_shades(k),
        interpolation="nearest",
    )
    axes.grid(False)
    _class_axes(axes, names)
    if counts is not None and shares is not None and k <= NUMBERS_UP_TO:
        _cell_numbers(axes, counts, shares)
    beside = figure.add_axes(
        ((left + side + 0.12) / width, below / height, 0.16 / width, side / height)
    )
    bar = figure.colorbar(image, cax=beside)
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    bar.set_label("Share of the true class")
    if title:
        axes.set_title(title, loc="left")
    return figure, axes


@functools.lru_cache(4)
def _frame_pixels(
    names: tuple[str, ...], title: str
) -> tuple[np.ndarray, tuple[int, int, int, int], tuple[int, int]]:
    """Draw the frame once for all matrices of these classes, which come by the dozen.

    Returns also where its cells are (left, top, right, bottom in pixels, inside the frame's lines)
    and dots per inch.
    """
    with figure_style():
        figure, axes = _matrix_frame(names, title, None, None)
        picture = Image.open(io.BytesIO(render(figure, "png"))).convert("RGB")
        box = axes.get_window_extent()
    line = 1
    return (
        np.asarray(picture),
        (
            round(box.x0) + line,
            picture.height - round(box.y1) + line,
            round(box.x1) - line,
            picture.height - round(box.y0) - line,
        ),
        (DPI, DPI),
    )


def _shades(k: int) -> Normalize:
    """Map share → 0-1; small cells need stronger shades."""
    return Normalize(0, 1) if k <= NUMBERS_UP_TO else PowerNorm(0.5, 0, 1)


@functools.lru_cache(8)
def _font(pixels: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), pixels)


def learning_curves(
    journal: Rows, title: str = "", form: str = "png", *, best_epoch: int | None = None
) -> bytes:
    """Draw loss and accuracy of training and validation over the epochs of one trial.

    journal      its records: {"t": "metrics", "step": epoch, "values": {"train_loss", "val_loss",
    "train_accuracy",
                 "val_accuracy"}}; other records and values are passed over
    best_epoch   the epoch whose weights were kept, marked by a line
    """
    records = sorted((r for r in journal if r.get("t") == "metrics"), key=lambda r: r["step"])
    with figure_style():
        figure, axes = new_subplots(8.4, 3.6, columns=2)
        for panel, measure in zip(axes, ("loss", "accuracy"), strict=True):
            for number, part in enumerate(("train", "val")):
                _draw_measure(
                    panel, records, f"{part}_{measure}", ("Training", "Validation")[number], number
                )
            panel.set_xlabel("Epoch")
            panel.set_ylabel(f"Mean {measure}" if measure == "loss" else "Accuracy")
            panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
            if len({r["step"] for r in records}) == 1:
                panel.set_xlim(records[0]["step"] - 1, records[0]["step"] + 1)
            if best_epoch is not None:
                panel.axvline(
                    best_epoch, color="#555555", linewidth=1, linestyle=":", label="Weights kept"
                )
        axes[1].yaxis.set_major_formatter(
            PercentFormatter(1.0, decimals=_percent_decimals(axes[1]))
        )
        handles, labels = axes[0].get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
        if title:
            figure.suptitle(_wrapped(title, 90), fontsize=11)
        return render(figure, form)


# ---------------------------------------------------------------- pieces

_one_at_a_time = threading.Lock()  # matplotlib's settings are global while a figure is drawn


@contextlib.contextmanager
def figure_style() -> Iterator[None]:
    """Apply the style of tlx's figures inside the block."""
    with _one_at_a_time, rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", MISSING_GLYPH.pattern
        )  # `_bytes` looks for a font; the rest is a note
        yield


def new_subplots(width: float, height: float, columns: int = 1) -> tuple[Figure, Any]:
    """Create a figure of this size in inches, with so many columns of axes."""
    figure = new_figure(width, height)
    return figure, figure.subplots(1, columns)


def render(figure: Figure, form: str) -> bytes:
    """Return the bytes of a figure in this format, "png", "svg" or "pdf"."""
    if form not in UNDATED:
        raise ValueError(f"form '{form}' is none of {', '.join(UNDATED)}")
    out = io.BytesIO()
    nothing = UNDATED[form]
    absent = _save(figure, out, form, nothing)
    families = fonts.fallback_families(absent) if absent else []
    if families:
        for text in figure.findobj(Text):
            text.set_fontfamily([STYLE["font.family"], *families])
        out = io.BytesIO()
        _save(figure, out, form, nothing)
    return out.getvalue()


def _save(figure: Figure, out: io.BytesIO, form: str, metadata: object) -> set[str]:
    """Draw a figure; return the characters that its font has no glyphs for."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(out, format=form, metadata=metadata, facecolor="white")
    absent = set()
    for warning in caught:
        glyph = MISSING_GLYPH.match(str(warning.message))
        if glyph is None:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
        else:
            absent.add(chr(int(glyph[1])))
    return absent


def _draw_curve(axes: Axes, name: str, rows: Rows, number: int) -> list[int]:
    """Draw one line with its band (a bar for a single point); return its shots."""
    rows = sorted((r for r in rows if r.get("mean") is not None), key=lambda r: r["shots"])
    colour, shots = COLOURS[number % len(COLOURS)], [r["shots"] for r in rows]
    means = [r["mean"] for r in rows]
    axes.plot(
        shots,
        means,
        marker=MARKERS[number % len(MARKERS)],
        markersize=5,
        color=colour,
        linewidth=1.8,
        label=legend_label(name) or "Mean over splits",
        zorder=3,
    )
    banded = [r for r in rows if statistics.drawn_ends(r) and not statistics.is_range(r)]
    few = [r for r in rows if statistics.is_range(r)]
    if len(banded) > 1:
        low, high = zip(*map(statistics.drawn_ends, banded), strict=True)
        axes.fill_between(
            [r["shots"] for r in banded],
            low,
            high,
            color=colour,
            alpha=0.2,
            linewidth=0,
            label=None if name else rows_title("", banded),
        )
    elif banded:
        _error_bars(axes, banded, "shots", colour, None if name else rows_title("", banded))
    if few:
        _error_bars(axes, few, "shots", colour, None if name else rows_title("", few))
    return shots


def _error_bars(
    axes: Axes, rows: Rows, x: str, colour: ColorType, label: str | None = None
) -> None:
    """Draw what is around each mean as a bar."""
    axes.errorbar(
        [r[x] for r in rows],
        [r["mean"] for r in rows],
        yerr=_split_marks(rows),
        color=colour,
        capsize=4,
        fmt="none",
        label=label,
    )


def _split_marks(rows: Rows) -> list[list[float]]:
    """Return the lower and upper lengths of the bars around the means, 0 where there is none.

    The mean of equal values can be beside them by rounding: no length is below 0.
    """
    ends = [statistics.drawn_ends(r) or (r["mean"], r["mean"]) for r in rows]
    return [
        [max(0.0, r["mean"] - low) for r, (low, _) in zip(rows, ends, strict=True)],
        [max(0.0, high - r["mean"]) for r, (_, high) in zip(rows, ends, strict=True)],
    ]


def interval_title(what: str, counts: Collection[int]) -> str | None:
    """Return what bands or bars are: 95 % intervals, or ranges, and of how many values.

    Fewer than 4 values have a range.
    """
    if not counts:
        return None
    few = {count for count in counts if 1 < count < statistics.FEWEST_SPLITS}
    kind = "95 % CI"
    if few:
        kind = "range" if few == set(counts) else "95 % CI, range where n < 4"
    return _title_of(what, kind, counts)


def rows_title(what: str, rows: Rows) -> str | None:
    """Return what bands or bars of these rows are: over what their intervals are, or ranges.

    rows  of `statistics.by_shots`, each with an interval
    """
    if not rows:
        return None
    over = statistics.over_of(rows)
    kinds = [f"95 % CI over {statistics.over_words(over)}"] if over else []
    if any(map(statistics.is_range, rows)):
        kinds.append("range where n < 4" if over else "range")
    return _title_of(
        what, ", ".join(kinds) or "95 % CI", {statistics.count_of(row) or 0 for row in rows}
    )


def _beside(title: str | None) -> str | None:
    """Break a legend's title into lines, so that a legend beside the axes leaves them room."""
    if title is None:
        return None
    return textwrap.fill(title.replace(" = ", "\u00a0=\u00a0"), LEGEND_WIDTH)


def _title_of(what: str, kind: str, counts: Collection[int]) -> str:
    known = sorted(count for count in counts if count > 1)
    number = f", n = {known[0]}" if known else ""
    if len(known) > 1:
        number += f" to {known[-1]}"
    return (f"{what}: " if what else "") + kind + number


def add_caption(figure: Figure, lines: Sequence[str]) -> None:
    """Write sentences below the panels of a figure, in small letters."""
    if not lines:
        return
    wide, high = figure.get_size_inches()
    rows = [
        row
        for line in lines
        for row in textwrap.wrap(_shown(line), max(40, int(wide / 0.063)), break_on_hyphens=False)
    ]
    text = "\n".join(rows)
    figure.set_size_inches(wide, high + 0.13 * len(rows))
    figure.supxlabel(text, x=0.01, ha="left", fontsize=7.5, color="#8A3800")


def _draw_bars(axes: Axes, name: str, rows: Rows, number: int, of: int) -> list[int]:
    """Draw one of many lines, its intervals as bars, moved aside; return its shots.

    No bar hides another.
    """
    rows = sorted((r for r in rows if r.get("mean") is not None), key=lambda r: r["shots"])
    aside = 1.0 + 0.02 * (number - (of - 1) / 2)  # a factor: the axis is logarithmic
    x = [r["shots"] * aside for r in rows]
    axes.errorbar(
        x,
        [r["mean"] for r in rows],
        yerr=_split_marks(rows),
        label=legend_label(name),
        markersize=4.5,
        linewidth=1.3,
        elinewidth=0.9,
        marker=MARKERS[number % len(MARKERS)],
        color=COLOURS[number % len(COLOURS)],
        capsize=2,
        linestyle="-" if number < len(COLOURS) else "--",
        zorder=3,
    )
    return [r["shots"] for r in rows]


def _shots_axis(axes: Axes, shots: Sequence[int]) -> None:
    """Set a logarithmic axis of shots, each its own tick as long as they do not crowd."""
    axes.set_xlabel("Training images per class")
    if not shots:
        axes.text(
            0.5,
            0.5,
            "no finished trial",
            transform=axes.transAxes,
            ha="center",
            va="center",
            color="#555555",
        )
        axes.set_xticks([])
        axes.set_yticks([])
        return
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(_uncrowded(shots)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.set_xlim(shots[0] / 1.12, shots[-1] * 1.12)


def _uncrowded(shots: Sequence[int]) -> list[int]:
    """Return shots whose labels fit side by side; first and last are always kept."""
    span = math.log(shots[-1] / shots[0]) or 1.0
    kept = [shots[0]]
    for shot in shots[1:]:
        if math.log(shot / kept[-1]) / span >= 0.05:
            kept.append(shot)
    if kept[-1] != shots[-1]:
        kept[-1] = shots[-1]
    return kept


def _class_axes(axes: Axes, names: Sequence[str]) -> None:
    k = len(names)
    step = 1 if k <= LABELS_UP_TO else math.ceil(k / LABELS_SHOWN)
    places = list(range(0, k, step))
    size = float(np.clip(400 / max(k / step, 1) * 0.62, 5.5, 9.5))
    shown = [names[i] for i in places]
    upright = max(len(n) for n in shown) > 3 or k > 30
    axes.set_xticks(places, shown, fontsize=size, rotation=90 if upright else 0)
    axes.set_yticks(places, shown, fontsize=size)
    axes.tick_params(length=2)
    axes.set_xlabel("Predicted class")
    axes.set_ylabel("True class")
    for spine in axes.spines.values():
        spine.set_visible(True)


def _number_size(counts: np.ndarray) -> float:
    """Return the font size of the numbers in the cells, in points."""
    return float(np.clip(min(9.0, 26 / max(len(str(counts.max())), 1)), 4.5, 9.0))


def _ink(share: float) -> str:
    return "white" if share > 0.55 else "black"


def _cell_numbers(axes: Axes, counts: np.ndarray, shares: np.ndarray) -> None:
    size = _number_size(counts)
    for i, j in zip(*np.nonzero(counts), strict=True):
        axes.text(
            j,
            i,
            str(counts[i, j]),
            ha="center",
            va="center",
            fontsize=size,
            color=_ink(shares[i, j]),
        )


def _draw_measure(axes: Axes, records: Rows, key: str, label: str, number: int) -> None:
    points = [(r["step"], r["values"][key]) for r in records if key in r.get("values", {})]
    if points:
        x, y = zip(*points, strict=True)
        axes.plot(
            x,
            y,
            color=COLOURS[number],
            label=label,
            linewidth=1.8,
            linestyle=("-", "--")[number],
            marker=MARKERS[number] if len(points) <= 20 else None,
            markersize=4,
        )


def _percent_decimals(axes: Axes) -> int:
    low, high = axes.get_ylim()
    if high - low >= 0.05:
        return 0
    return 1 if high - low >= 0.005 else 2


def legend_label(text: str) -> str:
    """Return a name as a legend shows it.

    matplotlib hides names that begin with _, but not after a zero-width space.
    """
    shown = _shown(text)
    return f"\u200b{shown}" if shown.startswith("_") else shown


def _set_title(axes: Axes, title: str) -> None:
    if title:
        axes.set_title(_wrapped(title, 64), loc="left")


def _wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(_shown(text), width)[:3])


def _short(name: str) -> str:
    """Shorten a class name for an axis, in its middle: long names often share their beginning."""
    name = _shown(name)
    return name if len(name) <= LABEL_LENGTH else f"{name[:13]}…{name[13 - LABEL_LENGTH + 1 :]}"


def _shown(text: str) -> str:
    """Remove control characters, which fonts draw as boxes."""
    return escape_control(text)
