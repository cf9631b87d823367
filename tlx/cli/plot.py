"""tlx plot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..report import redraw
from ..report.layer_table import METRICS

TABLE = Annotated[Path, typer.Argument(help="Table of layer metrics that `tlx analyze` wrote: .csv or .parquet.")]
OUT = Annotated[Path | None, typer.Option(help="Folder for the figures. Default: the table's.")]
METRIC = Annotated[str, typer.Option(metavar="A,B,…", help=f"What to draw, comma-separated, or all: "
                                                           f"{', '.join(METRICS)}.")]
BASELINE = Annotated[str, typer.Option(metavar="MODEL", help="Also draw how far each model lies above this one.")]
USUAL = ",".join(redraw.USUAL)
FORM = Annotated[str, typer.Option(metavar="|".join(redraw.FORMS), help="Of the figures.")]


def command(table: TABLE, out: OUT = None, metric: METRIC = USUAL, baseline: BASELINE = "",
            form: FORM = "png") -> None:
    """Redraw the figures of a table of layer metrics: over the layers, over checkpoints, against a baseline."""
    for path in redraw.redraw(table, out, [name.strip() for name in metric.split(",") if name.strip()], baseline,
                              form):
        print(path)
