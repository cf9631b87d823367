"""Optuna's storage of a search: a file next to the store, or any storage of Optuna's.

Several machines may use it at once.

Nothing in it is the only copy, so the file is not flushed to disk at every line. Optuna's own file
lock outlives a killed process by half a minute and one torn line makes its journal unreadable for
good; here the kernel's lock ends with its holder, and a torn line is cut off. The format is
Optuna's: optuna-dashboard opens the file.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import urllib.parse
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.storages.journal import BaseJournalBackend

from ... import files, locks
from ...errors import BadDataError, ResourceError, UsageError
from ..redaction import redact

SERVERS = ("postgresql", "mysql", "mariadb")  # storages that other machines reach
JOURNALS = (".journal", ".log")
BEAT_S = 10.0  # between two heartbeats of a machine
SILENT_S = 60.0  # without a heartbeat: then the machine's trials are taken over


class JournalFile(BaseJournalBackend):
    """Journal of Optuna in a file: complete lines only, appended under the kernel's lock."""

    def __init__(self, path: Path):
        self.path = Path(path)
        files.make_folder(self.path.parent)
        self._ends = [0]  # where each line read so far ends
        self._fd = -1  # while the lock is held for several writings
        with self._locked():
            self._cut()

    def read_logs(self, log_number_from: int) -> list[dict[str, object]]:
        """Return the records from a number on."""
        start = min(log_number_from, len(self._ends) - 1)
        if log_number_from == len(self._ends) - 1 and os.stat(self.path).st_size == self._ends[-1]:
            return []  # nothing has come: most often so
        with open(self.path, "rb") as file:
            file.seek(self._ends[start])
            lines = file.read().split(b"\n")[:-1]  # what follows the last newline is being written
        del self._ends[start + 1 :]
        for line in lines:
            self._ends.append(self._ends[-1] + len(line) + 1)
        return [json.loads(line) for line in lines[log_number_from - start :]]

    def append_logs(self, logs: Sequence[Mapping[str, object]]) -> None:
        """Add records."""
        data = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        with self._locked() as fd, files.storage_errors(self.path):
            end = os.fstat(fd).st_size
            if end and os.pread(fd, 1, end - 1) != b"\n":
                self._cut()
            if os.write(fd, data) != len(data):
                os.ftruncate(fd, end)
                raise ResourceError("disk-full", "a short write", where=self.path)

    @contextlib.contextmanager
    def holding(self) -> Iterator[None]:
        """Exclude other writers inside the block: one lock for many writes."""
        with self._locked() as fd:
            self._fd = fd
            try:
                yield
            finally:
                self._fd = -1

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        if self._fd >= 0:
            yield self._fd
            return
        beside = self.path.with_name(self.path.name + ".lock")
        with locks.lock(beside, wait=True, signed=False), files.storage_errors(self.path):
            fd = files.open_own(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
            try:
                yield fd
            finally:
                os.close(fd)

    def _cut(self) -> None:
        """Remove a torn last line.

        A file of ours that a power cut damaged is set aside; any other file is refused.
        """
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        lines, tail = data[:whole].splitlines(), data[whole:]
        are_records = [_is_record(line) for line in lines]
        is_torn_first_record = not lines and (tail.startswith(b"{") or not tail.strip(b"\0"))
        if not any(are_records) and not is_torn_first_record:
            raise BadDataError(
                "storage-form",
                "is no journal of Optuna",
                where=self.path,
                expected="a new file, or one that Optuna's journal storage wrote",
                remedy="choose another name with --storage; this file was left as it is",
            )
        if not all(are_records):
            os.replace(self.path, self.path.with_name(self.path.name + ".damaged"))
            self.path.touch()
        elif tail:
            os.truncate(self.path, whole)


def _is_record(line: bytes) -> bool:
    try:
        return "op_code" in json.loads(line)
    except (ValueError, TypeError):
        return False


class StorageLocation:
    """Address of a storage: "" or a path to a journal, or a URL as Optuna takes it.

    shown   the address without its password
    """

    def __init__(self, address: str, name: str):
        self.address, self._name = address, name
        self._engine: Any = None
        self._journal: JournalFile | None = None
        self.path = self._file(address)
        self.remote = address.partition("://")[0].partition("+")[0] in SERVERS
        self.shown = redact(address)

    @staticmethod
    def _file(address: str) -> Path | None:
        if address.startswith("sqlite:///"):
            name = urllib.parse.unquote(address.removeprefix("sqlite:///").partition("?")[0])
            return Path(os.path.realpath(name))  # one file has one lock, however it is spelt
        if "://" in address:
            return None
        path = Path(os.path.realpath(Path(address.removeprefix("journal:")).expanduser()))
        if not address.startswith("journal:") and path.suffix not in JOURNALS:
            raise UsageError(
                "storage-form",
                f"'{redact(address)}'",
                where="--storage",
                expected="a URL (sqlite:///"
                "search.db, postgresql://user:password@host/base, mysql://…) or a file "
                "name.journal",
            )
        return path

    @contextlib.contextmanager
    def open(self) -> Iterator[optuna.storages.BaseStorage]:
        """Open the storage.

        Raises Resource where it cannot be reached or its driver is not installed.
        """
        if self.path is not None and not self.address.startswith("sqlite"):
            self._journal = JournalFile(self.path)
            yield optuna.storages.JournalStorage(self._journal)
            return
        with self._in_words():
            options = (
                {"connect_args": {"timeout": 60}}
                if self.path is not None
                else {"pool_pre_ping": True}
            )
            storage = optuna.storages.RDBStorage(self.address, engine_kwargs=options)
        try:
            yield storage
        finally:
            storage.remove_session()
            storage.engine.dispose()

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Exclude all other processes of the search inside the block.

        By the kernel's lock, or the server's.
        """
        if self.path is not None:
            with (
                locks.lock(self.path.with_name(self.path.name + ".turn"), wait=True, signed=False),
                self.writing(),
            ):
                yield
            return
        import sqlalchemy

        with self._in_words():
            self._engine = self._engine or sqlalchemy.create_engine(
                self.address, poolclass=sqlalchemy.NullPool
            )
            connection = self._engine.connect()
        number, is_postgresql = (
            zlib.crc32(self._name.encode()),
            self.address.startswith("postgresql"),
        )
        take, give = (
            ("SELECT pg_advisory_lock(:n)", "SELECT pg_advisory_unlock(:n)")
            if is_postgresql
            else ("SELECT GET_LOCK(:n, 3600)", "SELECT RELEASE_LOCK(:n)")
        )
        with connection:
            connection.execute(
                sqlalchemy.text(take), {"n": number if is_postgresql else f"tlx{number}"}
            )
            try:
                yield
            finally:
                connection.execute(
                    sqlalchemy.text(give), {"n": number if is_postgresql else f"tlx{number}"}
                )

    def writing(self) -> contextlib.AbstractContextManager[None]:
        """Lock the journal once for several consecutive writes inside the block."""
        return contextlib.nullcontext() if self._journal is None else self._journal.holding()

    @contextlib.contextmanager
    def _in_words(self) -> Iterator[None]:
        import sqlalchemy

        try:
            yield
        except ImportError as error:
            raise ResourceError(
                "package",
                f"this storage needs a package that is not installed ({error})",
                where=self.shown,
                remedy="pip install 'tlx[postgresql]'; for mysql+pymysql:// pip install pymysql",
            ) from error
        except sqlalchemy.exc.ArgumentError as error:
            raise UsageError(
                "storage-form",
                f"'{self.shown}'",
                where="--storage",
                expected="a URL as Optuna takes it",
            ) from error
        except (sqlalchemy.exc.OperationalError, optuna.exceptions.StorageInternalError) as error:
            message = str(error.__cause__ or error).strip().splitlines()[0]
            raise ResourceError(
                "storage-unreachable",
                redact(message),
                where=self.shown,
                remedy="see whether the server runs and the address is right",
            ) from error
        except sqlalchemy.exc.DatabaseError as error:
            message = str(error.__cause__ or error).strip().splitlines()[0]
            raise BadDataError(
                "storage-form",
                redact(message),
                where=self.shown,
                expected="a database that Optuna made, or a new file",
                remedy="choose another with --storage; this one was left as it is",
            ) from error


# ---------------------------------------------------------------- who works on a trial, and whether
# they live


def process_id() -> str:
    """Return an identifier of this process, by which another can find out whether it is alive."""
    return f"{_machine()}/{os.getpid()}/{psutil.Process().create_time():.2f}"


def is_alive(owner: str | None, beats: dict[str, Any]) -> bool:
    """Return whether the process of `owner` is at work.

    By the kernel on this machine, by its machine's last heartbeat elsewhere.
    """
    if not owner:
        return False
    machine, pid, born = owner.rsplit("/", 2)
    if machine == _machine():
        try:
            process = psutil.Process(int(pid))
            return (
                f"{process.create_time():.2f}" == born and process.status() != psutil.STATUS_ZOMBIE
            )
        except psutil.NoSuchProcess:
            return False
    if (
        machine.partition("/")[0] == socket.gethostname()
    ):  # the same machine before it was started again
        return False
    return time.time() - float(beats.get(f"beat:{machine}", 0.0)) < SILENT_S


def heartbeat(study: optuna.Study) -> None:
    """Record that this machine is at work."""
    study.set_user_attr(f"beat:{_machine()}", time.time())


def _machine() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()}/{boot.read_text().strip()[:8] if boot.exists() else ''}"
