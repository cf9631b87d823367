"""Text and tables of regressions of transferability, from plain JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...plots import tables

Row = Mapping[str, Any]
MODEL = "log T ~ G + D + log N (natural logarithms)"


def text(report: Row, form: str = "z-scored") -> str:
    """Format the fit as a table with its R², its corrections, and the published coefficients."""
    rows = report["forms"][form]
    body = [
        [
            row["term"].replace("_", " "),
            _signed(row["coefficients"]),
            f"{row['standard_errors']:.3g}",
            f"{_signed(row['low'])} to {_signed(row['high'])}",
            _optional(row["t"], ".2f"),
            _p(row["p"]),
        ]
        for row in rows
    ]
    lines = [
        f"{MODEL} of {report['about']}: {report['n']} rows, {form} terms",
        tables.as_text(["term", "coefficient", "SE", "95 % CI", "t", "p"], body).rstrip(),
        f"R² {report['r2']:.3f}; of rows left out one by one {_optional(report['loo_r2'], '.3f')}; "
        f"{report['degrees']} degrees of freedom",
    ]
    if corrected := report.get("corrected"):
        lines.append(
            f"corrected: {', '.join(corrected)}. In the table as printed, D stands under G there "
            f"and an older "
            "quantity, the domain width, under D; both are here as its history has them"
        )
    if published := report.get("published"):
        words = ", ".join(
            f"{name.replace('_', ' ')} {_signed(value)}" for name, value in published.items()
        )
        lines.append(
            f"published: {words}. Not reproduced: least squares on these rows gives the "
            f"coefficients above. "
            "The intercept agrees with z-scored terms (it is the mean of log T), the others with "
            "neither form"
        )
    return "\n".join(lines)


def csv(report: Row) -> str:
    """Format the coefficients of both forms, a row each."""
    rows = [{"form": form, **row} for form, terms in report["forms"].items() for row in terms]
    names = {
        "coefficients": "coefficient",
        "standard_errors": "standard_error",
        "low": "ci95_low",
        "high": "ci95_high",
    }
    return tables.as_csv(
        [names.get(name, name) for name in rows[0]], [list(row.values()) for row in rows]
    )


def files_of(ways: Sequence[Row]) -> dict[str, str]:
    """Return file name → text: the table of targets, and the coefficients.

    `tlx regression` reads the table.
    """
    rows = [row for way in ways for row in way["table"]]
    usable = (
        {"targets.csv": tables.as_csv(list(rows[0]), [list(row.values()) for row in rows])}
        if rows
        else {}
    )
    for number, way in enumerate(way for way in ways if way["fit"]):
        usable[f"regression{f'_{number}' if number else ''}.csv"] = csv(way["fit"])
    return usable


def of_study(ways: Sequence[Row]) -> list[str]:
    """Format G, D and N of a study's targets, and the regression, or why there is none."""
    lines = []
    for way in ways:
        how = f"{way['gap']} to {way['source']}, {way['norm']}" if way["gap"] else way["norm"]
        if way["fit"]:
            lines.append(f"{text(way['fit'])} ({how})")
        elif way["gap"]:
            lines.append(f"no regression ({how}): {way['why']}")
    return lines


def domain(details: Row) -> str:
    """Format G, D and N of one target in a line."""
    gap = (
        f"domain gap G {details['G']:.4g} ({details['gap']}, to {details['source_rows']} images of "
        f"{details['source']}), "
        if details["G"] is not None
        else ""
    )
    return (
        f"images of {details['target']}: {gap}intra-class variance D {details['D']:.4g}, data "
        f"amount N "
        f"{details['N']:,}; {details['features']} ({details['layer']}, {details['width']} wide)"
    )


def _signed(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")


def _optional(value: float | None, form: str) -> str:
    return tables.NOTHING if value is None else f"{value:{form}}".replace("-", "−")


def _p(value: float | None) -> str:
    if value is None:
        return tables.NOTHING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
