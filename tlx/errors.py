"""Errors: what was requested, found and expected, and what to type.

One class per exit code. Library code raises and never prints; the command line shows one line per
error, ``error[code] where: what. expected. remedy``, and exits with `exit_code`. Codes are an API.
"""

from __future__ import annotations

import difflib
import errno
import unicodedata
from collections.abc import Iterable, Mapping, Sequence


def escape_control(text: object) -> str:
    """Return `text` with control, format and surrogate characters escaped.

    No label can then send control codes to a terminal.
    """
    return "".join(
        c if unicodedata.category(c) not in ("Cc", "Cf", "Cs") else ascii(c)[1:-1]
        for c in str(text)
    )


def nearest(word: str, known: Iterable[str], n: int = 1) -> list[str]:
    """Return the n known names most like `word`, likeliest first; [] when none is near."""
    by_lower = {name.lower(): name for name in known}
    return [
        by_lower[match]
        for match in difflib.get_close_matches(word.lower(), by_lower, n=n, cutoff=0.5)
    ]


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: "1 trial", "20 trials".

    plural  of the noun; default: with an s
    """
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def duration(seconds: float) -> str:
    """Format seconds as 4.2 s, 3 min 05 s, 2 h 10 min or 5 d 03 h."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, remaining = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {remaining:02d} s"
    hours = minutes // 60
    if hours < 48:
        return f"{hours} h {minutes % 60:02d} min"
    return f"{hours // 24} d {hours % 24:02d} h"


class TlxError(Exception):
    """Base of all errors: a bug in tlx if raised bare; subclasses are errors of the input.

    code      stable, kebab-case, e.g. "csv-fields"
    what      the error, with the value found
    where     file, file:row or option, when there is one
    expected  what would have been right
    remedy    what to do or type
    """

    exit_code = 1

    def __init__(
        self, code: str, what: str, *, where: object = "", expected: str = "", remedy: str = ""
    ):
        super().__init__(code, what)
        self.code, self.what, self.where = code, what, str(where)
        self.expected, self.remedy = expected, remedy

    def __str__(self) -> str:
        place = f" {self.where}:" if self.where else ""
        sentences = [self.what, self.expected and f"expected {self.expected}", self.remedy]
        return escape_control(
            f"error[{self.code}]{place} " + ". ".join(s.rstrip(".") for s in sentences if s)
        )

    # exceptions cross process borders, where keyword arguments do not survive by default
    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), dict(self.__dict__)))


def _rebuild(cls: type[TlxError], state: Mapping[str, object]) -> TlxError:
    error = cls.__new__(cls)
    error.__dict__.update(state)
    Exception.__init__(error, *(state.get(name, "") for name in ("code", "what")))
    return error


class UsageError(TlxError):
    """Error of the command: an unknown name, two options in conflict, a value out of range."""

    exit_code = 2


class UnknownNameError(UsageError):
    """Name that is in none of the rows of its table."""

    def __init__(self, kind: str, asked: str, known: Iterable[str], *, remedy: str = ""):
        names = sorted(known)
        near = nearest(asked, names)
        shown = ", ".join(names[:30]) + (f" and {len(names) - 30} more" if len(names) > 30 else "")
        expected = f"one of {shown}" + (f"; nearest: {near[0]}" if near else "")
        code = f"unknown-{kind.replace(' ', '-')}"
        super().__init__(code, f"unknown {kind} '{asked}'", expected=expected, remedy=remedy)


class BadDataError(TlxError):
    """File, row, image, split or weight file that cannot be used."""

    exit_code = 3


class MissingError(BadDataError):
    """Something that does not exist yet.

    The message has the command that makes it, or the options to give instead.
    """

    def __init__(self, what: str, where: object = "", *, made_by: str = ""):
        verb = "give" if made_by.startswith("-") else "make it with:"
        remedy = f"{verb} {made_by}" if made_by else ""
        super().__init__("missing", f"{what} not found", where=where, remedy=remedy)


class UnsafeError(TlxError):
    """Input that could run code, read outside its root or start a program; it is refused."""

    exit_code = 4


