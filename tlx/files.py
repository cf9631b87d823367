"""Access to the disk: durable writes, checksums, manifests, journals, strict JSON.

Everything durable is written as temporary name → write → fsync → rename → fsync directory. A folder
is complete when its MANIFEST.json exists and every file in it has the SHA-256 written there.
Nothing is written through a symbolic link; below a guarded folder (see `guard`) no folder may be
one either.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from .errors import BadDataError, IntegrityError, ResourceError, UnsafeError

MANIFEST = "MANIFEST.json"
JSON_LIMIT = 4 << 20  # bytes of a JSON file that a person may write
JSON_DEPTH = 32
TEMPORARY = ".tmp-"
UNWRITTEN = bytes(8)  # a run of zeros: no record of a journal has one


# ---------------------------------------------------------------- durable writes


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    with storage_errors(folder):
        fd = open_folder(folder)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def make_folder(folder: Path) -> Path:
    """Create `folder` with its parents, each name durable, and return it.

    Raises Unsafe if a link is where a guarded folder should be.
    """
    folder = Path(folder)
    if not folder.is_dir():
        make_folder(folder.parent)
        with storage_errors(folder):
            folder.mkdir(exist_ok=True)
            sync_folder(folder.parent)
    if _guard_of(folder) is not None:
        os.close(open_folder(folder))
    return folder


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Raise full, failing and forbidden storage as errors with the path and what is free."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise ResourceError(
                "disk-full",
                f"no space to write ({error.strerror}); {free_bytes(path):,} bytes free",
                where=path,
                remedy="free some space and run the same command again; it continues",
            ) from error
        if error.errno == errno.EIO:
            raise ResourceError(
                "storage-failing",
                "the storage reports an input/output error",
                where=path,
                remedy="nothing was committed; check the disk",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise ResourceError(
                "permission", f"cannot write: {error.strerror}", where=path
            ) from error
        raise


def free_bytes(path: Path) -> int:
    """Return bytes free to this user on the file system that holds `path`.

    Or its nearest existing parent.
    """
    return shutil.disk_usage(existing(path)).free


def existing(path: Path) -> Path:
    """Return an absolute path, or its nearest parent that exists."""
    path = Path(path).absolute()
    while not path.exists():
        path = path.parent
    return path


# ---------------------------------------------------------------- no link is followed

_guarded: set[str] = set()


def guard(root: Path) -> Path:
    """Guard `root`: what is written below it passes through no link.

    Returns its absolute path.

    The root itself may be a link, and so may what leads to it: the user chose it.
    """
    path = os.path.abspath(root)
    _guarded.add(path)
    return Path(path)


def _guard_of(folder: Path) -> str | None:
    """Return the innermost guarded folder that holds `folder` or is it; None outside of all."""
    path, parent = os.path.abspath(folder), ""
    while path != parent:
        if path in _guarded:
            return path
        parent, path = path, os.path.dirname(path)
    return None


def open_folder(folder: Path) -> int:
    """Open a folder and return its descriptor.

    Raises Unsafe if it is guarded and reached through a link.
    """
    root = _guard_of(folder)
    if root is None:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    path = root
    for name in filter(None, os.path.abspath(folder)[len(root) :].split(os.sep)):
        path = os.path.join(path, name)
        try:
            inner = os.open(
                name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd
            )
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR) and os.path.islink(path):
                raise _linked(Path(path)) from None
            raise
        finally:
            os.close(fd)
        fd = inner
    return fd


def open_own(path: Path, flags: int, mode: int = 0o666) -> int:
    """Open a file that tlx writes and return its descriptor.

    Its name is looked up in its opened folder.

    Unsafe if the name is a link (also a second hard link: another file would change too) or no
    regular file.
    """
    path = Path(path)
    with storage_errors(path):
        folder = open_folder(path.parent)
        try:
            fd = os.open(
                path.name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode, dir_fd=folder
            )
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
                raise _linked(path) from None
            raise
        finally:
            os.close(folder)
    about = os.fstat(fd)
    if not stat.S_ISREG(about.st_mode) or about.st_nlink > 1:
        os.close(fd)
        raise _linked(path)
    return fd


def _linked(path: Path) -> UnsafeError:
    if path.is_symlink():
        fault = f"is a symbolic link to {os.readlink(path)}"
    elif path.is_file():
        fault = "has a second name (a hard link)"
    else:
        fault = "is no regular file or folder"
    return UnsafeError(
        "link",
        f"{fault}; it is neither read nor written through",
        where=path,
        expected="a file or folder of its own",
        remedy=f"remove it: rm {path}",
    )


@contextlib.contextmanager
def atomic_write(path: Path, *, sync: bool = True) -> Iterator[BinaryIO]:
    """Yield a binary file that replaces `path` when the block ends well.

    All or nothing, durably; without `sync` durable only after the caller has synced file and name.

    It is written under a temporary name of its own: one fixed name, or, if another writer (or what
    a crash left) holds that, a random one. A link at `path` is replaced, not followed.
    """
    path = Path(path)
    if not path.parent.is_dir():
        make_folder(path.parent)
    with storage_errors(path):
        folder = open_folder(path.parent)
        try:
            temporary, fd = _new_file(folder, TEMPORARY + path.name)
            try:
                with os.fdopen(fd, "w+b") as file:
                    yield file
                    file.flush()
                    if sync:
                        os.fsync(file.fileno())
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=folder)
                raise
            os.replace(temporary, path.name, src_dir_fd=folder, dst_dir_fd=folder)
            if sync:
                os.fsync(folder)
        finally:
            os.close(folder)


def _new_file(folder: int, name: str) -> tuple[str, int]:
    """Create a file in the opened `folder`; return its name and descriptor."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with contextlib.suppress(FileExistsError):
        return name, os.open(name, flags, 0o666, dir_fd=folder)
    name = f"{name[:240]}.{secrets.token_hex(4)}"
    return name, os.open(name, flags, 0o666, dir_fd=folder)


