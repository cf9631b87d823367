"""Store of results: key → folder, `<key>.part` until complete, then sealed and renamed.

A sealed folder never changes.

    <root>/trials/<key>/           result.json, metrics.journal, …, MANIFEST.json: whole,
                                   checksummed
    <root>/trials/<key>.part/      in progress, by the holder of the lock; the next one
                                   continues it
    <root>/locks/<key>             the kernel's lock, freed when its holder dies
    <root>/studies/<key>/           study.json, with its own checksum; tables, figures and
                                    summary.json, whole and
                                    checksummed once MANIFEST.json is there: from the end of a run
                                    to the next one

A killed process or a power cut leaves either the whole folder or a `.part` to continue, never
something between.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .. import __version__, files, locks
from ..errors import BadDataError, BusyError, IntegrityError, TlxError, UnsafeError
from ..result import Result
from .records import StoredStudy

FORMAT = 2  # of result.json, study.json and the journal, and of keys; another one is refused
FORMAT_AT_START = re.compile(rb'\s*\{\s*"format"\s*:\s*(\d+)\s*[,}]')
RESULT, JOURNAL, STUDY, PART = "result.json", "metrics.journal", "study.json", ".part"
# a key becomes a folder's name: nothing that means something in a path
KEY = re.compile(r"[0-9a-z][0-9a-z-]{0,79}")
LARGE = 4 << 20  # bytes; `find` checks larger files by size only, `file` in full
PATIENCE_S = 1.0  # a killed holder's children may outlive it by a moment


class Store:
    """Run folders under `root`: the record of what has been done."""

    def __init__(self, root: Path | str):
        self.root = files.guard(Path(root))

    # ------------------------------------------------------------ trials

    def folder(self, key: str) -> Path:
        """Return the complete folder of `key`, existing or not."""
        return self.root / "trials" / _checked(key)

    def keys(self) -> list[str]:
        """Return the keys that have a complete folder, sorted."""
        return sorted(
            p.name for p in self.root.glob("trials/*") if KEY.fullmatch(p.name) and p.is_dir()
        )

    def find(self, key: str) -> Result | None:
        """Return the result of `key`, checked against its manifest; None if there is none.

        Raises Integrity if it is damaged.

        Files above 4 MiB that are not read here are checked by size, and in full by `file`, through
        which everything else is read: asking stays cheap, and nothing is used unchecked.
        """
        folder = self.folder(key)
        if not folder.is_dir():
            return None
        with _remedied(folder):
            rows = files.manifest(folder)
            for name, row in rows.items():
                if row["bytes"] > LARGE and name != RESULT:
                    _check_size(folder / name, row)
                else:
                    files.check(folder / name, row)
            return _read_result(folder, rows, key)

    def find_or_none(self, key: str) -> Result | None:
        """Return the result of `key`, or None if it is missing or damaged.

        For a summary of many; `find` raises on damage.
        """
        try:
            return self.find(key)
        except TlxError:
            return None

    def file(self, key: str, name: str) -> Path:
        """Return the path of one file in a complete folder, every byte of it checked."""
        folder = self.folder(key)
        with _remedied(folder):
            row = files.manifest(folder).get(name)
            if row is None:
                raise IntegrityError(
                    "file-unlisted", f"the manifest does not list '{name}'", where=folder
                )
            files.check(folder / name, row)
        return folder / name

    def verify(self, key: str) -> None:
        """Raise Integrity unless every byte of the complete folder of `key` is as sealed."""
        with _remedied(self.folder(key)):
            files.verify(self.folder(key))

    @contextlib.contextmanager
    def claim(self, key: str) -> Iterator[Draft]:
        """Hold the right to make `key` inside the block.

        Raises Busy, naming the process, if another has it.

        What an interrupted holder had sealed but not yet renamed is made whole here: ask `find`
        again inside.
        """
        with self._locked(key) as lock:
            self._complete(key)
            draft = Draft(self, key, lock)
            try:
                yield draft
            finally:
                draft.close()

    def get_or_compute(self, key: str, make: Callable[[Draft], Result]) -> Result:
        """Return the result of `key`, found, or computed now and committed.

        A finished key returns at once.
        """
        result = self.find(key)
        if result is not None:
            return result
        with self.claim(key) as draft:
            result = self.find(key)
            return result if result is not None else draft.commit(make(draft))

    def remove(self, key: str) -> None:
        """Remove `key`: its complete folder and any part of it."""
        folder = self.folder(key)
        with self._locked(key):
            for path in (folder, _part(folder)):
                if path.is_dir():
                    # renamed first: never half a whole folder
                    doomed = path.with_name(files.TEMPORARY + path.name)
                    shutil.rmtree(doomed, ignore_errors=True)
                    os.rename(path, doomed)
                    files.sync_folder(path.parent)
                    shutil.rmtree(doomed)

    @contextlib.contextmanager
    def _locked(self, key: str) -> Iterator[locks.Lock]:
        path, end = self.root / "locks" / _checked(key), time.monotonic() + PATIENCE_S
        with contextlib.ExitStack() as held:
            while True:
                try:
                    lock = held.enter_context(locks.lock(path))
                    break
                except BusyError:
                    if time.monotonic() > end:
                        raise
                    time.sleep(0.02)
            yield lock

    def _complete(self, key: str) -> None:
        """Finish a commit that was interrupted between sealing and renaming."""
        folder = self.folder(key)
        part = _part(folder)
        if folder.exists() or not (part / files.MANIFEST).exists():
            return
        try:
            files.verify(part)
            _read_result(part, files.manifest(part), key)
        except TlxError:
            (part / files.MANIFEST).unlink()  # it is being made again
        else:
            _publish(part, folder)

    # ------------------------------------------------------------ studies

    def write_study(self, key: str, study: StoredStudy) -> None:
        """Write the record of a study durably: plain JSON."""
        record = {"format": FORMAT, "tlx": __version__, "study": dict(study)}
        files.make_folder(self.study_folder(key))
        self.unseal_study(key)
        files.write_json(self._study(key), record | {"sha256": files.digest(record)})

    def read_study(self, key: str) -> StoredStudy | None:
        """Read the record of a study; None if there is none.

        Raises Integrity if it is damaged.
        """
        path = self._study(key)
        if not path.exists():
            return None
        with _remedied(path):
            try:
                record = files.read_json(path, limit=1 << 30)
                seal = record.pop("sha256")
            except (BadDataError, AttributeError, KeyError, TypeError) as error:
                raise IntegrityError(
                    "study-unreadable", f"cannot read the study ({error})", where=path
                ) from error
            if seal != files.digest(record):
                raise IntegrityError(
                    "study-damaged", "the study does not match its own checksum", where=path
                )
        _check_format(record, path)
        result: StoredStudy | None = record["study"]
        return result

    def check_format(self) -> None:
        """Raise BadDataError if the store was written in another format.

        Keys mean something else in each format: without this check an old store would be filled
        with new results next to its own. One study and one trial are looked at, as a store is
        refused before anything of another format is written into it; each file is checked again
        when it is read. The cost does not depend on the size of the store.
        """
        for path in (self._any_file("studies", STUDY), self._any_file("trials", RESULT)):
            if path is not None and _format_at_start(path) != FORMAT:
                _check_format(files.read_json(path, limit=1 << 30), self.root)

    def _any_file(self, folder: str, name: str) -> Path | None:
        """Return some readable `name` one folder below `folder`, without listing all of them."""
        try:
            entries = os.scandir(self.root / folder)
        except OSError:
            return None
        with entries:
            paths = (Path(entry.path) / name for entry in entries)
            return next((path for path in paths if _is_record(path)), None)

    def studies(self) -> list[str]:
        """Return the keys of the studies on record, sorted."""
        return sorted(
            p.parent.name
            for p in self.root.glob(f"studies/*/{STUDY}")
            if KEY.fullmatch(p.parent.name)
        )

    def study_folder(self, key: str) -> Path:
        """Return the folder of the tables and figures of a study, existing or not."""
        return self._study(key).parent

    def unseal_study(self, key: str) -> None:
        """Mark the tables and figures of a study as in progress.

        They are not used until the study is sealed again.
        """
        manifest = self.study_folder(key) / files.MANIFEST
        if manifest.exists():
            with files.storage_errors(manifest):
                manifest.unlink()
                files.sync_folder(manifest.parent)

    def seal_study(self, key: str) -> None:
        """Write the manifest of a study's summary."""
        folder = self.study_folder(key)
        with files.storage_errors(folder):
            files.remove_temporary(folder)
            _sync_below(folder)
        files.seal(folder, skip=_is_working_file)

    def study_files(self, key: str) -> dict[str, Path]:
        """Return the files of a study's summary by relative name, every byte checked.

        {} while it has none.

        Integrity for a damaged one; Unsafe if the folder holds links, or files that its manifest
        does not list.
        """
        folder = self.study_folder(key)
        if not (folder / files.MANIFEST).exists():
            return {}
        return _listed(folder, {STUDY, files.MANIFEST})

    def trial_files(self, key: str) -> dict[str, Path]:
        """Return the files of a complete trial by relative name, every byte checked.

        Errors as for `study_files`.
        """
        return _listed(self.folder(key), {files.MANIFEST})

    def _study(self, key: str) -> Path:
        return self.root / "studies" / _checked(key) / STUDY


