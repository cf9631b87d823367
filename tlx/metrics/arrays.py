"""Validation of what metrics are given: rows of numbers, labels, dissimilarities.

Data is copied only where it must be.
"""

from __future__ import annotations

import itertools
import math
import os
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from ..errors import BadDataError, MissingError, counted
from ..features.sharded import LayerArray, Sharded

TASK = 1 << 20  # numbers of one task
SMALL = 1 << 17  # numbers that numpy looks at sooner than a compiled kernel is loaded
ASYMMETRY = 1e-5  # of the largest dissimilarity: what float32 leaves between two triangles
BITS = {
    "float32": (np.int32, np.int32(0x7F800000)),
    "float64": (np.int64, np.int64(0x7FF0000000000000)),
}


def array(x: ArrayLike, *, where: object = "x") -> np.ndarray:
    """Return x as an array of numbers of any shape.

    A map stays a map; a torch CPU tensor shares its memory.

    x       also the path of a .npy file, which is mapped; that of a dump is compared with its sum
    raises  BadDataError for what is no array of real numbers
    """
    if isinstance(x, (str, os.PathLike)):
        from ..data.sources import read_npy
        from ..features.shelf import check_own

        if not Path(x).is_file():
            raise MissingError("file", x)
        check_own(Path(x))
        x = read_npy(Path(x))
    if hasattr(x, "detach"):
        x = x.detach()
    try:
        values = np.asarray(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadDataError(
            "not-an-array",
            f"{type(x).__name__}: {str(error).splitlines()[0]}",
            where=where,
            expected="what numpy takes as an array of numbers, in this machine's memory",
        ) from error
    if values.dtype.kind not in "fiub" or np.ma.is_masked(x):
        kind = "masked values" if np.ma.is_masked(x) else f"type {values.dtype}"
        raise BadDataError(
            "not-numbers", f"an array of {kind}", where=where, expected="real numbers"
        )
    return values


def matrix(x: ArrayLike, *, where: object = "x", least: int = 2) -> np.ndarray:
    """Return x (n, …), anything `array` takes, as (n, d) of its own type.

    Values are neither converted nor checked.

    Raises BadDataError for fewer than `least` rows, or rows without a feature.
    """
    values = array(x, where=where)
    if values.ndim < 2 or 0 in values.shape[1:]:
        raise BadDataError(
            "rows-shape",
            f"an array of shape {values.shape}",
            where=where,
            expected="(rows, features), at least one feature",
        )
    if len(values) < least:
        raise BadDataError(
            "too-few-rows",
            f"{counted(len(values), 'row')}",
            where=where,
            expected=f"at least {least}",
        )
    return values.reshape(len(values), -1)


def streamed(x: ArrayLike | Sharded, *, where: object = "x", least: int = 2) -> LayerArray:
    """Return what `matrix` does, but a layer of a dump in shards as it is, its rows flattened."""
    if isinstance(x, Sharded):
        return x.reshape(len(x), -1)
    return matrix(x, where=where, least=least)


def rows(x: ArrayLike, *, where: object = "x", least: int = 2, finite: bool = True) -> np.ndarray:
    """Return x as rows (n, d) of float32 or float64.

    What is float32 or float64, contiguous and has two dimensions is not copied.

    x       (n, …) anything `array` takes; each row is flattened. float16 becomes float32, whole
            numbers float64
    where   what to call it in a message
    least   how many rows are needed
    finite  look at every number; False where the caller would see NaN in its result, and calls
            `check_finite` then
    raises  BadDataError: not numbers, no rows, too few, NaN or infinity (the first row and column
            are named)
    """
    values = floating(matrix(x, where=where, least=least))
    if finite:
        check_finite(values, where=where)
    return values


def floating(x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return x as native float32 (float16 too) or float64 (all else).

    x itself is returned where it has that type, else a copy in C order.

    out  where to put a copy, C order and of the right type and shape
    """
    kind = float_type(x.dtype)
    if x.dtype == kind and x.flags.aligned:
        return x
    out = np.empty(x.shape, kind) if out is None else out
    if x.dtype != np.float16 or not x.flags.c_contiguous or not x.flags.aligned:
        np.copyto(out, x)
        return out
    from ..kernels.inputs import widen
    from ..kernels.parallel import parallel_for

    halves, numbers = x.reshape(-1).view(np.int16), out.reshape(-1)
    bits = numbers.view(np.int32)

    def convert(task: int, thread: int) -> None:
        part = slice(task * TASK, (task + 1) * TASK)
        widen(halves[part], bits[part], numbers[part])

    parallel_for(-(-halves.size // TASK), convert)
    return out


def float_type(dtype: np.dtype) -> np.dtype:
    """Return float32 for float32 and float16, float64 for all other numbers."""
    return np.dtype(np.float32 if dtype.kind == "f" and dtype.itemsize <= 4 else np.float64)


def check_finite(x: np.ndarray, *, where: object = "x", first: int = 0) -> None:
    """Raise BadDataError, naming the first row and column, unless every number is finite.

    Of a vector, the first index is named.

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
    if x.size <= SMALL:
        return bool(np.isfinite(x).all())
    x = x.T if x.flags.f_contiguous else x
    if not x.flags.c_contiguous:
        block = max(1, TASK // max(1, math.prod(x.shape[1:])))
        return all(np.isfinite(x[start : start + block]).all() for start in range(0, len(x), block))
    from ..kernels.inputs import finite_bits
    from ..kernels.parallel import parallel_for

    whole, exponent = BITS[x.dtype.name]
    bits = x.reshape(-1).view(whole)
    flags = np.ones(-(-bits.size // TASK), np.bool_)

    def look(task: int, thread: int) -> None:
        if flags.all():
            flags[task] = finite_bits(bits[task * TASK : (task + 1) * TASK], exponent)

    parallel_for(len(flags), look)
    return bool(flags.all())


def labels(labels: ArrayLike, n: int, *, where: object = "labels") -> tuple[np.ndarray, np.ndarray]:
    """Return (names, codes): the distinct labels (k,), sorted, and each row's code, (n,) int64.

    labels  (n,) str or whole numbers; neither sorted nor from 0
    raises  BadDataError: another number of labels than rows, fractions, missing labels
    """
    if hasattr(labels, "detach"):
        labels = labels.detach()
    try:
        values = np.asarray(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadDataError("labels-kind", str(error).splitlines()[0], where=where) from error
    if values.dtype.kind == "O" and all(isinstance(label, str) for label in values.flat):
        values = values.astype(np.str_)
    if values.shape != (n,):
        raise BadDataError(
            "labels-shape",
            f"labels of shape {values.shape} for {counted(n, 'row')}",
            where=where,
            expected=f"({n},), one for each row",
        )
    if values.dtype.kind not in "iubUST":
        raise BadDataError(
            "labels-kind",
            f"labels of type {values.dtype}",
            where=where,
            expected="a name or a whole number for each row",
        )
    names, codes = np.unique(values, return_inverse=True)
    return names, codes.astype(np.int64)


def stimuli(pairs: int, *, where: object = "rdm") -> int:
    """Return the number of stimuli n that has this many pairs: n(n − 1)/2 = pairs, n ≥ 2.

    Raises BadDataError if there is none.
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
    """Return ranges of rows of a triangle of n stimuli with about equal numbers of pairs.

    Each range is one task.
    """
    cuts = [round(n - n * math.sqrt(1 - part / 16)) for part in range(16)] + [n]
    return [(begin, end) for begin, end in itertools.pairwise(cuts) if end > begin]


def is_square_rdm(values: np.ndarray) -> bool:
    """Return whether an (n, n) array is one RDM, not n of them.

    It is one if its diagonal is zero, within rounding of its largest number.

    A stack of n condensed RDMs of n pairs each, which n = 3, 6, 10, 15, … allow, has
    dissimilarities there.
    """
    if values.ndim != 2 or values.shape[0] != values.shape[1] or not len(values):
        return False
    return bool(np.abs(values.diagonal()).max() <= ASYMMETRY * np.abs(values).max())


def condensed(
    rdm: ArrayLike, *, where: object = "rdm", finite: bool = True
) -> tuple[np.ndarray, int]:
    """Return (pairs, n): the n(n − 1)/2 dissimilarities above the diagonal, and n.

    The pairs are in row order, float32 or float64.

    rdm     (n(n − 1)/2,) — itself where it is float32 or float64, a map too — or (n, n), of which
            they are copied
    finite  as in `rows`, for the condensed form; a square is always checked
    raises  BadDataError: another shape, not symmetric within 1e-5 of the largest, a diagonal that
            is not 0, not finite
    """
    values = array(rdm, where=where)
    if values.ndim == 1:
        n = stimuli(len(values), where=where)
        values = floating(values)
        if finite:
            check_finite(values, where=where)
        return values, n
    if values.ndim != 2 or values.shape[0] != values.shape[1] or len(values) < 2:
        raise BadDataError(
            "rdm-shape",
            f"an array of shape {values.shape}",
            where=where,
            expected="(n, n), or the n(n − 1)/2 numbers above its diagonal",
        )
    from ..kernels.inputs import upper
    from ..kernels.parallel import parallel_for

    n, values = len(values), floating(values)
    check_finite(values, where=where)
    out = np.empty(n * (n - 1) // 2, values.dtype)
    differ, largest = np.zeros(n), np.zeros(n)

    def take(task: int, thread: int) -> None:
        upper(values, out, task * 64, min(n, task * 64 + 64), differ, largest)

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