def write_bytes(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Write `data` durably to `path`; `sync` as for `atomic_write`."""
    with atomic_write(path, sync=sync) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8) durably to `path`."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: object, *, sync: bool = True) -> None:
    """Write `value` durably to `path` as canonical JSON and a newline; `sync` as above."""
    write_bytes(path, canonical_json(value) + b"\n", sync=sync)


def remove_temporary(folder: Path) -> None:
    """Remove what an interrupted write left in `folder` (not below it).

    Call it under the folder's lock.
    """
    for leftover in Path(folder).glob(TEMPORARY + "*"):
        shutil.rmtree(
            leftover
        ) if leftover.is_dir() and not leftover.is_symlink() else leftover.unlink()


# ---------------------------------------------------------------- checksums and manifests


def canonical_json(value: object) -> bytes:
    """Return the canonical JSON of a value.

    Sorted keys, no spaces, UTF-8; NaN and infinity are refused.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def digest(value: object) -> str:
    """Compute the SHA-256 (hex) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def sha256(path: Path) -> str:
    """Compute the SHA-256 (hex) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def regular_files(folder: Path) -> dict[str, Path]:
    """Return every file below `folder` by its relative name, sorted.

    Raises Unsafe if anything but files and folders is there.

    Links are refused, not followed: what they lead to is not the folder's own.
    """
    folder = Path(folder)
    result: dict[str, Path] = {}
    for parent, folders, names in os.walk(folder, onerror=_raise):
        for name in (*folders, *names):
            path = Path(parent, name)
            try:
                mode = os.lstat(path).st_mode
            except FileNotFoundError:  # another process's temporary file
                continue
            if stat.S_ISREG(mode):
                result[path.relative_to(folder).as_posix()] = path
            elif not stat.S_ISDIR(mode):
                raise _linked(path)
    return dict(sorted(result.items()))


def _raise(error: OSError) -> None:
    raise error


def seal(folder: Path, *, skip: Callable[[str], bool] = lambda name: False) -> None:
    """Write the folder's MANIFEST.json: name, bytes and SHA-256 of every file below it.

    It is the last write of all.

    skip   relative names that are left out
    """
    rows = {
        name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for name, path in regular_files(folder).items()
        if path.name != MANIFEST and not path.name.startswith(TEMPORARY) and not skip(name)
    }
    write_manifest(Path(folder), rows)


def write_manifest(folder: Path, rows: Mapping[str, Mapping[str, object]]) -> None:
    """Replace the folder's own manifest by these rows.

    See `manifest`; a row may have more than bytes and SHA-256.
    """
    write_json(Path(folder) / MANIFEST, {"files": rows, "sha256": digest(rows)})


def manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of a sealed folder's manifest, name → {"bytes", "sha256"}.

    Raises Integrity if it is absent or damaged.
    """
    try:
        content = read_json(Path(folder) / MANIFEST, limit=1 << 30)
        rows = content["files"]
        intact = content["sha256"] == digest(rows)
    except (OSError, BadDataError, KeyError, TypeError) as error:
        raise IntegrityError(
            "manifest-unreadable", f"cannot read the manifest ({error})", where=folder
        ) from error
    if not intact:
        raise IntegrityError(
            "manifest-damaged", "the manifest does not match its own checksum", where=folder
        )
    result: dict[str, dict[str, Any]] = rows
    return result


def verify(folder: Path) -> None:
    """Raise Integrity unless every file of a sealed folder exists and has its bytes."""
    folder = Path(folder)
    for name, row in manifest(folder).items():
        check(folder / name, row)


def check(path: Path, row: Mapping[str, object]) -> None:
    """Raise Integrity unless `path` has the size and SHA-256 of its manifest row.

    Raises Unsafe if it is a link.
    """
    if path.is_symlink():
        raise _linked(path)
    if not path.is_file():
        raise IntegrityError("file-missing", "listed in the manifest and not there", where=path)
    size = path.stat().st_size
    if size != row["bytes"]:
        raise IntegrityError(
            "file-size", f"{size} bytes", where=path, expected=f"{row['bytes']} bytes"
        )
    if sha256(path) != row["sha256"]:
        raise IntegrityError(
            "file-damaged", "its bytes do not match the SHA-256 in the manifest", where=path
        )


# ---------------------------------------------------------------- strict JSON


def read_json(path: Path, *, limit: int = JSON_LIMIT) -> Any:
    """Read a JSON file by strict rules: size and depth, no duplicate key, no NaN, UTF-8.

    Raises BadData otherwise.
    """
    path = Path(path)
    size = path.stat().st_size
    if size > limit:
        raise BadDataError(
            "json-size", f"{size:,} bytes", where=path, expected=f"at most {limit:,}"
        )
    return parse_json(path.read_bytes(), where=path)


def parse_json(data: bytes, *, where: object = "") -> Any:
    """Return the value of JSON bytes by the rules of read_json."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadDataError(
            "json-encoding", f"not UTF-8 at byte {error.start}", where=where
        ) from error
    _refuse_depth(text, where)

    def no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
        seen: dict[str, Any] = {}
        for key, value in pairs:
            if key in seen:
                raise BadDataError("json-duplicate-key", f"key '{key}' occurs twice", where=where)
            seen[key] = value
        return seen

    def no_constant(name: str) -> NoReturn:
        raise BadDataError("json-not-finite", f"{name} is not a JSON number", where=where)

    try:
        return json.loads(text, object_pairs_hook=no_duplicates, parse_constant=no_constant)
    except json.JSONDecodeError as error:
        raise BadDataError(
            "json-syntax",
            f"line {error.lineno}, column {error.colno}: {error.msg}",
            where=where,
            expected="plain JSON: double quotes, no comments, no comma after the last item",
        ) from error
    except ValueError as error:  # an integer of more digits than Python converts
        raise BadDataError("json-number", str(error), where=where) from error


