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
from ...result import FINISHED
from ..layer_measures import LAYER_METRICS
from ..reporting import RECORD_BYTES
from .spec import CHAIN, RESULTS

SCOPES = ("all", "source", "checkpoint")
CORRELATED = tuple(name for name, metric in LAYER_METRICS.items() if metric.correlated)

Row = Mapping[str, Any]


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
    tuning: list[dict[str, Any]] = []
    performance, layers = [], []
    for cell in chain["cells"]:
        model = {
            name: cell[name]
            for name in ("target", "source", "checkpoint", "checkpoint_index", "seed")
        }
        tuned = result(cell["tuning"]) if "tuning" in cell else None
        if tuned is not None:
            tuning += [
                {**model, "tag": m["tag"], "index": i, **m}
                for i, m in enumerate(tuned.details["moments"])
            ]
            if tuned.status == FINISHED and "transfer_performance" in tuned.scores:
                performance.append(
                    {
                        **model,
                        **{
                            name: tuned.scores[name]
                            for name in (
                                "transfer_performance",
                                "transfer_performance_val",
                                "test_accuracy",
                                "val_accuracy",
                            )
                        },
                    }
                )
        looked = result(cell["layers"])
        if looked is not None:
            layers += [
                {
                    "model": cell["source"],
                    "trained_on": cell["source"],
                    "checkpoint": cell["checkpoint"],
                    "checkpoint_index": cell["checkpoint_index"],
                    "seed": cell["seed"],
                    "dataset": cell["target"],
                    "rdm": looked.spec["rdm"],
                    **row,
                }
                for row in looked.details["rows"]
            ]
    files.write_json(
        path.with_name(RESULTS),
        {
            **{name: chain[name] for name in ("architecture", "batch_size", "moments")},
            "pretraining": pretraining,
            "tuning": tuning,
            "performance": performance,
            "layers": layers,
            "correlations": correlations_of(layers, performance),
        },
    )


def _named(moments: Iterable[Row], tags: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows under this training's tags.

    The same weights may have been scored for another.
    """
    return [{**row, "tag": tag} for row, tag in zip(moments, tags, strict=True)]


# ---------------------------------------------------------------- correlations


def correlations_of(
    layers: Sequence[Row], performance: Sequence[Row], names: Sequence[str] = CORRELATED
) -> list[dict[str, Any]]:
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
    areas: dict[tuple[str, str, str], dict[str, float]] = {}
    for row in performance:
        areas.setdefault((row["target"], row["source"], row["checkpoint"]), {})[_seed(row)] = float(
            row["transfer_performance"]
        )
    groups: dict[tuple[str, str, int, str], dict[tuple[str, str], dict[str, float]]] = {}
    for row in layers:
        of = (row["dataset"], row.get("trained_on") or row["model"], row.get("checkpoint") or "")
        for name in names if of in areas else ():
            if row.get(name) not in (None, ""):
                group = groups.setdefault((of[0], name, int(row["layer_index"]), row["layer"]), {})
                group.setdefault(of[1:], {})[_seed(row)] = float(row[name])
    order = _in_order(layers)
    result = []
    for (target, name, index, layer), models in sorted(
        groups.items(), key=lambda item: (item[0][0], list(names).index(item[0][1]), item[0][2])
    ):
        pairs = {of: _means(values, areas[target, *of]) for of, values in models.items()}
        pairs = {of: pair for of, pair in pairs.items() if pair is not None}
        if len(pairs) < 2:
            continue
        x, y = np.array(list(pairs.values())).T
        sources, tags = zip(*pairs, strict=True)
        place = {name: number for number, name in enumerate([*dict.fromkeys(sources), *order])}
        for correlation in sorted(
            metrics.metric_correlations(x, y, list(sources), list(tags)),
            key=lambda correlation: (
                SCOPES.index(correlation.scope),
                place.get(correlation.name, 0),
            ),
        ):
            known = math.isfinite(correlation.rho)
            band = (correlation.low, correlation.high) if known else (None, None)
            result.append(
                {
                    "target": target,
                    "metric": name,
                    "layer": layer,
                    "layer_index": index,
                    "scope": correlation.scope,
                    "name": correlation.name,
                    "n": correlation.n,
                    "rho": correlation.rho if known else None,
                    "fisher": correlation.fisher,
                    "low": band[0],
                    "high": band[1],
                    "p": correlation.p if known else None,
                    "exact": correlation.exact,
                    "sources": correlation.sources,
                    **{
                        name: value if math.isfinite(value) else None
                        for name, value in (
                            ("source_low", correlation.source_low),
                            ("source_high", correlation.source_high),
                            ("source_p", correlation.source_p),
                        )
                    },
                }
            )
    return result


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
    asked = {(row["target"], row["source"], row["checkpoint"]) for row in performance}
    if not known & asked:
        raise BadDataError(
            "nothing-in-common",
            f"no (target, source, checkpoint) of it is in the table, first "
            f"{', '.join(map(repr, sorted(asked)[0]))}",
            where=where,
            expected=f"dataset, trained_on, checkpoint as there, first "
            f"{', '.join(map(repr, min(known)))}",
        )
