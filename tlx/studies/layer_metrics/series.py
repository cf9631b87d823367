"""Series of the layer figures: rows of the table → order, means and spreads."""

from __future__ import annotations

import graphlib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import UnknownNameError
from ...plots import statistics
from ...plots.statistics import Value, distinct
from ..layer_measures import LAYER_METRICS, NOT_NEGATIVE
from .columns import METRICS

# of a network's layers: below, it has too few of the longest's to share with it one axis of
# names
SHARED = 0.5
TAG = re.compile(r"(\d{1,18})(?:_(\d{1,18}))?", re.ASCII)
CI, RANGE = "95 % CI over seeds", "range of fewer than 4 seeds"
STD, STIMULI = "± std over resamplings", "95 % CI over stimuli"

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Line:
    """Network at one checkpoint on one data set: layer → value, layer → depth (0 … 1)."""

    model: str
    checkpoint: str
    dataset: str
    values: dict[str, Value] = field(default_factory=dict)
    depths: dict[str, float] = field(default_factory=dict)


def check(metric: str) -> None:
    """Raise UnknownNameError unless the metric is a column that can be drawn."""
    if metric not in METRICS:
        raise UnknownNameError("metric", metric, METRICS)


def having(rows: Rows, metric: str) -> list[Mapping[str, Any]]:
    """Return the rows in which the metric is known.

    Raises UnknownNameError if it is no metric.
    """
    check(metric)
    return [
        {"checkpoint": "", "trained_on": ""}
        | {name: cell for name, cell in row.items() if cell not in (None, "")}
        for row in rows
        if row.get(metric) not in (None, "")
    ]


def lines(rows: Rows, metric: str) -> list[Line]:
    """Return one line for each model, checkpoint and data set.

    Models in order of appearance, checkpoints in order.
    """
    rows = having(rows, metric)
    models, tags = distinct(row["model"] for row in rows), checkpoints(rows)
    grouped = _grouped(rows, "dataset", "model", "checkpoint")
    order = sorted(grouped, key=lambda key: (models.index(key[1]), tags.index(key[2])))
    last = {
        model: max(row["layer_index"] for row in rows if row["model"] == model) for model in models
    }
    result = []
    for dataset, model, tag in order:
        by_layer = _grouped(
            sorted(grouped[dataset, model, tag], key=lambda row: row["layer_index"]), "layer"
        )
        depths = {
            layer: members[0]["layer_index"] / max(last[model], 1)
            for (layer,), members in by_layer.items()
        }
        result.append(
            Line(
                model,
                tag,
                dataset,
                {layer: value(members, metric) for (layer,), members in by_layer.items()},
                depths,
            )
        )
    return result


def measured(rows: Rows) -> list[list[Mapping[str, Any]]]:
    """Return rows that differ by their seed alone."""
    return list(_grouped(rows, "trained_on", "dataset", "model", "checkpoint", "layer").values())


def value(rows: Rows, metric: str) -> Value:
    """Return the mean and interval of several seeds, or the only number with its own spread."""
    bounds = LAYER_METRICS[metric].bounds if metric in LAYER_METRICS else NOT_NEGATIVE  # seconds
    if len(rows) > 1:
        mean = statistics.estimate((row[metric] for row in rows), bounds=bounds)
        assert mean is not None
        return around(mean)
    number, std = float(rows[0][metric]), rows[0].get("id_std") if metric == "id" else None
    low, high = (rows[0].get(f"{metric}_{end}") for end in ("low", "high"))
    if low not in (None, "") and high not in (None, ""):
        return Value(number, low, high, STIMULI)
    return (
        Value(number)
        if std is None
        else Value(number, max(bounds[0], number - std), number + std, STD)
    )


