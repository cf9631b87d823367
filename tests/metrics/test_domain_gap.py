"""Gaps between sets of features: slow numpy twins, closed forms, and what each distance is blind
to.
"""

from __future__ import annotations

import importlib
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tlx.errors import BadDataError, UnknownNameError, UsageError
from tlx.metrics.domain_gap import GAPS, domain_gap, intra_class_variance, regression_row
from tlx.metrics.regression import transferability_regression

module = importlib.import_module(
    "tlx.metrics.domain_gap"
)  # in tlx.metrics the function has this name
DETERMINED = ["frechet", "mmd", "emd", "emd:p=2", "sliced", "sliced:p=1"]


def draw(n, d, seed=0, mean=0.0, scale=1.0):
    return np.random.default_rng(seed).standard_normal((n, d)) * scale + mean


def gap(x, y, method="frechet"):
    return domain_gap(x, y, method).gap


# ---------------------------------------------------------------- twins


def naive_frechet(x, y):
    """By the eigenvalues of the product of covariances."""
    a, b = (np.atleast_2d(np.cov(v, rowvar=False)) for v in (x, y))
    roots = np.sqrt(np.maximum(np.linalg.eigvals(a @ b).real, 0)).sum()
    return np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(a) + np.trace(b) - 2 * roots


def naive_mmd(x, y, sigma):
    def k(a, b):
        return math.exp(
            -sum((float(i) - float(j)) ** 2 for i, j in zip(a, b, strict=True)) / (2 * sigma**2)
        )

    xx = np.mean([k(a, b) for a, b in itertools.permutations(x, 2)])
    yy = np.mean([k(a, b) for a, b in itertools.permutations(y, 2)])
    return xx + yy - 2 * np.mean([k(a, b) for a in x for b in y])


def naive_median(x, y):
    both = np.concatenate([x, y])
    lengths = [np.linalg.norm(a - b) for a, b in itertools.combinations(both, 2)]
    return np.median([v for v in lengths if v > 0])


def naive_wasserstein(a, b, p):
    """Each row repeated until both have as many, sorted, and compared: W_p^p."""
    n, m = len(a), len(b)
    return np.mean(np.abs(np.sort(np.repeat(a, m)) - np.sort(np.repeat(b, n))) ** p)


sizes = st.tuples(st.integers(2, 9), st.integers(2, 9), st.integers(1, 6), st.integers(0, 2**20))


@settings(max_examples=60, deadline=None)
@given(sizes)
def test_frechet_against_eigenvalues(shape):
    n, m, d, seed = shape
    x, y = draw(n, d, seed), draw(m, d, seed + 1, mean=1, scale=2)
    assert gap(x, y) == pytest.approx(
        naive_frechet(x, y), rel=1e-5, abs=1e-5
    )  # the twin takes roots of rounding


@settings(max_examples=40, deadline=None)
@given(sizes, st.integers(1, 60))
def test_mmd_against_all_pairs(shape, block):
    n, m, d, seed = shape
    x, y = draw(n, d, seed), draw(m, d, seed + 1, mean=0.5)
    before, module.BLOCK = module.BLOCK, block
    try:
        assert gap(x, y, "mmd") == pytest.approx(naive_mmd(x, y, naive_median(x, y)), abs=1e-12)
        assert gap(x, y, "mmd:sigma=0.7") == pytest.approx(naive_mmd(x, y, 0.7), abs=1e-12)
    finally:
        module.BLOCK = before


