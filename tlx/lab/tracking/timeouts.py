"""Settings of mlflow in this process while the mirror uses it: short tries, no output."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

SETTINGS = {  # of mlflow's HTTP client: one short try, for the mirror itself tries again later
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
}
# it would print the address with its password
ALWAYS = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}


class WhileNeeded:
    """Process-wide change made by the first user inside the block and undone by the last.

    change()   makes it and returns what undoes it
    """

    def __init__(self, change: Callable[[], Callable[[], None]]):
        self._change, self._users, self._guard = change, 0, threading.Lock()
        self._undo: Callable[[], None] = lambda: None

    def __enter__(self) -> None:
        with self._guard:
            if self._users == 0:
                self._undo = self._change()
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._guard:
            self._users -= 1
            if self._users == 0:
                self._undo()


def _hush() -> Callable[[], None]:
    import mlflow  # noqa: F401  (importing it configures its loggers)

    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic", "urllib3", "sqlalchemy")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)

    def undo() -> None:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

    return undo


# mlflow's own log lines held back: they name addresses, and messages are the caller's
quiet = WhileNeeded(_hush)


def _set() -> Callable[[], None]:
    own = [variable for variable in SETTINGS if variable not in os.environ]
    before = {variable: os.environ.get(variable) for variable in ALWAYS}
    os.environ.update({variable: SETTINGS[variable] for variable in own} | ALWAYS)

    def undo() -> None:
        for variable in own:
            os.environ.pop(variable, None)
        for variable, value in before.items():
            if value is None:
                os.environ.pop(variable, None)
            else:
                os.environ[variable] = value

    return undo


short_timeouts = WhileNeeded(_set)  # SETTINGS, where the user has set nothing else
