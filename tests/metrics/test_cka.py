"""Linear CKA: as defined on whole matrices, by images or by features, in any blocks; what it does
not depend on.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from numba import config

from tlx.errors import BadDataError
from tlx.kernels import dispatch
from tlx.metrics.cka import cka, cka_matrix

SMALL = bool(config.DISABLE_JIT)
N = 10 if SMALL else 150


@pytest.fixture(params=["fast", "plain"] if dispatch.has_tile() else ["plain"], autouse=True)
def way(request, monkeypatch):
    monkeypatch.setattr(dispatch, "has_tile", lambda: request.param == "fast")


def definition(x, y, unbiased):
    """HSIC₁ (Song et al. 2012, equation 5) or HSIC₀ of whole kernel matrices, term by term as it is
    printed.
    """
    x, y = (np.asarray(z, np.float64).reshape(len(z), -1) for z in (x, y))
    n, one = len(x), np.ones(len(x))

    def hsic(a, b):
        ka, kb = a @ a.T, b @ b.T
        if not unbiased:
            h = np.eye(n) - 1 / n
            return np.trace(ka @ h @ kb @ h) / (n - 1) ** 2
        ka, kb = ka - np.diag(np.diag(ka)), kb - np.diag(np.diag(kb))
        return (
            np.trace(ka @ kb)
            + (one @ ka @ one) * (one @ kb @ one) / (n - 1) / (n - 2)
            - 2 / (n - 2) * (one @ ka @ kb @ one)
        ) / (n * (n - 3))

    return float(hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y)))


def layers(*widths, n=N, seed=0, common=0.7):
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((n, max(widths)))
    return [common * shared[:, :d] + rng.standard_normal((n, d)) for d in widths]


WIDTHS = (
    [(1, 1), (3, 4), (2, 40)]
    if SMALL
    else [(1, 1), (3, 400), (50, 2), (40, 20), (300, 700), (64, 65)]
)


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_as_defined(widths, unbiased):
    x, y = layers(*widths)
    for dtype in (np.float32, np.float64):
        a, b = x.astype(dtype), y.astype(dtype)
        assert cka(a, b, unbiased) == pytest.approx(definition(a, b, unbiased), abs=1e-6)
        assert cka(a, a, unbiased) == pytest.approx(1, abs=1e-12)
        assert cka(b, a, unbiased) == pytest.approx(cka(a, b, unbiased), abs=1e-7)


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("scale", [1e-30, 1e-2, 1e15])
def test_offsets_and_scales_cost_nothing(unbiased, scale):
    x, y = layers(30, 5)
    want = definition(x, y, unbiased)
    assert cka(x * scale + 1e6 * scale, y, unbiased) == pytest.approx(want, abs=1e-6)
    near = (x * scale + 1e4 * scale).astype(np.float32)
    assert cka(near, y, unbiased) == pytest.approx(
        definition(near - near[0].astype(float), y, unbiased), abs=1e-6
    )


def test_rotations_and_the_order_of_images():
    x, y = layers(12, 7)
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((12, 12)))[0]
    order = np.random.default_rng(2).permutation(N)
    assert cka(x @ turn, y) == pytest.approx(cka(x, y), abs=1e-6)
    assert cka(x[order], y[order]) == pytest.approx(cka(x, y), abs=1e-7)
    assert abs(cka(x[order], y) - cka(x, y)) > 0.05


@pytest.mark.skipif(SMALL, reason="too slow without compilation")
def test_unbiased_is_zero_on_average_for_unrelated_layers():
    found = [
        [cka(*layers(100, 100, n=40, seed=seed, common=0), unbiased=u) for seed in range(40)]
        for u in (True, False)
    ]
    assert abs(np.mean(found[0])) < 4 * np.std(found[0]) / 40**0.5
    assert np.mean(found[1]) > 0.5


@pytest.mark.parametrize("unbiased", [True, False])
def test_by_features_and_by_images_agree(unbiased, monkeypatch):
    (x, y), found = layers(3, 2, n=N), {}
    for way in ("_by_features", "_by_images"):
        for other in ("_by_features", "_by_images"):
            module = sys.modules[cka.__module__]  # the package has the function under its name
            monkeypatch.setattr(module, other, getattr(module, way))
        found[way] = cka(x, y, unbiased)
        monkeypatch.undo()
    assert found["_by_features"] == pytest.approx(found["_by_images"], abs=1e-6)


@pytest.mark.parametrize("widths", [(4, 30, 2)] if SMALL else [(4, 300, 2), (9, 10, 11)])
def test_all_layers_at_once_in_any_blocks(widths):
    xs, ys = layers(*widths, n=4 * N), layers(5, *widths, n=4 * N, seed=1)
    want = np.array([[definition(x, y, True) for y in ys] for x in xs])
    for budget in (1 << 28, 1 << 10):
        for threads in (1, 2):
            np.testing.assert_allclose(
                cka_matrix(xs, ys, budget_bytes=budget, threads=threads), want, atol=1e-6
            )
    own = cka_matrix(xs)
    np.testing.assert_array_equal(own, own.T)
    np.testing.assert_array_equal(own.diagonal(), 1)
    assert own[0, 1] == pytest.approx(cka(xs[0], xs[1]), abs=1e-7)


def test_same_bits_at_any_number_of_threads():
    x, y = layers(30, 200 if not SMALL else 5)
    for unbiased in (True, False):
        assert len({cka(x, y, unbiased, threads=threads) for threads in (1, 2, 3)}) == 1
        assert (
            len({cka(x[:, :2], y[:, :2], unbiased, threads=threads) for threads in (1, 2, 3)}) == 1
        )


def test_what_may_be_given(tmp_path):
    x, y = layers(6, 4)
    x = x.astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    want = cka(x, y)
    for same in (
        np.load(tmp_path / "x.npy", mmap_mode="r"),
        torch.from_numpy(x),
        x.reshape(N, 2, 3),
        np.asfortranarray(x),
        np.repeat(x, 2, axis=0)[::2],
    ):
        assert cka(same, y) == pytest.approx(want, abs=1e-9)


@pytest.mark.parametrize(
    ("x", "y", "code"),
    [
        (np.ones((6, 3)), np.eye(6), "no-structure"),
        (np.eye(3), np.eye(3), "too-few-rows"),
        (np.eye(6), np.eye(5), "rows-differ"),
        (np.full((6, 2), np.nan), np.eye(6), "not-finite"),
        (np.eye(6), np.array([[1e300, 1]] * 5 + [[-1e300, 2]]), "no-structure"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_what_has_no_answer(x, y, code):
    with pytest.raises(BadDataError, match=code):
        cka(x, y)
    assert cka(np.eye(6)[:3], np.eye(6)[:3, :2] + 1, unbiased=False) > 0
