"""The register tile and its packed rows: sums as numpy's, the same bits wherever two rows lie, both
ways alike.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import config, njit

from tlx.kernels import dispatch, parallel, tile

FAST = dispatch.has_tile()
SMALL = bool(config.DISABLE_JIT)
EPS = 2.0**-24
HASWELL = {
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "+64bit,+cmov,+cx8,+popcnt,+sse4.2,+avx,+avx2,+fma,+bmi2",
}


@pytest.fixture(params=["fast", "plain"] if FAST else ["plain"])
def way(request, monkeypatch):
    """Both ways, in one process."""
    monkeypatch.setattr(dispatch, "has_tile", lambda: request.param == "fast")
    return request.param


def numbers(n, d, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal((n, d)).astype(dtype)


def packed(x, **how):
    into = tile.empty(*x.shape)
    tile.pack(into, x, 0, len(x), 0, x.shape[1], **how)
    return into


def unpacked(into, n, d):
    """The rows that lie in packed ones, whichever way."""
    rows = into if into.ndim == 2 else np.concatenate([panel.T for panel in into])
    assert not rows[n:].any()
    assert not rows[:, d:].any()
    return rows[:n, :d]


def told(out, rows, columns):
    """A tile as a matrix."""
    return np.concatenate(list(out), axis=1)[:rows, :columns]


def run(sums, a, b, first_a=0, first_b=0, rows=None, columns=None, upper=False, fill=np.nan):
    rows, columns = (
        len(a) - first_a if rows is None else rows,
        len(b) - first_b if columns is None else columns,
    )
    out = tile.scratch(tile.padded(max(rows, columns)))
    out[:] = fill
    sums(packed(a), first_a, rows, packed(b), first_b, columns, upper, out)
    return told(out, rows, columns)


def want(sums, a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    if sums is tile.products:
        return np.array([[(x * y).sum() for y in b] for x in a]), np.array(
            [[abs(x * y).sum() for y in b] for x in a]
        )
    squares = np.array([[((x - y) ** 2).sum() for y in b] for x in a])
    return squares, squares


SHAPES = (
    [(1, 1, 1), (2, 3, 5), (5, 70, 3)]
    if SMALL
    else [
        (1, 1, 1),
        (3, 2, 4),
        (4, 64, 64),
        (5, 70, 3),
        (33, 31, 65),
        (64, 64, 129),
        (130, 67, 200),
        (100, 257, 1000),
    ]
)


@pytest.mark.parametrize("sums", [tile.products, tile.differences])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_are_those_of_float64(way, sums, shape):
    m, n, d = shape
    a, b = numbers(m, d), numbers(n, d, seed=1)
    exact, size = want(sums, a, b)
    assert (abs(run(sums, a, b) - exact) <= (tile.DEPTH + d / tile.DEPTH + 4) * EPS * size).all()


def test_long_sums_and_one_last_feature(way):
    d = 700 if SMALL else 65_537
    a = np.zeros((3, d), np.float32)
    a[0, -1], a[1, -2], a[2] = 3, 4, 1
    got = run(tile.differences, a, a)
    assert got[0, 1] == 25
    assert got[0, 0] == got[1, 1] == got[2, 2] == 0
    assert abs(got[2, 0] - (d - 1 + 4)) <= (tile.DEPTH + d / tile.DEPTH) * EPS * d
    assert run(tile.products, a, a)[0, 2] == 3


@pytest.mark.parametrize("sums", [tile.products, tile.differences])
def test_a_sum_has_the_bits_of_its_two_rows(way, sums):
    n, d = (66, 5) if SMALL else (200, 150)
    x = numbers(n, d)
    whole = run(sums, x, x)
    np.testing.assert_array_equal(whole, whole.T)
    last = n - 64
    np.testing.assert_array_equal(run(sums, x[:64], x[:3]), whole[:64, :3])
    np.testing.assert_array_equal(run(sums, x, x, 64, 0, last, 33), whole[64:, :33])
    np.testing.assert_array_equal(run(sums, x, x, 0, 64, 9, last), whole[:9, 64:])
    above = run(sums, x, x, upper=True)
    assert (above == whole)[np.triu_indices(n)].all()


def test_blocks_below_the_diagonal_are_left_alone(way):
    n = 70 if SMALL else 256
    x = numbers(n, 3)
    left = np.isnan(run(tile.differences, x, x, upper=True))
    assert not left[np.triu_indices(n)].any()
    assert left[64:, :64].sum() >= (n - 64) * 64 - (0 if way == "fast" else 4 * 64)


@given(
    st.integers(1, 70),
    st.integers(1, 20 if SMALL else 200),
    st.sampled_from(["float32", "float64"]),
    st.sampled_from(["plain", "gaps", "fortran", "map"]),
)
@settings(deadline=None, max_examples=8 if SMALL else 60)
def test_packing_is_exact_and_padded(n, d, dtype, form):
    x = numbers(n + 2, d + 3, dtype=dtype)
    x = {
        "plain": x,
        "gaps": np.repeat(x, 2, axis=1)[:, ::2],
        "fortran": np.asfortranarray(x),
        "map": x,
    }[form]
    if form == "map":
        x = x.view()
        x.flags.writeable = False
    into = tile.empty(n, d)
    into[:] = np.nan
    tile.pack(into, x, 2, n, 3, d)
    np.testing.assert_array_equal(unpacked(into, n, d), x[2:, 3:].astype(np.float32))
    assert into.ctypes.data % 64 == 0


@pytest.mark.parametrize("d", [1, 15, 130, 40 if SMALL else 2101])
def test_packing_shifts_centres_scales_and_measures(way, d):
    n = 9 if SMALL else 300
    x, rng = numbers(n, d, dtype=np.float64), np.random.default_rng(2)
    shift, scale, centre, squares = rng.random(n), 1 + rng.random(n), rng.random(d), np.ones(n)
    got = unpacked(packed(x, shift=shift, scale=scale, centre=centre, squares=squares), n, d)
    right = ((x - centre - shift[:, None]) * scale[:, None]).astype(np.float32)
    np.testing.assert_array_equal(got, right)
    np.testing.assert_allclose(squares, 1 + (right.astype(float) ** 2).sum(axis=1), rtol=1e-13)
    np.testing.assert_array_equal(
        unpacked(packed(x, scale=scale), n, d), (x * scale[:, None]).astype(np.float32)
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("rows", "columns", "upper"), [(64, 64, True), (50, 37, False), (37, 50, False), (9, 9, True)]
)
def test_mirrored_tiles(way, dtype, rows, columns, upper):
    out, at = (
        np.full(5000, -1, dtype),
        np.random.default_rng(0).random((1, 64, 64)).astype(np.float32),
    )
    tile.mirror(at, rows, columns, upper, out, 100, 70)
    for j in range(columns):
        for i in range(rows):
            assert out[100 + j * 70 + i] == (at[0, i, j] if i < j or not upper else -1)
            out[100 + j * 70 + i] = -1
    assert (out == -1).all()


@pytest.mark.skipif(SMALL, reason="code for vectors is compiled code alone")
def test_masks_of_64_lanes():
    from tlx.kernels.llvm.masks import lanes_below, lanes_below_each, lowest_bit

    @njit
    def masks(values, at, limit, limits, at_limits):
        below = lanes_below(values, at, limit)
        return below, lanes_below_each(values, at, limits, at_limits), lowest_bit(below)

    rng = np.random.default_rng(0)
    values, limits = rng.random(200).astype(np.float32), rng.random(100).astype(np.float32)
    values[[5, 70]], values[40] = np.nan, 0.5
    for at, limit in ((0, 0.5), (3, 0.5), (136, 0.9), (10, -1)):
        one, each, first = masks(values, at, np.float32(limit), limits, 7)
        below = ~(values[at : at + 64] >= np.float32(limit))
        assert [one >> lane & 1 for lane in range(64)] == below.tolist()
        assert [each >> lane & 1 for lane in range(64)] == (
            ~(values[at : at + 64] >= limits[7:71])
        ).tolist()
        assert first == (below.argmax() if below.any() else 64)


@pytest.mark.parametrize("rows", [1, 64, 65, 1000, 5000])
def test_tiles_cover_a_triangle_once(rows):
    side = tile.side(rows)
    assert side % 64 == 0
    assert side <= tile.SIDE
    seen = {(i, j) for i, j in tile.upper_tiles(rows, side)}
    assert len(seen) == len(tile.upper_tiles(rows, side))
    assert seen == {(i, j) for i in range(0, rows, side) for j in range(0, rows, side) if i <= j}


SCRIPT = """
import hashlib, numpy as np
from tlx.kernels import dispatch, tile
x = np.random.default_rng(0).standard_normal((130, 333)).astype(np.float32)
p, out = tile.empty(130, 333), tile.scratch(192)
tile.pack(p, x, 0, 130, 0, 333)
bits = hashlib.sha256()
for sums in (tile.differences, tile.products):
    sums(p, 0, 130, p, 0, 130, False, out)
    bits.update(np.concatenate(list(out), axis=1)[:130, :130].tobytes())
