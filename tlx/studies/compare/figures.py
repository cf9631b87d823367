"""Figures of a comparison: accuracy over shots, classes, parts of the variance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ...metrics import crossed
from ...metrics.paired import DECIDED
from ...plots import figures
from .decision import ComparisonOutcome
from .evidence import FEATURES, TUNING, CurveRow
from .sentences import warnings

MARKERS = {FEATURES: "o", TUNING: "s"}
LINES = {FEATURES: "-", TUNING: "--"}
COLOURS = {FEATURES: figures.COLOURS[0], TUNING: figures.COLOURS[1]}
MOST_CLASSES = 20


def curve(outcome: ComparisonOutcome, form: str = "png") -> bytes:
    """Draw the accuracy of both sides over shots; filled marks where the better one is sure."""
    sure = {v.shots: v.verdict == DECIDED for v in outcome.verdicts}
    with figures.figure_style():
        figure, axes = figures.new_subplots(6.4, 4.0)
        for side, rows in outcome.curves.items():
            _side(axes, side, rows, sure)
        axes.axvline(outcome.at, color="#999999", linewidth=0.8, linestyle=":")
        shots = [row["shots"] for row in next(iter(outcome.curves.values()))]
        caption = [
            f"filled: the better one is sure; the answer is for {outcome.at} images per class",
            *(f"warning: {line}" for line in warnings(outcome)),
        ]
        axes.set_xscale("log")
        axes.set_xticks(shots, [str(k) for k in shots])
        axes.minorticks_off()
        axes.set_xlabel("Training images per class")
        axes.set_ylabel("Mean per-class test accuracy")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.legend(frameon=False, title="bands: 95 % CI over draws and images", loc="best")
        figures.add_caption(figure, caption)
        return figures.render(figure, form)


def _side(axes: Axes, side: str, rows: Sequence[CurveRow], sure: Mapping[int, bool]) -> None:
    x, y = [row["shots"] for row in rows], [row["mean"] for row in rows]
    colour = COLOURS[side]
    axes.plot(x, y, LINES[side], color=colour, linewidth=1.6)
    banded = [row for row in rows if "low" in row]
    axes.fill_between(
        [row["shots"] for row in banded],
        [row["low"] for row in banded],
        [row["high"] for row in banded],
        color=colour,
        alpha=0.15,
        linewidth=0,
    )
    for number, (shots, mean) in enumerate(zip(x, y, strict=True)):
        axes.plot(
            [shots],
            [mean],
            MARKERS[side],
            color=colour,
            markerfacecolor=colour if sure.get(shots) else "white",
            label=side if number == 0 else None,
        )


@dataclass(frozen=True)
class ClassRow:
    """One class: accuracy of both sides, and the difference with its 95 % interval."""

    name: str
    features: float
    tuning: float
    difference: float
    low: float | None
    high: float | None
    images: int


def class_rows(outcome: ComparisonOutcome, shots: int | None = None) -> list[ClassRow]:
    """Return the classes, the largest difference first; [] without predictions.

    shots  training images per class; None: of the headline
    """
    at = shots or outcome.at
    tables = outcome.tables_at.get(at)
    if tables is None:
        return []
    rows = []
    for code in np.unique(tables.classes):
        columns = tables.classes == code
        frozen, tuned = tables.features[:, columns], tables.tuning[:, columns]
        parts = crossed.components(
            tuned - frozen,
            np.zeros(int(columns.sum()), int),
            shots=at,
            pool=max(outcome.data.pool, at),
        )
        interval = crossed.estimate(parts)
        rows.append(
            ClassRow(
                outcome.data.classes[int(code)],
                float(frozen.mean()),
                float(tuned.mean()),
                parts.mean,
                interval.low if interval else None,
                interval.high if interval else None,
                int(columns.sum()),
            )
        )
    return sorted(rows, key=lambda row: -abs(row.difference))


def classes(outcome: ComparisonOutcome, form: str = "png") -> bytes:
    """Draw both accuracies of each class, joined, the largest difference on top."""
    rows = class_rows(outcome)[:MOST_CLASSES][::-1]
    with figures.figure_style():
        figure, axes = figures.new_subplots(6.4, 0.9 + 0.28 * max(3, len(rows)))
        for height, row in enumerate(rows):
            axes.plot([row.features, row.tuning], [height, height], color="#BBBBBB", zorder=1)
        heights = np.arange(len(rows))
        for side in (FEATURES, TUNING):
            values = [row.features if side == FEATURES else row.tuning for row in rows]
            axes.plot(values, heights, MARKERS[side], color=COLOURS[side], label=side, zorder=2)
        axes.set_yticks(heights, [figures.legend_label(row.name)[:30] for row in rows])
        axes.set_xlabel(f"Test accuracy at {outcome.at} images per class")
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        figure.legend(frameon=False, loc="outside upper center", ncols=2)
        return figures.render(figure, form)


def variance_parts(outcome: ComparisonOutcome) -> list[tuple[str, float]]:
    """Return the parts of the variance of the headline's difference, and their names."""
    verdict = outcome.headline
    if verdict is None or verdict.split_var is None:
        return []
    overlap = verdict.pool_share
    return [
        ("draws of training images", verdict.split_var / verdict.splits),
        ("the same few images to draw from", verdict.split_var * overlap / (1.0 - overlap)),
        ("test images", verdict.image_var),
    ]


def variance(outcome: ComparisonOutcome, form: str = "png") -> bytes:
    """Draw where the uncertainty of the difference comes from, as shares of the variance."""
    parts = variance_parts(outcome)
    total = sum(value for _, value in parts)
    with figures.figure_style():
        figure, axes = figures.new_subplots(6.4, 1.3)
        left = 0.0
        for number, (name, value) in enumerate(parts):
            share = value / total if total else 0.0
            colour = figures.COLOURS[number + 2]
            axes.barh([0], [share], left=left, color=colour, label=f"{name} {100 * share:.0f} %")
            left += share
        axes.set_xlim(0.0, 1.0)
        axes.set_yticks([])
        axes.grid(visible=False)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        figure.legend(frameon=False, loc="outside upper center", ncols=3, fontsize=8)
        return figures.render(figure, form)
