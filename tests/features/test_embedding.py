"""The embedding: the original's arithmetic, statistics of training rows alone, bounded memory, no
NaN turned into 0.
"""

from __future__ import annotations

import tracemalloc

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tlx.errors import BadDataError, UnknownNameError, UsageError
from tlx.features import embedding
from tlx.features.embedding import EMBEDDINGS, FNE, L2, Embedding, Raw, Standard
from tlx.spec import Spec, parse_spec


def rows(n=40, d=30, seed=0, dtype=np.float32):
    return (np.random.default_rng(seed).standard_normal((n, d)) * 3 + 1).astype(dtype)


def test_fne_is_what_the_slow_twin_says():
    train, test = rows(), rows(25, seed=1)
    train[:, 4] = 0.1  # no sum of n tenths over n is a tenth
    fitted = FNE().fit(train)
    assert fitted.transform(test).dtype == np.int8
    np.testing.assert_array_equal(
        fitted.transform(train), naive.full_network_embedding(train, train)
    )
    np.testing.assert_array_equal(fitted.transform(test), naive.full_network_embedding(train, test))
    assert set(np.unique(fitted.transform(test))) == {-1, 0, 1}


def test_a_value_on_a_threshold_is_zero():
    train = np.array([[-1.0], [1.0]])  # mean 0, deviation 1
    test = np.array([[-0.25], [0.15], [np.nextafter(0.15, 1)], [np.nextafter(-0.25, -1)], [0.0]])
    assert FNE().fit(train).transform(test)[:, 0].tolist() == [0, 0, 1, -1, 0]
    assert FNE(low=-0.5, high=0.0).fit(train).transform(test)[:, 0].tolist() == [0, 1, 1, 0, 0]


def test_constant_features_become_zero_and_are_counted():
    train = rows(n=7, dtype=np.float64)
    train[:, [2, 5]] = 0.1, 1e8 / 3
    test = rows(n=5, seed=3)
    for spec in (FNE(), Standard()):
        fitted = spec.fit(train)
        assert fitted.constant == 2
        assert not fitted.transform(test)[:, [2, 5]].any()
        assert fitted.transform(test)[:, [0, 1]].any()
    assert FNE().fit(train[:1]).constant == 30  # one row: nothing varies
    assert Raw().fit(train).constant == 0


def test_statistics_are_of_training_rows_alone():
    """One test row is embedded the same by itself, among others, and whatever the others are."""
    train, test = rows(), rows(12, seed=1)
    fitted = FNE().fit(train)
    whole = fitted.transform(test)
    np.testing.assert_array_equal(fitted.transform(test[3:4])[0], whole[3])
    company = np.concatenate([test[3:4], test * 1000])
    np.testing.assert_array_equal(fitted.transform(company)[0], whole[3])
    assert (fitted.transform(test + 100) == 1).all()


def test_per_set_standardises_each_set_by_itself():
    train, test = rows(), rows(25, seed=1) * 5 + 20
    fitted = FNE(standardize="per-set").fit(train)
    np.testing.assert_array_equal(fitted.transform(train), FNE().fit(train).transform(train))
    np.testing.assert_array_equal(fitted.transform(test), naive.full_network_embedding(test, test))
    assert (fitted.transform(test) != FNE().fit(train).transform(test)).mean() > 0.3
    chosen = np.array([3, 9, 11, 20])
    own = naive.full_network_embedding(test[chosen], test[chosen])
    np.testing.assert_array_equal(fitted.transform(test, chosen), own)


def test_small_deviation_beside_a_large_mean_keeps_its_digits():
    rng = np.random.default_rng(5)
    z = rng.standard_normal((400, 6))
    x = 1e4 + 1e-2 * z
    exact = (x.astype(np.longdouble) - x.astype(np.longdouble).mean(0)) / x.astype(
        np.longdouble
    ).std(0)
    moments = Standard().fit(x).moments
    np.testing.assert_allclose(
        moments.std, x.astype(np.longdouble).std(0).astype(float), rtol=1e-12
    )
    np.testing.assert_allclose(Standard().fit(x).transform(x), exact.astype(float), atol=1e-6)
    x[0] = -1e6  # an outlier as the first row, from which rows are counted
    np.testing.assert_allclose(
        Standard().fit(x).moments.std, x.astype(np.longdouble).std(0).astype(float), rtol=1e-12
    )


def test_l2_scales_each_layer_of_each_row():
    layers = [rows(9, 4), rows(9, 7, seed=2) * 100]
    layers[1][3] = 0
    out = L2().fit(layers).transform(layers)
    lengths = np.linalg.norm(out[:, :4], axis=1), np.linalg.norm(out[:, 4:], axis=1)
    np.testing.assert_allclose(lengths[0], 1, rtol=1e-6)
    np.testing.assert_allclose(np.delete(lengths[1], 3), 1, rtol=1e-6)
    assert lengths[1][3] == 0
    np.testing.assert_allclose(
        out[:, 4:] * np.linalg.norm(layers[1], axis=1)[:, None], layers[1], rtol=1e-5
    )
    far = np.array([[3e200, 4e200], [3e-200, 4e-200]])  # whose squares no float64 holds
    np.testing.assert_allclose(L2().fit(far).transform(far), [[0.6, 0.8]] * 2, rtol=1e-6)


