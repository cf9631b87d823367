"""Carbon intensity of a country's electricity, from a table that is shipped.

Values of Our World in Data, from Ember and the Energy Institute (CC BY 4.0), each of its own year.
"""

from __future__ import annotations

import csv
import difflib
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError

TABLE = Path(__file__).resolve().parents[1] / "_data" / "grid_factors.csv"
ATTRIBUTION = "Our World in Data, from Ember and the Energy Institute, CC BY 4.0"
NEAREST = 3  # codes that an error names


@dataclass(frozen=True)
class GridFactor:
    """Grams of CO2 equivalent per kWh of a country's electricity in a year."""

    iso3: str
    name: str
    g_per_kwh: float
    year: int
    source: str

    @property
    def words(self) -> str:
        """Return where the number is from, for people."""
        return f"{self.name} {self.year}, {ATTRIBUTION}"


@functools.cache
def factors() -> Mapping[str, GridFactor]:
    """Return ISO 3166 code of three letters → its factor."""
    with open(TABLE, newline="", encoding="utf-8") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return {
            row["iso3"]: GridFactor(
                row["iso3"],
                row["name"],
                float(row["g_per_kwh"]),
                int(row["year"]),
                row["source"],
            )
            for row in rows
        }


def factor_of(country: str) -> GridFactor:
    """Return the factor of a country; UsageError with the nearest codes for one not in the table.

    country  its code of three letters, in any case
    """
    known = factors()
    code = country.strip().upper()
    if code in known:
        return known[code]
    shown = ", ".join(f"{row.iso3} ({row.name})" for row in _nearest(code, known))
    raise UsageError(
        "unknown-country",
        f"unknown country '{country}'",
        where="--country",
        expected="an ISO 3166 code of three letters" + (f"; nearest: {shown}" if shown else ""),
        remedy="--grid X gives grams per kWh of any place",
    )


def _nearest(code: str, known: Mapping[str, GridFactor]) -> list[GridFactor]:
    """Return the rows whose code or name is most like `code`."""
    by_word = {row.name.upper(): row for row in known.values()} | dict(known)
    words = difflib.get_close_matches(code, by_word, n=2 * NEAREST, cutoff=0.5)
    starting = [word for word in sorted(by_word) if len(code) > 1 and word.startswith(code)]
    rows = [by_word[word] for word in (*starting, *words)]
    return list({row.iso3: row for row in rows}.values())[:NEAREST]
