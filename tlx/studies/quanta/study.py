"""Study of tlx quanta."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from ...lab.settings import expanded
from ...spec import Spec
from ..base import Stages, Study
from .spec import Quanta, QuantaGrid

if TYPE_CHECKING:
    from ..session import Session


class QuantaStudy(Study):
    """Study of gated trainings of a target with a frozen source."""

    name = "quanta"
    short = "Measure transfer by learned gates (QUANTA)"
    help = """Measure how much of a trained network transfers at each layer, by gates of two
    numbers (QUANTA).

    A gate mixes the output of a frozen source and of a target that learns, λ · source + (1 − λ)
    · target, and learns λ with the target. Without options: MNIST's small CNN as the source,
    scikit-learn's digits as the target.
    """
    specs: ClassVar[tuple[type[Spec], ...]] = (Quanta, QuantaGrid)
    is_chained = True
    shown = (
        "positions",
        "repeats",
        "dataset",
        "architecture",
        "source",
        "model",
        "source_dataset",
        "halves",
        "epochs",
        "batch_size",
        "learning_rate",
        "quanta_form",
        "augment",
        "source_dropout",
        "export",
        "job",
    )

    def stages(self, session: Session) -> Stages:
        """Train the source if it has no weights yet, then the gated targets."""
        from . import export, plan, report, source, summary

        spec, grid = self.of(Quanta), self.of(QuantaGrid)
        with session.steps("reading images") as progress:
            planned = plan.plan_quanta(spec, grid, session.settings, progress)
        if grid.show_only_build:
            session.say(*summary.build_lines(planned))
            return
        out = expanded(grid.export)
        if grid.export:
            export.check(out, planned.images.name, list(planned.gates))
        given, training = planned.source, planned.source_study
        if training is not None and planned.learned is not None:
            done = yield replace(training, further=planned.expected)
            given = source.trained(done.results[0], session.store, spec, planned.learned)
        assert given is not None
        done = yield replace(
            planned.study(given),
            write_summary=report.write_summary,
            format_summary=report.format_summary,
        )
        if grid.export:
            for folder in export.export(done.results, out):
                session.say(f"files: {folder}")