@pytest.mark.parametrize("name", EMBEDDINGS)
class TestEveryEmbedding:
    def test_blocks_make_no_difference(self, name, monkeypatch):
        train, test = rows(50), rows(33, seed=1)
        want = EMBEDDINGS[name]().fit(train).transform(test)
        monkeypatch.setattr(embedding, "BLOCK_BYTES", 8 * 30 * 7)  # 7 rows
        fitted = EMBEDDINGS[name]().fit(train)
        got = fitted.transform(test)
        assert got.dtype == want.dtype == fitted.dtype
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)
        blocks = list(fitted.blocks(test))
        assert [place.stop - place.start for place, _ in blocks] == [7, 7, 7, 7, 5]
        np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), got)

    def test_layers_are_the_columns_of_one_array(self, name):
        whole = rows(20, 12)
        layers = [whole[:, :5], whole[:, 5:6], whole[:, 6:]]
        spec = EMBEDDINGS[name]()
        if name != "l2":
            np.testing.assert_array_equal(
                spec.fit(layers).transform(layers), spec.fit(whole).transform(whole)
            )
        assert spec.fit(layers).transform(layers).shape == (20, 12)

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8])
    def test_read_only_maps_of_any_dtype(self, name, dtype, tmp_path):
        values = np.random.default_rng(1).integers(-60, 60, (20, 6)).astype(dtype)
        np.save(tmp_path / "x.npy", values)
        mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
        spec = EMBEDDINGS[name]()
        before = values.astype(np.float64)
        got = spec.fit(mapped[:10]).transform(mapped)
        np.testing.assert_array_equal(got, spec.fit(values[:10]).transform(values))
        np.testing.assert_array_equal(got, spec.fit(before[:10]).transform(before))
        np.testing.assert_array_equal(mapped, before)

    @pytest.mark.parametrize(
        "index",
        [
            np.array([5, 2, 2, 17]),
            slice(3, 9),
            np.arange(20) % 3 == 0,
            np.array([4]),
            np.array([7, 6, 5]),
        ],
    )
    def test_rows_are_an_index(self, name, index):
        x = rows(20)
        spec = EMBEDDINGS[name]()
        fitted, same = spec.fit(x, index), spec.fit(x[index])
        np.testing.assert_array_equal(fitted.transform(x), same.transform(x))
        np.testing.assert_array_equal(fitted.transform(x, index), same.transform(x[index]))

    @pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
    def test_what_is_not_finite_is_refused(self, name, poison):
        x = rows(20)
        bad = x.copy()
        bad[[11, 13], 3] = poison
        spec = EMBEDDINGS[name]()
        with pytest.raises(
            BadDataError, match=r"features-not-finite.*2 NaN or infinite.*2 of.*row 11"
        ):
            spec.fit(x).transform(bad)
        with pytest.raises(BadDataError, match="row 13"):
            spec.fit(x).transform(bad, np.array([2, 13, 1]))
        spec.fit(x).transform(bad, np.arange(10))  # the rows that are used are sound
        if spec.learns:
            with pytest.raises(BadDataError, match="features-not-finite"):
                spec.fit(bad)

    def test_disagreeing_shapes_are_refused(self, name):
        spec = EMBEDDINGS[name]()
        for features in ([], [rows(3, 2), rows(4, 2)], np.zeros(5), np.zeros((2, 3, 4))):
            with pytest.raises(BadDataError, match="features-shape"):
                spec.fit(features)
        with pytest.raises(BadDataError, match=r"\[3\].*\[2\] as in the training rows"):
            spec.fit(rows(3, 2)).transform(rows(3, 3))
        with pytest.raises(BadDataError, match="no-rows"):
            spec.fit(rows(0, 2))
        assert spec.fit(rows(3, 2)).transform(rows(0, 2)).shape == (0, 2)

    def test_memory_stays_bounded(self, name, tmp_path, monkeypatch):
        """A map of 24 MB is embedded block by block with less than 4 MB at a time."""
        np.save(tmp_path / "x.npy", rows(2000, 3000))
        mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
        monkeypatch.setattr(embedding, "BLOCK_BYTES", 1 << 19)
        tracemalloc.start()
        try:
            fitted = EMBEDDINGS[name]().fit(mapped)
            assert sum(block.shape[0] for _, block in fitted.blocks(mapped)) == 2000
            assert tracemalloc.get_traced_memory()[1] < 4 << 20
        finally:
            tracemalloc.stop()

    def test_it_is_asked_for_by_name(self, name):
        spec = parse_spec(EMBEDDINGS, name, "embedding")
        assert isinstance(spec, Embedding)
        assert Spec.from_json(spec.to_json()) == spec
        assert all(row.help for row in spec.settings().values())

    def test_wider_than_an_unsigned_short(self, name):
        x = np.zeros((3, 65_537), np.float16)
        x[:, -1] = [1, 2, 4]
        out = EMBEDDINGS[name]().fit(x).transform(x)
        assert out.shape == (3, 65_537)
        assert len(set(out[:, -1].tolist())) > 1 or name == "l2"


