"""tlx atlas."""

from __future__ import annotations

import shlex
from typing import Annotated, Any

import typer

from ..lab.settings import Settings
from ..studies.atlas.spec import Atlas, AtlasGrid, BlockMeasures
from .options import options
from .output import say
from .progress import steps
from .running import run

OUT = Annotated[
    str,
    typer.Option(
        "--out",
        help="Also write figure (see --form) and table, atlas.csv and .json, into this folder.",
    ),
]


@options(Atlas, BlockMeasures, AtlasGrid, Settings, extra={"out": (OUT, "")})
def command(
    spec: Atlas, measures: BlockMeasures, parts: AtlasGrid, settings: Settings, out: str
) -> None:
    """Put all that is known of one network and one target on one figure, over the blocks 1…N.

    What is quick is measured now: sums of squares, intrinsic dimension, class contrast, CKA, kNN.
    What is not (QUANTA, parameter distance, layer transfer) is taken from the studies there are of
    this network and these images, told by content; for what is missing it says what to type, and
    --run does it.
    """
    from pathlib import Path

    from ..errors import TlxError, UnknownNameError
    from ..studies.atlas import plan as atlas_plan
    from ..studies.atlas import report as atlas_report
    from ..studies.base import open_store

    panels = parts.panels or tuple(atlas_report.PANELS)
    for name in panels:
        if name not in atlas_report.PANELS:
            raise UnknownNameError("panel", name, atlas_report.PANELS)
    needed = {atlas_report.PANELS[name].source for name in panels}
    looked = atlas_plan.plan_atlas(spec, parts, settings)
    store = open_store(settings)
    looked.search(store, parts)
    failed: TlxError | None = None
    if parts.run:
        failed = _run(looked, parts, settings, needed)
        looked.search(store, parts)
    with steps("extracting") as progress:
        study = atlas_plan.atlas_study(looked, measures, store, settings, progress)
    about = atlas_plan.about(looked, parts, settings) | {"against": study.trials[-1].spec.against}
    report = run(
        study,
        settings,
        looked.notes,
        closing=atlas_report.format_summary(about, panels),
        summarise=lambda at, key, form: atlas_report.write_summary(at, key, about, panels, form),
    )
    if out:
        for path in atlas_report.copy(report, Path(out)):
            say(path)
    if failed is not None:
        raise failed


def _run(looked: Any, parts: AtlasGrid, settings: Settings, needed: set[str]) -> Any:
    """Run the commands for the sources that are missing, each once; the first error of theirs, if
    any.
    """
    from ..errors import Stopped, TlxError
    from . import app

    failed = None
    lacking = looked.lacking(parts, settings)
    for line in dict.fromkeys(
        said for name, said in lacking.items() if name in needed and said.startswith("tlx ")
    ):
        say(f"$ {line}")
        try:
            if app.invoke(shlex.split(line)[1:]):
                raise TlxError("bug", f"'{line}' is no command")
        except Stopped:
            raise
        except TlxError as error:  # the atlas is drawn without it
            say(f"note: {error}")
            failed = failed or error
    return failed
