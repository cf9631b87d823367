"""Regression of a network's transferability: log T ~ G + D + log N, ordinary least squares.

G is the gap between the domains, D the intra-class variance, N the number of training images, T the
transferability of the parameters; logarithms are natural. The published coefficients (PUBLISHED)
fit z-scored G, D and log N: their intercept is the mean of log T.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtr, stdtrit

from ..errors import BadDataError, TlxError, raise_all

TABLE = Path(__file__).resolve().parents[1] / "_data" / "transferability.csv"
COLUMNS = ("G", "D", "N", "T")
TERMS = ("G", "D", "log_N")
NAMES = ("intercept", *TERMS)
# network → coefficients as printed with the table; least squares gives none of them
PUBLISHED = {
    "resnet50": {"intercept": 2.86, "G": -0.26, "D": 0.32, "log_N": -0.61},
    "resnet34": {"intercept": 2.31, "G": -0.15, "D": 0.25, "log_N": -0.64},
    "densenet121": {"intercept": 2.76, "G": -0.14, "D": 0.28, "log_N": -0.71},
    "vit_small": {"intercept": 2.76, "G": -0.01, "D": 0.08, "log_N": -0.85},
}
CONFIDENCE = 0.95
COLLINEAR = (
    1e-9  # of a column is left when the columns before it are taken out: nothing but rounding
)
DECIDES = 1e-9  # 1 − leverage of a row that alone decides a coefficient


@dataclass(frozen=True, kw_only=True, eq=False)
class Regression:
    """Fit of log T.

    coefficients, standard_errors   by name: intercept, G, D, log_N; of z-scored terms if
                                    `standardize`
    t, p, low, high   by name: coefficient / standard error, its two-sided p, the 95 % confidence
                      interval; t and p are
                      None where the standard error is 0
    r2                the share of the variance of log T that is explained, a fraction
    loo_r2            the same for rows left out one by one and predicted by the others (1 − PRESS /
                      total sum of
                      squares), below 0 where they are worse than the mean; None where a row alone
                      decides a term
    residuals         (n,) float64 — log T less what is predicted
    fitted            (n,) float64 — the log T that is predicted
    n, degrees        rows; degrees of freedom, n − 4
    means, deviations by term: what z-scores are made with (of the population: divided by n)
    """

    coefficients: dict[str, float]
    standard_errors: dict[str, float]
    t: dict[str, float | None]
    p: dict[str, float | None]
    low: dict[str, float]
    high: dict[str, float]
    r2: float
    loo_r2: float | None
    residuals: np.ndarray
    fitted: np.ndarray
    n: int
    degrees: int
    means: dict[str, float]
    deviations: dict[str, float]
    standardize: bool


def transferability_table() -> list[dict[str, Any]]:
    """Return the published table for ResNet-50, 12 rows.

    Columns: dataset, G, D, N, T, corrected, printed_G, printed_D.

    In the three rows with `corrected` the printed columns hold other quantities: under G the
    intra-class variance, under D a domain width that an older version of the table had. Their G and
    D here are what its history shows.
    """
    with open(TABLE, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [{name: _value(name, text) for name, text in row.items()} for row in rows]


def _value(name: str, text: str) -> str | bool | float:
    if name == "dataset":
        return text
    return text == "yes" if name == "corrected" else float(text)


def transferability_regression(table: Any, standardize: bool = True) -> Regression:
    """Fit log T ~ G + D + log N by least squares (QR, float64).

    table        rows (mappings) or a data frame with columns G, D, N, T; other columns are
                 ignored
    standardize  z-score G, D and log N first; the fit is the same, the coefficients are comparable
    raises       BadDataError: a column is missing, a value is no finite number, N or T is not
                 positive, fewer than 5 rows, a
                 term that does not vary or is a sum of others, a T that does not vary
    """
    x, y = _terms(_columns(table))
    n, means, deviations = len(y), x.mean(axis=0), x.std(axis=0)
    for name, values in (*zip(TERMS, x.T, strict=True), ("T", y)):
        if np.ptp(values) <= COLLINEAR * np.abs(values).max():
            raise BadDataError(
                "no-variation",
                f"{name} is the same in every row",
                where="table",
                expected="rows that vary",
            )
    design = np.column_stack([np.ones(n), (x - means) / deviations])
    q, r = np.linalg.qr(design)
    left = np.abs(np.diag(r)) / math.sqrt(n)  # every column has length √n
    if left.min() < COLLINEAR:
        raise BadDataError(
            "collinear",
            f"{NAMES[int(left.argmin())]} is a sum of multiples of the terms before it",
            where="table",
            expected=f"{', '.join(TERMS)} that vary apart from each other",
        )
    beta, inverse = np.linalg.solve(r, q.T @ y), np.linalg.inv(r)
    fitted = design @ beta
    residuals, degrees = y - fitted, n - len(NAMES)
    if not standardize:  # the same plane in the units of the columns
        back = np.eye(len(NAMES))
        back[0, 1:], back[1:, 1:] = -means / deviations, np.diag(1 / deviations)
        beta, inverse = back @ beta, back @ inverse
    errors = np.sqrt(residuals @ residuals / degrees) * np.linalg.norm(inverse, axis=1)
    reach = stdtrit(degrees, 0.5 + CONFIDENCE / 2) * errors
    ts = [float(b / e) if e > 0 else None for b, e in zip(beta, errors, strict=True)]
    total = float(np.square(y - y.mean()).sum())
    return Regression(
        coefficients=_by_name(beta),
        standard_errors=_by_name(errors),
        t=dict(zip(NAMES, ts, strict=True)),
        p={
            name: None if t is None else float(2 * stdtr(degrees, -abs(t)))
            for name, t in zip(NAMES, ts, strict=True)
        },
        low=_by_name(beta - reach),
        high=_by_name(beta + reach),
        r2=1 - float(residuals @ residuals) / total,
        loo_r2=_left_out(q, residuals, total),
        residuals=residuals,
        fitted=fitted,
        n=n,
        degrees=degrees,
        means=_by_name(means, TERMS),
        deviations=_by_name(deviations, TERMS),
        standardize=standardize,
    )


def _left_out(q: np.ndarray, residuals: np.ndarray, total: float) -> float | None:
    """Compute 1 − PRESS / total: a row left out is missed by its residual / (1 − leverage)."""
    free = 1 - np.square(q).sum(axis=1)
    return None if free.min() < DECIDES else 1 - float(np.square(residuals / free).sum()) / total


def _by_name(values: np.ndarray, names: Sequence[str] = NAMES) -> dict[str, float]:
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def _columns(table: Any) -> dict[str, list[object]]:
    """Return column → values of rows, of a data frame or of a mapping of columns.

    A data frame is anything with `columns`.
    """
    if hasattr(table, "columns") or isinstance(table, Mapping):
        known = [str(name) for name in getattr(table, "columns", table)]
        if missing := [name for name in COLUMNS if name not in known]:
            raise _no_column(missing, known)
        return {name: list(table[name]) for name in COLUMNS}
    rows = list(table)
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise BadDataError(
                "table-row",
                f"row {number} is a {type(row).__name__}",
                where="table",
                expected="rows with G, D, N and T by name, or a data frame",
            )
        if missing := [name for name in COLUMNS if name not in row]:
            raise _no_column(missing, [str(name) for name in row], f" in row {number}")
    return {name: [row[name] for row in rows] for name in COLUMNS}


def _no_column(missing: Sequence[str], known: Sequence[str], place: str = "") -> BadDataError:
    return BadDataError(
        "table-columns",
        f"no {', '.join(missing)}{place} among {', '.join(known) or 'no columns'}",
        where="table",
        expected="G, D, N and T",
    )


def _terms(columns: dict[str, list[Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Return G, D, log N (n, 3) and log T (n,), float64."""
    problems: list[TlxError] = []
    numbers = {
        name: np.array([_number(value) for value in values]) for name, values in columns.items()
    }
    for name, values in numbers.items():
        positive = name in ("N", "T")
        for i in np.flatnonzero(~np.isfinite(values) | (positive & (values <= 0))):
            problems.append(
                BadDataError(
                    "table-value",
                    f"{name} is {columns[name][i]!r} in row {i + 1}",
                    where="table",
                    expected="a positive number" if positive else "a finite number",
                )
            )
    raise_all(problems)
    if len({len(values) for values in numbers.values()}) != 1 or len(numbers["T"]) <= len(NAMES):
        raise BadDataError(
            "too-few-rows",
            f"{min(map(len, numbers.values()))} rows",
            where="table",
            expected=f"at least {len(NAMES) + 1}: one more than coefficients",
        )
    return np.column_stack([numbers["G"], numbers["D"], np.log(numbers["N"])]), np.log(numbers["T"])


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