@pytest.mark.parametrize("p", [1, 2])
@settings(max_examples=40, deadline=None)
@given(sizes, st.integers(1, 60), st.booleans())
def test_emd_against_repeated_rows(p, shape, block, ties):
    n, m, d, seed = shape
    x, y = draw(n, d, seed), draw(m, d, seed + 1, mean=0.5)
    x, y = (x.round(), y.round()) if ties else (x, y)
    before, module.BLOCK = module.BLOCK, block
    try:
        found = gap(x, y, f"emd:p={p}")
        sliced = gap(x, y, f"sliced:p={p},directions=7,seed=3")
    finally:
        module.BLOCK = before
    each = [naive_wasserstein(a, b, p) for a, b in zip(x.T, y.T, strict=True)]
    assert found == pytest.approx(np.mean(np.power(each, 1 / p)), abs=1e-12)
    u = module._directions(d, 3, 0, 7)
    each = [naive_wasserstein(x @ v, y @ v, p) for v in u.T]
    assert sliced == pytest.approx(np.mean(each) ** (1 / p), abs=1e-12)


def test_emd_against_scipy():
    x, y = draw(40, 3, 1), draw(57, 3, 2, mean=0.3, scale=2)
    assert gap(x, y, "emd") == pytest.approx(
        np.mean([stats.wasserstein_distance(a, b) for a, b in zip(x.T, y.T, strict=True)]),
        rel=1e-12,
    )


def test_blocks_change_nothing(monkeypatch):
    x, y = draw(300, 5, 1), draw(200, 5, 2, mean=0.3)
    expected = {m: gap(x, y, m) for m in DETERMINED}
    spread = intra_class_variance(x, np.arange(300) % 7)
    monkeypatch.setattr(module, "BLOCK", 64)
    assert {m: gap(x, y, m) for m in DETERMINED} == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(
        intra_class_variance(x, np.arange(300) % 7).per_class, spread.per_class, rtol=1e-12
    )


# ---------------------------------------------------------------- closed forms


def exactly(n, mean, factor, seed=0):
    """n rows whose mean is `mean` and whose (n − 1) covariance is factor·factorᵀ, but for
    rounding.
    """
    z = draw(n, len(mean), seed)
    z -= z.mean(0)
    z = z @ np.linalg.inv(np.linalg.cholesky(np.cov(z, rowvar=False))).T
    return z @ np.asarray(factor, float).T + mean


@pytest.mark.parametrize(
    "rows", [12, 9000]
)  # below and beyond the rows that are brought together at a time
def test_frechet_of_gaussians(rows):
    s, t = np.diag([1.0, 2.0, 0.5]), np.diag([3.0, 0.1, 0.5])
    x, y = exactly(rows, [0, 0, 0], s, 1), exactly(rows + 5, [1, -2, 0.5], t, 2)
    assert gap(x, y) == pytest.approx(
        1 + 4 + 0.25 + 4 + 1.9**2 + 0, rel=1e-10
    )  # ‖μ‖² + Σ(σ − τ)², all commuting
    turned = np.linalg.qr(draw(3, 3, 5))[0]
    other = exactly(rows, [0, 0, 0], turned @ t, 3)
    a, b = s @ s, turned @ t @ t @ turned.T
    values, vectors = np.linalg.eigh(s @ b @ s)
    root = vectors @ np.diag(np.sqrt(values)) @ vectors.T
    assert gap(x, other) == pytest.approx(np.trace(a + b - 2 * root), rel=1e-9)


def test_frechet_of_fewer_rows_than_features_has_no_noise():
    """Ranks 4 and 6 in 500 features: the square root of the product of covariances is mostly
    rounding.
    """
    x, y = draw(5, 500, 1), draw(7, 500, 2, mean=1)
    a, b = ((v - v.mean(0)) / math.sqrt(len(v) - 1) for v in (x, y))
    inner = np.linalg.eigvalsh(np.block([[np.zeros((5, 5)), a @ b.T], [b @ a.T, np.zeros((7, 7))]]))
    exact = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.sum(a**2) + np.sum(b**2) - np.abs(inner).sum()
    assert gap(x, y) == pytest.approx(exact, rel=1e-12)
    apart = np.zeros((2, 8))
    apart[0, 0], apart[1, 0] = 1, -1  # variance 2 along one axis, and along another: nothing shared
    assert gap(apart, np.roll(apart, 3, axis=1)) == pytest.approx(4, rel=1e-12)


