"""Metrics of rows larger than memory, by name: METRICS."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypedDict, cast

import numpy as np
from numpy.typing import ArrayLike

from ...data.streams import seeded_permutation
from ...errors import UnknownNameError, UsageError
from ...features.sharded import LayerArray
from .. import arrays
from ..intrinsic_dimension import Dimension, estimator
from ..sum_of_squares import SumOfSquares
from . import pieces
from .dissimilarities import RowDissimilarities, streamed_contrast, streamed_pearson
from .linear import blocked_cka, blocked_logme
from .moments import blocked_moments
from .neighbours import BlockedNeighbours
from .pieces import PieceRunner
from .rows import BlockRows, check_same_rows, checked_block_rows


@dataclass(frozen=True)
class OverBlocks:
    """Metric of rows that were read block by block.

    value        what the function of this name in tlx.metrics returns
    how          "blocks", or "one piece" where one block has all rows
    rows         rows; block_rows: of them in a block; blocks: number of blocks
    deviation    standard deviation of a value that is estimated from a sample of the rows; None
                 where all rows were used
    sample_rows  rows of that sample
    """

    value: object
    how: str
    rows: int
    block_rows: int
    blocks: int
    deviation: float | None = None
    sample_rows: int | None = None


@dataclass(frozen=True)
class SampledDimension:
    """Intrinsic dimension of sampled rows among all rows.

    deviation  standard deviation that the sample gives the dimension: dimension / √rows
    """

    dimension: Dimension
    deviation: float
    rows: int


@dataclass(frozen=True, kw_only=True)
class BlockCall:
    """What a metric is computed from.

    rows, other  layers of the same images; other: None unless given
    run          has pieces computed by other processes; None: by this one
    codes        (n,) int64, names (k,) — class of each row, names of the classes; None unless given
    """

    rows: BlockRows
    block_rows: int
    other: BlockRows | None = None
    codes: np.ndarray | None = None
    names: np.ndarray | None = None
    threads: int | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    run: PieceRunner | None = None

    @property
    def ranges(self) -> list[range]:
        """Return the blocks."""
        return self.rows.ranges(self.block_rows)

    @property
    def classes(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (codes, names)."""
        assert self.codes is not None
        assert self.names is not None
        return self.codes, self.names

    @property
    def second(self) -> BlockRows:
        """Return the other layer."""
        assert self.other is not None
        return self.other


def _sum_of_squares(call: BlockCall) -> SumOfSquares:
    codes, names = call.classes
    moments = blocked_moments(call.rows, codes, len(names), call.ranges, call.threads, call.run)
    return moments.sums(names, means=bool(call.settings["means"]))


def _intrinsic_dimension(call: BlockCall) -> Dimension | SampledDimension:
    """Estimate from all rows, or from a sample of them among all rows."""
    settings = call.settings
    how = estimator(str(settings["method"]), cast("float | None", settings["fraction"]))
    search = BlockedNeighbours(call.rows, how.neighbours, call.ranges, call.threads, call.run)
    sample = settings["sample"]
    if sample is None:
        whole: Dimension = how.estimate(search.nearest(how.neighbours)[0])
        return whole
    many, n = int(cast("int", sample)), len(call.rows)
    if not 1 <= many <= n or many != sample:
        raise UsageError(
            "out-of-range", f"{sample}", where="sample", expected=f"a whole number, 1 to {n}"
        )
    chosen = np.sort(seeded_permutation(n, int(cast("int", settings["seed"])), "sample")[:many])
    estimate: Dimension = how.estimate(search.nearest_of(chosen, how.neighbours)[0])
    return SampledDimension(estimate, estimate.dimension / math.sqrt(many), many)


def _class_contrast(call: BlockCall) -> object:
    rdm = RowDissimilarities.of(call.rows, str(call.settings["rdm"]), call.threads)
    return streamed_contrast(rdm, call.classes[0], call.block_rows, call.run)


