"""Exports of features in files of other tools.

`features.npy` and `file_names.txt`, which are read too; a file of `torch.save`, as the thesis
'Transferability in DNN' keeps activations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import files
from ..data.sources import read_npy
from ..errors import BadDataError, MissingError, UsageError, counted, raise_all
from .dump import Dump

FEATURES, NAMES = "features.npy", "file_names.txt"
NAMES_LIMIT = 1 << 30  # bytes
CHUNK_BYTES = 16 << 20


@dataclass(frozen=True)
class FeatureFile:
    """Exported features: array (r, d), a read-only map; names (r,) of its rows."""

    array: np.ndarray
    names: tuple[str, ...]


def write(dump: Dump, folder: Path, layers: Sequence[str] | None = None) -> None:
    """Write layers of a dump (all unless given), side by side, to `folder` as float32.

    Rows are named by the images' ids, followed by `_crop_<i>` where there are several crops of an
    image. An id with a line break, or a duplicate, is refused.
    """
    names = _row_names(dump)
    layers = dump.layers if layers is None else tuple(layers)
    width = sum(dump.widths[layer] for layer in layers)
    files.write_text(Path(folder) / NAMES, "".join(f"{name}\n" for name in names))
    step = max(1, CHUNK_BYTES // (4 * width))
    with files.atomic_write(Path(folder) / FEATURES) as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (dump.rows, width)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, dump.rows, step):
            rows = np.arange(start, min(start + step, dump.rows))
            file.write(dump.matrix(layers, rows).data)


def write_extracted(dumps: Mapping[str, Dump], path: Path) -> None:
    """Write model → {"layers": [(r, d) float32, …], "labels": (r,) int64} by torch.save.

    The layers are in the order of the dump, each row flat; a label is its place among the sorted
    class names. Tensors, lists and names only: it is read with weights_only.
    """
    import torch

    models: dict[str, dict[str, object]] = {}
    for model, dump in dumps.items():
        classes = sorted(set(dump.labels))
        codes = np.array([classes.index(label) for label in dump.row_labels().tolist()], np.int64)
        matrices = [np.array(dump.matrix([layer]), np.float32) for layer in dump.layers]
        models[model] = {
            "layers": [torch.from_numpy(matrix) for matrix in matrices],
            "labels": torch.from_numpy(codes),
        }
    with files.atomic_write(Path(path)) as file:
        torch.save(models, file)


def _row_names(dump: Dump) -> list[str]:
    if not dump.ids:
        raise UsageError("no-ids", "the images of this dump have no names", where=dump.folder)
    odd = [name for name in dump.ids if name != "".join(name.splitlines())]
    if odd or len(set(dump.ids)) != len(dump.ids):
        raise UsageError(
            "names",
            f"{len(odd)} names with a line break, {len(dump.ids) - len(set(dump.ids))} duplicates",
            where=dump.folder,
            expected="names that a list with one a line can hold",
        )
    if dump.crops == 1:
        return list(dump.ids)
    return [f"{name}_crop_{crop}" for name in dump.ids for crop in range(dump.crops)]


def read(folder: Path) -> FeatureFile:
    """Read features in this layout, of any program.

    Raises MissingError, UnsafeError or BadDataError with everything that is wrong.
    """
    array_path, names_path = Path(folder) / FEATURES, Path(folder) / NAMES
    raise_all(
        [MissingError(path.name, path) for path in (array_path, names_path) if not path.is_file()]
    )
    array, names = read_npy(array_path), _names(names_path)
    problems = []
    if array.ndim < 2 or array.dtype.kind not in "fiu":
        problems.append(
            BadDataError(
                "npy-shape",
                f"{array.dtype} {array.shape}",
                where=array_path,
                expected="numbers, a row an image",
            )
        )
    elif len(names) != len(array):
        problems.append(
            BadDataError(
                "count", f"{len(names)} names for {counted(len(array), 'row')}", where=names_path
            )
        )
    raise_all(problems)
    flat = np.asarray(array).reshape(len(array), -1)
    step = max(1, CHUNK_BYTES // (flat.shape[1] * flat.itemsize))
    for start in range(0, len(flat), step):
        if not np.isfinite(flat[start : start + step]).all():
            raise BadDataError(
                "features-not-finite",
                f"NaN or infinity in rows {start} to {start + step - 1}",
                where=array_path,
            )
    return FeatureFile(flat, names)


def _names(path: Path) -> tuple[str, ...]:
    size = path.stat().st_size
    if size > NAMES_LIMIT:
        raise BadDataError(
            "names-size", f"{size:,} bytes", where=path, expected=f"at most {NAMES_LIMIT:,}"
        )
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise BadDataError(
            "names-encoding", f"not UTF-8 at byte {error.start}", where=path
        ) from error
    lines = lines[:-1] if lines and not lines[-1] else lines
    empty = [number for number, line in enumerate(lines, 1) if not line.strip()]
    if empty:
        raise BadDataError("names-empty", f"line {empty[0]} is empty", where=path)
    return tuple(lines)
