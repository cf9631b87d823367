"""Names and labels of the images of a dump: JSON, or files of their own where they are many."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

import numpy as np

from .. import files
from ..data.sources import read_npy
from ..errors import BadDataError, UsageError

MANY = 100_000  # images; of more, names and labels are columns beside the JSON
COLUMNS = ("ids", "labels")
END = "\0"  # between two names; no file name has it
JSON_LIMIT = 1 << 30  # bytes


class ImageNames(TypedDict):
    """Description of the images: their ids and labels in order, [] where unknown, and words."""

    ids: list[str]
    labels: list[str]
    about: dict[str, str]


def write(path: Path, images: ImageNames) -> list[str]:
    """Write a description to `path`, its columns beside it; return the names of all the files.

    Raises UsageError for a name that a column cannot hold.
    """
    if max(len(images["ids"]), len(images["labels"])) <= MANY:
        files.write_json(path, images)
        return [path.name]
    columns = {}
    for column in COLUMNS:
        texts = images["ids"] if column == "ids" else images["labels"]
        if not texts:
            continue
        joined = END.join(texts)
        if joined.count(END) != len(texts) - 1:
            raise UsageError("names", f"{column} with a zero character", expected="file names")
        columns[column] = f"{path.stem}.{column}.npy"
        # a zero at its end: a column of one empty name has a byte
        data = np.frombuffer((joined + END).encode("utf-8", "surrogateescape"), np.uint8)
        with files.atomic_write(path.with_name(columns[column])) as file:
            np.lib.format.write_array(file, data, version=(1, 0), allow_pickle=False)
    files.write_json(path, {"about": images["about"], "columns": columns})
    return [path.name, *columns.values()]


class StoredNames(ImageNames):
    """Description as its JSON has it: with column → file of what is not in the JSON."""

    columns: dict[str, str]


def read_json(path: Path) -> StoredNames:
    """Return the JSON of a description; what columns have is [] there."""
    content = files.read_json(path, limit=JSON_LIMIT)
    return {
        "ids": list(content.get("ids", [])),
        "labels": list(content.get("labels", [])),
        "about": dict(content.get("about") or {}),
        "columns": dict(content.get("columns", {})),
    }


def file_names(path: Path) -> list[str]:
    """Return the names of the files of a description."""
    return [path.name, *read_json(path)["columns"].values()]


def read(path: Path) -> ImageNames:
    """Return a description, its columns read.

    Raises BadDataError for a column that is not one.
    """
    content = read_json(path)
    ids, labels = (
        _texts(path.with_name(content["columns"][column]))
        if column in content["columns"]
        else content[column]  # type: ignore[literal-required]
        for column in COLUMNS
    )
    return {"ids": ids, "labels": labels, "about": content["about"]}


def _texts(path: Path) -> list[str]:
    data = read_npy(path)
    if data.dtype != np.uint8 or data.ndim != 1 or data[-1] != 0:
        raise BadDataError("names", f"{data.dtype} {data.shape}", where=path, expected="a column")
    return data.tobytes().decode("utf-8", "surrogateescape").split(END)[:-1]
