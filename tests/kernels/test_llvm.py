"""The choice between llvm/ and plain Numba: whatever Numba refuses, plain kernels give the results
and one warning says why.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import numpy as np
import pytest
from numba import config
from numba.core.errors import LoweringError, TypingError

from tlx.kernels import candidates, dispatch, neighbours, parallel, sums, tile

compiled = pytest.mark.skipif(bool(config.DISABLE_JIT), reason="nothing is compiled here")
with_tile = pytest.mark.skipif(not dispatch.has_tile(), reason="this CPU has no register tile")


@pytest.fixture
def untried(monkeypatch):
    """Kernels of which none has been tried yet."""
    monkeypatch.setattr(dispatch, "_compiled", {})


def refuse_with(error):
    def check():
        raise error

    return check


def class_sums(x, codes):
    """Σ‖x − first row‖² of each class, from a kernel as it is chosen."""
    k, d = int(codes.max()) + 1, x.shape[1]
    starts, order = np.empty(k + 1, np.int64), np.empty(len(x), np.int64)
    sums.by_class(codes, starts, order)
    centre, residual, squares = np.zeros((k, d)), np.zeros((k, d)), np.zeros(k)
    seen, since = np.zeros((2, k), np.int64)
    scratch = np.empty(sums.STRIP)
    gather = sums.gather_kernel()
    gather(x, order, starts, 0, d, centre, residual, squares, seen, since, scratch)
    return squares - (residual**2).sum(axis=1) / seen


@compiled
@pytest.mark.parametrize(
    "error",
    [
        LoweringError("cannot lower"),
        TypingError("no such signature"),
        AttributeError("module 'numba.core.cgutils' has no attribute 'unpack_tuple'"),
        ImportError("cannot import name 'intrinsic'"),
        RuntimeError("LLVM IR parsing error"),
        ArithmeticError("the register tile gives wrong sums"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_compilation_raises_is_said_once(untried, monkeypatch, caplog, error):
    monkeypatch.setattr(dispatch, "_check_class_sums", refuse_with(error))
    with caplog.at_level(logging.WARNING, "tlx.kernels"):
        assert not dispatch.has_class_sums()
        assert not dispatch.has_class_sums()
    (record,) = caplog.records
    assert record.name == "tlx.kernels"
    for part in ("sums by class", type(error).__name__, str(error), "TLX_KERNELS=plain"):
        assert part in record.getMessage()
    assert "\n" not in record.getMessage()


@compiled
@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_is_no_refusal(untried, monkeypatch, interrupt):
    monkeypatch.setattr(dispatch, "_check_class_sums", refuse_with(interrupt()))
    with pytest.raises(interrupt):
        dispatch.has_class_sums()
    assert not dispatch._compiled


@compiled
def test_threads_that_ask_at_once_try_a_group_once(untried, monkeypatch):
    tries = []
    monkeypatch.setattr(dispatch, "_check_class_sums", lambda: tries.append(1))
    answers = []
    parallel.parallel_for(8, lambda task, _: answers.append(dispatch.has_class_sums()), 4)
    assert answers == [True] * 8
    assert tries == [1]


@compiled
def test_wanted_plain_kernels_are_plain_without_a_warning(untried, monkeypatch, caplog):
    monkeypatch.setenv(dispatch.VARIABLE, "plain")
    assert not dispatch.has_tile()
    assert not dispatch.has_bfloat16()
    assert sums.gather_kernel() is sums.gather_plain
    assert not caplog.records


@with_tile
def test_a_refused_tile_leaves_rows_and_not_panels(untried, monkeypatch, caplog):
    monkeypatch.setattr(dispatch, "_check_tile", refuse_with(LoweringError("cannot lower")))
    assert tile.empty(70, 5).ndim == 2
    assert not candidates.worthwhile(1000, 2)
    assert len(caplog.records) == 1


@with_tile
def test_a_builder_that_raises_is_a_refusal(untried, monkeypatch, caplog):
    """Numba meets the error while it compiles a kernel for types that no cache file has."""
    from numba import njit
    from tlx.kernels.llvm import register_tile

    def broken(*_):
        raise AttributeError("module 'numba.core.cgutils' has no attribute 'unpack_tuple'")

    monkeypatch.setattr(register_tile, "accumulate", broken)
    again = njit(nogil=True)(register_tile.sums.py_func)
    monkeypatch.setattr(register_tile, "sums", again)
    assert not dispatch.has_tile()
    assert "unpack_tuple" in caplog.text or "LoweringError" in caplog.text
    x = np.random.default_rng(0).standard_normal((70, 5)).astype(np.float32)
    assert candidates.worthwhile(70, 2) is False
    squares = ((x[:, None].astype(float) - x) ** 2).sum(axis=2) + np.diag(np.full(70, np.inf))
    np.testing.assert_allclose(neighbours.nearest(x, 1)[0][:, 0], squares.min(axis=1), rtol=1e-12)


@pytest.mark.slow
@compiled
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("m", "d"), [(1, 1), (9, 15), (40, 33), (300, 600)])
def test_class_sums_are_the_same_in_vectors_and_plain(monkeypatch, m, d, dtype):
    rng = np.random.default_rng(m)
    x, codes = rng.standard_normal((m, d)).astype(dtype), np.arange(m) % 3
    in_vectors = class_sums(x, codes)
    monkeypatch.setattr(dispatch, "has_class_sums", lambda: False)
    np.testing.assert_allclose(in_vectors, class_sums(x, codes), rtol=1e-12, atol=1e-12)
    exact = [((x[codes == c] - x[codes == c].mean(axis=0)) ** 2).sum() for c in range(min(m, 3))]
    np.testing.assert_allclose(in_vectors, exact, rtol=1e-5, atol=1e-12)


SCRIPT = """
import sys
import numpy as np
from numba.core import cgutils
if sys.argv[1] == "broken":
    own = cgutils.get_or_insert_function
    def insert(module, kind, name):  # Numba itself calls it for other functions
        if name.startswith(("llvm.prefetch", "llvm.fma")):
            raise AttributeError("gone")
        return own(module, kind, name)
    cgutils.get_or_insert_function = insert
