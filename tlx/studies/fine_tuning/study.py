"""Study of tlx fine-tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ...spec import Spec
from ..base import Stages, Study
from ..export_options import ExportOptions
from ..few_shot import FewShotGrid
from ..recipes import FineTuningRecipe
from .spec import FineTuning

if TYPE_CHECKING:
    from ..session import Session


class FineTuningStudy(Study):
    """Study of every shots × split of a few-shot fine-tuning."""

    name = "fine-tuning"
    short = "Fine-tune on few images a class"
    help = """Fine-tune a pretrained network on few images per class: every shots × split,
    scored on the test set.

    Without options: MNIST's small CNN on scikit-learn's digits, nothing to download. Finished
    trials are not repeated; rerun the same command to resume an interrupted study. Accuracies
    are mean per-class, as fractions.
    """
    specs: ClassVar[tuple[type[Spec], ...]] = (
        FineTuning,
        FewShotGrid,
        FineTuningRecipe,
        ExportOptions,
    )
    shown = (
        "splits",
        "shots",
        "dataset",
        "split_path",
        "architecture",
        "source",
        "model",
        "use_crops",
        "val_crops",
        "precomputed_crops",
        "recipe",
        "configuration",
        "tune",
        "epochs",
        "batch_size",
        "optimizer",
        "learning_rate",
        "weight_decay",
        "momentum",
        "model_selection",
        "job",
        "export",
        "register",
        "refit",
    )

    def stages(self, session: Session) -> Stages:
        """Plan and yield the one stage; export its model where that is asked for."""
        from .. import exporting
        from . import plan

        options = self.of(ExportOptions)
        exporting.check(options, session.settings)
        with session.preparing("reading images") as progress:
            stage, preflight = plan.fine_tuning_study(
                self.of(FineTuning), self.of(FewShotGrid), session.settings, progress
            )
        session.note(*preflight.notes)
        done = yield stage
        exporting.export_study(options, session, done.key)