@pytest.mark.parametrize(("method", "expected"), [("frechet", 25), ("emd", 3.5), ("emd:p=2", 3.5)])
def test_a_shift(method, expected):
    x = draw(50, 2, 3)
    assert gap(x, x + np.array([3, 4]), method) == pytest.approx(expected, rel=1e-10)


def test_sliced_shift_and_its_directions():
    x, shift = draw(50, 4, 3), np.array([3.0, 4, 0, 0])
    u = module._directions(4, 0, 0, 4000)
    np.testing.assert_allclose(np.linalg.norm(u, axis=0), 1)
    np.testing.assert_allclose(u @ u.T / 4000, np.eye(4) / 4, atol=0.02)
    np.testing.assert_allclose(u.mean(1), 0, atol=0.04)
    assert gap(x, x + shift, "sliced:directions=4000") == pytest.approx(math.sqrt(25 / 4), rel=0.03)
    assert gap(x, x + shift, "sliced:directions=4000") == pytest.approx(
        math.sqrt(np.mean((shift @ u) ** 2)), rel=1e-9
    )


def test_directions_stay_the_same_for_ever():
    np.testing.assert_allclose(module._directions(3, 0, 0, 2), PINNED, rtol=1e-12)
    np.testing.assert_array_equal(
        module._directions(3, 0, 1, 1)[:, 0], module._directions(3, 0, 0, 2)[:, 1]
    )
    assert np.abs(module._directions(3, 1, 0, 1) - module._directions(3, 0, 0, 1)).max() > 0.01


PINNED = [
    [0.1866060838182932, 0.819418036246999],
    [-0.3267454853848922, 0.0961231659771713],
    [-0.9265071814414563, 0.5650791261722881],
]


def test_mmd_of_a_set_with_itself():
    x = draw(30, 4, 1)
    mean = np.mean([math.exp(-np.sum((a - b) ** 2) / 8) for a, b in itertools.permutations(x, 2)])
    assert gap(x, x, "mmd:sigma=2") == pytest.approx(
        -2 / 30 * (1 - mean), rel=1e-9
    )  # unbiased, so below 0


def test_mmd_is_unbiased():
    found = [gap(draw(8, 2, 2 * i), draw(6, 2, 2 * i + 1), "mmd:sigma=1") for i in range(800)]
    assert abs(np.mean(found)) < 4 * np.std(found) / math.sqrt(800)
    sigma, shift = (
        1.0,
        1.0,
    )  # between N(0, I) and N(shift, I) in two dimensions, Gretton's kernel in closed form
    exact = 2 * (sigma**2 / (sigma**2 + 2)) * (1 - math.exp(-(2 * shift**2) / (2 * (sigma**2 + 2))))
    found = [
        gap(draw(8, 2, 2 * i), draw(6, 2, 2 * i + 1, mean=shift), "mmd:sigma=1") for i in range(800)
    ]
    assert np.mean(found) == pytest.approx(exact, abs=4 * np.std(found) / math.sqrt(800))


def test_the_width_of_the_kernel():
    x, y = draw(700, 3, 1), draw(800, 3, 2)
    near = naive_median(x[:150], y[:150])
    assert module.MeanDiscrepancy()._median(x, y) == pytest.approx(near, rel=0.05)
    assert module.MeanDiscrepancy(seed=1)._median(x, y) != module.MeanDiscrepancy()._median(x, y)
    few = module.MeanDiscrepancy(sample=2000)._median(x, y)
    both = np.concatenate([x, y])
    lengths = [np.linalg.norm(both[i + 1 :] - both[i], axis=1) for i in range(len(both) - 1)]
    assert few == pytest.approx(np.median(np.concatenate(lengths)), rel=1e-12)
    assert gap(np.ones((5, 2)), np.ones((4, 2)), "mmd") == 0
    repeated = np.repeat([[0.0, 0.0], [3.0, 4.0]], [20, 1], axis=0)
    assert module.MeanDiscrepancy()._median(repeated, repeated) == 5  # zeros are passed over


