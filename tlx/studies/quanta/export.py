"""Export of QUANTA results to the original's files: README layout and later JSON lines.

    <out>/<source>_to_<target>/layer_<l|all>/<r>.txt                                λ of the source
    after each epoch
                                             <r>_raw.txt                            v of the source
                                             training_metrics_of_target_<r>.txt     a list an epoch
                                             testing_metrics_of_target_<r>.txt
    <out>/<source>_to_<target>/quantas_r_<r>_l_<l|all>.jsonl                        v and λ, also
    before the first epoch
                               training_metrics_of_target_r_<r>_l_<l|all>.jsonl
                               testing_metrics_of_{source,target}_r_<r>_l_<l|all>.jsonl
    <out>/<source>_to_<target>/witness/…                                            the target
    alone, without λ
    <out>/<source>_to_<target>/layer_<l|all>/expe_summary.txt                       task, settings,
    accuracies and network

Of one position, the files of layer_<l|all> are directly in <out>, as the original's README draws.
<r>.txt is one line without an end: for every gate its numbers, each followed by a space, then a
comma. A list of metrics is [loss, accuracy, precision, recall, FP, FN, TP, TN, top3]. In quantas_…
the keys are the gates' positions. Files are written anew; the original added to what was there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ... import files
from ...errors import UsageError
from ...result import Result
from .spec import CO, WITNESS
from .summary import experiment_summary

LISTED = (
    "loss",
    "top1",
    "precision",
    "recall",
    "false_positives",
    "false_negatives",
    "true_positives",
    "true_negatives",
    "top3",
)
KERAS = {
    "categorical_accuracy": "top1",
    "loss": "loss",
    "precision": "precision",
    "recall": "recall",
    "false_positives": "false_positives",
    "false_negatives": "false_negatives",
    "true_positives": "true_positives",
    "true_negatives": "true_negatives",
    "top_k_categorical_accuracy": "top3",
}


SUMMARY = "expe_summary.txt"


def check(out: Path, target: str, positions: Sequence[str]) -> None:
    """Refuse a folder that has the files of another experiment, where those of one go into it.

    target     name of the target's images
    positions  of the gates of the study
    """
    if len(positions) != 1 or not (out / SUMMARY).exists():
        return
    lines = (out / SUMMARY).read_text("utf-8").splitlines()
    expected = [f"Target task: {target}", f"Layer: {positions[0]}"]
    stated = [line for line in lines if line.startswith(("Target task: ", "Layer: "))]
    if stated != expected:
        raise UsageError(
            "export-taken",
            f"it has the files of another experiment ({', '.join(stated)})",
            where=out,
            expected="a folder for each target and position, whose files have the same names",
            remedy="--export ANOTHER, or list the positions in one command",
        )


def export(results: Iterable[Result], out: Path) -> list[Path]:
    """Write the files of every result that has an epoch; return the folders."""
    folders: dict[Path, None] = {}
    results = [r for r in results if r.details.get("history")]
    gated = [r for r in results if r.spec["position"] != WITNESS]
    is_alone = len({r.spec["position"] for r in gated}) == 1
    names = {r.details["source_name"] for r in results if r.details["source_name"]}
    for result in results:
        source = result.details["source_name"] or next(iter(sorted(names)), "none")
        folder = out / f"{_plain(source)}_to_{_plain(result.details['target_name'])}"
        position, repeat = result.spec["position"], result.spec["repeat"]
        layer = {CO: "all"}.get(position, position)
        own = folder / (WITNESS if position == WITNESS else f"layer_{layer}")
        if is_alone and position != WITNESS:
            own = out
        folders |= {files.make_folder(own): None}
        for words, part in (
            ("training", "train"),
            ("testing", "test" if "test_loss" in _last(result) else "val"),
        ):
            _write(own / f"{words}_metrics_of_target_{repeat}.txt", _lists(result, part))
        if position == WITNESS:
            continue
        gates = result.details["gates"]
        _write(
            own / f"{repeat}.txt",
            series([[row["lambda"][g][0] for row in gates[1:]] for g in _numbers(result)]),
        )
        _write(
            own / f"{repeat}_raw.txt",
            series([[np.float32(row["v"][g][0]) for row in gates[1:]] for g in _numbers(result)]),
        )
        end = f"r_{repeat}_l_{layer}.jsonl"
        _write(folder / f"quantas_{end}", _line(quantas(result)))
        _write(
            folder / f"training_metrics_of_target_{end}",
            _line(
                {
                    str(epoch): _keras(row, "train_")
                    for epoch, row in enumerate(result.details["history"])
                }
            ),
        )
        _write(
            folder / f"testing_metrics_of_target_{end}",
            _line(_keras(_last(result), "test_" if "test_loss" in _last(result) else "val_")),
        )
        if result.details["source_test"]:
            _write(
                folder / f"testing_metrics_of_source_{end}",
                _line(_keras(result.details["source_test"], "")),
            )
        if result is next(r for r in gated if r.spec["position"] == position):
            same = [r for r in results if r.spec["position"] in (position, WITNESS)]
            _write(own / SUMMARY, experiment_summary(same))
    return list(folders)


def series(gates: Sequence[Sequence[object]]) -> str:
    """Format the original's line of numbers, gate by gate.

    In Python's shortest form, which reads back to the same bits.

    >>> series([[0.5, 0.25], [1.0]])
    '0.5 0.25 ,1.0 ,'
    """
    return "".join("".join(f"{value!s} " for value in values) + "," for values in gates)


def read_series(text: str) -> list[list[float]]:
    """Parse the numbers of `series`.

    >>> read_series('0.5 0.25 ,1.0 ,')
    [[0.5, 0.25], [1.0]]
    """
    return [[float(word) for word in part.split()] for part in text.split(",")[:-1]]


def quantas(result: Result) -> dict[str, object]:
    """Return position → v and λ of source and target, before the first epoch and after each."""
    gates = result.details["gates"]
    return {
        str(position): {
            "quanta_weights": [row["v"][g] for row in gates],
            "quantas": {
                "source": [row["lambda"][g][0] for row in gates],
                "target": [row["lambda"][g][1] for row in gates],
            },
        }
        for g, position in enumerate(result.details["positions"])
    }


def _numbers(result: Result) -> range:
    return range(len(result.details["positions"]))


def _lists(result: Result, part: str) -> str:
    return "".join(
        f"{[row[f'{part}_{name}'] for name in LISTED]}\n" for row in result.details["history"]
    )


def _keras(values: dict[str, float], before: str) -> dict[str, float]:
    return {name: values[before + own] for name, own in KERAS.items()}


def _last(result: Result) -> dict[str, float]:
    value: dict[str, float] = result.details["history"][-1]
    return value


def _line(row: object) -> str:
    return json.dumps(row) + "\n"


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "images"


def _write(path: Path, text: str) -> None:
    files.write_text(path, text)
