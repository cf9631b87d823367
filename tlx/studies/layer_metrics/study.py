"""Study of tlx analyze."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from ...lab.settings import expanded
from ...lab.store import Store
from ...spec import Spec
from ..base import Stages, Study
from .spec import LayerMetrics, LayerMetricsGrid, Observed

if TYPE_CHECKING:
    from ..planning import StudyPlan
    from ..session import Session


class LayerMetricsStudy(Study):
    """Study of every layer of one or more networks on labelled images."""

    name = "analyze"
    short = "Measure the layers of networks"
    help = """Measure every layer of networks on labelled images: sums of squares, intrinsic
    dimension, dissimilarities.

    Activations are extracted once and found again; so are finished analyses. Ends with a table,
    one row for each network and layer.
    """
    specs: ClassVar[tuple[type[Spec], ...]] = (Observed, LayerMetrics, LayerMetricsGrid)
    shown = (
        "trained_on",
        "dataset",
        "architecture",
        "model",
        "layers",
        "part",
        "samples",
        "reduce",
        "rdm",
        "resamplings",
        "networks",
        "out",
    )

    def plan(self, session: Session) -> StudyPlan:
        """Return a plan without trials, which are known after extraction.

        The time is that of the images through each network and of its layers' metrics.
        """
        from ..planning import Measured, of_extractions
        from . import plan

        observed, measures = self.of(Observed), self.of(LayerMetrics)
        targets = [
            target
            for word in list(self.of(LayerMetricsGrid).networks) or [""]
            for target in plan.targets_of(word, observed, session.settings)
        ]
        extractions = [target.spec for target in targets if target.dump is None]
        title = f"layers on {observed.dataset}"
        measured = Measured(measures.max_rows, measures.block_rows, plan.usual_set)
        return of_extractions(self, title, extractions, session.settings, measured)

    def stages(self, session: Session) -> Stages:
        """Extract, yield the one stage, then copy the table to --out."""
        from . import dictionaries, plan, report

        metrics, grid = self.of(LayerMetrics), self.of(LayerMetricsGrid)
        with session.steps("extracting") as progress:
            stage = plan.plan_layer_metrics(
                list(grid.networks), self.of(Observed), metrics, session.settings, progress
            )
        if grid.corr_dict:
            dictionaries.check(metrics, stage)

        def write_summary(store: Store, key: str, form: str | None = "png") -> None:
            with session.steps("drawing images again") as progress:
                plan.compare(store, key, grid.bootstrap, metrics.seed, progress)
            report.write_summary(store, key, form)

        done = yield replace(
            stage, write_summary=write_summary, format_summary=report.format_summary
        )
        if grid.out:
            for path in report.copy_table(done, expanded(grid.out)):
                session.say(f"table: {path}")
        if grid.corr_dict:
            paths, absent = dictionaries.write(
                done.results, session.store, expanded(grid.corr_dict)
            )
            for path in paths:
                session.say(f"dissimilarities: {path}")
            if absent:
                session.note(f"no dissimilarities, since all rows are alike: {', '.join(absent)}")
