"""Nearest rows of another array: what plain Python says, and the bits of the search within one."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import naive
import numpy as np
import pytest

from kernels import hard_rows as square
from tlx.kernels import candidates, neighbours

SMALL = square.SMALL
M, N, D = (9, 13, 5) if SMALL else (150, 190, 23)


def two(case, dtype, m=M, n=N, d=D):
    """Two read-only arrays of one hard case, of which some rows are equal."""
    x = np.ascontiguousarray(square.HARD[case](m + n, d).astype(dtype))
    order = np.random.default_rng(1).permutation(m + n)
    left, right = x[order[:m]], x[order[m:]]
    right[3], right[7] = left[2], left[2]
    left.flags.writeable = right.flags.writeable = False
    return left, right


@pytest.mark.parametrize("case", square.HARD)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("way", square.WAYS)
def test_hard_cases_are_what_plain_python_says_with_the_same_bits_either_way(case, dtype, way):
    x, y = two(case, dtype)
    want, _ = naive.nearest_between(x, y, 3)
    with square.made_to_go("plain"):
        plain = neighbours.nearest_between(x, y, 3)
        back = neighbours.nearest_between(y, x, 3)
    np.testing.assert_allclose(plain[0], want, rtol=1e-12, atol=0)
    assert ((plain[0] == 0) == (want == 0)).all()
    with square.made_to_go(way):
        result = neighbours.nearest_between(x, y, 3, ties=True)
        values, indices = neighbours.nearest_between(x, y, 3)
        both = neighbours.nearest_both(x, y, 3, ties=True)
    for expected, given in ((plain, result), (plain, both[0]), (back, both[1])):
        assert (given[0] == expected[0]).all()
        assert (given[1] == expected[1]).all()
    assert (values == plain[0]).all()
    again = ((y[indices].astype(float) - x[:, None].astype(float)) ** 2).sum(axis=2)
    np.testing.assert_allclose(values, again, rtol=1e-12, atol=0)


@pytest.mark.parametrize("way", square.WAYS)
def test_of_equally_near_rows_the_lowest_index_comes_first(way):
    x, y = two("lattice", np.float32, d=4)
    with square.made_to_go(way):
        values, indices = neighbours.nearest_between(x, y, 5, ties=True)
    want, order = naive.nearest_between(x, y, 5)
    assert (values == want).all()
    assert (indices == order).all()


@pytest.mark.parametrize("way", square.WAYS)
@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (1, 70, 2), (70, 1, 3), (3, 2, 5)])
def test_lists_are_filled_where_there_are_fewer_rows_than_neighbours(m, n, k, way):
    draw = np.random.default_rng(0)
    x, y = draw.standard_normal((m, 6)), draw.standard_normal((n, 6))
    with square.made_to_go(way):
        both = neighbours.nearest_both(x, y, k, ties=True)
    for (values, indices), (a, b) in zip(both, ((x, y), (y, x)), strict=True):
        want, order = naive.nearest_between(a, b, k)
        np.testing.assert_allclose(values, want, rtol=1e-12)
        assert (indices == order).all()


@pytest.mark.slow
@pytest.mark.skipif(SMALL, reason="too much without a compiler")
@pytest.mark.parametrize("way", square.WAYS)
@pytest.mark.parametrize(
    ("m", "n", "d", "k"),
    [(63, 64, 1, 1), (65, 129, 17, 2), (513, 70, 64, 6), (70, 1300, 130, 2), (600, 600, 9, 60)],
)
def test_shapes(m, n, d, k, way):
    x, y = two("plain", np.float32, m, n, d)
    with square.made_to_go(way):
        both = neighbours.nearest_both(x, y, k, ties=True)
        alone = neighbours.nearest_between(x, y, k, ties=True)
    with square.made_to_go("plain"):
        want = neighbours.nearest_between(x, y, k), neighbours.nearest_between(y, x, k)
    for expected, given in ((want[0], both[0]), (want[1], both[1]), (want[0], alone)):
        assert (given[0] == expected[0]).all()
        assert (given[1] == expected[1]).all()


@pytest.mark.parametrize("way", square.WAYS)
@pytest.mark.parametrize("case", ["plain", "lattice", "two groups far apart", "tight clusters"])
def test_blocks_merged_have_the_bits_of_all_rows_at_once(case, way):
    x = square.rows(case, np.float32, n=24 if SMALL else 300, d=D)
    cuts = [0, 10, 11, 24] if SMALL else [0, 100, 101, 260, 300]
    parts = [slice(*ends) for ends in itertools.pairwise(cuts)]
    want = neighbours.nearest(x, 2, ties=True)
    with square.made_to_go(way):
        lists = [neighbours.nearest(x[part], 2, ties=True) for part in parts]
        lists = [
            (v, np.where(i < 0, i, i + p.start)) for (v, i), p in zip(lists, parts, strict=True)
        ]
        for a, of in enumerate(parts):
            for b in range(a + 1, len(parts)):
                bounds = lists[a][0][:, -1], lists[b][0][:, -1]
                pair = neighbours.nearest_both(x[of], x[parts[b]], 2, bounds=bounds, ties=True)
                for at, (v, i), start in ((a, pair[0], parts[b].start), (b, pair[1], of.start)):
                    lists[at] = neighbours.merge(lists[at], (v, np.where(i < 0, i, i + start)))
    assert (np.concatenate([values for values, _ in lists]) == want[0]).all()
    assert (np.concatenate([indices for _, indices in lists]) == want[1]).all()


@square.fast
@pytest.mark.parametrize("way", square.WAYS[1:3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", square.HARD)
def test_no_row_of_either_side_is_nearer_than_was_proved(case, dtype, way):
    x, y = two(case, dtype)
    with square.made_to_go(way):
        of_x, of_y = candidates.find_between(x, y, 2, both=True)
    x, y = x.astype(float), y.astype(float)
    for (chosen, least), a, b in ((of_x, x, y), (of_y, y, x)):
        assert (np.diff(np.sort(chosen, axis=1)) > 0).all()
        for i in range(len(a)):
            true = ((b - a[i]) ** 2).sum(axis=1) * (1 + 1e-12)
            outside = np.setdiff1d(np.arange(len(b)), chosen[i])
            assert len(outside) == len(b) - chosen.shape[1]
            assert least[i, -1] <= true[outside].min()
            assert (least[i] <= true[chosen[i]]).all()


def test_a_bound_leaves_out_only_what_is_farther():
    x, y = two("plain", np.float32)
    values, indices = neighbours.nearest_between(x, y, 4, ties=True)
    bounds = values[:, 1]
    near, at = neighbours.nearest_between(x, y, 4, bounds=bounds, ties=True)
    inside = values <= bounds[:, None]
    assert (near[inside] == values[inside]).all()
    assert (at[inside] == indices[inside]).all()


@square.fast
def test_a_bound_from_another_block_settles_rows_that_are_far_from_all(monkeypatch):
    """A far block has no neighbour to offer: no row of it is searched again."""
    again, exact = [], neighbours.exact
    monkeypatch.setattr(
        neighbours,
        "exact",
        lambda x, k, rows, *others, **by: (
            again.append(len(rows)) or exact(x, k, rows, *others, **by)
        ),
    )
    x = square.signal(300, 40).astype(np.float32)
    y = (1e4 + 1e-3 * square.signal(300, 40)).astype(np.float32)
    neighbours.nearest_both(x, y, 2)
    assert sum(again)
    again.clear()
    bounds = neighbours.nearest(x, 2)[0][:, -1], neighbours.nearest(y, 2)[0][:, -1]
    again.clear()
    neighbours.nearest_both(x, y, 2, bounds=bounds)
    assert not sum(again)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_wide_rows_from_read_only_maps(dtype, tmp_path):
    m, n, d = (2, 3, 65_537) if SMALL else (34, 70, 65_537)
    x = square.signal(m + n, d).astype(dtype)
    x[m] = x[0]
    x[m, -1] += 1  # all that tells them apart lies in the last column
    np.save(tmp_path / "x.npy", x)
    rows = np.load(tmp_path / "x.npy", mmap_mode="r")
    (values, indices), (back, _) = neighbours.nearest_both(rows[:m], rows[m:], 1, ties=True)
    true = ((x[:m, None].astype(float) - x[None, m:]) ** 2).sum(axis=2)
    np.testing.assert_allclose(values[:, 0], true.min(axis=1), rtol=1e-12)
    np.testing.assert_allclose(back[:, 0], true.min(axis=0), rtol=1e-12)
    assert indices[0, 0] == 0
    np.testing.assert_allclose(values[0, 0], 1, rtol=1e-6)


@pytest.mark.parametrize("case", ["plain", "lattice"])
def test_the_same_bits_at_any_number_of_threads(case):
    x, y = two(case, np.float32) if SMALL else two(case, np.float32, 600, 700)
    single = neighbours.nearest_both(x, y, 3, ties=True, threads=1)
    for threads in (2, 3):
        several = neighbours.nearest_both(x, y, 3, ties=True, threads=threads)
        for a, b in zip(single, several, strict=True):
            assert (a[0] == b[0]).all()
            assert (a[1] == b[1]).all()


ELSEWHERE = """
import sys, numpy as np
from tlx.kernels import neighbours
x = np.random.default_rng(0).standard_normal((60, 37)).astype(sys.argv[1])
x[7] = x[43]
for values, indices in neighbours.nearest_both(x[:25], x[25:], 2, ties=True):
    print(values.tobytes().hex(), indices.tobytes().hex())
"""


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("how", [{"NUMBA_DISABLE_JIT": "1"}, {"TLX_KERNELS": "plain"}])
def test_the_same_bits_without_the_fast_way(how, dtype):
    def bits(environment):
        return subprocess.run(
            [sys.executable, "-c", ELSEWHERE, dtype],
            env=os.environ | environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    assert bits(how) == bits({})
