"""Within and between classes: on the square with both triangles, as the thesis defines it; labels
in any order.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import config

from tlx.errors import BadDataError
from tlx.metrics.class_contrast import class_contrast, model_rdm


def oracle(square, labels):
    """Means over both triangles without the diagonal."""
    n = len(labels)
    within = [square[i, j] for i in range(n) for j in range(n) if i != j and labels[i] == labels[j]]
    between = [square[i, j] for i in range(n) for j in range(n) if labels[i] != labels[j]]
    return (
        np.mean(within, dtype=np.float64),
        np.mean(between, dtype=np.float64),
        len(within) // 2,
        len(between) // 2,
    )


def rdm(n, dtype=np.float64, seed=0):
    x = np.random.default_rng(seed).random((n, n)).astype(dtype)
    square = np.triu(x, 1) + np.triu(x, 1).T
    return square, square[np.triu_indices(n, 1)]


def check(found, want):
    np.testing.assert_allclose([found.within, found.between], want[:2], rtol=1e-13)
    assert found.contrast == abs(found.within - found.between)
    assert (found.pairs_within, found.pairs_between) == want[2:]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(("n", "classes"), [(3, 2), (10, 2), (41, 7), (60, 59)])
def test_the_definition(n, classes, dtype, tmp_path):
    square, pairs = rdm(n, dtype)
    labels = np.arange(n) % classes
    np.save(tmp_path / "rdm.npy", pairs)
    for given_ in (
        square,
        pairs,
        np.load(tmp_path / "rdm.npy", mmap_mode="r"),
        tmp_path / "rdm.npy",
    ):
        check(class_contrast(given_, labels), oracle(square, labels))


def test_rows_need_not_be_sorted_by_class():
    """The thesis read blocks of rows as classes, of rows in any order; labels are what counts
    here.
    """
    rng = np.random.default_rng(0)
    labels = np.repeat(["b", "a", "c"], [10, 20, 5])
    x = rng.standard_normal((35, 8)) + 3 * (labels[:, None] == ["a", "b", "c"] * 2 + ["a", "b"])
    square = 1 - np.corrcoef(x)
    want = class_contrast(square, labels)
    assert want.contrast > 0.5
    shuffled = rng.permutation(35)
    check(
        class_contrast(square[np.ix_(shuffled, shuffled)], labels[shuffled]), oracle(square, labels)
    )
    assert class_contrast(square, labels[shuffled]).contrast < 0.1


def test_signs_are_kept():
    far_inside = np.array([[0, 3, 1.0], [3, 0, 1], [1, 1, 0]])
    found = class_contrast(far_inside, [0, 0, 1])
    assert (found.within, found.between, found.contrast) == (3, 1, 2)
    found = class_contrast(-far_inside, [0, 0, 1])
    assert (found.within, found.between, found.contrast) == (-3, -1, 2)


@pytest.mark.parametrize(
    ("labels", "code"),
    [
        ([1, 1, 1], "no-contrast"),
        ([1, 2, 3], "no-contrast"),
        ([1, 2], "labels-shape"),
        ([1.5, 2, 2], "labels-kind"),
    ],
)
def test_what_has_no_contrast(labels, code):
    with pytest.raises(BadDataError, match=code):
        class_contrast([1, 2, 3.0], labels)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 77, 1224])
def test_a_dissimilarity_that_is_not_finite_is_named(bad, place):
    pairs = rdm(50)[1]
    pairs[place] = bad
    with pytest.raises(BadDataError, match=rf"not-finite\] rdm: {bad} in place {place}"):
        class_contrast(pairs, np.arange(50) % 3)
    pairs[1223] = -bad
    with pytest.raises(BadDataError, match="not-finite"):
        class_contrast(pairs, np.arange(50) % 3)


def test_same_bits_at_any_number_of_threads():
    _, pairs = rdm(50 if config.DISABLE_JIT else 400)
    labels = np.arange(50 if config.DISABLE_JIT else 400) % 7
    assert (
        class_contrast(pairs, labels, threads=1)
        == class_contrast(pairs, labels, threads=2)
        == class_contrast(pairs, labels, threads=3)
    )


def test_the_rdm_of_labels():
    assert model_rdm(["a", "b", "a"]).tolist() == [1, 0, 1]
    labels = np.random.default_rng(0).integers(0, 4, 30)
    found = model_rdm(labels)
    assert found.dtype == np.float32
    contrast = class_contrast(found, labels)
    assert (contrast.within, contrast.between) == (0, 1)
    assert found.sum() == contrast.pairs_between
    for few in ([], [1], "ab", 5):
        with pytest.raises(BadDataError):
            model_rdm(few)


@settings(max_examples=20 if config.DISABLE_JIT else 100, deadline=None)
@given(st.lists(st.sampled_from("xyz"), min_size=3, max_size=30), st.integers(0, 5))
def test_any_labels(labels, seed):
    square, pairs = rdm(len(labels), seed=seed)
    if len(set(labels)) in (1, len(labels)):
        return
    check(class_contrast(pairs, labels), oracle(square, labels))
