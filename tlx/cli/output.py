"""Standard output: one way to print for all commands, on any stream, without control codes."""

from __future__ import annotations

import codecs
import contextlib
import errno
import json
import os
import shutil
import sys
from collections.abc import Iterator
from typing import Any

from ..errors import escape_control

PLAIN = {
    "±": "+-",
    "×": "x",
    "–": "-",
    "—": "-",
    "−": "-",
    "→": "->",
    "…": "...",
    "²": "2",
    "≥": ">=",
    "≤": "<=",
    "’": "'",
    "“": '"',
    "”": '"',
    "·": "*",
    "≈": "~",
}  # where a stream's encoding lacks the character
GONE = (errno.EPIPE, errno.ESHUTDOWN)


class OutputClosed(BaseException):
    """Signal that standard output is closed.

    Not an Exception: no trial is at fault, and none may catch it.
    """

    def __init__(self, error: OSError):
        super().__init__(str(error))
        self.is_gone = error.errno in GONE
        self.reason = os.strerror(error.errno) if error.errno else str(error)


@contextlib.contextmanager
def aside(is_aside: bool) -> Iterator[None]:
    """Print to standard error inside, so that standard output is left to the outcome."""
    if not is_aside:
        yield
        return
    with contextlib.redirect_stdout(sys.stderr):
        yield


def say(*lines: object) -> None:
    """Print each argument as one line, control characters escaped.

    Raises OutputClosed if the stream takes nothing.
    """
    if sys.stdout is None:
        return
    try:
        print("\n".join(map(escape_control, lines)), flush=True)
    except OSError as error:
        raise OutputClosed(error) from error


def say_json(content: object) -> None:
    """Print a value as JSON."""
    say(*json.dumps(content, indent=1, ensure_ascii=False).split("\n"))


def complain(text: object) -> None:
    """Print lines to standard error, control characters escaped.

    Does nothing where that is closed.
    """
    with contextlib.suppress(OSError, ValueError):
        print(
            "\n".join(escape_control(line) for line in str(text).split("\n")),
            file=sys.stderr,
            flush=True,
        )


def terminal_width() -> int | None:
    """Return the columns of the terminal that standard output is; None where it is a pipe or file.

    Tables are cut to fit for people alone: programs get every character.
    """
    if sys.stdout is None or not sys.stdout.isatty():
        return None
    return shutil.get_terminal_size().columns


def prepare() -> None:
    """Make the standard streams usable: redirect closed ones, refuse no character.

    A descriptor that is closed (`>&-`) would be given to the next file that is opened, which then
    gets what other libraries print.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            _lead_nowhere(descriptor)
            setattr(
                sys,
                name,
                os.fdopen(descriptor, "w" if descriptor else "r", closefd=False, encoding="utf-8"),
            )
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="tlx-plain")


def _lead_nowhere(descriptor: int) -> None:
    try:
        os.fstat(descriptor)
    except OSError:
        nowhere = os.open(os.devnull, os.O_RDWR)
        if nowhere != descriptor:
            os.dup2(nowhere, descriptor)
            os.close(nowhere)


def _plain(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    words = [
        PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode()
        for c in error.object[error.start : error.end]
    ]
    return "".join(words), error.end


codecs.register_error("tlx-plain", _plain)