class ResourceError(TlxError):
    """Lack of a resource: disk, memory, a GPU, a permission, a package."""

    exit_code = 5


class UntrackedError(TlxError):
    """Failed delivery of records although tracking was required."""

    exit_code = 6


class TrialsFailedError(TlxError):
    """End of a study in which trials failed."""

    exit_code = 7


class BusyError(TlxError):
    """Lock of another process on what was requested."""

    exit_code = 8


class IntegrityError(TlxError):
    """File of ours that does not match its checksum, or two different results of one key."""

    exit_code = 9


class Stopped(TlxError):  # noqa: N818 — a request of the user, no error
    """Stop requested by a signal; work stopped at a boundary and can be resumed."""

    def __init__(
        self, signal_number: int, what: str = "stopped on request; the same command continues"
    ):
        super().__init__("stopped", what)
        self.exit_code = 128 + signal_number


LATE = "refused-in-trial"  # code of a setting that was offered, and refused only when a trial ran


def late_refusal(error: TlxError) -> TlxError:
    """Return the bug that a refused setting is inside a trial.

    Commands refuse settings before they compute.

    Returns any other error as it is.
    """
    if not isinstance(error, (UsageError, ErrorGroup)) or error.exit_code != UsageError.exit_code:
        return error
    return TlxError(
        LATE,
        f"a setting was accepted and then refused inside a trial: {error}",
        remedy="this is a fault in tlx: please report it",
    )


REFUSALS: dict[int, tuple[type[TlxError], str, str]] = {  # errno → error, code, what
    errno.EACCES: (ResourceError, "permission", "this user may not read or write it"),
    errno.EPERM: (ResourceError, "permission", "this user may not read or write it"),
    errno.EROFS: (ResourceError, "permission", "the file system is read-only"),
    errno.ENOSPC: (ResourceError, "disk-full", "no space to write"),
    errno.EDQUOT: (ResourceError, "disk-full", "no space to write within this user's quota"),
    errno.EFBIG: (
        ResourceError,
        "disk-full",
        "a file larger than this user or file system may have",
    ),
    errno.EMFILE: (ResourceError, "limit", "too many files are open"),
    errno.ENFILE: (ResourceError, "limit", "too many files are open on this machine"),
    errno.EAGAIN: (ResourceError, "limit", "the system starts no more processes or threads"),
    errno.ENOMEM: (ResourceError, "out-of-memory", "the system has no memory left"),
    errno.EIO: (ResourceError, "storage-failing", "the storage reports an input/output error"),
    errno.ESTALE: (ResourceError, "storage-failing", "the network file system has lost the file"),
    errno.ENXIO: (ResourceError, "storage-failing", "the device is not there"),
    errno.ENODEV: (ResourceError, "storage-failing", "the device is not there"),
    errno.EBUSY: (ResourceError, "in-use", "the system is using it"),
    errno.ETXTBSY: (ResourceError, "in-use", "a program that runs is in it"),
    errno.EMLINK: (ResourceError, "limit", "the folder has as many entries as it may have"),
    errno.ENOLCK: (ResourceError, "limit", "the file system gives no more locks"),
    errno.EOPNOTSUPP: (ResourceError, "permission", "the file system does not offer this"),
    errno.ENOENT: (
        BadDataError,
        "missing",
        "no such file or folder, and none can be made there",
    ),
    errno.ENOTDIR: (BadDataError, "not-a-folder", "a file is where a folder is needed"),
    errno.EEXIST: (BadDataError, "not-a-folder", "a file is where a folder is needed"),
    errno.EISDIR: (BadDataError, "not-a-file", "a folder is where a file is needed"),
    errno.ELOOP: (BadDataError, "link-loop", "a link that leads to itself"),
    errno.ENAMETOOLONG: (BadDataError, "name-length", "the name is too long for the file system"),
}


REMEDIES = {  # code of a refusal → what to do
    "limit": "raise the limit (ulimit -a shows it), or use fewer --workers",
    "out-of-memory": "use a smaller batch size or fewer workers",
    "disk-full": "free some space and run the same command again; it continues",
    "storage-failing": "check the disk",
    "in-use": "end what uses it, or choose another place",
    "missing": "check the name, or choose another place",
    "permission": "give this user the permission, or choose another place",
}


