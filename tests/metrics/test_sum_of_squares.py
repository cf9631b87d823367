"""Sums of squares: the definition, in extended precision; every shape, order and offset; same bits
at any threads.
"""

from __future__ import annotations

import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numba import config

from tlx.errors import BadDataError
from tlx.metrics import streams
from tlx.metrics.sum_of_squares import sum_of_squares

SLOW = config.DISABLE_JIT
module = sys.modules[
    sum_of_squares.__module__
]  # the package has the function under the name of the module


def oracle(x, labels):
    """SSW by class, SSB and TSS by their definitions: exactly, in fractions, where there are few
    numbers.
    """
    x = np.asarray(x).reshape(len(x), -1)
    if x.size <= 3000:
        x = np.array([[Fraction(float(v)) for v in row] for row in x], dtype=object)
    else:
        x = x.astype(np.longdouble)
    mean, within, between = x.sum(axis=0) / len(x), [], 0
    for name in sorted(set(labels)):
        own = x[[label == name for label in labels]]
        centre = own.sum(axis=0) / len(own)
        within.append(((own - centre) ** 2).sum())
        between += len(own) * ((centre - mean) ** 2).sum()
    return within, between, ((x - mean) ** 2).sum()


def check(x, labels, rtol=1e-13, **how):
    found = sum_of_squares(x, labels, **how)
    within, between, total = oracle(np.asarray(x), np.asarray(labels).tolist())
    np.testing.assert_allclose(found.per_class, np.array(within, float), rtol=rtol)
    np.testing.assert_allclose(
        [found.within, found.total], np.array([sum(within), total], float), rtol=rtol
    )
    np.testing.assert_allclose(found.between, float(between), rtol=rtol, atol=rtol * float(total))
    assert abs(found.within + found.between - found.total) <= 1e-12 * found.total
    assert found.ratio == min(1, found.within / found.total) if total else np.isnan(found.ratio)
    assert len(found.names) > 1 or found.between == 0
    assert found.names.tolist() == sorted(set(np.asarray(labels).tolist()))
    assert found.counts.tolist() == [
        np.asarray(labels).tolist().count(name) for name in found.names.tolist()
    ]
    return found


def rows(n, d, classes, *, offset=0.0, sd=1.0, apart=1.0, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    y[:classes] = np.arange(classes)[:n]
    means = apart * sd * rng.standard_normal((classes, d))
    return (offset + means[y] + sd * rng.standard_normal((n, d))).astype(dtype), y


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int16])
@pytest.mark.parametrize(
    ("n", "d", "classes"),
    [(1, 1, 1), (2, 3, 1), (5, 1, 5), (37, 17, 3), (60, 33, 7), (41, 2500, 2)],
)
def test_the_definition(n, d, classes, dtype):
    x, y = rows(n, d, classes, sd=5, dtype=dtype)
    found = check(x, y, means=True)
    want = [np.asarray(x, float)[y == c].mean(axis=0) for c in range(classes)]
    np.testing.assert_allclose(found.means, want, rtol=1e-13, atol=1e-14)
    assert (
        type(found.within) is type(found.between) is type(found.total) is type(found.ratio) is float
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("offset", "sd"), [(1e4, 1e-2), (-1e6, 1.0), (1e8, 1e-3), (1e-30, 1e-34), (0, 1e100)]
)
@pytest.mark.parametrize("apart", [0.0, 1e-3, 1e3, 1e7])
def test_an_offset_costs_no_digits(offset, sd, apart, dtype):
    if dtype == np.float32 and (sd > 1e30 or sd < 1e-30):
        pytest.skip("no float32")
    check(*rows(90, 11, 4, offset=offset, sd=sd, apart=apart, dtype=dtype))


@pytest.mark.parametrize("far", [1e3, 1e9])
@pytest.mark.parametrize("first", [1, 63, 64, 65, 300])
def test_a_bad_provisional_mean_costs_few_digits(first, far):
    """The first rows of a class lie far from the thousands that follow."""
    n = 700 if SLOW else 9000
    rng = np.random.default_rng(0)
    x = 1e-2 * rng.standard_normal((n, 3))
    x[:first] += far
    check(x, np.zeros(n, int), rtol=2e-13)


@pytest.mark.parametrize("classes", [1, 2])
def test_what_rounding_leaves_of_a_moved_centre_is_kept(classes):
    """A mean of 64 rows at 1e8 is off by 1e-8, ten times what would go unseen."""
    check(*rows(900, 3, classes, offset=1e8, sd=1e-3))


