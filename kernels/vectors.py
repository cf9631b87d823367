"""A few words of LLVM for kernels that need whole vectors: what Numba's loops cannot say, or not
fast enough.

Any processor runs them: where its registers are narrower than a vector, LLVM takes several. They
are for compiled code alone, and are not touched where NUMBA_DISABLE_JIT is set.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

LANES = 16  # float32 of a vector
FLOATS, WORD, INT = ir.VectorType(ir.FloatType(), LANES), ir.IntType(64), ir.IntType(32)
_SIXTY_FOUR = ir.VectorType(ir.FloatType(), 64)


def place(context, builder, signature, args, array, offset):
    """Pointer to an element of the array that is argument number `array`."""
    data = context.make_array(signature.args[array])(context, builder, args[array]).data
    return builder.gep(data, [offset])


def further(builder, pointer, offset, kind=None):
    """Pointer to what lies `offset` (a number, or a value) floats on, as a pointer to `kind`."""
    there = builder.gep(pointer, [WORD(offset) if isinstance(offset, int) else offset])
    return builder.bitcast(there, (kind or ir.FloatType()).as_pointer())


def spread(builder, value, kind=FLOATS):
    """A vector that holds `value` in every lane."""
    one = builder.insert_element(kind(ir.Undefined), value, INT(0))
    return builder.shuffle_vector(
        one, kind(ir.Undefined), ir.VectorType(INT, kind.count)([0] * kind.count)
    )


def _lanes(context, builder, signature, args, array):
    """The 64 numbers of array number `array` that begin at the argument after it."""
    begin = place(context, builder, signature, args, array, args[array + 1])
    return builder.load(further(builder, begin, 0, _SIXTY_FOUR), align=4)


@intrinsic
def lanes_below(typing, values, at, limit):
    """int64 mask: bit l in 0…63 is set where not values[at + l] >= limit (so NaN counts as below);
    all float32.
    """

    def codegen(context, builder, signature, args):
        below = builder.fcmp_unordered(
            "<", _lanes(context, builder, signature, args, 0), spread(builder, args[2], _SIXTY_FOUR)
        )
        return builder.bitcast(below, WORD)

    return types.int64(values, types.int64, types.float32), codegen


@intrinsic
def lanes_below_each(typing, values, at, limits, at_limits):
    """int64 mask: bit l in 0…63 is set where not values[at + l] >= limits[at_limits + l]; all
    float32.
    """

    def codegen(context, builder, signature, args):
        below = builder.fcmp_unordered(
            "<", *(_lanes(context, builder, signature, args, array) for array in (0, 2))
        )
        return builder.bitcast(below, WORD)

    return types.int64(values, types.int64, limits, types.int64), codegen


@intrinsic
def lowest_bit(typing, mask):
    """The place of the lowest set bit of an int64; 64 for 0."""

    def codegen(context, builder, signature, args):
        return builder.cttz(args[0], ir.IntType(1)(0))

    return types.int64(types.int64), codegen