def _compare_rdms(call: BlockCall) -> float:
    metric = str(call.settings["rdm"])
    first = RowDissimilarities.of(call.rows, metric, call.threads)
    second = RowDissimilarities.of(call.second, metric, call.threads)
    return streamed_pearson(first, second, call.block_rows, call.run)


def _cka(call: BlockCall) -> float:
    unbiased = bool(call.settings["unbiased"])
    return blocked_cka(call.rows, call.second, call.ranges, unbiased=unbiased, run=call.run)


@dataclass(frozen=True)
class MetricOverBlocks:
    """Metric that is computed block by block.

    function  call → what the function of this name in tlx.metrics returns
    needs     "labels" or "y", beside the rows; "" where rows are enough
    settings  name → default
    """

    function: Callable[[BlockCall], object]
    needs: str = ""
    settings: Mapping[str, object] = field(default_factory=dict)


METRICS: dict[str, MetricOverBlocks] = {
    "sum_of_squares": MetricOverBlocks(_sum_of_squares, "labels", {"means": False}),
    "intrinsic_dimension": MetricOverBlocks(
        _intrinsic_dimension,
        settings={"method": "twonn", "fraction": None, "sample": None, "seed": 0},
    ),
    "class_contrast": MetricOverBlocks(_class_contrast, "labels", {"rdm": "correlation"}),
    "compare_rdms": MetricOverBlocks(_compare_rdms, "y", {"rdm": "correlation"}),
    "cka": MetricOverBlocks(_cka, "y", {"unbiased": True}),
    "logme": MetricOverBlocks(
        lambda call: blocked_logme(call.rows, call.classes[0], call.ranges, call.run), "labels"
    ),
}


class LabelledLayers(Protocol):
    """What a dump is here: named layers, and the labels of their rows."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Return the names of the layers."""

    def array(self, layer: str) -> LayerArray:
        """Return the rows of a layer."""

    def row_labels(self) -> np.ndarray:
        """Return the label of every row."""


def over(  # noqa: PLR0913 — where and how, all by name
    x: object,
    metric: str,
    labels: ArrayLike | None = None,
    *,
    y: object = None,
    layer: str | None = None,
    block_rows: int | None = None,
    threads: int | None = None,
    engine: str | PieceRunner | None = None,
    address: str | None = None,
    workers: int | None = None,
    **settings: object,
) -> OverBlocks:
    """Compute a metric of rows that memory need not hold, block by block.

    x           (n, …) an array, a map, the path of a .npy file, a dump, or anything with a length,
                shape, dtype and slices
    metric      sum_of_squares, class_contrast, logme (of `labels`), intrinsic_dimension, cka,
                compare_rdms (with `y`; Pearson's r)
    labels      (n,) str or whole numbers; those of the dump unless given
    y           (n, …) as x: the layer that x is compared with; of a dump, a layer's name
    layer       of a dump; needed where it has several
    block_rows  rows of a block; None: what fits in half of the memory of this machine
    threads     to use, of each process; an engine's have 1 unless told
    engine      has blocks computed by other processes: "local", by `workers` of this machine;
                "dask" or "ray", by a cluster that runs at `address` and sees the files of x and y
                under the same paths. The result has the bits that this process gives with as many
                threads
    settings    of the metric: means; method, fraction, sample (so many rows, drawn with `seed`,
                among all), seed; rdm (kind of dissimilarity); unbiased
    raises      BadDataError, as the function of tlx.metrics does; ResourceError: products of too
                many features, means of too many classes; UnknownNameError: metric, layer;
                UsageError: what is given besides

    Nearest neighbours have the bits of one piece. Sums of squares, products of features and
    statistics of RDMs are joined from blocks, in float64, and agree with one piece to 1e-12 (to
    1e-10 where rows vary by 1e-6 of their offset); `metrics.cka` itself is good to 1e-6.
    """
    if metric not in METRICS:
        raise UnknownNameError("metric over blocks", metric, METRICS)
    row = METRICS[metric]
    unknown = [name for name in settings if name not in row.settings]
    if unknown:
        raise UnknownNameError(f"setting of {metric}", unknown[0], row.settings)
    if _is_dump(x):
        dump = cast("LabelledLayers", x)
        x, layer = _layer_of(dump, layer, "layer"), None
        labels = dump.row_labels() if labels is None else labels
        y = _layer_of(dump, y, "y") if isinstance(y, str) and y in dump.layers else y
    if layer is not None:
        raise UsageError("no-layers", f"layer '{layer}'", where="layer", expected="a dump as x")
    rows = BlockRows(x)
    call = BlockCall(
        rows=rows,
        block_rows=checked_block_rows(block_rows, rows),
        threads=threads,
        settings={**row.settings, **settings},
        run=_runner(engine, {"address": address, "workers": workers, "threads": threads}),
        **_beside(row, rows, metric, labels, y),
    )
    if call.run is not None:
        _check_sendable(call)
    return _computed(row, call)


