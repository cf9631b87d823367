"""tlx pretrain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..lab.settings import Settings
from ..studies.pretraining.spec import PreTraining
from .options import options
from .output import say
from .progress import steps
from .running import run

OUT = Annotated[
    str,
    typer.Option(
        "--out",
        help="Where the weights go (.safetensors), with a record of how they were "
        "made beside them. Default: left in the run's folder.",
    ),
]
NOTE = Annotated[
    str, typer.Option("--note", help="A sentence for that record, e.g. which images these were.")
]


@options(PreTraining, Settings, extra={"out": (OUT, ""), "note": (NOTE, "")})
def command(spec: PreTraining, settings: Settings, out: str, note: str) -> None:
    """Train a network from random weights on all images of a data set, and keep the weights.

    The epoch of the best validation accuracy counts. Defaults are those of the thesis
    'Transferability in DNN'.
    """
    from ..lab.store import Store
    from ..studies.pretraining import plan as pretraining_plan
    from ..studies.pretraining import trial as pretraining_trial

    with steps("reading images") as progress:
        asked = pretraining_plan.pretraining_study(spec, settings, progress)
    report = run(asked, settings)
    if out:
        path = pretraining_trial.publish(
            report.results[0], asked, Store(report.folder), Path(out), note
        )
        say(f"weights: {path}")
