"""What metrics are given, checked: rows of numbers, labels, dissimilarities. Nothing is copied that
need not be.
"""

from __future__ import annotations

import itertools
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BadDataError, MissingError
from ..kernels.inputs import finite_bits, upper, widen
from ..kernels.parallel import parallel_for

TASK = 1 << 20  # numbers of one task
ASYMMETRY = 1e-5  # of the largest dissimilarity: what float32 leaves between two triangles
BITS = {
    "float32": (np.int32, np.int32(0x7F800000)),
    "float64": (np.int64, np.int64(0x7FF0000000000000)),
}


def array(x: Any, *, where: object = "x") -> np.ndarray:
    """x as an array of numbers of any shape: a map stays a map, a torch CPU tensor shares its
    memory.

    x       also the path of a .npy file, which is mapped
    raises  BadData for what is no array of real numbers
    """
    if isinstance(x, (str, os.PathLike)):
        from ..data.sources import read_npy

        if not Path(x).is_file():
            raise MissingError("file", x)
        x = read_npy(Path(x))
    if hasattr(x, "detach"):
        x = x.detach()
    try:
        found = np.asarray(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadDataError(
            "not-an-array",
            f"{type(x).__name__}: {str(error).splitlines()[0]}",
            where=where,
            expected="what numpy takes as an array of numbers, in this machine's memory",
        ) from error
    if found.dtype.kind not in "fiub" or np.ma.is_masked(x):
        kind = "masked values" if np.ma.is_masked(x) else f"type {found.dtype}"
        raise BadDataError(
            "not-numbers", f"an array of {kind}", where=where, expected="real numbers"
        )
    return found


def matrix(x: Any, *, where: object = "x", least: int = 2) -> np.ndarray:
    """x (n, …), anything `array` takes, as (n, d) of its own type; neither converted nor looked at.

    Raises BadData for fewer than `least` rows, or rows without a feature.
    """
    found = array(x, where=where)
    if found.ndim < 2 or 0 in found.shape[1:]:
        raise BadDataError(
            "rows-shape",
            f"an array of shape {found.shape}",
            where=where,
            expected="(rows, features), at least one feature",
        )
    if len(found) < least:
        raise BadDataError(
            "too-few-rows", f"{len(found)} rows", where=where, expected=f"at least {least}"
        )
    return found.reshape(len(found), -1)


def rows(x: Any, *, where: object = "x", least: int = 2, finite: bool = True) -> np.ndarray:
    """x as rows: (n, d) float32 or float64, no copy of what is one of these and contiguous, or has
    two dimensions.

    x       (n, …) anything `array` takes; each row is flattened. float16 becomes float32, whole
            numbers float64
    where   what to call it in a message
    least   how many rows are needed
    finite  look at every number; False where the caller would see NaN in its result, and calls
            `check_finite` then
    raises  BadData: not numbers, no rows, too few, NaN or infinity (the first row and column are
            named)
    """
    found = floating(matrix(x, where=where, least=least))
    if finite:
        check_finite(found, where=where)
    return found


def floating(x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """x as native float32 (float16 too) or float64 (all else): itself where it is, else a copy in C
    order.

    out  where to put a copy, C order and of the right type and shape
    """
    kind = float_type(x.dtype)
    if x.dtype == kind and x.flags.aligned:
        return x
    out = np.empty(x.shape, kind) if out is None else out
    if x.dtype != np.float16 or not x.flags.c_contiguous or not x.flags.aligned:
        np.copyto(out, x)
        return out
    halves, numbers = x.reshape(-1).view(np.int16), out.reshape(-1)
    bits = numbers.view(np.int32)

    def convert(task: int, thread: int) -> None:
        part = slice(task * TASK, (task + 1) * TASK)
        widen(halves[part], bits[part], numbers[part])

    parallel_for(-(-halves.size // TASK), convert)
    return out


def float_type(dtype: np.dtype) -> np.dtype:
    """float32 for float32 and float16, float64 for all other numbers."""
    return np.dtype(np.float32 if dtype.kind == "f" and dtype.itemsize <= 4 else np.float64)


def check_finite(x: np.ndarray, *, where: object = "x", first: int = 0) -> None:
    """BadData, naming the first row and column (the first place of a vector), unless every number
    is finite.

    x      (n,) or (n, d) float32 or float64 — read once, in blocks, on all threads
    first  the number of its first row
    """
    if not _finite(x):
        block = max(1, TASK // max(1, math.prod(x.shape[1:])))
        for start in range(0, len(x), block):
            bad = np.argwhere(~np.isfinite(x[start : start + block]))
            if len(bad):
                row, *column = (int(i) for i in bad[0])
                place = (
                    f"row {first + start + row}, column {column[0]}"
                    if column
                    else f"place {start + row}"
                )
                raise BadDataError(
                    "not-finite",
                    f"{x[(start + row, *column)]} in {place}",
                    where=where,
                    expected="finite numbers",
                    remedy="extract again in float32, or see whether the network diverged",
                )


def _finite(x: np.ndarray) -> bool:
    x = x.T if x.flags.f_contiguous else x
    if not x.flags.c_contiguous:
        block = max(1, TASK // max(1, math.prod(x.shape[1:])))
        return all(np.isfinite(x[start : start + block]).all() for start in range(0, len(x), block))
    whole, exponent = BITS[x.dtype.name]
    bits = x.reshape(-1).view(whole)
    found = np.ones(-(-bits.size // TASK), np.bool_)

    def look(task: int, thread: int) -> None:
        if found.all():
            found[task] = finite_bits(bits[task * TASK : (task + 1) * TASK], exponent)

    parallel_for(len(found), look)
    return bool(found.all())


def labels(labels: Any, n: int, *, where: object = "labels") -> tuple[np.ndarray, np.ndarray]:
    """(names, codes): the different labels (k,), sorted, and which of them each row has, (n,)
    int64.

    labels  (n,) str or whole numbers; neither sorted nor from 0
    raises  BadData: another number of labels than rows, fractions, missing labels
    """
    if hasattr(labels, "detach"):
        labels = labels.detach()
    try:
        found = np.asarray(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadDataError("labels-kind", str(error).splitlines()[0], where=where) from error
    if found.dtype.kind == "O" and all(isinstance(label, str) for label in found.flat):
        found = found.astype(np.str_)
    if found.shape != (n,):
        raise BadDataError(
            "labels-shape",
            f"labels of shape {found.shape} for {n} rows",
            where=where,
            expected=f"({n},), one for each row",
        )
    if found.dtype.kind not in "iubUST":
        raise BadDataError(
            "labels-kind",
            f"labels of type {found.dtype}",
            where=where,
            expected="a name or a whole number for each row",
        )
    names, codes = np.unique(found, return_inverse=True)
    return names, codes.astype(np.int64)


def stimuli(pairs: int, *, where: object = "rdm") -> int:
    """How many stimuli have this many pairs: n(n − 1)/2 = pairs, n ≥ 2. Raises BadData where
    none.
    """
    n = (1 + math.isqrt(1 + 8 * pairs)) // 2
    if pairs < 1 or n * (n - 1) // 2 != pairs:
        raise BadDataError(
            "rdm-shape",
            f"a vector of {pairs} dissimilarities",
            where=where,
            expected="n(n − 1)/2 for some n: 1, 3, 6, 10, 15, …",
        )
    return n


def row_parts(n: int) -> list[tuple[int, int]]:
    """Ranges of rows of a triangle of n stimuli, cut where they hold about as many pairs: tasks."""
    cuts = [round(n - n * math.sqrt(1 - part / 16)) for part in range(16)] + [n]
    return [(begin, end) for begin, end in itertools.pairwise(cuts) if end > begin]


def is_square_rdm(found: np.ndarray) -> bool:
    """True for an (n, n) array with a diagonal of zeros, within rounding of its largest number: one
    RDM, not n of them.

    A stack of n condensed RDMs of n pairs each, which n = 3, 6, 10, 15, … allow, has
    dissimilarities there.
    """
    if found.ndim != 2 or found.shape[0] != found.shape[1] or not len(found):
        return False
    return bool(np.abs(found.diagonal()).max() <= ASYMMETRY * np.abs(found).max())


def condensed(rdm: Any, *, where: object = "rdm", finite: bool = True) -> tuple[np.ndarray, int]:
    """(pairs, n): the n(n − 1)/2 dissimilarities above the diagonal, row by row, float32 or
    float64, and n.

    rdm     (n(n − 1)/2,) — itself where it is float32 or float64, a map too — or (n, n), of which
            they are copied
    finite  as in `rows`, for the condensed form; a square is always looked at
    raises  BadData: another shape, not symmetric within 1e-5 of the largest, a diagonal that is not
            0, not finite
    """
    found = array(rdm, where=where)
    if found.ndim == 1:
        n = stimuli(len(found), where=where)
        found = floating(found)
        if finite:
            check_finite(found, where=where)
        return found, n
    if found.ndim != 2 or found.shape[0] != found.shape[1] or len(found) < 2:
        raise BadDataError(
            "rdm-shape",
            f"an array of shape {found.shape}",
            where=where,
            expected="(n, n), or the n(n − 1)/2 numbers above its diagonal",
        )
    n, found = len(found), floating(found)
    check_finite(found, where=where)
    out = np.empty(n * (n - 1) // 2, found.dtype)
    differ, largest = np.zeros(n), np.zeros(n)

    def take(task: int, thread: int) -> None:
        upper(found, out, task * 64, min(n, task * 64 + 64), differ, largest)

    parallel_for(-(-n // 64), take)
    row = int(differ.argmax())
    if differ[row] > ASYMMETRY * largest.max():
        raise BadDataError(
            "rdm-not-symmetric",
            f"row {row} differs by {differ[row]:.3g} from its column, or its diagonal is not 0",
            where=where,
            expected="a symmetric matrix with zeros on its diagonal",
        )
    return out, n
