"""Build the LLVM instructions that every kernel here needs: pointers to elements and spread values.

Every processor runs them: where its registers are narrower than a vector, LLVM takes several.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils

LANES = 16  # float32 of a vector
FLOATS, WORD, INT = ir.VectorType(ir.FloatType(), LANES), ir.IntType(64), ir.IntType(32)


def place(context, builder, signature, args, array, offset):
    """Return a pointer to element `offset` of the array that is argument number `array`."""
    data = context.make_array(signature.args[array])(context, builder, args[array]).data
    return builder.gep(data, [offset])


def further(builder, pointer, offset, kind=None):
    """Return `pointer` moved by `offset` floats, as a pointer to `kind`.

    offset   a number or an i64 value
    kind     an LLVM type; float unless given
    """
    moved = builder.gep(pointer, [WORD(offset) if isinstance(offset, int) else offset])
    return builder.bitcast(moved, (kind or ir.FloatType()).as_pointer())


def spread(builder, value, kind=FLOATS):
    """Return a vector of type `kind` that holds `value` in every lane."""
    first = builder.insert_element(kind(ir.Undefined), value, INT(0))
    lanes = ir.VectorType(INT, kind.count)([0] * kind.count)
    return builder.shuffle_vector(first, kind(ir.Undefined), lanes)


def fetch(builder, pointer, locality):
    """Prefetch the cache line of `pointer` for reading.

    locality   3 for the level 1 cache, 2 for level 2
    """
    byte = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, INT, INT, INT])
    prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    # 0: for reading; 1: data, not instructions
    builder.call(prefetch, [builder.bitcast(pointer, byte), INT(0), INT(locality), INT(1)])


def accumulate(builder, depth, step, count, body):
    """Build `for k in range(0, depth, step): sums = body(k, sums)`; return the sums after the loop.

    depth  i64 value, at least 1: the loop runs once in any case
    count  how many sums, each a vector FLOATS that starts at 0 and stays in a register
    body   (k, sums) → new sums; k an i64 value
    """
    before, loop, after = (
        builder.block,
        builder.append_basic_block(),
        builder.append_basic_block(),
    )
    builder.branch(loop)
    builder.position_at_end(loop)
    k, sums = builder.phi(WORD), [builder.phi(FLOATS) for _ in range(count)]
    results = body(k, sums)
    following = builder.add(k, WORD(step))
    starts = [WORD(0)] + [FLOATS([0.0] * LANES)] * count
    last = builder.block
    for phi, start, end in zip([k, *sums], starts, [following, *results], strict=True):
        phi.add_incoming(start, before)
        phi.add_incoming(end, last)
    builder.cbranch(builder.icmp_signed("<", following, depth), loop, after)
    builder.position_at_end(after)
    return results


def store_either(builder, condition, targets, if_true, if_false):
    """Store if_true(n) where `condition` holds, else if_false(n), into targets[n] for every n.

    targets   pointers to vectors FLOATS on 64-byte boundaries
    if_true, if_false   n → the instructions of the vector to store
    """
    blocks = [builder.append_basic_block() for _ in range(2)]
    done = builder.append_basic_block()
    builder.cbranch(condition, *blocks)
    for block, value in zip(blocks, (if_true, if_false), strict=True):
        builder.position_at_end(block)
        for n, target in enumerate(targets):
            builder.store(value(n), target, align=64)
        builder.branch(done)
    builder.position_at_end(done)
