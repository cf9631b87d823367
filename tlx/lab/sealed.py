"""Sealed folders of a store: their names, their records, and the checks of both."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .. import __version__, files, locks
from ..errors import BadDataError, IntegrityError, TlxError, UnsafeError
from ..result import Result

FORMAT = 2  # of result.json, study.json and the journal, and of keys; another one is refused
FORMAT_AT_START = re.compile(rb'\s*\{\s*"format"\s*:\s*(\d+)\s*[,}]')
RESULT, STUDY, PART = "result.json", "study.json", ".part"
ATTEMPTS = "attempts"
# a key becomes a folder's name: nothing that means something in a path
KEY = re.compile(r"[0-9a-z][0-9a-z-]{0,79}")


def checked_key(key: str) -> str:
    """Return a key that may name a folder.

    Raises UnsafeError for another text.
    """
    if not KEY.fullmatch(key):
        raise UnsafeError(
            "key",
            f"not a key: {key!r}",
            expected="letters, digits and -: a key becomes the name of a folder",
        )
    return key


def part_of(folder: Path, attempt: str = "") -> Path:
    """Return the folder of a trial in progress, by the holder of its lock or by an attempt."""
    if attempt:
        return attempts_of(folder) / attempt
    return folder.with_name(folder.name + PART)


def attempts_of(folder: Path) -> Path:
    """Return the folder of the attempts at a trial.

    Apart from the trials: to look for attempts must not cost a listing of all trials.
    """
    return folder.parent.parent / ATTEMPTS / folder.name


def publish(part: Path, final: Path) -> bool:
    """Rename a sealed folder to its final name, durably; return False if that name is taken.

    Also where another has given it that name already.
    """
    files.make_folder(final.parent)
    with files.storage_errors(final):
        try:
            os.rename(part, final)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                return False
            if error.errno == errno.ENOENT and final.is_dir():
                return False
            raise
        files.sync_folder(final.parent)
        # the name of `trials` may date from a process killed before it could sync
        files.sync_folder(final.parent.parent)
    return True


def sync_below(folder: Path) -> None:
    """Make every file and name in `folder` durable, whichever process wrote them."""
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            files.sync_folder(path)
        elif path.is_file():
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def is_working_file(name: str) -> bool:
    """Return whether a file of a study's folder changes at any time and checks itself."""
    own = Path(name).name
    return (
        name == STUDY
        or own.startswith(files.TEMPORARY)
        or locks.READER in own
        or own.endswith((".journal", ".lock", ".turn", ".damaged", locks.OWNER))
    )


def listed_files(folder: Path, own: set[str]) -> dict[str, Path]:
    """Return the files of a sealed folder, each checked.

    Nothing else may be there but `own` and working files.
    """
    with remedied(folder):
        rows = files.manifest(folder)
        present = files.regular_files(folder)
        for name in present.keys() - rows.keys() - own:
            if not is_working_file(name):
                raise UnsafeError(
                    "unlisted",
                    f"'{name}' is not listed in its {files.MANIFEST}",
                    where=folder,
                    expected="only what tlx wrote there",
                    remedy="remove it, or run the same command again",
                )
        for name, row in rows.items():
            files.check(folder / name, row)
    return {name: folder / name for name in rows}


def check_size(path: Path, row: Mapping[str, object]) -> None:
    """Check a file of a sealed folder by its size.

    Raises IntegrityError, or what its check raises.
    """
    if not path.is_file() or path.stat().st_size != row["bytes"]:
        files.check(path, row)  # its error names the damage


def read_result(folder: Path, rows: Mapping[str, object], key: str) -> Result:
    """Read the result of a sealed folder.

    Raises IntegrityError if it is another trial's, BadDataError if it cannot be read.
    """
    if RESULT not in rows:
        raise IntegrityError(
            "file-unlisted", f"the manifest does not list '{RESULT}'", where=folder
        )
    record = files.read_json(folder / RESULT, limit=1 << 30)
    check_format(record, folder)
    try:
        result = Result.from_json(record["result"])
    except (TypeError, KeyError) as error:
        raise BadDataError(
            "result-fields",
            f"cannot read the result ({error})",
            where=folder / RESULT,
            expected=f"the fields that tlx {__version__} writes",
            remedy=f"read it with tlx {record.get('tlx', 'unknown')}, which wrote it",
        ) from error
    if result.key != key:
        raise IntegrityError(
            "wrong-key", f"the folder holds the result of {result.key}", where=folder
        )
    return result


def format_at_start(path: Path) -> int | None:
    """Return the format of a record by its first bytes; None where they do not say.

    Keys are sorted when a record is written, so its format comes first.
    """
    with open(path, "rb") as file:
        match = FORMAT_AT_START.match(file.read(100))
    return int(match[1]) if match else None


def is_record(path: Path) -> bool:
    """Return whether a file says its format; damage is reported when the file itself is used."""
    try:
        if format_at_start(path) is not None:
            return True
        record = files.read_json(path, limit=1 << 30)
    except (OSError, TlxError):
        return False
    return isinstance(record, dict) and isinstance(record.get("format"), int)


def check_format(record: Mapping[str, Any], where: Path) -> None:
    """Raise BadDataError for a record of another format."""
    if record["format"] != FORMAT:
        code = "newer-format" if record["format"] > FORMAT else "older-format"
        raise BadDataError(
            code,
            f"made by tlx {record.get('tlx', 'unknown')} in format {record['format']}",
            where=where,
            expected=f"format {FORMAT}, which tlx {__version__} reads and writes",
            remedy="use that version of tlx, or another --store",
        )


@contextlib.contextmanager
def remedied(path: Path) -> Iterator[None]:
    """Add to errors inside the block what to do about damage."""
    try:
        yield
    except IntegrityError as error:
        error.remedy = (
            error.remedy or f"remove {path} and run the same command again; it is made anew"
        )
        raise
