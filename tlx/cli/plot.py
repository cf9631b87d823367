"""tlx plot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..report import redraw
from ..report.layer_table import METRICS
from .output import say

TABLE = Annotated[Path, typer.Argument(help="Table of layer metrics that `tlx analyze` wrote: .csv or .parquet.")]
OUT = Annotated[Path | None, typer.Option(help="Folder for the figures. Default: the table's.")]
METRIC = Annotated[str, typer.Option(metavar="A,B,…", help=f"What to draw, comma-separated, or all: "
                                                           f"{', '.join(METRICS)}.")]
BASELINE = Annotated[str, typer.Option(metavar="MODEL", help="Also draw how far each model lies above this one.")]
USUAL = ",".join(redraw.USUAL)
FORM = Annotated[str, typer.Option(metavar="|".join(redraw.FORMS), help="Of the figures.")]
PERFORMANCE = Annotated[Path | None, typer.Option(metavar="FILE", help="transfer_performance.csv of `tlx checkpoints`, "
                                                  "or one of your own with target, source, checkpoint (as dataset, "
                                                  "trained_on, checkpoint of the table) and transfer_performance: also "
                                                  "correlate the metrics with it, layer by layer.")]


def command(table: TABLE, out: OUT = None, metric: METRIC = USUAL, baseline: BASELINE = "",
            form: FORM = "png", performance: PERFORMANCE = None) -> None:
    """Redraw the figures of a table of layer metrics: over the layers, over checkpoints, against a baseline."""
    metrics = [name.strip() for name in metric.split(",") if name.strip()]
    if performance is None:
        for path in redraw.redraw(table, out, metrics, baseline, form):
            say(path)
        return
    from ..report import checkpoint_tables, layer_table
    from ..trials import checkpoint_results

    areas = checkpoint_tables.read(performance)
    drawn = redraw.redraw(table, out, metrics, baseline, form)
    rows = layer_table.read(table)
    checkpoint_results.check_joined(rows, areas, performance)
    names = [name for name in METRICS if name in metrics or redraw.ALL in metrics]
    for path in drawn:
        say(path)
    for path in redraw.correlated(checkpoint_results.correlations_of(rows, areas, names), out or table.parent, names,
                                  form):
        say(path)
