"""Correlations of layer metrics at checkpoints with transfer performance."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ... import files, metrics
from ...errors import BadDataError
from ...lab.store import Store
from ...result import FINISHED, Result
from ..layer_measures import LAYER_METRICS
from ..reporting import RECORD_BYTES
from .spec import CHAIN, RESULTS

SCOPES = ("all", "source", "checkpoint")
CORRELATED = tuple(name for name, metric in LAYER_METRICS.items() if metric.correlated)

MODEL = ("target", "source", "checkpoint", "checkpoint_index", "seed")
PERFORMANCE = (
    "transfer_performance",
    "transfer_performance_val",
    "test_accuracy",
    "val_accuracy",
)

Row = Mapping[str, Any]
Model = tuple[str, str, str]  # target, source, tag of the checkpoint


def gather(store: Store, key: str) -> None:
    """Write the results so far to the study's folder, as checkpoints.json.

    The accuracies of pre-trainings and fine-tunings at their moments, the transfer performances,
    the metrics of every layer, and their correlations.
    """
    path = store.root / "studies" / key / CHAIN
    if not path.is_file():
        return
    chain = files.read_json(path, limit=RECORD_BYTES)
    result = functools.cache(store.find_or_none)
    pretraining = [
        {"source": row["source"], "seed": row["seed"], **moment}
        for row in chain["scored"]
        if (r := result(row["key"])) is not None
        for moment in _named(r.details["moments"], row["tags"])
    ]
    trainings = [
        {"kind": "pre", "source": row["source"], "seed": row["seed"], **_parameters(r)}
        for row in chain["scored"]
        if "training" in row and (r := result(row["training"])) is not None
    ]
    tuning: list[dict[str, Any]] = []
    performance: list[dict[str, Any]] = []
    layers: list[dict[str, Any]] = []
    for cell in chain["cells"]:
        tuned = result(cell["tuning"]) if "tuning" in cell else None
        if tuned is not None:
            moments, transfer = _tuned_rows(cell, tuned)
            tuning += moments
            trainings.append({"kind": "ft", **{n: cell[n] for n in MODEL}, **_parameters(tuned)})
            performance += transfer
        looked = result(cell["layers"])
        if looked is not None:
            layers += _layer_rows(cell, looked)
    files.write_json(
        path.with_name(RESULTS),
        {
            **{name: chain[name] for name in ("architecture", "batch_size", "moments")},
            "trainings": trainings,
            "pretraining": pretraining,
            "tuning": tuning,
            "performance": performance,
            "layers": layers,
            "correlations": correlations_of(layers, performance),
        },
    )


def _parameters(result: Result) -> dict[str, object]:
    """Return images, batch size and rate of a training, under the names of the thesis."""
    return {
        "train_samples": result.details["train_images"],
        "batch_size": result.spec["batch_size"],
        "lr": result.spec["learning_rate"],
    }


def _named(moments: Iterable[Row], tags: Sequence[str]) -> list[dict[str, object]]:
    """Return the rows under this training's tags.

    The same weights may have been scored for another.
    """
    return [{**row, "tag": tag} for row, tag in zip(moments, tags, strict=True)]


def _tuned_rows(
    cell: Row, tuned: Result
) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """Return the scores at the moments of a fine-tuning, and its transfer performance if any."""
    model = {name: cell[name] for name in MODEL}
    moments = [
        {**model, "tag": moment["tag"], "index": index, **moment}
        for index, moment in enumerate(tuned.details["moments"])
    ]
    if tuned.status != FINISHED or "transfer_performance" not in tuned.scores:
        return moments, []
    return moments, [{**model, **{name: tuned.scores[name] for name in PERFORMANCE}}]


def _layer_rows(cell: Row, looked: Result) -> list[dict[str, object]]:
    """Return the metrics of the layers of a model, as rows of the table of layer metrics."""
    model = {
        "model": cell["source"],
        "trained_on": cell["source"],
        "checkpoint": cell["checkpoint"],
        "checkpoint_index": cell["checkpoint_index"],
        "seed": cell["seed"],
        "dataset": cell["target"],
        "rdm": looked.spec["rdm"],
    }
    return [{**model, **row} for row in looked.details["rows"]]


# ---------------------------------------------------------------- correlations


def correlations_of(
    layers: Sequence[Row], performance: Sequence[Row], names: Sequence[str] = CORRELATED
) -> list[dict[str, object]]:
    """Correlate each metric of each layer with the transfer performance, for each target.

    Spearman's ρ over all models, those of each source and those of each checkpoint.

    layers        rows of the table of layer metrics; `trained_on` and `dataset` are source and
                  target
    performance   {"source", "checkpoint", "target", "seed", "transfer_performance"}
    →             {"target", "metric", "layer", "layer_index", "scope", "name", "n", "rho",
                  "fisher", "low", "high",
                  "p", "exact", "sources", "source_low", "source_high", "source_p"}: see
                  metrics.metric_correlations; rho, p and what orders of sources make of them None
                  where there is none

    A model is a source at a checkpoint: seeds are averaged first, as in the thesis, those alone
    that both tables have where both say seeds.
    """
    areas: dict[Model, dict[str, float]] = {}
    for row in performance:
        areas.setdefault((row["target"], row["source"], row["checkpoint"]), {})[_seed(row)] = float(
            row["transfer_performance"]
        )
    order = _in_order(layers)
    result = []
    for (target, name, index, layer), models in _by_layer(layers, areas, names):
        pairs = {of: _means(values, areas[target, *of]) for of, values in models.items()}
        pairs = {of: pair for of, pair in pairs.items() if pair is not None}
        if len(pairs) < 2:
            continue
        x, y = np.array(list(pairs.values())).T
        sources, tags = zip(*pairs, strict=True)
        place = {name: number for number, name in enumerate([*dict.fromkeys(sources), *order])}
        correlations = metrics.metric_correlations(x, y, list(sources), list(tags))
        for correlation in sorted(
            correlations, key=lambda row: (SCOPES.index(row.scope), place.get(row.name, 0))
        ):
            about = {"target": target, "metric": name, "layer": layer, "layer_index": index}
            result.append(about | _correlation_row(correlation))
    return result


def _by_layer(
    layers: Sequence[Row], areas: Mapping[Model, object], names: Sequence[str]
) -> list[tuple[tuple[str, str, int, str], dict[tuple[str, str], dict[str, float]]]]:
    """Return (target, metric, index, layer), each with (source, tag) → seed → value.

    Of models whose transfer performance is known, in the order of target, metric and layer.
    """
    groups: dict[tuple[str, str, int, str], dict[tuple[str, str], dict[str, float]]] = {}
    for row in layers:
        of = (row["dataset"], row.get("trained_on") or row["model"], row.get("checkpoint") or "")
        for name in names if of in areas else ():
            if row.get(name) not in (None, ""):
                group = groups.setdefault((of[0], name, int(row["layer_index"]), row["layer"]), {})
                group.setdefault(of[1:], {})[_seed(row)] = float(row[name])
    return sorted(
        groups.items(), key=lambda item: (item[0][0], list(names).index(item[0][1]), item[0][2])
    )


def _correlation_row(correlation: Any) -> dict[str, object]:
    """Return a correlation as plain JSON: None where there is no number."""
    known = math.isfinite(correlation.rho)
    row = {
        "scope": correlation.scope,
        "name": correlation.name,
        "n": correlation.n,
        "rho": correlation.rho if known else None,
        "fisher": correlation.fisher,
        "low": correlation.low if known else None,
        "high": correlation.high if known else None,
        "p": correlation.p if known else None,
        "exact": correlation.exact,
        "sources": correlation.sources,
    }
    for name in ("source_low", "source_high", "source_p"):
        value = getattr(correlation, name)
        row[name] = value if math.isfinite(value) else None
    return row


def _in_order(layers: Sequence[Row]) -> list[str]:
    """Return tags of checkpoints in the order of their trainings."""
    places: dict[str, int] = {}
    for row in layers:
        tag = row.get("checkpoint") or ""
        places[tag] = max(places.get(tag, 0), row.get("checkpoint_index") or 0)
    return sorted(places, key=lambda tag: places[tag])


def _seed(row: Row) -> str:
    seed = row.get("seed")
    return "" if seed is None else str(seed)


def _means(metric: Mapping[str, float], area: Mapping[str, float]) -> tuple[float, float] | None:
    """Return both averaged over seeds; None where they have no seed in common."""
    if "" not in metric and "" not in area:
        shared = [seed for seed in metric if seed in area]
        if not shared:
            return None
        metric, area = ({seed: values[seed] for seed in shared} for values in (metric, area))
    return (math.fsum(metric.values()) / len(metric), math.fsum(area.values()) / len(area))


def check_joined(layers: Sequence[Row], performance: Sequence[Row], where: object) -> None:
    """Raise BadDataError where no model of one table is in the other."""
    known = {
        (row["dataset"], row.get("trained_on") or row["model"], row.get("checkpoint") or "")
        for row in layers
    }
    requested = {(row["target"], row["source"], row["checkpoint"]) for row in performance}
    if not known & requested:
        raise BadDataError(
            "nothing-in-common",
            f"no (target, source, checkpoint) of it is in the table, first "
            f"{', '.join(map(repr, sorted(requested)[0]))}",
            where=where,
            expected=f"dataset, trained_on, checkpoint as there, first "
            f"{', '.join(map(repr, min(known)))}",
        )
