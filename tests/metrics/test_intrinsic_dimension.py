"""Intrinsic dimension: as published and as other packages compute it, exact about ties, the same
from a resampling.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numba import config
from scipy import stats
from scipy.special import gammainc
from sklearn.datasets import make_swiss_roll

from tlx.data.streams import seeded_permutation
from tlx.errors import BadDataError, UnknownNameError, UsageError
from tlx.kernels import neighbours as kernel
from tlx.metrics import dimension_spread
from tlx.metrics.dimension_spread import block_analysis, intrinsic_dimension_resampled
from tlx.metrics.intrinsic_dimension import METHODS, intrinsic_dimension, scale_scan
from tlx.metrics.neighbours import nearest_distances, nearest_neighbours

SMALL = bool(config.DISABLE_JIT)
compiled = pytest.mark.skipif(SMALL, reason="too much without a compiler")
rng = np.random.default_rng
N = 60 if SMALL else 400


def cloud(n=N, d=6, seed=0, inside=3):
    draw = rng(seed)
    return draw.standard_normal((n, inside)) @ draw.standard_normal((inside, d))


# ---------------------------------------------------------------- oracles: numpy only, nothing
# shared


def distances(x, k):
    x = np.asarray(x, np.float64).reshape(len(x), -1)
    whole = np.array([np.sqrt(((x - row) ** 2).sum(axis=1)) for row in x])
    np.fill_diagonal(whole, np.inf)
    return np.sort(whole, axis=1)[:, :k]


def twonn(x, fraction=0.9):
    """The thesis's recipe, word by word, on a whole matrix of distances."""
    near = distances(x, 2)
    good = [i for i in range(len(near)) if near[i, 0] != 0 and near[i, 0] != near[i, 1]]
    mu = np.sort([near[i, 1] / near[i, 0] for i in good])
    empirical = np.arange(1, len(good) + 1) / len(good)
    a, b = np.log(mu[:-2]), -np.log(1 - empirical[:-2])
    take = int(np.floor(len(good) * fraction))
    a, b = a[:take], b[:take]
    return np.linalg.lstsq(a[:, None], b, rcond=None)[0][0], np.corrcoef(a, b)[0, 1], len(a)


def gride(x, n2):
    """Dimension that maximises the likelihood with N − 1 in its first term, as the reference does,
    by finer grids.
    """
    near, n1 = distances(x, n2), n2 // 2
    logs = np.log(near[:, n2 - 1] / near[:, n1 - 1])
    low, high = 0.05, 400.0
    for _ in range(40):
        grid = np.linspace(low, high, 41)
        value = [
            (len(logs) - 1) * np.log(d)
            + (n2 - n1 - 1) * (d * logs + np.log(-np.expm1(-d * logs))).sum()
            - ((n2 - 1) * d + 1) * logs.sum()
            for d in grid
        ]
        best = int(np.argmax(value))
        low, high = grid[max(0, best - 1)], grid[min(40, best + 1)]
    return (low + high) / 2


# ---------------------------------------------------------------- distances


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x,
        lambda x: x.astype(np.float32),
        lambda x: x.astype(np.float16),
        lambda x: np.round(x * 9).astype(np.int16),
        np.asfortranarray,
        lambda x: np.repeat(x, 2, axis=0)[::2],
        lambda x: x[::-1, ::-1],
        lambda x: x.reshape(len(x), 2, 1, 3),
        torch.from_numpy,
        lambda x: x.astype(">f8"),
        lambda x: x > 0,
    ],
)
def test_what_is_taken_as_rows(change):
    x = change(cloud(40))
    found = nearest_distances(x, 3)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, distances(np.asarray(x), 3), rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_read_only_map_is_read_where_it_is(tmp_path, monkeypatch, dtype):
    np.save(tmp_path / "x.npy", cloud().astype(dtype))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    seen, nearest = [], kernel.nearest
    monkeypatch.setattr(
        kernel, "nearest", lambda rows, *a, **how: seen.append(rows) or nearest(rows, *a, **how)
    )
    np.testing.assert_allclose(nearest_distances(x), distances(x, 2), rtol=1e-12)
    assert np.shares_memory(seen[0], x)


