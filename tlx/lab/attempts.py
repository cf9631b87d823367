"""Attempts at trials: drafts that one process alone writes, made without a lock.

On a cluster, a trial that seems lost is begun again elsewhere while the first process may still
run, and no lock of a shared file system tells for certain: it may lock nothing, or be held for ever
by a machine that is frozen. So each attempt has a name that is unique for ever and a draft of that
name. It begins as a copy of the draft that got furthest; the first that is renamed to the key wins.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from .. import files
from ..errors import TlxError
from . import environment, sealed

VARIABLE = "TLX_ATTEMPT"
BLOCK = 1 << 20  # bytes


def enter(name: str) -> None:
    """Name the attempt that this process and its children make."""
    os.environ[VARIABLE] = name


def current() -> str:
    """Return the name of this process's attempt; "" where locks tell processes apart."""
    return os.environ.get(VARIABLE, "")


def parts(folder: Path) -> list[Path]:
    """List the drafts of a trial whose complete folder is `folder`, whoever made them."""
    own = [sealed.part_of(folder)]
    with contextlib.suppress(FileNotFoundError):
        named = sealed.attempts_of(folder).iterdir()
        own += sorted(path for path in named if not path.name.startswith(files.TEMPORARY))
    return [path for path in own if path.is_dir()]


def begin(folder: Path, attempt: str, journal: str) -> Path:
    """Return the draft of an attempt; a new one is a copy of the one that got furthest.

    journal  name of the file in it whose records tell how far a draft got

    Never a rename or a link: the process that writes the other draft may still live. What vanishes
    while it is copied is another's success, and is skipped.
    """
    own = sealed.part_of(folder, attempt)
    best, length = None, _length(own / journal)
    for part in parts(folder):
        if part != own and _length(part / journal) > length:
            best, length = part, _length(part / journal)
    if best is not None:
        try:
            with files.storage_errors(own):
                _copy(best, own, journal)
        except (OSError, TlxError):
            if best.is_dir():  # not another's success, but a full disk, or a link
                raise
    return files.make_folder(own)


def _length(path: Path) -> int:
    """Return the number of records of a journal that this machine may continue; 0 if of none."""
    try:
        records = files.Journal.read(path)
    except (OSError, TlxError):  # damaged, or gone meanwhile
        return 0
    if records and records[0].get("cpu", "") not in ("", environment.cpu_kind()):
        return 0  # another kind of CPU gives other bits
    return len(records)


def _copy(source: Path, target: Path, journal: str) -> None:
    """Copy a draft that another process may be writing, durably, under a name of one's own.

    The journal comes last: it has then at least the steps of every state that was copied before.
    """
    temporary = target.with_name(f"{files.TEMPORARY}{target.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    files.make_folder(temporary)
    try:
        present = files.regular_files(source)  # a link is refused
        last = [journal] if journal in present else []
        left_out = {journal, files.MANIFEST}
        for name in [*(n for n in present if n not in left_out), *last]:
            if not any(part.startswith(files.TEMPORARY) for part in Path(name).parts):
                _copy_file(present[name], temporary / name)
        sealed.sync_below(temporary)
        if target.is_dir():
            remove(target)
        os.rename(temporary, target)
        files.sync_folder(target.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _copy_file(source: Path, target: Path) -> None:
    """Copy the bytes of a file, in blocks; its folder is made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(source, "rb") as read, open(target, "xb") as written:
        shutil.copyfileobj(read, written, BLOCK)


def remove(path: Path) -> None:
    """Remove a folder under another name first: never half of it under its own."""
    doomed = path.with_name(f"{files.TEMPORARY}{path.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):  # another has removed it
        os.rename(path, doomed)
        files.sync_folder(path.parent)
        shutil.rmtree(doomed, ignore_errors=True)


def remove_parts(folder: Path) -> None:
    """Remove every draft of a trial that is complete; who still writes one fails alone."""
    for part in parts(folder):
        with contextlib.suppress(OSError):
            remove(part)
    named = sealed.attempts_of(folder)
    if named.is_dir():
        shutil.rmtree(named, ignore_errors=True)  # what was being copied or removed


def finished(root: Path) -> list[Path]:
    """List the complete folders of a store beside which attempts were left."""
    keys = sorted(path.name for path in (root / sealed.ATTEMPTS).glob("*"))
    folders = [root / "trials" / key for key in keys]
    return [folder for folder in folders if folder.is_dir()]
