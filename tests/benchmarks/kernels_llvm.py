"""Kernels of kernels/llvm beside the same work in plain Numba. Run by hand, on an idle machine:

    python tests/benchmarks/kernels_llvm.py                  a minute, after compiling
    python tests/benchmarks/kernels_llvm.py --repeats 15     medians of more rounds

Both ways run in one process and one thread and take turns; the first round is dropped, the rest are
medians of CPU seconds. The ratio is what the module's docstring states; below 1.3 the LLVM way is
to be removed. The packing row compares the same panels, transposed by plain loops. Output is
Markdown.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import FunctionType
from typing import NamedTuple

import numpy as np
from numba import njit

from tlx.kernels import dispatch, panels, sums, tile

BAR = 1.3


class Pair(NamedTuple):
    """The same work twice, and the module of llvm/ that the first uses."""

    module: str
    work: str
    llvm: Callable[[], object]
    plain: Callable[[], object]


def with_globals(kernel, **replaced):
    """A compiled kernel once more, with other functions in place of those that it calls."""
    python = kernel.py_func
    return njit(nogil=True)(
        FunctionType(python.__code__, python.__globals__ | replaced, python.__name__)
    )


def numbers(n, d, dtype=np.float32, rank=0):
    draw = np.random.default_rng(0)
    x = draw.standard_normal((n, d))
    if rank:
        x = 0.5 * x + draw.standard_normal((n, rank)) @ draw.standard_normal((rank, d))
    x = x.astype(dtype)
    x.flags.writeable = False
    return x


# ---------------------------------------------------------------- plain twins of helpers


@njit(nogil=True)
def transpose_plain(source, at_source, source_step, target, at_target, target_step):
    left, right = source.reshape(-1), target.reshape(-1)
    for row in range(16):
        for column in range(16):
            place = at_target + column * target_step + row
            right[place] = left[at_source + row * source_step + column]


@njit(nogil=True)
def lanes_below_plain(values, at, limit):
    run, mask = values.reshape(-1)[at : at + 64], np.int64(0)
    for lane in range(64):
        mask |= np.int64(not run[lane] >= limit) << lane
    return mask


@njit(nogil=True)
def lanes_below_each_plain(values, at, limits, at_limits):
    run, mask = values.reshape(-1)[at : at + 64], np.int64(0)
    against = limits[at_limits : at_limits + 64]
    for lane in range(64):
        mask |= np.int64(not run[lane] >= against[lane]) << lane
    return mask


@njit(nogil=True)
def lowest_bit_plain(mask):
    position = 0
    while not mask & 1:
        mask >>= 1
        position += 1
    return position


# ---------------------------------------------------------------- pairs


def tiles() -> Iterator[Pair]:
    from tlx.kernels.llvm import register_tile

    side, out = tile.SIDE, tile.scratch(tile.SIDE)
    for d in (64, 512, 2048):
        x = numbers(side, d)
        packed = tile.empty(side, d)
        tile.pack(packed, x, 0, side, 0, d, threads=1)
        for name, is_difference in (("differences", True), ("products", False)):

            def call(kernel, rows, is_difference=is_difference):
                for _ in range(4):
                    kernel(is_difference, rows, 0, side, rows, 0, side, False, out)

            yield Pair(
                "register_tile",
                f"{name}, 512 × 512, d = {d}",
                lambda call=call, packed=packed: call(register_tile.sums, packed),
                lambda call=call, x=x: call(tile._sums_plain, x),
            )


def transpositions() -> Iterator[Pair]:
    from tlx.kernels.llvm import transposition

    step = 20_000
    square, out = tile.scratch(tile.SIDE), np.zeros(step * tile.SIDE, np.float32)
    square[:] = 1

    def mirror(kernel):
        for _ in range(10):
            kernel(square, 0, tile.SIDE, 0, tile.SIDE, False, out, 0, step)

    yield Pair(
        "transposition",
        "mirror, 512 × 512",
        lambda: mirror(transposition.mirror),
        lambda: mirror(panels.mirror_plain),
    )
    in_vectors = with_globals(transposition.pack)
    plain = with_globals(transposition.pack, _transpose=transpose_plain)
    none = tile.NOTHING
    for n, d in ((2000, 512), (512, 4096), (20_000, 64)):
        x, packed = numbers(n, d), tile.empty(n, d)

        def pack(kernel, x=x, packed=packed, n=n, d=d):
            kernel(x, 0, n, 0, d, none, none, none, none, packed, 0, tile.padded(n))

        yield Pair(
            "transposition",
            f"pack, {n} × {d}",
            lambda pack=pack: pack(in_vectors),
            lambda pack=pack: pack(plain),
        )


def masks() -> Iterator[Pair]:
    from tlx.kernels.llvm import masks, register_tile

    in_vectors = with_globals(masks.pick)
    plain = with_globals(
        masks.pick,
        lanes_below=lanes_below_plain,
        lanes_below_each=lanes_below_each_plain,
        lowest_bit=lowest_bit_plain,
    )
    n, side, out = 4096, tile.SIDE, tile.scratch(tile.SIDE)
    corners = [(i, j) for i in range(0, n, side) for j in range(i, n, side)]

    def fill(packed, i, j, out):
        register_tile.sums(True, packed, i, side, packed, j, side, i == j, out)
        return out

    def collect(kernel, packed, ready):
        values, indices = np.full((n, 4), np.inf, np.float32), np.full((n, 4), -1)
        limits = values[:, -1].copy()
        for i, j in corners:
            square = ready[i, j] if ready else fill(packed, i, j, out)
            kernel(square, i, side, j, side, i == j, True, values, indices, limits)

    for d in (64, 512):
        packed = tile.empty(n, d)
        tile.pack(packed, numbers(n, d), 0, n, 0, d, threads=1)
        ready = {at: fill(packed, *at, tile.scratch(side)) for at in corners}
        for name, squares in ((f"pick alone, n = {n}", ready), (f"tile and pick, d = {d}", None)):
            calls = [partial(collect, kernel, packed, squares) for kernel in (in_vectors, plain)]
            yield Pair("masks", name, *calls)


def bfloat16_tiles() -> Iterator[Pair]:
    from tlx.kernels.bfloat16 import BFloat16Rows
    from tlx.kernels.differences import Differences

    side, out = tile.SIDE, tile.scratch(tile.SIDE)
    for d in (64, 512, 2048):
        x = numbers(side, d)
        rows = [kind(x, np.zeros(d), 1.0, 1) for kind in (BFloat16Rows, Differences)]
        calls = [
            lambda own=own: [own.tile(0, side, 0, side, False, out) for _ in range(4)]
            for own in rows
        ]
        yield Pair("bfloat16_tile", f"beside float32 differences, d = {d}", *calls)


def class_sums() -> Iterator[Pair]:
    from tlx.kernels.llvm import class_sums

    for dtype in (np.float32, np.float64):
        for m, d, k in (
            (20_000, 512, 100),
            (4000, 4096, 100),
            (100_000, 64, 100),
            (20_000, 512, 1),
        ):
            x, codes = numbers(m, d, dtype), np.random.default_rng(1).integers(0, k, m)
            starts, order = np.empty(k + 1, np.int64), np.empty(m, np.int64)
            sums.by_class(codes, starts, order)
            scratch = np.empty(sums.STRIP)

            def gather(kernel, x=x, starts=starts, order=order, k=k, d=d, scratch=scratch):
                centre, residual = np.zeros((2, k, d))
                seen, since = np.zeros((2, k), np.int64)
                squares = np.zeros(k)
                kernel(x, order, starts, 0, d, centre, residual, squares, seen, since, scratch)

            yield Pair(
                "class_sums",
                f"{m} × {d} {np.dtype(dtype).name}, {k} classes",
                lambda gather=gather: gather(class_sums.gather),
                lambda gather=gather: gather(sums.gather_plain),
            )


GROUPS = (
    (tiles, dispatch.has_tile),
    (transpositions, dispatch.has_tile),
    (masks, dispatch.has_tile),
    (bfloat16_tiles, dispatch.has_bfloat16),
    (class_sums, dispatch.has_class_sums),
)


def medians(pair: Pair, repeats: int) -> tuple[float, float]:
    """CPU seconds of both ways, each the median of its rounds."""
    rounds = []
    for turn in range(repeats + 1):
        times = [0.0, 0.0]
        for which in (0, 1) if turn % 2 else (1, 0):
            started = time.thread_time()
            pair[2 + which]()
            times[which] = time.thread_time() - started
        rounds.append(times)
    llvm, plain = zip(*rounds[1:], strict=True)
    return statistics.median(llvm), statistics.median(plain)


def main():
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--repeats", type=int, default=9, help="rounds that count (default 9)")
    asked = options.parse_args()
    used = sorted(f for f in dispatch.FEATURES if f in ("+avx2", "+avx512f", "+avx512bf16"))
    print(
        f"one thread, medians of {asked.repeats}, load {os.getloadavg()[0]:.1f} at the start, "
        f"{', '.join(used) or 'no AVX2'}\n\n"
        "| module | work | LLVM, ms | plain, ms | plain / LLVM |\n|---|---|---|---|---|"
    )
    for pairs, is_there in GROUPS:
        if not is_there():
            print(f"| {pairs.__name__} | not on this processor | | | |")
            continue
        for pair in pairs():
            llvm, plain = medians(pair, asked.repeats)
            print(
                f"| {pair.module} | {pair.work} | {1e3 * llvm:.2f} | {1e3 * plain:.2f} | "
                f"{plain / llvm:.2f}{'' if plain / llvm >= BAR else ' (below the bar)'} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
