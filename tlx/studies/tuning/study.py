"""Study of tlx tune."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from ...lab.settings import Settings
from ...spec import Spec
from ..base import Stages, Study
from ..few_shot import FewShotGrid
from .spec import Search, SearchBase
from .stage import SearchStage

if TYPE_CHECKING:
    from ..planning import StudyPlan
    from ..session import Session


class TuningStudy(Study):
    """Study of a search over classifiers, layers or recipes, its best tested once."""

    name = "tune"
    short = "Search classifiers or recipes with Optuna"
    help = """Search classifiers, layers or fine-tuning recipes with Optuna: scored on val over
    all splits, tested once.

    Each configuration is tried on one split first and only the best continue. Trial 0 is the
    defaults: it is run on all splits and scored on the test set too, beside the winner. Rerun
    the same command to resume an interrupted search; if --trials are complete, nothing is run.
    Accuracies are mean per-class, as fractions.
    """
    specs: ClassVar[tuple[type[Spec], ...]] = (Search, SearchBase, FewShotGrid)
    shown = (
        "study",
        "trials",
        "search",
        "space",
        "sampler",
        "pruner",
        "objective",
        "budget",
        "storage",
        "splits",
        "shots",
        "dataset",
        "split_path",
        "architecture",
        "source",
        "model",
        "use_crops",
        "job",
    )

    def plan(self, session: Session) -> StudyPlan:
        """Return the number of configurations; their cost depends on what is drawn."""
        from .. import replicas
        from ..planning import without_trials

        replicas.refuse_in_search(self.of(SearchBase))
        search = self.of(Search)
        title = f"search of {search.study} on {self.of(SearchBase).dataset}"
        note = (
            "what a trial takes depends on the configuration that is drawn: time, disk space and "
            "memory are not estimated; tlx plan feature-extraction or fine-tuning says what one "
            "configuration takes"
        )
        return without_trials(self, title, (note,), trials=search.trials)

    def check(self, settings: Settings) -> None:
        """Raise UsageError for a search on a cluster whose nodes could not work together."""
        from .. import replicas
        from . import plan

        replicas.refuse_in_search(self.of(SearchBase))
        plan.check_cluster(self.of(Search), settings)

    def stages(self, session: Session) -> Stages:
        """Plan the search, extract what is not there, and yield it as one stage."""
        from . import plan

        search = self.of(Search)
        with session.steps("reading and extracting") as progress:
            planned = plan.plan_search(
                search,
                self.of(SearchBase).of(search.study),
                self.of(FewShotGrid),
                session.settings,
                progress,
            )
        stage: Any = SearchStage(planned)
        yield stage
