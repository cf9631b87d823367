"""Accuracy over each kind of cost: a point an arm, the Pareto front, and the axes left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from ...plots import figures, tables
from ...result import Result
from .costs import COSTS, CostRow, SideCost, mean_seconds, rows_of
from .decision import ComparisonOutcome
from .evidence import FEATURES, TUNING, Side

ACROSS = 3  # panels in a row


@dataclass(frozen=True)
class Point:
    """Arm of a side: mean test accuracy and cost of a trial; is_champion: it was chosen."""

    side: str
    arm: str
    accuracy: float
    cost: float
    is_champion: bool


@dataclass(frozen=True)
class Axis:
    """Kind of cost: its points, or why it is left out.

    reason  "" if it is shown
    show    text of a cost
    """

    title: str
    points: tuple[Point, ...]
    reason: str
    show: Callable[[float], str]

    @property
    def front(self) -> list[Point]:
        """Return the points that no other one beats in both, the cheapest first."""
        ordered = sorted(self.points, key=lambda p: (p.cost, -p.accuracy))
        best, front = -1.0, []
        for point in ordered:
            if point.accuracy > best:
                best = point.accuracy
                front.append(point)
        return front


def axes_of(outcome: ComparisonOutcome) -> list[Axis]:
    """Return the axes: training time, energy, money, hours of work, time of labelling an image.

    Hours of work are a side's, and labelling is measured with its chosen arm: these have a point a
    side. An axis on which a point of a chosen arm is unknown is left out, with the reason.
    """
    unit = outcome.prices.currency
    return [
        _axis("training time", outcome, _training, tables.short_seconds),
        _axis("energy of a trial", outcome, _named("energy_j", outcome), "{:.3g} J".format),
        _axis(
            "money of a trial",
            outcome,
            _named("money", outcome),
            lambda value: f"{value:.3g} {unit}".strip().replace("e-0", "e-"),
        ),
        _axis("hours of work", outcome, _of_side("human_h", outcome), "{:.3g} h".format),
        _axis("labelling an image", outcome, _of_use(outcome), tables.short_seconds),
    ]


Costing = Callable[[Side, str, list[Result]], CostRow]


def _axis(
    title: str, outcome: ComparisonOutcome, costing: Costing, show: Callable[[float], str]
) -> Axis:
    points: list[Point] = []
    for side in (outcome.data.features, outcome.data.tuning):
        for arm in side.arms:
            trials = [
                r
                for (k, _), r in side.arms[arm].items()
                if k == outcome.at and "test_accuracy" in r.scores
            ]
            is_champion = arm == outcome.champions[side.name]
            if not trials:
                continue
            row = costing(side, arm, trials)
            if row.value is not None:
                accuracy = float(np.mean([r.scores["test_accuracy"] for r in trials]))
                points.append(Point(side.name, arm, accuracy, row.value, is_champion))
            elif is_champion:
                return Axis(title, (), row.note, show)
    chosen = {point.side for point in points if point.is_champion}
    reason = "" if len(chosen) == 2 else "a side has no finished trial"
    return Axis(title, tuple(points) if not reason else (), reason, show)


def _training(side: Side, arm: str, trials: list[Result]) -> CostRow:
    return CostRow(mean_seconds(trials), "s", "measured")


def _named(name: str, outcome: ComparisonOutcome) -> Costing:
    """Return the costing by a row of COSTS, of each arm."""

    def costing(side: Side, arm: str, trials: list[Result]) -> CostRow:
        _, _, whole = rows_of(side.name, trials, outcome.prices)
        return whole[name]

    return costing


def _of_side(name: str, outcome: ComparisonOutcome) -> Costing:
    """Return the costing by a row of COSTS of a side, which its chosen arm has."""

    def costing(side: Side, arm: str, trials: list[Result]) -> CostRow:
        if arm != outcome.champions[side.name]:
            return CostRow(None, COSTS[name].unit)
        return outcome.costs[side.name].whole[name]

    return costing


def _of_use(outcome: ComparisonOutcome) -> Costing:
    def costing(side: Side, arm: str, trials: list[Result]) -> CostRow:
        cost: SideCost = outcome.costs[side.name]
        if arm != outcome.champions[side.name] or cost.use is None or cost.use.image_s is None:
            return CostRow(None, "s", note=(cost.use and cost.use.reason) or "not measured")
        return CostRow(cost.use.image_s, "s", "measured")

    return costing


def left_out(axes: list[Axis]) -> str:
    """Return the axes that are not shown and why, as a sentence; "" if all are."""
    named = [f"{axis.title} ({axis.reason})" for axis in axes if axis.reason]
    return f"Left out: {'; '.join(named)}." if named else ""


def table(axes: list[Axis]) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows: each arm, its accuracy and its costs; * on the Pareto front."""
    shown = [axis for axis in axes if not axis.reason]
    arms: dict[tuple[str, str], Point] = {}
    for axis in shown:
        for point in axis.points:
            arms.setdefault((point.side, point.arm), point)
    rows = []
    for key, first in sorted(arms.items(), key=lambda item: -item[1].accuracy):
        cells = []
        for axis in shown:
            own = [point for point in axis.points if (point.side, point.arm) == key]
            marks = ["*" if point in axis.front else "" for point in own]
            shown_costs = [axis.show(p.cost) + mark for p, mark in zip(own, marks, strict=True)]
            cells.append(next(iter(shown_costs), tables.NOTHING))
        name = f"{first.side}: {first.arm}" + (" (chosen)" if first.is_champion else "")
        rows.append([name, f"{100 * first.accuracy:.1f} %", *cells])
    return ["arm", "test accuracy", *(axis.title for axis in shown)], rows