def test_centres_move_and_runs_end():
    n = 64 * 64 + 200  # past the second move of the centre, and past RUN rows in a class
    x, y = rows(n if not SLOW else 400, 5, 2, offset=100)
    y[: len(y) // 8 * 7] = 0
    check(x, y)


@pytest.mark.parametrize("order", ["sorted", "backwards", "one after another", "any"])
@pytest.mark.parametrize("kind", [str, int, np.int8, bool])
def test_the_order_and_the_kind_of_labels_do_not_matter(order, kind):
    x, y = rows(50, 9, 2 if kind is bool else 4)
    at = {
        "sorted": np.argsort(y, kind="stable"),
        "backwards": np.argsort(-y, kind="stable"),
        "one after another": np.argsort(np.argsort(np.argsort(y)) % 7),
        "any": np.arange(50),
    }[order]
    plain = sum_of_squares(x, y)
    found = check(
        x[at], [f"class {label}" for label in y[at]] if kind is str else y[at].astype(kind)
    )
    np.testing.assert_allclose(found.per_class, plain.per_class, rtol=1e-14)


def test_what_is_constant_has_no_squares():
    found = check(np.full((9, 3), 0.1), [0, 1, 2] * 3)
    assert (found.within, found.between, found.total) == (0, 0, 0)
    assert np.isnan(found.ratio), "a ratio where nothing varies is not a number"
    found = check(np.repeat([[0.1], [0.7]], 5, axis=0), [0] * 5 + [1] * 5)
    assert (found.within, found.ratio) == (0, 0)
    assert found.total > 0
    found = check(np.arange(12.0).reshape(6, 2), ["a"] * 6)
    assert (found.between, found.ratio) == (0, 1)


@pytest.mark.parametrize(
    "form",
    ["images", "every other", "transposed", "tensor", "map", "path", "half map", "big-endian"],
)
def test_forms_of_input(form, tmp_path):
    x, y = rows(24, 60, 3, dtype=np.float16 if form == "half map" else np.float32)
    np.save(tmp_path / "x.npy", x.reshape(24, 3, 4, 5))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    found = {
        "images": x.reshape(24, 3, 4, 5),
        "every other": np.repeat(np.repeat(x, 2, axis=0), 2, axis=1)[::2, ::2],
        "transposed": np.asfortranarray(x),
        "tensor": torch.from_numpy(x),
        "map": mapped,
        "half map": mapped,
        "path": tmp_path / "x.npy",
        "big-endian": x.astype(">f4"),
    }[form]
    assert sum_of_squares(found, y).per_class.tolist() == sum_of_squares(x, y).per_class.tolist()
    check(x, y)


def test_a_layer_of_65537_features():
    x, y = rows(3 if SLOW else 6, 65_537, 2, dtype=np.float32)
    x[:, -1] += 1000 * y
    check(x, y)


@pytest.mark.parametrize("read", [True, False])
def test_chunks_and_reads_make_no_difference(read, monkeypatch, tmp_path):
    x, y = rows(53, 70, 4, offset=1e3, dtype=np.float32)
    np.save(tmp_path / "x.npy", x)
    monkeypatch.setattr(module, "CHUNK_BYTES", 70 * 4 * 10)
    monkeypatch.setattr(streams, "PIECE_BYTES", 1000)
    monkeypatch.setattr(module, "BLOCK", 32)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    found = check(mapped, y, read=read, means=True)
    assert found.per_class.tolist() == sum_of_squares(x, y).per_class.tolist()
    monkeypatch.setattr(module, "STATE_BYTES", 1)  # a pass for every block of columns
    again = check(mapped, y, read=read, means=True)
    assert again.per_class.tolist() == found.per_class.tolist()
    assert again.means.tolist() == found.means.tolist()


@pytest.mark.parametrize(("n", "d"), [(300, 7), (40, 2100), (3, 3)])
def test_same_bits_at_any_number_of_threads(n, d):
    x, y = rows(n if not SLOW else min(n, 60), d, 3, offset=5, dtype=np.float32)
    one, two, three = (sum_of_squares(x, y, threads=threads, means=True) for threads in (1, 2, 3))
    for other in (two, three):
        assert [one.within, one.between, one.total] == [other.within, other.between, other.total]
        assert one.per_class.tolist() == other.per_class.tolist()
        assert one.means.tolist() == other.means.tolist()


@pytest.mark.parametrize("read", [True, False])
def test_a_number_that_is_not_finite_is_named(read, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_BYTES", 4 * 7 * 8)
    x, y = rows(30, 7, 3, dtype=np.float32)
    x[21, 4] = np.inf
    x[22, 0] = np.nan
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(BadDataError, match=r"not-finite\] layer3: inf in row 21, column 4"):
        sum_of_squares(np.load(tmp_path / "x.npy", mmap_mode="r"), y, where="layer3", read=read)


def test_what_cannot_be_summed_is_said():
    x, y = rows(6, 4, 2)
    for rows_, labels, code in (
        (x, y[:5], "labels-shape"),
        (x[:, :0], y, "rows-shape"),
        (x[:0], [], "too-few-rows"),
        (1e200 * x, y, "overflow"),
        (x.astype(complex), y, "not-numbers"),
        ("no/such.npy", y, "missing"),
    ):
        with pytest.raises(BadDataError, match=code):
            sum_of_squares(rows_, labels)


@settings(max_examples=20 if SLOW else 150, deadline=None)
@given(st.data())
def test_against_the_definition(data):
    n, d = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 40))
    dtype = data.draw(st.sampled_from([np.float32, np.float64, np.float16, np.int8]))
    numbers = (
        st.integers(-128, 127)
        if dtype == np.int8
        else st.sampled_from([0, 1, -1, 3, 0.1, 1e3, -1e3, 2**-14])
    )
    x = data.draw(hnp.arrays(dtype, (n, d), elements=numbers.map(lambda v: dtype(v).item())))
    y = data.draw(st.lists(st.sampled_from(["x", "y", "z"]), min_size=n, max_size=n))
    check(x, y)