def test_three_rows_and_equal_ones():
    assert nearest_distances([[0.0, 0], [3, 4], [0, 0]]).tolist() == [[0, 5], [5, 5], [0, 5]]
    found, indices = nearest_neighbours([[0.0], [1], [-1], [1], [0]], 3)
    assert found.tolist() == [[0, 1, 1], [0, 1, 1], [1, 1, 2], [0, 1, 1], [0, 1, 1]]
    assert indices.tolist() == [[4, 1, 2], [3, 0, 4], [0, 4, 1], [1, 0, 4], [0, 1, 2]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "exponent", [-1070, -1000, -520, -300, -145, -110, -62, -41, 41, 62, 110, 300, 510, 1000]
)
def test_magnitudes_at_the_ends_of_the_type(dtype, exponent):
    x = rng(0).integers(-8, 9, (40, 5)) * 2.0**exponent
    with np.errstate(over="ignore"):
        x = x.astype(dtype)
    if not np.isfinite(x).all() or not x.any():
        pytest.skip("not a number of this type")
    want = (
        distances(x.astype(np.longdouble) / np.longdouble(2) ** exponent, 2)
        * np.longdouble(2) ** exponent
    )
    np.testing.assert_allclose(nearest_distances(x), want.astype(float), rtol=1e-12, atol=5e-324)


