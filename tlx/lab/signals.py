"""Stopping on request: the first signal stops work at its next boundary, a second at once.

Ending at once is safe at any moment, because whatever is on disk is complete or can be continued.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

from ..errors import Stopped

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SAME_REQUEST_S = 1.0  # a launcher forwards its own Ctrl-C as another signal, a moment later


class _Request:
    number = 0
    at = 0.0


def stopping() -> bool:
    """Return whether a stop was requested.

    Cheap: science code gets it as a plain callable and calls it at every batch.
    """
    return _Request.number != 0


def received() -> int:
    """Return the signal that requested the stop, 0 if none did."""
    return _Request.number


def stop_if_asked() -> None:
    """Raise Stopped if a stop was requested.

    Call it where the work can be continued later.
    """
    if _Request.number:
        raise Stopped(_Request.number)


@contextlib.contextmanager
def graceful() -> Iterator[Callable[[], bool]]:
    """Treat signals as stop requests inside the block; yields `stopping`.

    Old handlers are restored at its end.

    Signals that are ignored (nohup) stay ignored. Outside the main thread, where Python allows no
    handlers, the block changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return
    before = {n: signal.getsignal(n) for n in STOP_SIGNALS}
    outermost = _on_signal not in before.values()
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _on_signal)
    try:
        yield stopping
    except Stopped as stop:  # raised where only the request is known, not the signal
        raise (Stopped(_Request.number, stop.what) if _Request.number else stop) from None
    finally:
        for number, handler in before.items():
            if handler is not None:  # one that Python did not install cannot be put back
                signal.signal(number, handler)
        if outermost:
            _Request.number = 0


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Put the handlers of stop signals back that code inside the block replaces."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


def in_worker() -> None:
    """Set a worker's signal handling: the driver decides, by SIGTERM.

    The keyboard and the terminal do not reach it.
    """
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTTOU):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _record)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def _record(number: int, frame: object) -> None:
    _Request.number, _Request.at = _Request.number or number, time.monotonic()


def _on_signal(number: int, frame: object) -> None:
    if not _Request.number:
        _record(number, frame)
    elif number == _Request.number or time.monotonic() - _Request.at > SAME_REQUEST_S:
        os._exit(128 + number)
