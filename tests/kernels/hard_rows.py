"""Rows on which a search for neighbours goes wrong easily, and the ways in which it is done."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from numba import config

from tlx.kernels import candidates, dispatch

SMALL = bool(config.DISABLE_JIT)
fast = pytest.mark.skipif(
    not dispatch.has_tile(), reason="this CPU, or this pass, has no fast tile"
)
rng = np.random.default_rng


def signal(n, d, seed=0):
    draw = rng(seed)
    return (
        draw.standard_normal((n, 8)) @ draw.standard_normal((8, d))
        + 0.5 * draw.standard_normal((n, d))
        + 0.1
    )


def clusters(n, d):
    return 10 * rng(1).standard_normal((10, d))[np.arange(n) % 10] + 1e-3 * signal(n, d)


def with_repeated(x, rows):
    x[rows] = x[rows[0]]
    return x


def shell(n, d):
    """Row 0 is the centre; the others are all but equally near to it: no float32 sum can order
    them.
    """
    x = rng(3).standard_normal((n, d))
    x *= (1 + 1e-7 * rng(4).random(n) + 1e-9)[:, None] / np.linalg.norm(x, axis=1)[:, None]
    x[0] = 0
    return x


HARD = {
    "plain": signal,
    "independent": lambda n, d: rng(2).standard_normal((n, d)),
    "offset 1e4, sd 1": lambda n, d: 1e4 + signal(n, d),
    "offset 1e4, sd 1e-2": lambda n, d: 1e4 + 1e-2 * rng(2).standard_normal((n, d)),
    "offset for each row": lambda n, d: signal(n, d) + 1e4 * rng(5).standard_normal((n, 1)),
    "offset for each row, sd 1e-2": lambda n, d: (
        1e-2 * signal(n, d) + 1e4 * rng(5).standard_normal((n, 1))
    ),
    "two groups far apart": lambda n, d: 1e-2 * signal(n, d) + 1e5 * (np.arange(n) % 2)[:, None],
    "near duplicates": lambda n, d: (
        signal(n // 2 + 1, d)[np.arange(n) // 2] + 1e-4 * rng(2).standard_normal((n, d))
    ),
    "tight clusters": clusters,
    "sparse, an outlying feature": lambda n, d: (
        np.maximum(signal(n, d) - 2, 0) + 1e3 * (np.arange(d) == 1)
    ),
    "an outlying row": lambda n, d: signal(n, d) * np.where(np.arange(n) == 5, 1e6, 1)[:, None],
    "50 identical rows": lambda n, d: with_repeated(signal(n, d), np.arange(3, min(n, 53))),
    "three massive features": lambda n, d: signal(n, d) * np.where(np.arange(d) % 7 == 3, 1e5, 1),
    "shell": shell,
    "lattice": lambda n, d: rng(6).integers(0, 2, (n, d)).astype(float),
    "one hot": lambda n, d: np.eye(n, d + n),
    "all equal": lambda n, d: np.full((n, d), 0.1),
    "differences that vanish when squared": lambda n, d: np.where(
        np.arange(d) == 1, 1, 2.0**-75 * signal(n, d)
    ),
    "wide range": lambda n, d: signal(n, d) * 2.0 ** rng(7).integers(-30, 5, (n, d)),
}


def rows(case, dtype, n=None, d=None):
    n, d = n or (24 if SMALL else 330), d or (5 if SMALL else 67)
    x = np.ascontiguousarray(HARD[case](n, d).astype(dtype))
    x.flags.writeable = False
    return x


WAYS = ["as it chooses", "bfloat16", "differences", "plain"] if dispatch.has_tile() else ["plain"]


@contextlib.contextmanager
def made_to_go(way):
    """One way in which neighbours are found, on all rows."""
    with pytest.MonkeyPatch.context() as patch:
        if way == "plain":
            patch.setattr(candidates, "worthwhile", lambda n, k: False)
        elif way == "differences":
            patch.setattr(dispatch, "has_bfloat16", lambda: False)
        elif way == "bfloat16":
            if not dispatch.has_bfloat16():
                pytest.skip("this CPU multiplies no bfloat16")
            patch.setattr(candidates, "_spare", lambda *_, **by: 3)
        yield