# ---------------------------------------------------------------- figure


def draw(outcome: ComparisonOutcome, axes: list[Axis], form: str = "png") -> bytes:
    """Draw a panel for each axis that is known: accuracy over cost, the front joined."""
    from .figures import COLOURS, MARKERS

    shown = [axis for axis in axes if not axis.reason]
    columns = min(ACROSS, len(shown))
    lines = -(-len(shown) // columns)
    with figures.figure_style():
        figure, _ = figures.new_subplots(6.4, 0.6 + 2.3 * lines)
        figure.clear()
        panels = figure.subplots(lines, columns, squeeze=False, sharey=True)
        for panel in panels.flat[len(shown) :]:
            panel.set_visible(False)
        for panel, axis in zip(panels.flat, shown, strict=False):
            _panel(panel, axis, COLOURS, MARKERS)
        for row in panels:
            row[0].set_ylabel("Test accuracy")
            row[0].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        handles, labels = panels.flat[0].get_legend_handles_labels()
        by_label = dict(zip(labels, handles, strict=True))
        figure.legend(
            by_label.values(), by_label.keys(), frameon=False, loc="outside upper center", ncols=3
        )
        return figures.render(figure, form)


def _panel(axes: Axes, axis: Axis, colours: dict[str, str], markers: dict[str, str]) -> None:
    front = axis.front
    axes.step(
        [p.cost for p in front],
        [p.accuracy for p in front],
        where="post",
        color="#999999",
        linewidth=1.0,
        zorder=1,
        label="Pareto front",
    )
    for side in (FEATURES, TUNING):
        for point in axis.points:
            if point.side == side:
                axes.plot(
                    [point.cost],
                    [point.accuracy],
                    markers[side],
                    color=colours[side],
                    markerfacecolor=colours[side] if point.is_champion else "white",
                    zorder=3 if point.is_champion else 2,
                    label=side if point.is_champion else None,
                )
    costs = [point.cost for point in axis.points]
    if min(costs) > 0 and max(costs) > 10 * min(costs):
        axes.set_xscale("log")
    axes.set_xlabel(axis.title)
    ticks = sorted({min(costs), max(costs)})
    axes.set_xticks(ticks, [axis.show(tick) for tick in ticks])
    axes.minorticks_off()
    axes.margins(x=0.2, y=0.15)
