"""Study of tlx feature-extraction."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ...errors import raise_all
from ...spec import Spec
from ..base import Stages, Study
from ..export_options import ExportOptions
from ..few_shot import FewShotGrid
from .spec import FeatureExtraction, FeatureExtractionGrid

if TYPE_CHECKING:
    from ..planning import StudyPlan
    from ..session import Session


class FeatureExtractionStudy(Study):
    """Study of every shots × split × classifier on the activations of a frozen network."""

    name = "feature-extraction"
    short = "Train classifiers on frozen features"
    help = """Train classifiers on the activations of a frozen network: every shots × split ×
    classifier.

    Each image is passed through the network once, whatever is tried on its activations;
    finished trials are not repeated. Accuracies are mean per-class, as fractions.
    """
    specs: ClassVar[tuple[type[Spec], ...]] = (
        FeatureExtraction,
        FeatureExtractionGrid,
        FewShotGrid,
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
        "model_description",
        "layers",
        "embedding",
        "standardize",
        "classifier",
        "use_crops",
        "precomputed_crops",
        "model_selection",
        "log_model",
        "job",
        "export",
        "register",
        "refit",
    )

    def plan(self, session: Session) -> StudyPlan:
        """Count the trials from the splits.

        The time is that of extracting the images once, and of the classifiers.
        """
        from ..few_shot_inputs import draws
        from ..planning import FEATURE_TRIAL_S, of_preflights
        from . import plan

        spec, few = self.of(FeatureExtraction), self.of(FewShotGrid)
        result = plan.look_at_features(spec, few, session.settings, keep=False)
        raise_all(result.problems)
        assert result.splits is not None
        names = self.of(FeatureExtractionGrid).classifiers
        trials = len(draws(spec, few, result.splits)) * len(names)
        title = f"{spec.architecture} on {spec.dataset}"
        return of_preflights(
            self,
            title,
            [plan.extracted(spec, result)],
            session.settings,
            trials=trials,
            trial_s=FEATURE_TRIAL_S,
        )

    def stages(self, session: Session) -> Stages:
        """Extract once, yield the one stage; export its model where that is asked for."""
        from .. import exporting
        from . import plan

        options = self.of(ExportOptions)
        spec, names = self.of(FeatureExtraction), self.of(FeatureExtractionGrid).classifiers
        trials = exporting.of_classifiers(spec.to_json(), names)
        exporting.check(options, session.settings, trials)
        with session.preparing("reading and extracting", plan.PRELOAD) as progress:
            stage, preflight = plan.feature_extraction_study(
                self.of(FeatureExtraction),
                self.of(FewShotGrid),
                self.of(FeatureExtractionGrid),
                session.settings,
                progress,
            )
        session.note(*preflight.notes)
        done = yield stage
        exporting.export_study(options, session, done.key)
