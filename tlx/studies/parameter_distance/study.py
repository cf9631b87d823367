"""Study of tlx parameter-distance."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from ...errors import TlxError
from ...lab.settings import expanded
from ...lab.store import Store
from ...spec import Spec
from ..base import Stages, Study
from ..recipes import DistanceRecipe
from .spec import ParameterDistance, ParameterDistanceGrid, TargetTuning

if TYPE_CHECKING:
    from ..session import Session


class ParameterDistanceStudy(Study):
    """Study of fine-tunings if none are given, a domain gap of images, and distances."""

    name = "parameter-distance"
    short = "Measure transfer by distances of weights"
    help = """How far pretraining carried each layer towards where fine-tuning ends: T =
    D(random, B) / D(pretrained, B).

    Three states of one network: -r RANDOM -a PRETRAINED -b FINETUNED; without -b the network is
    fine-tuned here first. Without options: MNIST's small CNN, fine-tuned on scikit-learn's
    digits, five times. Rerun for another data set, norm or number of seeds to extend the study;
    from six targets with a domain gap it ends with the regression of log T, which `tlx
    regression` computes for any table, the published one included.
    """
    specs: ClassVar[tuple[type[Spec], ...]] = (
        ParameterDistance,
        ParameterDistanceGrid,
        TargetTuning,
        DistanceRecipe,
    )
    is_chained = True
    shown = (
        "random",
        "pretrained",
        "finetuned",
        "architecture",
        "dataset",
        "source_images",
        "norms",
        "rule",
        "head",
        "seeds",
        "recipe",
        "epochs",
        "batch_size",
        "learning_rate",
        "out",
    )

    def stages(self, session: Session) -> Stages:
        """Yield the fine-tunings, the domain gap and the distances, each where there is one."""
        from . import closing, plan, regression, report

        grid = self.of(ParameterDistanceGrid)
        with session.steps("reading images") as progress:
            planned = plan.plan_parameter_distance(
                self.of(ParameterDistance),
                grid,
                self.of(TargetTuning),
                grid.finetuned,
                session.settings,
                progress,
            )
        session.note(*planned.notes)

        def write_summary(store: Store, key: str, form: str | None = "png") -> None:
            regression.regress(store, key)
            report.write_summary(store, key, form)

        store, tunings = None, planned.tunings()
        if tunings is not None:
            yield replace(
                tunings,
                further=planned.expected,
                write_summary=write_summary,
                format_summary=closing.format_tuning_summary,
            )
            store = session.store
        with session.steps("extracting") as progress:
            images = planned.domain(progress)
        session.note(*planned.notes)
        if images is not None:
            yield replace(
                images, write_summary=write_summary, format_summary=closing.format_images_summary
            )
        before = len(planned.notes)
        distances = planned.distances(store)
        if distances is None:
            raise TlxError(
                "all-diverged",
                "; ".join(planned.notes[before:]),
                remedy="use a smaller --learning-rate",
            )
        session.note(*planned.notes)
        done = yield replace(
            distances, write_summary=write_summary, format_summary=closing.format_summary
        )
        if grid.out:
            for path in report.publish(done, expanded(grid.out)):
                session.say(f"file: {path}")
