"""Linear centred kernel alignment of two layers on the same images, whatever their widths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..errors import BadDataError, counted
from ..kernels.dissimilarity import StandardisedRows
from ..kernels.grams import gram, overlaps
from ..kernels.parallel import parallel_for
from ..kernels.tile import BLOCK
from . import arrays

BUDGET_BYTES = 256 << 20  # of blocks of inner products
READ, WIDTH = 1 << 20, 4096  # numbers, and columns, of one task that reads


@dataclass(frozen=True)
class _Layer:
    """A layer of centred rows of mean square 1.

    x       (n, d);  centre  (d,) float64;  scale  a number
    lengths (n,) float64 — |row|² after that, what the diagonal of its Gram matrix is
    """

    x: np.ndarray
    centre: np.ndarray
    scale: float
    lengths: np.ndarray

    @property
    def rows(self) -> StandardisedRows:
        return StandardisedRows(self.x, scale=np.full(len(self.x), self.scale), centre=self.centre)

    @property
    def features(self) -> StandardisedRows:
        """Return the columns as rows."""
        return StandardisedRows(
            self.x.T, shift=self.centre, scale=np.full(self.x.shape[1], self.scale)
        )


def cka(x: ArrayLike, y: ArrayLike, unbiased: bool = True, threads: int | None = None) -> float:
    """Compute the linear CKA of two layers on the same images.

    It is 1 for layers that are equal up to rotation and scale.

    x, y      (n, …), (n, …) what `arrays.rows` takes — row i of both is image i; n ≥ 4, or 2 if not
              `unbiased`
    unbiased  from Song's HSIC₁, which is 0 on average for unrelated layers, and may be below 0;
              else from the biased
              HSIC₀ of Kornblith, which grows with d/n
    →         within 1e-6 of float64: inner products are in float32, of centred rows, their sums in
              float64
    raises    BadDataError: not finite, other numbers of rows, a layer whose rows are all alike

    Kornblith et al. 2019, arXiv:1905.00414; Song et al. 2012, jmlr.org/papers/v13/song12a.html,
    equation 5
    """
    return float(cka_matrix([x], [y], unbiased, threads)[0, 0])


def cka_matrix(
    xs: Sequence[ArrayLike],
    ys: Sequence[ArrayLike] | None = None,
    unbiased: bool = True,
    threads: int | None = None,
    budget_bytes: int = BUDGET_BYTES,
) -> np.ndarray:
    """Compute the linear CKA of every layer of xs with every layer of ys.

    Returns (len(xs), len(ys)) float64; ys is xs itself unless given.

    budget_bytes   of blocks of inner products held at once; each product is made once, whatever the
    budget

    Else as `cka`.
    """
    given = list(xs) + ([] if ys is None else list(ys))
    names = [f"xs[{i}]" for i in range(len(xs))] + [f"ys[{i}]" for i in range(len(given) - len(xs))]
    prepared = [
        arrays.rows(x, where=name, least=4 if unbiased else 2)
        for x, name in zip(given, names, strict=True)
    ]
    for x, name in zip(prepared, names, strict=True):
        if len(x) != len(prepared[0]):
            raise BadDataError(
                "rows-differ",
                f"{counted(len(x), 'row')}",
                where=name,
                expected=f"the {len(prepared[0])} of {names[0]}",
                remedy="take the same images, in the same order, from every layer",
            )
    layers = [_layer(x, name, threads) for x, name in zip(prepared, names, strict=True)]
    first, second = range(len(xs)), range(len(xs), len(given)) if ys is not None else range(len(xs))
    pairs = sorted(
        {(min(a, b), max(a, b)) for a in first for b in second}
        | {(a, a) for a in range(len(given))}
    )
    widths = [x.shape[1] for x in prepared]
    narrow = 2 * sum(widths[a] * widths[b] for a, b in pairs) < len(prepared[0]) * sum(
        widths
    )  # the less arithmetic
    sums = (_by_features if narrow else _by_images)(layers, pairs, budget_bytes, threads)
    hsic = {
        pair: _hsic(total, layers[pair[0]].lengths, layers[pair[1]].lengths, unbiased)
        for pair, total in zip(pairs, sums, strict=True)
    }
    for a, name in enumerate(names):
        if not hsic[a, a] > 0:
            raise BadDataError(
                "no-structure",
                "no two rows are more alike than any others",
                where=name,
                remedy="leave this layer out",
            )
    return np.array(
        [
            [hsic[min(a, b), max(a, b)] / math.sqrt(hsic[a, a] * hsic[b, b]) for b in second]
            for a in first
        ]
    )


def _hsic(total: float, a: np.ndarray, b: np.ndarray, unbiased: bool) -> float:
    return hsic(total, len(a), float(a @ b), float(a.sum() * b.sum()), unbiased)


def hsic(total: float, n: int, overlap: float, traces: float, unbiased: bool) -> float:
    """Compute HSIC, up to a factor of n alone, from Σ_{i≠j} K_ij·L_ij and the diagonals.

    K and L are centred Gram matrices of n rows.

    overlap  Σ_i K_ii·L_ii;  traces  Σ_i K_ii · Σ_i L_ii

    Rows of centred data sum to 0, so that Σ_{j≠i} K_ij = −K_ii: equation 5 of Song needs the
    diagonals alone.
    """
    if not unbiased:
        return total + overlap
    return total + traces / ((n - 1) * (n - 2)) - 2 / (n - 2) * overlap


def _layer(x: np.ndarray, name: str, threads: int | None) -> _Layer:
    n, d = x.shape
    centre, lengths, tall, wide = np.empty(d), np.empty(n), READ // WIDTH, max(1, READ // d)

    def find(task: int, thread: int) -> None:
        columns = slice(task * WIDTH, (task + 1) * WIDTH)
        origin = x[0, columns].astype(np.float64)
        total = sum((x[i : i + tall, columns] - origin).sum(axis=0) for i in range(0, n, tall))
        centre[columns] = origin + total / n

    def measure(task: int, thread: int) -> None:
        rows = slice(task * wide, (task + 1) * wide)
        less = x[rows] - centre
        lengths[rows] = np.einsum("ij,ij->i", less, less)

    parallel_for(-(-d // WIDTH), find, threads)
    parallel_for(-(-n // wide), measure, threads)
    total = float(lengths.sum())
    if not (total > 0 and math.isfinite(total)):
        raise BadDataError(
            "no-structure",
            "all rows are alike" if total == 0 else "numbers too large to square",
            where=name,
            remedy="leave this layer out",
        )
    scale = math.sqrt(x.size / total)
    return _Layer(x, centre, scale, lengths * scale**2)


def _by_images(
    layers: Sequence[_Layer],
    pairs: Sequence[tuple[int, int]],
    budget_bytes: int,
    threads: int | None,
) -> np.ndarray:
    """Sum K_ij·L_ij over i≠j for each pair of layers, from inner products of images.

    Works block by block.
    """
    n = len(layers[0].x)
    side = min(n, max(BLOCK, int((budget_bytes / 4 / len(layers)) ** 0.5) // BLOCK * BLOCK))
    space, sums = np.empty(len(layers) * side * side, np.float32), np.zeros(len(pairs))
    for i in range(0, n, side):
        for j in range(i, n, side):
            of, against = range(i, min(n, i + side)), range(j, min(n, j + side))
            blocks = space[: len(layers) * len(of) * len(against)].reshape(
                len(layers), len(of), len(against)
            )
            for layer, block in zip(layers, blocks, strict=True):
                gram(layer.rows, of, layer.rows, against, block, upper=i == j, threads=threads)
            sums += overlaps(blocks.reshape(len(layers), -1), np.array(pairs), threads)
    return 2 * sums


def _by_features(
    layers: Sequence[_Layer],
    pairs: Sequence[tuple[int, int]],
    budget_bytes: int,
    threads: int | None,
) -> np.ndarray:
    """Compute the sums of `_by_images` from inner products of features.

    Σ_{ij} K_ij·L_ij = Σ_{pq} (XᵀY)²_pq, less the diagonal's part.
    """
    side = max(BLOCK, int((budget_bytes / 4) ** 0.5) // BLOCK * BLOCK)
    sums = []
    for a, b in pairs:
        x, y, total = layers[a].features, layers[b].features, 0.0
        for i in range(0, len(x.x), side):
            for j in range(0, len(y.x), side):
                of, against = range(i, min(len(x.x), i + side)), range(j, min(len(y.x), j + side))
                block = np.empty((len(of), len(against)), np.float32)
                gram(x, of, y, against, block, upper=False, threads=threads)
                total += float(
                    overlaps(block.reshape(1, -1), np.zeros((1, 2), np.int64), threads)[0]
                )
        sums.append(total - float(layers[a].lengths @ layers[b].lengths))
    return np.array(sums)
