"""Studies of tlx chop and tlx prune."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from ...errors import counted
from ...lab.settings import expanded
from ...lab.store import Store
from ...spec import Spec
from ..base import ExpectedStage, Stages, Study, StudyReport
from .spec import Chop, ChopGrid, Pruning, PruningGrid

if TYPE_CHECKING:
    from ..session import Session


class ChopStudy(Study):
    """Study of the network cut behind every block, fine-tuned, timed."""

    name = "chop"
    short = "Cut a network behind block n"
    help = """Cut a pretrained network behind block n, average over the image, add one dense
    layer and fine-tune.

    Ends with a table: n, accuracy, parameters, multiplications (MACs), bytes, seconds per
    image; and names the smallest network that does nearly as well as the best on the validation
    images. Accuracies are mean per-class, as fractions.
    """
    specs: ClassVar[tuple[type[Spec], ...]] = (Chop, ChopGrid)
    shown = (
        "dataset",
        "architecture",
        "source",
        "model",
        "depths",
        "repeats",
        "tolerance",
        "epochs",
        "out",
    )

    def stages(self, session: Session) -> Stages:
        """Yield the one stage, then copy the smallest good network to --out."""
        from . import latency, plan, report

        grid = self.of(ChopGrid)
        with session.preparing("reading images") as progress:
            stage, notes = plan.chop_study(self.of(Chop), grid, session.settings, progress)
        session.note(*notes)

        def write_summary(store: Store, key: str, form: str | None = "png") -> None:
            latency.measure(
                store,
                key,
                session.settings,
                lambda n: session.say(f"timing {counted(n, 'network')}"),
            )
            report.write_summary(store, key, form)

        def format_summary(done: StudyReport) -> str:
            return report.format_summary(done, grid.tolerance)

        done = yield replace(stage, write_summary=write_summary, format_summary=format_summary)
        if grid.out:
            session.say(f"network: {report.publish(done, grid.tolerance, expanded(grid.out))}")


class PruningStudy(Study):
    """Study of rounds of magnitude pruning, each from the weights of the round before."""

    name = "prune"
    short = "Drop small weights, train on, repeat"
    help = """Train a network, drop the weights of smallest magnitude, train what is left, and
    again.

    Biases and batch norms are neither ranked nor dropped, and a dropped weight is zero at every
    step. Each round keeps a share of the weights that the round before left.
    """
    specs: ClassVar[tuple[type[Spec], ...]] = (Pruning, PruningGrid)
    is_chained = True
    shown = (
        "dataset",
        "architecture",
        "source",
        "model",
        "keep",
        "iterations",
        "scope",
        "rewind",
        "repeats",
        "epochs",
    )

    def stages(self, session: Session) -> Stages:
        """Yield a stage a round, until no repeat came further."""
        from . import pruning_report
        from .pruning_plan import PruningPlan

        grid = self.of(PruningGrid)
        with session.preparing("reading images") as progress:
            plan = PruningPlan(self.of(Pruning), grid, session.settings, progress)
        for number in range(grid.iterations + 1):
            stage = plan.stage(number, session.store if number else None)
            session.note(*plan.notes)
            if stage is None:
                break
            is_last = number == grid.iterations
            following = range(number + 1, grid.iterations + 1)
            yield replace(
                stage,
                further=tuple(
                    ExpectedStage(f"round {later}", len(stage.trials), stage.trials)
                    for later in following
                ),
                write_summary=pruning_report.write_pruning_summary,
                format_summary=pruning_report.format_pruning_summary
                if is_last
                else pruning_report.format_round,
            )
