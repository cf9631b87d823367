"""Data frames of the thesis, from the results of a study of checkpoints.

'Transferability in DNN' pickles pandas frames: df_<run>, one row a training, with lists over its
checkpoints; and df_<run>+metrics, in which every pre-training also has the metrics of the layers
on each target. Here they are Parquet, with lists and a record as they are, and CSV, with these as
JSON: both are read without running code.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ... import files
from . import tables

Row = dict[str, Any]
Results = Mapping[str, Any]  # content of checkpoints.json
METRICS = {"ID": "id", "SS": "ss_ratio", "RSA": "rsa_contrast"}  # column → metric of a layer
PARAMETERS = ("train_samples", "batch_size", "lr")
DATA, PARAM = 3, "param"  # place of the column with the data set; name of the last one


def frames(results: Results) -> dict[str, list[Row]]:
    """Return name of a frame → its rows.

    df_pre_<source>+metrics  model_name, seed, pre_net, pre_dataset, pre_epochs, pre_train_acc,
        pre_train_loss, pre_test_acc, pre_test_loss, pre_param, then ID_<target>, SS_<target> and
        RSA_<target>: lists over the layers, each a list over pre_epochs
    df_ft_<source>_<target>  the same with ft_, without metrics; a row a seed and checkpoint
    """
    by_name: dict[str, list[Row]] = {}
    for file, stats in tables.train_stats(results).items():
        run = file.removesuffix(tables.STATS)
        rows = [
            dict(zip(stats, values, strict=True)) for values in zip(*_lists(stats), strict=True)
        ]
        kind = run.partition("_")[0]
        name = f"df_{run}+metrics" if kind == "pre" else f"df_{run}"
        by_name[name] = [_completed(row, kind, run, results) for row in rows]
    return by_name


def _lists(stats: Mapping[str, object]) -> list[list[object]]:
    return [value for value in stats.values() if isinstance(value, list)]


def _completed(row: Row, kind: str, run: str, results: Results) -> Row:
    """Return a row of the train stats with data set, parameters and metrics."""
    source, target, tag = _of_run(str(row["model_name"]), kind, run, results)
    cells = list(row.items())
    cells.insert(DATA, (f"{kind}_dataset", target or source))
    of_training = [
        training
        for training in results.get("trainings", ())
        if (training["kind"], training["source"], training["seed"]) == (kind, source, row["seed"])
        and training.get("target") == target
        and training.get("checkpoint") == tag
    ]
    known = of_training[0] if of_training else {}
    param = {name: known.get(name) for name in PARAMETERS}
    whole: Row = dict(cells) | {f"{kind}_{PARAM}": param}
    if kind == "pre":
        whole |= _metrics(results, source, row["seed"])
    return whole


def _of_run(
    model: str, kind: str, run: str, results: Results
) -> tuple[str, str | None, str | None]:
    """Return source, target and checkpoint of a training; None of a pre-training."""
    if kind == "pre":
        return run.removeprefix("pre_"), None, None
    tag = model.removeprefix(f"model_{run}_")
    pairs = {(row["source"], row["target"]) for row in results["tuning"]}
    source, target = next(pair for pair in pairs if f"ft_{pair[0]}_{pair[1]}" == run)
    return source, target, tag


def _metrics(results: Results, source: str, seed: int) -> Row:
    """Return the metrics of the layers of a training's checkpoints, for every target."""
    own = [row for row in results["layers"] if (row["trained_on"], row["seed"]) == (source, seed)]
    columns: Row = {}
    for target in dict.fromkeys(row["dataset"] for row in own):
        of_target = [row for row in own if row["dataset"] == target]
        layers = sorted({row["layer_index"] for row in of_target})
        tags = sorted({row["checkpoint_index"] for row in of_target})
        values = {(row["layer_index"], row["checkpoint_index"]): row for row in of_target}
        for column, metric in METRICS.items():
            columns[f"{column}_{target}"] = [
                [values.get((layer, tag), {}).get(metric) for tag in tags] for layer in layers
            ]
    return columns


def write(results: Results, folder: Path) -> list[Path]:
    """Write every frame to `folder`, as .parquet and .csv."""
    paths = []
    for name, rows in frames(results).items():
        plain = tables.file_name(name)
        for ending, data in ((".parquet", _parquet(rows)), (".csv", _csv(rows))):
            paths.append(folder / f"{plain}{ending}")
            files.write_bytes(paths[-1], data)
    return paths


def _columns(rows: Sequence[Row]) -> list[str]:
    """Return the columns of all rows, in the order in which they first stand."""
    return list(dict.fromkeys(name for row in rows for name in row))


def _parquet(rows: Sequence[Row]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    whole = [{name: row.get(name) for name in _columns(rows)} for row in rows]
    out = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(whole), out)
    return out.getvalue()


def _csv(rows: Sequence[Row]) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_columns(rows))
    for row in rows:
        writer.writerow([_cell(row.get(name)) for name in _columns(rows)])
    return out.getvalue().encode()


def _cell(value: object) -> object:
    return json.dumps(value) if isinstance(value, (list, dict)) else value
