"""Check of a whole HDF5 file before any number of it is read.

A file may name other files to take its numbers from (external storage, links, virtual data sets),
ask for a plug-in to unpack them, or unpack to far more than it holds: all of these are refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import h5py

from ..errors import BadDataError, UnsafeError, raise_all

MOST_OBJECTS = 100_000
DEPTH = 64  # groups within groups
INFLATION = 100  # logical bytes a stored byte; numbers that were measured hardly compress
FILTERS = {  # of HDF5 itself
    h5py.h5z.FILTER_DEFLATE: "gzip",
    h5py.h5z.FILTER_SHUFFLE: "shuffle",
    h5py.h5z.FILTER_FLETCHER32: "fletcher32",
}

Refusal = UnsafeError | BadDataError


def checked_datasets(file: h5py.File, path: Path, code: str) -> list[str]:
    """Return the names of all data sets, sorted, after a check of every object of the file.

    code    beginning of the errors' codes
    raises  UnsafeError: what is not plainly in this file; BadDataError: out of proportion to the
            file. Everything that is wrong is raised at once
    """
    problems: list[Refusal] = []
    pending: list[tuple[str, h5py.Group]] = [("", file)]
    seen, names = 0, []
    while pending:
        name, group = pending.pop()
        for key in group:
            seen += 1
            child = f"{name}/{key}".lstrip("/")
            if seen > MOST_OBJECTS or child.count("/") > DEPTH:
                what = "too many objects, or groups in a circle"
                raise UnsafeError(f"{code}-objects", what, where=path)
            link = group.get(key, getlink=True)
            if not isinstance(link, h5py.HardLink):
                target = f"{getattr(link, 'filename', '')}:{getattr(link, 'path', '')}".lstrip(":")
                what = f"'{child}' is a {type(link).__name__} to '{target}'"
                problems.append(UnsafeError(f"{code}-link", what, where=path))
                continue
            item = group[key]
            if isinstance(item, h5py.Group):
                pending.append((child, item))
            elif isinstance(item, h5py.Dataset):
                problems += _refusals(child, item, path, code)
                names.append(child)
            else:
                what = f"'{child}' is a {type(item).__name__}"
                problems.append(UnsafeError(f"{code}-objects", what, where=path))
    raise_all(list(problems))
    return sorted(names)


def _refusals(name: str, item: h5py.Dataset, path: Path, code: str) -> Iterator[Refusal]:
    if external := item.external:
        what = f"'{name}' takes its numbers from '{external[0][0]}'"
        yield UnsafeError(f"{code}-external", what, where=path)
    if item.is_virtual:
        what = f"'{name}' takes its numbers from other data sets"
        yield UnsafeError(f"{code}-virtual", what, where=path)
    recipe = item.id.get_create_plist()
    for number in range(recipe.get_nfilters()):
        if (unpacker := recipe.get_filter(number)[0]) not in FILTERS:
            yield UnsafeError(
                f"{code}-filter",
                f"'{name}' needs filter {unpacker}",
                where=path,
                expected=", ".join(FILTERS.values()),
            )
    size = path.stat().st_size
    if math.prod(item.shape or (0,)) * item.dtype.itemsize > INFLATION * max(size, 1):
        what = f"'{name}' of shape {item.shape} in a file of {size:,} bytes"
        yield BadDataError(f"{code}-inflated", what, where=path)
