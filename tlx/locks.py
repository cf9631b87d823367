"""Locks between processes: the kernel's where they hold, leases in files elsewhere.

`flock` is freed by the kernel when its holder dies, so it is used wherever it works. It does not
work everywhere: some network file systems refuse it, some accept it and lock nothing, some lock
only against processes of the same machine. So each file system is tested once: two descriptors must
exclude each other. Where they do not, and on every network file system, a claim is also a file that
is made with O_EXCL, which all of them do atomically. Its holder touches it while it lives; one that
has not been touched for `LEASE_S` seconds may be taken over. A holder that was paused for longer
loses its claim, and `Lock.confirm` raises Busy before it commits.

`TLX_LOCKS=lease` takes leases everywhere.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from . import files
from .errors import BusyError, ResourceError

LEASE_S = 60.0  # a claim that was not renewed for so long may be taken over
RENEW_S = LEASE_S / 6
POLL_S = 0.05
NO_FLOCK = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)
NETWORK = (
    "nfs",
    "nfs4",
    "lustre",
    "cifs",
    "smb3",
    "smbfs",
    "ceph",
    "beegfs",
    "gpfs",
    "glusterfs",
    "afs",
    "9p",
    "fuse.sshfs",
    "fuse.glusterfs",
    "fuse.ceph",
    "fuse.juicefs",
    "fuse.s3fs",
    "ocfs2",
    "gfs2",
    "orangefs",
)
OWNER, READER = ".owner", ".reader-"


@dataclass
class Lock:
    """Held lock; `confirm` raises Busy if it was lost meanwhile."""

    path: Path
    lease: Lease | None = None

    def confirm(self) -> None:
        """Raise Busy if another process took the claim over while this one was paused.

        Costs nothing where flock holds.
        """
        if self.lease is not None and not self.lease.is_ours():
            raise BusyError(
                "lease-lost",
                f"this process was paused for more than {LEASE_S:.0f} s and another went on",
                where=self.path,
                remedy="nothing is lost; run the same command again",
            )


@contextlib.contextmanager
def lock(
    path: Path, *, wait: bool = False, shared: bool = False, signed: bool = True
) -> Iterator[Lock]:
    """Hold the lock `path` inside the block.

    Raises Busy at once, naming the holder, unless `wait`. A killed holder frees it.

    shared  many may hold it so at once, and none alone meanwhile
    signed  the holder's number is written into it, for the message: some file systems take
            milliseconds for that
    """
    path = Path(path)
    files.make_folder(path.parent)
    kind = _kind_of_locks(path.parent)
    with contextlib.ExitStack() as held:
        if kind.flock:
            held.enter_context(_flocked(path, wait=wait, shared=shared, signed=signed))
        lease = held.enter_context(_leased(path, wait, shared, kind.flock)) if kind.lease else None
        yield Lock(path, lease)


@contextlib.contextmanager
def lease(path: Path, *, takeover: bool = False) -> Iterator[Lock]:
    """Hold a claim as a file, wherever it lies; it tells machines apart where no lock does.

    Raises Busy at once, naming the holder, unless `takeover`. Two may hold it for a moment when a
    machine was frozen: it saves work, nothing may depend on it.
    """
    files.make_folder(path.parent)
    if takeover:
        _unlink(path.with_name(path.name + OWNER))
    held = _claim_alone(path, wait=False, flock=False)
    with _holding(held):
        yield Lock(path, held)


# ---------------------------------------------------------------- the kernel's locks

_held: set[int] = set()  # descriptors of the locks that this process holds


@contextlib.contextmanager
def _flocked(path: Path, *, wait: bool, shared: bool, signed: bool) -> Iterator[None]:
    fd = files.open_own(path, os.O_RDWR | os.O_CREAT)
    _held.add(fd)
    try:
        _flock(
            fd, path, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
        )
        if signed:
            with files.storage_errors(path):
                os.ftruncate(fd, 0)
                os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        if fd in _held:  # not so in a forked child that leaves this block
            _held.remove(fd)
            os.close(fd)


def _flock(fd: int, path: Path, operation: int) -> None:
    try:
        fcntl.flock(fd, operation)
    except BlockingIOError:
        holder = os.pread(fd, 64, 0).decode(errors="replace").strip()
        raise BusyError(
            "busy",
            f"in use by process {holder or 'unknown'}",
            where=path,
            remedy="wait for it to end, or stop it",
        ) from None
    except OSError as error:
        if error.errno not in NO_FLOCK:
            raise
        raise ResourceError(
            "no-locks",
            f"the file system gives no lock ({error.strerror})",
            where=path,
            remedy="is its lock service running? Else keep the store on another file system, with "
            "--mlflow-path, or set TLX_LOCKS=lease for every process that uses it",
        ) from error


@dataclass(frozen=True)
class _Kind:
    flock: bool
    lease: bool


@functools.cache
def _kind_of_locks(folder: Path) -> _Kind:
    """Return which locks hold for files in `folder`; tested once a process and folder."""
    if os.environ.get("TLX_LOCKS") == "lease":
        return _Kind(flock=False, lease=True)
    if not _flock_works(folder):
        return _Kind(flock=False, lease=True)
    return _Kind(flock=True, lease=_file_system(folder) in NETWORK)


def _flock_works(folder: Path) -> bool:
    """Return whether two descriptors of one file in `folder` exclude each other."""
    name = f"{files.TEMPORARY}lock-{os.getpid()}-{secrets.token_hex(4)}"
    path = folder / name
    first = files.open_own(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        second = files.open_own(path, os.O_RDWR)
        try:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno not in NO_FLOCK:
                raise
        finally:
            os.close(second)
        return False
    finally:
        os.close(first)
        path.unlink(missing_ok=True)


def _file_system(folder: Path) -> str:
    """Return the type of `folder`'s file system as the kernel names it.

    "" where it does not say.
    """
    try:
        rows = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    best, kind, here = "", "", os.path.realpath(folder)
    for row in rows:
        before, _, after = row.partition(" - ")
        mounted = before.split(" ")[4].encode().decode("unicode_escape")
        inside = here == mounted or here.startswith(mounted.rstrip("/") + "/")
        if inside and len(mounted) >= len(best):
            best, kind = mounted, after.split(" ")[0]
    return kind


# ---------------------------------------------------------------- leases


@dataclass(frozen=True)
class Lease:
    """Claim as a file that its holder renews."""

    path: Path
    token: str

    def is_ours(self) -> bool:
        """Return whether the file still names this claim."""
        return _read(self.path).get("token") == self.token

    def renew(self) -> None:
        """Touch the file, so that the claim is not taken over."""
        with contextlib.suppress(OSError):
            os.utime(self.path)

    def release(self) -> None:
        """Remove the claim."""
        with contextlib.suppress(OSError):
            if self.is_ours():
                os.unlink(self.path)


@dataclass
class _Sight:
    """Last seen state of another's claim, by this process's own clock.

    Clocks of machines differ.
    """

    token: str = ""
    renewed: float = 0.0
    since: float = field(default_factory=time.monotonic)

    def is_stale(self, token: str, renewed: float) -> bool:
        if (token, renewed) != (self.token, self.renewed):
            self.token, self.renewed, self.since = token, renewed, time.monotonic()
        return time.monotonic() - self.since > LEASE_S


_leases: set[Lease] = set()
_sights: dict[Path, _Sight] = {}
_renewing: threading.Thread | None = None


@contextlib.contextmanager
def _leased(path: Path, wait: bool, shared: bool, flock: bool) -> Iterator[Lease]:
    """Hold a lease next to `path`.

    With `flock`, that excludes this machine's processes already.
    """
    lease = _claim_shared(path, wait, flock) if shared else _claim_alone(path, wait, flock)
    with _holding(lease):
        yield lease


@contextlib.contextmanager
def _holding(lease: Lease) -> Iterator[None]:
    """Renew a claim inside the block, release it at its end."""
    _leases.add(lease)
    _start_renewing()
    pid = os.getpid()
    try:
        yield
    finally:
        _leases.discard(lease)
        if os.getpid() == pid:
            lease.release()


def _claim_alone(path: Path, wait: bool, flock: bool) -> Lease:
    while True:
        owner = path.with_name(path.name + OWNER)
        lease = _create(owner) or _take_over(owner, flock)
        if lease is not None:
            if not _readers(path, flock):
                return lease
            lease.release()
        if not wait:
            raise _busy(path)
        time.sleep(POLL_S)


def _claim_shared(path: Path, wait: bool, flock: bool) -> Lease:
    owner = path.with_name(path.name + OWNER)
    while True:
        lease = _create(path.with_name(f"{path.name}{READER}{secrets.token_hex(8)}"))
        assert lease is not None  # its name is random
        if not owner.exists():
            return lease
        abandoned = _take_over(owner, flock)
        if abandoned is not None:
            abandoned.release()
            return lease
        lease.release()
        if not wait:
            raise _busy(path)
        time.sleep(POLL_S)


def _create(path: Path) -> Lease | None:
    """Create a claim; return None if it exists."""
    token = secrets.token_hex(16)
    try:
        fd = files.open_own(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        return None
    with files.storage_errors(path), os.fdopen(fd, "wb") as file:
        file.write(_content(token))
    return Lease(path, token)


def _content(token: str) -> bytes:
    return json.dumps(
        {"token": token, "host": socket.gethostname(), "boot": _boot(), "pid": os.getpid()}
    ).encode()


def _take_over(path: Path, flock: bool) -> Lease | None:
    """Take over a claim whose holder is gone; return None while it lives.

    Of several that see the same dead claim one wins: the one that creates the file named after its
    token.
    """
    seen = _read(path)
    if not _is_abandoned(path, seen, flock):
        return None
    turn = path.with_name(f"{path.name}-{seen.get('token', 'unreadable')}")
    mark = _create(turn)
    if mark is None:
        if _is_abandoned(turn, _read(turn), flock):  # the holder of the turn died in it
            _unlink(turn)
        return None
    try:
        if _read(path) != seen:
            return None
        token = secrets.token_hex(16)
        with files.atomic_write(path) as file:
            file.write(_content(token))
        return Lease(path, token)
    finally:
        _unlink(turn)


def _is_abandoned(path: Path, seen: dict[str, object], flock: bool) -> bool:
    """Return whether the holder of a claim is dead, as this machine knows or the lease shows."""
    try:
        renewed = os.stat(path, follow_symlinks=False).st_mtime
    except FileNotFoundError:
        return False
    if (seen.get("host"), seen.get("boot")) == (socket.gethostname(), _boot()):
        if flock and path.name.endswith(OWNER):
            return True  # the kernel has just given us what its holder would still hold
        if not _is_alive(seen.get("pid")):
            return True
    sight = _sights.setdefault(path, _Sight(str(seen.get("token", "")), renewed))
    return sight.is_stale(str(seen.get("token", "")), renewed)


def _readers(path: Path, flock: bool) -> bool:
    """Return whether anybody holds `path` shared.

    What dead readers left is removed.
    """
    living = False
    for reader in path.parent.glob(f"{path.name}{READER}*"):
        if _is_abandoned(reader, _read(reader), flock=False):
            _unlink(reader)
        else:
            living = True
    return living


def _busy(path: Path) -> BusyError:
    holder = _read(path.with_name(path.name + OWNER))
    named = f"process {holder['pid']} on {holder['host']}" if "pid" in holder else "another process"
    return BusyError(
        "busy",
        f"in use by {named}",
        where=path,
        remedy=f"wait for it to end, or stop it; if its machine is gone, wait {LEASE_S:.0f} s",
    )


def _read(path: Path) -> dict[str, object]:
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _is_alive(pid: object) -> bool:
    if not isinstance(pid, int):
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@functools.cache
def _boot() -> str:
    """Return an identifier of this start of this machine.

    A container has its host's: a process number counts within it.
    """
    try:
        space = os.readlink("/proc/self/ns/pid")
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + space
    except OSError:
        return ""


def _start_renewing() -> None:
    global _renewing  # noqa: PLW0603 — one thread a process
    if _renewing is None or not _renewing.is_alive():
        _renewing = threading.Thread(target=_renew, name="tlx-leases", daemon=True)
        _renewing.start()


def _renew() -> None:
    while True:
        time.sleep(RENEW_S)
        for lease in tuple(_leases):
            lease.renew()


def _forget_locks() -> None:
    """Drop the locks in a forked child.

    They are its parent's alone, and must not outlive it in a child's descriptors.
    """
    global _renewing  # noqa: PLW0603 — one thread a process
    while _held:
        os.close(_held.pop())
    _leases.clear()
    _renewing = None


os.register_at_fork(after_in_child=_forget_locks)
