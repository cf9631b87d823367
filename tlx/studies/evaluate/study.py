"""Study of tlx evaluate."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, ClassVar

from ...lab.settings import expanded
from ...spec import Spec
from ..base import Stages, Study
from .spec import Evaluation, EvaluationGrid

if TYPE_CHECKING:
    from ..planning import StudyPlan
    from ..session import Session


class EvaluateStudy(Study):
    """Study of given models on labelled images, without training."""

    name = "evaluate"
    short = "Score given models on labelled images"
    help = """Score given models on labelled images, without training: accuracy, classes, confusion.

    Models are weight files with --architecture, networks of tlx chop, folders of tlx export, or
    keys of finished trials. Several are compared on the same images.
    """
    specs: ClassVar[tuple[type[Spec], ...]] = (EvaluationGrid, Evaluation)
    shown = (
        "models",
        "dataset",
        "architecture",
        "part",
        "balance",
        "use_crops",
        "input_size",
        "out",
    )

    def plan(self, session: Session) -> StudyPlan:
        """Count the models; how long one takes is not estimated."""
        from ..planning import without_trials
        from .plan import evaluation_study

        stage = evaluation_study(self.of(Evaluation), self.of(EvaluationGrid), session.settings)
        note = "how long a model takes is not estimated: the images pass through each of them once"
        return without_trials(self, stage.title, (*stage.notes, note), trials=len(stage.trials))

    def stages(self, session: Session) -> Stages:
        """Yield the one stage, then copy its tables and figures to --out."""
        from ... import files
        from .plan import evaluation_study

        grid = self.of(EvaluationGrid)
        with session.steps("reading images") as progress:
            stage = evaluation_study(self.of(Evaluation), grid, session.settings, progress)
        report = yield stage
        if grid.out:
            folder = files.make_folder(expanded(grid.out))
            for path in sorted(report.study_folder.iterdir()):
                if path.suffix in (".csv", ".png", ".svg", ".pdf"):
                    shutil.copyfile(path, folder / path.name)
            session.say(f"tables and figures: {folder}")
