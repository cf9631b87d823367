"""Dissimilarities of an analysis in the files of the thesis: one a layer, model → square matrix.

'Transferability in DNN' keeps <data set>_sorted_corr_dict_layer<k> as a dill file, which runs code
when it is read. Here it is .npz: an archive of one .npy file a model, read without pickle.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from ... import files
from ...errors import UsageError
from ...lab.store import Store
from ...result import Result
from ..base import Stage
from .spec import LayerMetrics
from .trial import KEPT_ROWS, RDMS

CORRELATION = "correlation"
STAMP = (1980, 1, 1, 0, 0, 0)  # of the members, so that the same numbers are the same bytes


def check(measures: LayerMetrics, stage: Stage) -> None:
    """Raise UsageError unless dissimilarities of all images will be kept, and are 1 − Pearson's r.

    As those of the thesis are.
    """
    if measures.rdm != CORRELATION:
        raise UsageError(
            "conflict",
            f"--corr-dict and --rdm {measures.rdm}",
            expected=f"--rdm {CORRELATION}, which these files hold",
        )
    most = max((len(trial.inputs.labels) for trial in stage.trials), default=0)
    if most > min(KEPT_ROWS, measures.max_rows):
        raise UsageError(
            "out-of-range",
            f"--corr-dict of {most:,} images",
            expected=f"at most {min(KEPT_ROWS, measures.max_rows):,}, of which a matrix is kept",
            remedy="--samples 500",
        )


def write(results: Iterable[Result], store: Store, folder: Path) -> tuple[list[Path], list[str]]:
    """Write <data set>_sorted_corr_dict_layer<k>.npz for every layer k, and the labels of the rows.

    A member is called as the model and its checkpoint; it is (n, n) float32: 1 − Pearson's r of the
    activations of n images, sorted by class. <data set>_sorted_labels.npy has the n class numbers.
    Returns the files, and what has no dissimilarities: layers whose rows are all alike.
    """
    models = list(results)
    names = _names(models)
    files.make_folder(folder)
    paths: list[Path] = []
    absent: list[str] = []
    by_layer: dict[tuple[str, int], dict[str, np.ndarray]] = {}
    labels: dict[str, np.ndarray] = {}
    for name, result in zip(names, models, strict=True):
        codes = np.asarray(result.details["codes"], np.int64)
        order = np.argsort(codes, kind="stable")
        dataset = _plain(str(result.spec["dataset"]))
        labels.setdefault(dataset, codes[order])
        for row in result.details["rows"]:
            layer = int(row["layer_index"])
            kept = f"{RDMS}/{layer:02d}.npy"
            if not (store.folder(result.key) / kept).is_file():
                absent.append(f"{name}: {row['layer']}")
                continue
            condensed = np.load(store.file(result.key, kept), allow_pickle=False)
            square = _square(condensed, len(codes))[np.ix_(order, order)]
            by_layer.setdefault((dataset, layer), {})[name] = square
    for (dataset, layer), matrices in by_layer.items():
        paths.append(folder / f"{dataset}_sorted_corr_dict_layer{layer}.npz")
        _write(paths[-1], matrices)
    for dataset, codes in labels.items():
        paths.append(folder / f"{dataset}_sorted_labels.npy")
        with files.atomic_write(paths[-1]) as file:
            np.lib.format.write_array(file, codes, allow_pickle=False)
    return paths, absent


def _square(condensed: np.ndarray, rows: int) -> np.ndarray:
    """Return the square (n, n) float32 of condensed dissimilarities (n(n − 1)/2,)."""
    square = np.zeros((rows, rows), np.float32)
    square[np.triu_indices(rows, 1)] = condensed
    return square + square.T


def _names(models: Iterable[Result]) -> list[str]:
    """Return a name for each model: what it is called, and its checkpoint; a number if needed."""
    names: list[str] = []
    for result in models:
        tag = str(result.spec["checkpoint"])
        name = _plain(str(result.spec["model"]) + (f"_{tag}" if tag else ""))
        same = sum(other == name or other.startswith(f"{name}#") for other in names)
        names.append(f"{name}#{same + 1}" if same else name)
    return names


def _plain(name: str) -> str:
    return name.replace("/", "_").replace("\\", "_")


def _write(path: Path, matrices: Mapping[str, np.ndarray]) -> None:
    with files.atomic_write(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, matrix in matrices.items():
            member = zipfile.ZipInfo(f"{name}.npy", STAMP)
            with archive.open(member, "w", force_zip64=True) as out:
                np.lib.format.write_array(out, matrix, allow_pickle=False)