def refusal(error: OSError, where: object = "") -> TlxError | None:
    """Return why the system refused a file or folder; None for what may be a fault of tlx.

    What is missing without a name may be one.

    where  what was opened, unless the error itself names it
    """
    if error.errno not in REFUSALS or (error.errno == errno.ENOENT and not error.filename):
        return None
    kind, code, what = REFUSALS[error.errno]
    return kind(
        code, what, where=error.filename2 or error.filename or where, remedy=REMEDIES.get(code, "")
    )


def no_home() -> ResourceError:
    """Return the error that this user has no home folder, with what to set instead."""
    return ResourceError(
        "no-home",
        "this user has no home folder",
        remedy="set HOME, or name folders without ~: set "
        "TLX_CACHE (or --cache) to a folder of yours",
    )


def resource_error(error: BaseException) -> TlxError | None:
    """Return what the system refused: files, space, threads, memory.

    None if `error` is not of that kind.

    A net below the messages that name what was being done: a limit or a permission is never a fault
    in tlx.
    """
    if isinstance(error, OSError):
        return refusal(error)
    if isinstance(error, ImportError):
        return _import_refusal(str(error))
    if isinstance(error, MemoryError):
        return _no_memory(str(error))
    if isinstance(error, RuntimeError):
        return _runtime_refusal(str(error))
    return None


def _no_memory(text: str) -> TlxError:
    return ResourceError(
        "out-of-memory", text or "no memory left", remedy=REMEDIES["out-of-memory"]
    )


def _runtime_refusal(text: str) -> TlxError | None:
    if "home directory" in text:
        return no_home()
    if "no locator available" in text:
        return ResourceError(
            "no-kernel-cache",
            "no folder for compiled kernels can be written to",
            remedy="set NUMBA_CACHE_DIR to a folder of yours",
        )
    if "can't start new thread" in text:
        return ResourceError("limit", "the system starts no more threads", remedy=REMEDIES["limit"])
    if any(words in text for words in ("OutOfMemory", "out of memory", "can't allocate memory")):
        return _no_memory(text)
    return None


def _import_refusal(text: str) -> TlxError | None:
    if "Too many open files" in text:
        return ResourceError("limit", "too many files are open", remedy=REMEDIES["limit"])
    if "failed to map segment" in text or "Cannot allocate memory" in text:
        return ResourceError(
            "out-of-memory",
            f"no memory left to load a library ({text})",
            remedy="raise the limit of memory (ulimit -v shows it)",
        )
    return None


class ErrorGroup(TlxError):  # noqa: N818 — named like ExceptionGroup
    """All errors at once, in the order found.

    Its exit code is that of the gravest.
    """

    GRAVITY = (4, 9, 5, 3, 2, 8, 7, 6, 1)

    def __init__(self, problems: Sequence[TlxError], *, shown: int = 20):
        if not problems:
            raise ValueError("Problems needs at least one")
        super().__init__("problems", f"{len(problems)} problems")
        self.problems, self.shown = list(problems), shown
        self.exit_code = min((p.exit_code for p in problems), key=self.GRAVITY.index)

    def __str__(self) -> str:
        if len(self.problems) <= self.shown:
            return "\n".join(map(str, self.problems))
        by_code: dict[str, list[TlxError]] = {}  # many of one kind must not hide the other kinds
        for problem in self.problems:
            by_code.setdefault(problem.code, []).append(problem)
        each = max(1, self.shown // len(by_code))
        lines = []
        for code, problems in by_code.items():
            lines += [str(problem) for problem in problems[:each]]
            if len(problems) > each:
                more = f"and {len(problems) - each} more"
                lines.append(more if len(by_code) == 1 else f"{more} error[{code}]")
        return "\n".join(lines)


def raise_all(problems: Sequence[TlxError]) -> None:
    """Raise nothing, the only error, or all of them together."""
    if problems:
        raise problems[0] if len(problems) == 1 else ErrorGroup(problems)