def test_settings_by_name():
    assert parse_spec(EMBEDDINGS, "fne:standardize=per-set,high=0.2") == FNE(
        standardize="per-set", high=0.2
    )
    assert FNE().key != Standard().key
    with pytest.raises(UnknownNameError, match="standardize"):
        FNE(standardize="both")
    with pytest.raises(UsageError):
        FNE(low=0.3)


MATRICES = hnp.arrays(
    np.float64,
    st.tuples(st.integers(2, 9), st.integers(1, 5)),
    elements=st.integers(-1000, 1000).map(float),
)


@given(
    MATRICES,
    st.sampled_from([0.25, 2.0, 1024.0]),
    st.integers(-50, 50),
    st.randoms(use_true_random=False),
)
@settings(deadline=None, max_examples=60)
def test_scale_shift_and_order_of_rows_do_not_matter(x, scale, shift, chance):
    """A positive scale, a shift and another order of rows change nothing but what stands within
    rounding of a step.
    """
    z = Standard().fit(x).transform(x)
    clear = (np.abs(z - 0.15) > 1e-5) & (np.abs(z + 0.25) > 1e-5)
    base = FNE().fit(x).transform(x)
    np.testing.assert_array_equal(FNE().fit(x * scale).transform(x * scale)[clear], base[clear])
    np.testing.assert_array_equal(FNE().fit(x + shift).transform(x + shift)[clear], base[clear])
    order = list(range(len(x)))
    chance.shuffle(order)
    np.testing.assert_array_equal(FNE().fit(x[order]).transform(x)[clear], base[clear])
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-5)
    deviation = z.astype(float).std(axis=0)
    assert (np.isclose(deviation, 1, atol=1e-5) | (deviation == 0)).all()
    assert ((deviation == 0) == (x == x[0]).all(axis=0)).all()


# ---------------------------------------------------------------- cuts of float32 features


def by_standardising(spec, x, moments):
    """What `embed` says of rows, in float64."""
    return spec.embed(x.astype(np.float64), [x.shape[1]], moments)


@given(
    hnp.arrays(
        np.float32,
        (6, 5),
        elements=st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False),
    ),
    st.sampled_from([(-0.25, 0.15), (0.0, 0.0), (-1.0, 2.0), (-1e-3, 3.0)]),
    st.sampled_from([np.float32, np.float16]),
)
@settings(deadline=None, max_examples=200)
def test_cuts_of_float32_features_give_the_answer_of_float64(x, thresholds, dtype):
    """Also for the numbers next to each cut, which are the ones that could go wrong."""
    with np.errstate(over="ignore"):
        x = x.astype(dtype)
    x = np.where(np.isfinite(x), x, dtype(7.0))
    spec = FNE(low=thresholds[0], high=thresholds[1])
    fitted = spec.fit(x)
    cuts = spec.cuts(fitted.moments)
    want = by_standardising(spec, x, fitted.moments)
    np.testing.assert_array_equal(fitted.transform(x), want)
    if cuts is None:
        return
    for cut in cuts:
        near = np.where(np.isfinite(cut), cut, np.float32(0))
        for _ in range(3):
            near = np.nextafter(near, np.float32(-np.inf))
        for _ in range(7):
            rows = near[None].copy()
            if np.isfinite(rows).all():
                np.testing.assert_array_equal(
                    fitted.transform(rows), by_standardising(spec, rows, fitted.moments)
                )
            near = np.nextafter(near, np.float32(np.inf))


@pytest.mark.parametrize("offset", [0.0, 1.0, 1e4, 1e7])
@pytest.mark.parametrize("standardize", ["train", "per-set"])
def test_cuts_are_found_and_used_for_common_features(offset, standardize, monkeypatch):
    rng = np.random.default_rng(3)
    x = (rng.standard_normal((40, 30)) + offset).astype(np.float32)
    x[:, 4] = 2.5
    spec = FNE(standardize=standardize)
    fitted = spec.fit(x)
    assert spec.cuts(fitted.moments) is not None
    want = by_standardising(spec, x, fitted.moments)
    monkeypatch.setattr(FNE, "embed", None)  # not needed
    np.testing.assert_array_equal(fitted.transform(x), want)


def test_cuts_refuse_what_is_not_finite_as_well():
    x = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)
    fitted = FNE().fit(x)
    x[5, 2] = np.inf
    with pytest.raises(BadDataError, match="the first in row 5"):
        fitted.transform(x)
