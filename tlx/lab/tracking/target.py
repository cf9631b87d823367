"""Tracking address: parsing, hiding its secrets, creating the local database once.

Everything here but building a new database works without importing mlflow.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import re
import shlex
import shutil
import sqlite3
import tempfile
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ... import files, locks
from ...errors import BadDataError, ResourceError, UnknownNameError, UsageError
from ..redaction import redact, remember_secret, remember_uri
from .timeouts import quiet

SQLITE_SUFFIXES = (".db", ".sqlite", ".sqlite3")
REMOTE = ("http", "https", "databricks", "databricks-uc")
DATABASES = ("postgresql", "mysql", "mssql")
SCHEMES = ("file", "sqlite", *DATABASES, *REMOTE)
SQLITE_SAYS = (  # words of sqlite → our code, what to do
    ("full", "disk-full", "free some space and run the same command again"),
    ("disk I/O error", "storage-failing", "check the disk"),
    ("readonly", "permission", "choose another place with --mlflow-path"),
    ("unable to open", "permission", "choose another place with --mlflow-path"),
)
UNFINISHED_WAIT_S = 20  # how long another process may take over its first migration
# user:password@host, host:port
HOST = re.compile(r"(?:[^/\s]*:[^/\s]*@[\w.-]+(?::\d+)?|[\w.-]+:\d+)(?:/.*)?")
SECRET_VARIABLES = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


@dataclass(frozen=True)
class TrackingTarget:
    """Tracking store.

    uri        what mlflow is given; holds the password, so it is shown nowhere
    shown      the same without secrets
    database   the file of a local sqlite store, else None
    """

    uri: str = field(repr=False)
    shown: str
    database: Path | None = None

    @property
    def name(self) -> str:
        """Return a short name for folders: the same for one store whatever the password."""
        return hashlib.sha256(self.shown.encode()).hexdigest()[:16]

    @property
    def artifacts(self) -> str | None:
        """Return where a local store's artifacts are, else None (the server knows)."""
        return artifact_root(self.database) if self.database else None

    def to_open(self, cwd: Path | None = None) -> str:
        """Return what a person types or opens to see the runs."""
        if self.database is None and self.shown.startswith("http"):
            return self.shown
        if self.database == Path(cwd or Path.cwd()).resolve() / "mlflow.db":
            return "mlflow ui"
        return f"mlflow ui --backend-store-uri {shlex.quote(self.shown)}"


# ---------------------------------------------------------------- addresses


def resolve(
    address: str | None, environ: Mapping[str, str] | None = None, cwd: Path | None = None
) -> TrackingTarget:
    """Return the store of `--mlflow-path`, else MLFLOW_TRACKING_URI, else mlflow.db in `cwd`.

    Raises Usage if unknown.
    """
    environ, cwd = os.environ if environ is None else environ, Path(cwd or Path.cwd()).resolve()
    for name in SECRET_VARIABLES:
        remember_secret(environ.get(name, ""))
    text = (address or "").strip() or environ.get("MLFLOW_TRACKING_URI", "").strip()
    if not text:
        return _local(cwd / "mlflow.db")
    scheme, separator, remaining = text.partition(":")
    if separator and (remaining.startswith("//") or scheme in SCHEMES):
        return _from_uri(text, scheme.lower(), cwd)
    if text in ("databricks", "databricks-uc"):
        return TrackingTarget(text, text)
    if HOST.fullmatch(text):
        address = f"http://{text}"
        remember_uri(address)
        raise UsageError(
            "tracking-address",
            f"'{redact(address).removeprefix('http://')}' has no scheme",
            where="mlflow-path",
            expected=f"{redact(address)}, a folder, or a .db file",
        )
    return _from_path(cwd / os.path.expanduser(text))


def _from_uri(text: str, scheme: str, cwd: Path) -> TrackingTarget:
    family = scheme.partition("+")[0]
    if family not in SCHEMES:
        raise UnknownNameError(
            "tracking scheme", redact(scheme), SCHEMES, remedy="or give a folder or a .db file"
        )
    remember_uri(text)
    if family == "file":
        return _from_path(Path(urllib.parse.unquote(urllib.parse.urlsplit(text).path)))
    if family == "sqlite":
        path = urllib.parse.unquote(re.sub(r"^sqlite(\+\w+)?:(///)?", "", text).partition("?")[0])
        if path in ("", "/", ":memory:", "//"):
            raise UsageError(
                "tracking-address",
                f"'{redact(text)}' names no file",
                where="mlflow-path",
                expected="sqlite:///path/to/mlflow.db",
            )
        return _local(cwd / path)
    if family in ("http", "https") and not urllib.parse.urlsplit(text).hostname:
        raise UsageError(
            "tracking-address",
            f"'{redact(text)}' names no host",
            where="mlflow-path",
            expected="http://host:port",
        )
    return TrackingTarget(text.rstrip("/") if family in REMOTE else text, redact(text).rstrip("/"))


