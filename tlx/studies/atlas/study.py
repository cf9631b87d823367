"""Study of tlx atlas."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from ...errors import Stopped, TlxError, UnknownNameError
from ...lab.settings import expanded
from ...lab.store import Store
from ...spec import Spec
from ..base import Stages, Study
from .spec import Atlas, AtlasGrid, BlockMeasures

if TYPE_CHECKING:
    from ..planning import StudyPlan
    from ..session import Session
    from .plan import AtlasPlan


class AtlasStudy(Study):
    """Study of the blocks of one network on one target, with the results of other studies."""

    name = "atlas"
    short = "Everything of one network, block by block"
    help = """Put all that is known of one network and one target on one figure, over the blocks
    1…N.

    What is quick is measured now: sums of squares, intrinsic dimension, class contrast, CKA,
    kNN. What is not (QUANTA, parameter distance, layer transfer) is taken from the studies that
    exist of this network and these images, matched by content; for what is missing the command
    to type is printed, and --run runs it.
    """
    specs: ClassVar[tuple[type[Spec], ...]] = (Atlas, BlockMeasures, AtlasGrid)
    shown = (
        "architecture",
        "source",
        "model",
        "dataset",
        "part",
        "samples",
        "reduce",
        "resamplings",
        "k",
        "panels",
        "study",
        "finetuned",
        "run",
        "epochs",
        "repeats",
        "out",
    )

    def plan(self, session: Session) -> StudyPlan:
        """Return a plan without trials, which are known after extraction.

        The time is that of the images through the network, and through one that was trained on
        them, and of the metrics of their blocks; not of the studies that --run runs.
        """
        from ..planning import Measured, of_extractions
        from . import measures, plan

        grid, settings = self.of(AtlasGrid), session.settings
        planned = plan.plan_atlas(self.of(Atlas), grid, settings)
        planned.search(session.store, grid)
        networks = [planned.spec]
        if planned.wanted.finetuned or "tuned" in planned.taken:
            networks.append(planned.spec)
        title = f"{planned.spec.architecture} on {planned.spec.dataset}"
        measured = Measured(measures.MOST)
        return of_extractions(self, title, networks, settings, measured)

    def stages(self, session: Session) -> Stages:
        """Run missing studies if asked, measure the blocks, draw everything."""
        from . import plan, report

        grid = self.of(AtlasGrid)
        panels = grid.panels or tuple(report.PANELS)
        for name in panels:
            if name not in report.PANELS:
                raise UnknownNameError("panel", name, report.PANELS)
        planned = plan.plan_atlas(self.of(Atlas), grid, session.settings)
        planned.search(session.store, grid)
        failed: TlxError | None = None
        if grid.run:
            sources = {report.PANELS[name].source for name in panels}
            failed = _run_missing(planned, grid, session, sources)
            planned.search(session.store, grid)
        with session.steps("extracting") as progress:
            stage = plan.atlas_study(
                planned, self.of(BlockMeasures), session.store, session.settings, progress
            )
        session.note(*planned.notes)
        about = plan.about(planned, grid, session.settings)
        about |= {"against": stage.trials[-1].spec.against}

        def write_summary(store: Store, key: str, form: str | None = "png") -> None:
            report.write_summary(store, key, about, panels, form)

        done = yield replace(
            stage,
            write_summary=write_summary,
            format_summary=report.format_summary(about, panels),
        )
        if grid.out:
            for path in report.copy(done, expanded(grid.out)):
                session.say(str(path))
        if failed is not None:
            raise failed


def _run_missing(
    planned: AtlasPlan, grid: AtlasGrid, session: Session, sources: Collection[str]
) -> TlxError | None:
    """Run the studies of missing sources, each once; return the first of their errors."""
    from .. import STUDIES, run_study
    from . import lookup

    failed: TlxError | None = None
    commands = set()
    for source in planned.missing(sources):
        name, specs = lookup.study_of(source, planned.spec, grid)
        line = lookup.typed(name, *specs, session.settings)
        if line in commands:
            continue
        commands.add(line)
        session.say(f"$ {line}")
        try:
            run_study(STUDIES[name].of_specs(specs), session)
        except Stopped:
            raise
        except TlxError as error:  # the atlas is drawn without it
            session.say(f"note: {error}")
            failed = failed or error
    return failed
