"""Reliability of an intrinsic dimension: the same estimate on parts of the rows."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import bdtr

from ..data.streams import seeded_permutation
from ..errors import BadDataError, UsageError, counted
from ..kernels.neighbours import nearest_alive
from ..kernels.parallel import parallel_for
from .intrinsic_dimension import LEAST, Dimension, estimator
from .neighbours import NeighbourRows

# of the rows may be left with too few neighbours in some resampling, and are searched again
RUN_OUT = 1e-3


@dataclass(frozen=True, kw_only=True, eq=False)
class Resampled:
    """Estimates on random parts of the rows.

    mean, std   over the parts; std is that of the population (divided by their number)
    values      (resamplings,) float64 — the estimates
    rows        rows of each part
    whole       what `intrinsic_dimension` gives for all rows: it takes nothing more here
    distances   (n, k) float64 — to the k nearest rows, of which other methods for so many make
                their estimate
    """

    mean: float
    std: float
    values: np.ndarray
    rows: int
    whole: Dimension
    distances: np.ndarray


def intrinsic_dimension_resampled(
    x: ArrayLike,
    resamplings: int = 50,
    fraction: float = 0.9,
    seed: int = 0,
    *,
    method: str = "twonn",
    threads: int | None = None,
) -> Resampled:
    """Estimate the intrinsic dimension of random parts of the rows, drawn without replacement.

    To the bit what `intrinsic_dimension` gives for each part, but distances are computed once.

    A few more neighbours than the method needs are found for every row, so that enough of them are
    nearly always drawn too. A row that runs out is searched again, alone.

    x            (n, …) as for `intrinsic_dimension`
    resamplings  how many parts; part i has the rows data.streams.order(n, seed, "resampling",
                 i)[:⌊fraction·n⌋], in
                 their order in x
    fraction     of the rows in each part (that of the ratios is a setting of the method:
                 "twonn:fraction=0.8")
    method       as for `intrinsic_dimension`
    raises       as `intrinsic_dimension`; BadDataError where a part is too small; UsageError:
                 resamplings, fraction, seed
    """
    if resamplings < 1 or not 0 < fraction <= 1 or seed < 0:
        raise UsageError(
            "out-of-range",
            f"{resamplings} resamplings of {fraction} with seed {seed}",
            where="resampling",
            expected="at least 1, a fraction above 0 and at most 1, a seed not below 0",
        )
    how = estimator(method)
    rows = NeighbourRows(x, how.neighbours, threads)
    return resampled_dimension(rows, how, resamplings, fraction, seed, threads)


class DimensionMethod(Protocol):
    """Estimate of a dimension: a row of intrinsic_dimension.METHODS, with its settings."""

    @property
    def neighbours(self) -> int:
        """Return the number of neighbours that the estimate needs."""

    def estimate(self, distances: np.ndarray) -> Dimension:
        """Estimate from distances (n, neighbours) float64, ascending."""


class NeighbourSearch(Protocol):
    """Search of nearest rows: NeighbourRows of one piece, BlockedNeighbours of blocks."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def nearest(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return distances (n, k) and indices (n, k) of the k nearest other rows of every row."""

    def nearest_of(self, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the same of some rows (m,)."""


def resampled_dimension(
    rows: NeighbourSearch,
    how: DimensionMethod,
    resamplings: int,
    fraction: float,
    seed: int,
    threads: int | None = None,
) -> Resampled:
    """Estimate as `intrinsic_dimension_resampled` does, from a search of nearest rows."""
    k, n = how.neighbours, len(rows)
    drawn = math.floor(fraction * n)
    if drawn < max(k + 1, LEAST):
        raise BadDataError(
            "too-few-rows",
            f"{drawn} of {counted(n, 'row')} in each resampling",
            where="x",
            expected=f"at least {max(k + 1, LEAST)}",
        )
    kept = next(
        kept
        for kept in itertools.count(k)
        if kept >= n - 1 or resamplings * bdtr(k - 1, kept, drawn / n) <= RUN_OUT
    )
    lists, values = rows.nearest(kept), np.empty(resamplings)
    whole = how.estimate(lists[0][:, :k])

    def work(task: int, thread: int) -> None:
        part = np.sort(seeded_permutation(n, seed, "resampling", task)[:drawn])
        with _where(f"resampling {task}"):
            values[task] = how.estimate(_among(rows, lists, part, k)).dimension

    parallel_for(resamplings, work, threads)
    return Resampled(
        mean=float(values.mean()),
        std=float(values.std()),
        values=values,
        rows=drawn,
        whole=whole,
        distances=lists[0][:, :k],
    )


def _among(
    rows: NeighbourSearch, lists: tuple[np.ndarray, np.ndarray], part: np.ndarray, k: int
) -> np.ndarray:
    """Return distances (m, k) of the rows of a part (m,) to the k nearest in it.

    They are taken from lists of the nearest of all rows.
    """
    alive = np.zeros(len(rows), np.bool_)
    alive[part] = True
    out, short = np.empty((len(part), k)), np.empty(len(part), np.bool_)
    nearest_alive(*lists, part, alive, out, short)
    at, kept = np.flatnonzero(short), lists[0].shape[1]
    while len(at):
        kept = min(4 * kept, len(rows) - 1)
        longer, again, short = (
            rows.nearest_of(part[at], kept),
            np.empty((len(at), k)),
            np.empty(len(at), np.bool_),
        )
        nearest_alive(*longer, np.arange(len(at)), alive, again, short)
        out[at] = again
        at = at[short]
    return out


@dataclass(frozen=True, kw_only=True, eq=False)
class Blocks:
    """Estimates on blocks of the rows, for growing numbers of blocks.

    blocks      (b,) int64 — how many blocks
    rows        (b,) int64 — rows in each: ⌊n / blocks⌋
    mean, std   (b,) float64 — over the blocks, std that of the population
    values      b arrays float64 — the estimate of each block
    """

    blocks: np.ndarray
    rows: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    values: tuple[np.ndarray, ...]


def block_analysis(
    x: ArrayLike,
    blocks: Iterable[int] = range(1, 21),
    seed: int = 0,
    *,
    method: str = "twonn",
    threads: int | None = None,
) -> Blocks:
    """Estimate the intrinsic dimension of blocks of the rows.

    For each b of `blocks` the rows are shuffled and cut into b equal blocks.

    What is left over by the cut is in no block. The order for b is data.streams.order(n, seed,
    "block analysis", b).

    x        (n, …) as for `intrinsic_dimension`
    raises   as `intrinsic_dimension`; BadDataError: blocks that are too small; UsageError: no
             blocks, seed
    """
    how, counts = estimator(method), [int(b) for b in blocks]
    if not counts or min(counts) < 1 or seed < 0:
        raise UsageError(
            "out-of-range",
            f"blocks {counts} with seed {seed}",
            where="blocks",
            expected="whole numbers, at least 1, and a seed not below 0",
        )
    rows = NeighbourRows(x, how.neighbours, threads)
    n, least = len(rows.values), max(how.neighbours + 1, LEAST)
    if n // max(counts) < least:
        raise BadDataError(
            "block-too-small",
            f"{counted(n, 'row')} make {counted(max(counts), 'block')} of {n // max(counts)}",
            where="blocks",
            expected=f"at least {least} rows in each",
            remedy=f"ask for at most {n // least} blocks",
        )
    values = tuple(_blocks(rows, b, seed, how) for b in counts)
    return Blocks(
        blocks=np.array(counts),
        rows=n // np.array(counts),
        values=values,
        mean=np.array([estimates.mean() for estimates in values]),
        std=np.array([estimates.std() for estimates in values]),
    )


def _blocks(rows: NeighbourRows, count: int, seed: int, how: DimensionMethod) -> np.ndarray:
    n, estimates = len(rows.values), np.empty(count)
    shuffled = seeded_permutation(n, seed, "block analysis", count)
    for block in range(count):
        part = np.sort(shuffled[block * (n // count) : (block + 1) * (n // count)])
        with _where(f"block {block} of {count}"):
            estimates[block] = how.estimate(rows.nearest(how.neighbours, part=part)[0]).dimension
    return estimates


@contextlib.contextmanager
def _where(place: str) -> Iterator[None]:
    try:
        yield
    except BadDataError as error:
        error.where = f"{error.where}, {place}"
        raise