kernel = tile._sums_plain
if dispatch.has_tile():
    from tlx.kernels.llvm.register_tile import sums as kernel
hits, misses = (sum(n.values()) for n in (kernel.stats.cache_hits, kernel.stats.cache_misses))
print(bits.hexdigest(), dispatch.has_tile(), hits, misses)
"""


def other_process(folder, **variables):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder), **variables}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, check=True, capture_output=True, text=True
    ).stdout.split()


@pytest.mark.slow
@pytest.mark.skipif(SMALL or not FAST, reason="compiled code on a CPU with the fast way")
def test_other_processes_other_registers_same_bits_and_no_second_compilation(tmp_path):
    first, second = other_process(tmp_path), other_process(tmp_path)
    assert first[1:] == ["True", "0", "1"]
    assert second == [first[0], "True", "1", "0"]
    assert other_process(tmp_path, **HASWELL)[:2] == first[:2]
    plain = other_process(tmp_path, TLX_KERNELS="plain")
    assert plain[1] == "False"
    assert plain[0] != first[0]  # other sums than in registers, or the switch does nothing


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_works_after_its_parent_did(way):
    def bits():
        x = numbers(65, 6)
        into = packed(x, threads=2)
        outs = [tile.scratch(128) for _ in range(2)]
        parallel.parallel_for(
            2, lambda task, _: tile.differences(into, 0, 65, into, 0, 65, False, outs[task]), 2
        )
        return hashlib.sha256(told(outs[1], 65, 65).tobytes()).digest()

    before = bits()
    child = os.fork()
    if child == 0:
        os._exit(0 if bits() == before else 1)
    assert os.waitpid(child, 0)[1] == 0
