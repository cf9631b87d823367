"""The inner loop of sums.py in vectors: rows of one class added to its sums, four at once.

Plain Numba (`sums.gather_plain`) vectorises one row at a time only, as it cannot prove that more
arrays lie apart. Of 100 classes it takes 1.6 to 4.0 times as long for float32 rows, 1.3 to 1.8
times for float64; of one class, whose rows are read in order, as long (AVX2, one core;
tests/benchmarks/kernels_llvm.py).
"""

from __future__ import annotations

from types import FunctionType

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from .. import sums
from .vectors import WORD, fetch

LANES = 8  # float64 of a vector; LLVM splits it where registers are shorter


def check() -> None:
    """Compile `add` and compare sums of two rows with the exact ones; raise where they differ."""
    x = np.arange(90, dtype=np.float32).reshape(2, 45) % 7
    centre, residual, squares = np.full(45, 2.0), np.zeros(45), np.zeros(45)
    _add_two(x, centre, residual, squares)
    difference = x - centre
    if not (
        np.array_equal(residual, difference.sum(axis=0))
        and np.array_equal(squares, (difference**2).sum(axis=0))
    ):
        raise ArithmeticError("sums of rows are wrong")


@intrinsic
def add(typing, x, rows, following, left, centre, residual, squares):
    """Add rows of one class to its sums; as `sums.add`."""

    def codegen(context, builder, signature, args):
        array = signature.args[0]
        matrix = context.make_array(array)(context, builder, args[0])
        present, coming = (
            [
                cgutils.get_item_pointer(context, builder, array, matrix, [row, args[3]])
                for row in cgutils.unpack_tuple(builder, rows)
            ]
            for rows in args[1:3]
        )
        sums = [context.make_array(signature.args[i])(context, builder, args[i]) for i in (4, 5, 6)]
        pointers = [total.data for total in sums]
        kind = context.get_data_type(array.dtype)
        width = cgutils.unpack_tuple(builder, sums[0].shape)[0]
        whole = builder.and_(width, WORD(-2 * LANES))
        with cgutils.for_range_slice(builder, WORD(0), whole, WORD(2 * LANES), intp=WORD) as (
            at,
            _,
        ):
            for row in coming:
                fetch(builder, builder.gep(row, [at]), 3)
            _add_columns(builder, present, kind, pointers, at, LANES)
            second = builder.add(at, WORD(LANES))
            _add_columns(builder, present, kind, pointers, second, LANES)
        with cgutils.for_range_slice(builder, whole, width, WORD(1), intp=WORD) as (at, _):
            _add_columns(builder, present, kind, pointers, at, 1)
        return context.get_dummy_value()

    return types.void(x, rows, following, left, centre, residual, squares), codegen


def _add_columns(builder, rows, kind, pointers, at, lanes):
    """Add `lanes` columns of the rows, from column `at` on, to the sums.

    rows      pointers to the first column of each row, numbers of type `kind`
    pointers  to centre, residual and squares, double
    """
    double = ir.DoubleType()

    def vector(pointer, number):
        whole = ir.VectorType(number, lanes).as_pointer()
        return builder.bitcast(builder.gep(pointer, [at]), whole)

    centre, residual, squares = (vector(pointer, double) for pointer in pointers)
    about, total = builder.load(centre, align=8), builder.load(squares, align=8)
    differences = [builder.load(vector(row, kind), align=4) for row in rows]
    if kind != double:
        differences = [builder.fpext(value, about.type) for value in differences]
    differences = [builder.fsub(value, about) for value in differences]
    for y in differences:  # a product and its sum may be rounded once
        product = builder.fmul(y, y, flags=("contract",))
        total = builder.fadd(total, product, flags=("contract",))
    builder.store(total, squares, align=8)
    while len(differences) > 1:
        pairs = range(0, len(differences), 2)
        differences = [builder.fadd(*differences[i : i + 2]) for i in pairs]
    builder.store(builder.fadd(builder.load(residual, align=8), differences[0]), residual, align=8)


@njit(cache=True, nogil=True)
def _add_two(x, centre, residual, squares):
    add(x, (0, 1), (0, 1), 0, centre, residual, squares)


def _gather_with(add):
    """Return `sums._gather` compiled with this `add`; its name keeps its cache files apart."""
    gather = FunctionType(sums._gather.__code__, vars(sums) | {"add": add}, "_gather_in_vectors")
    gather.__qualname__, gather.__module__ = gather.__name__, __name__
    return njit(cache=True, nogil=True)(gather)


gather = _gather_with(add)
