"""Command tlx regression."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..lab import outputs
from ..lab.settings import FORMS, expanded
from .output import say

TABLE = Annotated[
    Path | None,
    typer.Argument(
        show_default=False,
        help="CSV with columns G, D, N and T, such as "
        "targets.csv of tlx parameter-distance. Default: the published table.",
    ),
]
RAW = Annotated[
    bool,
    typer.Option(
        "--raw",
        help="Coefficients in the units of the columns. Default: of z-scored terms, as published.",
    ),
]
OUT = Annotated[
    Path | None,
    typer.Option("--out", help="Also write regression.csv and the figure into this folder."),
]
FORM = Annotated[str, typer.Option(metavar="|".join(FORMS), help="File type of the figure.")]


def command(table: TABLE = None, raw: RAW = False, out: OUT = None, form: FORM = FORMS[0]) -> None:
    """Regress the transferability T of a network: log T ~ G + D + log N, least squares.

    G is the domain gap, D the intra-class variance, N the number of training images of a target.
    Without a table: the published one of twelve targets, its three misprinted rows corrected.
    """
    from .. import files
    from ..errors import UnknownNameError
    from ..studies.parameter_distance import figures as parameter_distance_figures
    from ..studies.parameter_distance import regression as parameter_distance_regression
    from ..studies.parameter_distance import regression_report

    if form not in FORMS:
        raise UnknownNameError("form", form, FORMS)
    outputs.check_one(outputs.FOLDER, out, "--out")
    report = (
        parameter_distance_regression.published()
        if table is None
        else parameter_distance_regression.of_file(table.expanduser())
    )
    say(*regression_report.text(report, "raw" if raw else "z-scored").split("\n"))
    if out is not None:
        out = files.make_folder(expanded(str(out)))
        files.write_text(out / "regression.csv", regression_report.csv(report))
        files.write_bytes(
            out / f"regression.{form}", parameter_distance_figures.observed_and_fitted(report, form)
        )
        say(f"files: {out / 'regression'}.csv, .{form}")
