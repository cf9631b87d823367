"""Checks of what a command writes, before it computes anything."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path

from ..errors import BadDataError, TlxError, raise_all, refusal
from ..spec import Spec
from .settings import expanded

FILE, FOLDER = "file", "folder"  # what a setting that names an output says of it


def check(specs: Iterable[Spec]) -> None:
    """Raise every error of the outputs that settings name: files and folders that cannot be made.

    Nothing is created. An output that is not given is not checked.
    """
    problems: list[TlxError] = []
    for spec in specs:
        for name, row in spec.settings().items():
            value = getattr(spec, name)
            if row.writes and value:
                option = f"--{name.replace('_', '-')}"
                problem = problem_of(row.writes, expanded(str(value)), option)
                problems += [problem] if problem is not None else []
    raise_all(problems)


def check_one(kind: str, path: Path | str | None, option: str) -> None:
    """Raise an error if an output cannot be written; None is not checked.

    kind    FILE or FOLDER
    option  that names the output, for the message
    """
    if path is None:
        return
    problem = problem_of(kind, expanded(str(path)), option)
    if problem is not None:
        raise problem


def problem_of(kind: str, path: Path, option: str) -> TlxError | None:
    """Return why a file or folder cannot be written to, with the option that names it; else None.

    Folders that do not exist yet are to be made, so the nearest one that exists decides. A
    temporary file in it tells, which permissions alone do not: of a file system that is read-only
    or takes no files.
    """
    path = path.absolute()
    try:
        if kind == FILE and (error := _not_a_file(path, option)) is not None:
            return error
        with tempfile.TemporaryFile(dir=_nearest(path.parent if kind == FILE else path)):
            return None
    except OSError as error:
        refused = refusal(error)
        if refused is None:
            raise
        refused.where = f"{option} {path}"
        refused.remedy = f"choose another place with {option}"
        return refused


def _not_a_file(path: Path, option: str) -> TlxError | None:
    """Return the error that there is something else where a file is to be written."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISREG(mode):
        return None
    what = "a folder" if stat.S_ISDIR(mode) else "a device, pipe or socket"
    return BadDataError(
        "not-a-file",
        f"{what} is where a file is written",
        where=f"{option} {path}",
        expected="the name of a file, which is replaced if it exists",
    )


def _nearest(folder: Path) -> Path:
    """Return the nearest folder that exists. Raises OSError if none can be made below it."""
    while True:
        try:
            mode = folder.stat().st_mode
        except FileNotFoundError:
            if folder.is_symlink():  # that leads nowhere
                raise FileExistsError(
                    errno.EEXIST, os.strerror(errno.EEXIST), str(folder)
                ) from None
            folder = folder.parent
            continue
        if not stat.S_ISDIR(mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
        return folder