def _runner(engine: str | PieceRunner | None, given: Mapping[str, object]) -> PieceRunner | None:
    """Return what has pieces computed elsewhere; None: this process computes."""
    if isinstance(engine, str):
        # lent by the floor above, which alone knows engines: see tests/test_layout.py
        from ...studies.block_tasks import pieces_by

        return pieces_by(engine, given)
    alone = [name for name in ("address", "workers") if given[name] is not None]
    if engine is None and alone:
        raise UsageError("conflict", f"{alone[0]} without engine", where=alone[0])
    return engine


def _check_sendable(call: BlockCall) -> None:
    """Raise UsageError for an array that would be sent to each task as a whole."""
    for rows in (call.rows, call.other):
        if rows is not None and not rows.has_files and rows.nbytes > pieces.SENT_BYTES:
            raise UsageError(
                "not-in-a-file",
                f"an array of {rows.nbytes:,} bytes in memory",
                where=str(rows.where),
                expected="a dump, or a file, which other processes read themselves",
                remedy="numpy.save it, and give the path",
            )


def _computed(row: MetricOverBlocks, call: BlockCall) -> OverBlocks:
    value, blocks = row.function(call), len(call.ranges)
    sampled = value if isinstance(value, SampledDimension) else None
    return OverBlocks(
        value=value if sampled is None else sampled.dimension,
        how="blocks" if blocks > 1 else "one piece",
        rows=len(call.rows),
        block_rows=call.block_rows,
        blocks=blocks,
        deviation=None if sampled is None else sampled.deviation,
        sample_rows=None if sampled is None else sampled.rows,
    )


class _Beside(TypedDict, total=False):
    other: BlockRows
    codes: np.ndarray
    names: np.ndarray


def _beside(
    row: MetricOverBlocks, rows: BlockRows, metric: str, labels: ArrayLike | None, y: object
) -> _Beside:
    """Return what the metric needs beside the rows."""
    if row.needs == "labels":
        if labels is None:
            raise _absent(metric, "labels", "the label of every row")
        names, codes = arrays.labels(labels, len(rows))
        return {"names": names, "codes": codes}
    if row.needs == "y":
        if y is None:
            raise _absent(metric, "y", "the rows of another layer of the same images")
        other = BlockRows(y, where="y")
        check_same_rows(rows, other)
        return {"other": other}
    return {}


def _absent(metric: str, name: str, expected: str) -> UsageError:
    return UsageError("nothing-given", f"no {name} for {metric}", where=name, expected=expected)


def _is_dump(x: object) -> bool:
    return all(hasattr(x, name) for name in ("layers", "array", "row_labels"))


def _layer_of(dump: LabelledLayers, layer: object, where: str) -> LayerArray:
    if layer is None and len(dump.layers) == 1:
        return dump.array(dump.layers[0])
    if layer is None:
        raise UsageError(
            "nothing-given",
            "a dump of several layers",
            where=where,
            expected=f"{where}= one of {', '.join(dump.layers)}",
        )
    return dump.array(str(layer))
