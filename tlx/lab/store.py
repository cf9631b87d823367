"""Store of results: key → folder, `<key>.part` until complete, then sealed and renamed.

A sealed folder never changes.

    <root>/trials/<key>/           result.json, metrics.journal, …, MANIFEST.json: whole,
                                   checksummed
    <root>/trials/<key>.part/      in progress, by the holder of the lock; the next one
                                   continues it
    <root>/attempts/<key>/<name>/  in progress by an attempt on a cluster, without a lock
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
import functools
import math
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path

from .. import __version__, files, locks
from ..errors import BadDataError, BusyError, IntegrityError, ResourceError, Stopped, TlxError
from ..result import Result
from ..spec import Spec, kinds_of
from . import attempts, environment, sealed
from .records import StoredStudy
from .sealed import FORMAT, KEY, RESULT, STUDY

JOURNAL = "metrics.journal"
LARGE = 4 << 20  # bytes; `find` checks larger files by size only, `file` in full
SIGHT_S, SIGHT_POLL_S = 90.0, 0.5  # for a result of another machine to be seen
PATIENCE_S = 1.0  # a killed holder's children may outlive it by a moment


class Store:
    """Run folders under `root`: the record of what has been done.

    attempt  name of the attempt that makes trials, without locks; None: that of this process, "":
             locks
    """

    def __init__(self, root: Path | str, *, attempt: str | None = None):
        self.root = files.guard(Path(root))
        self.attempt = attempts.current() if attempt is None else attempt

    # ------------------------------------------------------------ trials

    def folder(self, key: str) -> Path:
        """Return the complete folder of `key`, existing or not."""
        return self.root / "trials" / sealed.checked_key(key)

    def keys(self) -> list[str]:
        """Return the keys that have a complete folder, sorted."""
        return sorted(
            p.name for p in self.root.glob("trials/*") if KEY.fullmatch(p.name) and p.is_dir()
        )

    def find(self, key: str, *, unchecked: Collection[str] = ()) -> Result | None:
        """Return the result of `key`, checked against its manifest; None if there is none.

        Raises Integrity if it is damaged.

        unchecked  names of files that may be damaged or gone: whoever needs them checks them

        Files above 4 MiB that are not read here are checked by size, and in full by `file`, through
        which everything else is read: asking stays cheap, and nothing is used unchecked.
        """
        folder = self.folder(key)
        if not folder.is_dir():
            return None
        with sealed.remedied(folder):
            rows = files.manifest(folder)
            for name, row in rows.items():
                if name in unchecked:
                    continue
                if row["bytes"] > LARGE and name != RESULT:
                    sealed.check_size(folder / name, row)
                else:
                    files.check(folder / name, row)
            return sealed.read_result(folder, rows, key)

    def find_or_none(self, key: str, *, unchecked: Collection[str] = ()) -> Result | None:
        """Return the result of `key`, or None if it is missing or damaged.

        For a summary of many; `find` raises on damage. unchecked as for `find`
        """
        try:
            return self.find(key, unchecked=unchecked)
        except TlxError:
            return None

    def file(self, key: str, name: str) -> Path:
        """Return the path of one file in a complete folder, every byte of it checked."""
        folder = self.folder(key)
        with sealed.remedied(folder):
            row = files.manifest(folder).get(name)
            if row is None:
                raise IntegrityError(
                    "file-unlisted", f"the manifest does not list '{name}'", where=folder
                )
            files.check(folder / name, row)
        return folder / name

    def verify(self, key: str) -> None:
        """Raise Integrity unless every byte of the complete folder of `key` is as sealed."""
        with sealed.remedied(self.folder(key)):
            files.verify(self.folder(key))

    @contextlib.contextmanager
    def claim(self, key: str) -> Iterator[Draft]:
        """Hold the right to make `key` inside the block.

        Raises Busy, naming the process, if another has it. An attempt always has it: others may
        make the same, the first that commits wins.

        What an interrupted holder had sealed but not yet renamed is made whole here: ask `find`
        again inside.
        """
        with contextlib.ExitStack() as held:
            lock = None if self.attempt else held.enter_context(self._locked(key))
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
            if result is not None:
                return result
            try:
                return draft.commit(make(draft))
            except (OSError, TlxError) as error:
                # another attempt has won, and removed the draft that this one was writing
                result = None if draft.folder_exists() else self.find(key)
                if result is None or isinstance(error, Stopped):
                    raise
                return result

    def remove(self, key: str) -> None:
        """Remove `key`: its complete folder and any part of it."""
        folder = self.folder(key)
        with self._locked(key):
            for path in (folder, *attempts.parts(folder)):
                if path.is_dir():
                    attempts.remove(path)

    def remove_finished_parts(self) -> None:
        """Remove the drafts of trials that are complete: attempts that came second, or late."""
        for folder in attempts.finished(self.root):
            attempts.remove_parts(folder)

    def wait_for(self, keys: Iterable[str], patience_s: float = SIGHT_S) -> None:
        """Wait until results that another machine has written are seen here.

        A network file system may show a new folder late. Raises ResourceError, naming the first
        that is not seen.
        """
        end = time.monotonic() + patience_s
        for key in keys:
            while not self.folder(key).is_dir():
                with contextlib.suppress(OSError):
                    os.scandir(self.root / "trials").close()  # look again, not in a cache
                if time.monotonic() > end:
                    raise ResourceError(
                        "unseen-result",
                        f"finished on a node and not seen here after {patience_s:g} s",
                        where=self.folder(key),
                        remedy="does every node have the same --store? The same command collects "
                        "what is done",
                    )
                time.sleep(SIGHT_POLL_S)

    @contextlib.contextmanager
    def _locked(self, key: str) -> Iterator[locks.Lock]:
        path, end = self.root / "locks" / sealed.checked_key(key), time.monotonic() + PATIENCE_S
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
        for part in attempts.parts(folder):
            if folder.exists() or not (part / files.MANIFEST).exists():
                continue
            try:
                files.verify(part)
                sealed.read_result(part, files.manifest(part), key)
            except (OSError, TlxError):
                if part == sealed.part_of(folder, self.attempt):
                    (part / files.MANIFEST).unlink()  # it is being made again
            else:
                sealed.publish(part, folder)

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
        with sealed.remedied(path):
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
        sealed.check_format(record, path)
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
            if path is not None and sealed.format_at_start(path) != FORMAT:
                sealed.check_format(files.read_json(path, limit=1 << 30), self.root)

    def _any_file(self, folder: str, name: str) -> Path | None:
        """Return some readable `name` one folder below `folder`, without listing all of them."""
        try:
            entries = os.scandir(self.root / folder)
        except OSError:
            return None
        with entries:
            paths = (Path(entry.path) / name for entry in entries)
            return next((path for path in paths if sealed.is_record(path)), None)

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
            sealed.sync_below(folder)
        files.seal(folder, skip=sealed.is_working_file)

    def study_files(self, key: str) -> dict[str, Path]:
        """Return the files of a study's summary by relative name, every byte checked.

        {} while it has none.

        Integrity for a damaged one; Unsafe if the folder holds links, or files that its manifest
        does not list.
        """
        folder = self.study_folder(key)
        if not (folder / files.MANIFEST).exists():
            return {}
        return sealed.listed_files(folder, {STUDY, files.MANIFEST})

    def trial_files(self, key: str) -> dict[str, Path]:
        """Return the files of a complete trial by relative name, every byte checked.

        Errors as for `study_files`.
        """
        return sealed.listed_files(self.folder(key), {files.MANIFEST})

    def _study(self, key: str) -> Path:
        return self.root / "studies" / sealed.checked_key(key) / STUDY


class Draft:
    """Folder of a trial in progress.

    Files in it are the trial's own; `commit` completes it.
    """

    def __init__(self, store: Store, key: str, lock: locks.Lock | None):
        self.store, self.key, self.lock = store, key, lock
        self._journal: files.Journal | None = None

    @functools.cached_property
    def folder(self) -> Path:
        """Return `<key>.part`, or that of the attempt, created on first use.

        What an interrupted write left in it is removed.
        """
        part = attempts.begin(self.store.folder(self.key), self.store.attempt, JOURNAL)
        for folder in (part, *(p for p in part.rglob("*") if p.is_dir())):
            if not folder.name.startswith(files.TEMPORARY):
                files.remove_temporary(folder)
        return part

    def folder_exists(self) -> bool:
        """Return whether the folder is there: a process that committed first removes it."""
        return sealed.part_of(self.store.folder(self.key), self.store.attempt).is_dir()

    @property
    def journal(self) -> files.Journal:
        """Return metrics.journal, opened on first use.

        It continues where an interrupted trial left it.
        """
        if self._journal is None:
            self._journal = files.Journal(self.folder / JOURNAL)
            if not self._journal.records:
                self._journal.append(
                    {
                        "t": "start",
                        "ts": _now_ms(),
                        "format": FORMAT,
                        "tlx": __version__,
                        "cpu": environment.cpu_kind(),
                    }
                )
            sealed.check_format(self._journal.records[0], self.folder)
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
        record = {"format": FORMAT, "tlx": __version__, "result": result.to_json()}
        files.write_json(self.folder / RESULT, record, sync=False)  # with all others, below
        with files.storage_errors(self.folder):
            sealed.sync_below(self.folder)
        files.seal(self.folder)
        if self.lock is not None:
            self.lock.confirm()
        final = self.store.folder(self.key)
        if not sealed.publish(self.folder, final):
            self._yield_to(final, result)
        attempts.remove_parts(final)
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
        if existing is not None and (
            reproducible_fields(existing) == reproducible_fields(result)
            or (self.store.attempt and _is_elsewhere(existing))
            or not self.folder_exists()
        ):
            shutil.rmtree(self.folder, ignore_errors=True)
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


def _is_elsewhere(result: Result) -> bool:
    """Return whether a result comes from another kind of CPU, which gives other bits."""
    return dict(result.environment or {}).get("cpu_kind", "") not in ("", environment.cpu_kind())


def reproducible_fields(result: Result) -> dict[str, object]:
    """Return what must be equal in two results of one key.

    All but what depends on the machine and the hour, and settings of place: a path, a number of
    processes.
    """
    plain = {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
    scores = {
        name: value for name, value in result.scores.items() if not name.endswith(("_s", "_j"))
    }
    spec = _without_places(result.spec)
    return {**plain, "spec": spec, "scores": scores, "cost": None, "environment": None}


def _without_places(spec: Mapping[str, object]) -> dict[str, object]:
    """Return the fields of a spec that are part of its key; all of an unknown kind."""
    kind = kinds_of(Spec).get(str(spec.get("kind")))
    declared = {} if kind is None else kind.settings()
    return {
        name: value
        for name, value in spec.items()
        if name not in declared or declared[name].identity
    }


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
