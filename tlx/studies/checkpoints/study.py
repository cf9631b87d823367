"""Study of tlx checkpoints."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from ...errors import counted
from ...lab.settings import expanded
from ...lab.store import Store
from ...spec import Spec
from ..base import Stage, Stages, Study
from ..layer_metrics.spec import LayerMetrics
from .spec import CheckpointGrid

if TYPE_CHECKING:
    from ..session import Session


class CheckpointsStudy(Study):
    """Study that pretrains, measures every checkpoint's layers, fine-tunes, correlates."""

    name = "checkpoints"
    short = "Which layers predict transfer"
    help = """Which layers predict how well a network transfers: pretrain, fine-tune, measure
    layers, correlate.

    Every source is pretrained on every seed, its checkpoints are fine-tuned on every target and
    scored along the way (the area under that curve is the transfer performance), the layers of
    each are measured on the target's images, and Spearman's rho of each metric and layer with
    the transfer performance is reported with a permutation baseline. Rerun the same command to
    resume, or with more seeds, sources or checkpoints to extend the study.
    """
    specs: ClassVar[tuple[type[Spec], ...]] = (CheckpointGrid, LayerMetrics)
    is_chained = True
    shown = (
        "protocol",
        "sources",
        "targets",
        "architecture",
        "seeds",
        "checkpoints",
        "from_checkpoints",
        "fine_tune_checkpoints",
        "epochs",
        "fine_tune_epochs",
        "batch_size",
        "train_per_class",
        "samples",
        "out",
    )

    def stages(self, session: Session) -> Stages:
        """Yield the pretrainings, the metrics of each target's images, then the fine-tunings."""
        from . import correlations, plan, report

        grid = self.of(CheckpointGrid)
        with session.steps("reading images") as progress:
            planned = plan.plan_checkpoints(grid, self.of(LayerMetrics), session.settings, progress)
        session.note(*planned.notes)

        def intermediate(stage: Stage) -> Stage:
            return replace(
                stage,
                write_summary=report.write_stage_summary,
                format_summary=report.format_stage_summary,
            )

        yield replace(intermediate(planned.first()), further=planned.expected)
        models = planned.models(session.store)
        with session.steps("looking at weights") as progress:
            layer_studies = planned.looks(models, progress)
        session.note(*planned.notes)
        for layer_study in layer_studies:
            yield intermediate(layer_study.study)

        def write_summary(store: Store, key: str, form: str | None = "png") -> None:
            correlations.gather(store, key)
            report.write_summary(store, key, form)

        done = yield replace(
            planned.tuning(models, layer_studies, session.store),
            write_summary=write_summary,
            format_summary=report.format_summary,
        )
        if grid.out:
            paths = report.export(done, expanded(grid.out))
            session.say(f"{counted(len(paths), 'file')}: {grid.out}")
