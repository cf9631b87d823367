"""Dissimilarity matrices: right on data hard for float32, refused where there is no answer, to
memory or disk.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import config
from scipy.spatial import distance

from tlx.errors import BadDataError, ResourceError, TlxError, UnknownNameError, UsageError
from tlx.kernels import dispatch, tile
from tlx.metrics import rsa
from tlx.metrics.rsa import DISSIMILARITIES, rdm

SMALL = bool(config.DISABLE_JIT)
N, D = (16, 8) if SMALL else (220, 150)
METRICS = list(DISSIMILARITIES)


@pytest.fixture(params=["fast", "plain"] if dispatch.has_tile() else ["plain"])
def way(request, monkeypatch):
    monkeypatch.setattr(dispatch, "has_tile", lambda: request.param == "fast")


def exact(x, metric):
    """(n(n − 1)/2,) by differences of rows in the longest floats there are: nothing cancels."""
    x = np.asarray(x).reshape(len(x), -1).astype(np.longdouble)
    if metric == "correlation":
        x = x - x.mean(axis=1, keepdims=True)
    if metric in ("correlation", "cosine"):
        x = x / np.sqrt((x * x).sum(axis=1, keepdims=True))
    squares = np.concatenate([((x[i + 1 :] - x[i]) ** 2).sum(axis=1) for i in range(len(x) - 1)])
    return {"euclidean": np.sqrt(squares), "sqeuclidean": squares}.get(metric, squares / 2)


def offset(scale, shift, seed=0):
    return np.random.default_rng(seed).standard_normal((N, D)) * scale + shift


def near_duplicates():
    x = offset(1, 0)
    x[N // 2 :] = x[: N // 2] + 1e-4 * offset(1, 0, 1)[: N // 2]
    return x


def clusters(spread):
    rng = np.random.default_rng(1)
    return rng.standard_normal((10, D))[rng.integers(0, 10, N)] + spread * offset(1, 0)


def relu_and_an_outlier():
    x = np.maximum(offset(1, -1), 0)
    x[:, 5] += 1000 * np.random.default_rng(2).random(N)
    return x


def massive():
    x = np.maximum(offset(1, -1), 0)
    x[:, 2:5] += [1000, 2000, -3000]
    return x


def repeated():
    x = offset(1, 0)
    x[: N // 4] = x[0]
    return x


HARD = {
    "plain": lambda: offset(1, 0),
    "mean 1e4": lambda: offset(1, 1e4),
    "mean 1e4 sd 1e-2": lambda: offset(1e-2, 1e4),
    "tiny": lambda: offset(1e-12, 0),
    "row offsets": lambda: offset(1, 1e4 * offset(1, 0, 3)[:, :1]),
    "near duplicates": near_duplicates,
    "clusters": lambda: clusters(1e-3),
    "loose clusters": lambda: clusters(3e-2),
    "relu and an outlier": relu_and_an_outlier,
    "massive features": massive,
    "repeated rows": repeated,
    "lattice": lambda: np.random.default_rng(4).integers(0, 3, (N, D)).astype(float),
    "low rank": lambda: offset(1, 0)[:, :3] @ offset(1, 0, 5)[:3] + 0.1,
}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", HARD)
def test_hard_cases(way, name, metric):
    for dtype in (np.float32, np.float64):
        x = HARD[name]().astype(dtype)
        want = exact(x, metric)
        floor = (
            1e-15 if metric in ("correlation", "cosine") else 0
        )  # what rounding of the means and lengths leaves
        for answer in (np.float32, np.float64):
            got = rdm(x, metric, dtype=answer)
            assert got.dtype == answer
            assert (abs(got - want) <= 2e-6 * want + floor).all()
            if name == "repeated rows":
                same = np.array([(a == b).all() for i, a in enumerate(x) for b in x[i + 1 :]])
                assert same.sum() > 5
                assert (got[same] == 0).all()
                assert (got[~same] > 0).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("n", "d"), [(2, 2), (3, 64), (64, 3), (65, 33), (129, 5)] if not SMALL else [(2, 2), (5, 3)]
)
def test_as_scipy_at_any_shape(way, n, d, metric):
    x = np.random.default_rng(n).standard_normal((n, d))
    want = distance.pdist(x, metric)
    for condensed in (True, False):
        got = rdm(x, metric, condensed)
        np.testing.assert_allclose(
            got, want if condensed else distance.squareform(want), rtol=2e-6, atol=1e-15
        )
        if not condensed:
            np.testing.assert_array_equal(got, got.T)
            np.testing.assert_array_equal(distance.squareform(got), rdm(x, metric))


def test_one_feature():
    x = np.array([[1.0], [4.0], [-2.0]])
    np.testing.assert_array_equal(rdm(x, "euclidean"), [3, 3, 6])
    np.testing.assert_array_equal(rdm(x, "cosine"), [0, 2, 2])
    with pytest.raises(BadDataError, match=r"constant-row.*row 0 is constant, and 2 more rows too"):
        rdm(x)


def test_the_numbers_of_rsatoolbox():
    """Its 0.3.2: correlation as ours; its euclidean is squared and divided by the number of
    channels.
    """
    x = np.random.default_rng(1).standard_normal((5, 4))
    np.testing.assert_allclose(
        rdm(x, "sqeuclidean") / 4,
        [
            1.18925289,
            0.94795861,
            1.60449185,
            0.91651746,
            0.15911439,
            0.76752215,
            0.51449021,
            0.42112942,
            0.43812853,
            0.36047681,
        ],
        atol=2e-8,
    )
    np.testing.assert_allclose(
        rdm(x),
        [
            1.18641362,
            1.65976846,
            1.79847144,
            1.09162938,
            0.16797782,
            0.86984697,
            0.0120012,
            0.36087666,
            0.25199272,
            1.01929935,
        ],
        atol=2e-7,
    )


def test_wide_rows_that_differ_in_the_last_feature():
    d = 300 if SMALL else 65_537
    x = np.zeros((4, d), np.float32)
    x[:, -1] = [1, 2, 4, 8]
    x[:, 0] = 1
    np.testing.assert_array_equal(rdm(x, "euclidean"), [1, 3, 7, 2, 6, 4])
    np.testing.assert_allclose(
        rdm(x), exact(x, "correlation"), rtol=4e-6, atol=1e-15
    )  # equal terms err alike


@pytest.mark.parametrize("metric", METRICS)
def test_what_may_be_given(metric, tmp_path):
    x = offset(1, 0).astype(np.float32)
    want = rdm(x, metric)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    for given_ in (
        mapped,
        torch.from_numpy(x),
        np.asfortranarray(x),
        np.repeat(x, 2, axis=1)[:, ::2],
        x.reshape(N, 2, -1),
        x.astype(">f4"),
    ):
        got = rdm(given_, metric)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(rdm(x[::-1], metric, False), rdm(x, metric, False)[::-1, ::-1])
    half = x.astype(np.float16)
    np.testing.assert_array_equal(rdm(half, metric), rdm(half.astype(np.float32), metric))
    whole = (3 * x).astype(np.int8)
    whole[:, 0] = np.arange(N) % 7 + 1
    np.testing.assert_array_equal(rdm(whole, metric), rdm(whole.astype(np.float64), metric))
    assert rdm(whole, metric).dtype == np.float64
    assert rdm(x, metric, dtype="float64").dtype == np.float64


def test_same_bits_at_any_number_of_threads():
    x = near_duplicates().astype(np.float32)
    for metric in METRICS:
        for condensed in (True, False):
            for dtype in (np.float32, np.float64):
                one = rdm(x, metric, condensed, dtype, threads=1)
                for threads in (2, 3):
                    np.testing.assert_array_equal(
                        rdm(x, metric, condensed, dtype, threads=threads), one
                    )


floats = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).standard_normal((9, 6))
)


@given(floats, st.sampled_from(METRICS), st.sampled_from([np.float32, np.float64]))
@settings(deadline=None, max_examples=5 if SMALL else 60)
def test_invariances(x, metric, dtype):
    x = x.astype(dtype)
    whole, order = rdm(x, metric, False), np.random.default_rng(0).permutation(9)
    np.testing.assert_array_equal(rdm(x[order], metric, False), whole[np.ix_(order, order)])
    np.testing.assert_allclose(rdm(x[:, ::-1], metric, False), whole, rtol=3e-6)
    assert (whole.diagonal() == 0).all()
    near = {"rtol": 4e-6, "atol": 1e-12}
    if metric == "correlation":
        np.testing.assert_allclose(
            rdm(x.astype(float) * np.arange(1, 10)[:, None] + 7, metric, False), whole, **near
        )
        assert ((whole >= 0) & (whole <= 2 + 1e-6)).all()
        np.testing.assert_allclose(rdm(-x[:1] * [[1], [-1]], metric, dtype=np.float64), [2], **near)
    elif metric == "cosine":
        np.testing.assert_allclose(
            rdm(x.astype(float) * np.arange(1, 10)[:, None], metric, False), whole, **near
        )
    else:
        np.testing.assert_allclose(rdm(x.astype(float) - 3, metric, False), whole, **near)
        np.testing.assert_allclose(
            rdm(-4 * x, metric, False), whole * (4 if metric == "euclidean" else 16), **near
        )
    if metric == "euclidean":
        assert (whole[:, None] <= whole[:, :, None] + whole[None] + 1e-5).all()
        np.testing.assert_allclose(whole**2, rdm(x, "sqeuclidean", False), rtol=3e-6)


# ---------------------------------------------------------------- refusals


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("metric", METRICS)
def test_what_is_not_finite_is_named(metric, bad, tmp_path):
    x = offset(1, 0).astype(np.float32)
    x[7, 3] = bad
    for out in (None, tmp_path / "rdm.npy"):
        with pytest.raises(BadDataError, match=rf"not-finite.*{bad} in row 7, column 3"):
            rdm(x, metric, out=out)
    assert list(tmp_path.iterdir()) == []


def test_rows_without_an_answer():
    x = offset(1, 0).astype(np.float32)
    x[[4, 9]] = 1e4 + 0.1
    with pytest.raises(
        BadDataError, match=r"constant-row\] x: row 4 is constant, and 1 more row too"
    ):
        rdm(x)
    x[[4, 9]] = 0
    with pytest.raises(BadDataError, match=r"zero-row\] x: row 4 is zero.*euclidean"):
        rdm(x, "cosine")
    assert rdm(x, "euclidean", False)[4, 9] == 0


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("metric", METRICS)
def test_numbers_too_large(metric):
    for scale in (1e200, 1e-170) if metric in ("correlation", "cosine") else (1e200,):
        with pytest.raises(BadDataError, match=r"too-large|out-of-range|-row"):
            rdm(offset(scale, 0), metric)
    big = offset(1e25, 0).astype(np.float32)
    if metric == "sqeuclidean":
        with pytest.raises(BadDataError, match=r"too-large.*float64"):
            rdm(big, metric)
    np.testing.assert_allclose(rdm(big, metric, dtype=np.float64), exact(big, metric), rtol=2e-6)


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ({"x": np.ones((1, 5))}, BadDataError),
        ({"x": np.ones(5)}, BadDataError),
        ({"metric": "pearson"}, UnknownNameError),
        ({"dtype": np.int32}, UsageError),
        ({"dtype": np.float16}, UsageError),
    ],
)
def test_wrong_questions(how, kind):
    with pytest.raises(kind):
        rdm(**{"x": offset(1, 0), **how})


def test_more_than_the_machine_has(monkeypatch):
    monkeypatch.setattr(rsa.os, "sysconf", lambda name: 10)
    with pytest.raises(ResourceError, match="out="):
        rdm(offset(1, 0))


# ---------------------------------------------------------------- disk and memory


@pytest.mark.parametrize("metric", ["correlation", "euclidean"])
@pytest.mark.parametrize("condensed", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("side", [64, 128])
def test_to_disk_in_blocks(metric, condensed, dtype, side, tmp_path, monkeypatch):
    x = near_duplicates()
    monkeypatch.setattr(rsa, "BLOCK_BYTES", side**2 * np.dtype(dtype).itemsize)
    monkeypatch.setattr(rsa, "SIDE", 64)
    monkeypatch.setattr(tile, "SIDE", 64)
    got = rdm(x, metric, condensed, dtype, out=tmp_path / "new" / "rdm.npy")
    np.testing.assert_array_equal(got, rdm(x, metric, condensed, dtype))
    assert isinstance(got, np.memmap)
    assert not got.flags.writeable
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["rdm.npy"]
    np.testing.assert_array_equal(np.load(tmp_path / "new" / "rdm.npy"), got)


@pytest.mark.parametrize("known", [True, False])
def test_a_full_disk_is_said_and_leaves_what_was_there(known, tmp_path, monkeypatch):
    rdm(offset(1, 0), out=tmp_path / "rdm.npy")
    before = (tmp_path / "rdm.npy").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if known:
        monkeypatch.setattr(rsa.files, "free_bytes", lambda path: 300)
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        with pytest.raises(ResourceError, match="disk-full"):
            rdm(offset(2, 1), out=tmp_path / "rdm.npy")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in tmp_path.iterdir()] == ["rdm.npy"]
    assert (tmp_path / "rdm.npy").read_bytes() == before


@pytest.mark.skipif(SMALL, reason="too slow without compilation")
@pytest.mark.parametrize("condensed", [True, False])
@pytest.mark.parametrize("metric", ["correlation", "euclidean"])
def test_memory_beyond_the_answer(metric, condensed):
    x = np.random.default_rng(0).standard_normal((1600, 3000)).astype(np.float32)
    rdm(x[:70], metric, condensed)
    tracemalloc.start()
    got = rdm(x, metric, condensed, threads=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= got.nbytes + x.nbytes + (16 << 20)


SCRIPT = """
import sys; import numpy as np
from tlx.metrics.rsa import rdm
x = np.random.default_rng(3).standard_normal((12, 7))
x[4] = x[2]
names = "correlation", "cosine", "euclidean", "sqeuclidean"
np.save(sys.argv[1], np.stack([rdm(x.astype(kind), metric, False, np.float64)
                               for kind in ("f4", "f8") for metric in names]))
"""


@pytest.mark.slow
def test_without_compilation(tmp_path):
    for name, variables in (
        ("python", {"NUMBA_DISABLE_JIT": "1"}),
        ("plain", {"TLX_KERNELS": "plain"}),
        ("as is", {}),
    ):
        subprocess.run(
            [sys.executable, "-c", SCRIPT, tmp_path / f"{name}.npy"],
            env={**os.environ, **variables},
            check=True,
        )
    found = [np.load(tmp_path / f"{name}.npy") for name in ("python", "plain", "as is")]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=2e-6, atol=1e-15)
        assert (other[:, 2, 4] == 0).all()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_works_after_its_parent_did():
    x = offset(1, 0).astype(np.float32)
    before = rdm(x, threads=2)
    child = os.fork()
    if child == 0:
        try:
            same = (rdm(x, threads=2) == before).all()
        except TlxError:
            same = False
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
