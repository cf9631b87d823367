"""Study of tlx scores."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from ...spec import Spec
from ..base import Stages, Study
from ..few_shot import FewShotGrid
from .spec import ScoresGrid, SourceScores

if TYPE_CHECKING:
    from ..planning import StudyPlan
    from ..session import Session


class ScoresStudy(Study):
    """Study of the transferability scores of a list of sources."""

    name = "scores"
    short = "Rank sources without training"
    help = """Rank sources by transferability scores of their frozen features, without training.

    Each source sees the training images once. Every score stands beside baselines that need no
    image of yours: size, published accuracy, a list from published tables. A score is no accuracy;
    tlx compare trains the first few.
    """
    specs: ClassVar[tuple[type[Spec], ...]] = (ScoresGrid, SourceScores, FewShotGrid)
    shown = (
        "dataset",
        "sources",
        "architecture",
        "source",
        "shots",
        "splits",
        "split_path",
        "at",
        "sort_by",
        "layers",
        "use_crops",
        "pool_images",
    )

    def plan(self, session: Session) -> StudyPlan:
        """Count the sources; the time is that of passing the training images through each once."""
        from ...features.dump import ExtractionConfig
        from ..planning import Extracted, of_preflights
        from .plan import DrawChoice, look_at_sources

        grid = self.of(ScoresGrid)
        looked = look_at_sources(
            self.of(SourceScores),
            grid.sources,
            DrawChoice(self.of(FewShotGrid), grid.at),
            session.settings,
            keep=False,
        )
        sources = [
            Extracted(
                own.result,
                own.spec.layers,
                None,
                own.spec.use_crops,
                ExtractionConfig(reduce=own.spec.reduce),
            )
            for own in looked.values()
        ]
        title = f"scores of {', '.join(looked)}"
        return of_preflights(self, title, sources, session.settings, trials=len(looked))

    def stages(self, session: Session) -> Stages:
        """Extract each source once, then yield the one stage."""
        from .plan import PRELOAD, DrawChoice, scores_study

        grid = self.of(ScoresGrid)
        with session.preparing("reading and extracting", PRELOAD) as progress:
            stage, notes = scores_study(
                self.of(SourceScores),
                grid.sources,
                DrawChoice(self.of(FewShotGrid), grid.at),
                session.settings,
                progress,
            )
        session.note(*notes)
        yield replace(stage, spec={**stage.spec, "sort_by": grid.sort_by, "at": grid.at})
