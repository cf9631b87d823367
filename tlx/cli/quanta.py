"""tlx quanta."""

from __future__ import annotations

from typing import Annotated

import typer

from ..lab.settings import Settings
from ..studies.quanta.spec import Quanta, QuantaGrid
from .options import options
from .output import say
from .progress import steps
from .running import run

EXPORT = Annotated[
    str,
    typer.Option(
        "--export",
        "-o",
        help="Also write the original's files into this folder: "
        "<r>.txt, <r>_raw.txt, metrics of target and source, quantas_….jsonl.",
    ),
]


@options(Quanta, QuantaGrid, Settings, extra={"export": (EXPORT, "")})
def command(spec: Quanta, sweep: QuantaGrid, settings: Settings, export: str) -> None:
    """Measure how much of a trained network transfers at each layer, by gates of two numbers
    (QUANTA).

    A gate mixes what a frozen source and a learning target give at a layer, λ · source + (1 − λ) ·
    target, and learns λ with the target. Without options: MNIST's small CNN as the source,
    scikit-learn's digits as the target.
    """
    from pathlib import Path

    from ..lab.store import Store
    from ..studies.quanta import export as quanta_export
    from ..studies.quanta import plan as quanta_plan
    from ..studies.quanta import report as quanta_report
    from ..studies.quanta import source as quanta_source

    with steps("reading images") as progress:
        asked = quanta_plan.plan_quanta(spec, sweep, settings, progress)
    source, first = asked.source, asked.source_study
    if first is not None and asked.learned is not None:
        trained = run(first, settings)
        source = quanta_source.trained(
            trained.results[0], Store(trained.folder), spec, asked.learned
        )
    assert source is not None
    report = run(
        asked.study(source),
        settings,
        summarise=quanta_report.write_summary,
        closing=quanta_report.format_summary,
    )
    if export:
        for folder in quanta_export.export(report.results, Path(export)):
            say(f"files: {folder}")
