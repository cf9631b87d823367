"""What metrics are given: taken without a copy where that can be, refused by name where it cannot
be used.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tlx.errors import BadDataError
from tlx.metrics import arrays


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_that_need_no_copy(dtype, tmp_path):
    x = np.random.default_rng(0).standard_normal((6, 2, 5)).astype(dtype)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    for given in (x, mapped, torch.from_numpy(x), x[:, 0], x[:, :, 1], x[:, 0].T, x[::-1, 0, ::2]):
        found = arrays.rows(given)
        source = np.asarray(given)
        assert found.dtype == dtype
        assert np.shares_memory(found, source)
        np.testing.assert_array_equal(found, source.reshape(len(source), -1))
    assert arrays.rows(mapped).flags.writeable is False


@pytest.mark.parametrize(
    ("given", "becomes"),
    [
        (np.float16([[1, 2], [3, 4]]), np.float32),
        (np.uint8([[1, 2], [3, 4]]), np.float64),
        ([[1, 2], [3, 4]], np.float64),
        (np.array([[1, 2], [3, 4]], ">f4"), np.float32),
        (torch.tensor([[1.0, 2], [3, 4]], requires_grad=True), np.float32),
        ([[True, False], [False, True]], np.float64),
        (np.array([[1, 2], [3, 4]], np.longdouble), np.float64),
    ],
)
def test_rows_that_are_converted(given, becomes):
    found = arrays.rows(given)
    assert found.dtype == becomes
    assert found.dtype.isnative
    want = given.detach().numpy() if hasattr(given, "detach") else np.asarray(given)
    np.testing.assert_array_equal(found, want.astype(float))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_numbers_at_odd_addresses(dtype):
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(dtype)
    odd = np.frombuffer(b"." + x.tobytes(), dtype, offset=1).reshape(4, 3)
    assert not odd.flags.aligned
    assert arrays.rows(odd).flags.aligned
    np.testing.assert_array_equal(arrays.rows(odd), x)


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (np.zeros(5), "rows-shape"),
        (np.float64(1), "rows-shape"),
        (np.zeros((3, 0)), "rows-shape"),
        (np.zeros((1, 4)), "too-few-rows"),
        (np.zeros((0, 4)), "too-few-rows"),
        ([["a", "b"], ["c", "d"]], "not-numbers"),
        (np.zeros((2, 2), complex), "not-numbers"),
        (np.array([[1, None], [2, 3]], object), "not-numbers"),
        ([[1, 2], [3]], "not-an-array"),
        (np.ma.masked_array(np.ones((2, 2)), [[0, 1], [0, 0]]), "not-numbers"),
        (torch.zeros((2, 2), dtype=torch.bfloat16), "not-an-array"),
    ],
)
def test_what_is_no_rows(given, code):
    with pytest.raises(BadDataError, match=rf"error\[{code}\] layer3: "):
        arrays.rows(given, where="layer3")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -np.nan])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("form", ["C", "F", "gaps"])
@pytest.mark.parametrize("small", [0, 1 << 17], ids=["kernel", "numpy"])
def test_the_first_number_that_is_not_finite_is_named(bad, dtype, form, small, monkeypatch):
    monkeypatch.setattr(arrays, "TASK", 64)
    monkeypatch.setattr(arrays, "SMALL", small)
    x = np.random.default_rng(1).standard_normal((50, 22)).astype(dtype)
    x[3, 3] = np.finfo(dtype).max
    x[4, 4] = np.finfo(dtype).smallest_subnormal
    x = {"C": x, "F": np.asfortranarray(x), "gaps": x[:, ::2]}[form]
    arrays.rows(x)
    x[49, 0] = x[31, 9] = bad
    with pytest.raises(BadDataError, match=r"not-finite\] x: -?(nan|inf) in row 31, column 9"):
        arrays.rows(x)


@pytest.mark.parametrize("small", [0, 14])
def test_every_place_is_looked_at(small, monkeypatch):
    monkeypatch.setattr(arrays, "TASK", 5)
    monkeypatch.setattr(arrays, "SMALL", small)
    for place in range(14):
        x = np.zeros((2, 7))
        x.flat[place] = np.nan
        with pytest.raises(BadDataError, match=f"row {place // 7}, column {place % 7}"):
            arrays.rows(x)


@pytest.mark.parametrize(
    "given",
    [
        ["b", "a", "b"],
        [7, -1, 7],
        np.array(["b", "a", "b"], object),
        ("b", "a", "b"),
        torch.tensor([5, 2, 5]),
        [True, False, True],
        np.array([b"y", b"x", b"y"]),
    ],
)
def test_labels(given):
    names, codes = arrays.labels(given, 3)
    assert codes.tolist() == [1, 0, 1]
    assert codes.dtype == np.int64
    assert names.tolist() == sorted({getattr(v, "item", lambda v=v: v)() for v in given})


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ([1, 2], "labels-shape"),
        ([[1, 2, 3]], "labels-shape"),
        (5, "labels-shape"),
        ([1.5, 2, 3], "labels-kind"),
        ([None, "a", "b"], "labels-kind"),
        ([[1], [2, 3], [4]], "labels-kind"),
    ],
)
def test_what_is_no_labels(given, code):
    with pytest.raises(BadDataError, match=code):
        arrays.labels(given, 3)


@pytest.mark.parametrize("n", [2, 3, 64, 65, 150])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_the_triangle_above_the_diagonal(n, dtype):
    x = (np.random.default_rng(n).random((n, n)) * 100).astype(dtype)
    square = np.triu(x, 1) + np.triu(x, 1).T
    pairs = square[np.triu_indices(n, 1)]
    for given in (square, square.tolist(), np.asfortranarray(square), pairs):
        found, count = arrays.condensed(given)
        np.testing.assert_array_equal(found, pairs)
        assert count == n
        assert found.dtype == (
            np.float32 if dtype == np.float32 and not isinstance(given, list) else np.float64
        )
    floats = pairs.astype(np.float32)
    assert np.shares_memory(arrays.condensed(floats)[0], floats)


@pytest.mark.parametrize(
    ("i", "j"), [(0, 149), (149, 0), (70, 64), (64, 70), (149, 148), (100, 100), (0, 0)]
)
def test_a_square_that_is_no_rdm(i, j):
    square = 1 - np.eye(150)
    square[i, j] += 1e-3
    with pytest.raises(
        BadDataError, match=rf"rdm-not-symmetric\] rdm: row {min(i, j)} differs by 0.001"
    ):
        arrays.condensed(square)
    square[i, j] -= 0.9999999e-3  # what rounding leaves is no fault
    arrays.condensed(square)


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (np.zeros((3, 4)), "rdm-shape"),
        (np.zeros((1, 1)), "rdm-shape"),
        (np.zeros(4), "rdm-shape"),
        (np.zeros(0), "rdm-shape"),
        (np.zeros((2, 2, 2)), "rdm-shape"),
        ([1, 2, np.nan], "not-finite"),
        ([[0, np.inf], [np.inf, 0]], "not-finite"),
        (["a"], "not-numbers"),
    ],
)
def test_what_is_no_rdm(given, code):
    with pytest.raises(BadDataError, match=code):
        arrays.condensed(given)
