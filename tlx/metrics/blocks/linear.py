"""CKA and LogME from products of features, which blocks of rows add up to."""

from __future__ import annotations

import functools
import math

import numpy as np

from ...errors import BadDataError, ResourceError
from ..cka import hsic
from ..scores import ScoreValue, log_evidence
from .moments import ClassMoments, CrossMoments, check_classes, class_moments, cross_moments
from .pieces import PRODUCT_RATE, PieceRunner, joined
from .rows import BlockRows, check_same_rows

PRODUCT_BYTES = 2 << 30  # of the products of features that are held at once
HELD = 4  # such products while the states of blocks are joined
CkaProducts = tuple[CrossMoments, CrossMoments, CrossMoments]
LogmeProducts = tuple[CrossMoments, ClassMoments]


def check_width(*widths: tuple[int, int]) -> None:
    """Raise ResourceError where products of features (d, e) would take too much memory."""
    need = HELD * 8 * sum(d * e for d, e in widths)
    if need > PRODUCT_BYTES:
        raise ResourceError(
            "memory",
            f"the products of {max(max(pair) for pair in widths):,} features need {need:,} bytes",
            expected=f"at most {PRODUCT_BYTES:,}",
            remedy="take activations with fewer features (tlx extract --reduce pooled), or "
            "metrics.cka of as many rows as memory holds",
        )


def cka_products(x: BlockRows, y: BlockRows, part: range) -> CkaProducts:
    """Return the products of two layers over a block: x with y, x with x, y with y."""
    left, right = x.read(part), y.read(part)
    return cross_moments(left, right), cross_moments(left, left), cross_moments(right, right)


def join_each(first: CkaProducts, second: CkaProducts) -> CkaProducts:
    """Return the products of the rows of both."""
    a, b, c = (left.join(right) for left, right in zip(first, second, strict=True))
    return a, b, c


def blocked_cka(
    x: BlockRows,
    y: BlockRows,
    ranges: list[range],
    *,
    unbiased: bool = True,
    run: PieceRunner | None = None,
) -> float:
    """Compute what `metrics.cka` does, from products of features in float64.

    Raises BadDataError: as `metrics.cka`; ResourceError: too many features.
    """
    check_same_rows(x, y)
    if len(x) < (4 if unbiased else 2):
        raise BadDataError(
            "too-few-rows", f"{len(x)}", where=x.where, expected=f"at least {4 if unbiased else 2}"
        )
    check_width((x.width, y.width), (x.width, x.width), (y.width, y.width))
    products = x.width * y.width + x.width**2 + y.width**2
    part_s = 2 * len(ranges[0]) * products / PRODUCT_RATE
    states = joined(
        "products of two layers", cka_products, (x, y), ranges, join_each, run=run, part_s=part_s
    )
    across, of_x, of_y = (_alignment(state, unbiased) for state in states)
    for rows, value in ((x, of_x), (y, of_y)):
        if not value > 0:
            raise BadDataError(
                "no-structure",
                "no two rows are more alike than any others",
                where=rows.where,
                remedy="leave this layer out",
            )
    return across / math.sqrt(of_x) / math.sqrt(of_y)


def _alignment(state: CrossMoments, unbiased: bool) -> float:
    """Return HSIC up to a factor of n: |XᵀY|² is Σ_ij K_ij·L_ij."""
    with np.errstate(over="ignore"):
        total = float(np.einsum("de,de->", state.product, state.product)) - state.overlap
    return hsic(total, state.count, state.overlap, state.total_x * state.total_y, unbiased)


def logme_products(x: BlockRows, codes: np.ndarray, classes: int, part: range) -> LogmeProducts:
    """Return the products of a layer with itself over a block, and its means by class."""
    rows = x.read(part)
    return cross_moments(rows, rows), class_moments(x, part, codes, classes)


def join_both(first: LogmeProducts, second: LogmeProducts) -> LogmeProducts:
    """Return the products and means of the rows of both."""
    return first[0].join(second[0]), first[1].join(second[1])


def blocked_logme(
    x: BlockRows, codes: np.ndarray, ranges: list[range], run: PieceRunner | None = None
) -> ScoreValue:
    """Compute what `metrics.scores.logme` does, from XᵀX and XᵀY in float64.

    codes   (n,) int64, 0…k − 1 — the class of every row
    raises  BadDataError: one class, not finite; ResourceError: too many features

    Singular values below √(d·2⁻⁵²) of the largest, which XᵀX does not tell from rounding, are 0.
    """
    classes = int(codes.max()) + 1
    if classes < 2:
        raise BadDataError("one-class", "one class", where="labels", expected="two classes or more")
    check_width((x.width, x.width))
    check_classes(classes, x.width)
    part_s = 2 * len(ranges[0]) * x.width**2 / PRODUCT_RATE
    shared = (x, codes, classes)
    state, by_class = joined(
        "products and means of a layer",
        logme_products,
        shared,
        ranges,
        join_both,
        run=run,
        part_s=part_s,
    )
    gram = state.product + state.count * np.outer(state.mean_x, state.mean_x)
    squares, turn = np.linalg.eigh(gram)
    kept = squares > squares.max(initial=0.0) * len(gram) * np.finfo(np.float64).eps
    targets = turn[:, kept].T @ (by_class.means * by_class.counts[:, None]).T
    turned = targets / np.sqrt(squares[kept])[:, None]
    evidence = functools.partial(log_evidence, squares=squares[kept], n=len(x), d=x.width)
    values = [
        evidence(column, norm=float(count))
        for column, count in zip(turned.T, by_class.counts, strict=True)
    ]
    reason = "saturates: no more images than features" if len(x) <= x.width else ""
    return ScoreValue(float(np.mean(values)), reason)