def difference(rows: Rows, metric: str, baseline: str) -> list[Line]:
    """Return lines of model − baseline at each layer both have.

    At the same checkpoint, or else at the baseline's last.

    Two seeds or more that both have are paired, and give a confidence interval; else the means are
    subtracted. Raises UnknownNameError for a baseline that is no model of the rows.
    """
    rows = having(rows, metric)
    if baseline not in (known := distinct(row["model"] for row in rows)):
        raise UnknownNameError("baseline", baseline, known)
    base = _grouped(
        [row for row in rows if row["model"] == baseline], "dataset", "checkpoint", "layer"
    )
    result = []
    for line in lines([row for row in rows if row["model"] != baseline], metric):
        own = _grouped(
            [row for row in rows if row["model"] == line.model], "dataset", "checkpoint", "layer"
        )
        tags = checkpoints(
            [row for key, members in base.items() if key[0] == line.dataset for row in members]
        )
        if not tags:
            continue
        tag = line.checkpoint if line.checkpoint in tags else tags[-1]
        shared = {
            layer: _minus(
                own[line.dataset, line.checkpoint, layer], base[line.dataset, tag, layer], metric
            )
            for layer in line.values
            if (line.dataset, tag, layer) in base
        }
        if shared:
            result.append(Line(line.model, line.checkpoint, line.dataset, shared, line.depths))
    return result


def _minus(rows: Rows, base: Rows, metric: str) -> Value:
    own, other = ({row.get("seed"): row[metric] for row in members} for members in (rows, base))
    paired = statistics.estimate(own[seed] - other[seed] for seed in own if seed in other)
    if paired is None or paired.n < 2:
        return Value(value(rows, metric).mean - value(base, metric).mean)
    return around(paired)


def around(mean: statistics.MeanEstimate) -> Value:
    """Return a mean with its interval, or with the range of fewer than 4 values."""
    if 1 < mean.n < statistics.FEWEST_SPLITS:
        return Value(mean.mean, mean.lowest, mean.highest, RANGE)
    return Value(mean.mean, mean.low, mean.high, CI)


# ---------------------------------------------------------------- order


def layers(rows: Rows) -> list[str] | None:
    """Return all layers, each network's own in its order.

    None if orders contradict or networks have too little in common.
    """
    places: dict[str, dict[str, int]] = {}
    for row in rows:
        own = places.setdefault(row["model"], {})
        own[row["layer"]] = min(own.get(row["layer"], row["layer_index"]), row["layer_index"])
    first = {
        layer: min(own[layer] for own in places.values() if layer in own)
        for layer in distinct(row["layer"] for row in rows)
    }
    sorter: graphlib.TopologicalSorter[str] = graphlib.TopologicalSorter(dict.fromkeys(first, ()))
    for own in places.values():
        chain = sorted(own, key=lambda layer: (own[layer], layer))
        for before, after in itertools.pairwise(chain):
            sorter.add(after, before)
    try:
        sorter.prepare()
    except graphlib.CycleError:
        return None
    order: list[str] = []
    ready: list[str] = []
    while sorter.is_active():
        ready = sorted([*ready, *sorter.get_ready()], key=lambda layer: (first[layer], layer))
        order.append(ready.pop(0))
        sorter.done(order[-1])
    longest = max(places.values(), key=len, default={})
    return (
        order
        if all(len(own.keys() & longest.keys()) >= SHARED * len(own) for own in places.values())
        else None
    )


def checkpoints(rows: Rows) -> list[str]:
    """Return tags in the order of training.

    By their index where all rows have it, else by the tag (0, 0_30, 100).
    """
    tags = distinct(row["checkpoint"] for row in rows)
    if all(row.get("checkpoint_index") is not None for row in rows if row["checkpoint"]):
        index = {
            tag: min(
                (row["checkpoint_index"] for row in rows if row["checkpoint"] == tag and tag),
                default=-1,
            )
            for tag in tags
        }
        return sorted(tags, key=lambda tag: (index[tag], _when(tag)))
    return sorted(tags, key=_when)


def _when(tag: str) -> tuple[int, int, int, str]:
    match = TAG.fullmatch(tag)
    if match:
        return 0, int(match[1]), int(match[2] or 0), tag
    return (1 if tag else -1), 0, 0, tag


def at_last_checkpoints(rows: Rows) -> list[Mapping[str, object]]:
    """Return the rows of each model's last checkpoint."""
    last = {
        model: checkpoints(members)[-1] for (model,), members in _grouped(rows, "model").items()
    }
    return [row for row in rows if row["checkpoint"] == last[row["model"]]]


def _grouped(
    rows: Iterable[Mapping[str, Any]], *columns: str
) -> dict[tuple[str, ...], list[Mapping[str, Any]]]:
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(name) or "" for name in columns), []).append(row)
    return groups
