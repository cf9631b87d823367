"""Sums of squares within and between classes, in one pass over the rows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..errors import BadDataError
from ..features.sharded import Sharded
from ..kernels.parallel import ThreadTeam, default_threads
from ..kernels.sums import STRIP, by_class, finish, gather_kernel
from . import arrays
from .streams import blocks

CHUNK_BYTES = (
    256 << 20
)  # of rows put in the order of their classes: the more, the more of a class come together
BLOCK = 1024  # columns of a task
TASKS = 4  # at least, for a chunk: where rows are narrow it is cut in parts as well
STATE_BYTES = (
    1 << 30
)  # of sums that are kept at once; beyond it the rows are gone through again for other columns


@dataclass(frozen=True)
class SumOfSquares:
    """Sums of squares of rows about class means, and of class means about the mean.

    Float64 throughout.

    within, between, total   SSW = Σ_classes Σ_x ‖x − μ_c‖², SSB = Σ_classes n_c·‖μ_c − μ‖², TSS =
                             Σ_x ‖x − μ‖²
    ratio                    SSW/TSS, in 0…1; NaN if TSS = 0: nothing varies. Low: the classes are
                             apart
    names, counts, per_class (k,) labels, int64 rows, and what each class has of SSW
    means                    (k, d) of the classes, if requested
    """

    within: float
    between: float
    total: float
    ratio: float
    names: np.ndarray
    counts: np.ndarray
    per_class: np.ndarray
    means: np.ndarray | None = None


def sum_of_squares(
    x: ArrayLike | Sharded,
    labels: ArrayLike,
    *,
    means: bool = False,
    threads: int | None = None,
    where: object = "x",
    read: bool | None = None,
) -> SumOfSquares:
    """Compute SSW, SSB and TSS of rows under labels.

    x        (n, …) numbers: an array, a map, a layer of a dump, the path of a .npy file. It may be
             larger than memory
    labels   (n,) str or whole numbers, in any order
    means    give the means of the classes too, k·d numbers
    threads  to use; the answer has the same bits at any number
    read     as in `streams.blocks`
    raises   BadDataError: not numbers, not finite, another number of labels

    TSS is computed from sums about provisional centres and the mean of all, by no mean of a class:
    that SSW + SSB equals it is a check. Relative errors stay some 1e-15 at any offset of the rows.
    """
    given = arrays.streamed(x, where=where, least=1)
    names, codes = arrays.labels(labels, len(given))
    state = _State(len(names), given.shape[1], np.bincount(codes))
    rows = max(1, CHUNK_BYTES // (given.shape[1] * arrays.float_type(given.dtype).itemsize))
    sums = np.zeros((3, len(names)))
    kept = np.empty((len(names), given.shape[1])) if means else None
    with ThreadTeam(threads) as crew:
        for _ in state.passes():
            for start, part in blocks(given, rows, read=read):
                state.add(part, codes[start : start + rows], threads, crew)
            with np.errstate(all="ignore"):  # what is not finite shows in the sums
                sums += state.end(kept, threads, crew)
    if not np.isfinite(sums).all():
        for start, part in blocks(given, rows, read=read):
            arrays.check_finite(part, where=where, first=start)
        raise BadDataError(
            "overflow",
            "squares beyond the largest float64",
            where=where,
            expected="smaller numbers",
        )
    within, between, total = sums.sum(axis=1).tolist()
    ratio = min(1.0, within / total) if total > 0 else math.nan
    return SumOfSquares(within, between, total, ratio, names, state.counts, sums[0], kept)


class _State:
    """Running sums of every class about provisional centres, by column blocks and row parts.

    counts  (k,) int64 — all rows of each class
    """

    def __init__(self, classes: int, width: int, counts: np.ndarray):
        self.counts, self.width = counts.astype(np.int64), width
        self.block = min(BLOCK, width)
        self.parts = max(1, TASKS // -(-width // self.block))
        self.most = max(1, STATE_BYTES // (16 * self.parts * classes * self.block))

    def passes(self) -> Iterator[None]:
        """Iterate over the passes over the rows: one where the sums of all columns fit."""
        classes = len(self.counts)
        for left in range(0, self.width, self.most * self.block):
            self.left, many = left, -(-min(self.width - left, self.most * self.block) // self.block)
            self.centre, self.rest = np.zeros((2, many, self.parts, classes, self.block))
            self.squares = np.zeros((many, self.parts, classes))
            self.seen, self.since = np.zeros((2, many, self.parts, classes), np.int64)
            yield

    def add(self, x: np.ndarray, codes: np.ndarray, threads: int | None, crew: ThreadTeam) -> None:
        """Add rows x (m, d), C order, of the classes codes (m,)."""
        x = x[:]
        x.flags.writeable = False  # one type for the compiler
        bounds = [len(x) * part // self.parts for part in range(self.parts + 1)]
        cut = list(itertools.pairwise(bounds))
        starts = np.empty((self.parts, len(self.counts) + 1), np.int64)
        order = np.empty(len(x), np.int64)
        for part, (begin, end) in enumerate(cut):
            by_class(codes[begin:end], starts[part], order[begin:end])
        scratch = np.empty((threads or default_threads(), STRIP))
        gather = gather_kernel()

        def work(task: int, thread: int) -> None:
            block, part = divmod(task, self.parts)
            begin, end = cut[part]
            at = (block, part)
            left = self.left + block * self.block
            with np.errstate(all="ignore"):  # each thread has its own
                gather(
                    x[begin:end],
                    order[begin:end],
                    starts[part],
                    left,
                    min(self.block, self.width - left),
                    self.centre[at],
                    self.rest[at],
                    self.squares[at],
                    self.seen[at],
                    self.since[at],
                    scratch[thread],
                )

        crew.each(len(self.squares) * self.parts, work)

    def end(self, means: np.ndarray | None, threads: int | None, crew: ThreadTeam) -> np.ndarray:
        """Return (3, k): SSW, SSB and TSS over these columns, by class.

        means (k, d) is filled in these columns.
        """
        sums = np.empty((len(self.squares), 3, len(self.counts)))
        own = np.empty((threads or default_threads(), *self.centre.shape[2:]))
        scratch = np.empty((len(own), 3, self.block))

        def work(block: int, thread: int) -> None:
            with np.errstate(all="ignore"):
                finish(
                    self.centre[block],
                    self.rest[block],
                    self.squares[block],
                    self.seen[block],
                    self.counts,
                    sums[block],
                    own[thread],
                    scratch[thread],
                )
            if means is not None:
                part = means[:, self.left + block * self.block :][:, : self.block]
                part[:] = own[thread][:, : part.shape[1]]

        crew.each(len(sums), work)
        result: np.ndarray = sums.sum(axis=0)
        return result
