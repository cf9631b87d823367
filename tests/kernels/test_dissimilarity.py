"""Dissimilarities from tiles: in any blocks and parts, at any number of threads, close pairs from
the rows.
"""

from __future__ import annotations

import numpy as np
import pytest
from numba import config

from tlx.kernels import dispatch, dissimilarity, tile

Formula, Rows, fill, unit = (
    dissimilarity.Formula,
    dissimilarity.StandardisedRows,
    dissimilarity.fill,
    dissimilarity.unit,
)
SMALL = bool(config.DISABLE_JIT)
N, D = (20, 9) if SMALL else (300, 90)
SQUARED, ROOT, HALF = Formula(1.0, False), Formula(1.0, True), Formula(0.5, False)


@pytest.fixture(params=["fast", "plain"] if dispatch.has_tile() else ["plain"], autouse=True)
def way(request, monkeypatch):
    monkeypatch.setattr(dispatch, "has_tile", lambda: request.param == "fast")


def numbers(n=N, d=D, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal((n, d)).astype(dtype)


def matrix(rows, formula=SQUARED, dtype=np.float32, n=None, **how):
    """The upper triangle of all pairs, 0 elsewhere, and how many are no finite numbers."""
    n = n or len(rows.x)
    out = np.full((n, n), -1, dtype)
    odd = fill(rows, formula, range(n), range(n), out, np.arange(n, dtype=np.int64) * n, **how)
    assert (out[np.tril_indices(n, -1)] == -1).all() or how.get("step")
    assert (out.diagonal() == -1).all()
    return out, odd


def squares(x):
    x = x.astype(np.float64)
    return np.array([[((a - b) ** 2).sum() for b in x] for a in x])


def above(m):
    return m[np.triu_indices(len(m), 1)]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("formula", [SQUARED, ROOT, HALF])
def test_formulas(formula, dtype):
    x = numbers(dtype=dtype)
    got, odd = matrix(Rows(x), formula)
    exact = formula.factor * squares(x)
    np.testing.assert_allclose(
        above(got), above(np.sqrt(exact) if formula.root else exact), rtol=1e-6
    )
    assert odd == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_both_triangles(dtype):
    got, _ = matrix(Rows(numbers()), dtype=dtype, step=N)
    np.testing.assert_array_equal(got, got.T)
    np.testing.assert_array_equal(above(got), above(matrix(Rows(numbers()), dtype=dtype)[0]))


def test_blocks_are_pieces_of_the_whole():
    x = numbers()
    rows, whole = (
        Rows(x, np.linspace(0, 1, N), np.linspace(1, 2, N)),
        np.full((N, N), -1, np.float32),
    )
    want, _ = matrix(rows)
    cut = [0, 7, 13, N] if SMALL else [0, 70, 128, N]
    for i in range(3):
        for j in range(i, 3):
            of, against = range(cut[i], cut[i + 1]), range(cut[j], cut[j + 1])
            block, starts = np.full((len(of), len(against)), -1, np.float32), np.zeros(N, np.int64)
            starts[of] = np.arange(len(of)) * len(against) - against.start
            fill(rows, SQUARED, of, against, block, starts, threads=2)
            whole[of.start : of.stop, against.start : against.stop] = block
    np.testing.assert_array_equal(whole, want)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("root", [True, False])
def test_parts_of_columns_add_up(dtype, root):
    x = numbers()
    x[3] = x[1]
    room = 4 * tile.padded(N) * (4 if SMALL else 16)
    assert len(dissimilarity.column_parts(tile.padded(N), D, room)) > 2
    got, odd = matrix(Rows(x), Formula(1, root), dtype, room=room, step=N)
    exact = np.sqrt(squares(x)) if root else squares(x)
    np.testing.assert_allclose(above(got), above(exact), rtol=1e-6)
    assert got[1, 3] == 0
    np.testing.assert_array_equal(got, got.T)
    assert odd == 0


@pytest.mark.parametrize(
    ("rows", "d", "room"), [(64, 1, 1 << 20), (64, 3, 0), (640, 100_003, 1 << 20), (99, 7, 9)]
)
def test_parts_cover_the_columns(rows, d, room):
    parts = dissimilarity.column_parts(rows, d, room)
    assert [b for b, _ in parts] == [0, *(e for _, e in parts[:-1])]
    assert parts[-1][1] == d
    assert all(
        b % tile.UNROLL == 0 and (e - b) * rows * 4 <= max(room, tile.UNROLL * rows * 4)
        for b, e in parts
    )


@pytest.mark.parametrize("room", [1 << 20, 4 * tile.padded(N) * 16])
def test_same_bits_at_any_number_of_threads(room):
    x = numbers(dtype=np.float64)
    x[5], x[6] = x[4], x[4] + 1e-9
    mean, length = unit(x, True, 1)
    for rows in (Rows(x, mean, 1 / length), Rows(x, centre=x.mean(axis=0))):
        one = matrix(rows, step=N, room=room, threads=1)[0]
        for threads in (2, 3):
            np.testing.assert_array_equal(matrix(rows, step=N, room=room, threads=threads)[0], one)
    for threads in (2, 3):
        for got, first in zip(unit(x, True, threads), (mean, length), strict=True):
            np.testing.assert_array_equal(got, first)


def test_means_and_lengths():
    x = numbers(dtype=np.float64) + 1e6
    mean, length = unit(x, True)
    np.testing.assert_allclose(mean, x.mean(axis=1), rtol=1e-15)
    np.testing.assert_allclose(
        length, [np.sqrt(((row - row.mean()) ** 2).sum()) for row in x], rtol=1e-9
    )
    mean, length = unit(x, False)
    assert not mean.any()
    np.testing.assert_allclose(length, [np.sqrt((row**2).sum()) for row in x], rtol=1e-13)
    for value in (0.1, 1e4 + 0.3, 1e-30, 3e38):
        assert (unit(np.full((3, 70), value, np.float32), True)[1] == 0).all()
        assert (unit(np.full((3, 70), value), True)[1] == 0).all()


def test_close_pairs_are_measured_from_the_rows(monkeypatch):
    x = numbers(dtype=np.float64)
    x[1:4] = x[0] + 1e-7 * numbers(3, D, seed=1)
    x[7] = x[6]
    mean, length = unit(x, True)
    u = (x - x.mean(axis=1)[:, None]) / np.sqrt(((x - x.mean(axis=1)[:, None]) ** 2).sum(axis=1))[
        :, None
    ]
    for rows, exact in (
        (Rows(x, mean, 1 / length), squares(u)),
        (Rows(x, centre=x.mean(axis=0)), squares(x)),
    ):
        got, _ = matrix(rows)
        np.testing.assert_allclose(got[0, 1:4], exact[0, 1:4], rtol=1e-6)
        assert got[6, 7] == 0
    monkeypatch.setattr(
        dissimilarity, "NEAR_UNIT", 0.0
    )  # without, they would be noise: the test can fail
    wrong, _ = matrix(Rows(x, mean, 1 / length))
    assert (abs(wrong[0, 1:4] / squares(u)[0, 1:4] - 1) > 1e-3).any()


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
def test_what_float32_squares_cannot_hold():
    x = numbers(12, 5)
    for scale in (1e-25, 1e25, 1e15, 1e-18):
        got, odd = matrix(Rows(x * np.float32(scale)), ROOT)
        np.testing.assert_allclose(
            above(got), above(np.sqrt(squares(x * np.float32(scale)))), rtol=1e-6
        )
        assert odd == 0
    assert matrix(Rows(x * np.float32(1e25)), SQUARED)[1] == 66
    got, odd = matrix(Rows(x * np.float32(1e25)), SQUARED, np.float64)
    np.testing.assert_allclose(above(got), above(squares(x * np.float32(1e25))), rtol=1e-12)
    assert odd == 0
    x[3, 1] = np.nan
    assert matrix(Rows(x))[1] == 11
    x[3, 1] = np.inf
    assert matrix(Rows(x))[1] == 11
