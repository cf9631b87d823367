"""Embeddings: layer activations → the rows that a classifier sees; EMBEDDINGS, one row each.

Features come as one array (r, d) or as one array per layer (r, dₗ), in order, often mapped from
disk; they are read in blocks of rows, so that no copy as wide and as long as a whole dump is ever
made. Statistics are float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..errors import BadDataError, counted
from ..spec import Spec, setting
from .sharded import LayerArray

Features = LayerArray | Sequence[LayerArray]
BLOCK_BYTES = 32 << 20  # of one block of rows in float64
CUT_BYTES = 8 << 20  # the same of rows that are cut in float32: half of it stays in the cache

STANDARDIZE = setting(
    "train",
    choices=("train", "per-set"),
    help="where mean and standard deviation come from: the "
    "training rows, or each set's own rows (as the original does: it looks at the test set as a "
    "whole)",
)


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation (ddof 0) of every feature over rows.

    mean, std (d,) float64; rows: their number.
    """

    mean: np.ndarray
    std: np.ndarray
    rows: int

    @property
    def constant(self) -> int:
        """Return how many features have one value in all rows; they become 0."""
        return int((self.std == 0).sum())


class FittedEmbedding:
    """Embedding with the statistics of its training rows.

    spec       what was asked
    moments    of the training rows; None where the embedding has no statistics
    dtype      of the rows that come out
    """

    def __init__(self, spec: Embedding, widths: Sequence[int], moments: Moments | None):
        self.spec, self.widths, self.moments = spec, tuple(widths), moments
        self.dtype = np.dtype(spec.dtype)
        self._own_cuts: list[tuple[np.ndarray, np.ndarray] | None] | None = None

    @property
    def constant(self) -> int:
        """Return how many features were constant over the training rows.

        0 where there are no statistics.
        """
        return self.moments.constant if self.moments else 0

    def blocks(self, features: Features, rows: object = None) -> Iterator[tuple[slice, np.ndarray]]:
        """Iterate over the embedded rows as (their positions, (b, d) of `dtype`).

        Raises BadDataError if one is not finite.

        rows   which rows to take, as indices or a slice; all of them if None
        """
        layers = _layers(features)
        _same_widths(self.widths, layers)
        moments = self.moments
        if moments is not None and getattr(self.spec, "standardize", "train") == "per-set":
            moments = _moments(layers, rows)
        cuts = self._cuts(moments) if _is_float32(layers) else None
        if cuts is not None:
            for place, block in _blocks(layers, rows, np.float32):
                yield place, (block > cuts[1]).view(np.int8) - (block < cuts[0]).view(np.int8)
            return
        for place, block in _blocks(layers, rows):
            yield place, self.spec.embed(block, self.widths, moments).astype(self.dtype, copy=False)

    def _cuts(self, moments: Moments | None) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the cuts of `FNE.cuts`, computed once for the training rows; None if none fit."""
        if not isinstance(self.spec, FNE) or moments is None:
            return None
        if moments is not self.moments:
            return self.spec.cuts(moments)
        if self._own_cuts is None:
            self._own_cuts = [self.spec.cuts(moments)]
        return self._own_cuts[0]

    def transform(self, features: Features, rows: object = None) -> np.ndarray:
        """Return all embedded rows: (r, d) of `dtype`, a new array.

        `rows` as in `blocks`.
        """
        out = np.empty((_length(_layers(features), rows), sum(self.widths)), self.dtype)
        for place, block in self.blocks(features, rows):
            out[place] = block
        return out


@dataclass(frozen=True, kw_only=True)
class Embedding(Spec):
    """Base of the rows of EMBEDDINGS: `embed` embeds a block of rows."""

    dtype = "float32"
    learns = False  # has statistics of the training rows

    def fit(self, features: Features, rows: object = None) -> FittedEmbedding:
        """Return this embedding with the statistics of the training rows.

        features   (r, d), or one (r, dₗ) per layer: any real dtype, read in blocks
        rows       the training rows among them, as indices or a slice; all if None
        raises     BadDataError where a training row is not finite, no row is there or layers
                   disagree
        """
        layers = _layers(features)
        if _length(layers, rows) == 0:
            raise BadDataError("no-rows", "no training row to fit the embedding on")
        return FittedEmbedding(
            self,
            [layer.shape[1] for layer in layers],
            _moments(layers, rows) if self.learns else None,
        )

    def embed(
        self, block: np.ndarray, widths: Sequence[int], moments: Moments | None
    ) -> np.ndarray:
        """Embed a block (b, d) float64, which may be overwritten."""
        return block


@dataclass(frozen=True, kw_only=True)
class Raw(Embedding):
    """Features as they are, in float32."""

    kind: ClassVar[str] = "raw"


@dataclass(frozen=True, kw_only=True)
class Standard(Embedding):
    """Standardised features, (f − mean) / standard deviation; a constant feature becomes 0."""

    kind: ClassVar[str] = "standard"

    learns = True
    standardize: str = STANDARDIZE

    def embed(
        self, block: np.ndarray, widths: Sequence[int], moments: Moments | None
    ) -> np.ndarray:
        """Standardise the block."""
        assert moments is not None
        block -= moments.mean
        result: np.ndarray = np.divide(
            block, moments.std, out=np.zeros_like(block), where=moments.std > 0
        )
        return result


@dataclass(frozen=True, kw_only=True)
class FNE(Standard):
    """Full-Network Embedding: standardised features cut to −1, 0, 1; a value on a threshold is 0.

    Garcia-Gasulla et al. 2017, An out-of-the-box full-network embedding for convolutional neural
    networks, arXiv:1705.07706, section 3.
    """

    kind: ClassVar[str] = "fne"

    dtype = "int8"
    low: float = setting(
        -0.25, low=-10, high=0, search=False, help="below it −1, in standard deviations"
    )
    high: float = setting(
        0.15, low=0, high=10, search=False, help="above it 1, in standard deviations"
    )

    def embed(
        self, block: np.ndarray, widths: Sequence[int], moments: Moments | None
    ) -> np.ndarray:
        """Standardise the block and cut it to −1, 0, 1."""
        z = super().embed(block, widths, moments)
        return (z > self.high).astype(np.int8) - (z < self.low).astype(np.int8)

    def cuts(self, moments: Moments) -> tuple[np.ndarray, np.ndarray] | None:
        """Return what a float32 feature must be below for −1 and above for 1: (d,), (d,).

        The answer is that of `embed` for every finite number: rounding never turns the order of two
        values round, so there is a last number whose standardised value is not above `high`. It is
        looked for near mean + high · std. None where it is not found there.
        """
        upper = _last_where(moments, self.high, lambda z: z <= self.high)
        lower = _last_where(moments, self.low, lambda z: z < self.low)
        if upper is None or lower is None:
            return None
        above = np.nextafter(lower, np.float32(np.inf))  # the first that is not below
        varies = moments.std > 0
        return (
            np.where(varies, above, np.float32(-np.inf)),
            np.where(varies, upper, np.float32(np.inf)),
        )


CUT_STEPS = 8  # neighbouring numbers of a threshold that are tried


def _last_where(
    moments: Moments, threshold: float, holds: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray | None:
    """Return the largest float32 of each feature whose standardised value `holds`: (d,).

    holds is true of small values and false of large ones. None if it is not near the threshold.
    """
    std = np.where(moments.std > 0, moments.std, 1.0)

    def is_within(x: np.ndarray) -> np.ndarray:
        return holds((x.astype(np.float64) - moments.mean) / std)

    with np.errstate(over="ignore", invalid="ignore"):
        last: np.ndarray = (moments.mean + threshold * std).astype(np.float32)
        for _ in range(CUT_STEPS):
            following = np.nextafter(last, np.float32(np.inf))
            too_low, too_high = is_within(following), ~is_within(last)
            if not np.isfinite(last).all() or not np.isfinite(following).all():
                return None
            if not (too_low | too_high).any():
                return last
            before = np.nextafter(last, np.float32(-np.inf))
            last = np.where(too_high, before, np.where(too_low, following, last))
    return None


@dataclass(frozen=True, kw_only=True)
class L2(Embedding):
    """Each layer of each row scaled to Euclidean length 1; a row of zeros stays zero."""

    kind: ClassVar[str] = "l2"

    def embed(
        self, block: np.ndarray, widths: Sequence[int], moments: Moments | None
    ) -> np.ndarray:
        """Scale each layer of each row to length 1."""
        for layer in np.split(block, np.cumsum(widths)[:-1], axis=1):  # views
            largest = np.abs(layer).max(
                axis=1, keepdims=True, initial=0
            )  # first: squares must not overflow
            np.divide(layer, largest, out=layer, where=largest > 0)
            length = np.sqrt(np.einsum("ij,ij->i", layer, layer))[:, None]
            np.divide(layer, length, out=layer, where=length > 0)
        return block


EMBEDDINGS: dict[str, type[Embedding]] = {"fne": FNE, "l2": L2, "standard": Standard, "none": Raw}


# ---------------------------------------------------------------- reading in blocks


def _layers(features: Features) -> list[LayerArray]:
    """Return one (r, dₗ) array per layer, none of them copied."""
    layers = [features] if isinstance(features, LayerArray) else list(features)
    if not layers or any(layer.ndim != 2 for layer in layers):
        raise BadDataError(
            "features-shape",
            f"layers of shapes {[np.shape(layer) for layer in layers]}",
            expected="at least one, each (rows, features): pooled or flattened",
        )
    if len({len(layer) for layer in layers}) > 1:
        raise BadDataError(
            "features-shape",
            f"layers of {[len(layer) for layer in layers]} rows",
            expected="the same rows in every layer",
        )
    return layers


def _same_widths(fitted: Sequence[int], layers: Sequence[LayerArray]) -> None:
    widths = tuple(layer.shape[1] for layer in layers)
    if widths != tuple(fitted):
        raise BadDataError(
            "features-shape",
            f"layers of {list(widths)} features",
            expected=f"{list(fitted)} as in the training rows",
        )


def _length(layers: Sequence[LayerArray], rows: Any) -> int:
    return len(layers[0]) if rows is None else len(np.arange(len(layers[0]))[rows])


def _is_float32(layers: Sequence[LayerArray]) -> bool:
    """Return whether float32 holds every feature exactly."""
    return all(layer.dtype in (np.float32, np.float16) for layer in layers)


def _blocks(
    layers: Sequence[LayerArray],
    rows: Any,
    dtype: type[np.floating[Any]] = np.float64,
) -> Iterator[tuple[slice, np.ndarray]]:
    """Iterate over (positions among the requested rows, (b, d) of dtype), layers side by side.

    Each block is a new array.
    """
    index = np.arange(len(layers[0])) if rows is None else np.arange(len(layers[0]))[rows]
    width = sum(layer.shape[1] for layer in layers)
    block_bytes = BLOCK_BYTES if dtype is np.float64 else min(BLOCK_BYTES, CUT_BYTES)
    step = max(1, block_bytes // (8 * max(1, width)))
    for start in range(0, len(index), step):
        selected = index[start : start + step]
        run = (
            slice(selected[0], selected[0] + len(selected))
            if selected[-1] - selected[0] == len(selected) - 1 and _rising(selected)
            else selected
        )
        block = np.empty((len(selected), width), dtype)
        at = 0
        for layer in layers:
            block[:, at : at + layer.shape[1]] = layer[run]
            at += layer.shape[1]
        _refuse_not_finite(block, selected)
        yield slice(start, start + len(selected)), block


def _rising(index: np.ndarray) -> bool:
    return bool((np.diff(index) == 1).all())


def _refuse_not_finite(block: np.ndarray, index: np.ndarray) -> None:
    """Raise BadDataError unless all is finite: a threshold would turn NaN into a harmless 0."""
    finite = np.isfinite(block)
    if not finite.all():
        bad = np.flatnonzero(~finite.all(axis=1))
        raise BadDataError(
            "features-not-finite",
            f"{int((~finite).sum())} NaN or infinite values in {len(bad)} of "
            f"{counted(len(block), 'row')}, the first in row {index[bad[0]]}",
            remedy="a network that diverged, or float16 that overflowed: extract again in float32",
        )


def _moments(layers: Sequence[LayerArray], rows: object) -> Moments:
    """Compute mean and standard deviation in one pass over rows less the first of them.

    A constant feature has a deviation of exactly 0, a large mean costs no digits, and as (first −
    mean)² ≤ n·variance, the difference loses no more than n·ε.
    """
    n = _length(layers, rows)
    width = sum(layer.shape[1] for layer in layers)
    origin, total, square = np.zeros(width), np.zeros(width), np.zeros(width)
    for place, block in _blocks(layers, rows):
        if place.start == 0:
            origin = block[0].copy()
        centred = np.subtract(block, origin, out=block)
        total += centred.sum(axis=0)
        square += np.einsum("ij,ij->j", centred, centred)
    variance = np.maximum(square - total * total / n, 0) / n
    return Moments(origin + total / n, np.sqrt(variance), n)