def _from_path(path: Path) -> TrackingTarget:
    if path.is_file():
        with open(path, "rb") as file:
            head = file.read(16)
        if head and not head.startswith(b"SQLite format 3"):
            raise UsageError(
                "tracking-address",
                "is a file and no sqlite database",
                where=path,
                expected="a folder, a .db file, or the address of a server",
            )
        return _local(path)
    is_file_name = path.suffix.lower() in SQLITE_SUFFIXES and not path.is_dir()
    return _local(path if is_file_name else path / "mlflow.db")


def _local(path: Path) -> TrackingTarget:
    path = Path(os.path.abspath(path))
    uri = sqlite_uri(path)
    return TrackingTarget(uri, uri, path)


def sqlite_uri(path: Path) -> str:
    """Return the address of a database file.

    In it, `%` and two digits are an escape and `?` begins the options.

    With the driver named, mlflow does not make the parent folder, which it would do without
    decoding its name.
    """
    text = str(path)
    if "?" not in text and urllib.parse.unquote(text) == text:
        return f"sqlite:///{text}"
    return "sqlite+pysqlite:///" + text.replace("%", "%25").replace("?", "%3F")


# ---------------------------------------------------------------- the local database


def prepare(target: TrackingTarget) -> None:
    """Create the local database of `target` if it is absent, complete or not at all.

    Safe if other processes do so at the same time.

    Processes that let mlflow make it together leave it broken for good; so it is built under a lock
    in a file of its own and linked into place. Nothing to do for servers. BadData if what is there
    is broken.
    """
    path = target.database
    if path is None or check(target):
        return
    with locks.lock(path.with_name(f".{path.name}.lock"), wait=True):
        if not check(target):
            _build(path)


def check(target: TrackingTarget) -> bool:
    """Return True if the local database is intact (or the target is a server).

    False if there is none; raises BadData if broken.
    """
    path = target.database
    if path is None:
        return True
    deadline = time.monotonic() + UNFINISHED_WAIT_S
    while (trouble := _trouble(path)) not in ("", "absent"):
        last_change = time.time() - path.stat().st_mtime if path.exists() else 0.0
        if last_change > UNFINISHED_WAIT_S or time.monotonic() > deadline:
            raise BadDataError(
                "tracking-database",
                trouble,
                where=path,
                remedy="move the file away and run `tlx sync`: the run folders hold everything",
            )
        time.sleep(0.2)  # another program may be in the middle of making it
    return trouble == ""


def _trouble(path: Path) -> str:
    """Return the error of a database file: "" (nothing), "absent", or a sentence."""
    if not path.exists():
        return "absent"
    try:
        # writable, so that what a killed program left unfinished in it is rolled back
        with contextlib.closing(
            sqlite3.connect(f"file:{urllib.parse.quote(str(path))}?mode=rw", uri=True)
        ) as db:
            names = {
                row[0] for row in db.execute("select name from sqlite_master where type = 'table'")
            }
            version = (
                db.execute("select version_num from alembic_version").fetchall()
                if ("alembic_version" in names)
                else []
            )
    except sqlite3.OperationalError as error:
        return "" if "locked" in str(error) else f"cannot be read ({error})"
    except sqlite3.DatabaseError as error:
        return f"is no sqlite database ({error})"
    if any(name.startswith("_alembic_tmp_") for name in names):
        return "was left half-made by programs that opened it together for the first time"
    return "" if version and "experiments" in names else "holds no complete mlflow store"


def artifact_root(database: Path) -> str:
    """Return where the artifacts of a local database are.

    A plain path, as a URI where mlflow would decode it.
    """
    folder = database.parent / "mlruns"
    return folder.as_uri() if urllib.parse.unquote(str(folder)) != str(folder) else str(folder)


def _build(path: Path) -> None:
    with quiet, files.storage_errors(path):
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        # what a killed builder left
        for leftover in path.parent.glob(f"{glob.escape(files.TEMPORARY + path.name)}*"):
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()
        folder = Path(tempfile.mkdtemp(prefix=f"{files.TEMPORARY}{path.name}-", dir=path.parent))
        temporary = folder / path.name
        try:
            with _sqlite_errors(path):
                SqlAlchemyStore(sqlite_uri(temporary), str(path.parent / "mlruns")).engine.dispose()
            # a program without our lock may be first: its store is as good
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)
            files.sync_folder(path.parent)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _sqlite_errors(path: Path) -> Iterator[None]:
    """Raise errors of SQLite or mlflow with the disk as a Resource error."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError):
            raise
        message = next((str(e) for e in _causes(error) if isinstance(e, sqlite3.Error)), "")
        known = next((row for words, *row in SQLITE_SAYS if words in message), None)
        if known is None:
            raise
        code, remedy = known
        raise ResourceError(
            code,
            f"cannot make the tracking database ({message}); {files.free_bytes(path):,} bytes free",
            where=path,
            remedy=remedy,
        ) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        yield from filter(None, [getattr(error, "orig", None)])
        error = error.__cause__ or error.__context__