class Draft:
    """Folder of a trial in progress.

    Files in it are the trial's own; `commit` completes it.
    """

    def __init__(self, store: Store, key: str, lock: locks.Lock):
        self.store, self.key, self.lock = store, key, lock
        self._journal: files.Journal | None = None

    @functools.cached_property
    def folder(self) -> Path:
        """Return `<key>.part`, created on first use.

        What an interrupted write left in it is removed.
        """
        part = files.make_folder(_part(self.store.folder(self.key)))
        for folder in (part, *(p for p in part.rglob("*") if p.is_dir())):
            if not folder.name.startswith(files.TEMPORARY):
                files.remove_temporary(folder)
        return part

    @property
    def journal(self) -> files.Journal:
        """Return metrics.journal, opened on first use.

        It continues where an interrupted trial left it.
        """
        if self._journal is None:
            self._journal = files.Journal(self.folder / JOURNAL)
            if not self._journal.records:
                self._journal.append(
                    {"t": "start", "ts": _now_ms(), "format": FORMAT, "tlx": __version__}
                )
            _check_format(self._journal.records[0], self.folder)
        return self._journal

    @property
    def steps(self) -> set[int]:
        """Return the journalled steps."""
        return {row["step"] for row in self.journal.records if row["t"] == "metrics"}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Journal the values of a step, durably; an existing step is left unchanged.

        Times (milliseconds since 1970) strictly increase, also when the clock does not. JSON has no
        NaN: what is not finite is listed by name under "not_finite".
        """
        if step in self.steps:
            return
        numbers = {name: float(value) for name, value in values.items()}
        strange = {name: str(value) for name, value in numbers.items() if not math.isfinite(value)}
        record = {
            "t": "metrics",
            "step": int(step),
            "ts": max(_now_ms(), self.journal.records[-1].get("ts", 0) + 1),
            "values": {name: value for name, value in numbers.items() if name not in strange},
        }
        self.journal.append(record | ({"not_finite": strange} if strange else {}))

    def commit(self, result: Result) -> Result:
        """Complete the folder with this result.

        When it returns, a power cut cannot undo it.

        If a whole folder of the key has appeared meanwhile, an equal result gives way to it; a
        different one is kept next to it and raises Integrity.
        """
        if result.key != self.key:
            raise ValueError(f"the result of {result.key} cannot be committed as {self.key}")
        self.journal.close()  # opened first if need be: a trial without a step has a journal too
        self._journal = None
        files.write_json(
            self.folder / RESULT, {"format": FORMAT, "tlx": __version__, "result": result.to_json()}
        )
        with files.storage_errors(self.folder):
            _sync_below(self.folder)
        files.seal(self.folder)
        self.lock.confirm()
        final = self.store.folder(self.key)
        if not _publish(self.folder, final):
            self._yield_to(final, result)
        existing = self.store.find(self.key)
        assert existing is not None
        return existing

    def close(self) -> None:
        """Close the journal."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def _yield_to(self, final: Path, result: Result) -> None:
        existing = self.store.find(self.key)
        if existing is not None and reproducible_fields(existing) == reproducible_fields(result):
            shutil.rmtree(self.folder)
            return
        kept = next(
            p
            for n in range(1, 1000)
            if not (p := final.with_name(f"{self.key}.differs-{n}")).exists()
        )
        os.rename(self.folder, kept)
        files.sync_folder(final.parent)
        raise IntegrityError(
            "results-differ",
            "two results of one key differ",
            where=final,
            expected="equal results",
            remedy=f"the other is kept as {kept}; compare their environments, remove the wrong one",
        )


