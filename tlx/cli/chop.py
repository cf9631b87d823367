"""tlx chop and tlx prune."""

from __future__ import annotations

from typing import Annotated

import typer

from ..lab.settings import Settings
from ..studies.chop.spec import Chop, ChopGrid, Pruning, PruningGrid
from .options import options
from .output import say
from .progress import steps
from .running import run

OUT = Annotated[
    str,
    typer.Option(
        "--out",
        help="Where the smallest network that will do goes (.safetensors), with a "
        ".json beside it from which it is loaded. Default: left in its run's "
        "folder.",
    ),
]


@options(Chop, ChopGrid, Settings, extra={"out": (OUT, "")})
def command(spec: Chop, asked: ChopGrid, settings: Settings, out: str) -> None:
    """Cut a pre-trained network behind block n, average over the image, put one dense layer there
    and fine-tune.

    Ends with a table: n, accuracy, parameters, multiplications (MACs), bytes, seconds an image; and
    names the smallest network that does nearly as well as the best on the validation images.
    Accuracies are mean per-class, as fractions.
    """
    from pathlib import Path

    from ..studies.chop import latency as chop_latency
    from ..studies.chop import plan as chop_plan
    from ..studies.chop import report as chop_report

    with steps("reading images") as progress:
        study, notes = chop_plan.chop_study(spec, asked, settings, progress)

    def summarise(store, key, form):
        chop_latency.measure(store, key, settings, lambda count: say(f"timing {count} networks"))
        chop_report.write_summary(store, key, form)

    report = run(
        study,
        settings,
        notes,
        summarise=summarise,
        closing=lambda report: chop_report.format_summary(report, asked.tolerance),
    )
    if out:
        say(f"network: {chop_report.publish(report, asked.tolerance, Path(out))}")


@options(Pruning, PruningGrid, Settings)
def prune(spec: Pruning, asked: PruningGrid, settings: Settings) -> None:
    """Train a network, drop the weights of smallest magnitude, train what is left, and again.

    Biases and batch norms are neither ranked nor dropped, and a dropped weight is zero at every
    step. Each round keeps a share of the weights that the round before left.
    """
    from ..lab.store import Store
    from ..studies.chop import pruning_report
    from ..studies.chop.pruning_plan import PruningPlan

    with steps("reading images") as progress:
        plan = PruningPlan(spec, asked, settings, progress)
    store, told = None, 0
    for number in range(asked.iterations + 1):
        study = plan.stage(number, store)
        if study is None:
            break
        last = number == asked.iterations
        report = run(
            study,
            settings,
            plan.notes[told:],
            summarise=pruning_report.write_pruning_summary,
            closing=pruning_report.format_pruning_summary if last else pruning_report.format_round,
        )
        store, told = Store(report.folder), len(plan.notes)