def test_a_huge_row_hides_no_small_distance():
    x = np.concatenate([cloud(40), [[1e140] * 6]])
    np.testing.assert_allclose(nearest_distances(x)[:40], distances(x[:40], 2), rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_named(bad, dtype):
    x = cloud(40).astype(dtype)
    x[7, 2] = bad
    for call in (
        nearest_distances,
        intrinsic_dimension,
        intrinsic_dimension_resampled,
        block_analysis,
        scale_scan,
    ):
        with pytest.raises(BadDataError, match=r"not-finite.*row 7, column 2"):
            call(x)


def test_too_few_rows_and_wrong_settings():
    x = cloud(5)
    for k in (5, 6, 2000):
        with pytest.raises(BadDataError, match=rf"too-few-rows.*5 rows.*more than k = {k}"):
            nearest_distances(x, k)
    assert nearest_distances(x, 4).shape == (5, 4)
    for rows in (x[:1], x[:0], x[0], np.zeros((5, 0))):
        with pytest.raises(BadDataError, match="rows"):
            nearest_distances(rows)
    for wrong in ({"k": 0}, {"k": -1}, {"k": 1.5}, {"threads": 0}):
        with pytest.raises(UsageError, match="out-of-range"):
            nearest_distances(x, **wrong)


tables = hnp.arrays(
    np.int64,
    st.tuples(st.integers(6, 12 if SMALL else 90), st.integers(1, 4)),
    elements=st.integers(-60, 60),
)
few = settings(max_examples=15 if SMALL else 60, deadline=None)


@few
@given(
    tables, st.integers(-300, 300), st.integers(-40, 40), st.sampled_from([np.float32, np.float64])
)
def test_moved_and_scaled_without_rounding_it_is_the_same_bits(table, offset, exponent, dtype):
    x = table.astype(dtype)
    want = nearest_neighbours(x, 3)
    for changed, scale in (
        (x + dtype(offset * 1024), 1.0),
        (x * dtype(2.0**exponent), 2.0**exponent),
        (-x, 1.0),
    ):
        found = nearest_neighbours(changed, 3)
        assert (found[0] == want[0] * scale).all()
        assert (found[1] == want[1]).all()


@few
@given(tables, st.randoms(use_true_random=False))
def test_rows_and_columns_in_another_order(table, random):
    x = table.astype(float)
    rows = np.array(random.sample(range(len(x)), len(x)))
    columns = random.sample(range(x.shape[1]), x.shape[1])
    want = nearest_distances(x, 4)
    assert (nearest_distances(x[rows], 4) == want[rows]).all()
    assert (
        nearest_distances(x[:, columns], 4) == want
    ).all()  # whole numbers are summed without rounding
    assert (want == distances(x, 4)).all()


@few
@given(
    st.integers(0, 2**32),
    st.integers(8, 80),
    st.integers(1, 40),
    st.sampled_from([np.float32, np.float64]),
    st.floats(-1e4, 1e4),
    st.integers(1, 7),
)
def test_any_rows(seed, n, d, dtype, offset, k):
    x = (rng(seed).standard_normal((n // 4 if SMALL else n, d)) + offset).astype(dtype)
    k = min(k, len(x) - 1)
    np.testing.assert_allclose(nearest_distances(x, k), distances(x, k), rtol=1e-12)


# ---------------------------------------------------------------- one estimate


@pytest.mark.parametrize("fraction", [1.0, 0.9, 0.5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [6, 19, N])
def test_twonn_is_the_recipe(n, dtype, fraction):
    x = cloud(n).astype(dtype)
    dimension, r, used = twonn(x, fraction)
    found = intrinsic_dimension(x, fraction=fraction)
    assert (found.n, found.n_used, found.repeated, found.tied) == (n, used, 0, 0)
    np.testing.assert_allclose([found.dimension, found.r], [dimension, r], rtol=1e-9)
    near = np.log(np.sort(np.divide(*distances(x, 2).T[::-1]))[:-2])[:used]
    p = stats.pearsonr(near, -np.log(1 - np.arange(1, n - 1) / n)[:used]).pvalue
    np.testing.assert_allclose(found.p, p, rtol=1e-6, atol=1e-300)
    assert intrinsic_dimension(x, f"twonn:fraction={fraction}") == found


def test_repeated_and_tied_rows_are_dropped_and_counted():
    x = np.concatenate([cloud(50), cloud(50)[:4], [[1000.0] * 6, [1001.0] * 6, [1002.0] * 6]])
    found, near = intrinsic_dimension(x), distances(x, 2)
    repeated, tied = (near[:, 0] == 0).sum(), (near[:, 0] == near[:, 1]).sum()
    assert (
        (found.n, found.repeated, found.tied) == (57, repeated, tied) == (57, 8, 4)
    )  # 3 beside a repeated row
    dimension, r, used = twonn(x)
    assert found.n_used == used == int(0.9 * 45)
    np.testing.assert_allclose([found.dimension, found.r], [dimension, r], rtol=1e-9)


def ball(n, d):
    x = np.random.RandomState(0).normal(size=(n, d))
    squares = (x**2).sum(axis=1)
    return x * (gammainc(d / 2, squares / 2) ** (1 / d) / np.sqrt(squares))[:, None]


def sphere(n, d):
    x = np.random.RandomState(0).randn(n, d + 1)
    return x / np.linalg.norm(x, axis=1)[:, None]


# DADApy 2NN "base" (also scikit-dimension TwoNN "linear"), its "ml"; scikit-dimension's "mle",
# MLE(K = 20)
PINNED = {
    "swiss roll": (
        lambda: make_swiss_roll(5000, random_state=0)[0],
        1.953449,
        1.967102,
        1.944711,
        1.970238,
    ),
    "ball of 10": (lambda: ball(1000, 10), 8.468301, 8.769881, 8.480913, 8.209884),
    "sphere of 5": (lambda: sphere(2000, 5), 4.922840, 4.899582, 4.958044, 4.854748),
    "cube of 5": (lambda: rng(0).random((2000, 5)), 4.723459, 4.736761, 4.759945, 4.483262),
}


@compiled
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", PINNED)
def test_as_other_packages_compute_it(name, dtype):
    make, *want = PINNED[name]
    x = make()
    if name == "cube of 5":
        x = np.pad(
            x, [(0, 0), (0, 95)]
        )  # turned into 100 dimensions in the original: distances are the same
    methods = ("twonn", "twonn-mle:fraction=1", "twonn-mle", "mle")
    found = [intrinsic_dimension(x.astype(dtype), method).dimension for method in methods]
    np.testing.assert_allclose(found, want, atol=6e-7 if dtype == np.float64 else 2e-5)


def test_likelihoods_by_hand():
    near = distances(cloud(), 20)
    logs = np.sort(np.log(near[:, 1] / near[:, 0]))
    kept = int(0.7 * N)
    want = (kept - 1) / (logs[:kept].sum() + (N - kept) * logs[kept - 1])
    found = intrinsic_dimension(cloud(), "twonn-mle", fraction=0.7)
    np.testing.assert_allclose(found.dimension, want, rtol=1e-12)
    assert (found.r, found.p, found.n_used) == (None, None, kept)
    local = [19 / np.log(row[-1] / row[:-1]).sum() for row in near]
    np.testing.assert_allclose(
        intrinsic_dimension(cloud(), "mle").dimension, stats.hmean(local), rtol=1e-12
    )
    local = [2 / np.log(row[2] / row[:2]).sum() for row in near]
    np.testing.assert_allclose(
        intrinsic_dimension(cloud(), "mle:k=3").dimension, stats.hmean(local), rtol=1e-12
    )


@pytest.mark.parametrize("method", METHODS)
def test_invariances_of_every_method(method):
    x = np.round(cloud() * 2**12) / 2**12
    want = intrinsic_dimension(x, method)
    for changed in (
        x + 512.0,
        x * 2.0**-60,
        x * 2.0**300,
        -x,
        x[::-1],
        np.repeat(x, 2, axis=1) * 2,
    ):
        found = intrinsic_dimension(changed, method)
        np.testing.assert_allclose(found.dimension, want.dimension, rtol=1e-12)
    for changed in (x + 512.0, x * 2.0**-60, (x * 2.0**20).astype(np.int64)):
        assert intrinsic_dimension(changed, method) == want


@compiled
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("inside", [1, 2, 5])
def test_known_dimensions(method, inside):
    x = np.pad(sphere(4000, inside), [(0, 0), (0, 30)])
    assert intrinsic_dimension(x.astype(np.float32), method).dimension == pytest.approx(
        inside, rel=0.08
    )


def lattice(side):
    return np.stack(np.meshgrid(*[np.arange(side)] * 3), -1).reshape(-1, 3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("x", "said"),
    [
        (np.zeros((30, 4)), "30 rows: 30 are equal"),
        (np.full((30, 4), 0.1, np.float32), "30 rows: 30 are equal"),
        (np.repeat(cloud(15), 2, axis=0), "30 rows: 30 are equal"),
        (np.eye(30), "30 rows: 0 are equal to another row, 30 have only"),
        (np.eye(30, dtype=np.float32), "30 have only"),
    ],
)
def test_rows_that_tell_nothing(x, said, method):
    with pytest.raises(BadDataError, match=said):
        intrinsic_dimension(x, method)


@pytest.mark.parametrize("step", [1, 0.25, 2.0**-20])
def test_a_lattice_has_no_ratios(step):
    with pytest.raises(
        BadDataError,
        match="0 rows left of 64 rows: 0 are equal to another row, 64 have only equally near",
    ):
        intrinsic_dimension(lattice(4) * step)
    jittered = lattice(4) + 0.1 * rng(0).standard_normal((64, 3))
    assert intrinsic_dimension(jittered).n_used == 57


def test_few_rows():
    for n in (1, 2):
        noun = "row" if n == 1 else "rows"
        with pytest.raises(BadDataError, match=f"too-few-rows.*{n} {noun}\\."):
            intrinsic_dimension(cloud(n))
    with pytest.raises(BadDataError, match=r"no-dimension.*3 rows left of 3 rows: 0 are equal"):
        intrinsic_dimension(cloud(3))
    assert intrinsic_dimension(cloud(4), fraction=1).n_used == 2
    with pytest.raises(BadDataError, match="1 points of the regression"):
        intrinsic_dimension(cloud(10), fraction=0.1)
    with pytest.raises(BadDataError, match="1 ratios left"):
        intrinsic_dimension(cloud(10), "twonn-mle:fraction=0.1")
    with pytest.raises(BadDataError, match="more than k = 20"):
        intrinsic_dimension(cloud(20), "mle")
    triples = np.array([0.0, 1, 3, 100, 101, 103, 200, 201, 203])[:, None]  # ratios 3, 2 and 1.5
    with pytest.raises(BadDataError, match="3 points of the regression, 1 different"):
        intrinsic_dimension(triples, fraction=0.34)
    assert intrinsic_dimension(triples, fraction=0.45).n_used == 4


def test_wrong_methods():
    with pytest.raises(UnknownNameError, match=r"unknown method 'two-nn'.*nearest: twonn"):
        intrinsic_dimension(cloud(), "two-nn")
    with pytest.raises(UsageError, match="no-fraction"):
        intrinsic_dimension(cloud(), "mle", fraction=0.9)
    for wrong in ("twonn:fraction=1.1", "twonn:fraction=-1", "mle:k=1"):
        with pytest.raises(UsageError, match="out-of-range"):
            intrinsic_dimension(cloud(), wrong)


# ---------------------------------------------------------------- over scales


def test_scales_are_the_most_likely():
    x = cloud(60 if SMALL else 200)
    found = scale_scan(x, 16)
    assert found.rank.tolist() == [2, 4, 8, 16]
    np.testing.assert_allclose(found.dimension, [gride(x, n2) for n2 in found.rank], rtol=1e-6)
    near = distances(x, 16)
    np.testing.assert_allclose(
        found.radius,
        [(near[:, n2 // 2 - 1] + near[:, n2 - 1]).mean() / 2 for n2 in found.rank],
        rtol=1e-12,
    )
    logs = np.log(near[:, 1] / near[:, 0])
    np.testing.assert_allclose(found.dimension[0], (len(x) - 1) / logs.sum(), rtol=1e-12)
    np.testing.assert_allclose(
        found.dimension[0], intrinsic_dimension(x, "twonn-mle", 1.0).dimension, rtol=1e-12
    )
    np.testing.assert_allclose(found.error[0], found.dimension[0] / np.sqrt(len(x) - 1), rtol=1e-12)


def test_the_error_is_the_curvature_of_the_likelihood():
    x, n2, n1 = cloud(60), 8, 4
    near = distances(x, n2)
    logs = np.log(near[:, n2 - 1] / near[:, n1 - 1])

    def likelihood(d):
        rises = (len(logs) - 1) * np.log(d) + (n2 - n1 - 1) * np.log(np.expm1(d * logs)).sum()
        return rises - (n2 - 1) * d * logs.sum()

    d, h = scale_scan(x, n2).dimension[2], 1e-3
    curve = -(likelihood(d + h) - 2 * likelihood(d) + likelihood(d - h)) / h**2
    np.testing.assert_allclose(scale_scan(x, n2).error[2], 1 / np.sqrt(curve), rtol=1e-4)


@compiled
def test_scales_as_dadapy_computes_them():
    x = make_swiss_roll(5000, random_state=0)[0]
    found = scale_scan(x)
    dadapy = [
        1.9671016998698296,
        1.9131444165516323,
        2.014054970665911,
        1.9677768555024233,
        1.9472961646598113,
        1.9265873491308105,
    ]
    radius = [
        0.37845874361784665,
        0.5654607051225455,
        0.8224617368953039,
        1.180533629084096,
        1.6933344158800785,
        2.431129146638099,
    ]
    np.testing.assert_allclose(found.radius, radius, rtol=1e-12)
    np.testing.assert_allclose(found.dimension, dadapy, rtol=1e-7)


@compiled
def test_scales_see_noise_and_what_it_is_on():
    turns = 2 * np.pi * rng(0).random((3000, 2))
    torus = np.concatenate([np.cos(turns), np.sin(turns)], axis=1)
    found = scale_scan(torus + 0.02 * rng(1).standard_normal((3000, 4)), 128)
    assert found.dimension[-1] == pytest.approx(2, abs=0.1)
    assert found.dimension[0] > found.dimension[-1] + 0.3
    assert (np.diff(found.radius) > 0).all()
    assert (np.diff(found.error) < 0).all()


def test_scales_of_few_and_of_odd_rows():
    assert scale_scan(cloud(8)).rank.tolist() == [2, 4]
    assert scale_scan(cloud(9)).rank.tolist() == [2, 4, 8]
    with pytest.raises(UsageError, match="at least 2"):
        scale_scan(cloud(), 1)
    with pytest.raises(BadDataError, match=r"neighbours 1 and 2.*30 are equal"):
        scale_scan(np.zeros((30, 2)))
    tight = np.concatenate([cloud(20), cloud(20) + 1e-9])  # ratios of 1e9
    assert np.isfinite(scale_scan(tight).dimension).all()
    x = np.concatenate([cloud(20), cloud(20)[:3]])
    near = distances(x, 2)
    assert scale_scan(x, 2).n_used.tolist() == [
        ((near[:, 0] > 0) & (near[:, 0] < near[:, 1])).sum()
    ]


# ---------------------------------------------------------------- resampled, in blocks


@pytest.mark.parametrize("method", ["twonn", "twonn:fraction=0.5", "twonn-mle", "mle:k=4"])
@pytest.mark.parametrize(("fraction", "n"), [(0.9, N), (0.5, 61), (1.0, 30), (0.2, 50)])
def test_a_resampling_is_the_estimate_of_its_part(fraction, n, method):
    x = cloud(n, seed=3).astype(np.float32)
    x[:3] = x[5]  # repeated rows are drawn apart, too
    found = intrinsic_dimension_resampled(x, 8, fraction, 11, method=method)
    assert found.rows == int(np.floor(fraction * n))
    want = [
        intrinsic_dimension(
            x[np.sort(seeded_permutation(n, 11, "resampling", i)[: found.rows])], method
        ).dimension
        for i in range(8)
    ]
    assert found.values.tolist() == want
    assert (found.mean, found.std) == (np.mean(want), np.std(want))
    assert found.whole == intrinsic_dimension(x, method)


def test_rows_that_run_out_are_searched_again(monkeypatch):
    monkeypatch.setattr(
        dimension_spread, "RUN_OUT", np.inf
    )  # lists of two: every other row runs out
    test_a_resampling_is_the_estimate_of_its_part(0.5, 61, "twonn")
    test_a_resampling_is_the_estimate_of_its_part(0.2, 50, "mle:k=4")


def test_distances_are_computed_once(monkeypatch):
    calls, nearest, exact = [], kernel.nearest, kernel.exact
    monkeypatch.setattr(
        kernel, "nearest", lambda *a, **how: calls.append("all") or nearest(*a, **how)
    )
    monkeypatch.setattr(
        kernel,
        "exact",
        lambda x, k, rows, *rest: calls.append(len(rows)) or exact(x, k, rows, *rest),
    )
    intrinsic_dimension_resampled(cloud(), 50)
    again = sum(call for call in calls if call not in ("all", N))
    assert calls.count("all") == 1
    assert again <= 10  # of 50 · N rows


def test_resamplings_differ_and_repeat():
    x = cloud()
    found = intrinsic_dimension_resampled(x)
    assert len(set(found.values)) == 50
    assert found.std > 0
    assert (intrinsic_dimension_resampled(x, threads=3).values == found.values).all()
    assert (intrinsic_dimension_resampled(x, 7).values == found.values[:7]).all()
    assert set(intrinsic_dimension_resampled(x, seed=1).values).isdisjoint(found.values)


def test_wrong_resamplings():
    for wrong in ({"resamplings": 0}, {"fraction": 0}, {"fraction": 1.1}, {"seed": -1}):
        with pytest.raises(UsageError, match="out-of-range"):
            intrinsic_dimension_resampled(cloud(), **wrong)
    with pytest.raises(BadDataError, match="3 of 4 rows in each"):
        intrinsic_dimension_resampled(cloud(4))
    with pytest.raises(BadDataError, match="x: 0 rows left of 50 rows: 50 are equal"):
        intrinsic_dimension_resampled(np.zeros((50, 2)))
    with pytest.raises(
        BadDataError, match=r"x, resampling .*: . rows? left of 9 rows: . are equal"
    ):
        intrinsic_dimension_resampled(np.concatenate([cloud(5), np.zeros((13, 6))]), fraction=0.5)


def test_blocks():
    x = cloud(61)
    found = block_analysis(x, [1, 2, 5], 4)
    assert (found.blocks.tolist(), found.rows.tolist()) == ([1, 2, 5], [61, 30, 12])
    for at, (count, size) in enumerate(zip(found.blocks, found.rows, strict=True)):
        shuffled = seeded_permutation(61, 4, "block analysis", int(count))
        want = [
            intrinsic_dimension(x[np.sort(shuffled[i * size : (i + 1) * size])]).dimension
            for i in range(count)
        ]
        assert found.values[at].tolist() == want
        assert (found.mean[at], found.std[at]) == (np.mean(want), np.std(want))
    assert found.mean[0] == intrinsic_dimension(x).dimension
    assert block_analysis(cloud(200)).blocks.tolist() == list(range(1, 21))
    mle = block_analysis(x, [2], method="mle:k=5").values[0]
    assert (mle != block_analysis(x, [2]).values[0]).all()


def test_wrong_blocks():
    with pytest.raises(
        BadDataError, match=r"block-too-small.*61 rows make 20 blocks of 3.*at most 15 blocks"
    ):
        block_analysis(cloud(61))
    assert block_analysis(cloud(64, d=3), [16], method="twonn:fraction=1").rows.tolist() == [4]
    for wrong in ([], [0], [1, -2]):
        with pytest.raises(UsageError, match="blocks"):
            block_analysis(cloud(), wrong)
    x = cloud(40)
    x[seeded_permutation(40, 0, "block analysis", 2)[20:]] = 0
    with pytest.raises(BadDataError, match=r"block 1 of 2.*20 are equal"):
        block_analysis(x, [2])


def test_results_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        intrinsic_dimension(cloud()).dimension = 2.0