# ---------------------------------------------------------------- what must hold


@pytest.mark.parametrize("method", ["frechet", "emd", "emd:p=2", "sliced", "sliced:p=1"])
@pytest.mark.parametrize("shape", [(20, 6), (4, 30), (3, 1)])
def test_nothing_between_a_set_and_itself(method, shape):
    x = draw(*shape, seed=4, scale=3, mean=100)
    order = np.random.default_rng(0).permutation(shape[0])
    assert gap(x, x, method) == pytest.approx(0, abs=1e-11)
    assert gap(x, x[order], method) == pytest.approx(0, abs=1e-11)
    assert gap(x, x, method) >= 0


@pytest.mark.parametrize("method", DETERMINED)
def test_symmetry_order_and_common_shifts(method):
    x, y = draw(15, 4, 1), draw(11, 4, 2, mean=0.7, scale=1.5)
    found = gap(x, y, method)
    assert gap(y, x, method) == pytest.approx(found, rel=1e-10)
    assert gap(x[::-1], y, method) == pytest.approx(found, rel=1e-10)
    assert gap(x + 50, y + 50, method) == pytest.approx(found, rel=1e-8)


@pytest.mark.parametrize("method", ["frechet", "mmd", "mmd:sigma=2"])
def test_rotations_change_nothing(method):
    x, y, turn = draw(15, 4, 1), draw(11, 4, 2, mean=0.7), np.linalg.qr(draw(4, 4, 3))[0]
    assert gap(x @ turn, y @ turn, method) == pytest.approx(gap(x, y, method), rel=1e-9)


@pytest.mark.parametrize(
    ("method", "power"), [("frechet", 2), ("mmd", 0), ("emd", 1), ("emd:p=2", 1), ("sliced", 1)]
)
def test_units(method, power):
    x, y = draw(15, 4, 1), draw(11, 4, 2, mean=0.7)
    assert gap(8 * x, 8 * y, method) == pytest.approx(8**power * gap(x, y, method), rel=1e-9)


@pytest.mark.parametrize("method", DETERMINED)
def test_farther_is_more(method):
    x = draw(60, 4, 1)
    found = [gap(x, draw(60, 4, 2, mean=m), method) for m in (0, 0.5, 1, 2)]
    assert found == sorted(found)


@pytest.mark.parametrize("method", DETERMINED)
def test_what_is_taken(method, tmp_path):
    x, y = draw(12, 8, 1).astype(np.float32), draw(9, 8, 2, mean=1).astype(np.float32)
    expected = domain_gap(x, y, method)
    np.save(tmp_path / "x.npy", x.reshape(12, 2, 2, 2))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    found = domain_gap(mapped, np.asfortranarray(y), method)
    assert found.gap == pytest.approx(expected.gap, rel=1e-12)
    assert float(found) == found.gap
    assert (found.method, found.n_x, found.n_y, found.width) == (method, 12, 9, 8)
    whole = np.arange(12).reshape(6, 2)
    assert gap(whole, whole + 3, method) == pytest.approx(
        gap(whole.astype(float), whole + 3.0, method)
    )


