"""Command line: one short module per entry point.

Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

INTERRUPTED = 130  # 128 + SIGINT
PIPE_CLOSED = 141  # 128 + SIGPIPE


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a `tlx` command and exit with its code; print a TlxError on standard error.

    arguments  the words of the command; None takes those of this process, which then ends at once
    """
    if arguments is None:
        _use_utf8_names()
    from . import output

    output.prepare()
    code = _run(list(sys.argv[1:] if arguments is None else arguments))
    if arguments is None:
        _end_process(code)
    sys.exit(code)


def _use_utf8_names() -> None:
    """Restart in UTF-8 mode where file names are taken for ASCII (the C locale).

    Accented names then are bytes that no record and no server takes. Output keeps its encoding.
    """
    if sys.flags.utf8_mode or sys.getfilesystemencoding().lower() not in (
        "ascii",
        "us-ascii",
        "ansi_x3.4-1968",
    ):
        return
    streams = {} if sys.stdout is None else {"PYTHONIOENCODING": sys.stdout.encoding}
    os.execve(  # noqa: S606 — this very interpreter, with its own arguments
        sys.executable,
        [sys.executable, *sys.orig_argv[1:]],
        streams | dict(os.environ) | {"PYTHONUTF8": "1"},
    )


def _run(words: list[str]) -> int:
    """Run a command; return its exit code."""
    from ..errors import ResourceError, Stopped, TlxError, resource_error
    from . import app
    from .output import OutputClosed, complain

    try:
        return app.invoke(words)
    except KeyboardInterrupt:
        complain(Stopped(INTERRUPTED - 128, "interrupted; the same command continues"))
        return INTERRUPTED
    except (OutputClosed, BrokenPipeError) as error:
        if isinstance(error, BrokenPipeError) or error.is_gone:  # tlx … | head
            return PIPE_CLOSED
        full = ResourceError(
            "output",
            f"standard output cannot be written to: {error.reason}",
            remedy="what was finished is kept: run the same command again, with output that has "
            "room",
        )
        complain(full)
        return full.exit_code
    except Exception as error:
        refused = error if isinstance(error, TlxError) else resource_error(error)
        if refused is not None:
            complain(refused)
            return refused.exit_code
        complain(
            f"error[bug] {type(error).__name__}: {error}. this is a fault in tlx: please report "
            f"it, with the "
            f"traceback in {_logged(error)}"
        )
        return 1


def _end_process(code: int) -> NoReturn:
    """End the process at once, after everything is printed and stored.

    Taking torch, mlflow and their threads down in order takes seconds. Handlers registered for the
    end of the process (temporary folders, child processes) still run.
    """
    import atexit
    import contextlib
    import io
    import logging

    with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(Exception):
        atexit._run_exitfuncs()  # if one cannot remove its folder, everything has been printed
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


def _logged(error: Exception) -> str:
    """Write a traceback to a file, and say where.

    TLX_DEBUG shows it as well.
    """
    import tempfile
    import traceback

    from ..errors import TlxError
    from ..lab.settings import Settings
    from .output import complain

    text = "".join(traceback.format_exception(error))
    if os.environ.get("TLX_DEBUG"):
        complain(text)
    for place in (lambda: Settings().cache_folder, tempfile.gettempdir):
        try:
            folder = place()
            os.makedirs(folder, exist_ok=True)
            fd, path = tempfile.mkstemp(
                prefix=f"tlx-error-{os.getpid()}-", suffix=".log", dir=folder
            )
        except (OSError, TlxError):
            continue
        with os.fdopen(fd, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        return path
    return "no place that can be written to"
