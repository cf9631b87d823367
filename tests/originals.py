"""Readers of the files of the originals, written from their descriptions.

Nothing of tlx is imported: they read what a script of the original, or its user, would.
"""

from __future__ import annotations

import csv
import json
import re
import struct
from pathlib import Path

import numpy as np


def extracted(path: Path) -> dict[str, tuple[list[np.ndarray], np.ndarray]]:
    """<target>_extracted.pt: model file → (layers (n, d) each, labels (n,))."""
    import torch

    models = torch.load(path, weights_only=True)
    return {
        name: ([layer.numpy() for layer in row["layers"]], row["labels"].numpy())
        for name, row in models.items()
    }


def corr_dict(path: Path) -> dict[str, np.ndarray]:
    """<data set>_sorted_corr_dict_layer<k>: model → n × n matrix."""
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def rsa(matrix: np.ndarray, per_class: int) -> float:
    """|mean within classes − mean between|, both triangles, without the diagonal; rows sorted."""
    n = len(matrix)
    block = np.arange(n) // per_class
    same = block[:, None] == block[None, :]
    off = ~np.eye(n, dtype=bool)
    return float(abs(matrix[same & off].mean() - matrix[~same].mean()))


def data_frame(path: Path) -> list[dict[str, object]]:
    """df_<run>: a row a training, lists in its cells, as pandas gives them."""
    import pandas

    if path.suffix == ".parquet":
        return [
            {name: _plain(value) for name, value in row.items()}
            for row in pandas.read_parquet(path).to_dict("records")
        ]
    with open(path, newline="", encoding="utf-8") as file:
        return [{name: _cell(value) for name, value in row.items()} for row in csv.DictReader(file)]


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value.item() if isinstance(value, np.generic) else value


def _cell(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def experiment_summary(path: Path) -> tuple[dict[str, str], list[str]]:
    """expe_summary.txt: name → value of its first part, and the lines of the model's summary."""
    head, _, model = path.read_text(encoding="utf-8").partition("\n\n")
    pairs = [line.partition(": ") for line in head.split("\n")]
    return {name: value for name, _, value in pairs}, model.rstrip("\n").split("\n")


def trajectory(path: Path) -> list[list[float]]:
    """r.txt: λ of the source a gate and epoch; each followed by a space, a comma after a gate."""
    text = path.read_text(encoding="utf-8")
    if "\n" in text:
        raise ValueError("more than one line")
    return [[float(word) for word in gate.split()] for gate in text.split(",") if gate.strip()]


def all_experiments(path: Path) -> dict[tuple[str, int | None], float]:
    """all_experiments.csv: (network, block) → test accuracy; no block for a base network."""
    lines = path.read_text(encoding="utf-8").splitlines()
    if lines[0] != "network,block,test_accuracy":
        raise ValueError(lines[0])
    rows = [line.split(",") for line in lines[1:]]
    return {
        (network, int(block) if block else None): float(value) for network, block, value in rows
    }


def network(path: Path) -> tuple[str, int, str, dict[str, np.ndarray]]:
    """A3B-mobilenet: (source, n, "" or "+", name → tensor), by the format's own description."""
    match = re.fullmatch(r"([AB])(\d+)B(\+?)-.+", path.stem)
    if match is None:
        raise ValueError(path.name)
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    tensors = {}
    for name, row in json.loads(data[8 : 8 + length]).items():
        if name != "__metadata__":
            begin, end = (8 + length + offset for offset in row["data_offsets"])
            kind = {"F32": "<f4", "I64": "<i8"}[row["dtype"]]
            tensors[name] = np.frombuffer(data[begin:end], kind).reshape(row["shape"])
    return match[1], int(match[2]), match[3], tensors
