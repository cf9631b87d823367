"""Kernels of metrics over blocks, loaded: import this in the server that workers are forked from.

Compiled code takes half a second to load, in each fresh process again. Each kernel is called once,
with one thread, so that no thread is started that a forked process would lack.
"""

from __future__ import annotations

import itertools

import numpy as np

from ...kernels import neighbours
from ..sum_of_squares import sum_of_squares

ROWS = 8


def load() -> None:
    """Call the kernels with a few rows of each type."""
    for kind in (np.float32, np.float64):
        x = np.arange(4 * ROWS, dtype=kind).reshape(ROWS, 4)
        far = np.full(ROWS, np.inf)
        for ties, k in itertools.product((True, False), (1, 2)):
            neighbours.nearest(x, k, ties=ties, threads=1)
            neighbours.nearest_both(x, x, k, bounds=(far, far), ties=ties, threads=1)
            neighbours.nearest_between(x, x, k, bounds=far, ties=ties, threads=1)
        sum_of_squares(x, np.arange(ROWS) % 2, threads=1)


load()
