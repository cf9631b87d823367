"""Blocks of inner products, and what they have in common, in any parts."""

from __future__ import annotations

import numpy as np
import pytest
from numba import config

from tlx.kernels import dispatch, dissimilarity, grams, tile

Rows = dissimilarity.StandardisedRows
SMALL = bool(config.DISABLE_JIT)
N, D = (9, 10) if SMALL else (150, 90)


@pytest.fixture(params=["fast", "plain"] if dispatch.has_tile() else ["plain"], autouse=True)
def way(request, monkeypatch):
    monkeypatch.setattr(dispatch, "has_tile", lambda: request.param == "fast")


def numbers(n, seed):
    return np.random.default_rng(seed).standard_normal((n, D))


@pytest.mark.parametrize("columns", [4, 8, 1000])
def test_blocks_in_parts_of_columns(columns):
    x, y, centre = numbers(N, 0), numbers(2 * N, 1), numbers(1, 2)[0]
    left, right = Rows(x, centre=centre), Rows(y, scale=np.full(2 * N, 3.0))
    of, against = range(2, N - 1), range(1, N + 5)
    out = np.full((len(of), len(against)), np.nan, np.float32)
    room = 4 * columns * (tile.padded(len(of)) + tile.padded(len(against)))
    grams.gram(left, of, right, against, out, upper=False, room=room, threads=2)
    np.testing.assert_allclose(out, (x[2 : N - 1] - centre) @ (3 * y[1 : N + 5]).T, atol=2e-4)
    out = np.full((len(of), len(of)), np.nan, np.float32)
    grams.gram(left, of, left, of, out, upper=True, room=4 * columns * tile.padded(len(of)))
    np.testing.assert_allclose(
        out, np.triu((x[2 : N - 1] - centre) @ (x[2 : N - 1] - centre).T, 1), atol=2e-4
    )


def test_overlaps():
    blocks = (
        np.random.default_rng(0).standard_normal((3, 50 if SMALL else 20_000)).astype(np.float32)
    )
    pairs = np.array([(0, 0), (2, 1), (1, 2)])
    one = grams.overlaps(blocks, pairs, threads=1)
    wide = blocks.astype(np.float64)
    np.testing.assert_allclose(
        one, [(wide[a] * wide[b]).sum() for a, b in pairs], rtol=1e-12, atol=1e-9
    )
    np.testing.assert_array_equal(grams.overlaps(blocks, pairs, threads=3), one)
