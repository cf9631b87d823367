"""The command line: a thin skin, one short module per entry point. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from ..errors import TlxError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a `tlx` command and leave with its exit code; a TlxError is said on standard error, one line each."""
    from ..errors import TlxError, resource_error, visible
    from . import app, options

    words = options.normalised(list(sys.argv[1:] if arguments is None else arguments), app.flags())
    try:
        app.app(words, prog_name="tlx")
    except TlxError as error:
        _leave(error)
    except BrokenPipeError:  # tlx … | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        refused = resource_error(error)
        if refused is not None:
            _leave(refused)
        print(f"error[bug] {visible(type(error).__name__)}: {visible(error)}. this is a fault in tlx: please report "
              f"it, with the traceback in {_logged(error)}", file=sys.stderr)
        sys.exit(1)


def _leave(error: TlxError) -> NoReturn:
    from ..errors import visible

    print("\n".join(visible(line) for line in str(error).splitlines()), file=sys.stderr)
    sys.exit(error.exit_code)


def _logged(error: Exception) -> str:
    """Write a traceback down, and say where; TLX_DEBUG shows it as well."""
    import tempfile
    import traceback

    from ..lab.settings import Settings

    text = "".join(traceback.format_exception(error))
    if os.environ.get("TLX_DEBUG"):
        print(text, file=sys.stderr)
    for folder in (Settings().cache_folder, tempfile.gettempdir()):
        try:
            os.makedirs(folder, exist_ok=True)
            fd, path = tempfile.mkstemp(prefix=f"tlx-error-{os.getpid()}-", suffix=".log", dir=folder)
        except OSError:
            continue
        with os.fdopen(fd, "w") as file:
            file.write(text)
        return path
    return "no place that can be written to"
