"""A miniature trial that says what it has done: run under strace by the crash tests. argv: the
store's root.
"""

from __future__ import annotations

import sys

from tlx.lab.store import Store
from tlx.result import Result

KEY = "ab12"
STEPS = 3


def run(root, say=lambda text: None) -> Result:
    """The trial, from wherever an earlier run of it left off."""

    def make(draft):
        for step in range(1, STEPS + 1):
            draft.log(step, {"loss": 1 / step})
            say(f"step {step}")
        return Result(key=KEY, kind="Tiny", spec={"kind": "Tiny"}, scores={"loss": 1 / STEPS})

    result = Store(root).get_or_compute(KEY, make)
    say("whole")
    return result


if __name__ == "__main__":
    run(sys.argv[1], lambda text: print(text, flush=True))
