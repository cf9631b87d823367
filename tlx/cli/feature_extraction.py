"""tlx feature-extraction."""

from __future__ import annotations

from ..lab.settings import Settings
from ..studies.feature_extraction.spec import FeatureExtraction, FeatureExtractionGrid
from ..studies.few_shot import FewShotGrid
from .options import options
from .progress import steps
from .running import run


@options(FeatureExtraction, FeatureExtractionGrid, FewShotGrid, Settings)
def command(
    spec: FeatureExtraction, sweep: FeatureExtractionGrid, few: FewShotGrid, settings: Settings
) -> None:
    """Classify few-shot splits on the activations of a frozen network: every shots × split ×
    classifier.

    Each image is forwarded once, whatever is tried on it; finished trials are found again.
    Accuracies are mean per-class, as fractions.
    """
    from ..studies.feature_extraction import plan as feature_extraction_plan

    with steps("reading and extracting") as progress:
        asked, found = feature_extraction_plan.feature_extraction_study(
            spec, few, sweep, settings, progress
        )
    run(asked, settings, found.notes)
