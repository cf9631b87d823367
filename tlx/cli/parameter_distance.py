"""tlx parameter-distance."""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import TlxError
from ..lab.settings import Settings
from ..studies.parameter_distance.spec import ParameterDistance, ParameterDistanceGrid, TargetTuning
from .options import options
from .output import say
from .progress import steps
from .running import run

FINETUNED = Annotated[
    list[str] | None,
    typer.Option(
        "--finetuned",
        "-b",
        metavar="[NAME=]B,…",
        show_default=False,
        help="Weights after fine-tuning: files or finished "
        "trials that keep weights, as for -a; comma-separated, or the option again. Of one NAME "
        "they are repeats of one "
        "target. Default: fine-tuned here, on --dataset.",
    ),
]
OUT = Annotated[
    str, typer.Option("--out", help="Also write the tables and figures into this folder.")
]


@options(
    ParameterDistance,
    ParameterDistanceGrid,
    TargetTuning,
    Settings,
    extra={"finetuned": (FINETUNED, None), "out": (OUT, "")},
)
def command(
    spec: ParameterDistance,
    asked: ParameterDistanceGrid,
    tuning: TargetTuning,
    settings: Settings,
    finetuned: list[str] | None,
    out: str,
) -> None:
    """How far pre-training carried each layer towards where fine-tuning ends: T = D(random, B) /
    D(pre-trained, B).

    Three states of one network: -r RANDOM -a PRETRAINED -b FINETUNED; without -b the network is
    fine-tuned here first. Without options: MNIST's small CNN, fine-tuned on scikit-learn's digits,
    five times. Asked again for another data set, norm or number of seeds, the study grows; from six
    targets with a domain gap it ends with the regression of log T, which `tlx regression` makes of
    any table, the published one included.
    """
    from pathlib import Path

    from ..lab.store import Store
    from ..studies.parameter_distance import closing as parameter_distance_closing
    from ..studies.parameter_distance import plan as parameter_distance_plan
    from ..studies.parameter_distance import regression as parameter_distance_regression
    from ..studies.parameter_distance import report as parameter_distance_report

    with steps("reading images") as progress:
        plan = parameter_distance_plan.plan_parameter_distance(
            spec, asked, tuning, finetuned or (), settings, progress
        )
    store, told = None, 0

    def untold():
        nonlocal told
        fresh, told = plan.notes[told:], len(plan.notes)
        return fresh

    def summarise(store, key, form):
        parameter_distance_regression.regress(store, key)
        parameter_distance_report.write_summary(store, key, form)

    if (first := plan.tunings()) is not None:
        store = Store(
            run(
                first,
                settings,
                untold(),
                summarise=summarise,
                closing=parameter_distance_closing.format_tuning_summary,
            ).folder
        )
    with steps("extracting") as progress:
        images = plan.domain(progress)
    if images is not None:
        run(
            images,
            settings,
            untold(),
            summarise=summarise,
            closing=parameter_distance_closing.format_images_summary,
        )
    study = plan.distances(store)
    notes = untold()
    if study is None:
        raise TlxError("all-diverged", "; ".join(notes), remedy="use a smaller --learning-rate")
    report = run(
        study,
        settings,
        notes,
        summarise=summarise,
        closing=parameter_distance_closing.format_summary,
    )
    if out:
        for path in parameter_distance_report.publish(report, Path(out)):
            say(f"file: {path}")