elif sys.argv[1] == "blocked":
    sys.modules["tlx.kernels.llvm.vectors"] = None
from tlx.kernels import dispatch
from tlx.metrics.neighbours import nearest_distances
from tlx.metrics.rsa import rdm
from tlx.metrics.sum_of_squares import sum_of_squares
x = np.random.default_rng(0).standard_normal((60, 20)).astype(np.float32)
print(dispatch.has_tile(), dispatch.has_class_sums())
print(*(float(v).hex() for v in nearest_distances(x, 2).ravel()))
print(*rdm(x).ravel())
print(sum_of_squares(x, np.arange(60) % 4).within)
"""


def run_script(state, **variables):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, state],
        env=os.environ | variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    choice, nearest, dissimilarities, within = done.stdout.splitlines()
    return choice, nearest, np.array(dissimilarities.split(), float), float(within), done.stderr


@pytest.mark.slow
@compiled
@pytest.mark.parametrize("state", ["broken", "blocked"])
def test_another_numba_without_what_the_builders_call_gives_the_same_results(state, tmp_path):
    # a kernel that is in the cache would be loaded, not built
    cache = {"NUMBA_CACHE_DIR": str(tmp_path)} if state == "broken" else {}
    choice, nearest, dissimilarities, within, errors = run_script(state, **cache)
    assert choice == "False False"
    groups = ["sums by class"] + (["register tile"] if dispatch.has_tile() else [])
    assert [errors.count(f"kernels of the {group}") for group in groups] == [1] * len(groups)
    assert len(errors.splitlines()) == len(groups), "a line each, and nothing else"
    right = run_script("whole")
    assert right[0] == f"{dispatch.has_tile()} True"
    assert right[1] == nearest
    np.testing.assert_allclose(dissimilarities, right[2], rtol=1e-5)
    assert within == pytest.approx(right[3], rel=1e-12)
    assert right[4] == ""


@pytest.mark.slow
def test_without_compilation_all_works_and_nothing_is_warned_of():
    choice, nearest, dissimilarities, within, errors = run_script("whole", NUMBA_DISABLE_JIT="1")
    assert (choice, errors) == ("False False", "")
    x = np.random.default_rng(0).standard_normal((60, 20)).astype(np.float32)
    right = 1 - np.corrcoef(x.astype(float))
    pairs = right[np.triu_indices(60, 1)] if len(dissimilarities) == 1770 else right.ravel()
    np.testing.assert_allclose(dissimilarities, pairs, atol=1e-5)
    classes = [x[np.arange(60) % 4 == c].astype(float) for c in range(4)]
    assert within == pytest.approx(sum(((c - c.mean(axis=0)) ** 2).sum() for c in classes))
    assert len(nearest.split()) == 120
