"""Command tlx plot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..lab import outputs
from ..lab.settings import FORMS
from ..studies.checkpoints import redraw as checkpoints_redraw
from ..studies.layer_metrics import redraw as layer_metrics_redraw
from ..studies.layer_metrics.table import METRICS
from .output import say

WHAT = Annotated[
    str,
    typer.Argument(
        metavar="TABLE|STUDY",
        help="Table of layer metrics that `tlx analyze` wrote "
        "(.csv or .parquet); or a study: its key or the first letters, its folder, or "
        "all.",
    ),
]
OUT = Annotated[
    Path | None,
    typer.Option(
        help="Folder for the figures. Default: the table's; of a study "
        "tlx-figures/KEY here, as its own folder is sealed."
    ),
]
METRIC = Annotated[
    str,
    typer.Option(
        metavar="A,B,…",
        help=f"Of a table: what to draw, comma-separated, or all: {', '.join(METRICS)}.",
    ),
]
BASELINE = Annotated[
    str,
    typer.Option(
        metavar="MODEL", help="Of a table: also draw how far each model is above this one."
    ),
]
STORE = Annotated[
    str,
    typer.Option(
        help="Of a study: folder of results. Default: $TLX_STORE, or tlx-runs next to the "
        "local tracking database."
    ),
]
USUAL = ",".join(layer_metrics_redraw.USUAL)
TABLES = (".csv", ".parquet")
FORM = Annotated[
    str,
    typer.Option(metavar="|".join(FORMS), help="File type of the figures."),
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
    what: WHAT,
    out: OUT = None,
    metric: METRIC = USUAL,
    baseline: BASELINE = "",
    form: FORM = FORMS[0],
    performance: PERFORMANCE = None,
    store: STORE = "",
) -> None:
    """Redraw the figures of a study, or draw those of a table of layer metrics.

    Of a table: over the layers, over checkpoints, against a baseline. Of a study: all that its
    command drew.
    """
    outputs.check_one(outputs.FOLDER, out, "--out")
    if _is_study(what):
        _redraw_studies(what, out, form, store)
        return
    table = Path(what)
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
    for path in checkpoints_redraw.correlated(
        checkpoints_correlations.correlations_of(rows, areas, names),
        out or table.parent,
        names,
        form,
    ):
        say(path)


def _is_study(what: str) -> bool:
    """Return whether the word names a study.

    It is a folder that holds one, or neither a file nor the name of a table.
    """
    path = Path(what)
    if path.is_dir():
        return (path / "study.json").is_file()
    return not path.exists() and path.suffix.lower() not in TABLES and path.name == what


def _redraw_studies(what: str, out: Path | None, form: str, folder: str) -> None:
    """Write the figures of one study, or of all, and print where they are."""
    from ..errors import UnknownNameError
    from ..lab.settings import Settings
    from ..lab.store import Store
    from ..lab.tracking import api as tracking_api
    from ..studies import listing, study_figures

    if form not in FORMS:
        raise UnknownNameError("form", form, FORMS)
    path = Path(what).absolute()
    if path.is_dir():
        store, what = Store(path.parent.parent), path.name
    else:
        settings = Settings.with_settings({"store": folder})
        store = Store(settings.store_folder(tracking_api.resolve(settings.mlflow_path).database))
    keys = listing.find(store, what)
    for key in keys:
        target = (
            out if out is not None and len(keys) == 1 else (out or Path("tlx-figures")) / key[:12]
        )
        drawn = list(study_figures.redraw(store, key, target, form))
        for figure in drawn:
            say(figure)
        if not drawn:
            say(f"{key[:12]}: no figures, as no finished trial has numbers to draw")
