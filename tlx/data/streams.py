"""Seeded orders that never change: no numpy release alters them.

Only SeedSequence and the raw words of PCG64 are used, whose streams numpy promises to keep; the
methods of Generator may change between releases.
"""

from __future__ import annotations

import hashlib

import numpy as np

from .. import files


def seeded_permutation(n: int, seed: int, *purpose: str | int) -> np.ndarray:
    """Return a random order of 0..n-1, (n,) int64.

    Other purposes give other, independent orders of the same seed.
    """
    words = np.frombuffer(hashlib.sha256(files.canonical_json(list(purpose))).digest(), "<u4")
    sequence = np.random.SeedSequence([seed, *(int(word) for word in words)])
    return np.argsort(np.random.PCG64(sequence).random_raw(n), kind="stable")