def reproducible_fields(result: Result) -> dict[str, object]:
    """Return what must be equal in two results of one key.

    All but what depends on the machine and the hour.
    """
    plain = {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
    scores = {
        name: value for name, value in result.scores.items() if not name.endswith(("_s", "_j"))
    }
    return {**plain, "scores": scores, "cost": None, "environment": None}


# ---------------------------------------------------------------- pieces


def _checked(key: str) -> str:
    if not KEY.fullmatch(key):
        raise UnsafeError(
            "key",
            f"not a key: {key!r}",
            expected="letters, digits and -: a key becomes the name of a folder",
        )
    return key


def _part(folder: Path) -> Path:
    return folder.with_name(folder.name + PART)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _publish(part: Path, final: Path) -> bool:
    """Rename a sealed folder to its final name, durably; return False if that name is taken."""
    with files.storage_errors(final):
        try:
            os.rename(part, final)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                return False
            raise
        files.sync_folder(final.parent)
        # the name of `trials` may date from a process killed before it could sync
        files.sync_folder(final.parent.parent)
    return True


def _sync_below(folder: Path) -> None:
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


def _is_working_file(name: str) -> bool:
    """Return whether a file of a study's folder changes at any time and checks itself."""
    own = Path(name).name
    return (
        name == STUDY
        or own.startswith(files.TEMPORARY)
        or locks.READER in own
        or own.endswith((".journal", ".lock", ".turn", ".damaged", locks.OWNER))
    )


def _listed(folder: Path, own: set[str]) -> dict[str, Path]:
    """Return the files of a sealed folder, each checked.

    Nothing else may be there but `own` and working files.
    """
    with _remedied(folder):
        rows = files.manifest(folder)
        present = files.regular_files(folder)
        for name in present.keys() - rows.keys() - own:
            if not _is_working_file(name):
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


def _check_size(path: Path, row: Mapping[str, object]) -> None:
    if not path.is_file() or path.stat().st_size != row["bytes"]:
        files.check(path, row)  # its error names the damage


def _read_result(folder: Path, rows: Mapping[str, object], key: str) -> Result:
    if RESULT not in rows:
        raise IntegrityError(
            "file-unlisted", f"the manifest does not list '{RESULT}'", where=folder
        )
    record = files.read_json(folder / RESULT, limit=1 << 30)
    _check_format(record, folder)
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


def _format_at_start(path: Path) -> int | None:
    """Return the format of a record by its first bytes; None where they do not say.

    Keys are sorted when a record is written, so its format comes first.
    """
    with open(path, "rb") as file:
        match = FORMAT_AT_START.match(file.read(100))
    return int(match[1]) if match else None


def _is_record(path: Path) -> bool:
    """Return whether a file says its format; damage is reported when the file itself is used."""
    try:
        if _format_at_start(path) is not None:
            return True
        record = files.read_json(path, limit=1 << 30)
    except (OSError, TlxError):
        return False
    return isinstance(record, dict) and isinstance(record.get("format"), int)


def _check_format(record: Mapping[str, Any], where: Path) -> None:
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
def _remedied(path: Path) -> Iterator[None]:
    """Add to errors inside the block what to do about damage."""
    try:
        yield
    except IntegrityError as error:
        error.remedy = (
            error.remedy or f"remove {path} and run the same command again; it is made anew"
        )
        raise
