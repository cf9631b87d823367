"""A driver of a cluster to kill. argv: engine, address, root, tasks, steps, seconds a step."""

from __future__ import annotations

import os
import signal
import sys

from lab import driver

from tlx.errors import TlxError
from tlx.lab import signals
from tlx.lab.engines import ENGINES
from tlx.lab.tasks import ClusterOptions, Progress, RunOptions, Started


def say(event) -> None:
    words = [type(event).__name__, event.key]
    if isinstance(event, Started):
        words.append(str(event.attempt))
    if isinstance(event, Progress):
        words.append(str(event.values.get("pid", "")))
    print(*words, flush=True)


def main(engine, address, root, count, steps, pause_s) -> None:
    for number in signals.STOP_SIGNALS:  # whoever started us may have them ignored
        signal.signal(number, signal.SIG_DFL)
    with signals.graceful():
        ENGINES[engine](
            driver.tasks(root, int(count), int(steps), float(pause_s), "trial_with_pid"),
            workers=int(count),
            on_event=say,
            options=RunOptions(cluster=ClusterOptions(address=address)),
        )


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except TlxError as error:
        print(error, flush=True)
        os._exit(error.exit_code)
