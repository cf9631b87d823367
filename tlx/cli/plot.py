"""tlx plot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..studies.layer_metrics import redraw as layer_metrics_redraw
from ..studies.layer_metrics.table import METRICS
from .output import say

TABLE = Annotated[
    Path, typer.Argument(help="Table of layer metrics that `tlx analyze` wrote: .csv or .parquet.")
]
OUT = Annotated[Path | None, typer.Option(help="Folder for the figures. Default: the table's.")]
METRIC = Annotated[
    str,
    typer.Option(
        metavar="A,B,…", help=f"What to draw, comma-separated, or all: {', '.join(METRICS)}."
    ),
]
BASELINE = Annotated[
    str, typer.Option(metavar="MODEL", help="Also draw how far each model lies above this one.")
]
USUAL = ",".join(layer_metrics_redraw.USUAL)
FORM = Annotated[
    str, typer.Option(metavar="|".join(layer_metrics_redraw.FORMS), help="Of the figures.")
]
PERFORMANCE = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="transfer_performance.csv of `tlx checkpoints`, "
        "or one of your own with target, source, checkpoint (as dataset, "
        "trained_on, checkpoint of the table) and transfer_performance: also "
        "correlate the metrics with it, layer by layer.",
    ),
]


def command(
    table: TABLE,
    out: OUT = None,
    metric: METRIC = USUAL,
    baseline: BASELINE = "",
    form: FORM = "png",
    performance: PERFORMANCE = None,
) -> None:
    """Redraw the figures of a table of layer metrics: over the layers, over checkpoints, against a
    baseline.
    """
    metrics = [name.strip() for name in metric.split(",") if name.strip()]
    if performance is None:
        for path in layer_metrics_redraw.redraw(table, out, metrics, baseline, form):
            say(path)
        return
    from ..studies.checkpoints import correlations as checkpoints_correlations
    from ..studies.checkpoints import tables as checkpoints_tables
    from ..studies.layer_metrics import table as layer_metrics_table

    areas = checkpoints_tables.read(performance)
    drawn = layer_metrics_redraw.redraw(table, out, metrics, baseline, form)
    rows = layer_metrics_table.read(table)
    checkpoints_correlations.check_joined(rows, areas, performance)
    names = [name for name in METRICS if name in metrics or layer_metrics_redraw.ALL in metrics]
    for path in drawn:
        say(path)
    for path in layer_metrics_redraw.correlated(
        checkpoints_correlations.correlations_of(rows, areas, names),
        out or table.parent,
        names,
        form,
    ):
        say(path)
