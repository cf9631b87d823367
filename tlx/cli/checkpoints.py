"""tlx checkpoints."""

from __future__ import annotations

from typing import Annotated

import typer

from ..lab.settings import Settings
from ..studies.checkpoints.spec import CheckpointGrid
from ..studies.layer_metrics.spec import LayerMetrics
from .options import options
from .output import say
from .progress import steps
from .running import run

OUT = Annotated[
    str,
    typer.Option(
        "--out",
        "-o",
        help="Also copy tables and figures into this folder, with the "
        "thesis's <run>_train_stats.json beside them.",
    ),
]


@options(CheckpointGrid, LayerMetrics, Settings, extra={"out": (OUT, "")})
def command(chain: CheckpointGrid, asked: LayerMetrics, settings: Settings, out: str) -> None:
    """Which layers foretell how well a network transfers: pre-train, fine-tune, measure layers,
    correlate.

    Every source is pre-trained on every seed, its checkpoints are fine-tuned on every target and
    scored along the way (the area under that curve is the transfer performance), the layers of each
    are measured on the target's images, and Spearman's rho of each metric and layer with the
    transfer performance is told with what chance makes of it. Stopped and asked again, it goes on;
    asked for more seeds, sources or checkpoints, it grows.
    """
    from pathlib import Path

    from ..lab.store import Store
    from ..studies.checkpoints import correlations as checkpoints_correlations
    from ..studies.checkpoints import plan as checkpoints_plan
    from ..studies.checkpoints import report as checkpoints_report

    with steps("reading images") as progress:
        plan = checkpoints_plan.plan_checkpoints(chain, asked, settings, progress)

    def stage(study, notes=()):
        return run(
            study,
            settings,
            notes,
            summarise=checkpoints_report.write_stage_summary,
            closing=checkpoints_report.format_stage_summary,
        )

    told = len(plan.notes)
    store = Store(stage(plan.first(), plan.notes).folder)
    models = plan.models(store)
    with steps("looking at weights") as progress:
        looks = plan.looks(models, progress)
    for look in looks:
        stage(look.study, plan.notes[told:])

    def summarise(store, key, form):
        checkpoints_correlations.gather(store, key)
        checkpoints_report.write_summary(store, key, form)

    report = run(
        plan.tuning(models, looks, store),
        settings,
        summarise=summarise,
        closing=checkpoints_report.format_summary,
    )
    if out:
        made = checkpoints_report.export(report, Path(out).expanduser())
        say(f"{len(made)} files: {out}")
