"""A driver to kill. argv: store root, workers, tasks, steps, seconds a step. Exits as the command
line does.
"""

from __future__ import annotations

import os
import signal
import sys

from tlx.errors import TlxError
from tlx.lab import signals
from tlx.lab.engines import local as engines_local


def tasks(root, count, steps, pause_s, name="trial"):
    return [
        engines_local.Task(key, key, f"lab.tiny_tasks:{name}", (str(root), key, steps, pause_s))
        for key in (f"{number:02x}aa" for number in range(count))
    ]


def main(root, workers, count, steps, pause_s, call="") -> None:
    for number in signals.STOP_SIGNALS:  # whoever started us may have them ignored
        signal.signal(number, signal.SIG_DFL)
    asked = (
        [engines_local.Task(str(i), "", call, (root,)) for i in range(int(count))]
        if call
        else tasks(root, int(count), int(steps), float(pause_s))
    )
    with signals.graceful():
        engines_local.run_all(
            asked,
            workers=int(workers),
            on_event=lambda event: print(type(event).__name__, flush=True),
        )


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except TlxError as error:
        print(error, flush=True)
        os._exit(error.exit_code)
