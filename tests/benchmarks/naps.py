"""Task of cluster.py, alone in a module: each process of a task imports it before it runs."""

from __future__ import annotations

import time


def nap(seconds: float, *, emit: object) -> None:
    """Take so long, without the CPU."""
    time.sleep(seconds)
