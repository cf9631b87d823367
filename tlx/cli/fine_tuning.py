"""tlx fine-tuning."""

from __future__ import annotations

from ..lab.settings import Settings
from ..studies.few_shot import FewShotGrid
from ..studies.fine_tuning.spec import FineTuning
from .options import options
from .progress import steps
from .running import run


@options(FineTuning, FewShotGrid, Settings)
def command(spec: FineTuning, few: FewShotGrid, settings: Settings) -> None:
    """Fine-tune a pre-trained network on few images a class: every shots × split, scored on the
    test set.

    Without options: MNIST's small CNN on scikit-learn's digits, nothing to download. Finished
    trials are found again; an interrupted study continues with the same command. Accuracies are
    mean per-class, as fractions.
    """
    from ..studies.fine_tuning import plan as fine_tuning_plan

    with steps("reading images") as progress:
        asked, found = fine_tuning_plan.fine_tuning_study(spec, few, settings, progress)
    run(asked, settings, found.notes)