# a string, also one that does not end, or a bracket outside of strings
JSON_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[\[{\]}]', re.DOTALL)


def _refuse_depth(text: str, where: object) -> None:
    if text.count("[") + text.count("{") <= JSON_DEPTH:
        return
    depth = 0
    for token in JSON_TOKEN.finditer(text):
        first = text[token.start()]
        if first in "[{":
            depth += 1
            if depth > JSON_DEPTH:
                raise BadDataError("json-depth", f"nested deeper than {JSON_DEPTH}", where=where)
        elif first in "]}":
            depth -= 1


# ---------------------------------------------------------------- journal and lock


class Journal:
    """Append-only records, one JSON object a line with its CRC-32, each durable after `append`.

    Opened by one process at a time (the caller holds the folder's lock); its threads may all
    append. A torn last line (cut short, or zeros where a block never reached the disk) is cut off
    on opening; any other line that does not match its checksum is damage and raises Integrity.
    Anyone may read with `Journal.read`.
    """

    def __init__(self, path: Path):
        self.path, self._one_at_a_time = Path(path), threading.Lock()
        new = not self.path.exists()
        with storage_errors(self.path):
            self._fd = open_own(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
            if new:
                sync_folder(self.path.parent)
        try:
            self.records, whole = _parse_journal(self.path)
            if whole != os.fstat(self._fd).st_size:
                with storage_errors(self.path):
                    os.ftruncate(self._fd, whole)
                    os.fsync(self._fd)
        except BaseException:
            self.close()
            raise

    def append(self, record: Mapping[str, object], *, sync: bool = True) -> None:
        """Add one record; on a full disk the journal is left unchanged.

        Without `sync` it is durable after `sync()`.
        """
        body = canonical_json(dict(record))
        line = b"%08x " % zlib.crc32(body) + body + b"\n"
        with self._one_at_a_time, storage_errors(self.path):
            end = os.fstat(self._fd).st_size
            try:
                if os.write(self._fd, line) != len(line):
                    raise OSError(errno.ENOSPC, "short write")
                if sync:
                    os.fsync(self._fd)
            except OSError:
                os.ftruncate(self._fd, end)
                raise
            self.records.append(json.loads(body))

    def sync(self) -> None:
        """Make durable what was added without."""
        with storage_errors(self.path):
            os.fsync(self._fd)

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def read(path: Path) -> list[dict[str, Any]]:
        """Return the complete records of a journal that another process may be writing.

        [] if there is none.
        """
        return _parse_journal(Path(path))[0] if Path(path).exists() else []


def _parse_journal(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the records of a journal, and how many of its bytes are intact."""
    *lines, tail = path.read_bytes().split(b"\n")
    records: list[dict[str, Any]] = []
    whole = 0
    for number, line in enumerate(lines, 1):
        body = _journal_body(line)
        if body is None:
            is_last = number == len(lines) and not tail.strip(b"\0")
            if (
                is_last and UNWRITTEN in line
            ):  # a record that spans blocks, the first of which was not written
                return records, whole
            raise _damaged_record(path, number)
        records.append(json.loads(body))
        whole += len(line) + 1
    if _journal_body(tail[:-1]) is not None and tail[-1:] != b"\0":  # only its line end was changed
        raise _damaged_record(path, len(lines) + 1)
    return records, whole


def _damaged_record(path: Path, number: int) -> IntegrityError:
    return IntegrityError(
        "journal-damaged",
        f"record {number} does not match its checksum",
        where=path,
        remedy=f"remove {path.parent} and run the same command again; it is made anew",
    )


def _journal_body(line: bytes) -> bytes | None:
    crc, _, body = line.partition(b" ")
    try:
        return body if len(crc) == 8 and int(crc, 16) == zlib.crc32(body) else None
    except ValueError:
        return None
