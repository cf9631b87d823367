"""Study of tlx pretrain."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ...lab.settings import expanded
from ...spec import Spec
from ..base import Stages, Study
from ..pretraining_spec import PreTraining
from ..recipes import PretrainingRecipe
from .spec import PreTrainingOutput

if TYPE_CHECKING:
    from ..session import Session


class PretrainingStudy(Study):
    """Study of one training on all images of a data set, its weights kept."""

    name = "pretrain"
    short = "Train from random weights, keep them"
    help = """Train a network from random weights on all images of a data set, and keep the
    weights.

    The weights are those of the epoch with the best validation accuracy. Defaults are those of
    the thesis 'Transferability in DNN'.
    """
    specs: ClassVar[tuple[type[Spec], ...]] = (PreTraining, PretrainingRecipe, PreTrainingOutput)
    shown = (
        "dataset",
        "architecture",
        "recipe",
        "epochs",
        "batch_size",
        "learning_rate",
        "out",
    )

    def stages(self, session: Session) -> Stages:
        """Yield the one stage, then write the weights to --out."""
        from .. import pretraining_plan
        from . import publish

        output = self.of(PreTrainingOutput)
        if output.out and output.random_out:
            publish.check_apart(expanded(output.out), expanded(output.random_out))
        with session.preparing("reading images") as progress:
            stage = pretraining_plan.pretraining_study(
                self.of(PreTraining), session.settings, progress
            )
        report = yield stage
        if output.out:
            path = publish.publish(
                report.results[0], stage, session.store, expanded(output.out), output.note
            )
            session.say(f"weights: {path}")
        if output.random_out:
            path = publish.publish_start(report.results[0], expanded(output.random_out))
            session.say(f"random weights that it began from: {path}")