@pytest.mark.parametrize(
    ("x", "y", "method", "kind", "words"),
    [
        (np.ones((3, 2)), np.ones((3, 4)), "frechet", BadDataError, ["2 features", "4"]),
        (np.ones((1, 2)), np.ones((3, 2)), "emd", BadDataError, ["x", "1 row"]),
        (
            np.ones((3, 2)),
            np.array([[1, 2], [np.nan, 1]]),
            "mmd",
            BadDataError,
            ["y", "row 1, column 0"],
        ),
        (np.ones((3, 2)), np.ones((3, 2)), "fid", UnknownNameError, ["frechet", "sliced"]),
        (np.ones((3, 2)), np.ones((3, 2)), "emd:p=3", UsageError, ["p"]),
        (np.ones((3, 2)), np.ones((3, 2)), "sliced:directions=0", UsageError, ["directions"]),
        (np.ones((3, 2)), np.ones((3, 2)), "frechet:p=1", UnknownNameError, ["p"]),
    ],
)
def test_what_is_refused(x, y, method, kind, words):
    with pytest.raises(kind) as refused:
        domain_gap(x, y, method)
    assert all(word in str(refused.value) for word in words), str(refused.value)


def test_the_table():
    assert set(GAPS) == {"frechet", "mmd", "emd", "sliced"}


# ---------------------------------------------------------------- within classes


def test_intra_class_variance_against_numpy():
    x = draw(40, 6, 1, mean=1000)
    labels = np.array(["b", "a", "d", "c"])[np.random.default_rng(2).integers(0, 4, 40)]
    found = intra_class_variance(x.reshape(40, 2, 3), labels)
    expected = [np.mean([np.var(x[labels == c, j], ddof=1) for j in range(6)]) for c in "abcd"]
    np.testing.assert_allclose(found.per_class, expected, rtol=1e-12)
    assert found.variance == pytest.approx(np.mean(expected))
    assert list(found.classes) == list("abcd")
    assert list(found.counts) == [sum(labels == c) for c in "abcd"]
    assert found.variance_per_classes == pytest.approx(np.mean(expected) / 4)
    assert (found.n, found.left_out) == (40, ())
    assert intra_class_variance(3 * x - 7, labels).variance == pytest.approx(9 * found.variance)
    moved = x + np.unique(labels, return_inverse=True)[1][:, None] * 100
    assert intra_class_variance(moved, labels).variance == pytest.approx(found.variance, rel=1e-9)


def test_it_does_not_depend_on_how_many_rows_a_class_has():
    few = [intra_class_variance(draw(6, 3, s), [0, 0, 0, 1, 1, 1]).variance for s in range(500)]
    assert np.mean(few) == pytest.approx(1, abs=4 * np.std(few) / math.sqrt(500))


def test_classes_of_one_row():
    x = draw(5, 3, 1)
    found = intra_class_variance(x, [7, 7, 3, 3, 9])
    assert found.left_out == ("9",)
    assert list(found.classes) == [3, 7]
    assert found.variance == pytest.approx(
        np.mean([x[2:4].var(0, ddof=1).mean(), x[:2].var(0, ddof=1).mean()])
    )
    assert found.variance_per_classes == pytest.approx(found.variance / 3)
    assert found.n == 5
    with pytest.raises(BadDataError, match="2 classes of one row"):
        intra_class_variance(x[:2], [1, 2])
    with pytest.raises(BadDataError, match="labels"):
        intra_class_variance(x, [1, 2])


def test_rows_of_ones_own_for_the_regression():
    source = draw(50, 4, 0)
    rows = []
    for i in range(7):
        target = draw(20 + 9 * i, 4, i + 1, mean=0.3 * i, scale=1 + (i % 3) / 4)
        rows.append(
            regression_row(
                source, target, np.arange(len(target)) % (2 + i), 5.0 + (i * i) % 5, method="emd"
            )
        )
    target = draw(20, 4, 1)
    first = regression_row(source, target, np.arange(20) % 2, 5.0, method="emd")
    assert first == {
        "G": gap(source, target, "emd"),
        "D": intra_class_variance(target, np.arange(20) % 2).variance,
        "N": 20,
        "T": 5.0,
        "gap": "emd",
        "classes": 2,
        "source_rows": 50,
        "width": 4,
    }
    assert transferability_regression(rows).n == 7
    assert regression_row(source, target, np.arange(20) % 2)["gap"] == "frechet"
