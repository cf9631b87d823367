"""Reader and writer of RDMs in the HDF5 files of rsatoolbox, without that package.

Content of such a file (rsatoolbox 0.0.x to 0.3.x):

    dissimilarities         (m, n(n − 1)/2) numbers, a row for each RDM
    dissimilarity_measure   a text attribute, or an empty data set for none
    descriptors/            of the whole: texts are attributes, all else data sets
    rdm_descriptors/        one value an RDM, `index` among them
    pattern_descriptors/    one value a stimulus, `index` among them

Lists of texts are data sets of fixed-width bytes, mixed lists are groups of data sets named 0, 1,
2, …
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .. import __version__, files
from ..data.hdf5 import checked_datasets
from ..errors import BadDataError, MissingError, UsageError
from . import arrays

GROUPS = ("descriptors", "rdm_descriptors", "pattern_descriptors")


@dataclass(frozen=True)
class Rdms:
    """RDMs of the same stimuli.

    dissimilarities      (m, n(n − 1)/2) float32 or float64; NaN where a file has none for a pair
    measure              what they are, as "correlation"; None where it is not known
    descriptors          name → text or number, of all
    rdm_descriptors      name → m values
    pattern_descriptors  name → n values: the labels of the stimuli, for one
    """

    dissimilarities: np.ndarray
    measure: str | None = None
    descriptors: Mapping[str, Any] = field(default_factory=dict)
    rdm_descriptors: Mapping[str, Any] = field(default_factory=dict)
    pattern_descriptors: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise BadDataError for another shape, or a wrong number of descriptor values."""
        rdms = self.dissimilarities
        if rdms.ndim != 2 or not len(rdms) or rdms.dtype.kind not in "fiu":
            raise BadDataError(
                "rdm-shape",
                f"an array of shape {rdms.shape} and type {rdms.dtype}",
                where="dissimilarities",
                expected="(RDMs, n(n − 1)/2) numbers",
            )
        for what, count, names in (
            ("RDMs", len(rdms), self.rdm_descriptors),
            ("stimuli", self.stimuli, self.pattern_descriptors),
        ):
            for name, values in names.items():
                if isinstance(values, str) or np.ndim(values) < 1 or len(values) != count:
                    raise BadDataError(
                        "descriptor-length",
                        f"'{name}' has not one value for each of {count} {what}",
                        where="descriptors",
                    )

    @property
    def stimuli(self) -> int:
        """Return the number of stimuli n."""
        return arrays.stimuli(self.dissimilarities.shape[1], where="dissimilarities")


def write_rdms(path: Path | str, rdms: Rdms) -> None:
    """Write RDMs to `path`, all or nothing.

    For rsatoolbox.rdm.load_rdm(path, "hdf5") and `read_rdms`.

    Raises UsageError for a descriptor that no HDF5 file can hold.
    """
    with files.atomic_write(Path(path)) as out, h5py.File(out, "w") as file:
        file.attrs["written_by"] = f"tlx {__version__}"
        file["dissimilarities"] = rdms.dissimilarities
        _put(
            file, "dissimilarity_measure", h5py.Empty("f") if rdms.measure is None else rdms.measure
        )
        index = {"rdm_descriptors": len(rdms.dissimilarities), "pattern_descriptors": rdms.stimuli}
        for name in GROUPS:
            group = file.create_group(name)
            given = dict(getattr(rdms, name))
            if name in index:
                given.setdefault("index", np.arange(index[name]))
            for key, value in given.items():
                _put(group, key, value)


def _put(group: h5py.Group, key: str, value: object) -> None:
    if not key or "/" in key or key == ".":
        raise UsageError(
            "descriptor-name", f"'{key}'", where=group.name, expected="a name without a slash"
        )
    if isinstance(value, str):
        group.attrs[key] = str(value)
        return
    if isinstance(value, h5py.Empty):
        group[key] = value
        return
    values = np.asarray(value)
    if values.dtype.kind == "O" and all(isinstance(item, str) for item in values.flat):
        values = values.astype(np.str_)
    if values.dtype.kind == "U":
        try:
            group[key] = values.astype(
                np.bytes_
            )  # the way rsatoolbox does it, which is ASCII alone
        except UnicodeEncodeError:
            group.create_dataset(key, data=values.astype(object), dtype=h5py.string_dtype())
    elif values.dtype.kind in "fiubS":
        group[key] = values
    else:
        raise UsageError(
            "descriptor-kind",
            f"'{key}' is of type {values.dtype}",
            where=group.name,
            expected="texts or numbers",
        )


# ---------------------------------------------------------------- reading


def read_rdms(path: Path | str) -> Rdms:
    """Read the RDMs of a file of rsatoolbox or of `write_rdms`.

    raises  MissingError; BadDataError: damaged, out of proportion; UnsafeError: it reaches out of
            itself or needs a plug-in. All of it is checked before anything is read
    """
    path = Path(path)
    if not path.is_file():
        raise MissingError("file of RDMs", path)
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            _check_kinds(file, checked_datasets(file, path, "rdm-file"), path)
            return _rdms(file, path)
    except (OSError, RuntimeError, KeyError, UnicodeDecodeError) as error:
        raise BadDataError(
            "rdm-file-damaged",
            f"{type(error).__name__}: {' '.join(str(error).split())[:160]}",
            where=path,
            expected="an HDF5 file of rsatoolbox",
        ) from error


def _check_kinds(file: h5py.File, names: list[str], path: Path) -> None:
    """Raise BadDataError for what is neither a number nor a text."""
    for name in names:
        item = file[name]
        if item.dtype.kind not in "fiubS" and h5py.check_string_dtype(item.dtype) is None:
            raise BadDataError(
                "rdm-file-kind",
                f"'{item.name}' is of type {item.dtype}",
                where=path,
                expected="numbers or texts",
            )


def _rdms(file: h5py.File, path: Path) -> Rdms:
    rdms = file.get("dissimilarities")
    if not isinstance(rdms, h5py.Dataset) or not rdms.shape or rdms.dtype.kind not in "fiu":
        raise BadDataError(
            "rdm-file-kind",
            "no numbers in 'dissimilarities'",
            where=path,
            expected="an HDF5 file of rsatoolbox",
        )
    measure = file.attrs.get("dissimilarity_measure")
    parts = []
    for name in GROUPS:
        group = file.get(name)
        parts.append(_descriptors(group) if isinstance(group, h5py.Group) else {})
    return Rdms(
        arrays.floating(np.asarray(rdms[()])), None if measure is None else str(measure), *parts
    )


def _descriptors(group: h5py.Group) -> dict[str, object]:
    out: dict[str, Any] = {}
    for key, item in group.items():
        if isinstance(item, h5py.Group):  # a mixed list
            out[key] = [_value(item[str(i)]) for i in range(len(item))]
        else:
            out[key] = _value(item)
    for key, value in group.attrs.items():
        out[key] = value
    return out


def _value(item: h5py.Dataset) -> Any:
    """Return a number, a text, an array of either, or None for an empty data set."""
    if item.shape is None:
        return None
    value = item.asstr("utf-8")[()] if h5py.check_string_dtype(item.dtype) is not None else item[()]
    if isinstance(value, np.ndarray) and value.dtype.kind == "O":
        value = value.astype(np.str_)
    return value.item() if isinstance(value, np.generic) else value
