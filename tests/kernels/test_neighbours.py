"""Nearest rows: every hard case to 1e-12 and with the same bits whatever the way, and the proof
behind the fast way.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys

import numpy as np
import pytest
from kernels.hard_rows import HARD, SMALL, WAYS, fast, made_to_go, rows, signal

from tlx.kernels import bfloat16, candidates, dispatch, neighbours, tile

with_bfloat16 = pytest.mark.skipif(
    not dispatch.has_bfloat16(), reason="this CPU, or this pass, multiplies no bfloat16"
)
rng = np.random.default_rng


def oracle(x, k):
    """The same by direct differences, one row at a time; nothing is left out, and ties go to the
    lower index.
    """
    return ask_oracle(x.tobytes(), x.shape, x.dtype.str, k)


@functools.lru_cache(2)
def ask_oracle(data, shape, dtype, k):
    x = np.frombuffer(data, dtype).reshape(shape).astype(np.float64)
    values, indices = np.empty((len(x), k)), np.empty((len(x), k), np.int64)
    for i in range(len(x)):
        squares = ((x - x[i]) ** 2).sum(axis=1)
        squares[i] = np.inf
        indices[i] = np.argsort(squares, kind="stable")[:k]
        values[i] = squares[indices[i]]
    return values, indices


def assert_right(found, x, k, want=None):
    values, indices = found
    want = oracle(x, k)[0] if want is None else want
    assert values.shape == indices.shape == (len(x), k)
    np.testing.assert_allclose(values, want, rtol=1e-12, atol=0)
    assert ((values == 0) == (want == 0)).all()
    everyone = np.arange(len(x))[:, None]
    assert (indices != everyone).all()
    assert (np.diff(np.sort(indices, axis=1)) > 0).all()
    again = ((x[indices].astype(float) - x[:, None].astype(float)) ** 2).sum(axis=2)
    np.testing.assert_allclose(values, again, rtol=1e-12, atol=0)


@pytest.mark.parametrize("case", HARD)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("way", WAYS)
def test_hard_cases_and_the_same_bits_either_way(case, dtype, way):
    x = rows(case, dtype)
    want, first = oracle(x, 7)
    for k in (1, 2, 7):
        with made_to_go("plain"):
            plain = neighbours.nearest(x, k)
        assert_right(plain, x, k, want[:, :k])
        if case in (
            "lattice",
            "one hot",
            "all equal",
        ):  # sums are exact, and so is the order of equals
            assert (plain[1] == first[:, :k]).all()
        with made_to_go(way):
            with_ties = neighbours.nearest(x, k, ties=True)
            values, indices = neighbours.nearest(x, k)
        assert (with_ties[0] == plain[0]).all()
        assert (with_ties[1] == plain[1]).all()
        assert (values == plain[0]).all()
        assert_right((values, indices), x, k, want[:, :k])


@fast
@pytest.mark.parametrize("way", WAYS[1:3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", HARD)
def test_no_row_is_nearer_than_was_proved(case, dtype, way):
    x = rows(case, dtype)
    with made_to_go(way):
        found, least = candidates.find(x, 2)
    assert found.shape == least.shape == (len(x), 5 if way == "bfloat16" else 4)
    assert (np.diff(np.sort(found, axis=1)) > 0).all()
    assert (np.diff(least, axis=1) >= 0).all()
    x = x.astype(float)
    for i in range(len(x)):
        true = ((x - x[i]) ** 2).sum(axis=1) * (1 + 1e-12)
        outside = np.setdiff1d(np.arange(len(x)), [i, *found[i]])
        assert len(outside) == len(x) - 1 - found.shape[1]
        assert least[i, -1] <= true[outside].min()
        assert (least[i] <= true[found[i]]).all()


FEW = [
    "plain",
    "offset 1e4, sd 1",
    "offset 1e4, sd 1e-2",
    "offset for each row",
    "tight clusters",
    "all equal",
    "three massive features",
    "an outlying row",
    "independent",
]


@fast
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", FEW)
def test_few_rows_are_left_open(monkeypatch, case, dtype):
    if (case, dtype) == ("offset 1e4, sd 1e-2", np.float32):
        pytest.skip("1e-3 apart is all that float32 has there: a lattice")
    again, exact = [], neighbours.exact
    monkeypatch.setattr(
        neighbours,
        "exact",
        lambda x, k, rows, *others, **by: (
            again.append(len(rows)) or exact(x, k, rows, *others, **by)
        ),
    )
    x = rows(case, dtype, n=1500, d=64)
    with made_to_go("differences"):
        neighbours.nearest(x, 2)
    assert sum(again) <= 0.02 * len(x)
    neighbours.nearest(x, 2)
    assert sum(again) <= 0.04 * len(x)


@fast
@pytest.mark.parametrize("exponent", [300, -300])
def test_magnitudes_that_only_float64_has(exponent):
    x = signal(400, 20)
    want = oracle(x, 2)[0] * 4.0**exponent
    for way in WAYS:
        with made_to_go(way):
            np.testing.assert_allclose(
                neighbours.nearest(x * 2.0**exponent, 2)[0], want, rtol=1e-12, atol=0
            )


@with_bfloat16
def test_what_float32_loses_while_bfloat16_is_summed_is_accounted_for():
    x = 200.0 + rng(0).integers(
        -9, 10, (130, 2600)
    )  # eight binary digits say it; products sum to more than 2^24
    way, out = bfloat16.BFloat16Rows(x, np.zeros(2600), 1.0), tile.scratch(192)
    way.tile(0, 130, 0, 130, False, out)
    assert not way.lost.max() > 1e-9 * way.norms.min()
    least = way.least(np.ascontiguousarray(out.transpose(1, 0, 2).reshape(192, 192)[:130, :130]))
    true = ((x[:, None] - x) ** 2).sum(axis=2)
    assert (least <= true).all()
    assert (least.sum(axis=1) > 0.5 * true.sum(axis=1)).all()


@with_bfloat16
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [1, 2, 63, 130])
def test_bfloat16_is_rounded_to_the_nearest(d, dtype):
    x = signal(70, d).astype(dtype)
    centre = x[:9].mean(axis=0, dtype=np.float64)
    way, out = bfloat16.BFloat16Rows(x, centre, 0.25), tile.scratch(128)
    y = (x - centre) * 0.25
    digits, exponent = np.frexp(y)
    b = np.ldexp(np.round(digits * 2**8) / 2**8, exponent)
    np.testing.assert_allclose(way.norms, np.linalg.norm(b, axis=1), rtol=1e-12)
    np.testing.assert_allclose(way.lost, np.linalg.norm(y - b, axis=1), rtol=1e-5)
    assert way.share >= (way.lost / way.norms).max()
    way.tile(0, 70, 0, 70, False, out)
    got = out.transpose(1, 0, 2).reshape(128, 128)[:70, :70]
    np.testing.assert_allclose(
        2 * got, ((b[:, None] - b) ** 2).sum(axis=2), atol=1e-5 * (b**2).sum(axis=1).max()
    )


@with_bfloat16
@pytest.mark.parametrize(
    ("case", "good"),
    [
        ("plain", True),
        ("offset 1e4, sd 1", True),
        ("independent", True),
        ("near duplicates", True),
        ("tight clusters", False),
    ],
)
def test_bfloat16_is_taken_where_it_settles_rows(case, good):
    x = rows(case, np.float32, n=1500, d=300)
    assert (candidates.find(x, 2)[0].shape[1] > 2 + candidates.SPARE) == good


@fast
def test_what_float32_cannot_order_is_left_open_and_ordered():
    x = rows("shell", np.float64, n=200)
    with made_to_go("differences"):
        found, least = candidates.find(x, 2)
    assert least[0, -1] < oracle(x, 2)[0][0, 1]
    assert set(oracle(x, 1)[1][0]) - set(found[0])  # the nearest of row 0 is not even a candidate
    assert (neighbours.nearest(x, 2)[1][0] == oracle(x, 2)[1][0]).all()


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("n", "d", "k"),
    [
        (2, 1, 1),
        (3, 1, 2),
        (3, 4, 1),
        (31, 3, 2),
        (32, 17, 3),
        (33, 16, 2),
        (64, 64, 5),
        (65, 65, 2),
        (127, 5, 2),
        (129, 97, 6),
        (260, 33, 200),
        (513, 3, 2),
        (700, 130, 2),
        (640, 4097, 3),
        (1700, 9, 200),
    ],
)
def test_shapes(n, d, k, dtype, way):
    if SMALL and n * n * d > 400_000:
        pytest.skip("too much without a compiler")
    x = np.ascontiguousarray(signal(n, d).astype(dtype))
    with made_to_go(way):
        values, indices = neighbours.nearest(x, k, ties=True)
    assert_right((values, indices), x, k)
    want, first = oracle(x, k)
    assert (indices == first)[np.diff(want, axis=1, append=np.inf) > 1e-12 * want].all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_wide_one(dtype):
    n, d = (3, 65_537) if SMALL else (70, 65_537)
    x = signal(n, d).astype(dtype)
    x[1] = x[0]
    x[1, -1] += 1  # all that tells them apart lies in the last column
    values, indices = neighbours.nearest(x, 1)
    assert_right((values, indices), x, 1)
    assert indices[0, 0] == 1
    np.testing.assert_allclose(values[0, 0], 1, rtol=1e-6)


@pytest.mark.parametrize("case", ["plain", "lattice", "offset for each row"])
def test_the_same_bits_at_any_number_of_threads(case):
    x = rows(case, np.float32, n=None if SMALL else 700)
    one = neighbours.nearest(x, 3, ties=True, threads=1)
    for threads in (2, 3):
        for a, b in zip(one, neighbours.nearest(x, 3, ties=True, threads=threads), strict=True):
            assert (a == b).all()


def test_rows_asked_for_alone():
    x = rows("plain", np.float32)
    want = neighbours.nearest(x, 3, ties=True)
    asked = np.array([5, 3, 20, 3])
    for bounds in (np.full(4, np.inf), want[0][asked, -1]):
        values, indices = neighbours.exact(x, 3, asked, bounds)
        assert (values == want[0][asked]).all()
        assert (indices == want[1][asked]).all()


@pytest.mark.parametrize("d", [1, 15, 16, 17, 4096, 4111, 8193])
def test_measure_is_the_sum_and_symmetric(d):
    x = signal(2, d).astype(np.float32)
    value = neighbours.measure(x, 0, x, 1)
    want = (
        sum(abs(int(a) - int(b)) ** 2 for a, b in zip(*(x.astype(float) * 2.0**40), strict=True))
        / 2.0**80
    )
    np.testing.assert_allclose(value, want, rtol=1e-13)
    assert value == neighbours.measure(x, 1, x, 0)
    assert neighbours.measure(x, 1, x, 1) == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sums_of_tiles(dtype):
    x = signal(70, 600 if SMALL else 1100).astype(dtype)
    rows, out = np.arange(3, 70, 2), np.full((neighbours.SIDE, neighbours.SIDE), np.nan, dtype)
    neighbours._sums(x, rows, 2, 9, x, 64, 6, out)
    want = ((x[rows[2:9], None].astype(float) - x[None, 64:]) ** 2).sum(axis=2)
    np.testing.assert_allclose(out[:7, :6], want, rtol=1e-5 if dtype == np.float32 else 1e-13)


def test_nearest_alive():
    distances = np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]])
    indices = np.array([[1, 2, 3], [0, 2, 3], [3, 1, 0]])
    out, short = np.full((3, 2), -1.0), np.empty(3, np.bool_)
    neighbours.nearest_alive(
        distances, indices, np.array([2, 0, 1]), np.array([True, True, False, True]), out, short
    )
    assert (out == [[7, 8], [1, 3], [4, 6]]).all()
    assert not short.any()
    neighbours.nearest_alive(
        distances, indices, np.array([2, 0, 1]), np.array([True, False, False, True]), out, short
    )
    assert (out[[0, 2]] == [[7, 9], [4, 6]]).all()
    assert (short == [False, True, False]).all()


ELSEWHERE = """
import sys, numpy as np
from tlx.kernels import dispatch, neighbours
x = np.random.default_rng(0).standard_normal((41, 37)).astype(sys.argv[1])
x[7] = x[3]
values, indices = neighbours.nearest(x, 2, ties=True)
print(dispatch.has_tile(), values.tobytes().hex(), indices.tobytes().hex())
"""


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "how",
    [
        {"NUMBA_DISABLE_JIT": "1"},
        {"TLX_KERNELS": "plain"},
        {
            "NUMBA_CPU_NAME": "haswell",
            "NUMBA_CPU_FEATURES": "+avx2,+avx,+fma,+bmi,+bmi2,+sse4.2,+popcnt",
        },
    ],
    ids=["no compiler", "plain", "avx2"],
)
def test_the_same_bits_without_a_compiler_and_on_lesser_processors(how, dtype):
    if "NUMBA_CPU_NAME" in how and not {"+avx2", "+fma"} <= dispatch.FEATURES:
        pytest.skip("this CPU has no AVX2")
    run = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, dtype],
        env=os.environ | how,
        capture_output=True,
        text=True,
        check=True,
    )
    was_fast, *bits = run.stdout.split()
    x = rng(0).standard_normal((41, 37)).astype(dtype)
    x[7] = x[3]
    assert was_fast == str("NUMBA_CPU_NAME" in how and not SMALL)
    assert bits == [a.tobytes().hex() for a in neighbours.nearest(x, 2, ties=True)]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_finds_the_same():
    x = rows("plain", np.float32)
    want = neighbours.nearest(x, 2, threads=2)[0]
    child = os.fork()
    if child == 0:
        same = False
        try:
            same = bool((neighbours.nearest(x, 2, threads=2)[0] == want).all())
        finally:
            os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
