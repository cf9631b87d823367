"""tlx analyze."""

from __future__ import annotations

from typing import Annotated

import typer

from ..lab.settings import Settings
from ..studies.layer_metrics.spec import LayerMetrics, Observed
from .options import options
from .output import say
from .progress import steps
from .running import run

TARGETS = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NETWORK]...",
        show_default=False,
        help="What to analyse: weight files, folders of them (checkpoints), "
        "dumps (folders, or keys), or what a network was trained on (mnist, random_init, "
        "vgg16/imagenet). Default: "
        "what --architecture, --model and --source say.",
    ),
]
MORE = Annotated[
    str,
    typer.Option("--networks", help="The same, separated by commas, for mlflow run -P networks=…."),
]
OUT = Annotated[
    str,
    typer.Option(
        "--out", help="Also write the table, layer_metrics.csv and .parquet, into this folder."
    ),
]

DRAWS = Annotated[
    int,
    typer.Option(
        "--bootstrap",
        min=0,
        metavar="N",
        help="So many draws of the images give the "
        "comparisons of dissimilarities confidence intervals: of layers, of networks, with "
        "the classes. For 500 images 2 ms each draw and layer; 0: none.",
    ),
]


@options(
    Observed,
    LayerMetrics,
    Settings,
    extra={
        "words": (TARGETS, None),
        "networks": (MORE, ""),
        "out": (OUT, ""),
        "bootstrap": (DRAWS, 0),
    },
)
def command(
    spec: Observed,
    asked: LayerMetrics,
    settings: Settings,
    words: list[str] | None,
    networks: str,
    out: str,
    bootstrap: int,
) -> None:
    """Measure every layer of networks on labelled images: sums of squares, intrinsic dimension,
    dissimilarities.

    Activations are extracted once and found again; so are finished analyses. Ends with a table, a
    row for each network and layer.
    """
    from pathlib import Path

    from ..studies.layer_metrics import plan as layer_metrics_plan
    from ..studies.layer_metrics import report as layer_metrics_report

    with steps("extracting") as progress:
        study = layer_metrics_plan.plan_layer_metrics(
            [*(words or []), *filter(None, networks.split(","))], spec, asked, settings, progress
        )

    def summarise(store, key, form):
        with steps("drawing images again") as progress:
            layer_metrics_plan.compare(store, key, bootstrap, asked.seed, progress)
        layer_metrics_report.write_summary(store, key, form)

    report = run(study, settings, summarise=summarise, closing=layer_metrics_report.format_summary)
    if out:
        for path in layer_metrics_report.copy_table(report, Path(out)):
            say(f"table: {path}")
