"""Checks of a weight file against every promised SHA-256.

By a trial's identity, or by a record next to the file.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from ... import files
from ...errors import BadDataError, IntegrityError, ResourceError

CHECKPOINTS = (
    "-checkpoints"  # ends the name of the folder in which `tlx pretrain --out` puts checkpoints
)
DIGEST = re.compile(r"[0-9a-f]{64}")
RERUN = "the weights have changed since the study began: run the command again"
FETCH = "the file was changed or damaged after it was written: get it again, or make it again"


@contextlib.contextmanager
def permitted(path: Path, what: str = "weight file") -> Iterator[None]:
    """Raise ResourceError (exit 5) where the system does not let this user read `path`."""
    try:
        yield
    except PermissionError as error:
        raise ResourceError(
            "no-permission",
            f"this user may not read the {what}",
            where=error.filename or path,
            expected="a file that can be read",
            remedy=f"chmod u+r {path}",
        ) from error


def check(path: Path, sha256: str | None = None) -> str:
    """Return the SHA-256 (hex) of a weight file.

    Raises IntegrityError if `sha256` or a record next to the file promises another.
    """
    with permitted(path):
        digest = files.sha256(path)
    if sha256 is not None and digest != sha256.lower():
        raise IntegrityError(
            "weights-sha256",
            f"SHA-256 is {digest}",
            where=path,
            expected=sha256.lower(),
            remedy=RERUN,
        )
    for record, promised in _recorded(path):
        if digest != promised:
            raise IntegrityError(
                "weights-sha256",
                f"SHA-256 is {digest}",
                where=path,
                expected=f"{promised}, as {record.name} records",
                remedy=FETCH,
            )
    return digest


def _recorded(path: Path) -> Iterator[tuple[Path, str]]:
    """Iterate over (record, SHA-256) of every record that names this file.

    <stem>.json next to it, or that of its checkpoints.
    """
    beside = path.with_suffix(".json")
    content = _content(beside)
    if content.get("file") == path.name and _is_digest(content.get("sha256")):
        yield beside, str(content["sha256"])
    folder = path.absolute().parent
    if folder.name.endswith(CHECKPOINTS):
        above = folder.with_name(folder.name.removesuffix(CHECKPOINTS) + ".json")
        checkpoints = _content(above).get("checkpoints")
        promised = checkpoints.get(path.stem) if isinstance(checkpoints, dict) else None
        if _is_digest(promised):
            yield above, str(promised)


def _content(record: Path) -> dict[str, object]:
    """Return the content of a record; {} for what is no record of ours."""
    try:
        with permitted(record, "record of the weights"):
            content = files.read_json(record) if record.is_file() else {}
    except (BadDataError, FileNotFoundError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and DIGEST.fullmatch(value) is not None
