"""Metrics over blocks: what one piece gives, in every block size, and what a block must not do."""

from __future__ import annotations

import inspect
import math
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from numba import config

from tlx import metrics
from tlx.errors import BadDataError, ResourceError, UnknownNameError, UsageError
from tlx.metrics import dimension_spread
from tlx.metrics.blocks import dissimilarities, linear, moments, neighbours, over, rows
from tlx.metrics.blocks.tree import JoinTree
from tlx.metrics.intrinsic_dimension import estimator
from tlx.metrics.scores import feature_table, logme

SMALL = bool(config.DISABLE_JIT)
N, D, E = (40, 5, 3) if SMALL else (230, 24, 9)
SIZES = [1, 7, N // 2, N - 1, N, 10 * N]
LABELS = np.array([["b", "a", "c"][i % 7 % 3] for i in range(N)])


@pytest.fixture(scope="module")
def x():
    draw = np.random.default_rng(0)
    values = draw.standard_normal((N, 4)) @ draw.standard_normal((4, D))
    values += 0.4 * draw.standard_normal((N, D)) + 3.0 * (LABELS == "a")[:, None]
    values[5] = values[N - 3]
    return values.astype(np.float32)


@pytest.fixture(scope="module")
def y(x):
    draw = np.random.default_rng(1)
    return (x @ draw.standard_normal((D, E)) + draw.standard_normal((N, E))).astype(np.float32)


def pearson(x, y, **settings):
    first, second = (metrics.rdm(part, settings.get("rdm", "correlation")) for part in (x, y))
    return metrics.compare_rdms(first, second, method="pearson")


ONE_PIECE = {  # metric → (its value in one piece, relative error allowed)
    "sum_of_squares": (lambda x, y, **s: metrics.sum_of_squares(x, LABELS, **s), 1e-13),
    "intrinsic_dimension": (lambda x, y, **s: metrics.intrinsic_dimension(x, **s), 0.0),
    "class_contrast": (
        lambda x, y, **s: metrics.class_contrast(metrics.rdm(x, *s.values()), LABELS),
        1e-12,
    ),
    "compare_rdms": (pearson, 1e-12),
    "cka": (metrics.cka, 1e-6),
    "logme": (lambda x, y, **s: logme(feature_table(x, LABELS)), 1e-10),
}


def numbers(value):
    """All numbers of a result, in order."""
    if isinstance(value, float | int | np.ndarray):
        return np.ravel(value).astype(float)
    parts = [part for part in vars(value).values() if not isinstance(part, str | type(None))]
    kept = [np.ravel(part) for part in parts if np.asarray(part).dtype.kind in "fiub"]
    return np.concatenate(kept).astype(float)


def given(metric, x, y):
    needs = over.METRICS[metric].needs
    return {"labels": LABELS} if needs == "labels" else {"y": y} if needs == "y" else {}


def test_every_metric_is_compared_with_one_piece():
    assert ONE_PIECE.keys() == over.METRICS.keys()


@pytest.mark.parametrize("block_rows", SIZES)
@pytest.mark.parametrize("metric", ONE_PIECE)
def test_a_metric_over_blocks_is_that_of_one_piece(metric, block_rows, x, y):
    if SMALL and block_rows == 1 and metric in ("class_contrast", "compare_rdms"):
        pytest.skip("too many pairs of blocks without a compiler")
    alone, error = ONE_PIECE[metric]
    result = metrics.over(x, metric, **given(metric, x, y), block_rows=block_rows)
    np.testing.assert_allclose(numbers(result.value), numbers(alone(x, y)), rtol=error, atol=error)
    assert type(result.value) is type(alone(x, y))
    assert result.blocks == math.ceil(N / block_rows)
    assert result.how == ("blocks" if result.blocks > 1 else "one piece")


@pytest.mark.parametrize(
    ("metric", "settings"),
    [
        ("sum_of_squares", {"means": True}),
        ("intrinsic_dimension", {"method": "mle:k=5"}),
        ("intrinsic_dimension", {"method": "twonn-mle", "fraction": 0.7}),
        ("cka", {"unbiased": False}),
        *(("class_contrast", {"rdm": rdm}) for rdm in ("cosine", "euclidean", "sqeuclidean")),
        ("compare_rdms", {"rdm": "euclidean"}),
    ],
)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_settings_and_types(metric, settings, dtype, x, y):
    alone, error = ONE_PIECE[metric]
    a, b = x.astype(dtype), y.astype(dtype)
    result = metrics.over(a, metric, **given(metric, a, b), block_rows=N // 3, **settings)
    want = numbers(alone(a, b, **settings))
    np.testing.assert_allclose(numbers(result.value), want, rtol=error, atol=error)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_sums_and_products_lose_no_digits_to_an_offset(offset, x, y):
    """Rows of a spread of 1e-6 of their offset, in blocks of 9: 1e-10 of the sums is lost."""
    a = x.astype(np.float64) * 1e-2 + offset
    codes = np.unique(LABELS, return_inverse=True)[1]
    within = sum(((a[codes == c] - a[codes == c].mean(axis=0)) ** 2).sum() for c in range(3))
    value = metrics.over(a, "sum_of_squares", LABELS, block_rows=9).value
    assert value.within == pytest.approx(within, rel=1e-10 if offset else 1e-13)
    assert value.within + value.between == pytest.approx(
        value.total, rel=1e-10 if offset else 1e-13
    )
    u, v = a - a.mean(axis=0), y - y.mean(axis=0, dtype=np.float64)
    want = ((u.T @ v) ** 2).sum() / np.sqrt(((u.T @ u) ** 2).sum() * ((v.T @ v) ** 2).sum())
    result = metrics.over(a, "cka", y=y, block_rows=9, unbiased=False).value
    assert result == pytest.approx(want, rel=1e-8 if offset else 1e-12)


def test_moments_of_halves_joined_are_those_of_the_whole(x, y):
    a, b = x.astype(float), y.astype(float)
    whole = moments.cross_moments(a, b)
    halves = [moments.cross_moments(a[part], b[part]) for part in (slice(0, 13), slice(13, N))]
    joined = halves[0].join(halves[1])
    for name, value in vars(whole).items():
        np.testing.assert_allclose(getattr(joined, name), value, rtol=1e-11, atol=1e-9)
    u, v = a - a.mean(axis=0), b - b.mean(axis=0)
    lengths = (u**2).sum(axis=1), (v**2).sum(axis=1)
    np.testing.assert_allclose(joined.overlap, (lengths[0] * lengths[1]).sum(), rtol=1e-12)
    np.testing.assert_allclose(joined.pull_y, lengths[0] @ v, rtol=1e-10, atol=1e-9)
    np.testing.assert_allclose(joined.pull_x, lengths[1] @ u, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("blocks", [1, 2, 3, 6, 7, 13])
def test_a_tree_joins_neighbours_in_one_way_whatever_comes_first(blocks):
    def text(order):
        tree = JoinTree(blocks, lambda a, b: f"({a}{b})")
        for block in order:
            tree.add(block, chr(ord("a") + block))
        return tree.result

    want = text(range(blocks))
    assert want.replace("(", "").replace(")", "") == "abcdefghijklm"[:blocks]
    for seed in range(5):
        assert text(np.random.default_rng(seed).permutation(blocks).tolist()) == want


def test_neighbours_have_the_bits_of_one_call(x):
    a = np.round(x, 1)  # many pairs are equally near
    want = metrics.nearest_neighbours(a, k=3)
    for block_rows in (2, 50, N):
        source = rows.BlockRows(a)
        search = neighbours.BlockedNeighbours(source, 3, source.ranges(block_rows))
        for result, expected in zip(search.nearest(3, ties=True), want, strict=True):
            assert (result == expected).all()


@pytest.mark.parametrize("magnitude", [1e-300, 1e-30, 1e300])
def test_all_blocks_have_one_scale(x, magnitude):
    a = x.astype(np.float64) * magnitude
    a[: N // 2] *= 1e-3
    value = metrics.over(a, "intrinsic_dimension", block_rows=N // 4).value
    assert value == metrics.intrinsic_dimension(a)


def test_a_row_of_a_sample_is_not_its_own_neighbour_among_copies(x):
    a = x.copy()
    a[: N // 2] = a[0]
    source, sample = rows.BlockRows(a), np.array([0, 3, N // 2 - 1, N - 1])
    want = metrics.nearest_neighbours(a, k=2)
    search = neighbours.BlockedNeighbours(source, 2, source.ranges(11))
    distances, indices = search.nearest_of(sample, 2)
    assert (distances == want[0][sample]).all()
    assert (indices == want[1][sample]).all()


def test_a_sampled_dimension_is_as_near_as_it_says():
    n = 150 if SMALL else 3000
    a = np.random.default_rng(0).random((n, 3))
    whole = metrics.over(a, "intrinsic_dimension", block_rows=n // 2).value.dimension
    off = []
    for seed in range(4 if SMALL else 20):
        part = metrics.over(a, "intrinsic_dimension", block_rows=n // 3, sample=n // 10, seed=seed)
        assert part.value.n == part.sample_rows == n // 10
        assert part.deviation == part.value.dimension / math.sqrt(n // 10)
        off.append((part.value.dimension - whole) / part.deviation)
    assert np.sqrt(np.mean(np.square(off))) < 2


# ---------------------------------------------------------------- sources of rows


class Slices:
    """No array: a length, a shape, a type and slices, as of rows in several files."""

    def __init__(self, x):
        self._x, self.shape, self.dtype = x, x.shape, x.dtype
        self.most = 0

    def __len__(self):
        return len(self._x)

    def __getitem__(self, part):
        assert isinstance(part, slice)
        assert part.step is None
        values = self._x[part]
        self.most = max(self.most, len(values))
        return values.copy()


@pytest.mark.parametrize("metric", over.METRICS)
def test_slices_and_maps_give_the_bits_of_an_array(metric, x, y, tmp_path):
    np.save(tmp_path / "x.npy", x)
    beside = given(metric, x, y)
    want = numbers(metrics.over(x, metric, **beside, block_rows=50).value)
    sliced = Slices(x)
    result = numbers(metrics.over(sliced, metric, **beside, block_rows=50).value)
    assert (result == want).all()
    assert sliced.most <= 50
    for source in (tmp_path / "x.npy", np.load(tmp_path / "x.npy", mmap_mode="r")):
        assert (numbers(metrics.over(source, metric, **beside, block_rows=50).value) == want).all()


def test_some_rows_of_each_source_are_its_rows(x, tmp_path):
    np.save(tmp_path / "x.npy", x)
    index = np.array([5, 0, N - 1, 5])
    for source in (x, Slices(x), np.load(tmp_path / "x.npy", mmap_mode="r")):
        part = rows.BlockRows(source).select(index)
        assert (part.read(range(1, 4)) == x[index[1:4]]).all()
        assert (part.select(np.array([2])).read(range(1)) == x[N - 1]).all()


def test_a_pickle_of_a_map_holds_its_name(x, tmp_path):
    np.save(tmp_path / "x.npy", x)
    source = rows.BlockRows(np.load(tmp_path / "x.npy", mmap_mode="r")).select(np.arange(3, N))
    data = pickle.dumps(source)
    assert len(data) < x.nbytes + 500
    again = pickle.loads(data)
    assert (again.read(range(2, 9)) == source.read(range(2, 9))).all()
    whole = pickle.dumps(rows.BlockRows(np.load(tmp_path / "x.npy", mmap_mode="r")))
    assert len(whole) < 1000
    in_memory = pickle.loads(pickle.dumps(rows.BlockRows(x, where="layer 3")))
    assert in_memory.where == "layer 3"
    assert (in_memory.read(range(N)) == x).all()


@pytest.mark.slow
def test_pieces_run_in_other_processes_with_the_same_bits(x, y, tmp_path):
    """What an engine does: functions of rows, ranges and small arrays, in any order."""
    np.save(tmp_path / "x.npy", x)
    source = rows.BlockRows(np.load(tmp_path / "x.npy", mmap_mode="r"))
    parts = source.ranges(60)
    codes = np.unique(LABELS, return_inverse=True)[1].astype(np.int64)
    search = neighbours.NeighbourQuery(2, 1.0)
    far = tuple(np.full(60, np.inf) for _ in range(2))
    rdm = dissimilarities.RowDissimilarities.of(source, "correlation")
    pair = parts[0], parts[1]
    calls = [
        (moments.class_moments, (source, parts[1], codes, 3)),
        (linear.cka_products, (source, source, parts[2])),
        (neighbours.block_neighbours, (source, parts[0], search)),
        (neighbours.pair_neighbours, (source, pair, search, far)),
        (neighbours.sample_neighbours, (source, np.arange(5), parts[0], search, far[0][:5])),
        (dissimilarities.pair_contrast, (rdm, pair, codes)),
        (dissimilarities.pair_moments, (rdm, rdm, pair)),
    ]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        remote = [pool.submit(call, *arguments).result() for call, arguments in calls]
    for (call, arguments), result in zip(calls, remote, strict=True):
        assert pickle.dumps(call(*arguments)) == pickle.dumps(result), call.__name__


def test_a_file_that_was_cut_is_named(x, tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, x)
    source = rows.BlockRows(np.load(path, mmap_mode="r"))
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size - 8)
    for part in (source, source.select(np.array([N - 1]))):
        with pytest.raises(BadDataError, match="bytes more") as caught:
            part.read(range(len(part) - 1, len(part)))
        assert str(path) in str(caught.value)


# ---------------------------------------------------------------- what is wrong is said


@pytest.mark.parametrize("metric", over.METRICS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_row_of_what_is_not_finite_is_that_of_all_rows(metric, bad, x, y):
    a = x.copy()
    a[N - 2, 3] = bad
    with pytest.raises(BadDataError, match=f"row {N - 2}, column 3"):
        metrics.over(a, metric, **given(metric, x, y), block_rows=N // 4)


def test_a_constant_row_is_named_by_its_place_among_all(x):
    a = x.copy()
    a[N - 2] = 1.0
    with pytest.raises(BadDataError, match=f"row {N - 2} is constant"):
        metrics.over(a, "class_contrast", LABELS, block_rows=N // 4)


@pytest.mark.parametrize("metric", ["cka", "compare_rdms"])
def test_layers_without_structure_or_with_other_rows_are_refused(metric, x, y):
    with pytest.raises(BadDataError, match="y"):
        metrics.over(x, metric, y=y[:-1], block_rows=9)
    settings = {} if metric == "cka" else {"rdm": "euclidean"}
    with pytest.raises(BadDataError, match="y"):
        metrics.over(x, metric, y=np.ones((N, 3)), block_rows=9, **settings)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ({"metric": "sums"}, UnknownNameError, "sum_of_squares"),
        ({"metric": "sum_of_squares"}, UsageError, "labels"),
        ({"metric": "cka"}, UsageError, "y"),
        ({"metric": "cka", "y": 1, "rdm": "cosine"}, UnknownNameError, "unbiased"),
        ({"metric": "intrinsic_dimension", "block_rows": 0}, UsageError, "block_rows"),
        ({"metric": "intrinsic_dimension", "block_rows": 2.5}, UsageError, "block_rows"),
        ({"metric": "intrinsic_dimension", "layer": "fc"}, UsageError, "a dump"),
        ({"metric": "intrinsic_dimension", "sample": N + 1}, UsageError, "sample"),
        ({"metric": "intrinsic_dimension", "sample": 0}, UsageError, "sample"),
        ({"metric": "class_contrast", "labels": LABELS, "rdm": "r"}, UnknownNameError, "cosine"),
        ({"metric": "class_contrast", "labels": LABELS[:-1]}, BadDataError, "labels"),
        ({"metric": "logme", "labels": ["a"] * N}, BadDataError, "two classes"),
        ({"metric": "class_contrast", "labels": ["a"] * N}, BadDataError, "two or more classes"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_read(call, error, message, x):
    sliced = Slices(x)
    with pytest.raises(error, match=message):
        metrics.over(sliced, **call)
    assert sliced.most <= (N if "sample" in call else 0)


@pytest.mark.parametrize("x", [np.ones(4), np.ones((0, 3)), np.array([["a"]]), 7, "absent.npy"])
def test_what_has_no_rows_is_refused(x):
    with pytest.raises((BadDataError, OSError, Exception), match=r"x|absent") as caught:
        metrics.over(x, "intrinsic_dimension")
    assert hasattr(caught.value, "code")


def test_too_few_rows_for_neighbours(x):
    with pytest.raises(BadDataError, match="more than k = 2"):
        metrics.over(x[:2], "intrinsic_dimension", block_rows=1)


def test_products_of_too_many_features_are_refused_before_reading(x, monkeypatch):
    monkeypatch.setattr(linear, "PRODUCT_BYTES", 32 * D * D - 1)
    sliced = Slices(x)
    for metric, beside in (("cka", {"y": x}), ("logme", {"labels": LABELS})):
        with pytest.raises(ResourceError, match="features"):
            metrics.over(sliced, metric, **beside)
    assert sliced.most == 0


def test_means_of_too_many_classes_are_refused_before_reading(x, monkeypatch):
    monkeypatch.setattr(moments, "MEANS_BYTES", 32 * 3 * D - 1)
    sliced = Slices(x)
    for metric in ("sum_of_squares", "logme"):
        with pytest.raises(ResourceError, match="3 classes"):
            metrics.over(sliced, metric, LABELS)
    assert sliced.most == 0


# ---------------------------------------------------------------- memory


def test_rows_that_run_out_in_a_resampling_are_searched_again_over_blocks(x, monkeypatch):
    """Parts of a tenth of the rows: lists of few neighbours run out in nearly all of them."""
    monkeypatch.setattr(dimension_spread, "RUN_OUT", 10.0)
    want = metrics.intrinsic_dimension_resampled(x, 6, 0.2)
    source, sizes = rows.BlockRows(x), []
    search = neighbours.BlockedNeighbours(source, 2, source.ranges(50))
    again = search.nearest_of
    monkeypatch.setattr(search, "nearest_of", lambda at, k: sizes.append(len(at)) or again(at, k))
    result = dimension_spread.resampled_dimension(search, estimator("twonn"), 6, 0.2, 0)
    assert sum(sizes)
    assert (result.values == want.values).all()
    assert result.whole == want.whole


def test_rows_of_a_block_are_what_half_of_the_memory_holds(monkeypatch):
    memory = type("Memory", (), {"total": 64 * 1000 * 1024})
    monkeypatch.setattr(rows.psutil, "virtual_memory", lambda: memory)
    assert rows.fitting_rows(1000, 4) == 64 * 1024 // (2 * 4 * 4)
    assert rows.fitting_rows(10**9) == rows.LEAST_ROWS


def test_statistics_of_rdms_hold_blocks_of_pairs_and_no_rdm(x, y, monkeypatch):
    monkeypatch.setattr(dissimilarities, "SIDE", 20)
    sizes, block = [], dissimilarities.RowDissimilarities.block

    def counted(self, *pair):
        result = block(self, *pair)
        sizes.append(result.size)
        return result

    monkeypatch.setattr(dissimilarities.RowDissimilarities, "block", counted)
    metrics.over(x, "class_contrast", LABELS)
    assert max(sizes) == 20 * 20
    assert sum(sizes) == N * (N - 1) // 2


class DumpOfTwo:
    """What a dump is to `over`."""

    def __init__(self, x, y):
        self._arrays = {"first": x, "second": y}
        self.layers = tuple(self._arrays)

    def array(self, layer):
        return self._arrays[layer]

    def row_labels(self):
        return LABELS


def test_a_dump_has_layers_and_labels(x, y):
    dump = DumpOfTwo(x, y)
    want = metrics.over(x, "sum_of_squares", LABELS, block_rows=9).value
    assert metrics.over(dump, "sum_of_squares", layer="first", block_rows=9).value.within == (
        want.within
    )
    want = metrics.over(x, "cka", y=y, block_rows=9).value
    assert metrics.over(dump, "cka", layer="first", y="second", block_rows=9).value == want
    with pytest.raises(UsageError, match="first, second"):
        metrics.over(dump, "sum_of_squares")


def test_every_setting_is_described():
    text = inspect.getdoc(metrics.over)
    for name, row in over.METRICS.items():
        assert all(word in text for word in (name, row.needs, *row.settings))
