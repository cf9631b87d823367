"""Regressions log T ~ G + D + log N: of the published table, a CSV table, a study's targets."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ... import files
from ...errors import BadDataError, MissingError, TlxError
from ...lab.store import Store
from ...metrics import regression
from ...result import FINISHED, Result
from .domain_gap import Domain
from .spec import ParameterDistance

FILE = "regression.json"
ENOUGH = 6  # targets: with the four coefficients of five, one degree of freedom would be left
LIMIT = 4 << 20  # bytes of a table

Row = dict[str, Any]


def published() -> Row:
    """Fit the published table; return it with the coefficients printed with it."""
    rows = regression.transferability_table()
    return fit(
        rows, names=[row["dataset"] for row in rows], about="the published table, ResNet-50"
    ) | {
        "published": regression.PUBLISHED["resnet50"],
        "corrected": [row["dataset"] for row in rows if row["corrected"]],
    }


def of_file(path: Path) -> Row:
    """Fit a CSV table: a heading with G, D, N and T, in any order, other columns allowed.

    The first column that is named dataset, target or name has the names of the rows.
    """
    if not path.is_file():
        raise MissingError("table", path)
    if path.stat().st_size > LIMIT:
        raise BadDataError(
            "table-size",
            f"{path.stat().st_size:,} bytes",
            where=path,
            expected=f"at most {LIMIT:,}",
        )
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadDataError("table-unreadable", f"no CSV in UTF-8 ({error})", where=path) from error
    called = next(
        (name for name in (rows[0] if rows else {}) if name in ("dataset", "target", "name")), None
    )
    try:
        return fit(
            rows,
            names=[str(row[called]) if called else f"row {i}" for i, row in enumerate(rows, 1)],
            about=path.name,
        )
    except TlxError as error:
        for problem in getattr(error, "problems", [error]):
            problem.where = str(path)
        raise


def fit(rows: Sequence[Mapping[str, Any]], names: Sequence[str], about: str) -> Row:
    """Fit rows with G, D, N and T: both forms of the regression, as plain JSON.

    Of z-scored terms and of raw ones.
    """
    regressed = regression.transferability_regression(rows)
    raw = regression.transferability_regression(rows, standardize=False)
    forms = {
        form: [
            {
                "term": name,
                **{
                    what: getattr(fitted, what)[name]
                    for what in ("coefficients", "standard_errors", "low", "high", "t", "p")
                },
            }
            for name in regression.NAMES
        ]
        for form, fitted in (("z-scored", regressed), ("raw", raw))
    }
    return {
        "about": about,
        "names": list(names),
        "forms": forms,
        "r2": regressed.r2,
        "loo_r2": regressed.loo_r2,
        "n": regressed.n,
        "degrees": regressed.degrees,
        "fitted": regressed.fitted.tolist(),
        "observed": (regressed.fitted + regressed.residuals).tolist(),
        "rows": [{name: float(row[name]) for name in regression.COLUMNS} for row in rows],
    }


# ---------------------------------------------------------------- of a study


def regress(store: Store, key: str) -> None:
    """Write the table of a study's targets, and the regression if possible, to its folder.

    regression.json: a row for every way of measuring (norm, gap, source) with its "table" (G, D, N
    and the mean T of every target whose images were measured), and its "fit", None where it cannot
    be made: "why" says why.
    """
    record = store.read_study(key)
    if record is None:
        return
    whole = [
        (row["spec"], r)
        for row in record["trials"]
        if (r := store.find_or_none(row["key"])) and r.status == FINISHED
    ]
    ways: dict[tuple[str, str, str], list[Row]] = {}
    for spec, domain in sorted(whole, key=lambda pair: pair[0]["target"]):
        for norm, ts in (
            _measured(whole, spec) if domain.kind == Domain.own_kind() else {}
        ).items():
            d = domain.details
            row = {
                "target": spec["target"],
                **{name: d[name] for name in "GDN"},
                "T": math.fsum(ts) / len(ts),
                "repeats": len(ts),
                "norm": norm,
                "gap": d["gap"],
                "source": d["source"],
                "source_rows": d["source_rows"],
                "layer": d["layer"],
                "width": d["width"],
            }
            ways.setdefault((norm, d["gap"] or "", d["source"]), []).append(row)
    files.write_json(
        store.root / "studies" / key / FILE,
        {
            "about": record["title"],
            "ways": [_way(record["title"], way, rows) for way, rows in sorted(ways.items())],
        },
    )


def _measured(
    whole: Sequence[tuple[Mapping[str, Any], Result]], domain: Mapping[str, Any]
) -> dict[str, list[float]]:
    """Return norm → overall T of every repeat on the images that were measured."""
    values: dict[str, list[float]] = {}
    for spec, r in whole:
        same = all(spec.get(name) == domain[name] for name in ("target", "images"))
        if r.kind == ParameterDistance.own_kind() and same and r.details["overall"]:
            values.setdefault(spec["norm"], []).append(r.details["overall"])
    return values


def _way(about: str, way: tuple[str, str, str], rows: list[Row]) -> Row:
    norm, gap, source = way
    record: Row = {
        "norm": norm,
        "gap": gap,
        "source": source,
        "table": rows,
        "fit": None,
        "why": "",
    }
    if not gap:
        return record | {"why": "no domain gap: give images of the source, --source-images"}
    if len(rows) < ENOUGH:
        plural = "s" if len(rows) > 1 else ""
        return record | {
            "why": f"{len(rows)} target{plural} measured so, at least {ENOUGH} are needed"
        }
    try:
        return record | {"fit": fit(rows, [row["target"] for row in rows], about)}
    except TlxError as error:
        return record | {"why": str(error)}
